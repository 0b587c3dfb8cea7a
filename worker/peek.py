"""A look at some messages of a partition, without taking part in anything: no ownership, no checkpoint.

A hub gives a partition to one reader of a consumer group where the worker reads it. So who looks is turned away while a
worker is there, unless he insists: then he takes the link, and the worker claims the partition anew a moment later.
"""

import asyncio
import time
from datetime import datetime
from typing import NamedTuple

from azure.eventhub import EventData
from azure.eventhub.aio import PartitionContext
from azure.eventhub.exceptions import EventHubError

from worker.errors import HubUnavailable
from worker.events import PartitionId
from worker.hub import Hub, explain

_SECONDS = 10.0
"""How long the messages may take to come."""
_CLOSE_SECONDS = 5.0
_EPOCH = 0
"""Which all workers have: of two that are equal the later one has the link."""


class NothingSeen(HubUnavailable):
    """A worker reads the partition, or its messages did not come in time. Anything else is a trouble of its own."""


class Seen(NamedTuple):
    """What came."""

    events: list[EventData]
    hub_ahead_seconds: float | None
    """By how much the hub's clock was ahead of this machine's when they came, or less: they took their time to come.
    None where the hub does not say."""


async def peek(
    hub: Hub, partition: PartitionId, position: datetime | int | str, *, at_least: int = 1, insist: bool = False
) -> Seen:
    """The messages from the position on, itself included; so many must be there, and more may come.

    Raises HubUnavailable; NothingSeen where a worker reads the partition.
    """
    client = hub.connect(retries=0)
    found: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    events: list[EventData] = []
    ahead: list[float] = []

    async def take(context: PartitionContext, batch: list[EventData]) -> None:
        events.extend(batch)
        if sent_at := (context.last_enqueued_event_properties or {}).get("retrieval_time"):
            ahead.append(sent_at.timestamp() - time.time())
        if len(events) >= at_least and not found.done():
            found.set_result(None)

    async def fail(_: PartitionContext | None, error: Exception) -> None:
        if not found.done():
            found.set_exception(_why(error, hub, partition))

    receiving = asyncio.create_task(
        client.receive_batch(
            take,
            on_error=fail,
            partition_id=partition,
            owner_level=_EPOCH if insist else None,
            starting_position=position,
            starting_position_inclusive=True,
            prefetch=at_least,
            max_batch_size=at_least,
            track_last_enqueued_event_properties=True,
        ),
        name=f"looking at partition {partition}",
    )
    try:
        async with asyncio.timeout(_SECONDS):
            await found
    except TimeoutError:
        raise NothingSeen(
            f"partition {partition} of hub {hub.scope.hub!r} gave no messages within {_SECONDS:g} s; try again"
        ) from None
    finally:
        found.cancel()
        # In this order, as the source does: or the links stay behind.
        await asyncio.wait({asyncio.create_task(client.close())}, timeout=_CLOSE_SECONDS)
        receiving.cancel()
        await asyncio.wait({receiving}, timeout=_CLOSE_SECONDS)
    return Seen(events, max(ahead, default=None))


def _why(error: Exception, hub: Hub, partition: PartitionId) -> HubUnavailable:
    if isinstance(error, EventHubError) and "epoch" in str(error):
        return NothingSeen(f"partition {partition} of hub {hub.scope.hub!r} is being read by a worker")
    return HubUnavailable(explain(error, hub.scope))
