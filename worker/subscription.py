"""Which event subscriptions bring a hub what the routes need. Pure, and without text, which `subscription_text` writes.

An event that a route takes always passes one of the filters. Each event type is in one subscription, so that no event
comes twice; only where a route takes every type can that not be avoided, because Event Grid cannot say "all others".
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from worker.operators import OPERATORS
from worker.pushdown import Allowed, Demands, Pushed, Stay, Where, pushed, reduced

MOST_FILTERS = 25
MOST_VALUES = 25
"""Of one event subscription, the values over all its filters: Event Grid's limits."""


class Need(NamedTuple):
    """What somebody wants to see: a route, as routes.yaml says it."""

    route: str
    filter: Mapping[str, Any] | None = None
    """None: every event."""
    sources: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Subscription:
    """One event subscription."""

    event_types: tuple[str, ...] | None
    """None: all that Event Grid sends unasked."""
    demands: Demands
    routes: tuple[str, ...]
    """Whose events it brings."""

    def filter(self) -> dict[str, Any]:
        """Event Grid's own filter."""
        written: dict[str, Any] = {}
        if self.event_types is not None:
            written["includedEventTypes"] = list(self.event_types)
        if self.demands.in_arrays:
            written["enableAdvancedFilteringOnArrays"] = True
        if self.demands.values:
            written["advancedFilters"] = [_written(where, values) for where, values in self.demands.values.items()]
        return written


@dataclass(frozen=True, slots=True)
class Plan:
    """All event subscriptions of one source."""

    subscriptions: tuple[Subscription, ...]
    """None at all: no route takes an event of this source."""
    stays: tuple[Stay, ...]
    elsewhere: tuple[str, ...]
    """Types that routes name and that this source does not have."""
    unsure: tuple[str, ...]
    """Types that routes name, and that come only if Event Grid sends them unasked."""
    overlapping: bool
    """Whether one event may come by two of them."""


def plan(needs: Iterable[Need], allowed: Allowed, *, emits: str | None = None) -> Plan:
    """The subscriptions for these needs; `emits`: how every type of the source begins, where that is known."""
    asked = [(need, pushed(need.route, need.filter, allowed)) for need in needs]
    union = _Union(asked, emits)
    subscriptions = tuple(part for group in union.groups() for part in _split(group))
    stays = tuple(stay for need, push in asked for stay in _stays(need, push, subscriptions))
    return Plan(subscriptions, stays, union.elsewhere, union.unsure, _overlap(subscriptions))


class _Union:
    """What several routes need together."""

    def __init__(self, asked: Iterable[tuple[Need, Pushed]], emits: str | None) -> None:
        self._of_every_type: Demands | None = None
        self._by_type: dict[str, Demands] = {}
        self._spelled: dict[str, str] = {}
        self._routes: dict[str | None, list[str]] = {}
        elsewhere: dict[str, None] = {}
        for need, push in asked:
            if push.event_types is None:
                self._of_every_type = _either(self._of_every_type, push.demands)
                self._routes.setdefault(None, []).append(need.route)
            for name in push.event_types or ():
                if emits is not None and not name.casefold().startswith(emits.casefold()):
                    elsewhere[name] = None
                else:
                    self._add_type(name, need.route, push.demands)
        self.elsewhere = tuple(elsewhere)
        self.unsure = tuple(self._spelled[folded] for folded in self._by_type if self._in_every_type(folded))

    def _add_type(self, name: str, route: str, demands: Demands) -> None:
        folded = name.casefold()
        self._spelled.setdefault(folded, name)
        self._by_type[folded] = _either(self._by_type.get(folded), demands)
        routes = self._routes.setdefault(folded, [])
        if route not in routes:
            routes.append(route)

    def _in_every_type(self, folded: str) -> bool:
        """Whether who takes every type takes all that is wanted of this one."""
        every = self._of_every_type
        return every is not None and _same(_either(every, self._by_type[folded]), every)

    def groups(self) -> list[Subscription]:
        """One for every type, where a route asks for that, and one for the types of which the same is wanted."""
        groups: list[tuple[Demands, list[str]]] = []
        covered = [folded for folded in self._by_type if self._in_every_type(folded)]
        for folded, demands in self._by_type.items():
            if folded not in covered:
                same = next((types for other, types in groups if _same(other, demands)), None)
                if same is None:
                    groups.append((demands, [folded]))
                else:
                    same.append(folded)
        found = []
        if self._of_every_type is not None:
            found.append(Subscription(None, self._of_every_type, self._routes_of(None, *covered)))
        return found + [
            Subscription(tuple(self._spelled[one] for one in types), demands, self._routes_of(*types))
            for demands, types in groups
        ]

    def _routes_of(self, *types: str | None) -> tuple[str, ...]:
        return tuple(dict.fromkeys(route for one in types for route in self._routes.get(one, ())))


def _either(one: Demands | None, other: Demands) -> Demands:
    """What holds for all that one of the two lets through."""
    if one is None:
        return other
    values = {
        where: joined
        for where in one.values
        if where in other.values
        and (joined := _joined(where.operator, one.values[where], other.values[where])) is not None
    }
    in_arrays = (one.in_arrays or other.in_arrays) and any(where.key != "subject" for where in values)
    return Demands(values, in_arrays)


def _joined(operator: str, one: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...] | None:
    if operator.startswith("NumberLess"):
        return (max(one[0], other[0]),)
    if operator.startswith("NumberGreater"):
        return (min(one[0], other[0]),)
    if OPERATORS[operator].operand_field == "values":
        return reduced(operator, (*one, *other))
    return one if one == other else None


def _same(one: Demands, other: Demands) -> bool:
    return _comparable(one) == _comparable(other)


def _comparable(demands: Demands) -> tuple[bool, dict[Where, frozenset[Any]]]:
    folded = {
        where: frozenset(value.casefold() if isinstance(value, str) else value for value in values)
        for where, values in demands.values.items()
    }
    return demands.in_arrays, folded


def _split(whole: Subscription) -> list[Subscription]:
    """Parts within Event Grid's limits: the longest list of values is halved until all of it fits."""
    demands = Demands(dict(list(whole.demands.values.items())[:MOST_FILTERS]), whole.demands.in_arrays)
    if sum(map(len, demands.values.values())) <= MOST_VALUES:
        return [Subscription(whole.event_types, demands, whole.routes)]
    longest = max(demands.values, key=lambda where: len(demands.values[where]))
    values = demands.values[longest]
    half = (len(values) + 1) // 2
    parts = (Demands({**demands.values, longest: part}, demands.in_arrays) for part in (values[:half], values[half:]))
    return [piece for part in parts for piece in _split(Subscription(whole.event_types, part, whole.routes))]


def _stays(need: Need, push: Pushed, subscriptions: Sequence[Subscription]) -> Iterator[Stay]:
    """What the worker decides for one route: what cannot be asked, and what the others' needs are wider than."""
    serving = [one for one in subscriptions if need.route in one.routes]
    if not serving:
        return
    if need.sources is not None:
        yield Stay(need.route, "sources", "an event subscription has one source, and lets all of its events through")
    yield from push.stays
    for where, values in push.demands.values.items():
        without = next((one for one in serving if where not in one.demands.values), None)
        if without is not None:
            full = len(without.demands.values) == MOST_FILTERS
            why = f"Event Grid takes at most {MOST_FILTERS} conditions" if full else _ANOTHER
            yield Stay(need.route, _text(where, values), why)


_ANOTHER = "another route takes events of the same types without it"


def _text(where: Where, values: tuple[Any, ...]) -> str:
    return " ".join((*where, ", ".join(json.dumps(value, ensure_ascii=False) for value in values))).rstrip()


def _overlap(subscriptions: Sequence[Subscription]) -> bool:
    return any(
        _share_a_type(one, other) and not _apart(one.demands, other.demands)
        for index, one in enumerate(subscriptions)
        for other in subscriptions[:index]
    )


def _share_a_type(one: Subscription, other: Subscription) -> bool:
    if one.event_types is None or other.event_types is None:
        return True
    return not {name.casefold() for name in one.event_types}.isdisjoint(name.casefold() for name in other.event_types)


_ONE_VALUE_EACH = {
    "StringIn": lambda one, other: one == other,
    "StringBeginsWith": lambda one, other: one.startswith(other) or other.startswith(one),
    "StringEndsWith": lambda one, other: one.endswith(other) or other.endswith(one),
    "NumberIn": lambda one, other: one == other,
}
"""Whether one value of an event may meet both."""


def _apart(one: Demands, other: Demands) -> bool:
    """Whether surely no event meets both."""
    for where, values in one.values.items():
        meet = _ONE_VALUE_EACH.get(where.operator)
        in_arrays = where.key != "subject" and (one.in_arrays or other.in_arrays)
        if meet is None or in_arrays or where not in other.values:
            continue
        if not any(meet(_folded(a), _folded(b)) for a in values for b in other.values[where]):
            return True
    return False


def _folded(value: Any) -> Any:
    return value.casefold() if isinstance(value, str) else value


def _written(where: Where, values: tuple[Any, ...]) -> dict[str, Any]:
    condition: dict[str, Any] = {"operatorType": where.operator, "key": where.key}
    operand = OPERATORS[where.operator].operand_field
    if operand == "values":
        condition["values"] = [list(value) if isinstance(value, tuple) else value for value in values]
    elif operand == "value":
        condition["value"] = values[0]
    return condition
