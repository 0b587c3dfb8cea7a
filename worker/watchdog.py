"""Tells a partition that is not read from one where nothing happens. It decides; `source` asks and connects anew.

A partition is *silent* when the SDK no longer calls back for it: its tasks are stuck or gone. It *stalls* when the hub
has more than has come, and nothing comes, although we wait for it: heartbeats pass, messages do not. While a callback
is at work the partition is full, and neither. Time is passed in.
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass

from worker.errors import WatchdogError
from worker.events import PartitionId

_FIRST_QUESTION_SECONDS = 5.0
"""The first question for a partition that gives nothing when it was opened: the hub may not know its position."""


@dataclass(slots=True)
class _Partition:
    heard_at: float
    quiet_since: float
    """Since when we wait for a message."""
    busy: bool = True
    """A callback is at work."""
    last: int | None = None
    """The last number that came, or from behind which we read; None while neither is known."""
    enqueued: int | None = None
    """The hub's highest number, as far as we know."""
    empty: bool = False
    """The hub had nothing to read when it was asked."""
    behind_since: float | None = None
    """Since when we know that the hub has more."""
    asked_at: float | None = None
    asked_from: int | None = None
    """`last` when the hub was asked."""

    def compare(self, now: float) -> bool:
        """Whether the hub has more than has come."""
        behind = self.last is not None and self.enqueued is not None and not self.empty and self.last < self.enqueued
        if not behind:
            self.behind_since = None
        elif self.behind_since is None:
            self.behind_since = now
        return behind


class Watchdog:
    """Watches the partitions of one client, and remembers how often it had to be replaced."""

    def __init__(self, *, silence_seconds: float, stall_seconds: float, restarts: int) -> None:
        self._silence_seconds = silence_seconds
        self._stall_seconds = stall_seconds
        self._restarts = restarts
        self._partitions: dict[PartitionId, _Partition] = {}
        self._strikes: dict[PartitionId, int] = {}

    def opened(self, partition: PartitionId, now: float, reads_from: int | None) -> None:
        """A callback begins with which the SDK opens a partition, behind this number if it is known."""
        self._partitions[partition] = _Partition(heard_at=now, quiet_since=now, last=reads_from)

    def closed(self, partition: PartitionId) -> None:
        """It is not ours any more."""
        self._partitions.pop(partition, None)

    def called(self, partition: PartitionId, now: float, newest: int, enqueued: int | None) -> None:
        """A callback begins with messages; the highest number among them, and the hub's where it is said."""
        watched = self._partitions.get(partition)
        if watched is None:
            return
        watched.busy = True
        watched.last = max(newest, newest if watched.last is None else watched.last)
        if enqueued is not None:
            watched.enqueued, watched.empty = enqueued, False
        watched.compare(now)
        self._strikes.pop(partition, None)

    def returned(self, partition: PartitionId, now: float) -> None:
        """A callback ended; from now on we wait for a message again."""
        watched = self._partitions.get(partition)
        if watched is None:
            return
        if watched.busy:
            watched.quiet_since = now
        watched.heard_at, watched.busy = now, False

    def to_ask(self, now: float, wanted: Container[PartitionId] = ()) -> list[PartitionId]:
        """Those for which the hub must be asked how far it is; once in each interval, and once early.

        Of `wanted` ones somebody waits for the answer: they are asked for more often.
        """
        asked = []
        for name, watched in self._partitions.items():
            patience, since = self._stall_seconds, watched.quiet_since
            if watched.asked_at is None or name in wanted:
                patience = min(patience, _FIRST_QUESTION_SECONDS)
            if watched.asked_at is not None:
                since = max(since, watched.asked_at)
            if not watched.busy and now - since >= patience:
                watched.asked_at, watched.asked_from = now, watched.last
                asked.append(name)
        return asked

    def told(self, partition: PartitionId, now: float, enqueued: int, *, empty: bool) -> int | None:
        """What the hub answered: its highest number, and whether there is nothing to read, if only by now.

        Returns where we read from when that is behind the hub's end: then it is the position of another hub.
        """
        watched = self._partitions.get(partition)
        if watched is None or watched.asked_at is None:
            return None
        watched.enqueued, watched.empty = enqueued, empty
        if not watched.compare(now):
            self._strikes.pop(partition, None)
        asked_from = watched.asked_from
        return asked_from if asked_from is not None and enqueued < asked_from else None

    def silent(self, now: float) -> list[PartitionId]:
        """Those for which the SDK has not called back for too long."""
        return sorted(
            name
            for name, watched in self._partitions.items()
            if not watched.busy and now - watched.heard_at > self._silence_seconds
        )

    def stalled(self, now: float) -> list[PartitionId]:
        """Those that give nothing although the hub has more, for as long as both has been so."""
        return sorted(
            name
            for name, watched in self._partitions.items()
            if not watched.busy
            and watched.behind_since is not None
            and now - max(watched.quiet_since, watched.behind_since) >= self._stall_seconds
        )

    def restart(self, partitions: Iterable[PartitionId], what: str) -> None:
        """The client is replaced because of these. Raises WatchdogError when that has not helped often enough."""
        self._partitions.clear()
        for partition in partitions:
            strikes = self._strikes[partition] = self._strikes.get(partition, 0) + 1
            if strikes > self._restarts:
                raise WatchdogError(
                    f"partition {partition} {what}, and connecting anew {self._restarts} times has not helped: "
                    "the process ends, so that it is started anew"
                )
