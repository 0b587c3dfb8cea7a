"""What `worker.link` reads of the unmodified SDK: it uses private fields, so a new version must not pass unnoticed."""

import asyncio
from contextlib import suppress

from azure.eventhub import EventData
from azure.eventhub.aio import EventHubConsumerClient

from tests.integration.eventhub import send
from tests.support import eventually
from worker.events import PartitionId
from worker.link import look

PARTITION = PartitionId("0")


async def test_an_open_link_is_seen_with_each_frame_and_one_that_is_gone_is_not(connection_string):
    came = []

    async def take(_context, events):
        came.extend(events)

    client = EventHubConsumerClient.from_connection_string(connection_string, "$Default")
    task = asyncio.create_task(client.receive_batch(take, starting_position="-1", max_wait_time=0.5))
    try:
        assert look(client, PARTITION) is None
        await send(connection_string, EventData("first"), partition_id=PARTITION)
        await eventually(lambda: len(came) == 1, 30)
        first = look(client, PARTITION)
        assert first is not None
        await send(connection_string, EventData("second"), partition_id=PARTITION)
        await eventually(lambda: len(came) == 2, 30)
        second = look(client, PARTITION)
        assert second is not None
        assert second.attached is first.attached
        assert second.frame != first.frame
    finally:
        await client.close()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert look(client, PARTITION) is None
