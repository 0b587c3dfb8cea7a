"""The Event Hubs SDK's callbacks on one side, one claim per partition on the other.

Its traps are named where they are dealt with. It decides nothing about events, and writes nothing.
"""

import asyncio
import time
from collections.abc import Callable
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
    ) -> None:
        self._hub = hub
        self._settings = settings
        self._leases = leases
        self._open_claim = open_claim
        self._metrics = metrics
        self._client: EventHubConsumerClient | None = None
        self._receiving: asyncio.Task[None] | None = None
        self._stopping = False
        self._last_error: dict[str, str] = {}
        self.claims: dict[PartitionId, Claim] = {}
        """The newest claim of each partition this process has had, closed ones included."""

    async def run(self) -> None:
        """Receives until `stop`."""
        self._client = self._hub.connect(self._leases)
        self._receiving = asyncio.create_task(self._receive(self._client), name="receiving")
        try:
            # Not awaited directly: it must not be cancelled with us, `stop` closes the client first.
            await asyncio.wait({self._receiving})
        finally:
            if not self._stopping:  # the process fails: leave no task that goes on claiming
                self._leases.stop_claiming()
                self._receiving.cancel()
                await asyncio.wait({self._receiving}, timeout=_CANCEL_SECONDS)
        if not self._stopping:
            await self._receiving
            raise HubUnavailable("the Event Hubs client stopped receiving by itself")

    def begin_stop(self) -> None:
        """Claims nothing more, and begins to close every claim."""
        self._stopping = True
        self._leases.stop_claiming()
        for claim in self.claims.values():
            claim.close()

    async def stop(self, *, seconds: float) -> None:
        """Closes the client once the claims have ended; bounded by `seconds` and a little.

        Measured to work: close the client, then cancel its task. The other order leaves ownership behind, and close
        alone takes another balancing interval to return.
        """
        if self._client is None or self._receiving is None:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._client.close()
        except TimeoutError:
            _log.warning("the Event Hubs client did not close in time", seconds=seconds)
        self._receiving.cancel()
        await asyncio.wait({self._receiving}, timeout=_CANCEL_SECONDS)

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
        self.claims[partition] = self._open_claim(partition)

    async def _on_event_batch(self, context: PartitionContext, events: list[EventData]) -> None:
        claim = self.claims[PartitionId(context.partition_id)]
        if events and not claim.closed:
            await self._hand_over(claim, context, events)
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
