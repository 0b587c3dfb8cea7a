"""The Event Hubs SDK's callbacks on one side, one claim per partition on the other.

Its traps are named where they are dealt with. It decides nothing about events, and writes nothing.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import structlog
from azure.eventhub import CloseReason, EventData
from azure.eventhub.aio import EventHubConsumerClient, PartitionContext
from azure.eventhub.amqp import AmqpMessageBodyType

from worker.claim import Claim
from worker.config import SourceSettings
from worker.errors import HubUnavailable, WorkerError
from worker.events import Message, PartitionId, UnixSeconds
from worker.hub import Hub, one_line
from worker.lease import Leases
from worker.metrics import Metrics

_log = structlog.get_logger()

_HEARTBEAT_SECONDS = 2.0
"""How often the SDK calls back for a quiet partition."""
_SILENCE_SECONDS = 15.0
"""A partition for which it does not call back for so long has no link: long enough for a slow one to open."""
_CANCEL_SECONDS = 1.0
_BATCH = 300
"""Messages handed over at once, at most."""


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
        self._client: EventHubConsumerClient | None = None
        self._receiving: asyncio.Task[None] | None = None
        self._stopping = False
        self._last_error: dict[str, str] = {}
        self._heard_at: dict[PartitionId, float] = {}
        """When the SDK last called back; a callback at work counts as just now. Says something of open claims only."""
        self.claims: dict[PartitionId, Claim] = {}
        """The newest claim of each partition this process has had, closed ones included."""

    async def run(self, reachable: Callable[[], Awaitable[bool]]) -> None:
        """Receives until `stop`. `reachable` waits until the hub answers, and is False when we are stopping."""
        while await reachable() and not self._stopping:  # in this order: the stop may come while we wait
            self._leases.claim_again()
            self._client = self._hub.connect(self._leases)
            self._receiving = asyncio.create_task(self._receive(self._client), name="receiving")
            try:
                await self._until_silent(self._receiving)
            finally:
                if not self._stopping:  # connect anew, or the process fails: leave nothing that goes on claiming
                    self._close_claims()
                    await self._close_client()

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

    async def _until_silent(self, receiving: asyncio.Task[None]) -> None:
        """Returns when the hub is to be connected to anew, or when we are stopping.

        When a hub is gone, the SDK tries again without a pause and without a word; only its callbacks stop.
        """
        while not receiving.done():
            # Not awaited directly: it must not be cancelled with us, the client is closed first.
            await asyncio.wait({receiving}, timeout=_HEARTBEAT_SECONDS)
            now = asyncio.get_running_loop().time()
            open_claims = [each for each, claim in self.claims.items() if not claim.closed]
            silent = [each for each in open_claims if now - self._heard_at[each] > _SILENCE_SECONDS]
            if silent and not self._stopping:
                _log.error("the hub is silent, connecting anew", partitions=sorted(silent))
                return
        if not self._stopping:
            await receiving
            raise HubUnavailable("the Event Hubs client stopped receiving by itself")

    async def _receive(self, client: EventHubConsumerClient) -> None:
        await client.receive_batch(
            on_event_batch=self._on_event_batch,
            on_partition_initialize=self._on_partition_initialize,
            on_partition_close=self._on_partition_close,
            on_error=self._on_error,
            max_batch_size=_BATCH,
            max_wait_time=_HEARTBEAT_SECONDS,
            prefetch=self._settings.prefetch,
            # Explicit: the SDK's default is "@latest", which skips what comes before a partition's first checkpoint.
            starting_position="-1" if isinstance(self._settings.start, str) else self._settings.start,
            # False, or the checkpointed event itself would come again at each start.
            starting_position_inclusive=False,
            track_last_enqueued_event_properties=True,
        )

    # --- what the SDK calls; none of these raises but to give a partition back

    async def _on_partition_initialize(self, context: PartitionContext) -> None:
        partition = PartitionId(context.partition_id)
        await self._close(partition)  # not always announced: a broken link comes back as a new initialize
        self._heard(partition)
        self.claims[partition] = self._open_claim(partition)

    async def _on_event_batch(self, context: PartitionContext, events: list[EventData]) -> None:
        claim = self.claims[PartitionId(context.partition_id)]
        if events and not claim.closed:
            self._heard_at[claim.partition] = math.inf
            await self._hand_over(claim, context, events)
        self._heard(claim.partition)
        if claim.closed:
            raise _GivenUp(f"partition {context.partition_id} was given up")

    async def _hand_over(self, claim: Claim, context: PartitionContext, events: list[EventData]) -> None:
        # The context's object outlives a claim: it is no token of ours.
        batch = [_message(claim.partition, event) for event in events]
        last = context.last_enqueued_event_properties or {}
        fresh = await claim.feed.put(batch, last.get("sequence_number"))
        self._metrics.received.labels(claim.partition).inc(fresh)
        self._metrics.repeated.labels(claim.partition).inc(len(batch) - fresh)

    async def _on_partition_close(self, context: PartitionContext, reason: CloseReason) -> None:
        _log.debug("partition closes", partition=context.partition_id, reason=reason.name)
        await self._close(PartitionId(context.partition_id))  # the SDK releases the ownership after this

    def _heard(self, partition: PartitionId) -> None:
        self._heard_at[partition] = asyncio.get_running_loop().time()

    async def _on_error(self, context: PartitionContext | None, error: Exception) -> None:
        # None: balancing or the store failed, no partition did.
        partition = context.partition_id if context else ""
        if isinstance(error, _GivenUp):
            return
        self._metrics.source_errors.labels(partition).inc()
        text = one_line(error)
        if self._last_error.get(partition) != text:
            self._last_error[partition] = text
            _log.warning("the Event Hubs client reports an error", partition=partition or None, error=text)

    async def _close(self, partition: PartitionId) -> None:
        """Ends the partition's claim and waits: it bounds itself, by drain_seconds and the store's own limits."""
        claim = self.claims.get(partition)
        if claim is not None:
            claim.close()
            await claim.done.wait()


def _message(partition: PartitionId, event: EventData) -> Message:
    body, defect = _body(event)
    enqueued = event.enqueued_time
    return Message(
        partition=partition,
        sequence_number=event.sequence_number or 0,
        offset=event.offset or "",
        enqueued_at=UnixSeconds(enqueued.timestamp() if enqueued else time.time()),
        body=body,
        content_type=event.content_type,
        properties={_text(key): value for key, value in event.properties.items()} if event.properties else None,
        defect=defect,
    )


def _body(event: EventData) -> tuple[bytes, str | None]:
    """The body's bytes; a body that is an AMQP map, list or sequence is no event, and kept as JSON."""
    body: Any = event.body
    if event.body_type is AmqpMessageBodyType.DATA:
        return b"".join(body), None
    if event.body_type is AmqpMessageBodyType.SEQUENCE:
        body = list(body)
    elif isinstance(body, str):
        return body.encode(), None
    elif isinstance(body, bytes | bytearray | memoryview):
        return bytes(body), None
    return orjson.dumps(_plain(body)), f"the body is an AMQP {type(body).__name__}, not bytes"


def _plain(value: Any) -> Any:
    """AMQP's values as JSON has them; what it has no word for becomes text."""
    match value:
        case dict():
            return {str(_plain(key)): _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case bytes() | bytearray():
            return _text(bytes(value))
        case None | bool() | float():
            return value
        case int() if abs(value) < 2**63:
            return value
    return str(value)


def _text(value: str | bytes) -> str:
    """The SDK gives names as bytes, whatever the sender wrote."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
