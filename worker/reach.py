"""Which routes can do anything: what can be proved from their filters alone, before an event has come.

A proof is never wrong, and often there is none: routes that are not mentioned may be useless all the same. Proved are

- that two conditions on one key cannot both hold: of values that are listed none meets the other one, the bounds of
  numbers leave nothing, no beginning begins with the other, or a value is wanted where none may be;
- that one condition holds whenever another does: the same one, of values that are listed each meets it, a narrower
  range, a longer beginning or ending, a part that holds the part, or that there is a value at all.

Pure. What is made of it is said by `advice`.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from math import inf
from typing import Any, NamedTuple

from worker.filters import Condition, Filter
from worker.operators import OPERATORS
from worker.route import RouteSpec, folded_source

_LISTED = frozenset({"StringIn", "NumberIn", "BoolEquals"})
"""Operators that a value meets only by being one of their operands."""


def covered(specs: Sequence[RouteSpec], index: int) -> dict[str, str] | None:
    """Of a route that does nothing: for each of its sinks an earlier route that sends it all of the same events."""
    by_sink = sent_before(specs, index)
    return by_sink if len(by_sink) == len(set(specs[index].sinks)) else None


def sent_before(specs: Sequence[RouteSpec], index: int) -> dict[str, str]:
    """Of a route the sinks to which an earlier one sends all of the same events, and which one."""
    route = specs[index]
    by_sink = {}
    for sink in route.sinks:
        earlier = next((each for each in specs[:index] if sink in each.sinks and _takes_all_of(each, route)), None)
        if earlier is not None:
            by_sink[sink] = earlier.name
    return by_sink


def contradiction(filter_: Filter) -> tuple[Condition, Condition] | None:
    """Two conditions that exclude each other, so that no event can pass; None where one may.

    Of a filter with groups those of the last one, when none can be passed.
    """
    ways = [(*filter_.conditions, *group) for group in filter_.groups] or [filter_.conditions]
    found = [next((pair for pair in combinations(way, 2) if _exclude_each_other(*pair)), None) for way in ways]
    return found[-1] if all(found) else None


# ---- One filter


def _exclude_each_other(one: Condition, other: Condition) -> bool:
    if _names(one) != _names(other) or not (_is_operator(one) and _is_operator(other)):
        return False
    if any(_wants_nothing(a) and not b.test(None) for a, b in ((one, other), (other, one))):
        return True
    # In an array one element may meet the one, another the other.
    return not (one.in_arrays or other.in_arrays) and _no_value_meets(one, other)


def _no_value_meets(one: Condition, other: Condition) -> bool:
    for listed, against in ((one, other), (other, one)):
        if (values := _listed(listed)) is not None:
            return not any(map(against.test, values))
    if _is_negated(one) or _is_negated(other):
        return False
    first, second = _intervals(one), _intervals(other)
    if first and second:
        return not any(_touch(a, b) for a in first for b in second)
    beginnings, others = _beginnings(one), _beginnings(other)
    may_begin = any(a.startswith(b) or b.startswith(a) for a in beginnings for b in others)
    return bool(beginnings and others) and not may_begin


def _names(condition: Condition) -> tuple[str, ...]:
    """The key; only names at the top are the same in any case."""
    first, *rest = condition.claim.names
    return (first.casefold(), *rest)


def _is_operator(condition: Condition) -> bool:
    """And no field of the filter that looks at the subject."""
    return condition.claim.operator in OPERATORS


def _wants_nothing(condition: Condition) -> bool:
    return condition.claim.operator == "IsNullOrUndefined"


def _is_negated(condition: Condition) -> bool:
    return OPERATORS[condition.claim.operator].negated


def _listed(condition: Condition) -> tuple[Any, ...] | None:
    """The only values that meet it, in one case; None where they cannot be listed."""
    operator, operand = condition.claim.operator, condition.claim.operand
    if operator not in _LISTED:
        return None
    return operand if isinstance(operand, tuple) else (operand,)


class _Interval(NamedTuple):
    low: float
    high: float
    without_low: bool = False
    without_high: bool = False


_FROM_BOUND: dict[str, Callable[[float], _Interval]] = {
    "NumberGreaterThan": lambda bound: _Interval(bound, inf, without_low=True),
    "NumberGreaterThanOrEquals": lambda bound: _Interval(bound, inf),
    "NumberLessThan": lambda bound: _Interval(-inf, bound, without_high=True),
    "NumberLessThanOrEquals": lambda bound: _Interval(-inf, bound),
}


def _intervals(condition: Condition) -> list[_Interval]:
    """The numbers that hit its operand, negated or not; empty where it is about something else."""
    operator, operand = condition.claim.operator, condition.claim.operand
    if operator in _FROM_BOUND:
        return [_FROM_BOUND[operator](operand)]
    if operator in ("NumberIn", "NumberNotIn"):
        return [_Interval(number, number) for number in operand]
    return [_Interval(low, high) for low, high in operand] if "Range" in operator else []


def _touch(one: _Interval, other: _Interval) -> bool:
    low, high = max(one.low, other.low), min(one.high, other.high)
    if low != high:
        return low < high
    at_low = any(each.without_low and each.low == low for each in (one, other))
    at_high = any(each.without_high and each.high == high for each in (one, other))
    return not (at_low or at_high)


def _beginnings(condition: Condition) -> tuple[str, ...]:
    """In one case."""
    return condition.claim.operand if condition.claim.operator == "StringBeginsWith" else ()


# ---- Two filters


def _takes_all_of(wide: RouteSpec, narrow: RouteSpec) -> bool:
    """Whether every event that the narrow route matches is matched by the wide one."""
    if wide.sources is not None and (narrow.sources is None or not _sources(narrow) <= _sources(wide)):
        return False
    return wide.filter is None or _passes(wide.filter, narrow.filter or _ANY)


def _sources(spec: RouteSpec) -> frozenset[str]:
    return frozenset(map(folded_source, spec.sources or ()))


_ANY = Filter(None, (), ())


def _passes(wide: Filter, narrow: Filter) -> bool:
    if wide.event_types is not None and (narrow.event_types is None or not narrow.event_types <= wide.event_types):
        return False
    # One way to pass after the other: each group with what all have in common.
    ways = [(*narrow.conditions, *group) for group in narrow.groups] or [narrow.conditions]
    return all(
        _all_implied(wide.conditions, known)
        and (not wide.groups or any(_all_implied(group, known) for group in wide.groups))
        for known in ways
    )


def _all_implied(wanted: Iterable[Condition], known: Sequence[Condition]) -> bool:
    return all(any(_implies(each, one) for each in known) for one in wanted)


def _implies(known: Condition, wanted: Condition) -> bool:
    """Whether `wanted` holds for every event for which `known` does."""
    if _names(known) != _names(wanted):
        return False
    if not (_is_operator(known) and _is_operator(wanted)):
        return _subject_implies(known, wanted)
    if known.test(None) and not wanted.test(None):
        return False
    # Null is done with. Nothing but null meets the one; all but null meets the other.
    return _wants_nothing(known) or wanted.claim.operator == "IsNotNull" or _value_implies(known, wanted)


def _value_implies(known: Condition, wanted: Condition) -> bool:
    """The same for values that are not null."""
    if (values := _listed(known)) is not None and not known.in_arrays:
        return all(map(wanted.test, values))
    if _is_negated(known) != _is_negated(wanted):
        return False
    if _is_negated(known):
        return known.in_arrays >= wanted.in_arrays and _hits_within(wanted, known)
    return known.in_arrays <= wanted.in_arrays and _hits_within(known, wanted)


def _hits_within(narrow: Condition, wide: Condition) -> bool:
    """Whether each value that hits the operand of the one hits that of the other; negated or not does not matter."""
    numbers, more = _intervals(narrow), _intervals(wide)
    if numbers and more:
        return all(any(_is_inside(each, other) for other in more) for each in numbers)
    first, second = narrow.claim, wide.claim
    match first.operator.replace("Not", ""), second.operator.replace("Not", ""):
        case ("StringIn", "StringIn"):
            hits: Callable[[str], bool] = second.operand.__contains__
        case ("StringIn" | "StringBeginsWith", "StringBeginsWith"):
            hits = lambda text: text.startswith(second.operand)  # noqa: E731 - three of a kind
        case ("StringIn" | "StringEndsWith", "StringEndsWith"):
            hits = lambda text: text.endswith(second.operand)  # noqa: E731 - as above
        case ("StringIn" | "StringBeginsWith" | "StringEndsWith" | "StringContains", "StringContains"):
            hits = lambda text: any(part in text for part in second.operand)  # noqa: E731 - as above
        case _:
            return False
    return all(map(hits, first.operand))


def _is_inside(narrow: _Interval, wide: _Interval) -> bool:
    low = wide.low < narrow.low or (wide.low == narrow.low and wide.without_low <= narrow.without_low)
    high = wide.high > narrow.high or (wide.high == narrow.high and wide.without_high <= narrow.without_high)
    return low and high


def _subject_implies(known: Condition, wanted: Condition) -> bool:
    """For the fields of a filter that look at the subject."""
    first, second = known.claim, wanted.claim
    if first.operator != second.operator:
        return False
    (text, exact), (other, other_exact) = first.operand, second.operand
    if other_exact and not exact:
        return False
    text = text if other_exact else text.casefold()
    return bool(text.startswith(other) if first.operator == "subjectBeginsWith" else text.endswith(other))
