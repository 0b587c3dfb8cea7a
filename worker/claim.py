"""One claim of one partition by this process: takes it, runs its pipeline, and leaves it so that the next can go on.

Every claim is a generation of its own, also when the same process claims again. What happens to events is the
pipeline's business.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import structlog

from worker.alarms import Alarms
from worker.checkpoint import Checkpoint
from worker.errors import StoreUnavailable
from worker.events import PartitionId, UnixSeconds
from worker.feed import Feed, HubEnd
from worker.keep import Beside, Keeper
from worker.outbox import Outbox
from worker.overdue import Overdue
from worker.owner import PartitionOwner
from worker.ownership import Fenced, Tenure, take
from worker.parts import Parts
from worker.pipeline import Pipeline
from worker.progress import Watermark
from worker.recall import Recall
from worker.replay import Replays
from worker.reset import is_doubt, other_life, stopped
from worker.retry import patiently
from worker.shelf import DIGESTS, EXPECTATIONS, Shelf
from worker.sightings import Sightings
from worker.state import PartitionState
from worker.stores import StateVersion

_log = structlog.get_logger()

_T = TypeVar("_T")

_LAST_SAVE_SECONDS = 2.0
"""What a stop may take beyond the drain; without it, the next owner waits for our silence and repeats a little."""


class Claim:
    """From the moment the SDK says that a partition is ours until nothing of it runs here any more."""

    def __init__(self, partition: PartitionId, claimant: str, parts: Parts) -> None:
        self.partition = partition
        self.done = asyncio.Event()
        """Set when nothing of this claim runs any more."""
        self.tenure: Tenure | None = None
        self.may_read = asyncio.Event()
        """Set once the SDK may open a link: the position is the hub's, as far as is known, or the claim is over."""
        self.reads_from: float | None = None
        """The number behind which the SDK reads, which it was told before the partition was taken; None: the first."""
        self._claimant = claimant
        self._parts = parts
        self._pipeline = Pipeline(partition, parts)
        self.replays = Replays(partition, parts)
        self._outbox = Outbox(partition, parts, self._pipeline.groups)
        self._alarms = Alarms(partition, parts, self._pipeline.groups)
        self.overdue = Overdue(
            partition,
            parts.board,
            self._pipeline.across.signs,
            through=self._pipeline.through.noted,
            submit=lambda missed: self._alarms.tell([missed]),
            metrics=parts.metrics,
            clock=parts.clock,
        )
        self._closing = asyncio.Event()
        self._taking: asyncio.Timeout | None = None
        self._unknown: str | None = None
        """Why the hub is believed not to know the partition's position."""

    @property
    def feed(self) -> Feed:
        """Where the partition's messages go in."""
        return self._pipeline.feed

    @property
    def sightings(self) -> Sightings:
        """Which subjects were seen on the partition."""
        return self._pipeline.sightings

    @property
    def stopped(self) -> str | None:
        """Why nothing is read until an operator or a new configuration says otherwise."""
        return self._pipeline.stopped

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
        if self.closed:
            return
        self._closing.set()
        self.may_read.set()
        self.feed.close()
        if self._taking is not None:
            self._taking.reschedule(asyncio.get_running_loop().time())

    def give_back(self, reason: str) -> None:
        """Closes it for good: the hub does not know its position. What then becomes of it, the next claim decides."""
        self._unknown = reason
        self.close()

    @property
    def wants_hub_end(self) -> bool:
        """Whether it matters now how far the hub is."""
        return self.held and self._pipeline.wants_hub_end

    def hub_end(self, number: int, enqueued_at: float, *, empty: bool, asked_at: float) -> None:
        """How far the hub said it is, since when, and the loop's time when it was asked."""
        seconds = asyncio.get_running_loop().time() - asked_at
        self.feed.end = HubEnd(number, empty, UnixSeconds(self._parts.clock() - seconds))
        if empty:
            self.feed.lag.hub_has_nothing(self.feed.newest)
        else:
            self.feed.lag.hub_has(number, UnixSeconds(enqueued_at))

    def is_of_this_life(self, epoch: int) -> bool:
        """Whether a message of this epoch can follow what was read; else the partition is given back."""
        strange = other_life(self.tenure, epoch) if self.tenure else None
        if strange:
            self.give_back(strange)
        return strange is None

    async def look(self, version: StateVersion | None) -> None:
        """Looks whether somebody asks for the partition, or has taken it; `version` is the state's, as just listed."""
        if self.tenure is None or self.closed:
            return
        try:
            await self.tenure.look(version)
        except Fenced as fence:
            self._fenced(fence)
        if self.tenure.requested or (self._pipeline.stopped and self._may_read_again(self.tenure.state)):
            self.close()  # asked to hand over, or to read again: then the next claim does

    def _may_read_again(self, state: PartitionState) -> bool:
        """Whether an operator has said so, or other rules hold; those of routes.yaml know nothing of positions."""
        if state.stopped is None:
            return True
        return state.stopped_under != self._parts.rules.digest and not is_doubt(state.stopped)

    async def run(self) -> None:
        """Takes the partition, works until it is closed or fenced, and leaves it."""
        try:
            with self._parts.rules.followed_by(self._follow):
                self.tenure = await self._take()
                if self.tenure is not None:
                    await self._work(self.tenure)
        finally:
            self.close()
            for owner in self._owners:
                owner.stop_starting()
            self._parts.health.forget(f"partition {self.partition}")
            self._parts.metrics.forget_partition(self.partition)
            self.done.set()

    def _follow(self) -> None:
        self._pipeline.follow()
        self._outbox.joined()

    async def _take(self) -> Tenure | None:
        """The tenure, unless the claim is closed before, or the partition has to be begun anew."""
        if self.closed:
            return None
        positions = self._parts.positions
        try:
            async with self._until_closed():
                if await self._patiently(lambda: positions.surely_known(self.partition)):
                    self.may_read.set()  # now, so that the link is there when the partition is taken
                tenure = await self._patiently(self._ask)
                if await self._patiently(lambda: positions.hold(tenure, configuration=self._parts.rules.digest)):
                    return tenure
        except TimeoutError:
            _log.info("closed before it was taken", partition=self.partition)
        except Fenced as fence:
            self._fenced(fence)
        return None

    @asynccontextmanager
    async def _until_closed(self) -> AsyncIterator[None]:
        """Raises TimeoutError as soon as the claim is closed."""
        try:
            async with asyncio.timeout(None) as self._taking:
                yield
        finally:
            self._taking = None

    async def _ask(self) -> Tenure:
        limits = self._parts.limits
        return await take(
            self._parts.store,
            self.partition,
            claimant=self._claimant,
            hand_over_seconds=limits.hand_over_seconds,
            drain_seconds=limits.drain_seconds,
        )

    async def _patiently(self, action: Callable[[], Awaitable[_T]]) -> _T:
        return await patiently(action, partial(_log.warning, "partition not taken yet", partition=self.partition))

    async def _work(self, tenure: Tenure) -> None:
        pipeline, parts = self._pipeline, self._parts
        of_this = self.partition, tenure.state.generation
        recall = Recall(*of_this, pipeline.judge, parts.store, offload=parts.offload, metrics=parts.metrics)
        waiting = tuple(
            Shelf(*of_this, kind, what, parts.store, offload=parts.offload, metrics=parts.metrics)
            for kind, what in ((DIGESTS, pipeline.groups), (EXPECTATIONS, pipeline.expectations))
        )
        checkpoint = Checkpoint(tenure, parts.store, parts.metrics)
        if not await self._resume(tenure, checkpoint, (recall, *waiting)):
            if not tenure.lost:
                await self._leave(partial(tenure.save, released=True))
            return
        if not pipeline.stopped:
            self.may_read.set()
        keeper = Keeper(
            tenure,
            checkpoint,
            (recall, *waiting, self.overdue),
            snapshot=self._snapshot,
            intervals=parts.intervals,
            metrics=parts.metrics,
        )
        pipeline.changed = recall.changed = self._outbox.changed = self._alarms.changed = keeper.changed
        pipeline.save = self._outbox.save = self._alarms.save = partial(self._save, keeper)
        self.overdue.changed = keeper.changed
        self.overdue.save = partial(self._save, keeper, patient=False)
        pipeline.joined = self._alarms.joined = self._outbox.joined
        self._outbox.untold = pipeline.untold
        pipeline.missed = self._alarms.missed
        self._alarms.tell(pipeline.expectations.unsettled)
        keeper.saved = pipeline.saved
        if tenure.state.stopped and not pipeline.stopped:
            await self._save(keeper, stopped=None, stopped_under="")  # another configuration reads on
        self._count_change("taken", tenure)
        parts.metrics.partition_takes.labels(self.partition, tenure.taken).inc()
        parts.metrics.begin_partition(self.partition, tenure.state.generation)
        try:
            async with asyncio.TaskGroup() as tasks:
                reading, digests, alarms, *others = (
                    tasks.create_task(work, name=f"partition {self.partition}, {name}")
                    for name, work in (
                        ("reading", pipeline.read()),
                        ("digests", self._outbox.run()),
                        ("alarms", self._alarms.run()),
                        ("keeping state", self._keep(keeper)),
                        ("renewing memory", recall.run()),
                        ("replays", self.replays.run()),
                        ("shared table", self.overdue.run()),
                    )
                )
                await self._closing.wait()
                reading.cancel()
                digests.cancel()
                alarms.cancel()
                keeper.changed()  # so that whoever asked sees the answer
                await self._drain(0 if tenure.lost else parts.limits.drain_seconds)
                for task in others:
                    task.cancel()
            if not tenure.lost:
                first = [keeper.save] if self.overdue.waits_for_state else []
                await self._leave(*first, partial(keeper.save, released=True), partial(self._move, keeper))
        finally:
            self._count_change("lost" if tenure.lost and not tenure.state.released else "given up", tenure)

    @property
    def _owners(self) -> tuple[PartitionOwner, ...]:
        """Whose deliveries are in the lanes."""
        return self._pipeline, self.replays, self._outbox, self._alarms

    async def _drain(self, seconds: float) -> None:
        for owner in self._owners:
            owner.stop_starting()
        drained = await asyncio.gather(*(owner.drain(seconds) for owner in self._owners))
        if not all(drained):
            left = sum(len(owner.attempts) for owner in self._owners)
            _log.warning("drain ended with deliveries under way", partition=self.partition, attempts=left)

    async def _resume(self, tenure: Tenure, checkpoint: Checkpoint, beside: Sequence[Beside]) -> bool:
        """Makes the checkpoint ours and brings back what is known of events; False when there is no time for it."""
        if self.closed:
            return False
        try:
            async with self._until_closed():
                start = await self._patiently(checkpoint.begin)
                if self._begins_too_late(start):
                    return False
                self._pipeline.restore(tenure.state, start)
                for each in beside:
                    await each.restore(tenure.state)
        except TimeoutError:
            _log.info("closed before it was begun", partition=self.partition)
        except Fenced as fence:
            self._fenced(fence)
        return not self.closed

    def _begins_too_late(self, start: Watermark | None) -> bool:
        """Whether the link leaves out what is to be read: the position was moved back after the SDK was told one."""
        if start is None or self.reads_from is None or self.reads_from <= start.sequence_number:
            return False
        _log.info("the position was moved meanwhile, claiming anew", partition=self.partition, start=start)
        return True

    async def _keep(self, keeper: Keeper) -> None:
        try:
            await keeper.run(lambda: self._parts.health.beat(f"partition {self.partition}, state"))
        except Fenced as fence:
            self._fenced(fence)
        finally:
            self._parts.health.forget(f"partition {self.partition}, state")

    async def _save(self, keeper: Keeper, *, patient: bool = True, **changes: Any) -> bool:
        """Writes the state for the pipeline, which cannot go on before; False: it must not."""
        save = partial(keeper.save, **changes)
        say = partial(_log.warning, "waiting for the store", partition=self.partition)
        try:
            await (patiently(save, say) if patient else save())
        except StoreUnavailable:
            return False
        except Fenced as fence:
            self._fenced(fence)
            return False
        return True

    async def _leave(self, *writes: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(_LAST_SAVE_SECONDS):
                for write in writes:
                    await write()
        except (StoreUnavailable, Fenced, TimeoutError) as error:
            reason = str(error) or f"the store took longer than {_LAST_SAVE_SECONDS:g} s"
            _log.warning("partition left without a last save", partition=self.partition, error=reason)

    async def _move(self, keeper: Keeper) -> None:
        """Moves the checkpoint of a partition that is released; who has taken it since has done so already."""
        try:
            await keeper.checkpoint()
        except Fenced as fence:
            _log.debug("the next owner was quicker with the checkpoint", partition=self.partition, reason=str(fence))

    def _snapshot(self) -> dict[str, Any]:
        request = self.tenure.state.request if self.tenure and self.closed else None
        doubt = stopped(self._unknown) if self._unknown else {}
        return {**self._pipeline.snapshot(), "acknowledged": request, **doubt}

    def _fenced(self, fence: Fenced) -> None:
        _log.warning("partition lost to another owner", partition=self.partition, reason=str(fence))
        self.close()

    def _count_change(self, change: str, tenure: Tenure) -> None:
        self._parts.metrics.ownership_changes.labels(self.partition, change.replace(" ", "_")).inc()
        _log.info(f"partition {change}", partition=self.partition, generation=tenure.state.generation)
