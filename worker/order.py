"""Puts the events of one subject back in order, and says which came too late for that.

Every event is held for a window, counted from its arrival; its length may change meanwhile. When the first of a
subject's events falls due, those with smaller keys go before it, and nothing waits for a number that may never come:
sequencers have gaps. The clock is whatever the caller passes as `now`, the enqueued time of the partition, so a backlog
is ordered at full speed.

Keys of different kinds are never compared: each kind of a subject is ordered by itself, and the kinds take turns as
they fall due. An event with a smaller key than its subject's newest released one is late and comes back at once.

No clock, no tasks, no I/O. What late means for a route, and how much may be held, is decided elsewhere.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from math import inf
from typing import NamedTuple

from worker.events import OrderKey, OrderKind, Placed, Position, Released, Subject, UnixSeconds


class Remembered(NamedTuple):
    """The newest event released for a subject: what later ones are measured against, also after a restart."""

    subject: Subject
    key: OrderKey
    released_at: UnixSeconds


_Heap = list[tuple[str, int, Placed, str]]
"""Held events of one subject and one kind of key: by key, then by arrival; last the digest of the data."""


class _Subject:
    """What is held of a subject, and the newest of it that was released."""

    __slots__ = ("again", "first_kind", "heap", "key", "kind", "others", "release", "released_at", "text")

    def __init__(self, key: Subject, first_kind: OrderKind) -> None:
        self.key = key
        self.first_kind = first_kind
        self.heap: _Heap = []
        """Of the first kind of key that its events had: nearly always the only one."""
        self.others: dict[OrderKind, _Heap] | None = None
        """Of the other kinds; None while there was none."""
        self.again = 0
        """How many of the held are read again: they were released in an earlier life, and must not be overtaken."""
        self.kind: OrderKind | None = None
        """Of the newest released; None while none is remembered, and then the next three mean nothing."""
        self.text = ""
        self.released_at = UnixSeconds(0.0)
        self.release = 0

    def heap_of(self, kind: OrderKind) -> _Heap:
        """Where events with this kind of key wait."""
        if kind is self.first_kind:
            return self.heap
        if self.others is None:
            self.others = {}
        return self.others.setdefault(kind, [])

    @property
    def holds(self) -> bool:
        """Whether anything of it is held."""
        return bool(self.heap) or (self.others is not None and any(self.others.values()))


def _row(subject: _Subject) -> Remembered:
    assert subject.kind is not None, "whoever is forgotten leaves `_remembered`"
    key = OrderKey(subject.kind, None if subject.kind is OrderKind.ARRIVAL else subject.text)
    return Remembered(subject.key, key, subject.released_at)


_FEW = 1_000
"""Below this many, entries whose event has left are not worth a sweep."""


class Orderer:
    """The held events of one partition and the memory of what was released.

    `now` may be any clock that goes forward; where it steps back, it is taken to stand still.
    """

    def __init__(self, *, window_seconds: float, memory_seconds: float, memory_subjects: int = 200_000) -> None:
        self.window_seconds = window_seconds
        """How long an event is held. May be changed, and counts for what is held already: all fall due later or sooner,
        each still after those that came before it, so that a change puts nothing out of order."""
        self.releases = 0
        """How many times the memory has changed: the mark for `remembered`."""
        self.released_early = 0
        """How many events left before the window was over, because there was no room."""
        self.kind_changes = 0
        """How often a subject went on with keys of another kind, so that lateness could not be judged."""
        self.late: dict[Position, int] = {}
        """By how many milliseconds events were found late, in this life or an earlier one, until `settled`."""
        self._memory_seconds = memory_seconds
        self._memory_subjects = memory_subjects
        self._clock = UnixSeconds(0.0)
        self._arrivals = 0
        self._held = 0
        self._again: set[int] = set()
        # Every subject of which something is held or remembered.
        self._subjects: dict[Subject, _Subject] = {}
        # Those remembered, oldest release first, so that forgetting is taking from the front.
        self._remembered: OrderedDict[Subject, _Subject] = OrderedDict()
        # One entry per arrival: when that was, its number, its key and where it waits. An event that leaves with
        # another one's turn leaves its entry behind and its number in `_gone`; the first entry's event is always here.
        self._due: deque[tuple[float, int, str, OrderKind, _Subject]] = deque()
        self._gone: set[int] = set()

    @property
    def held(self) -> int:
        """How many events are in here."""
        return self._held

    def next_due(self) -> UnixSeconds | None:
        """When the next event falls due; None while nothing is held."""
        return UnixSeconds(self._due[0][0] + self.window_seconds) if self._due else None

    def oldest_enqueued(self) -> UnixSeconds | None:
        """When the hub had the oldest of the held; None while nothing is held. Looks through all of its subject."""
        for _, arrival, _, kind, subject in self._due:
            for _, other, placed, _ in subject.heap_of(kind):
                if other == arrival:
                    return placed.message.enqueued_at
        return None  # entries without an event go by: those that left with another's turn, or when there was no room

    def add(
        self, placed: Placed, *, now: UnixSeconds, data_digest: str = "", in_order: bool = False
    ) -> Released | None:
        """Holds the event and returns None, or returns it when it is late, to be handled at once.

        `in_order` says that an earlier life of the partition found it not late: that stands, whatever is remembered.
        A late event is held too while such ones of its subject are: it comes after what it was late to.
        """
        now = self._move_clock(now)
        event = placed.event
        key = event.key
        kind, value = event.order_key
        self._arrivals = arrival = self._arrivals + 1
        # Arrival order as a text is a key like the others: always larger than the last, so never late.
        text = f"{arrival:016x}" if value is None else value
        subject = self._subjects.get(key)
        if subject is None:
            self._subjects[key] = subject = _Subject(key, kind)
        elif text < subject.text and kind is subject.kind and not in_order and not self._too_old(subject):
            self.late.setdefault(placed.position, max(0, round((now - subject.released_at) * 1000)))
        if self.late and placed.position in self.late:
            if not subject.again:
                return Released(placed, self.late[placed.position], data_digest)
            text = max(text, subject.text)
        elif in_order:
            self._again.add(arrival)
            subject.again += 1
        heap = subject.heap if kind is subject.first_kind else subject.heap_of(kind)
        heappush(heap, (text, arrival, placed, data_digest))
        self._due.append((now, arrival, text, kind, subject))
        self._held += 1
        return None

    def due(self, *, now: UnixSeconds, at_most: int) -> list[Released]:
        """Takes out what is due, in order; what exceeds `at_most` stays due."""
        now = self._move_clock(now)
        return self._release(until=now, room=at_most)

    def release_early(self, *, now: UnixSeconds, at_most: int) -> list[Released]:
        """Takes out up to `at_most` events to make room: what is due, then the oldest and what must go before it."""
        released = self.due(now=now, at_most=at_most)
        early = self._release(until=inf, room=at_most - len(released))
        self.released_early += len(early)
        return released + early

    def settled(self, position: Position) -> None:
        """The event is done with: whether it was late matters no more."""
        self.late.pop(position, None)

    def remembered(self, *, since: int = 0) -> list[Remembered]:
        """The newest of each subject, oldest release first; with `since`, only those after that value of `releases`."""
        found = []
        for subject in reversed(self._remembered.values()):
            if subject.release <= since:
                break
            found.append(_row(subject))
        found.reverse()
        return found

    def walk(self) -> Iterator[Remembered]:
        """All of `remembered`, while events go on: what changes meanwhile is given as it was or as it is."""
        for key in list(self._remembered):
            subject = self._remembered.get(key)
            if subject is not None:
                yield _row(subject)

    def restore(self, memory: Iterable[Remembered]) -> None:
        """Takes over what `remembered` gave in an earlier life; of one subject the last counts."""
        for key, (kind, value), released_at in memory:
            subject = self._subjects.setdefault(key, _Subject(key, kind))
            self._note(subject, kind, value or "", released_at)

    def _move_clock(self, now: UnixSeconds) -> UnixSeconds:
        if now < self._clock:
            return self._clock
        self._clock = now
        return now

    def _release(self, *, until: float, room: int) -> list[Released]:
        """Serves the entries due by `until`, oldest first: each event with what its queue holds up to its key."""
        due, gone, again, late = self._due, self._gone, self._again, self.late
        window_seconds, released = self.window_seconds, list[Released]()
        while due and room > 0:
            arrived_at, arrival, text, kind, subject = due[0]
            if arrived_at + window_seconds > until:
                break
            heap, last, served = subject.heap_of(kind), text, False
            while room and not served:
                last, other, placed, data_digest = heappop(heap)
                late_by_ms = late.get(placed.position) if late else None
                released.append(Released(placed, late_by_ms, data_digest, bool(heap)))
                room -= 1
                if other != arrival:
                    gone.add(other)
                if again and other in again:
                    again.remove(other)
                    subject.again -= 1
                served = not heap or heap[0][0] > text
            self._remember(subject, kind, last)
            if served:  # else no room: the entry stays first, and its rest comes next time
                due.popleft()
                if gone:
                    self._drop_gone()
        self._held -= len(released)
        return released

    def _drop_gone(self) -> None:
        """Makes the first entry one whose event is here, and keeps the others in proportion to what is held."""
        due, gone = self._due, self._gone
        while gone and due[0][1] in gone:
            gone.remove(due.popleft()[1])
        if len(gone) > _FEW and 2 * len(gone) > len(due):
            here = [entry for entry in due if entry[1] not in gone]
            due.clear()
            due.extend(here)
            gone.clear()

    def _too_old(self, subject: _Subject) -> bool:
        return self._clock - subject.released_at > self._memory_seconds

    def _remember(self, subject: _Subject, kind: OrderKind, text: str) -> None:
        """Makes the key just released its subject's newest."""
        if kind is not subject.kind:
            if subject.kind is not None and not self._too_old(subject):
                self.kind_changes += 1
        elif text < subject.text and not self._too_old(subject):
            return  # read again after a restart: the newest was released in an earlier life
        self._note(subject, kind, text, self._clock)

    def _note(self, subject: _Subject, kind: OrderKind, text: str, released_at: UnixSeconds) -> None:
        new = subject.kind is None
        self.releases = subject.release = self.releases + 1
        subject.kind = kind
        subject.text = text
        subject.released_at = released_at
        if new:
            self._remembered[subject.key] = subject
            self._forget_oldest()
        else:
            self._remembered.move_to_end(subject.key)

    def _forget_oldest(self) -> None:
        """Keeps the memory within its bounds; called once per new subject, so it takes out about one."""
        remembered = self._remembered
        while remembered and (
            len(remembered) > self._memory_subjects or self._too_old(next(iter(remembered.values())))
        ):
            key, subject = remembered.popitem(last=False)
            subject.kind = None
            if not subject.holds:
                del self._subjects[key]
