"""The expectations over one subject of one partition: what is pending, what was met, and what is missed.

An event whose turn has come is *seen* once. As a second one it meets what is pending for its subject; as a first one it
makes something pending, which is due a time after it. Both by the events' own times; but something is *missed* only
when the partition is *through*: all that the hub had by then has been seen. So a backlog, and a worker that was down,
make no false alarm. What is missed stays here until every sink that wants to know is done with it.

Pure: times are passed in. How this survives a process says `shelf`; who tells of what is missed says `alarms`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple

import orjson

from worker.decode import decode, is_deeper
from worker.digests import subject_id
from worker.events import Event, Message, PartitionId, Placed, UnixSeconds
from worker.expect import ExpectRule, of_one_subject
from worker.missed import Missed, missed_id, shown_key

LIMIT = 10_000
"""Pending and missed ones of one partition; more first events are not watched."""
MISSED_LIMIT = 500
"""Missed ones that not every sink is done with. They stand in the state, each with its sinks, and are unpacked: the
next are missed when these are told."""
FIRST_BYTES = 8192
"""A larger first event is kept without its data."""
LOOKED_AT = "*expectations"
"""Stands among the sinks that are done with an unsettled event, when it was seen: no sink can be called so."""
_ATTRIBUTES = (
    "specversion",
    "specVersion",
    "id",
    "eventType",
    "type",
    "topic",
    "source",
    "subject",
    "eventTime",
    "time",
)
_CHARACTERS = 1000
_FIRST_DEPTH = 100
"""It becomes part of an event, which may not be nested too deep itself."""
_ARRIVAL_SECONDS = 300.0
"""Event Grid may be late with both events, and then they come one soon after the other."""


class Outcome(StrEnum):
    """What became of a first event; words of a metric."""

    MET = "met"
    MISSED = "missed"
    NOT_WATCHED_LATE = "not_watched_late"
    """It was late: what should follow it may have been here before it."""
    NOT_WATCHED_FULL = "not_watched_full"
    DROPPED = "dropped"
    """Its rule is gone."""
    NO_ROUTE = "no_route"
    """Missed, and no route takes what tells of it."""


class Look(NamedTuple):
    """What seeing an event has led to."""

    matched: bool
    """Whether it was a first or second event of any rule: then it must not be seen again."""
    outcomes: list[tuple[str, Outcome]]
    """Names of rules, and what became of first events."""


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A first event on which another must follow."""

    number: int
    """In the order of seeing."""
    rule: str
    written: str
    """`within`, as it stood in the file."""
    subject: str
    """A digest of it: to tell whether two are the same."""
    key: str
    """The subject, as people read it."""
    id: str
    """Of the event that would tell that it was missed."""
    at: float
    """The first event's time."""
    due: float
    until: float
    """When the partition is through with what the hub had by then, it is missed. Seldom later than due."""
    first: bytes
    """The first event as it came: JSON."""
    cut: bool
    """It was too large: its data is left out."""

    @property
    def size(self) -> int:
        """Of the row, in bytes of JSON; about."""
        return len(self.first) + len(self.key) + 200

    def to_row(self) -> list[Any]:
        """As it is stored."""
        return [
            self.number,
            self.rule,
            self.written,
            self.subject,
            self.key,
            self.id,
            self.at,
            self.due,
            self.until,
            orjson.Fragment(self.first),
            self.cut,
        ]

    @classmethod
    def from_row(cls, row: list[Any]) -> "Pending":
        """The same again."""
        *values, first, cut = row
        return cls(*[*values, orjson.dumps(first), cut])

    def missed(self, made_at: float, book: "Expectations") -> Missed:
        """What is told when nothing has come."""
        data = {
            "within": self.written,
            "key": self.key,
            "source": _source(self.first),
            "after": orjson.loads(self.first),
            **({"cut": "the first event was too large, and its data is left out"} if self.cut else {}),
        }
        return Missed(self.number, self.rule, self.key, self.id, self.due, data, made_at, book)


class Expectations:
    """What one partition waits for, and what it has waited for in vain."""

    def __init__(self) -> None:
        self._rules: tuple[ExpectRule, ...] = ()
        self._types: frozenset[str] | None = frozenset()
        """The types that any of them names, folded; None: of every type."""
        self._last = 0
        self._live: dict[int, Pending] = {}
        self._of: dict[tuple[str, str], list[Pending]] = {}
        """Pending ones of a rule and subject, the oldest first. More than one only while the others are overdue."""
        self._due: list[tuple[float, int]] = []
        """A heap of `until` and number; what was met leaves its entry behind."""
        self._counts: Counter[str] = Counter()
        self._missed: dict[int, Missed] = {}

    # --- events

    def concerns(self, event: Event) -> bool:
        """Whether any rule may look at events of this type: what few do need not cost all."""
        return self._types is None or event.type.casefold() in self._types

    def see(self, placed: Placed, *, at: UnixSeconds, late: bool) -> Look:
        """An event whose turn has come; `at` is its time. Once for each event."""
        event = placed.event
        matched, outcomes = False, list[tuple[str, Outcome]]()
        for rule in self._rules:
            if rule.is_met_by(event):
                matched = True
                if self._meet(rule, subject_id(event.key), at, late=late):
                    outcomes.append((rule.name, Outcome.MET))
            if rule.begins_with(event):
                matched = True
                if not_watched := self._begin(rule, placed, at, late=late):
                    outcomes.append((rule.name, not_watched))
        return Look(matched, outcomes)

    def _meet(self, rule: ExpectRule, subject: str, at: float, *, late: bool) -> bool:
        """A late one may stand before the first event in the order of things: then it is not what follows on it."""
        for pending in self._of.get((rule.name, subject), ()):
            if at <= pending.due and not (late and at < pending.at):
                self._forget(pending)
                return True
        return False

    def _begin(self, rule: ExpectRule, placed: Placed, at: float, *, late: bool) -> Outcome | None:
        """Watches the event; returns why not."""
        if late:
            return Outcome.NOT_WATCHED_LATE
        subject = subject_id(placed.event.key)
        before = self._of.get((rule.name, subject))
        if before and at <= before[-1].due:
            return None
        if len(self._live) >= LIMIT:
            return Outcome.NOT_WATCHED_FULL
        self._last += 1
        arrived = placed.message.enqueued_at
        first, cut = kept(placed.event)
        self._add(
            Pending(
                number=self._last,
                rule=rule.name,
                written=rule.written,
                subject=subject,
                key=shown_key(placed.event.subject or ""),
                id=missed_id(rule.name, *placed.event.key, placed.duplicate_key.hex(), placed.digest),
                at=at,
                due=at + rule.seconds,
                until=missed_from(at, arrived, rule.seconds),
                first=first,
                cut=cut,
            )
        )
        return None

    def _add(self, pending: Pending) -> None:
        self._live[pending.number] = pending
        self._of.setdefault((pending.rule, pending.subject), []).append(pending)
        heappush(self._due, (pending.until, pending.number))
        self._counts[pending.rule] += 1

    def _forget(self, pending: Pending) -> None:
        self._take_out(pending)
        del self._live[pending.number]

    def _take_out(self, pending: Pending) -> None:
        """It is not pending any more; its entry in the heap is passed over."""
        key = pending.rule, pending.subject
        self._of[key].remove(pending)
        if not self._of[key]:
            del self._of[key]
        self._counts[pending.rule] -= 1
        if len(self._due) > 2 * len(self._live) + 100:
            self._due = [(each.until, each.number) for each in self._live.values() if each.number not in self._missed]
            heapify(self._due)

    # --- time

    def next_due(self) -> float | None:
        """Through when the partition must be for the next one to be missed; None while nothing is pending."""
        while self._due and not self._is_pending(self._due[0][1]):
            heappop(self._due)
        return self._due[0][0] if self._due else None

    def _is_pending(self, number: int) -> bool:
        return number in self._live and number not in self._missed

    def miss(self, through: float, *, now: float) -> list[Missed]:
        """What is missed now that the partition is through with all that the hub had before then; `now`: wall clock.

        To be stored before anybody is told: see `snapshot`.
        """
        found: list[Missed] = []
        while len(self._missed) < MISSED_LIMIT and (until := self.next_due()) is not None and until < through:
            pending = self._live[heappop(self._due)[1]]
            missed = self._missed[pending.number] = pending.missed(now, self)
            self._take_out(pending)
            found.append(missed)
        return found

    # --- what is missed: a Book of it

    @property
    def unsettled(self) -> list[Missed]:
        """What was missed, and is not with every sink; the oldest first."""
        return list(self._missed.values())

    def note(self, missed: Missed) -> None:
        """It is in `missed`, which the next snapshot takes."""

    def settled(self, missed: Missed) -> None:
        """Everybody knows."""
        del self._missed[missed.number], self._live[missed.number]

    # --- rules

    def exchange(self, rules: Iterable[ExpectRule]) -> Counter[str]:
        """Other rules from now on. What is pending of one that is gone is dropped; returns how many, by its name."""
        self._rules = of_one_subject(rules)
        self._types = _types(self._rules)
        names = {rule.name for rule in self._rules}
        gone = [each for each in self._live.values() if each.rule not in names and each.number not in self._missed]
        for pending in gone:
            self._forget(pending)
        return Counter(pending.rule for pending in gone)

    @property
    def counts(self) -> dict[str, int]:
        """How many are pending, by rule."""
        return {rule.name: 0 for rule in self._rules} | +self._counts

    # --- from life to life

    @property
    def live(self) -> Mapping[int, Pending]:
        """All that is to be kept, by number."""
        return self._live

    def snapshot(self) -> dict[str, Any]:
        """What is not in the rows; empty where there is nothing to remember."""
        if not self._live:
            return {}
        return {
            "last": self._last,
            "missed": [
                [number, each.made_at, sorted(each.served), dict(each.attempts)]
                for number, each in self._missed.items()
            ],
        }

    def restore(self, content: Mapping[str, Any], rows: Iterable[Pending]) -> None:
        """Takes over what an earlier life has left."""
        missed = {number: rest for number, *rest in content["missed"]}
        self._last = max(self._last, content["last"])
        for pending in sorted(rows, key=lambda each: each.number):
            self._add(pending)
            if pending.number in missed:
                made_at, served, attempts = missed[pending.number]
                told = self._missed[pending.number] = pending.missed(made_at, self)
                told.served, told.attempts = set(served), dict(attempts)
                self._take_out(pending)


def _types(rules: Iterable[ExpectRule]) -> frozenset[str] | None:
    named = [each.event_types for rule in rules for each in (rule.after, rule.then) if each is not None]
    return None if None in named else frozenset().union(*(each for each in named if each))


def missed_from(at: float, arrived: float, seconds: float) -> float:
    """Through when a partition must be for an expectation to be missed: Event Grid may be late with both events."""
    return max(at + seconds, arrived + min(seconds, _ARRIVAL_SECONDS))


def kept(event: Event) -> tuple[bytes, bool]:
    """The event as it came, or what is kept of one that is too large, and whether it is that."""
    whole = orjson.dumps(event.envelope)
    if len(whole) <= FIRST_BYTES and not is_deeper(event.envelope, _FIRST_DEPTH):
        return whole, False
    rest = {name: value for name, value in event.envelope.items() if name not in ("data", "data_base64")}
    less = orjson.dumps(rest)
    if len(less) <= FIRST_BYTES and not is_deeper(rest, _FIRST_DEPTH):
        return less, True
    short = {
        name: value[:_CHARACTERS]
        for name, value in event.envelope.items()
        if name in _ATTRIBUTES and isinstance(value, str)
    }
    return orjson.dumps(short), True


def _source(first: bytes) -> str | None:
    """The source of a first event, as it came."""
    (event,) = decode(Message(PartitionId(""), 0, "", UnixSeconds(0.0), first))
    return event.source if isinstance(event, Event) else None
