"""One claim of one partition by this process: takes it, runs its pipeline, and leaves it so that the next can go on.

Every claim is a generation of its own, also when the same process claims again. What happens to events is the
pipeline's business.
"""

import asyncio
from typing import Any

import structlog

from worker.errors import StoreUnavailable
from worker.events import PartitionId
from worker.feed import Feed
from worker.keep import Keeper
from worker.ownership import Fenced, Tenure, take
from worker.pipeline import Parts, Pipeline
from worker.stores import StateVersion

_log = structlog.get_logger()

_STORE_RETRY_SECONDS = 1.0
_LAST_SAVE_SECONDS = 2.0
"""What a stop may take beyond the drain; without it, the next owner waits for our silence and repeats a little."""


class Claim:
    """From the moment the SDK says that a partition is ours until nothing of it runs here any more."""

    def __init__(self, partition: PartitionId, claimant: str, parts: Parts) -> None:
        self.partition = partition
        self.done = asyncio.Event()
        """Set when nothing of this claim runs any more."""
        self.tenure: Tenure | None = None
        self._claimant = claimant
        self._parts = parts
        self._pipeline = Pipeline(partition, parts)
        self._closing = asyncio.Event()
        self._taking: asyncio.Timeout | None = None

    @property
    def feed(self) -> Feed:
        """Where the partition's messages go in."""
        return self._pipeline.feed

    @property
    def held(self) -> bool:
        """Whether the partition is taken, and not being left."""
        return self.tenure is not None and not self.closed

    @property
    def closed(self) -> bool:
        """Whether it takes in nothing more."""
        return self._closing.is_set()

    def close(self) -> None:
        """Begins the end: no more is read or started, deliveries under way may finish. `done` says when it is over."""
        self._closing.set()
        self.feed.close()
        if self._taking is not None:
            self._taking.reschedule(asyncio.get_running_loop().time())

    async def look(self, version: StateVersion | None) -> None:
        """Looks whether somebody asks for the partition, or has taken it; `version` is the state's, as just listed."""
        if self.tenure is None or self.closed:
            return
        try:
            await self.tenure.look(version)
        except Fenced as fence:
            self._fenced(fence)
        if self.tenure.requested:
            self.close()

    async def run(self) -> None:
        """Takes the partition, works until it is closed or fenced, and leaves it."""
        try:
            self.tenure = await self._take()
            if self.tenure is not None:
                await self._work(self.tenure)
        finally:
            self.close()
            self._pipeline.stop_starting()
            self._parts.health.forget(f"partition {self.partition}")
            self.done.set()

    async def _take(self) -> Tenure | None:
        try:
            async with asyncio.timeout(None) as self._taking:
                while not self.closed:
                    try:
                        return await take(
                            self._parts.store,
                            self.partition,
                            claimant=self._claimant,
                            hand_over_seconds=self._parts.limits.hand_over_seconds,
                            drain_seconds=self._parts.limits.drain_seconds,
                        )
                    except StoreUnavailable as error:
                        _log.warning("partition not taken yet", partition=self.partition, error=str(error))
                        await asyncio.sleep(_STORE_RETRY_SECONDS)
        except TimeoutError:
            _log.info("closed before it was taken", partition=self.partition)
        finally:
            self._taking = None
        return None

    async def _work(self, tenure: Tenure) -> None:
        pipeline, parts = self._pipeline, self._parts
        pipeline.restore(tenure.state)
        keeper = Keeper(
            tenure, parts.store, parts.scope, snapshot=self._snapshot, intervals=parts.intervals, metrics=parts.metrics
        )
        pipeline.changed = keeper.changed
        self._count_change("taken", tenure)
        parts.metrics.generation.labels(self.partition).set(tenure.state.generation)
        try:
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(pipeline.read(), name=f"partition {self.partition}, reading")
                keeping = tasks.create_task(self._keep(keeper), name=f"partition {self.partition}, keeping state")
                await self._closing.wait()
                reading.cancel()
                pipeline.stop_starting()
                keeper.changed()  # so that whoever asked sees the answer
                await pipeline.drain(0 if tenure.lost else parts.limits.drain_seconds)
                keeping.cancel()
            if not tenure.lost:
                await self._leave(keeper)
        finally:
            self._count_change("lost" if tenure.lost else "given up", tenure)
            parts.metrics.forget_partition(self.partition)

    async def _keep(self, keeper: Keeper) -> None:
        try:
            await keeper.run(lambda: self._parts.health.beat(f"partition {self.partition}, state"))
        except Fenced as fence:
            self._fenced(fence)
        finally:
            self._parts.health.forget(f"partition {self.partition}, state")

    async def _leave(self, keeper: Keeper) -> None:
        try:
            async with asyncio.timeout(_LAST_SAVE_SECONDS):
                await keeper.save(released=True)
                await keeper.checkpoint()
        except (StoreUnavailable, Fenced, TimeoutError) as error:
            reason = str(error) or f"the store took longer than {_LAST_SAVE_SECONDS:g} s"
            _log.warning("partition left without a last save", partition=self.partition, error=reason)

    def _snapshot(self) -> dict[str, Any]:
        request = self.tenure.state.request if self.tenure and self.closed else None
        return {**self._pipeline.snapshot(), "acknowledged": request}

    def _fenced(self, fence: Fenced) -> None:
        _log.warning("partition lost to another owner", partition=self.partition, reason=str(fence))
        self.close()

    def _count_change(self, change: str, tenure: Tenure) -> None:
        self._parts.metrics.ownership_changes.labels(self.partition, change.replace(" ", "_")).inc()
        _log.info(f"partition {change}", partition=self.partition, generation=tenure.state.generation)
