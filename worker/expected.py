"""What was expected against what came: what is missing, what is too much, and what came in another order.

Order is looked at where the worker promises it: among the deliveries of one subject to one sink. Pure.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from worker.casebook import Case, Expectation
from worker.config import Routing
from worker.events import DIGEST_TYPE, Event, Subject
from worker.rehearsal import Came, Performance

_TRIES = 50_000
"""Of ways to say which delivery is which expectation's: more are only needed where dozens look the same."""
_SHOWN_CHARACTERS = 80


class Missing(NamedTuple):
    """An expectation that nothing met."""

    which: int
    nearest: Came | None
    """What came unexpected and is most like it."""
    differences: tuple[str, ...]
    """Of that one, in words."""
    reasons: tuple[str, ...]
    """Why routes to its sink did not take the events that it may have meant."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a case ended."""

    missing: tuple[Missing, ...] = ()
    unexpected: tuple[Came, ...] = ()
    disordered: tuple[Came, ...] = ()
    """All that was expected came, but these in another order: as they came."""

    @property
    def passed(self) -> bool:
        """Whether everything came as expected."""
        return not (self.missing or self.unexpected or self.disordered)


def compare(case: Case, performance: Performance, routing: Routing) -> Comparison:
    """Holds what came against what the case expects; the routes are asked why something is missing."""
    named = {each.sink for each in case.expect}
    came = [each for each in performance.came if each.sink not in case.ignore or each.sink in named]
    fits = [[not any(differences(wanted, each)) for each in came] for wanted in case.expect]
    if (pairs := _in_order(fits, came)) is None:
        pairs = _in_any_order(fits, len(came))
        if None not in pairs:
            extra = tuple(each for index, each in enumerate(came) if index not in pairs)
            return Comparison(unexpected=extra, disordered=_disordered(pairs, came))
    unexpected = [each for index, each in enumerate(came) if index not in pairs]
    missing = [
        Missing(index, *_nearest(wanted, unexpected), tuple(_reasons(wanted, performance.routed, routing)))
        for index, wanted in enumerate(case.expect)
        if pairs[index] is None
    ]
    return Comparison(tuple(missing), tuple(unexpected))


# ---- Whether one came


def differences(wanted: Expectation, came: Came) -> Iterator[str]:
    """What about a delivery is not as expected, in words; nothing where it is the one."""
    if wanted.dead_letter != came.dead_letter:
        yield f"{_fate(came.dead_letter)}; expected that {_fate(wanted.dead_letter)}"
    if wanted.sink is not None and wanted.sink != came.sink:
        yield f"the sink is {came.sink or 'none'}, not {wanted.sink}"
    if wanted.route is not None and wanted.route != came.route:
        yield f"the route is {came.route or 'none'}, not {wanted.route}"
    if wanted.dead_letter is None and wanted.late != (came.late_by_ms is not None):
        yield "it is in its turn, not late" if wanted.late else f"it is late, by {came.late_by_ms} ms"
    if wanted.event is not None:
        unlike = list(_unlike(wanted.event, came.event.envelope if came.event else None, "event"))
        if unlike and told_together(came) and wanted.event.get("type") != DIGEST_TYPE:
            yield "it is a digest, because the sink is quiet: expect `digest: [{…}]` in place of `event: {…}`"
        yield from unlike
    if wanted.digest is not None:
        yield from _unlike([*wanted.digest], told_together(came), "digest")


def told_together(came: Came) -> list[Any] | None:
    """The events that a digest stands for, as it tells of them; None for any other event."""
    event = came.event
    return event.data["events"] if event and event.type == DIGEST_TYPE else None


def _fate(dead_letter: str | None) -> str:
    return "it is delivered" if dead_letter is None else f"it is a dead letter ({dead_letter})"


def _unlike(wanted: Any, value: Any, path: str) -> Iterator[str]:
    """Where a value does not have what is wanted of it: of objects the keys that are named, of lists every item."""
    if isinstance(wanted, Mapping) and isinstance(value, Mapping):
        for key, part in wanted.items():
            if key in value:
                yield from _unlike(part, value[key], f"{path}.{key}")
            else:
                yield f"{path}.{key} is not there"
    elif isinstance(wanted, list) and isinstance(value, list):
        if len(wanted) != len(value):
            yield f"{path} has {len(value)} items, not {len(wanted)}"
        for index, (part, item) in enumerate(zip(wanted, value, strict=False)):
            yield from _unlike(part, item, f"{path}[{index}]")
    elif wanted != value or isinstance(wanted, bool) != isinstance(value, bool):
        yield f"{path} is {_shown(value)}, not {_shown(wanted)}"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


# ---- Which is which

_Lane = tuple[str | None, Subject]
"""Within which there is an order."""


def _lane(came: Came) -> _Lane | None:
    """None for dead letters: nobody promises in which order they are written."""
    return None if came.dead_letter or came.event is None else (came.sink, came.event.key)


def _in_order(fits: Sequence[Sequence[bool]], came: Sequence[Came]) -> list[int | None] | None:
    """For each expectation what came of it, so that those of one lane stand in its order; None: there is no such way.

    The expectations are served one after the other, each with the first that fits; where one finds none, those before
    it try their next.
    """
    lanes = [_lane(each) for each in came]
    chosen: list[int] = []
    candidate, tries = 0, 0
    while len(chosen) < len(fits) and tries < _TRIES:
        tries += 1
        index = _first_fitting(fits[len(chosen)], lanes, chosen, candidate)
        if index is not None:
            chosen.append(index)
            candidate = 0
        elif chosen:
            candidate = chosen.pop() + 1
        else:
            return None
    return [*chosen] if len(chosen) == len(fits) else None


def _first_fitting(
    fits: Sequence[bool], lanes: Sequence[_Lane | None], chosen: Sequence[int], candidate: int
) -> int | None:
    taken = set(chosen)
    last: dict[_Lane | None, int] = {lanes[index]: index for index in chosen}  # they grow within a lane
    for index in range(candidate, len(fits)):
        lane = lanes[index]
        if fits[index] and index not in taken and (lane is None or index > last.get(lane, -1)):
            return index
    return None


def _in_any_order(fits: Sequence[Sequence[bool]], count: int) -> list[int | None]:
    """For each expectation what came of it, so that as many as possible have one."""
    owner: list[int | None] = [None] * count

    def serve(wanted: int, seen: set[int]) -> bool:
        for index in range(count):
            if fits[wanted][index] and index not in seen:
                seen.add(index)
                other = owner[index]
                if other is None or serve(other, seen):
                    owner[index] = wanted
                    return True
        return False

    for wanted in range(len(fits)):
        serve(wanted, set())
    found = {wanted: index for index, wanted in enumerate(owner) if wanted is not None}
    return [found.get(wanted) for wanted in range(len(fits))]


def _disordered(pairs: Sequence[int | None], came: Sequence[Came]) -> tuple[Came, ...]:
    """What came of those lanes in which the order is another one."""
    last: dict[_Lane, int] = {}
    wrong: set[_Lane] = set()
    for index in pairs:
        assert index is not None, "every expectation has one"
        lane = _lane(came[index])
        if lane is not None:
            if index < last.get(lane, -1):
                wrong.add(lane)
            last[lane] = index
    return tuple(each for each in came if _lane(each) in wrong)


# ---- Why not


def _nearest(wanted: Expectation, unexpected: Sequence[Came]) -> tuple[Came | None, tuple[str, ...]]:
    alike = [each for each in unexpected if each.sink == wanted.sink]
    if not alike:
        return None, ()
    nearest = min(alike, key=lambda each: len(list(differences(wanted, each))))
    return nearest, tuple(differences(wanted, nearest))


def _reasons(wanted: Expectation, routed: Sequence[Event], routing: Routing) -> Iterator[str]:
    """About the events that look as expected; where none does, about all."""
    to_it = {spec.name for spec in routing.specs if wanted.sink in spec.sinks}
    part = wanted.event or {}
    meant = [event for event in routed if not any(_unlike(part, event.envelope, "event"))]
    for event in meant or routed:
        for verdict in routing.routes.explain(event):
            if verdict.route in to_it and not verdict.matched:
                yield f"{event.id}: {verdict.route}: {verdict.reason}"
