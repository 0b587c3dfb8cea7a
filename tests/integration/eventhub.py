"""The Python SDK as the integration tests use it: send, and read until enough has come."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from azure.eventhub import EventData
from azure.eventhub.aio import EventHubConsumerClient, EventHubProducerClient

from tests.support import eventually


def producer(connection_string: str, **options) -> EventHubProducerClient:
    """A client that sends, and gives up at once when it cannot."""
    return EventHubProducerClient.from_connection_string(connection_string, **{"retry_total": 0, **options})


async def send(connection_string: str, *events, **options) -> None:
    """Sends events as one batch."""
    async with producer(connection_string) as client:
        await client.send_batch(list(events), **options)


class Reading:
    """What a consumer has been given so far."""

    def __init__(self) -> None:
        self.events: list[EventData] = []
        self.contexts: list = []
        self.errors: list[Exception] = []

    async def take(self, context, event) -> None:
        self.events.append(event)
        self.contexts.append(context)

    async def fail(self, _context, error) -> None:
        self.errors.append(error)

    async def at_least(self, count: int) -> list[EventData]:
        await eventually(lambda: self.errors or len(self.events) >= count, timeout_seconds=30)
        assert not self.errors
        return self.events

    async def error(self) -> Exception:
        await eventually(lambda: self.errors, timeout_seconds=30)
        return self.errors[0]

    @property
    def bodies(self) -> list[str]:
        return [event.body_as_str() for event in self.events]


@asynccontextmanager
async def reading(connection_string: str, partition="0", group="$Default", **options) -> AsyncIterator[Reading]:
    """Reads one partition, or all where `partition` is None, until the block ends; from the start unless told."""
    seen = Reading()
    client = EventHubConsumerClient.from_connection_string(connection_string, group, retry_total=0)
    options = {"starting_position": "-1", **options}
    task = asyncio.create_task(client.receive(seen.take, on_error=seen.fail, partition_id=partition, **options))
    try:
        yield seen
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await client.close()


async def read(connection_string: str, count: int, **options) -> list[EventData]:
    """The first events that come."""
    async with reading(connection_string, **options) as seen:
        return (await seen.at_least(count))[:]
