"""What the SDK calls back with is for the claim that it was opened for, whoever calls."""

import asyncio
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


def test_a_batch_that_was_read_for_an_earlier_claim_is_not_taken_in_and_ends_the_present_one():
    async def scene():
        client, claims = Client(), list[Claim]()
        leases = Leases(MemoryStore(), balance_seconds=1, expiry_seconds=20)
        async with Stage().open() as stage:

            def open_claim(partition: Any) -> Claim:
                claims.append(Claim(partition, f"claim-{len(claims)}", stage.parts))
                stage.running.append(asyncio.create_task(claims[-1].run()))
                return claims[-1]

            hub = SimpleNamespace(connect=lambda _: client, identity=None)
            settings = SourceSettings(connection_string_env="X", hub="h")
            source = Source(hub, settings, leases, open_claim, stage.metrics, close_seconds=5)

            async def reachable() -> bool:
                return True

            running = asyncio.create_task(source.run(reachable))
            while not client.callbacks:
                await asyncio.sleep(0.1)
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
            source.begin_stop()
            await source.stop()
            await running

    run(scene())
