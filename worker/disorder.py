"""How far the events of a partition come out of order, and how long they should wait because of it: the window `auto`.

An event is late when one of its subject with a larger key came earlier by the window or more. So its *delay* is
measured, from the arrival of the first event that overtook it to its own, and of many delays is learnt which window
leaves no more than a share of events late. What comes after the longest allowed window says nothing about that: no
window would have waited for it, and Event Grid tries again for a day.

No clock, no I/O. `now` is the partition's clock, so that a backlog teaches the same at full speed.
"""

from collections import deque
from math import exp, inf, log
from typing import Any

from worker.events import OrderKey, OrderKind, Subject, UnixSeconds

START_SECONDS = 5.0
"""Where a partition begins of which nothing is known: the default of a fixed window."""
SHRINK_PER_MINUTE = 0.1
"""Disorder comes back: what was learnt from one burst serves for the next."""
_AIM = 0.6
"""Share of the target that is aimed at: the rest is for the time until a growing disorder is noticed."""
_HEADROOM = 1.1
"""A window is so much longer than what was seen: where disorder grows, the next delay is longer than the last."""
_MEMORY_TARGETS = 10
"""What is remembered: about the events among which the target allows so many late ones, 10,000 at 0.1 %. With more, a
burst is noticed later and remembered for longer: both cost more than the share becomes exact."""
_FADES = 20
"""In so many steps the memory renews itself."""
_LEAST_SECONDS = 0.01
"""Shorter delays are none: no window is that short."""
_RATIO = 1.05
"""From one bucket to the next: so exact are delays remembered."""
_LOOK_SECONDS = 1.0
"""How often the window may shrink."""
_STEPS = 50_000
"""How many arrivals are looked back upon. As many as may be held (`limits.held`): a window cannot be longer either."""


class Overtakers:
    """The arrivals of each subject that were newer than all before: what overtook a later one is among them."""

    def __init__(self, *, seconds: float, at_most: int = _STEPS) -> None:
        self._seconds = seconds
        self._at_most = at_most
        self._subjects: dict[tuple[Subject, OrderKind], _Steps] = {}
        # The same steps over all subjects, oldest first.
        self._ages: deque[tuple[UnixSeconds, tuple[Subject, OrderKind]]] = deque()

    def delay(self, subject: Subject, key: OrderKey, *, now: UnixSeconds) -> float:
        """Notes an arrival, and gives its delay: 0 in order, infinite when that is longer than is looked back."""
        self._forget(now)
        kind, text = key
        if text is None:
            return 0.0
        place = subject, kind
        steps = self._subjects.get(place)
        if steps is None:
            self._subjects[place] = steps = _Steps()
        elif text <= steps.newest:
            return steps.delay(text, now)
        steps.add(text, now)
        self._ages.append((now, place))
        return 0.0

    def _forget(self, now: UnixSeconds) -> None:
        ages = self._ages
        while ages and (len(ages) > self._at_most or ages[0][0] <= now - self._seconds):
            place = ages.popleft()[1]
            if self._subjects[place].forget_first():
                del self._subjects[place]


class _Steps:
    """One subject's: keys and times both grow."""

    __slots__ = ("_forgotten", "_steps")

    def __init__(self) -> None:
        self._steps: deque[tuple[str, UnixSeconds]] = deque()
        self._forgotten = ""

    @property
    def newest(self) -> str:
        return self._steps[-1][0]

    def add(self, text: str, now: UnixSeconds) -> None:
        self._steps.append((text, now))

    def delay(self, text: str, now: UnixSeconds) -> float:
        if text < self._forgotten:
            return inf
        first = now
        for other, arrived_at in reversed(self._steps):
            if other <= text:
                break
            first = arrived_at
        return now - first

    def forget_first(self) -> bool:
        """Whether that was the last."""
        self._forgotten = self._steps.popleft()[0]
        return not self._steps


class AutoWindow:
    """Learns from delays how long to wait: quick to grow, slow to shrink, and one event alone changes nothing."""

    def __init__(self, *, late_target: float, min_seconds: float, max_seconds: float) -> None:
        self.max_seconds = max_seconds
        self._min_seconds = min_seconds
        self._aim = _AIM * late_target
        self._enough = 1 / late_target
        self._memory = _MEMORY_TARGETS / late_target
        self._seconds = self._within(START_SECONDS)
        # Of the events in memory, each weighing less with every step that it fades: all, the late ones, and how many
        # delays were of which length, on a scale of logarithms.
        self._events = 0.0
        self._late = 0.0
        self._delays: dict[int, float] = {}
        self._unfaded = 0
        self._looked_at: UnixSeconds | None = None

    @property
    def seconds(self) -> float:
        """How long an event should wait."""
        return self._seconds

    @property
    def late_share(self) -> float:
        """The late ones among the events in memory."""
        return self._late / self._events if self._events else 0.0

    def arrived(self, delay: float, *, late: bool, now: UnixSeconds) -> None:
        """Learns from one arrival. `late` is what became of it, whatever its delay."""
        self._events += 1
        self._late += late
        if _LEAST_SECONDS <= delay < self.max_seconds:
            bucket = _bucket(delay)
            self._delays[bucket] = self._delays.get(bucket, 0.0) + 1
            if delay >= self._seconds:
                self._grow(now)
        self._unfaded += 1
        if self._unfaded * _FADES >= self._memory:
            self._fade()
        if self._looked_at is None:
            self._looked_at = now
        elif now - self._looked_at >= _LOOK_SECONDS:
            self._shrink(now - self._looked_at)
            self._looked_at = now

    def snapshot(self) -> dict[str, Any]:
        """What a later life goes on from, as JSON."""
        return {
            "seconds": round(self._seconds, 3),
            "events": round(self._events, 3),
            "late": round(self._late, 3),
            "delays": [[bucket, round(weight, 3)] for bucket, weight in sorted(self._delays.items())],
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Takes over what an earlier life learnt, within the bounds of now."""
        self._seconds = self._within(saved["seconds"])
        self._events = saved["events"]
        self._late = saved["late"]
        self._delays = {bucket: weight for bucket, weight in saved["delays"] if _end(bucket - 1) < self.max_seconds}

    def _grow(self, now: UnixSeconds) -> None:
        wanted = self._wanted()
        if wanted > self._seconds:
            self._seconds = wanted
            self._looked_at = now

    def _shrink(self, elapsed: float) -> None:
        """Less, by what the time allows. From too few events nothing can be told: then it stays as it is."""
        if self._events >= self._enough:
            least = self._seconds * exp(log(1 - SHRINK_PER_MINUTE) * elapsed / 60)
            self._seconds = min(self._seconds, max(self._within(least), self._wanted()))

    def _wanted(self) -> float:
        """The shortest window that leaves no more late than the aim allows, and one event in any case."""
        allowed = max(1.0, self._aim * self._events)
        longer = 0.0
        for bucket in sorted(self._delays, reverse=True):
            longer += self._delays[bucket]
            if longer > allowed:
                return self._within(_HEADROOM * _end(bucket))
        return self._min_seconds

    def _fade(self) -> None:
        kept = 1 - 1 / _FADES
        self._unfaded = 0
        self._events *= kept
        self._late *= kept
        self._delays = {bucket: weight * kept for bucket, weight in self._delays.items() if weight > 0.001}

    def _within(self, seconds: float) -> float:
        return min(max(seconds, self._min_seconds), self.max_seconds)


def _bucket(delay: float) -> int:
    return int(log(delay / _LEAST_SECONDS) / log(_RATIO))


def _end(bucket: int) -> float:
    """The delays of a bucket are below it."""
    return _LEAST_SECONDS * float(_RATIO ** (bucket + 1))
