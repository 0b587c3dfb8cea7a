"""What a filter says of its mistakes and of an event, word for word: these are the sentences people read."""

import orjson
import pytest

from worker.decode import decode
from worker.events import Event, Message, PartitionId, UnixSeconds
from worker.filters import FilterMistakes, compile_filter
from worker.operators import OPERATORS

OPERANDS = {"StringIn": {"values": ["x"]}, "NumberIn": {"values": [1]}}


def condition(operator: str, key: str = "data.v", **operand) -> dict:
    return {"operatorType": operator, "key": key, **(operand or OPERANDS.get(operator, {}))}


def event_with(data) -> Event:
    body = orjson.dumps({"id": "1", "eventType": "T", "topic": "/t", "subject": "s", "data": data})
    [event] = decode(Message(PartitionId("0"), 1, "1", UnixSeconds(0.0), body))
    assert isinstance(event, Event)
    return event


SENTENCES = [
    (
        [],
        (
            "must be an object with the fields includedEventTypes, subjectBeginsWith, subjectEndsWith, "
            "isSubjectCaseSensitive, enableAdvancedFilteringOnArrays, advancedFilters, any_of"
        ),
    ),
    (
        {"zzz": 1},
        (
            "is not a field here; there are includedEventTypes, subjectBeginsWith, subjectEndsWith, "
            "isSubjectCaseSensitive, enableAdvancedFilteringOnArrays, advancedFilters, any_of"
        ),
    ),
    ({"includedEventType": 1}, "is not a field here; did you mean includedEventTypes?"),
    ({"includedEventTypes": "x"}, "must be a list"),
    ({"includedEventTypes": [""]}, "must be the name of an event type"),
    ({"subjectEndsWith": 5}, "must be a string"),
    ({"isSubjectCaseSensitive": 1}, "must be true or false, without quotes"),
    ({"any_of": []}, "must have at least one group: any_of: [{advancedFilters: […]}, …]"),
    ({"any_of": [{}]}, "must have at least one condition in `advancedFilters`"),
    ({"any_of": [5]}, "must be an object with the fields advancedFilters"),
    ({"advancedFilters": [5]}, "must be an object with the fields operatorType, key, value, values"),
    (
        {"advancedFilters": [{"operatorType": "IsNotNull"}]},
        "must name what to look at, for instance subject or data.runStatus",
    ),
    ({"advancedFilters": [{"key": "x"}]}, "must name an operator"),
    (
        {"advancedFilters": [{"key": "x", "operatorType": "StringIs"}]},
        '"StringIs" is no operator; did you mean StringIn?',
    ),
    (
        {"advancedFilters": [{"key": "x", "operatorType": ["é"]}]},
        f'["é"] is no operator; there are {", ".join(OPERATORS)}',
    ),
    (
        {"advancedFilters": [condition("IsNotNull", "data.x[0]")]},
        (
            'cannot be read from "[0]" on: join names by dots, and put a name that has a dot itself in brackets and '
            "quotes: data.runTags['azureml.pipelineid']"
        ),
    ),
    ({"advancedFilters": [condition("IsNotNull", value=1)]}, "IsNotNull takes no operand; remove `value`"),
    (
        {"advancedFilters": [condition("StringIn", value="x")]},
        "StringIn takes `values`, for instance `values: [Failed, Canceled]`; remove `value`",
    ),
    (
        {"advancedFilters": [{"key": "x", "operatorType": "NumberIn"}]},
        "NumberIn needs `values`, for instance `values: [1, 2.5]`",
    ),
    (
        {"advancedFilters": [{"key": "x", "operatorType": "NumberNotInRange"}]},
        "NumberNotInRange needs `values`, for instance `values: [[1, 5], [10, 20]]`",
    ),
    (
        {"advancedFilters": [{"key": "x", "operatorType": "NumberLessThan"}]},
        "NumberLessThan needs `value`, for instance `value: 5`",
    ),
    (
        {"advancedFilters": [{"key": "x", "operatorType": "BoolEquals"}]},
        "BoolEquals needs `value`, for instance `value: true`",
    ),
    (
        {"advancedFilters": [condition("StringIn", values=[])]},
        "must be a list with at least one value: [Failed, Canceled]",
    ),
    ({"advancedFilters": [condition("StringIn", values=[5])]}, "must be a string; put it in quotes"),
    ({"advancedFilters": [condition("NumberIn", values=["5"])]}, "must be a number, without quotes"),
    ({"advancedFilters": [condition("NumberIn", values=[float("inf")])]}, "must be a finite number"),
    ({"advancedFilters": [condition("BoolEquals", value=0)]}, "must be true or false, without quotes"),
    (
        {"advancedFilters": [condition("NumberInRange", values=[[1, 2, 3]])]},
        "must be a range of two numbers in brackets of its own: [lowest, highest]",
    ),
    (
        {"advancedFilters": [condition("NumberInRange", values=[[9, 5]])]},
        "is a range that holds nothing: 9 is greater than 5; write [5, 9]",
    ),
]


@pytest.mark.parametrize(("raw", "sentence"), SENTENCES)
def test_each_mistake_is_one_sentence(raw, sentence):
    with pytest.raises(FilterMistakes) as caught:
        compile_filter(raw)
    [(path, message)] = caught.value.mistakes
    assert message == sentence
    assert str(caught.value).endswith(f": {sentence}")
    assert path or str(caught.value).startswith("filter: ")


A, B = condition("StringIn", "data.a"), condition("NumberIn", "data.b")


@pytest.mark.parametrize(
    ("raw", "data", "said"),
    [
        ({"includedEventTypes": ["é"]}, None, 'the type is "T", which includedEventTypes does not name'),
        ({"includedEventTypes": ["T"]}, None, "includedEventTypes names the type"),
        ({"subjectEndsWith": "é"}, None, 'subject is "s": subjectEndsWith "é" does not hold'),
        (
            {"includedEventTypes": ["T"], "advancedFilters": [A, B]},
            {"a": "x", "b": 1},
            'includedEventTypes names the type; data.a is "x": StringIn ["x"] holds; data.b is 1: NumberIn [1] holds',
        ),
        (
            {"advancedFilters": [A]},
            {"a": ["x"]},
            'data.a is ["x"]: StringIn ["x"] does not hold (enableAdvancedFilteringOnArrays is not set)',
        ),
        (
            {"advancedFilters": [A], "enableAdvancedFilteringOnArrays": True},
            {"a": ["x"]},
            'data.a is ["x"]: StringIn ["x"] holds',
        ),
        ({"advancedFilters": [condition("IsNotNull")]}, {}, "data.v is missing or null: IsNotNull does not hold"),
        (
            {"advancedFilters": [A], "any_of": [{"advancedFilters": [A, B]}, {"advancedFilters": [A]}]},
            {"a": "x"},
            'data.a is "x": StringIn ["x"] holds; any_of[1]: data.a is "x": StringIn ["x"] holds',
        ),
        (
            {"any_of": [{"advancedFilters": [B, B]}, {"advancedFilters": [A, B]}]},
            {"a": "x"},
            (
                "no group of any_of holds (any_of[0]: data.b is missing or null: NumberIn [1] does not hold; "
                "any_of[1]: data.b is missing or null: NumberIn [1] does not hold)"
            ),
        ),
        (
            {"any_of": [{"advancedFilters": [A, B]}]},
            {"a": "x", "b": 1},
            'any_of[0]: data.a is "x": StringIn ["x"] holds; data.b is 1: NumberIn [1] holds',
        ),
    ],
)
def test_an_explanation_is_a_sentence(raw, data, said):
    assert compile_filter(raw).explain(event_with(data))[1] == said
