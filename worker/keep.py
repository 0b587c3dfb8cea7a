"""Keeps a partition's state and checkpoint: soon after something settled, and not too often. Decides nothing else."""

import asyncio
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Protocol

import structlog

from worker.checkpoint import Checkpoint
from worker.config import StoreIntervals
from worker.errors import StoreUnavailable
from worker.metrics import Metrics
from worker.ownership import Tenure
from worker.state import PartitionState

_log = structlog.get_logger()

_BEAT_SECONDS = 5.0
_LONGEST_RETRY_SECONDS = 15.0


class Beside(Protocol):
    """What is kept beside the state, in objects that the state names: the memory, and what waits in digests."""

    async def restore(self, state: PartitionState) -> None:
        """Takes over what an earlier generation left."""
        ...

    def snapshot(self) -> Any:
        """What there is at this moment."""
        ...

    async def write(self, taken: Any, /) -> dict[str, Any]:
        """Writes what must stand outside the state; returns fields of the state."""
        ...

    async def saved(self, state: PartitionState) -> None:
        """The state is stored. Raises nothing that a store raises."""
        ...


class Keeper:
    """Writes one partition's state, then its checkpoint, one write at a time."""

    def __init__(
        self,
        tenure: Tenure,
        checkpoint: Checkpoint,
        beside: Sequence[Beside],
        *,
        snapshot: Callable[[], dict[str, Any]],
        intervals: StoreIntervals,
        metrics: Metrics,
    ) -> None:
        self._tenure = tenure
        self._checkpoint = checkpoint
        self._beside = beside
        self._snapshot = snapshot
        self.saved: Callable[[], None] = lambda: None
        """Called when the state of the last snapshot is stored."""
        self._intervals = intervals
        self._metrics = metrics
        self._saving = asyncio.Lock()
        self._changed = asyncio.Event()
        self._checkpoint_due = 0.0
        self._failures = 0
        self._behind_since: float | None = None
        self._saved_of = self._reached_of = -inf
        """Of when the state is that was saved last, and the one that the checkpoint has reached."""

    def changed(self) -> None:
        """Says that there is something to write."""
        self._changed.set()

    async def run(self, beat: Callable[[], None]) -> None:
        """Works until it is cancelled. Raises Fenced when another generation has begun."""
        while True:
            beat()
            self._show()
            if not await self._something_to_write():
                continue
            began = asyncio.get_running_loop().time()
            try:
                if self._changed.is_set():
                    await self.save()
                await self._checkpoint_if_due()
            except StoreUnavailable as error:
                await self._wait_for_store(error)
            else:
                self._failures = 0
                # At once when it was quiet, at most once an interval under load.
                await asyncio.sleep(began + self._intervals.state_interval_seconds - asyncio.get_running_loop().time())

    async def save(self, **changes: Any) -> None:
        """Writes the state as it is now. Raises Fenced or StoreUnavailable."""
        async with self._saving:
            self._changed.clear()
            try:
                # All of one moment: see `recall` and `shelf`.
                of = asyncio.get_running_loop().time()
                fields, taken = self._snapshot(), [each.snapshot() for each in self._beside]
                for each, what in zip(self._beside, taken, strict=True):
                    fields |= await each.write(what)
                await self._tenure.save(**(fields | changes))
                self._saved_of = of
                if not self._checkpoint_behind:
                    self._reached_of = of
            except StoreUnavailable:
                self._changed.set()
                self._metrics.state_writes.labels(self._tenure.partition, "failed").inc()
                raise
            self.saved()
            for each in self._beside:
                await each.saved(self._tenure.state)
        self._metrics.state_writes.labels(self._tenure.partition, "written").inc()
        self._metrics.state_bytes.labels(self._tenure.partition).set(self._tenure.size_bytes)

    async def checkpoint(self) -> None:
        """Moves the checkpoint to the watermark last saved."""
        if self._checkpoint_behind:
            watermark = self._tenure.state.watermark
            assert watermark is not None, "`_checkpoint_behind` says so"
            of = self._saved_of
            await self._checkpoint.move(watermark)
            self._reached_of = of

    @property
    def _checkpoint_behind(self) -> bool:
        watermark = self._tenure.state.watermark
        return watermark is not None and watermark != self._checkpoint.at

    async def _something_to_write(self) -> bool:
        """Waits until the state changed, or a checkpoint that was put off is due."""
        wait_seconds = _BEAT_SECONDS
        if self._checkpoint_behind:
            wait_seconds = min(wait_seconds, max(0.0, self._checkpoint_due - asyncio.get_running_loop().time()))
        try:
            async with asyncio.timeout(wait_seconds):
                await self._changed.wait()
        except TimeoutError:
            return self._checkpoint_behind
        return True

    async def _checkpoint_if_due(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._checkpoint_due:
            await self.checkpoint()
            self._checkpoint_due = now + self._intervals.checkpoint_interval_seconds

    def _show(self) -> None:
        now = asyncio.get_running_loop().time()
        if not self._changed.is_set() and not self._checkpoint_behind:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now
        # Under load something is always behind: what matters is since when the oldest of it is.
        age = 0.0 if self._behind_since is None else now - max(self._behind_since, self._reached_of)
        self._metrics.checkpoint_age.labels(self._tenure.partition).set(age)

    async def _wait_for_store(self, error: StoreUnavailable) -> None:
        self._failures += 1
        if self._failures == 1:
            _log.error("state not saved, deliveries go on", partition=self._tenure.partition, error=str(error))
        await asyncio.sleep(min(_LONGEST_RETRY_SECONDS, 0.5 * 2.0 ** min(self._failures, 10)))
