"""Promise 7: a partition of which most cannot be decoded stops, says so, and goes on when somebody says so."""

import asyncio
from dataclasses import replace

from tests.pipeline.stage import PARTITION, Stage, blob_event, message
from tests.virtual_time import run, settle_down
from worker import state as codec
from worker.claim import Claim


async def spoil(stage: Stage, claim: Claim) -> asyncio.Task[int]:
    """90 good messages, then junk until nothing more is taken; the last that waits to be taken is returned."""
    await stage.play(claim, *(message(n, blob_event("a", n)) for n in range(90)))
    for number in range(90, 1000):
        putting = asyncio.create_task(claim.feed.put([message(number, body=b"junk")], 999))
        await settle_down()
        if not putting.done():
            break
    await asyncio.sleep(600)
    return putting


def test_a_partition_stops_when_most_of_it_cannot_be_decoded_and_says_so():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            assert stage.parts.health.not_ready() == {}
            putting = await spoil(stage, claim)
            assert len(await stage.dead_letters()) == 91
            assert "cannot be decoded" in stage.parts.health.not_ready()["partition 0"]
            assert stage.parts.health.stale() == []
            assert stage.count("worker_partition_stopped", partition="0") == 1
            assert await stage.checkpoint() == 180
            assert "cannot be decoded" in (await stage.state()).stopped
            await stage.end(claim)
            await putting
            assert stage.parts.health.not_ready() == {}

    run(scene())


def test_the_next_owner_stands_still_too():
    async def scene():
        async with Stage(window=0).open() as first:
            claim = await first.begin()
            putting = await spoil(first, claim)
            await first.end(claim)
            await putting
        async with Stage(store=first.store, window=0).open() as second:
            claim = await second.begin("second")
            putting = asyncio.create_task(claim.feed.put([message(181, blob_event("a", 181))], 181))
            await asyncio.sleep(600)
            assert second.sinks["out"].ids == []
            assert "cannot be decoded" in second.parts.health.not_ready()["partition 0"]
            await second.end(claim)
            await putting

    run(scene())


def test_another_configuration_reads_on():
    async def scene():
        async with Stage(window=0).open() as first:
            claim = await first.begin()
            putting = await spoil(first, claim)
            await first.end(claim)
            await putting
        async with Stage(store=first.store, window=0, configuration="another").open() as second:
            claim = await second.begin("second")
            await second.play(claim, message(181, blob_event("a", 181)))
            assert second.sinks["out"].ids == ["a-181"]
            assert second.parts.health.not_ready() == {}
            assert (await second.state()).stopped is None

    run(scene())


def test_an_operator_who_clears_the_stop_makes_the_owner_claim_anew_and_read_on():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            putting = await spoil(stage, claim)
            stored = await stage.store.read_state(PARTITION)
            cleared = replace(codec.decode(stored.payload), stopped=None, stopped_under="")
            await stage.store.write_state(PARTITION, codec.encode(cleared), expected=stored.version)
            versions = await stage.store.state_versions()
            await claim.look(versions[PARTITION])
            await claim.done.wait()
            await putting
            again = await stage.begin("again")
            await stage.play(again, message(181, blob_event("a", 181)))
            assert stage.sinks["out"].ids[-1] == "a-181"
            assert (await stage.state()).stopped is None

    run(scene())
