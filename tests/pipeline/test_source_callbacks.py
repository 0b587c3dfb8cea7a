"""What the SDK calls back with is for the claim that it was opened for, whoever calls."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from tests.memory_store import MemoryStore
from tests.pipeline.stage import PARTITION, Stage
from tests.virtual_time import run
from worker.claim import Claim
from worker.config import SourceSettings
from worker.errors import WorkerError
from worker.lease import Leases
from worker.source import Source

CONTEXT = SimpleNamespace(partition_id="0", last_enqueued_event_properties=None)


class Client:
    """The SDK's: gives its callbacks away, and reads until it is closed."""

    def __init__(self) -> None:
        self.callbacks: dict[str, Any] = {}
        self.closed = asyncio.Event()

    async def receive_batch(self, **options: Any) -> None:
        self.callbacks = options
        await self.closed.wait()

    async def close(self) -> None:
        self.closed.set()


@asynccontextmanager
async def reading(hub: Any) -> AsyncIterator[list[Claim]]:
    """A source over this hub; gives the claims that it opens."""
    claims = list[Claim]()
    async with Stage().open() as stage:

        def open_claim(partition: Any) -> Claim:
            claims.append(Claim(partition, f"claim-{len(claims)}", stage.parts))
            stage.running.append(asyncio.create_task(claims[-1].run()))
            return claims[-1]

        async def reachable() -> bool:
            return True

        settings = SourceSettings(connection_string_env="X", hub="h")
        leases = Leases(MemoryStore(), balance_seconds=1, expiry_seconds=20)
        source = Source(hub, settings, leases, open_claim, stage.metrics, close_seconds=5)
        running = asyncio.create_task(source.run(reachable))
        yield claims
        source.begin_stop()
        await source.stop()
        await running


async def until(condition: Callable[[], object], *, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.1)


def test_a_batch_that_was_read_for_an_earlier_claim_is_not_taken_in_and_ends_the_present_one():
    async def scene():
        client = Client()
        async with reading(SimpleNamespace(connect=lambda _: client, identity=None, partitions=["0"])) as claims:
            await until(lambda: client.callbacks)
            orphan_may_go_on = asyncio.Event()

            async def reads_for_the_first_claim() -> None:
                await client.callbacks["on_partition_initialize"](CONTEXT)
                await orphan_may_go_on.wait()
                await client.callbacks["on_event_batch"](CONTEXT, [object()])

            orphan = asyncio.create_task(reads_for_the_first_claim())
            await asyncio.sleep(1)
            second = asyncio.create_task(client.callbacks["on_partition_initialize"](CONTEXT))
            await second
            assert [claim.closed for claim in claims] == [True, False]
            orphan_may_go_on.set()
            with pytest.raises(WorkerError, match="a claim that is over"):
                await orphan
            assert claims[1].closed
            assert claims[1].partition == PARTITION

    run(scene())


class Deaf:
    """A hub whose answers wait, and swallow a cancellation once, as the SDK does."""

    identity = None
    partitions = (PARTITION,)

    def __init__(self) -> None:
        self.clients: list[Client] = []
        self.swallowed = 0

    def connect(self, _: Any) -> Client:
        self.clients.append(Client())
        return self.clients[-1]

    async def ends(self, _: Any) -> dict[Any, Any]:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.swallowed += 1
            if self.swallowed > 1:
                raise
        return {}


def test_an_answer_that_swallows_a_cancellation_does_not_hold_up_connecting_anew():
    async def scene():
        hub = Deaf()
        async with reading(hub):
            await until(lambda: hub.clients and hub.clients[0].callbacks)
            await hub.clients[0].callbacks["on_partition_initialize"](CONTEXT)
            await until(lambda: len(hub.clients) == 2)  # nothing calls back any more: the hub is silent
            assert hub.swallowed

    run(scene())
