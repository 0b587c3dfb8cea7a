"""A partition is put elsewhere while processes claim it, hand it over and take it: all of it comes.

The store takes its time, another time in each run, so that the calls of all of them come in ever other orders.
"""

import asyncio
import random
from contextlib import AsyncExitStack

import pytest

from tests.fakes import FakeSink
from tests.memory_store import Contents, MemoryStore
from tests.pipeline.stage import PARTITION, Stage, blob_event, message
from tests.virtual_time import run
from worker.claim import Claim
from worker.config import LimitSettings
from worker.progress import Watermark
from worker.seek import seek
from worker.state import HubIdentity

HUB = HubIdentity("2026-01-01T00:00:00+00:00", -1)
MESSAGES = [message(number, blob_event("a", number), at=number) for number in range(10)]
IDS = [f"a-{number}" for number in range(10)]
LOOK_SECONDS = 0.5
BALANCE_SECONDS = 2.0


class Slow(MemoryStore):
    """Each call takes its time, on the way there and back."""

    def __init__(self, contents: Contents, chance: random.Random) -> None:
        super().__init__(contents)
        self._chance = chance

    async def _reach(self, name: str) -> None:
        await asyncio.sleep(self._chance.random() * 0.2)

    async def _answered(self, name: str) -> None:
        await asyncio.sleep(self._chance.random() * 0.2)


async def process(stage: Stage, name: str, chance: random.Random) -> None:
    """What the SDK and a process do: list the checkpoints, claim, read from there, look for requests, claim anew."""
    for number in range(100):
        read_from = await stage.checkpoint()
        await asyncio.sleep(chance.random())  # before the partition is opened
        claim = Claim(PARTITION, f"{name}/{number}", stage.parts)
        claim.reads_from = read_from
        running = asyncio.create_task(claim.run())
        stage.running.append(running)
        try:
            await read(stage, claim, -1 if read_from is None else read_from)
        finally:
            claim.close()
            await claim.done.wait()
            await running
        await asyncio.sleep(BALANCE_SECONDS * chance.random())


async def read(stage: Stage, claim: Claim, behind: float) -> None:
    await claim.may_read.wait()
    fresh = [each for each in MESSAGES if each.sequence_number > behind]
    if fresh and not claim.closed:
        await claim.feed.put(fresh, 9)
    while not claim.closed:
        await asyncio.sleep(LOOK_SECONDS)
        if claim.held:
            await claim.look((await stage.store.state_versions()).get(PARTITION))


async def settled(stage: Stage) -> None:
    """All is read, and it stays so."""
    for _ in range(400):
        await asyncio.sleep(0.5)
        state = await stage.state()
        if await stage.checkpoint() == 9 and state.watermark == (9, "900") and not state.sought:
            return
    raise AssertionError("not all of it was read again")


async def ended(work: list[asyncio.Task[None]]) -> None:
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("processes", [1, 2])
def test_whoever_is_at_it_what_lies_behind_the_place_comes_once_more(processes: int, seed: int):
    async def scene():
        chance, contents, sink = random.Random(seed), Contents(), FakeSink()
        quick = Stage({"out": FakeSink()}, store=MemoryStore(contents), window=0)
        stages = [Stage({"out": sink}, store=Slow(contents, chance), window=0) for _ in range(processes)]
        async with AsyncExitStack() as opened:
            for stage in stages:
                await opened.enter_async_context(stage.open())
            work = [asyncio.create_task(process(each, f"p{n}", chance)) for n, each in enumerate(stages)]
            opened.push_async_callback(ended, work)
            await asyncio.sleep(2)
            await settled(quick)
            assert sorted(sink.ids) == IDS
            await asyncio.sleep(chance.random() * 10)
            sink.accepted.clear()
            store = Slow(contents, chance)
            await seek(store, PARTITION, Watermark(3, ""), hub=HUB, claimant="seek", limits=LimitSettings())
            await settled(quick)
            await asyncio.sleep(20)
            assert sink.ids == IDS[4:]

    run(scene())
