"""Rules exchanged in the worst moments: while somebody asks whether an attempt may start, or waits for its pace."""

import asyncio

from structlog.testing import capture_logs

from tests.fakes import FakeSink
from tests.memory_store import MemoryStore
from tests.pipeline.exchanges import exchanged
from tests.pipeline.stage import Stage, blob_event, message
from tests.virtual_time import run, settle_down
from worker.errors import SinkUnavailable
from worker.lanes import close_sink


class GatedStore(MemoryStore):
    """One whose states can be made to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def _reach(self, name: str) -> None:
        await super()._reach(name)
        if name == "write_state":
            await self.gate.wait()


async def died(stage: Stage, claimant: str) -> None:
    """A generation that ends without a word."""
    await stage.begin(claimant)
    stage.running[-1].cancel()
    await settle_down()


def test_a_probe_that_waits_for_its_pace_does_not_go_out_when_the_sink_is_paused_meanwhile():
    async def scene():
        before, after = FakeSink(refuse=lambda _: SinkUnavailable("503")), FakeSink()
        stage = Stage({"out": before}, window=0, lanes={"rate": 0.1})
        async with stage.open():
            claim = await stage.begin()
            await stage.play(claim, *(message(each, blob_event(f"s{each}", 1)) for each in range(9)))
            while not stage.count("worker_lane_down", sink="out"):
                await asyncio.sleep(1)
            await asyncio.sleep(5)  # a probe is due, and waits for its pace
            await exchanged(stage, {"out": {"paused": True}}, {"out": after})
            await asyncio.sleep(600)
            assert after.attempts == []
            await stage.end(claim)

    run(scene())


def test_a_careful_worker_reads_on_when_a_sink_is_removed_in_the_moment_in_which_an_attempt_is_marked():
    """The mark in the state is for an attempt that then does not begin: nobody must wait for its end."""

    async def scene():
        gone, stays = FakeSink(), FakeSink()
        store = GatedStore()
        stage = Stage({"stays": stays, "gone": gone}, store=store, window=0, limits={"drain_seconds": 1})
        async with stage.open():
            for number in range(3):
                await died(stage, f"died-{number}")
            claim = await stage.begin("careful")
            assert (await stage.state()).deaths >= 2
            await stage.play(claim, message(0, blob_event("a", 1)))
            store.gate.clear()
            await exchanged(stage, {"stays": {}})
            await asyncio.sleep(1.5)  # meanwhile its time is over
            store.gate.set()
            await settle_down()
            await stage.play(claim, message(1, blob_event("b", 1)))
            await asyncio.sleep(5)
            assert sorted(stays.ids) == ["a-1", "b-1"]
            assert gone.attempts == []
            assert [(each.event_id, each.reason) for each in await stage.dead_letters()] == [("a-1", "sink_removed")]
            await stage.end(claim)
            assert await stage.checkpoint() == 1

    run(scene())


def test_a_new_destination_is_not_kept_waiting_for_what_the_old_one_asked_for():
    async def scene():
        before, after = FakeSink([SinkUnavailable("503", retry_after_seconds=3600)] * 2), FakeSink()
        async with Stage({"out": before}, window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, *(message(each, blob_event(f"s{each}", 1)) for each in range(2)))
            await exchanged(stage, {"out": {"concurrency": 4}}, {"out": after})
            assert sorted(after.ids) == ["s0-1", "s1-1"]
            await stage.end(claim)

    run(scene())


def test_a_sink_that_never_closes_is_left_behind():
    class Endless(FakeSink):
        async def aclose(self) -> None:
            await asyncio.Event().wait()

    async def scene():
        with capture_logs() as lines:
            async with asyncio.timeout(60):
                await close_sink(Endless())
        assert [line["event"] for line in lines] == ["sink not closed in time"]

    run(scene())
