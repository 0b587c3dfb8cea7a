"""The SDK's own loops, as contestants: `python -m bench.receivers bare|handwritten`, configured by the environment.

bare does nothing with what it is given: no worker can be faster, and it is given what the worker gives the SDK
(uvloop, a large prefetch). handwritten is what people write: parse each event, one checkpoint per batch, the SDK's
defaults. Each reads so many messages, checks that they are all, and prints one line of JSON: `Seen`.
"""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, NamedTuple, NoReturn

import orjson
import uvloop
from azure.eventhub import EventData
from azure.eventhub.aio import CheckpointStore, EventHubConsumerClient, PartitionContext
from azure.eventhub.extensions.checkpointstoreblobaio import BlobCheckpointStore

from bench.naive import SqliteCheckpointStore

_PREFETCH = 3000
_BATCH = 300
"""What the worker is given at once, too; it is the SDK's default."""

Handler = Callable[[PartitionContext, list[EventData]], Awaitable[None]]


class Clocks(NamedTuple):
    """Seconds."""

    wall: float
    processor: float


class Seen(NamedTuple):
    """What a contestant tells."""

    seconds: float
    """From when it had its first partition to the last event."""
    cpu_seconds: float
    """Processor time of the same."""


class Reading:
    """Counts until all have come, and knows whether each came once."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._count = 0
        self._last: dict[str, int] = {}
        self._began = self._ended = Clocks(0.0, 0.0)
        self.over = asyncio.Event()

    async def has(self, _: PartitionContext) -> None:
        """It has a partition. The first starts the clocks: what the SDK decodes ahead of a batch is work, too."""
        if not self._began.wall:
            self._began = _clocks()

    def saw(self, partition: str, events: list[EventData]) -> None:
        """One batch."""
        if not events:
            return
        self._count += len(events)
        if self._count >= self._expected:
            self._ended = _clocks()
            self.over.set()
        self._last[partition] = events[-1].sequence_number

    def seen(self) -> Seen:
        """Raises AssertionError where an event is missing or came twice."""
        behind = sum(number + 1 for number in self._last.values())
        assert self._count == behind == self._expected, f"{self._count} events, {behind} passed, not {self._expected}"
        return Seen(self._ended.wall - self._began.wall, self._ended.processor - self._began.processor)


def _clocks() -> Clocks:
    return Clocks(time.perf_counter(), time.process_time())


async def bare(reading: Reading) -> None:
    """No work at all."""

    async def handle(context: PartitionContext, events: list[EventData]) -> None:
        reading.saw(context.partition_id, events)

    await _receive(reading, handle, None, max_batch_size=_BATCH, prefetch=_PREFETCH)


async def handwritten(reading: Reading) -> None:
    """Parses, and checkpoints each batch."""

    async def handle(context: PartitionContext, events: list[EventData]) -> None:
        for event in events:
            for item in orjson.loads(b"".join(event.body)):
                assert item["id"]
        if events:
            await context.update_checkpoint(events[-1])
        reading.saw(context.partition_id, events)

    async with AsyncExitStack() as opened:
        await _receive(reading, handle, await _store(opened))


async def _receive(reading: Reading, handle: Handler, store: CheckpointStore | None, **options: Any) -> None:
    client = EventHubConsumerClient.from_connection_string(
        os.environ["EVENTHUB_CONNECTION_STRING"], os.environ["BENCH_GROUP"], checkpoint_store=store
    )
    receiving = asyncio.ensure_future(
        client.receive_batch(handle, on_partition_initialize=reading.has, starting_position="-1", **options)
    )
    over = asyncio.ensure_future(reading.over.wait())
    await asyncio.wait({receiving, over}, return_when=asyncio.FIRST_COMPLETED)
    if receiving.done():
        receiving.result()
    _leave(reading)


def _leave(reading: Reading) -> NoReturn:
    """Ends the process, and closes nothing: that takes the SDK a balancing interval, by default 30 s."""
    print(orjson.dumps(reading.seen()._asdict()).decode(), flush=True)
    os._exit(0)


async def _store(opened: AsyncExitStack) -> CheckpointStore:
    if path := os.environ.get("BENCH_SQLITE"):
        return SqliteCheckpointStore(path)
    store = BlobCheckpointStore.from_connection_string(os.environ["BENCH_BLOB"], os.environ["BENCH_CONTAINER"])
    await opened.enter_async_context(store)
    await store._container_client.create_container()  # noqa: SLF001 - the SDK's store wants it to be there
    return store


def main(name: str) -> None:
    """Runs a contestant to its end."""
    reading = Reading(int(os.environ["BENCH_EVENTS"]))
    if name == "bare":
        uvloop.run(bare(reading))
    else:
        asyncio.run(handwritten(reading))


if __name__ == "__main__":
    main(sys.argv[1])
