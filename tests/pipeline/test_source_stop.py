"""A source that stops lets others have its partitions while it works on them. In virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

from tests.memory_store import MemoryStore
from tests.pipeline.stage import PARTITION, Stage
from tests.virtual_time import run
from worker.claim import Claim
from worker.config import SourceSettings
from worker.lease import Leases
from worker.ownership import Taken, take
from worker.source import Source

SCOPE = ("hub.test", "events", "$Default")
CONTEXT = SimpleNamespace(partition_id=PARTITION, last_enqueued_event_properties=None)


def ownership(partition: str, owner: str) -> dict[str, object]:
    names = ("fully_qualified_namespace", "eventhub_name", "consumer_group")
    return {**dict(zip(names, SCOPE, strict=True)), "partition_id": partition, "owner_id": owner}


class Client:
    """The SDK's: gives its callbacks away, and reads until it is closed."""

    def __init__(self) -> None:
        self.callbacks = asyncio.get_running_loop().create_future()
        self.closed = asyncio.Event()

    async def receive_batch(self, **options: Any) -> None:
        self.callbacks.set_result(options)
        await self.closed.wait()

    async def close(self) -> None:
        self.closed.set()


class Working(NamedTuple):
    """A source that owns a partition, and works on it."""

    source: Source
    claim: Claim
    stage: Stage


@asynccontextmanager
async def working(*, other: bool) -> AsyncIterator[Working]:
    """`other`: whether there is another process, which owns another partition."""
    async with Stage().open() as stage:
        ownerships = MemoryStore(clock=asyncio.get_running_loop().time)
        leases = Leases(ownerships, balance_seconds=2, expiry_seconds=20, wall=asyncio.get_running_loop().time)
        await leases.claim_ownership([ownership(PARTITION, "me")])
        if other:
            await ownerships.claim_ownership([ownership("other", "another")])
        await leases.list_ownership(*SCOPE)
        claims = list[Claim]()

        def open_claim(partition: Any) -> Claim:
            claims.append(Claim(partition, "me/1", stage.parts))
            stage.running.append(asyncio.create_task(claims[-1].run()))
            return claims[-1]

        async def reachable() -> bool:
            return True

        client = Client()
        hub = SimpleNamespace(connect=lambda _: client, identity=None, partitions=[PARTITION])
        settings = SourceSettings(connection_string_env="X", hub="h")
        source = Source(hub, settings, leases, open_claim, stage.metrics, close_seconds=5)
        running = asyncio.create_task(source.run(reachable))
        await asyncio.wait({running, client.callbacks}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():  # else a source that fails would be waited for without an end
            running.result()
        await client.callbacks.result()["on_partition_initialize"](CONTEXT)
        await _until_held(claims[0])
        yield Working(source, claims[0], stage)
        source.begin_stop()
        await source.stop()
        await running


async def _until_held(claim: Claim) -> None:
    while not claim.held:
        await asyncio.sleep(0.1)


def test_it_works_on_until_another_asks_for_the_partition():
    async def scene():
        async with working(other=True) as at_work:
            stopping = asyncio.create_task(at_work.source.hand_over())
            await asyncio.sleep(2)
            assert at_work.claim.held
            assert not stopping.done()
            taking = asyncio.create_task(
                take(at_work.stage.store, PARTITION, claimant="other", hand_over_seconds=5, drain_seconds=20)
            )
            await asyncio.sleep(0.2)
            await at_work.claim.look(None)  # what the process does each half second
            assert (await taking).taken is Taken.HANDED_OVER
            await stopping

    run(scene())


def test_it_waits_for_nobody_when_it_is_alone_and_not_for_ever_when_nobody_asks():
    async def scene():
        async with working(other=False) as alone:
            began = asyncio.get_running_loop().time()
            await alone.source.hand_over()
            assert asyncio.get_running_loop().time() == began
            assert alone.claim.held
        async with working(other=True) as unasked:
            await unasked.source.hand_over()
            assert unasked.claim.held

    run(scene())
