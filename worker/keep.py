"""Keeps a partition's state and checkpoint: soon after something settled, and not too often. Decides nothing else."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog

from worker.config import StoreIntervals
from worker.errors import StoreUnavailable
from worker.metrics import Metrics
from worker.ownership import Tenure
from worker.stores import HubScope, Store
from worker.stores.layout import sdk_names

if TYPE_CHECKING:
    from worker.progress import Watermark

_log = structlog.get_logger()

_BEAT_SECONDS = 5.0
_LONGEST_RETRY_SECONDS = 15.0


class Keeper:
    """Writes one partition's state, then its checkpoint, one write at a time."""

    def __init__(
        self,
        tenure: Tenure,
        store: Store,
        scope: HubScope,
        *,
        snapshot: Callable[[], dict[str, Any]],
        intervals: StoreIntervals,
        metrics: Metrics,
    ) -> None:
        self._tenure = tenure
        self._store = store
        self._scope = scope
        self._snapshot = snapshot
        self._intervals = intervals
        self._metrics = metrics
        self._changed = asyncio.Event()
        # Not what the state says: the last owner may have died between its state and its checkpoint.
        self._checkpointed: Watermark | None = None
        self._checkpoint_due = 0.0
        self._failures = 0
        self._behind_since: float | None = None

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
        self._changed.clear()
        try:
            await self._tenure.save(**self._snapshot(), **changes)
        except StoreUnavailable:
            self._changed.set()
            self._metrics.state_writes.labels(self._tenure.partition, "failed").inc()
            raise
        self._metrics.state_writes.labels(self._tenure.partition, "written").inc()

    async def checkpoint(self) -> None:
        """Moves the checkpoint to the watermark last saved. After the state, never before: the state is the fence."""
        watermark = self._tenure.state.watermark
        if watermark is not None and watermark != self._checkpointed:
            await self._store.checkpoints.update_checkpoint(
                {
                    **sdk_names(self._scope, self._tenure.partition),
                    "offset": watermark.offset,
                    "sequence_number": watermark.sequence_number,
                }
            )
            self._checkpointed = watermark
            self._metrics.checkpoint_sequence.labels(self._tenure.partition).set(watermark.sequence_number)

    async def _something_to_write(self) -> bool:
        """Waits until the state changed, or a checkpoint that was put off is due."""
        wait_seconds = _BEAT_SECONDS
        if self._tenure.state.watermark != self._checkpointed:
            wait_seconds = min(wait_seconds, max(0.0, self._checkpoint_due - asyncio.get_running_loop().time()))
        try:
            async with asyncio.timeout(wait_seconds):
                await self._changed.wait()
        except TimeoutError:
            return self._tenure.state.watermark != self._checkpointed
        return True

    async def _checkpoint_if_due(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._checkpoint_due:
            await self.checkpoint()
            self._checkpoint_due = now + self._intervals.checkpoint_interval_seconds

    def _show(self) -> None:
        now = asyncio.get_running_loop().time()
        if not self._changed.is_set() and self._tenure.state.watermark == self._checkpointed:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now
        age = 0.0 if self._behind_since is None else now - self._behind_since
        self._metrics.checkpoint_age.labels(self._tenure.partition).set(age)

    async def _wait_for_store(self, error: StoreUnavailable) -> None:
        self._failures += 1
        if self._failures == 1:
            _log.error("state not saved, deliveries go on", partition=self._tenure.partition, error=str(error))
        await asyncio.sleep(min(_LONGEST_RETRY_SECONDS, 0.5 * 2.0 ** min(self._failures, 10)))
