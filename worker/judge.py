"""Judges each event once: new, a copy, a variant, late. What was judged stands when the event is read again.

An event that was found to be in its turn must not turn late, nor become a copy of a later one, because a process died
before it was settled. So what was found of the unsettled is part of the partition state; of an unsettled event at or
below the highest number read, what is not said there was in its turn and new.

Pure: what a verdict means for a route, and when the state is written, is decided elsewhere.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from worker.disorder import AutoWindow, Overtakers
from worker.duplicates import Duplicates, Verdict
from worker.events import Placed, Position, Released, UnixSeconds
from worker.memory import ROWS_AT_ONCE, Rows
from worker.order import Orderer
from worker.state import LateVerdict, PartitionState
from worker.unchanged import LastValues

_MEMORY_EVENTS = 200_000
_MEMORY_VALUES = 200_000
_NONE = -1
"""Below every sequence number."""


class Mark(NamedTuple):
    """A moment of the memory, to ask later what has come since."""

    releases: int = 0
    changes: int = 0
    values: int = 0


class Judge:
    """The memory of one partition, and the verdicts on its unsettled events."""

    def __init__(self, *, window_seconds: float | AutoWindow, memory_seconds: float) -> None:
        self.auto: AutoWindow | None = None
        """What the window is learnt by; None where it is fixed."""
        if isinstance(window_seconds, AutoWindow):
            self.auto, window_seconds = window_seconds, window_seconds.seconds
            self._overtakers = Overtakers(seconds=self.auto.max_seconds)
        self.orderer = Orderer(window_seconds=window_seconds, memory_seconds=memory_seconds)
        self._duplicates = Duplicates(memory_seconds=memory_seconds, limit=_MEMORY_EVENTS)
        self.values = LastValues(memory_seconds=memory_seconds, limit=_MEMORY_VALUES)
        """What sinks have of subjects, for routes that say `changed`."""
        self._variants: set[Position] = set()
        self._judged_through = _NONE

    def see(self, placed: Placed, *, now: UnixSeconds) -> Verdict:
        """Whether the event was seen before. Of a copy nothing is kept here: it is settled at once."""
        position, earlier = placed.position, None
        if self._judged(position):
            earlier = Verdict.VARIANT if position in self._variants else Verdict.NEW
        verdict = self._duplicates.see(placed.duplicate_key, placed.digest, position, now=now, earlier=earlier)
        if verdict is Verdict.VARIANT:
            self._variants.add(position)
        return verdict

    def add(self, placed: Placed, *, now: UnixSeconds) -> Released | None:
        """Holds an event that was seen and is no copy, or returns it when it is late, to be handled at once."""
        position = placed.position
        digest = placed.digest if position in self._variants else ""
        in_order = self._judged(position) and position not in self.orderer.late
        late = self.orderer.add(placed, now=now, data_digest=digest, in_order=in_order)
        if self.auto:
            self._learn(self.auto, placed, now)
        return late

    def _learn(self, auto: AutoWindow, placed: Placed, now: UnixSeconds) -> None:
        """Of what is read again an earlier life has learnt already; others may be late to it."""
        event, position = placed.event, placed.position
        delay = self._overtakers.delay(event.key, event.order_key, now=now)
        if not self._judged(position):
            auto.arrived(delay, late=position in self.orderer.late, now=now)
            self.orderer.window_seconds = auto.seconds

    def settled(self, position: Position, key: bytes, digest: str) -> None:
        """The event that was seen there is done with: from now on its copies may be recognised in a later life too."""
        self.orderer.settled(position)
        self._variants.discard(position)
        self._duplicates.settled(key, digest)

    def _judged(self, position: Position) -> bool:
        return position.sequence_number <= self._judged_through

    # --- from life to life

    def snapshot(self, watermark: int | None) -> dict[str, Any]:
        """Fields of the partition state. What is at or below the watermark is settled: the hub may have dropped it."""
        through = _NONE if watermark is None else watermark
        late = self.orderer.late
        for each in [each for each in late if each.sequence_number <= through]:
            del late[each]
        self._variants = {each for each in self._variants if each.sequence_number > through}
        return {
            "late": [LateVerdict(position, late_by_ms) for position, late_by_ms in late.items()],
            "variants": sorted(self._variants),
            **({"disorder": self.auto.snapshot()} if self.auto else {}),
        }

    def restore(self, state: PartitionState) -> None:
        """Takes over the verdicts of an earlier life; its memory comes in slices, by `remember`."""
        self.orderer.late = dict(state.late)
        self._variants = set(state.variants)
        read = state.progress["read"] if state.progress else None
        self._judged_through = _NONE if read is None else read
        if self.auto and state.disorder:
            self.auto.restore(state.disorder)
            self.orderer.window_seconds = self.auto.seconds

    @property
    def mark(self) -> Mark:
        """Now."""
        return Mark(self.orderer.releases, self._duplicates.changes, self.values.changes)

    def since(self, mark: Mark) -> Rows:
        """What has come to the memory since then."""
        return Rows(
            self.orderer.remembered(since=mark.releases),
            self._duplicates.settled_keys(since=mark.changes),
            self.values.rows(since=mark.values),
        )

    def walk(self) -> Iterator[Rows]:
        """All of the memory in slices; events may go on between two of them."""
        subjects, events, values = self.orderer.walk(), self._duplicates.walk(), self.values.walk()
        while some := list(islice(subjects, ROWS_AT_ONCE)):
            yield Rows(subjects=some)
        while others := list(islice(events, ROWS_AT_ONCE)):
            yield Rows(events=others)
        while those := list(islice(values, ROWS_AT_ONCE)):
            yield Rows(values=those)

    def remember(self, rows: Rows) -> None:
        """Takes over a slice of an earlier life's memory."""
        self.orderer.restore(rows.subjects)
        self._duplicates.restore(rows.events)
        self.values.restore(rows.values)
