"""Event subscriptions from routes: what a route takes is let through, within the limits, and once if it can be."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.event_grid import lets_through, values_in
from worker.decode import decode
from worker.events import Event, Message, PartitionId, UnixSeconds
from worker.filters import compile_filter
from worker.pushdown import Allowed
from worker.subscription import Need, Plan, plan

RUN, MODEL, BLOB = "Microsoft.ML.Run", "Microsoft.ML.Model", "Microsoft.Storage.BlobCreated"


def event_of(**fields: Any) -> Event:
    element = {"id": "1", "eventType": RUN, "topic": "/t", "subject": "s", "data": {}, **fields}
    [event] = decode(Message(PartitionId("0"), 1, "1", UnixSeconds(0.0), orjson.dumps(element)))
    assert isinstance(event, Event)
    return event


def condition(operator: str, key: str, *values: Any) -> dict[str, Any]:
    one = operator.startswith(("NumberLess", "NumberGreater", "Bool"))
    operand = {} if not values else {"value": values[0]} if one else {"values": list(values)}
    return {"operatorType": operator, "key": key, **operand}


def route(name: str, *types: str, **fields: Any) -> Need:
    return Need(name, {"includedEventTypes": list(types), **fields})


def filters(*needs: Need, data: bool = False, subject: bool = True, emits: str | None = None) -> list[dict[str, Any]]:
    return [one.filter() for one in planned(*needs, data=data, subject=subject, emits=emits).subscriptions]


def planned(*needs: Need, data: bool = False, subject: bool = True, emits: str | None = None) -> Plan:
    return plan(needs, Allowed(subject=subject, data=data), emits=emits)


def reasons(*needs: Need, **options: Any) -> dict[str, str]:
    return {stay.what: stay.why for stay in planned(*needs, **options).stays}


# ---- Types and subjects


def test_the_types_of_all_routes_are_in_one_subscription_each_once_as_it_was_written_first():
    needs = [route("a", RUN, MODEL), route("b", MODEL.upper(), BLOB)]
    assert filters(*needs) == [{"includedEventTypes": [RUN, MODEL, BLOB]}]


@pytest.mark.parametrize("wide", [None, {}, {"includedEventTypes": []}, {"includedEventTypes": ["all"]}])
def test_a_route_that_takes_everything_makes_one_subscription_without_a_filter(wide):
    found = planned(route("a", RUN, subjectBeginsWith="x"), Need("every", wide))
    assert [one.filter() for one in found.subscriptions] == [{}]
    assert found.subscriptions[0].routes == ("every", "a")
    assert found.unsure == (RUN,)
    assert not found.overlapping


def test_beginnings_of_subjects_are_asked_for_with_and_without_a_slash():
    asked = {"operatorType": "StringBeginsWith", "key": "subject", "values": ["a/", "/a/", "b/", "/b/"]}
    needs = [route("a", RUN, subjectBeginsWith="a/"), route("b", RUN, subjectBeginsWith="/b/")]
    assert filters(*needs) == [{"includedEventTypes": [RUN], "advancedFilters": [asked]}]


def test_a_beginning_covers_what_begins_with_it():
    needs = [route("a", RUN, subjectBeginsWith="exp/1"), route("b", RUN, subjectBeginsWith="EXP/")]
    assert filters(*needs)[0]["advancedFilters"] == [condition("StringBeginsWith", "subject", "EXP/", "/EXP/")]


def test_types_of_which_different_subjects_are_wanted_have_subscriptions_of_their_own():
    needs = [route("a", RUN, MODEL, subjectEndsWith=".x"), route("b", BLOB), route("c", MODEL, subjectEndsWith=".y")]
    assert filters(*needs) == [
        {"includedEventTypes": [RUN], "advancedFilters": [condition("StringEndsWith", "subject", ".x")]},
        {"includedEventTypes": [MODEL], "advancedFilters": [condition("StringEndsWith", "subject", ".x", ".y")]},
        {"includedEventTypes": [BLOB]},
    ]
    assert not planned(*needs).overlapping


def test_a_demand_that_another_route_of_the_type_does_not_make_is_not_asked_and_said_to_stay():
    needs = [route("a", RUN, subjectBeginsWith="x", subjectEndsWith="y"), route("b", RUN, subjectEndsWith="z")]
    assert filters(*needs)[0]["advancedFilters"] == [condition("StringEndsWith", "subject", "y", "z")]
    assert reasons(*needs) == {
        'subject StringBeginsWith "x", "/x"': "another route takes events of the same types without it"
    }


def test_every_type_of_some_subjects_beside_a_type_of_all_is_said_to_overlap():
    assert planned(Need("every", {"subjectBeginsWith": "a"}), route("r", RUN)).overlapping
    assert planned(Need("every", {"subjectBeginsWith": "ab"}), route("r", RUN, subjectBeginsWith="a")).overlapping
    assert planned(Need("every", {"subjectEndsWith": "ab"}), route("r", RUN, subjectEndsWith="b")).overlapping
    apart = planned(Need("every", {"subjectBeginsWith": "a"}), route("r", RUN, subjectBeginsWith="b"))
    assert len(apart.subscriptions) == 2
    assert not apart.overlapping


def test_types_that_the_source_does_not_have_are_left_out_and_named():
    needs = [route("a", RUN, BLOB), route("b", BLOB, any_of=[{"advancedFilters": [condition("IsNotNull", "id")]}])]
    found = planned(*needs, emits="microsoft.ml.")
    assert [one.filter() for one in found.subscriptions] == [{"includedEventTypes": [RUN]}]
    assert found.elsewhere == (BLOB,)
    assert found.stays == ()
    assert planned(needs[1], emits="microsoft.ml.").subscriptions == ()


# ---- What stays


@pytest.mark.parametrize(
    ("filter_", "what", "why"),
    [
        ({"any_of": [{"advancedFilters": [condition("IsNotNull", "id")]}]}, "any_of", "has no OR"),
        ({"advancedFilters": [condition("IsNotNull", "data['a.b']")]}, "data['a.b'] IsNotNull", "in brackets"),
        ({"advancedFilters": [condition("StringIn", "data.k", "x")]}, 'data.k StringIn "x"', "case of a key in data"),
        (
            {"advancedFilters": [condition("StringIn", "eventType", "x")]},
            'eventType StringIn "x"',
            "names of their own",
        ),
        ({"advancedFilters": [condition("StringNotIn", "subject", "x")]}, 'subject StringNotIn "x"', "leaves open"),
        ({"advancedFilters": [condition("IsNotNull", "subject")]}, "subject IsNotNull", "is text"),
        ({"subjectEndsWith": "ß"}, 'subjectEndsWith "ß"', "beyond ASCII"),
        ({"subjectEndsWith": "x" * 513}, f'subjectEndsWith "{"x" * 513}"', "at most 512 characters"),
        ({"advancedFilters": [condition("StringContains", "subject", "")]}, 'subject StringContains ""', "empty text"),
        ({"subjectEndsWith": "X", "isSubjectCaseSensitive": True}, "isSubjectCaseSensitive", "ignore case"),
    ],
)
def test_what_event_grid_cannot_be_asked_is_said_with_the_reason(filter_, what, why):
    compile_filter(filter_)  # it is a right one
    found = reasons(Need("r", filter_))
    assert list(found) == [what]
    assert why in found[what]


def test_a_source_with_events_of_others_is_not_asked_for_subjects():
    needs = [route("a", RUN, subjectBeginsWith="x")]
    assert filters(*needs, subject=False) == [{"includedEventTypes": [RUN]}]
    assert "custom topic" in reasons(*needs, subject=False)['subjectBeginsWith "x"']


def test_sources_stay_because_a_subscription_has_one():
    assert "one source" in reasons(Need("r", None, ("/subscriptions/s",)))["sources"]


@pytest.mark.parametrize(
    ("one", "other", "union"),
    [
        (("StringIn", "a"), ("StringIn", "A", "b"), ("StringIn", "a", "b")),
        (("StringContains", "ab"), ("StringContains", "b"), ("StringContains", "b")),
        (("NumberGreaterThan", 0.4), ("NumberGreaterThan", 0.2), ("NumberGreaterThan", 0.2)),
        (("NumberLessThanOrEquals", 1), ("NumberLessThanOrEquals", 3), ("NumberLessThanOrEquals", 3)),
        (("NumberInRange", [1, 2]), ("NumberInRange", [5, 6]), ("NumberInRange", [1, 2], [5, 6])),
        (("BoolEquals", True), ("BoolEquals", True), ("BoolEquals", True)),
        (("IsNotNull",), ("IsNotNull",), ("IsNotNull",)),
    ],
)
def test_conditions_on_data_that_are_asked_for_let_through_what_either_route_takes(one, other, union):
    def asked(words):
        return condition(words[0], "data.k", *words[1:])

    needs = [route(name, RUN, advancedFilters=[asked(words)]) for name, words in (("a", one), ("b", other))]
    assert filters(*needs, data=True) == [{"includedEventTypes": [RUN], "advancedFilters": [asked(union)]}]
    assert filters(*needs) == [{"includedEventTypes": [RUN]}]


def test_what_two_routes_want_both_ways_is_not_asked():
    needs = [
        route(str(wanted), RUN, advancedFilters=[condition("BoolEquals", "data.k", wanted)]) for wanted in (True, False)
    ]
    assert filters(*needs, data=True) == [{"includedEventTypes": [RUN]}]


def test_of_two_conditions_with_one_key_and_operator_the_second_stays():
    need = route("r", RUN, advancedFilters=[condition("StringContains", "data.k", text) for text in ("x", "y")])
    assert filters(need, data=True)[0]["advancedFilters"] == [condition("StringContains", "data.k", "x")]
    assert "both must hold" in reasons(need, data=True)['data.k StringContains "y"']


@pytest.mark.parametrize("in_arrays", [True, False])
def test_different_values_are_apart_unless_one_array_may_hold_both(in_arrays):
    one, other = (
        {"advancedFilters": [condition("StringIn", "data.k", text)], "enableAdvancedFilteringOnArrays": in_arrays}
        for text in ("x", "y")
    )
    assert planned(Need("every", one), route("r", RUN, **other), data=True).overlapping == in_arrays


def test_numbers_that_a_double_cannot_hold_stay():
    needs = [route("a", RUN, advancedFilters=[condition("NumberIn", "data.k", 2**53)])]
    assert "2^53" in reasons(*needs, data=True)["data.k NumberIn 9007199254740992"]


# ---- Limits


def test_more_subjects_than_event_grid_takes_become_several_subscriptions_that_share_no_event():
    needs = [route(f"r{number}", RUN, subjectBeginsWith=f"exp{number:02}/") for number in range(30)]
    found = planned(*needs)
    assert [values_in(one.filter()) for one in found.subscriptions] == [15, 15, 15, 15]
    assert not found.overlapping


def test_more_conditions_than_event_grid_takes_stay_in_the_worker():
    conditions = [condition("NumberGreaterThan", f"data.k{number}", 0) for number in range(26)]
    need = route("r", RUN, advancedFilters=conditions)
    assert [len(one["advancedFilters"]) for one in filters(need, data=True)] == [25]
    assert reasons(need, data=True) == {"data.k25 NumberGreaterThan 0": "Event Grid takes at most 25 conditions"}


# ---- For any routes, and events of every kind

TEXTS = st.sampled_from(["a", "A", "ab", "/a", "b/", "B", "y", "/", "", "ß"])
NUMBERS = st.sampled_from([0, 1, -1, 0.5, 2**53])
STRING_OPERATORS = [f"String{no}{how}" for no in ("", "Not") for how in ("In", "Contains", "BeginsWith", "EndsWith")]
LOWER_KEYS = ["data.k", "data.k", "data.o.k", "subject"]
ALL_KEYS = [*LOWER_KEYS, "Subject", "DATA.K", "data['k']", "data.O.k", "id", "eventType"]

# Without ß: that Event Grid takes it for ss, as case folding does here, nobody says.
SUBJECTS = ["a", "A", "/a", "ab", "/ab", "b/y", "/b/y", "B", "y", "/y", "", None]
VALUES = [
    "a",
    "AB",
    "/a",
    "b/y",
    "",
    0,
    1,
    -1,
    0.5,
    2**53 + 1,
    True,
    False,
    None,
    [],
    ["a", 1],
    ["a", "b", 0],
    {"k": "a"},
]


def events_with(spellings: list[Callable[[Any], Any]]) -> list[Event]:
    plain = [{"subject": subject} for subject in SUBJECTS]
    with_data = [
        {"subject": subject, "data": spelled(value)}
        for spelled in spellings
        for value in VALUES
        for subject in ("a", "/b/y")
    ]
    return [event_of(eventType=kind, **fields) for kind in (RUN, MODEL, "Other") for fields in (*plain, *with_data)]


AS_IN_ROUTES = events_with([lambda value: {"k": value}, lambda value: {"o": {"k": value}}, lambda value: value])
WITH_KEY = [event_of(eventType=kind, data={"k": value}) for kind in (RUN, MODEL, "Other") for value in VALUES]
IN_ANY_CASE = events_with([lambda value: {"K": value}, lambda value: {"k": value}, lambda value: {"O": {"K": value}}])


POSITIVE = ["StringIn", "StringContains", "NumberIn", "NumberLessThan", "NumberGreaterThanOrEquals", "BoolEquals"]
RANGES = st.tuples(NUMBERS, NUMBERS).map(sorted)
OPERANDS: dict[str, tuple[st.SearchStrategy[Any], int]] = {
    **dict.fromkeys(STRING_OPERATORS, (TEXTS, 2)),
    **{f"Number{no}In": (NUMBERS, 2) for no in ("", "Not")},
    **{f"Number{no}InRange": (RANGES, 2) for no in ("", "Not")},
    **{f"Number{how}Than{also}": (NUMBERS, 1) for how in ("Less", "Greater") for also in ("", "OrEquals")},
    "BoolEquals": (st.booleans(), 1),
    "IsNotNull": (st.nothing(), 0),
    "IsNullOrUndefined": (st.nothing(), 0),
}


def conditions_of(operator: str, key: str) -> st.SearchStrategy[dict[str, Any]]:
    values, most = OPERANDS[operator]
    lists = st.lists(values, min_size=1, max_size=most) if most else st.just([])
    return lists.map(lambda some: condition(operator, key, *some))


@st.composite
def needs_on(draw, keys: list[str]) -> list[Need]:
    """Routes that look at the same two things, so that there is something to join."""
    looks = draw(st.lists(st.tuples(st.sampled_from(list(OPERANDS)), st.sampled_from(keys)), min_size=1, max_size=2))
    conditions = st.one_of(*(conditions_of(operator, key) for operator, key in looks))
    group = st.fixed_dictionaries({"advancedFilters": st.lists(conditions, min_size=1, max_size=2)})
    filters = st.fixed_dictionaries(
        {
            "includedEventTypes": st.sampled_from([[RUN], [RUN], [RUN, MODEL], []]),
            "advancedFilters": st.lists(conditions, max_size=2),
        },
        optional={
            "subjectBeginsWith": TEXTS,
            "subjectEndsWith": TEXTS,
            "isSubjectCaseSensitive": st.booleans(),
            "enableAdvancedFilteringOnArrays": st.booleans(),
            "any_of": st.lists(group, min_size=1, max_size=2),
        },
    )
    found = draw(st.lists(st.one_of(filters, filters, filters, st.none()), min_size=1, max_size=3))
    return [Need(f"r{number}", one) for number, one in enumerate(found)]


@st.composite
def needs_alike(draw) -> list[Need]:
    """Routes that differ in nothing but types, values, and whether they look into arrays."""
    operator = draw(st.sampled_from([*POSITIVE, *POSITIVE, "StringNotIn", "NumberNotInRange"]))
    return [
        Need(
            f"r{number}",
            {
                "includedEventTypes": draw(st.sampled_from([[RUN], [MODEL], [RUN, MODEL], []])),
                "enableAdvancedFilteringOnArrays": draw(st.booleans()),
                "advancedFilters": draw(st.lists(conditions_of(operator, "data.k"), min_size=1, max_size=2)),
            },
        )
        for number in range(draw(st.integers(1, 3)))
    ]


def check(needs: list[Need], events: list[Event], *, data: bool) -> None:
    found = planned(*needs, data=data)
    printed = [one.filter() for one in found.subscriptions]
    compiled = [compile_filter(one) for one in printed]
    routes = [(need, compile_filter(need.filter or {})) for need in needs]
    for event in events:
        for need, wanted in routes:
            if wanted.matches(event):
                assert any(one.matches(event) for one in compiled), f"{need} is not served by {printed}"
                serving = [one for one in found.subscriptions if need.route in one.routes]
                assert any(lets_through(one.filter(), event) for one in serving), f"{need} by {printed}"
        if not found.overlapping:
            assert sum(one.matches(event) for one in compiled) <= 1
    for one in printed:
        assert len(one.get("advancedFilters", [])) <= 25
        assert values_in(one) <= 25
    assert planned(*needs, data=data) == found


@settings(max_examples=150)
@given(needs_on(ALL_KEYS))
def test_an_event_that_a_route_takes_is_let_through_whatever_event_grid_leaves_open(needs):
    check(needs, IN_ANY_CASE, data=False)


@settings(max_examples=150)
@given(needs_on(LOWER_KEYS))
def test_so_it_is_with_conditions_on_data_where_keys_are_spelled_as_in_the_routes(needs):
    check(needs, AS_IN_ROUTES, data=True)


@settings(max_examples=250)
@given(needs_alike())
def test_so_it_is_with_routes_that_have_much_in_common(needs):
    check(needs, WITH_KEY, data=True)


@settings(max_examples=40)
@given(st.lists(st.lists(st.text("abcd", min_size=3, max_size=4), max_size=60), min_size=1, max_size=2))
def test_so_it_is_when_many_subjects_are_split(lists):
    needs = [
        Need(f"r{number}", {"includedEventTypes": [RUN], ("subjectBeginsWith", "subjectEndsWith")[number]: text})
        for number, texts in enumerate(lists)
        for text in texts
    ]
    check(needs, [event_of(subject=subject) for texts in lists for subject in texts], data=False)
