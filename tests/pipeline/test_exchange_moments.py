"""Rules exchanged in the worst moments: while somebody asks whether an attempt may start, or waits for its pace."""

import asyncio
from itertools import count
from typing import Any

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.fakes import FakeSink
from tests.memory_store import MemoryStore
from tests.pipeline.exchanges import exchanged
from tests.pipeline.stage import Stage, blob_event, message
from tests.virtual_time import run, settle_down
from worker.errors import Misconfigured, SinkUnavailable
from worker.lanes import close_sink
from worker.sinks import Delivery


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


# --- whatever comes

ERRORS = (None, SinkUnavailable("503"), SinkUnavailable("429", retry_after_seconds=900), Misconfigured("401"))
SETTINGS = st.fixed_dictionaries(
    {"concurrency": st.integers(1, 3)}, optional={"rate": st.sampled_from([0.2, 5]), "paused": st.just(True)}
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("event"), st.integers(0, 5)),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.2, 1.0, 7.0, 65.0])),
        st.tuples(st.just("settings"), st.tuples(SETTINGS, st.sampled_from(ERRORS))),
    ),
    max_size=60,
)


class _Destination(FakeSink):
    """One version of the sink: what comes is noted in a place that outlives it."""

    def __init__(self, came: list[str], error: Exception | None) -> None:
        super().__init__()
        self._came = came
        self._error = error

    async def deliver(self, delivery: Delivery) -> None:
        self.attempts.append(delivery)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(0.3)
        finally:
            self.under_way -= 1
        if self._error is not None:
            raise self._error
        self._came.append(delivery.released.placed.event.id)


@given(steps=STEPS)
@hypothesis_settings(max_examples=150, deadline=None)
def test_whatever_settings_a_sink_has_meanwhile_all_comes_once_in_order_and_nothing_to_one_that_is_paused(
    steps: list[tuple[str, Any]],
):
    async def scene():
        came: list[str] = []
        sent: list[str] = []
        numbers = count()
        made: list[tuple[dict[str, Any], _Destination]] = [({"concurrency": 8}, _Destination(came, None))]
        stage = Stage({"out": made[0][1]}, window=0)

        async def exchange_to(section: dict[str, Any], error: Exception | None) -> None:
            made.append((section, _Destination(came, error)))
            await exchanged(stage, {"out": section}, {"out": made[-1][1]})

        async with stage.open():
            claim = await stage.begin()
            for what, value in steps:
                match what:
                    case "event":
                        number = next(numbers)
                        event = blob_event(f"s{value}", number + 1)
                        sent.append(event["id"])
                        await stage.play(claim, message(number, event))
                    case "wait":
                        await asyncio.sleep(value)
                    case _:
                        await exchange_to(*value)
            await exchange_to({"concurrency": 8}, None)
            await asyncio.sleep(60)  # none waits for what an earlier version asked for
            await stage.end(claim)
            assert await stage.checkpoint() == (len(sent) - 1 if sent else None)
        for subject in range(6):
            line = [each for each in sent if each.startswith(f"s{subject}-")]
            assert [each for each in came if each.startswith(f"s{subject}-")] == line
        for section, destination in made:
            assert destination.most_under_way <= (0 if "paused" in section else section["concurrency"])
        assert [destination.closed for _, destination in made] == [1] * (len(made) - 1) + [0]

    run(scene())
