"""reach.py: what is proved of filters and routes is true, and the proofs that are promised are found."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_filters import OPERANDS, grid
from worker.filters import Filter, compile_filter
from worker.reach import contradiction, covered
from worker.route import RouteSpec


def on(key: str, operator: str, *operand: Any) -> dict[str, Any]:
    """A condition; the operand is a list of values where the operator takes several."""
    field = next(iter(OPERANDS[operator]), None)
    given = {} if field is None else {field: list(operand) if field == "values" else operand[0]}
    return {"operatorType": operator, "key": key, **given}


def both(*conditions: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"advancedFilters": list(conditions), **more}


def spec(name: str, filter_: dict[str, Any] | None, *, sinks=("out",), sources=None) -> RouteSpec:
    return RouteSpec(name, sinks, None if filter_ is None else compile_filter(filter_), sources)


# ---- What is found


EXCLUDE_EACH_OTHER = [
    both(on("data.n", "NumberGreaterThan", 5), on("data.n", "NumberLessThan", 3)),
    both(on("data.n", "NumberGreaterThan", 5), on("data.n", "NumberLessThanOrEquals", 5)),
    both(on("data.n", "NumberInRange", [1, 2], [8, 9]), on("data.n", "NumberInRange", [3, 7])),
    both(on("data.n", "NumberIn", 1, 2), on("data.n", "NumberNotIn", 2, 1)),
    both(on("data.s", "StringIn", "Failed"), on("data.s", "StringIn", "Completed")),
    both(on("data.s", "StringIn", "FAILED"), on("data.s", "StringNotIn", "failed")),
    both(on("data.s", "StringIn", "a"), on("data.s", "StringNotContains", "A")),
    both(on("data.s", "StringBeginsWith", "a"), on("data.s", "StringBeginsWith", "b", "c")),
    both(on("data.b", "BoolEquals", True), on("data.b", "BoolEquals", False)),
    both(on("data.s", "IsNullOrUndefined"), on("data.s", "StringIn", "a")),
    both(on("data.s", "IsNullOrUndefined"), on("data.s", "IsNotNull"), enableAdvancedFilteringOnArrays=True),
    both(on("Subject", "StringIn", "a"), on("subject", "StringIn", "b")),
    {
        **both(on("data.n", "NumberIn", 1)),
        "any_of": [both(on("data.n", "NumberGreaterThan", 1)), both(on("data.n", "NumberLessThan", 1))],
    },
]
MAY_HOLD = [
    both(on("data.n", "NumberGreaterThanOrEquals", 5), on("data.n", "NumberLessThanOrEquals", 5)),
    both(on("data.n", "NumberGreaterThan", 5), on("data.m", "NumberLessThan", 3)),
    both(on("data.n", "NumberGreaterThan", 5), on("data.n", "NumberLessThan", 3), enableAdvancedFilteringOnArrays=True),
    both(on("data.n", "NumberNotInRange", [0, 9]), on("data.n", "NumberNotInRange", [5, 20])),
    both(on("data.n", "NumberNotInRange", [0, 9]), on("data.n", "NumberGreaterThan", 20)),
    both(on("data.s", "StringBeginsWith", "ab"), on("data.s", "StringBeginsWith", "a")),
    both(on("data.s", "StringBeginsWith", "a"), on("data.s", "StringBeginsWith", "ab")),
    both(on("data.s", "StringIn", "a"), on("Data.S", "StringIn", "b")),
    both(on("data.s", "IsNullOrUndefined"), on("data.s", "StringNotIn", "a")),
    both(on("subject", "StringIn", "b"), subjectBeginsWith="a"),
    {"any_of": [both(on("a", "IsNotNull"), on("a", "IsNullOrUndefined")), both(on("a", "IsNotNull"))]},
]


@pytest.mark.parametrize("filter_", EXCLUDE_EACH_OTHER, ids=str)
def test_conditions_that_exclude_each_other_are_found(filter_):
    assert contradiction(compile_filter(filter_))


@pytest.mark.parametrize("filter_", MAY_HOLD, ids=str)
def test_of_conditions_that_can_hold_together_nothing_is_said(filter_):
    assert contradiction(compile_filter(filter_)) is None


WIDER = [
    (None, {"includedEventTypes": ["A"]}),
    ({"includedEventTypes": ["A", "B"]}, {"includedEventTypes": ["a"]}),
    ({"subjectBeginsWith": "experiments/"}, {"subjectBeginsWith": "/experiments/x"}),
    ({"subjectBeginsWith": "/A"}, {"subjectBeginsWith": "/ab", "isSubjectCaseSensitive": True}),
    ({"subjectEndsWith": ".csv"}, {"subjectEndsWith": "/a.CSV"}),
    (both(on("data.s", "StringIn", "a", "b")), both(on("data.s", "StringIn", "B"))),
    (both(on("data.s", "StringNotIn", "a")), both(on("data.s", "StringNotIn", "a", "b"))),
    (both(on("data.s", "StringNotIn", "a")), both(on("data.s", "StringIn", "b", "c"))),
    (both(on("data.s", "StringBeginsWith", "a")), both(on("data.s", "StringBeginsWith", "ab", "ac"))),
    (both(on("data.s", "StringNotBeginsWith", "ab")), both(on("data.s", "StringNotBeginsWith", "a"))),
    (both(on("data.s", "StringContains", "b")), both(on("data.s", "StringEndsWith", "abc"))),
    (both(on("data.s", "IsNotNull")), both(on("data.s", "StringNotContains", "x"))),
    (both(on("data.s", "StringNotIn", "x")), both(on("data.s", "IsNullOrUndefined"))),
    (both(on("data.n", "NumberGreaterThan", 1)), both(on("data.n", "NumberGreaterThan", 1), on("x", "IsNotNull"))),
    (both(on("data.n", "NumberGreaterThanOrEquals", 1)), both(on("data.n", "NumberInRange", [1, 2]))),
    (both(on("data.n", "NumberNotIn", 5)), both(on("data.n", "NumberNotInRange", [1, 9]))),
    (
        both(on("data.s", "StringIn", "a", "b"), enableAdvancedFilteringOnArrays=True),
        both(on("data.s", "StringIn", "a")),
    ),
    (
        {"any_of": [both(on("data.s", "StringIn", "a")), both(on("data.n", "NumberIn", 1, 2))]},
        {"any_of": [both(on("data.n", "NumberIn", 1)), both(on("data.s", "StringIn", "a"), on("x", "IsNotNull"))]},
    ),
    ({"any_of": [both(on("x", "IsNotNull")), both(on("y", "IsNotNull"))]}, both(on("y", "StringIn", "a"))),
]
NOT_WIDER = [
    ({"includedEventTypes": ["A"]}, None),
    ({"includedEventTypes": ["A"]}, {"includedEventTypes": ["A", "B"]}),
    ({"subjectBeginsWith": "/ab", "isSubjectCaseSensitive": True}, {"subjectBeginsWith": "/ab"}),
    ({"subjectBeginsWith": "/ab"}, {"subjectEndsWith": "/ab"}),
    (both(on("data.s", "StringIn", "a")), both(on("data.s", "StringIn", "a", "b"))),
    (both(on("data.s", "StringIn", "a")), both(on("data.S", "StringIn", "a"))),
    (both(on("data.n", "NumberNotInRange", [0, 2])), both(on("data.n", "NumberInRange", [0, 2]))),
    (both(on("data.s", "StringBeginsWith", "a")), both(on("data.s", "StringNotBeginsWith", "a"))),
    (both(on("data.s", "StringNotContains", "a")), both(on("data.s", "StringNotIn", "a"))),
    (both(on("data.s", "IsNotNull")), both(on("data.s", "StringNotIn", "x"))),
    (both(on("data.s", "IsNullOrUndefined")), both(on("data.s", "StringNotIn", "x"))),
    (both(on("data.n", "NumberGreaterThan", 1)), both(on("data.n", "NumberGreaterThanOrEquals", 1))),
    (
        both(on("data.s", "StringIn", "a")),
        both(on("data.s", "StringIn", "a"), enableAdvancedFilteringOnArrays=True),
    ),
    (
        both(on("data.s", "StringNotIn", "a"), enableAdvancedFilteringOnArrays=True),
        both(on("data.s", "StringNotIn", "a", "b")),
    ),
    ({"any_of": [both(on("x", "IsNotNull"))]}, {"any_of": [both(on("x", "IsNotNull")), both(on("y", "IsNotNull"))]}),
]


@pytest.mark.parametrize(("wide", "narrow"), WIDER, ids=str)
def test_a_route_behind_a_wider_one_to_the_same_sink_does_nothing(wide, narrow):
    assert covered([spec("wide", wide), spec("narrow", narrow)], 1) == {"out": "wide"}


@pytest.mark.parametrize(("wide", "narrow"), NOT_WIDER, ids=str)
def test_a_route_with_events_of_its_own_is_not_said_to_do_nothing(wide, narrow):
    assert covered([spec("wide", wide), spec("narrow", narrow)], 1) is None


def test_each_sink_may_be_served_by_another_route_and_one_of_its_own_is_enough_to_be_of_use():
    specs = [spec("a", None, sinks=("x",)), spec("b", None, sinks=("y",)), spec("c", None, sinks=("x", "y"))]
    assert covered(specs, 2) == {"x": "a", "y": "b"}
    assert covered([*specs[:2], spec("c", None, sinks=("x", "y", "z"))], 2) is None
    assert covered(specs, 0) is None


def test_sources_are_compared_in_any_case():
    specs = [spec("some", None, sources=("/T/1", "/T/2")), spec("one", None, sources=("/t/2/",)), spec("all", None)]
    assert covered(specs, 1) == {"out": "some"}
    assert covered(specs, 2) is None
    assert covered([specs[2], specs[1]], 1) == {"out": "all"}


# ---- That it is true

TEXTS = st.sampled_from(["", "a", "A", "ab", "b", "ba", "/a", "abc"])
NUMBERS = st.sampled_from([-1, 0, 1, 1.0, 1.5, 2, 10])
VALUES: list[Any] = [None, True, False, -1, 0, 1, 1.0, 1.5, 2, 3, 10, "", "a", "A", "ab", "b", "ba", "abc", "x", {}]
VALUES += [[], ["a"], ["a", "b"], ["ab", 1], [0, 10], [True, False], [None]]
EVENTS = [
    *(grid(subject="a", eventType="T", data={key: value}) for key in ("k", "K") for value in VALUES),
    *(grid(subject=subject, eventType=kind, data={"k": 1}) for subject in (None, *"aAbx", "/ab") for kind in "TtU"),
    *(grid(subject=subject, eventType="T", data={"k": "a", "K": "b"}) for subject in ("abc", "cab", "")),
]
"""Enough to tell any two of the conditions below from each other."""
OPERAND_OF = {"String": TEXTS, "Number": NUMBERS, "BoolEq": st.booleans()}


@st.composite
def conditions(draw: st.DrawFn) -> dict[str, Any]:
    operator = draw(st.sampled_from(sorted(OPERANDS)))
    key = draw(st.sampled_from(["data.k", "data.K", "subject"]))
    condition: dict[str, Any] = {"operatorType": operator, "key": key}
    of = OPERAND_OF.get(operator[:6], NUMBERS)
    if "Range" in operator:
        of = st.tuples(NUMBERS, NUMBERS).map(sorted)
    if "values" in OPERANDS[operator]:
        return condition | {"values": draw(st.lists(of, min_size=1, max_size=3))}
    return condition | ({"value": draw(of)} if "value" in OPERANDS[operator] else {})


GROUPS = st.lists(conditions(), min_size=1, max_size=2).map(lambda group: {"advancedFilters": group})
FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "includedEventTypes": st.lists(st.sampled_from(["T", "u"]), max_size=2),
        "subjectBeginsWith": TEXTS,
        "subjectEndsWith": TEXTS,
        "isSubjectCaseSensitive": st.booleans(),
        "enableAdvancedFilteringOnArrays": st.booleans(),
        "advancedFilters": st.lists(conditions(), max_size=2),
        "any_of": st.lists(GROUPS, min_size=1, max_size=2),
    },
)


@settings(deadline=None, max_examples=150)  # the machine is shared
@given(st.lists(conditions(), min_size=2, max_size=2), st.booleans())
def test_no_event_passes_a_filter_of_which_it_is_said_that_none_can(both_of, arrays):
    filter_ = compile_filter({"advancedFilters": both_of, "enableAdvancedFilteringOnArrays": arrays})
    if contradiction(filter_):
        assert not any(map(filter_.matches, EVENTS))


def nothing_is_missed(wide: Filter, narrow: Filter) -> bool:
    """Whether the one takes all that the other does; True where nobody says so."""
    if covered([RouteSpec("wide", ("out",), wide), RouteSpec("narrow", ("out",), narrow)], 1):
        return all(wide.matches(event) for event in EVENTS if narrow.matches(event))
    return True


@settings(deadline=None, max_examples=150)  # the machine is shared
@given(FILTERS, FILTERS, st.booleans())
def test_a_route_that_is_said_to_do_nothing_takes_no_event_that_the_one_before_it_does_not(wide, narrow, alike):
    assert nothing_is_missed(compile_filter(wide), compile_filter({**wide, **narrow} if alike else narrow))


@settings(deadline=None, max_examples=300)  # the machine is shared
@given(conditions(), conditions(), st.booleans(), st.booleans())
def test_so_it_is_of_two_conditions_alone(one, other, first_in_arrays, second_in_arrays):
    first, second = (
        compile_filter({"advancedFilters": [each], "enableAdvancedFilteringOnArrays": in_arrays})
        for each, in_arrays in ((one, first_in_arrays), (other | {"key": one["key"]}, second_in_arrays))
    )
    assert nothing_is_missed(first, second)
