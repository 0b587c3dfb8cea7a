"""Routes: which sinks an event is for, and by which route.

Compiled once from the configuration and then only asked: an event is held only against the routes that neither its type
nor the beginning of its subject rules out, so that a thousand routes cost little more than ten. What a filter means is
in `filters`; what happens at a sink, and what "late" means, is decided elsewhere: a route only carries the choice.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from typing import Literal, NamedTuple

from worker.events import Event
from worker.filters import Filter, rooted


class Late(StrEnum):
    """What happens to an event that comes after a later one of its subject."""

    DELIVER = "deliver"
    """Delivered all the same, and told to the sink."""
    DROP = "drop"
    """Counted, and otherwise forgotten."""
    DEAD_LETTER = "dead_letter"
    """Kept for the operator."""


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """One route as it is configured."""

    name: str
    sinks: tuple[str, ...]
    filter: Filter | None = None
    """None: every event."""
    sources: tuple[str, ...] | None = None
    """The only topics it takes events from, in any case, with or without a slash at the end; None: from anywhere."""
    late: Late = Late.DELIVER
    only: Literal["latest"] | None = None
    """Of the events of a subject that are released together, only the newest (`latest`)."""
    changed: tuple[str, ...] | None = None
    """Where its value is the last one that the sink got of the subject, the event is not delivered (`unchanged`)."""


class Target(NamedTuple):
    """One sink an event goes to."""

    route: str
    sink: str
    late: Late
    only_latest: bool = False
    changed: tuple[str, ...] | None = None


class Verdict(NamedTuple):
    """What one route makes of an event, in words."""

    route: str
    matched: bool
    reason: str
    sinks: tuple[str, ...]
    """Where the event goes because of this route: not to a sink that an earlier route sends it to already."""


class _Route:
    """A route made ready to be asked often."""

    def __init__(self, number: int, spec: RouteSpec) -> None:
        self.number = number
        """Its place among the routes."""
        self.name = spec.name
        self.filter = spec.filter
        self.event_types = None if spec.filter is None else spec.filter.event_types
        self.beginning = "" if spec.filter is None else spec.filter.subject_beginning
        self.sources = None if spec.sources is None else frozenset(map(folded_source, spec.sources))
        self.targets = tuple(
            Target(spec.name, sink, spec.late, spec.only == "latest", spec.changed) for sink in spec.sinks
        )
        self.options = tuple(_options(spec))

    def matches(self, event: Event) -> bool:
        return self.takes_from(event.source) and (self.filter is None or self.filter.matches(event))

    def takes_from(self, source: str | None) -> bool:
        return self.sources is None or (source is not None and folded_source(source) in self.sources)

    def explain(self, event: Event) -> tuple[bool, str]:
        if not self.takes_from(event.source):
            seen = "the event has no source" if event.source is None else f"the source {event.source} is not listed"
            return False, f"{seen}, and the route takes events only from its `sources`"
        return (True, "the route has no filter") if self.filter is None else self.filter.explain(event)


def _options(spec: RouteSpec) -> Iterator[str]:
    """What a route does not deliver of what it matches, in words."""
    if spec.only == "latest":
        yield "only: latest, so not when a newer one of its subject is released with it"
    if spec.changed:
        yield f"changed, so not when its {'.'.join(spec.changed)} is the last one delivered of its subject"


_number = attrgetter("number")


class _ByBeginning:
    """Some routes, by what their filter wants the subject to begin with."""

    def __init__(self, routes: Iterable[_Route]) -> None:
        self._of_any_subject: list[_Route] = []
        self._beginning_with: dict[str, list[_Route]] = {}
        for route in routes:
            if route.beginning:
                self._beginning_with.setdefault(route.beginning, []).append(route)
            else:
                self._of_any_subject.append(route)
        # There are few lengths, however many routes: the subject is cut to each, and looked up.
        self._lengths = sorted({len(beginning) for beginning in self._beginning_with})

    def of(self, subject: str) -> Sequence[_Route]:
        """Those that the subject, with its slash and its case folded, does not rule out; in no order."""
        found = self._of_any_subject
        for length in self._lengths:
            if length > len(subject):
                break
            if routes := self._beginning_with.get(subject[:length]):
                found = found + routes  # another list: this one is asked again
        return found


_NONE = _ByBeginning(())


class Routes:
    """All routes, in their order: for a sink that several of them name, the first that matches counts."""

    def __init__(self, specs: Iterable[RouteSpec]) -> None:
        self._routes = [_Route(number, spec) for number, spec in enumerate(specs)]
        by_type: dict[str, list[_Route]] = {}
        for route in self._routes:
            for event_type in route.event_types or ():
                by_type.setdefault(event_type, []).append(route)
        self._by_type = {event_type: _ByBeginning(routes) for event_type, routes in by_type.items()}
        self._of_any_type = _ByBeginning(route for route in self._routes if route.event_types is None)
        self.some_want_latest = any(target.only_latest for route in self._routes for target in route.targets)
        """Whether it matters to any of them what is released together."""

    def match(self, event: Event) -> tuple[Target, ...]:
        """Every sink the event is for, each once, in the order of the routes."""
        targets: dict[str, Target] = {}
        for route in self._not_ruled_out(event):
            if route.matches(event):
                for target in route.targets:
                    targets.setdefault(target.sink, target)
        return tuple(targets.values())

    def _not_ruled_out(self, event: Event) -> list[_Route]:
        """The routes that are worth asking, in their order."""
        subject = rooted(event.subject or "").casefold()
        of_type = self._by_type.get(event.type.casefold(), _NONE).of(subject)
        return sorted([*of_type, *self._of_any_type.of(subject)], key=_number)

    def explain(self, event: Event) -> list[Verdict]:
        """What each route makes of the event, and why; the sinks are those of `match`."""
        first: dict[str, str] = {}
        verdicts = []
        for route in self._routes:
            matched, reason = route.explain(event)
            sinks = dict.fromkeys(target.sink for target in route.targets) if matched else {}
            for sink in sinks:
                if first.setdefault(sink, route.name) != route.name:
                    reason += f"; {sink} has it by {first[sink]} already"
            own = tuple(sink for sink in sinks if first[sink] == route.name)
            reason = "; ".join((reason, *route.options)) if own else reason
            verdicts.append(Verdict(route.name, matched, reason, own))
        return verdicts


def folded_source(source: str) -> str:
    """ARM ids change case from event to event, and some producers end them with a slash."""
    return source.casefold().removesuffix("/")
