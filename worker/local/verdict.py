"""Judges what arrived against what was sent. Pure; knows nothing of the worker, neither its rules nor its counters.

The expected deliveries come from whoever made the traffic, the arrivals from the destinations' own records, and the
dead letters from the store. An order fault cannot hide behind the flag for late events: flags are judged too.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from worker.local.traffic import TrafficEvent, TrafficMessage


@dataclass(frozen=True, slots=True)
class Arrival:
    """One delivery as a destination noted it, in the order it came."""

    event_id: str
    key: str
    """The idempotency key."""
    late: bool
    """Whether the delivery said that it was late."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter as the store has it."""

    body: bytes
    sink: str | None


@dataclass(frozen=True, slots=True)
class SinkVerdict:
    """What one destination got. Numbers of events, except `doubled`."""

    sink: str
    expected: int
    delivered: int
    """Of the expected ones, at least once."""
    missing: int
    unexpected: int
    """Delivered, but not for this sink or never sent."""
    out_of_order: int
    """Came, not flagged as late, after a later event of their subject."""
    doubled: int
    """Deliveries after the first of the same event."""
    doubled_under_another_key: int
    """Those of the doubled that a receiver cannot recognise: the idempotency key had changed."""
    late: int
    """Flagged as late."""
    wrongly_late: int
    """Flagged as late although no later event of the subject can have gone before."""
    dead_lettered: int

    @property
    def is_right(self) -> bool:
        """Whether the promises were kept. Doubled events are allowed: delivery is at least once."""
        faults = self.missing + self.unexpected + self.out_of_order + self.wrongly_late + self.doubled_under_another_key
        return faults == 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of everything that was sent."""

    sent_messages: int
    sent_events: int
    """Different well-formed ones."""
    resent: int
    malformed: int
    malformed_kept: int
    """Of the malformed messages, those that are dead letters with every byte."""
    unexpected_dead_letters: int
    """Dead letters, not of a sink, whose bytes are not those of a malformed message, or that stand there twice."""
    sinks: tuple[SinkVerdict, ...]

    @property
    def is_right(self) -> bool:
        """Whether the demo has shown what it should."""
        kept = self.malformed_kept == self.malformed and self.unexpected_dead_letters == 0
        return kept and all(sink.is_right for sink in self.sinks)


def judge(
    sent: Sequence[TrafficMessage],
    expects: Callable[[TrafficEvent], Iterable[str]],
    arrivals: dict[str, list[Arrival]],
    letters: Sequence[Letter],
) -> Verdict:
    """Compares; `expects` names the sinks that an event is for, `arrivals` has every sink's record."""
    events = {event.id: event for message in sent for event in message.events}
    expected: dict[str, set[str]] = {sink: set() for sink in arrivals}
    for event in events.values():
        for sink in expects(event):
            expected[sink].add(event.id)
    malformed = Counter(message.body for message in sent if message.damage)
    kept = Counter(letter.body for letter in letters if letter.sink is None)
    given_up = Counter(letter.sink for letter in letters)
    return Verdict(
        sent_messages=len(sent),
        sent_events=len(events),
        resent=sum(message.resent for message in sent),
        malformed=malformed.total(),
        malformed_kept=(malformed & kept).total(),
        unexpected_dead_letters=(kept - malformed).total(),
        sinks=tuple(
            _judge_sink(sink, _Subjects(events.values(), expected[sink]), record, given_up[sink])
            for sink, record in arrivals.items()
        ),
    )


class _Subjects:
    """The true order, as far as one sink can see it."""

    def __init__(self, events: Iterable[TrafficEvent], expected: set[str]) -> None:
        self.expected = expected
        self.events: dict[str, TrafficEvent] = {}
        self._unseen: dict[str, int] = defaultdict(lambda: -1)
        for event in events:
            self.events[event.id] = event
            if event.id not in expected:
                self._unseen[event.subject] = max(self._unseen[event.subject], event.index)

    def has_later_elsewhere(self, event: TrafficEvent) -> bool:
        """Whether a later event of the subject is not for this sink, so that the sink cannot see it go before."""
        return self._unseen[event.subject] > event.index


def _judge_sink(sink: str, subjects: _Subjects, record: list[Arrival], given_up: int) -> SinkVerdict:
    first: dict[str, Arrival] = {}
    repeats = []
    for arrival in record:
        if arrival.event_id in first:
            repeats.append(arrival)
        else:
            first[arrival.event_id] = arrival
    delivered = subjects.expected & first.keys()
    arrived = [arrival for arrival in first.values() if arrival.event_id in subjects.events]
    out_of_order, wrongly_late = _order_faults(subjects, arrived)
    return SinkVerdict(
        sink=sink,
        expected=len(subjects.expected),
        delivered=len(delivered),
        missing=len(subjects.expected) - len(delivered),
        unexpected=len(first) - len(delivered),
        out_of_order=out_of_order,
        doubled=len(repeats),
        doubled_under_another_key=sum(first[repeat.event_id].key != repeat.key for repeat in repeats),
        late=sum(arrival.late for arrival in first.values()),
        wrongly_late=wrongly_late,
        dead_lettered=given_up,
    )


def _order_faults(subjects: _Subjects, arrived: Iterable[Arrival]) -> tuple[int, int]:
    """Counts the first deliveries that came after a later one unflagged, and those flagged without cause."""
    newest: dict[str, int] = defaultdict(lambda: -1)
    out_of_order = wrongly_late = 0
    for arrival in arrived:
        event = subjects.events[arrival.event_id]
        overtaken = event.index < newest[event.subject]
        if arrival.late:
            wrongly_late += not overtaken and not subjects.has_later_elsewhere(event)
        else:
            out_of_order += overtaken
        newest[event.subject] = max(newest[event.subject], event.index)
    return out_of_order, wrongly_late
