"""A look at some messages of a partition, without taking part in anything: no ownership, no checkpoint.

A hub gives a partition to one reader of a consumer group where the worker reads it. So who looks is turned away while a
worker is there, unless he insists: then he takes the link, and the worker claims the partition anew a moment later.
"""

import asyncio
from datetime import datetime
from typing import Any

from azure.eventhub import EventData
from azure.eventhub.exceptions import EventHubError

from worker.errors import HubUnavailable
from worker.events import PartitionId
from worker.hub import Hub, explain

_SECONDS = 10.0
"""How long the first message may take to come."""
_CLOSE_SECONDS = 5.0
_EPOCH = 0
"""Which all workers have: of two that are equal the later one has the link."""


async def peek(
    hub: Hub, partition: PartitionId, position: datetime | int | str, *, at_most: int = 1, insist: bool = False
) -> list[EventData]:
    """Some messages from the position on, itself included: at least one, which must be there.

    Raises HubUnavailable, also where a worker reads the partition.
    """
    client = hub.connect(retries=0)
    found: asyncio.Future[list[EventData]] = asyncio.get_running_loop().create_future()

    async def take(_: Any, events: list[EventData]) -> None:
        if events and not found.done():
            found.set_result(events)

    async def fail(_: Any, error: Exception) -> None:
        if not found.done():
            found.set_exception(HubUnavailable(_said(error, hub, partition)))

    receiving = asyncio.create_task(
        client.receive_batch(
            take,
            on_error=fail,
            partition_id=partition,
            owner_level=_EPOCH if insist else None,
            starting_position=position,
            starting_position_inclusive=True,
            prefetch=at_most,
            max_batch_size=at_most,
        ),
        name=f"looking at partition {partition}",
    )
    try:
        async with asyncio.timeout(_SECONDS):
            return await found
    except TimeoutError:
        raise HubUnavailable(
            f"partition {partition} of hub {hub.scope.hub!r}: no message came within {_SECONDS:g} s; try again"
        ) from None
    finally:
        found.cancel()
        # In this order, as the source does: or the links stay behind.
        await asyncio.wait({asyncio.create_task(client.close())}, timeout=_CLOSE_SECONDS)
        receiving.cancel()
        await asyncio.wait({receiving}, timeout=_CLOSE_SECONDS)


def _said(error: Exception, hub: Hub, partition: PartitionId) -> str:
    if isinstance(error, EventHubError) and "epoch" in str(error):
        return f"partition {partition} of hub {hub.scope.hub!r} is being read by a worker"
    return explain(error, hub.scope)
