"""A history sorted for the questions of the checker: who owned what, what was done when, and what a process could know.

Judges nothing.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from tests.simulation.history import (
    SINK_BACK,
    SINK_REMOVED,
    Attempt,
    Element,
    Enqueued,
    History,
    LetterWrite,
    LifeEvent,
    Link,
    Renewal,
    StateSeen,
    StateWrite,
)

CONDEMNED = "kills_the_worker"
"""The reason of the letter of a whole message that ended one process after the other."""


class Place(NamedTuple):
    partition: str
    number: int
    index: int


@dataclass(slots=True)
class Generation:
    """One owner's time with a partition, as the state writes tell."""

    number: int
    began_at: int
    life: str
    owner: str
    writes: list[StateWrite] = field(default_factory=list)
    saves: list[StateWrite] = field(default_factory=list)
    """Those of its owner: the others only ask for the partition."""


class Facts:
    """The history, sorted for the questions of the checks."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.messages: dict[tuple[str, int], Enqueued] = {}
        self.places: dict[str, list[Place]] = defaultdict(list)
        """Where an event stands in the hub, copies included, first one first."""
        self.rivals: dict[tuple[str, str, str], list[tuple[Place, Element]]] = defaultdict(list)
        """The events of one partition, subject and kind."""
        self._read_hub()
        self.poisoned = self._poisoned()
        """The events of messages that may have been given up whole."""
        self.attempts: list[Attempt] = history.of(Attempt)
        self.letters: list[LetterWrite] = history.of(LetterWrite)
        self.lettered: dict[tuple[str, str], int] = {}
        self.done: dict[tuple[str, str], int] = {}
        """When an event was first done at a sink: it took effect, or its dead letter was kept."""
        self.landed: set[tuple[str, str]] = set()
        """The events that took effect at a sink."""
        self._read_ends()
        self._missing_until: dict[str, float] = defaultdict(float)
        """When every sink was there again that a process had been without; never: 0."""
        self._read_rules()
        self.generations: dict[str, list[Generation]] = defaultdict(list)
        self._read_states()
        self.of_attempt = {id(each): self.generation(each.life, each.partition, each.at) for each in self.attempts}

    def _read_hub(self) -> None:
        for message in self.history.of(Enqueued):
            self.messages[message.partition, message.number] = message
            for index, element in enumerate(message.elements):
                place = Place(message.partition, message.number, index)
                self.places[element.uid].append(place)
                self.rivals[message.partition, element.subject, element.kind].append((place, element))

    def _poisoned(self) -> frozenset[str]:
        return frozenset(
            each.uid
            for place in self.places.get(self.history.poison, ())
            for each in self.messages[place.partition, place.number].elements
        )

    def _read_ends(self) -> None:
        for letter in self.letters:
            for uid in letter.members:
                self.lettered.setdefault((uid, letter.sink), letter.at)
            for element in self.elements_of(letter):
                for sink in element.sinks if letter.reason == CONDEMNED else (letter.sink,):
                    self.lettered.setdefault((element.uid, sink), letter.at)
        self.done = dict(self.lettered)
        for attempt in self.attempts:
            if attempt.landed_at is not None:
                for uid, _ in told_by(attempt):
                    key = uid, attempt.sink
                    self.landed.add(key)
                    self.done[key] = min(self.done.get(key, attempt.landed_at), attempt.landed_at)

    def _read_rules(self) -> None:
        missing: set[tuple[str, str]] = set()
        for event in self.history.of(LifeEvent):
            if event.what == SINK_REMOVED:
                missing.add((event.life, event.detail))
                self._missing_until[event.detail] = inf
            elif event.what in (SINK_BACK, "killed", "failed", "stopped"):
                ends = event.what != SINK_BACK
                back = {each for each in missing if each[0] == event.life and (ends or each[1] == event.detail)}
                missing -= back
                for sink in {sink for _, sink in back} - {sink for _, sink in missing}:
                    self._missing_until[sink] = event.time

    def _read_states(self) -> None:
        for write in self.history.of(StateWrite):
            known = self.generations[write.partition]
            if not known or known[-1].number != write.generation:
                known.append(Generation(write.generation, write.at, write.life, write.owner))
            generation = known[-1]
            asks = write.request is not None and generation.writes and write.request != generation.writes[-1].request
            generation.writes.append(write)
            if not asks:
                generation.saves.append(write)

    def elements_of(self, letter: LetterWrite) -> tuple[Element, ...]:
        if letter.members:
            return ()
        elements = self.messages[letter.partition, letter.number].elements
        whole = letter.index is None or letter.reason == CONDEMNED
        return elements if whole else elements[letter.index : letter.index + 1]

    def generation(self, life: str, partition: str, at: int) -> Generation | None:
        """The last one the process had begun then."""
        return next(
            (each for each in reversed(self.generations[partition]) if each.life == life and each.began_at < at), None
        )

    def may_be_late(self, place: Place, element: Element) -> bool:
        """Whether a later event of its subject stands before it: without one, nothing of it can have been late."""
        return any(
            other.order > element.order and at < place
            for at, other in self.rivals[place.partition, element.subject, element.kind]
        )

    def may_be_dropped(self, element: Element, sink: str) -> bool:
        return self.history.late_policy.get(sink) == "drop" and self.may_ever_be_late(element)

    def may_ever_be_late(self, element: Element) -> bool:
        return any(self.may_be_late(place, element) for place in self.places[element.uid])

    def may_be_left_out(self, element: Element, sink: str) -> bool:
        """Whether a policy of the route (late, superseded, unchanged) or rules without the sink may have settled it."""
        return (
            self.may_be_dropped(element, sink)
            or self.may_be_missing(element, sink)
            or (sink in self.history.latest and self._may_be_superseded(element, sink))
            or self._may_be_unchanged(element, sink)
        )

    def was_missing(self, sink: str) -> bool:
        """Whether some process knew no such sink for a while."""
        return self._missing_until[sink] > 0

    def may_be_missing(self, element: Element, sink: str) -> bool:
        """Whether its turn may have come while some process knew no such sink."""
        return any(self.messages[place[:2]].time < self._missing_until[sink] for place in self.places[element.uid])

    def _may_be_superseded(self, element: Element, sink: str) -> bool:
        """Only by one that is newer, goes to the same sink, and is done there, be it that it says nothing new."""
        return any(
            other.uid != element.uid
            and other.order >= element.order
            and (
                (other.uid, sink) in self.done
                or self._may_be_unchanged(other, sink)
                or self.may_be_missing(other, sink)
            )
            for other in self._of_subject(element, sink)
        )

    def _may_be_unchanged(self, element: Element, sink: str) -> bool:
        """Only after another one with its value has arrived."""
        return sink in self.history.changed and any(
            other.uid != element.uid and other.value == element.value and (other.uid, sink) in self.landed
            for other in self._of_subject(element, sink)
        )

    def _of_subject(self, element: Element, sink: str) -> Iterator[Element]:
        for partition in {place.partition for place in self.places[element.uid]}:
            for _, other in self.rivals[partition, element.subject, element.kind]:
                if sink in other.sinks:
                    yield other


def told_by(attempt: Attempt) -> tuple[tuple[str, bool], ...]:
    """The events of which an attempt tells, and whether it says that each is late."""
    return attempt.members or ((attempt.element.uid, attempt.late_by_ms is not None),)


def was_saved(generation: Generation, *, after: int, before: float) -> bool:
    """Whether its owner surely saved in between what was so by then.

    Two writes: what the first one says may have been put together before, while an earlier call was under way. They
    are made one at a time, so that the second's was not.
    """
    return sum(write.called_at > after and write.at < before for write in generation.saves) > 1


class Knowledge:
    """What a process could know of its ownership at a moment."""

    def __init__(self, history: History) -> None:
        self._lease_seconds = history.lease_seconds
        self._seen: dict[tuple[str, str], list[StateSeen]] = defaultdict(list)
        self._renewed: dict[tuple[str, str], list[Renewal]] = defaultdict(list)
        self._links: dict[tuple[str, str], list[Link]] = defaultdict(list)
        for seen in history.of(StateSeen):
            self._seen[seen.life, seen.partition].append(seen)
        for renewal in history.of(Renewal):
            self._renewed[renewal.life, renewal.partition].append(renewal)
        for link in history.of(Link):
            self._links[link.life, link.partition].append(link)

    def of_newer(self, attempt: Attempt, generation: int) -> bool:
        """Whether it had been told of a newer generation, a moment before."""
        seen = self._seen[attempt.life, attempt.partition]
        return any(each.generation > generation and each.time < attempt.time for each in seen)

    def may_believe(self, attempt: Attempt) -> bool:
        """Whether its lease was valid, or nobody had stolen its link."""
        whose = attempt.life, attempt.partition
        renewed = self._renewed[whose]
        last = bisect_left(renewed, attempt.at, key=lambda each: each.at) - 1
        if last >= 0 and attempt.time < renewed[last].asked_time + self._lease_seconds:
            return True
        links = self._links[whose]
        last = bisect_left(links, attempt.at, key=lambda each: each.at) - 1
        return last >= 0 and links[last].up
