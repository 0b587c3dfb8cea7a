"""What Event Grid's filters mean, case by case; what the vendor leaves open is decided in these tables."""

from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.decode import decode
from worker.events import Event, Message, PartitionId, UnixSeconds
from worker.filters import Filter, FilterMistakes, compile_filter

SAMPLES = Path(__file__).parents[1] / "samples"

POSITIVE = {
    "StringIn": {"values": ["x"]},
    "StringContains": {"values": ["x"]},
    "StringBeginsWith": {"values": ["x"]},
    "StringEndsWith": {"values": ["x"]},
    "NumberIn": {"values": [1]},
    "NumberInRange": {"values": [[0, 2]]},
    "NumberLessThan": {"value": 2},
    "NumberLessThanOrEquals": {"value": 1},
    "NumberGreaterThan": {"value": 0},
    "NumberGreaterThanOrEquals": {"value": 1},
    "BoolEquals": {"value": True},
}
NEGATED = {
    "StringNotIn": {"values": ["x"]},
    "StringNotContains": {"values": ["x"]},
    "StringNotBeginsWith": {"values": ["x"]},
    "StringNotEndsWith": {"values": ["x"]},
    "NumberNotIn": {"values": [1]},
    "NumberNotInRange": {"values": [[0, 2]]},
}
OPERANDS = {**POSITIVE, **NEGATED, "IsNullOrUndefined": {}, "IsNotNull": {}}


def event_of(element: dict) -> Event:
    body = orjson.dumps(element)
    [event] = decode(Message(PartitionId("0"), 1, "1", UnixSeconds(0.0), body))
    assert isinstance(event, Event)
    return event


def grid(**fields) -> Event:
    return event_of({"id": "1", "eventType": "T", "topic": "/t", "subject": "s", **fields})


def cloud(**fields) -> Event:
    return event_of({"specversion": "1.0", "id": "1", "type": "T", "source": "/t", **fields})


def condition(operator: str, key: str = "data.v", **operand) -> dict:
    return {"operatorType": operator, "key": key, **(operand or OPERANDS[operator])}


def advanced(*conditions: dict, **fields) -> Filter:
    return compile_filter({"advancedFilters": list(conditions), **fields})


def mistakes_of(raw: dict) -> dict[tuple, str]:
    with pytest.raises(FilterMistakes) as caught:
        compile_filter(raw)
    return dict(caught.value.mistakes)


# ---- Operators


@pytest.mark.parametrize(
    ("operator", "operand", "value", "expected"),
    [
        ("StringIn", ["Failed", "Canceled"], "failed", True),
        ("StringIn", ["Failed", "Canceled"], "CANCELED", True),
        ("StringIn", ["STRASSE"], "straße", True),
        ("StringIn", ["Failed"], "Failed!", False),
        ("StringIn", ["Failed"], "", False),
        ("StringNotIn", ["Failed"], "fAILED", False),
        ("StringNotIn", ["Failed"], "Running", True),
        ("StringContains", ["zz", "LO"], "Hello", True),
        ("StringContains", ["zz"], "Hello", False),
        ("StringNotContains", ["zz", "LO"], "Hello", False),
        ("StringNotContains", ["zz"], "Hello", True),
        ("StringBeginsWith", ["zz", "hE"], "Hello", True),
        ("StringBeginsWith", ["ello"], "Hello", False),
        ("StringNotBeginsWith", ["zz", "hE"], "Hello", False),
        ("StringNotBeginsWith", ["ello"], "Hello", True),
        ("StringEndsWith", ["zz", "LLO"], "Hello", True),
        ("StringEndsWith", ["Hell"], "Hello", False),
        ("StringNotEndsWith", ["zz", "LLO"], "Hello", False),
        ("StringNotEndsWith", ["Hell"], "Hello", True),
        ("NumberIn", [1, 2.5], 2.5, True),
        ("NumberIn", [1, 2.5], 1.0, True),
        ("NumberIn", [1.0], 1, True),
        ("NumberIn", [1], 2, False),
        ("NumberIn", [2**53], 2**53 + 1, False),
        ("NumberNotIn", [1, 2.5], 1.0, False),
        ("NumberNotIn", [1], 2, True),
        ("NumberInRange", [[0, 1], [5, 6.5]], 6.5, True),
        ("NumberInRange", [[0, 1], [5, 6.5]], 5, True),
        ("NumberInRange", [[0, 1], [5, 6.5]], 3, False),
        ("NumberInRange", [[2, 2]], 2, True),
        ("NumberNotInRange", [[0, 1], [5, 6.5]], 1, False),
        ("NumberNotInRange", [[0, 1], [5, 6.5]], 3, True),
        ("NumberLessThan", 5, 4.999, True),
        ("NumberLessThan", 5, 5, False),
        ("NumberLessThanOrEquals", 5, 5.0, True),
        ("NumberLessThanOrEquals", 5, 5.001, False),
        ("NumberGreaterThan", 5, 5.001, True),
        ("NumberGreaterThan", 5, 5, False),
        ("NumberGreaterThanOrEquals", 5.0, 5, True),
        ("NumberGreaterThanOrEquals", 5, 4, False),
        ("NumberGreaterThan", -1, 0, True),
        ("BoolEquals", True, True, True),
        ("BoolEquals", True, False, False),
        ("BoolEquals", False, False, True),
        ("IsNullOrUndefined", None, "", False),
        ("IsNullOrUndefined", None, 0, False),
        ("IsNullOrUndefined", None, {}, False),
        ("IsNotNull", None, "", True),
        ("IsNotNull", None, False, True),
        ("IsNotNull", None, [], True),
    ],
)
def test_an_operator_compares(operator, operand, value, expected):
    field = "values" if isinstance(operand, list) else "value"
    compiled = advanced({"operatorType": operator, "key": "data.v", field: operand})
    assert compiled.matches(grid(data={"v": value})) is expected


MATCHING_WITHOUT_THE_KEY = {"StringNotIn", "NumberNotIn", "NumberNotInRange", "IsNullOrUndefined"}


@pytest.mark.parametrize("operator", OPERANDS)
@pytest.mark.parametrize(
    "fields",
    [{}, {"data": None}, {"data": {}}, {"data": {"v": None}}, {"data": "text"}, {"data": ["v"]}, {"data": {"V2": 1}}],
)
def test_a_key_that_is_missing_or_null_is_answered_by_the_operator(operator, fields):
    assert advanced(condition(operator)).matches(grid(**fields)) is (operator in MATCHING_WITHOUT_THE_KEY)


OTHER_TYPES = {
    "String": [1, 0.5, True, {"x": "x"}, ["x"]],
    "Number": ["1", "", True, False, {"x": 1}, [1]],
    "BoolEq": ["true", 1, 0, {"x": True}, [True]],
}


@pytest.mark.parametrize("operator", {**POSITIVE, **NEGATED})
def test_a_value_of_another_type_matches_no_positive_operator_and_stops_no_negated_one(operator):
    compiled = advanced(condition(operator))
    for value in OTHER_TYPES[operator[:6]]:
        assert compiled.matches(grid(data={"v": value})) is (operator in NEGATED), value


# ---- Arrays


@pytest.mark.parametrize("operator", {**POSITIVE, **NEGATED})
def test_with_the_flag_one_element_that_hits_is_a_hit_and_other_types_are_ignored(operator):
    compiled = advanced(condition(operator), enableAdvancedFilteringOnArrays=True)
    hit = {"S": "x", "N": 1, "B": True}[operator[0]]
    miss = {"S": "y", "N": 5 if "Less" in operator or "In" in operator else -5, "B": False}[operator[0]]
    others = [None, {}, [hit], *OTHER_TYPES[operator[:6]][:2]]
    negated = operator in NEGATED
    assert compiled.matches(grid(data={"v": [*others, miss, hit]})) is not negated
    assert compiled.matches(grid(data={"v": [*others, miss]})) is negated
    assert compiled.matches(grid(data={"v": others})) is negated
    assert compiled.matches(grid(data={"v": []})) is negated
    assert compiled.matches(grid(data={"v": hit})) is not negated


@pytest.mark.parametrize("array", [[], [None], ["x"]])
def test_an_array_is_not_null(array):
    compiled = advanced(condition("IsNotNull"), enableAdvancedFilteringOnArrays=True)
    assert compiled.matches(grid(data={"v": array}))
    compiled = advanced(condition("IsNullOrUndefined"), enableAdvancedFilteringOnArrays=True)
    assert not compiled.matches(grid(data={"v": array}))


# ---- Keys


DATA = {
    "runStatus": "failed",
    "RunTags": {"azureml.pipelineid": "p", "it's": "q", 'a"b': "r", "stage": {"Name": "deep"}},
    "VALUE": "first",
    "Value": "second",
    "a]b": "s",
    "": "t",
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.runStatus", "failed"),
        ("Data.RUNSTATUS", "failed"),
        ("data.runTags.stage.name", "deep"),
        ("data.runTags['azureml.pipelineid']", "p"),
        ('data.runTags["AzureML.PipelineId"]', "p"),
        ("data['runtags']['stage'].name", "deep"),
        ("['data']['runStatus']", "failed"),
        ("data.runTags['it''s']", "q"),
        ('data.runTags["it\'s"]', "q"),
        ('data.runTags["a""b"]', "r"),
        ("data.runTags['a\"b']", "r"),
        ("data.Value", "second"),
        ("data.value", "first"),
        ("data.a]b", "s"),
        ("data['']", "t"),
        ("subject", "s"),
        ("Subject", "s"),
        ("EVENTTYPE", "T"),
        ("Id", "1"),
        ("topic", "/t"),
        ("dataVersion", "2"),
    ],
)
def test_a_key_leads_to_its_value(key, value):
    event = grid(data=DATA, dataVersion="2")
    assert advanced(condition("StringIn", key, values=[value])).matches(event)
    assert not advanced(condition("StringNotIn", key, values=[value])).matches(event)


@pytest.mark.parametrize(
    "key", ["data.runTags.azureml.pipelineid", "data.runStatus.x", "nothing", "source", "type", "data.0"]
)
def test_a_key_that_leads_nowhere_is_missing(key):
    assert advanced(condition("IsNullOrUndefined", key)).matches(grid(data=DATA))


def test_keys_are_the_names_of_the_events_own_schema():
    event = cloud(comexample="x", number=5, data={"eventType": "y"})
    for key in ("eventType", "topic", "eventTime"):
        assert advanced(condition("IsNullOrUndefined", key)).matches(event)
    for key in ("type", "source", "specversion", "comexample", "ComExample"):
        assert advanced(condition("IsNotNull", key)).matches(event)
    assert advanced(condition("NumberIn", "number", values=[5])).matches(event)


@pytest.mark.parametrize(
    "key", [".", ".data", "data.", "data..x", "data[0]", "data['x", "data['x'", "data['x']y", "data.['x']", "data[x]"]
)
def test_a_key_that_cannot_be_read_is_a_mistake(key):
    mistakes = mistakes_of({"advancedFilters": [condition("IsNotNull", key)]})
    assert list(mistakes) == [("advancedFilters", 0, "key")]
    assert "brackets" in mistakes["advancedFilters", 0, "key"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4), st.sampled_from("'\""))
def test_any_path_can_be_said_in_brackets(names, quote):
    value: object = "x"
    for name in reversed(names):
        value = {name: value}
    key = "data" + "".join(f"[{quote}{name.replace(quote, quote * 2)}{quote}]" for name in names)
    assert advanced(condition("StringIn", key)).matches(grid(data=value))


# ---- Types and subjects


@pytest.mark.parametrize("listed", [None, [], ["All"], ["all"]])
def test_without_types_every_type_passes(listed):
    compiled = compile_filter({"includedEventTypes": listed})
    assert compiled.event_types is None
    assert compiled.matches(grid())


def test_included_types_ignore_case():
    compiled = compile_filter({"includedEventTypes": ["Microsoft.Storage.BlobCreated", "B"]})
    assert compiled.event_types == {"microsoft.storage.blobcreated", "b"}
    assert compiled.matches(grid(eventType="microsoft.storage.BLOBCREATED"))
    assert compiled.matches(cloud(type="b"))
    assert not compiled.matches(grid(eventType="Microsoft.Storage.Blob"))


@pytest.mark.parametrize(
    ("fields", "subject", "expected"),
    [
        ({"subjectBeginsWith": "experiments/"}, "Experiments/1", True),
        ({"subjectBeginsWith": "experiments/"}, "/experiments/1", True),
        ({"subjectBeginsWith": "/experiments/"}, "experiments/1", True),
        ({"subjectBeginsWith": "/experiments/"}, "//experiments/1", False),
        ({"subjectBeginsWith": "experiments/"}, "my/experiments/1", False),
        ({"subjectBeginsWith": "experiments/", "isSubjectCaseSensitive": True}, "Experiments/1", False),
        ({"subjectBeginsWith": "Experiments/", "isSubjectCaseSensitive": True}, "/Experiments/1", True),
        ({"subjectEndsWith": ".JPG"}, "a.jpg", True),
        ({"subjectEndsWith": ".jpg", "isSubjectCaseSensitive": True}, "a.JPG", False),
        ({"subjectEndsWith": "/a.jpg"}, "/a.jpg", True),
        ({"subjectEndsWith": "/a.jpg"}, "a.jpg", True),
        ({"subjectEndsWith": "/a.jpg"}, "aa.jpg", False),
        ({"subjectBeginsWith": "a", "subjectEndsWith": "b"}, "a-b", True),
        ({"subjectBeginsWith": "a", "subjectEndsWith": "b"}, "a-c", False),
        ({"subjectBeginsWith": "a", "subjectEndsWith": "b"}, "c-b", False),
        ({"subjectBeginsWith": "", "subjectEndsWith": None}, None, True),
        ({"subjectBeginsWith": "a"}, None, False),
        ({"subjectEndsWith": "a"}, "", False),
    ],
)
def test_subject_filters(fields, subject, expected):
    assert compile_filter(fields).matches(grid(subject=subject)) is expected
    assert compile_filter(fields).matches(cloud(subject=subject)) is expected


@pytest.mark.parametrize("fields", [{}, {"subject": None}, {"subject": ""}])
def test_a_subject_that_is_missing_is_empty_to_the_subject_filters(fields):
    for event in (event_of({"id": "1", "eventType": "T", **fields}), cloud(**fields)):
        assert compile_filter({"subjectEndsWith": "x"}).explain(event) == (
            False,
            'subject is "": subjectEndsWith "x" does not hold',
        )


# ---- Together


def test_conditions_are_joined_by_and():
    compiled = advanced(condition("StringIn", "data.a"), condition("StringIn", "data.b"), subjectBeginsWith="s")
    assert compiled.matches(grid(data={"a": "x", "b": "x"}))
    assert not compiled.matches(grid(data={"a": "x", "b": "y"}))
    assert not compiled.matches(grid(data={"a": "y", "b": "x"}))
    assert not compiled.matches(grid(data={"a": "x", "b": "x"}, subject="t"))


def test_groups_are_joined_by_or_and_come_on_top_of_the_rest():
    group_of_two = {"advancedFilters": [condition("StringIn", "data.a"), condition("StringIn", "data.b")]}
    compiled = advanced(
        condition("IsNotNull", "data.all"),
        any_of=[group_of_two, {"advancedFilters": [condition("StringIn", "data.c")]}],
    )
    assert compiled.matches(grid(data={"all": 1, "a": "x", "b": "x"}))
    assert compiled.matches(grid(data={"all": 1, "c": "x"}))
    assert not compiled.matches(grid(data={"all": 1, "a": "x"}))
    assert not compiled.matches(grid(data={"all": 1}))
    assert not compiled.matches(grid(data={"c": "x"}))


def test_what_azure_prints_works_unchanged():
    compiled = compile_filter(
        {
            "advancedFilters": [
                {"key": "data.modelTags.ncd", "operatorType": "StringContains", "values": ["true"]},
                {
                    "key": "data.modelTags.stage",
                    "operatorType": "StringContains",
                    "value": None,
                    "values": ["production"],
                },
                {"key": "data.modelVersion", "operatorType": "NumberGreaterThan", "value": 0.0},
            ],
            "enableAdvancedFilteringOnArrays": None,
            "includedEventTypes": ["Microsoft.MachineLearningServices.ModelRegistered"],
            "isSubjectCaseSensitive": None,
            "subjectBeginsWith": "",
            "subjectEndsWith": "",
        }
    )
    sample = (SAMPLES / "Microsoft.MachineLearningServices.ModelRegistered.ncd-sample.eventgrid.json").read_bytes()
    [event] = decode(Message(PartitionId("0"), 1, "1", UnixSeconds(0.0), sample))
    assert compiled.matches(event), compiled.explain(event)


NOTHING_SAID = {
    "advancedFilters": None,
    "enableAdvancedFilteringOnArrays": None,
    "includedEventTypes": None,
    "isSubjectCaseSensitive": False,
    "subjectBeginsWith": "",
    "subjectEndsWith": "",
    "any_of": None,
}


@pytest.mark.parametrize("raw", [{}, NOTHING_SAID, {"advancedFilters": []}])
def test_a_filter_that_says_nothing_accepts_every_event(raw):
    assert compile_filter(raw).explain(grid()) == (True, "the filter accepts every event")
    assert compile_filter(raw).matches(cloud())


# ---- Explanations


@pytest.mark.parametrize(
    ("raw", "fields", "expected", "words"),
    [
        ({"includedEventTypes": ["A"]}, {}, False, ['"T"', "includedEventTypes"]),
        ({"includedEventTypes": ["t"]}, {}, True, ["includedEventTypes"]),
        ({"subjectBeginsWith": "x/"}, {}, False, ['"s"', 'subjectBeginsWith "x/"', "does not hold"]),
        ({"advancedFilters": [condition("StringIn")]}, {}, False, ["data.v is missing or null", 'StringIn ["x"]']),
        ({"advancedFilters": [condition("StringIn")]}, {"data": {"v": "X"}}, True, ['data.v is "X"', "holds"]),
        ({"advancedFilters": [condition("StringIn")]}, {"data": {"v": 1}}, False, ["data.v is 1:"]),
        ({"advancedFilters": [condition("IsNotNull")]}, {}, False, ["IsNotNull does not hold"]),
        (
            {"advancedFilters": [condition("StringIn")]},
            {"data": {"v": ["x"]}},
            False,
            ['data.v is ["x"]', "enableAdvancedFilteringOnArrays is not set"],
        ),
        (
            {"any_of": [{"advancedFilters": [condition("StringIn")]}, {"advancedFilters": [condition("NumberIn")]}]},
            {"data": {"v": "y"}},
            False,
            ["any_of", 'any_of[0]: data.v is "y"', "any_of[1]", "NumberIn [1]"],
        ),
        ({"any_of": [{"advancedFilters": [condition("StringIn")]}]}, {"data": {"v": "x"}}, True, ["any_of[0]"]),
    ],
)
def test_an_explanation_names_the_condition_and_the_value_it_saw(raw, fields, expected, words):
    matched, reason = compile_filter(raw).explain(grid(**fields))
    assert matched is expected
    for word in words:
        assert word in reason


def test_an_explanation_names_the_first_condition_that_does_not_hold():
    compiled = advanced(
        condition("StringIn", "data.a"), condition("StringIn", "data.b"), condition("StringIn", "data.c")
    )
    _, reason = compiled.explain(grid(data={"a": "x", "b": "y", "c": "y"}))
    assert reason.startswith("data.b ")
    assert "data.a" not in reason
    assert "data.c" not in reason


def test_a_long_value_is_shortened():
    for length, shown in ((78, '"' + "y" * 78 + '"'), (79, '"' + "y" * 79 + "…")):
        _, reason = advanced(condition("StringIn")).explain(grid(data={"v": "y" * length}))
        assert reason == f'data.v is {shown}: StringIn ["x"] does not hold'


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-3, 3) | st.sampled_from(["", "x", "X", "axa", "1"]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.sampled_from(["v", "V", "w"]), children),
    max_leaves=6,
)
conditions = st.sampled_from(list(OPERANDS)).flatmap(
    lambda operator: st.sampled_from([condition(operator, key) for key in ("data.v", "data", "data.v.w", "subject")])
)
raw_filters = st.fixed_dictionaries(
    {},
    optional={
        "advancedFilters": st.lists(conditions, max_size=3),
        "any_of": st.lists(
            st.fixed_dictionaries({"advancedFilters": st.lists(conditions, min_size=1, max_size=2)}),
            min_size=1,
            max_size=2,
        ),
        "enableAdvancedFilteringOnArrays": st.booleans() | st.none(),
        "includedEventTypes": st.sampled_from([None, ["t"], ["a", "b"]]),
        "subjectBeginsWith": st.sampled_from(["", "s", "/s", "x"]),
    },
)


@given(raw_filters, json_values)
def test_the_explanation_agrees_with_the_match(raw, data):
    compiled = compile_filter(raw)
    event = grid(data=data)
    matched, reason = compiled.explain(event)
    assert matched is compiled.matches(event)
    assert reason


@given(conditions, json_values)
def test_a_negated_operator_is_the_opposite_of_its_positive_where_there_is_a_value(raw, data):
    negated = raw["operatorType"].replace("In", "NotIn").replace("With", "NotWith").replace("Contains", "NotContains")
    negated = negated.replace("BeginsNotWith", "NotBeginsWith").replace("EndsNotWith", "NotEndsWith")
    event = grid(data={"v": data})
    if (
        raw["operatorType"] in POSITIVE
        and negated in NEGATED
        and advanced(condition("IsNotNull", raw["key"])).matches(event)
    ):
        opposite = {**raw, "operatorType": negated}
        assert advanced(raw).matches(event) is not advanced(opposite).matches(event)


# ---- Mistakes


@pytest.mark.parametrize(
    ("raw", "path", "words"),
    [
        ({"subjectBeginWith": "x"}, ("subjectBeginWith",), ["did you mean subjectBeginsWith?"]),
        ({"includedeventtypes": []}, ("includedeventtypes",), ["did you mean includedEventTypes?"]),
        ({"zzz": None}, ("zzz",), ["includedEventTypes", "advancedFilters", "any_of"]),
        ({5: None}, ("5",), ["not a field"]),
        ({"includedEventTypes": "A"}, ("includedEventTypes",), ["list"]),
        ({"includedEventTypes": ["A", ""]}, ("includedEventTypes", 1), ["event type"]),
        ({"includedEventTypes": [None]}, ("includedEventTypes", 0), ["event type"]),
        ({"subjectBeginsWith": 5}, ("subjectBeginsWith",), ["string"]),
        ({"subjectEndsWith": ["x"]}, ("subjectEndsWith",), ["string"]),
        ({"isSubjectCaseSensitive": "yes"}, ("isSubjectCaseSensitive",), ["true or false"]),
        ({"enableAdvancedFilteringOnArrays": 1}, ("enableAdvancedFilteringOnArrays",), ["true or false"]),
        ({"advancedFilters": {}}, ("advancedFilters",), ["list"]),
        ({"any_of": {}}, ("any_of",), ["list"]),
        ({"any_of": []}, ("any_of",), ["at least one group"]),
        ({"any_of": ["x"]}, ("any_of", 0), ["object"]),
        ({"any_of": [{}]}, ("any_of", 0), ["at least one condition"]),
        ({"any_of": [{"advancedFilters": []}]}, ("any_of", 0), ["at least one condition"]),
        ({"any_of": [{"advancedFilters": 5}]}, ("any_of", 0, "advancedFilters"), ["list"]),
        (
            {"any_of": [{"advancedFilters": [condition("StringIn", values=["a", 5])]}]},
            ("any_of", 0, "advancedFilters", 0, "values", 1),
            ["string"],
        ),
        (
            {"any_of": [{"advancedFilters": [condition("IsNotNull")], "any_of": []}]},
            ("any_of", 0, "any_of"),
            ["not a field"],
        ),
    ],
)
def test_a_mistake_says_where_and_what_to_do(raw, path, words):
    mistakes = mistakes_of(raw)
    assert list(mistakes) == [path]
    for word in words:
        assert word in mistakes[path]


@pytest.mark.parametrize(
    ("raw", "below", "words"),
    [
        ("StringIn", (), ["object", "operatorType"]),
        ({"operatorType": "StringIn", "values": ["x"]}, ("key",), ["data.runStatus"]),
        ({"operatorType": "StringIn", "key": "", "values": ["x"]}, ("key",), ["data.runStatus"]),
        ({"operatorType": "StringIn", "key": 5, "values": ["x"]}, ("key",), ["data.runStatus"]),
        ({"key": "x", "values": ["x"]}, ("operatorType",), ["must name an operator"]),
        ({"operatorType": "stringin", "key": "x", "values": ["x"]}, ("operatorType",), ["did you mean StringIn?"]),
        (
            {"operatorType": "NumberGreater", "key": "x", "value": 1},
            ("operatorType",),
            ["did you mean NumberGreaterThan?"],
        ),
        ({"operatorType": 5, "key": "x", "value": 1}, ("operatorType",), ["5 is no operator", "BoolEquals"]),
        ({**condition("StringIn"), "Values": []}, ("Values",), ["did you mean values?"]),
        (
            {"operatorType": "StringIn", "key": "x"},
            (),
            ["StringIn needs `values`, for instance `values: [Failed, Canceled]`"],
        ),
        (
            {"operatorType": "StringIn", "key": "x", "value": "x"},
            ("value",),
            ["StringIn takes `values`", "remove `value`"],
        ),
        ({**condition("StringIn"), "value": "x"}, ("value",), ["StringIn takes `values"]),
        ({"operatorType": "BoolEquals", "key": "x"}, (), ["BoolEquals needs `value"]),
        (
            {"operatorType": "BoolEquals", "key": "x", "values": [True]},
            ("values",),
            ["takes `value`", "`value: true`", "remove `values`"],
        ),
        ({**condition("IsNotNull"), "value": 1}, ("value",), ["no operand", "remove `val"]),
        ({**condition("IsNullOrUndefined"), "values": [1]}, ("values",), ["no operand", "remove `val"]),
        (condition("StringIn", values="x"), ("values",), ["list"]),
        (condition("StringIn", values=[]), ("values",), ["at least one"]),
        (condition("StringIn", values=[5]), ("values", 0), ["string"]),
        (condition("StringNotEndsWith", values=["a", None]), ("values", 1), ["string"]),
        (condition("NumberIn", values=["5"]), ("values", 0), ["number"]),
        (condition("NumberIn", values=[True]), ("values", 0), ["number"]),
        (condition("NumberLessThan", value=True), ("value",), ["number"]),
        (condition("NumberLessThan", value="5"), ("value",), ["number"]),
        (condition("NumberLessThan", value=[5]), ("value",), ["number"]),
        (condition("NumberLessThan", value=float("nan")), ("value",), ["finite"]),
        (condition("NumberNotIn", values=[float("inf")]), ("values", 0), ["finite"]),
        (condition("NumberInRange", values=[1]), ("values", 0), ["[lowest, highest]"]),
        (condition("NumberInRange", values=[[1, 2], [1]]), ("values", 1), ["[lowest, highest]"]),
        (condition("NumberInRange", values=[[2, 1]]), ("values", 0), ["2 is greater than 1"]),
        (condition("NumberNotInRange", values=[[1, "2"]]), ("values", 0), ["number"]),
        (condition("BoolEquals", value="true"), ("value",), ["true or false"]),
        (condition("BoolEquals", value=1), ("value",), ["true or false"]),
    ],
)
def test_a_mistake_in_a_condition_says_where_and_what_to_do(raw, below, words):
    mistakes = mistakes_of({"advancedFilters": [condition("IsNotNull"), raw]})
    path = ("advancedFilters", 1, *below)
    assert list(mistakes) == [path]
    for word in words:
        assert word in mistakes[path]


def test_all_mistakes_are_told_at_once_and_the_text_names_their_places():
    raw = {
        "zzz": 1,
        "includedEventTypes": [5],
        "advancedFilters": [
            {"operatorType": "Stringin", "key": "a..b", "values": ["x"]},
            condition("NumberIn", values=["1", 2, None]),
        ],
        "any_of": [{"advancedFilters": [condition("BoolEquals", value=0)]}],
    }
    with pytest.raises(FilterMistakes) as caught:
        compile_filter(raw)
    assert [line.partition(": ")[0] for line in sorted(str(caught.value).splitlines())] == [
        "advancedFilters[0].key",
        "advancedFilters[0].operatorType",
        "advancedFilters[1].values[0]",
        "advancedFilters[1].values[2]",
        "any_of[0].advancedFilters[0].value",
        "includedEventTypes[0]",
        "zzz",
    ]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda children: (
            st.lists(children, max_size=3)
            | st.dictionaries(
                st.sampled_from([*NOTHING_SAID, "operatorType", "key", "value", "values"]) | st.text(max_size=2),
                children,
            )
        ),
        max_leaves=15,
    )
)
def test_whatever_the_user_writes_is_a_filter_or_a_list_of_mistakes(raw):
    try:
        compiled = compile_filter(raw)
    except FilterMistakes as mistakes:
        told = str(mistakes)
    else:
        told = compiled.explain(grid())[1]
    assert told
