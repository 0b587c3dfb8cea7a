"""The Event Hubs SDK's callbacks on one side, one claim per partition on the other.

Its traps are named where they are dealt with. It decides nothing about events, and writes nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from math import inf

import structlog
from azure.eventhub import CloseReason, EventData
from azure.eventhub.aio import EventHubConsumerClient, PartitionContext

from worker import messages
from worker.claim import Claim
from worker.config import SourceSettings
from worker.errors import HubUnavailable, WorkerError
from worker.events import PartitionId
from worker.hub import End, Hub, one_line
from worker.lease import Leases
from worker.link import look
from worker.metrics import Metrics
from worker.room import share
from worker.watchdog import Watchdog

_log = structlog.get_logger()

_HEARTBEAT_SECONDS = 2.0
"""How often the SDK calls back for a quiet partition."""
_SILENCE_SECONDS = 15.0
"""A partition for which it does not call back for so long has no task any more: long enough for a slow one to begin."""
_IDENTIFY_SECONDS = 600.0
"""How often the hub is asked in any case which one it is, and how many partitions it has: it may be given more."""
_NEWS_SECONDS = 30.0
"""A held partition of which nothing was heard for so long is asked for how far it is: else its lag would be a guess."""
_OFFERED_SECONDS = 0.2
"""How often it is looked whether somebody has taken what a stopping process offers."""
_RESTARTS = 3
"""How often the client is replaced for a partition before the process is."""
_CANCEL_SECONDS = 1.0
_LEAST_AHEAD = 300
"""What the SDK asks for by itself. It takes about 3 KB for a message besides its body."""
_BATCH = 300
"""Messages handed over at once, at most."""


_CLAIM: ContextVar[Claim] = ContextVar("claim")
"""For which claim the SDK's task reads that calls back: it opens a partition and reads it in one task."""


class _GivenUp(WorkerError):
    """Raised into the SDK: its only way to give one partition back and have it claimed and read anew."""


class Source:
    """Reads all partitions that the SDK's balancing gives to this process."""

    def __init__(
        self,
        hub: Hub,
        settings: SourceSettings,
        leases: Leases,
        open_claim: Callable[[PartitionId], Claim],
        metrics: Metrics,
        *,
        close_seconds: float,
    ) -> None:
        self._hub = hub
        self._settings = settings
        self._leases = leases
        self._open_claim = open_claim
        self._metrics = metrics
        self._close_seconds = close_seconds
        self._first = None if isinstance(settings.start, str) else inf
        """Behind which number a partition without a checkpoint is read: the first, or one that only the hub knows."""
        self._client: EventHubConsumerClient | None = None
        self._receiving: asyncio.Task[None] | None = None
        self._stopping = False
        self._last_error: dict[str, str] = {}
        self._watchdog = Watchdog(
            silence_seconds=_SILENCE_SECONDS, stall_seconds=settings.stall_seconds, restarts=_RESTARTS
        )
        self._links: dict[PartitionId, object | None] = {}
        """The link last seen of each partition."""
        self._news_at: dict[PartitionId, float] = {}
        """When the hub last said how far a partition is, or was asked."""
        self._relinked = False
        """A link was lost: the next one may be to another hub of the same name."""
        self.claims: dict[PartitionId, Claim] = {}
        """The newest claim of each partition this process has had, closed ones included."""

    async def run(self, reachable: Callable[[], Awaitable[bool]]) -> None:
        """Receives until `stop`. `reachable` waits until the hub answers, and is False when we are stopping.

        Raises WatchdogError when partitions are not read and connecting anew does not help.
        """
        while await reachable() and not self._stopping:  # in this order: the stop may come while we wait
            self._client = self._hub.connect(self._leases)
            self._leases.connected(partial(look, self._client))
            self._receiving = asyncio.create_task(self._receive(self._client), name="receiving")
            try:
                await self._until_to_connect_anew(self._receiving)
            finally:
                if not self._stopping:  # connect anew, or the process fails: leave nothing that goes on claiming
                    self._close_claims()
                    await self._close_client()

    async def hand_over(self) -> None:
        """Before a stop: lets others have the partitions while they are worked on here, each until it is asked for.

        So one that moves pauses as it does when it is balanced, and not until the others look at ownership again.
        Returns when all are left, when nobody is there to take any, or after `Leases.offer_seconds`.
        """
        self._stopping = True
        if not await self._leases.offer():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._leases.offer_seconds):
                while self._working and await self._leases.others():  # noqa: ASYNC110 - the store is asked
                    await asyncio.sleep(_OFFERED_SECONDS)

    @property
    def _working(self) -> bool:
        """Whether there is a partition that is not being left."""
        return not all(claim.closed for claim in self.claims.values())

    def begin_stop(self) -> None:
        """Claims nothing more, and begins to close every claim."""
        self._stopping = True
        self._close_claims()

    async def stop(self) -> None:
        """Closes the client and waits for the claims; bounded by `close_seconds` and a little."""
        await self._close_client()

    def _close_claims(self) -> None:
        self._leases.stop_claiming()
        for claim in self.claims.values():
            claim.close()

    async def _close_client(self) -> None:
        """Measured to work: close the client, then cancel its task.

        The other order leaves ownership behind, and close alone takes another balancing interval to return.
        """
        if self._client is None or self._receiving is None:
            return
        await self._leases.release()  # first, so that each partition moves when it is drained, not when the slowest is
        try:
            async with asyncio.timeout(self._close_seconds):
                await self._client.close()
        except TimeoutError:
            _log.warning("the Event Hubs client did not close in time", seconds=self._close_seconds)
        self._receiving.cancel()
        await asyncio.wait({self._receiving}, timeout=_CANCEL_SECONDS)
        for claim in self.claims.values():
            await claim.done.wait()  # the SDK does not announce every end
        await self._leases.release()

    # --- keeping watch

    async def _until_to_connect_anew(self, receiving: asyncio.Task[None]) -> None:
        """Returns when the hub is to be connected to anew, or when we are stopping."""
        asking = asyncio.create_task(self._keep_asking(), name="asking the hub")
        try:
            while not receiving.done():
                # Not awaited directly: it must not be cancelled with us, the client is closed first.
                await asyncio.wait({receiving, asking}, timeout=_HEARTBEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if self._stopping:
                    await asyncio.wait({receiving})
                    return
                if asking.done():
                    asking.result()
                    self._metrics.restarts.labels("other_hub").inc()
                    return
                if self._in_trouble():
                    return
            await receiving
            if not self._stopping:
                raise HubUnavailable("the Event Hubs client stopped receiving by itself")
        finally:
            while not asking.done():  # the SDK may swallow a cancellation while it waits for an answer
                asking.cancel()
                await asyncio.wait({asking}, timeout=_CANCEL_SECONDS)

    def _in_trouble(self) -> bool:
        """Whether a partition is not read although it should be. Raises WatchdogError when that goes on and on.

        When a hub is gone, the SDK tries again without a pause and without a word; only its callbacks may stop.
        """
        now = asyncio.get_running_loop().time()
        silent, stalled = self._watchdog.silent(now), self._watchdog.stalled(now)
        if silent:
            _log.error("the hub is silent, connecting anew", partitions=silent)
            self._metrics.restarts.labels("silent").inc()
            self._watchdog.restart(silent, "is silent")
        elif stalled:
            seconds = self._settings.stall_seconds
            _log.error("messages wait and do not come, connecting anew", partitions=stalled, seconds=seconds)
            self._metrics.restarts.labels("stalled").inc()
            self._watchdog.restart(stalled, f"has given nothing for {seconds:g} s although the hub has more")
        return bool(silent or stalled)

    async def _keep_asking(self) -> None:
        """Asks how far the quiet partitions are, and which hub it is when links were lost. Ends when it is another."""
        known, identified_at = self._hub.identity, asyncio.get_running_loop().time()
        while True:
            await asyncio.sleep(_HEARTBEAT_SECONDS)
            try:
                old = asyncio.get_running_loop().time() - identified_at >= _IDENTIFY_SECONDS
                if (self._relinked or old) and not self._stopping:
                    if await self._hub.identify() != known:
                        _log.error("another hub has this name now, connecting anew", hub=self._hub.scope.hub)
                        return
                    self._relinked, identified_at = False, asyncio.get_running_loop().time()
                await self._ask()
            except HubUnavailable as error:
                _log.debug("the hub was not asked", error=str(error))  # what is not known is no reason to do anything

    async def _ask(self) -> None:
        asked_at = asyncio.get_running_loop().time()
        wanted = {each.partition for each in self.claims.values() if each.wants_hub_end}
        quiet = self._watchdog.to_ask(asked_at, wanted)
        asked = [*quiet, *self._without_news(asked_at, quiet)]
        ends = await self._hub.ends(asked) if asked else {}
        for partition, end in ends.items():
            if claim := self.claims.get(partition):
                claim.hub_end(end.sequence_number, end.enqueued_at.timestamp(), empty=end.empty, asked_at=asked_at)
            if partition in quiet:
                self._told(partition, end)

    def _without_news(self, now: float, asked: Collection[PartitionId]) -> list[PartitionId]:
        """Whose lag is to be asked for besides `asked`: nothing comes, or what came cannot be taken in."""
        self._news_at.update(dict.fromkeys(asked, now))
        old = [
            each.partition
            for each in self.claims.values()
            if each.held and now - self._news_at.get(each.partition, -inf) >= _NEWS_SECONDS
        ]
        self._news_at.update(dict.fromkeys(old, now))
        return old

    def _told(self, partition: PartitionId, end: End) -> None:
        now = asyncio.get_running_loop().time()
        reads_from = self._watchdog.told(partition, now, end.sequence_number, empty=end.empty)
        if reads_from is not None:
            self.claims[partition].give_back(
                f"it is behind number {reads_from}, and the hub's last number is {end.sequence_number}"
            )

    async def _receive(self, client: EventHubConsumerClient) -> None:
        await client.receive_batch(
            on_event_batch=self._on_event_batch,
            on_partition_initialize=self._on_partition_initialize,
            on_partition_close=self._on_partition_close,
            on_error=self._on_error,
            max_batch_size=_BATCH,
            max_wait_time=_HEARTBEAT_SECONDS,
            prefetch=share(self._settings.prefetch, len(self._hub.partitions), least=_LEAST_AHEAD),
            # Explicit: the SDK's default is "@latest", which skips what comes before a partition's first checkpoint.
            starting_position="-1" if isinstance(self._settings.start, str) else self._settings.start,
            # False, or the checkpointed event itself would come again at each start.
            starting_position_inclusive=False,
            track_last_enqueued_event_properties=True,
        )

    # --- what the SDK calls; none of these raises but to give a partition back

    async def _on_partition_initialize(self, context: PartitionContext) -> None:
        partition = PartitionId(context.partition_id)
        reads_from = self._leases.reads_from(partition)  # before anything else: it may be told another one meanwhile
        await self._close(partition)  # not always announced: a broken link comes back as a new initialize
        now = asyncio.get_running_loop().time
        self._watchdog.opened(partition, now(), reads_from)
        self._links.pop(partition, None)
        self._news_at.pop(partition, None)
        claim = self.claims[partition] = self._open_claim(partition)
        claim.reads_from = self._first if reads_from is None else reads_from
        _CLAIM.set(claim)
        # The SDK opens its link after this: one that the hub refuses is asked for each second.
        await claim.may_read.wait()
        self._watchdog.returned(partition, now())

    async def _on_event_batch(self, context: PartitionContext, events: list[EventData]) -> None:
        claim = self.claims[PartitionId(context.partition_id)]
        if _CLAIM.get(claim) is not claim:
            self._refuse(claim, events)
        self._look(claim.partition)
        if events and not claim.closed:
            await self._hand_over(claim, context, events)
        self._watchdog.returned(claim.partition, asyncio.get_running_loop().time())
        if claim.closed:
            raise _GivenUp(f"partition {context.partition_id} was given up")

    def _refuse(self, claim: Claim, events: list[EventData]) -> None:
        """The SDK still reads for an earlier claim, or reads this one's link in the task of an earlier one.

        It looks up its consumers by partition. What came is not where this claim goes on: taken in, it would hide what
        lies between.
        """
        if events:
            claim.close()
        raise _GivenUp(f"partition {claim.partition} is read for a claim that is over")

    async def _hand_over(self, claim: Claim, context: PartitionContext, events: list[EventData]) -> None:
        # The context's object outlives a claim: it is no token of ours.
        partition = claim.partition
        if not claim.is_of_this_life(messages.epoch(events[-1])):
            return
        batch = [messages.message(partition, event) for event in events]
        last = (context.last_enqueued_event_properties or {}).get("sequence_number")
        newest = max(message.sequence_number for message in batch)
        now = asyncio.get_running_loop().time()
        self._watchdog.called(partition, now, newest, last)
        if last is not None:
            self._news_at[partition] = now
        fresh = await claim.feed.put(batch, last)
        self._metrics.received.labels(partition).inc(fresh)
        self._metrics.repeated.labels(partition).inc(len(batch) - fresh)

    async def _on_partition_close(self, context: PartitionContext, reason: CloseReason) -> None:
        _log.debug("partition closes", partition=context.partition_id, reason=reason.name)
        await self._close(PartitionId(context.partition_id))  # the SDK releases the ownership after this

    def _look(self, partition: PartitionId) -> None:
        link, before = self._leases.heard(partition), self._links.get(partition)
        if before is not None and link is not before:
            self._relinked = True
        self._links[partition] = link

    async def _on_error(self, context: PartitionContext | None, error: Exception) -> None:
        # None: balancing or the store failed, no partition did.
        partition = context.partition_id if context else ""
        if isinstance(error, _GivenUp):
            return
        self._metrics.source_errors.labels(partition).inc()
        text = one_line(error)
        if partition and "offset" in text and "is invalid" in text:
            self.claims[PartitionId(partition)].give_back(text)
        if self._last_error.get(partition) != text:
            self._last_error[partition] = text
            _log.warning("the Event Hubs client reports an error", partition=partition or None, error=text)

    async def _close(self, partition: PartitionId) -> None:
        """Ends the partition's claim and waits: it bounds itself, by drain_seconds and the store's own limits."""
        claim = self.claims.get(partition)
        self._watchdog.closed(partition)
        if claim is not None:
            claim.close()
            await claim.done.wait()
