"""Replays of dead letters while rules are exchanged: a letter is accepted by somebody, or stays."""

import asyncio

from tests.fakes import FakeSink
from tests.pipeline.exchanges import exchanged, to
from tests.pipeline.stage import Stage, blob_event, message
from tests.pipeline.test_replay import LOOK_SECONDS, ask, given_up, kept_by_hand, looking, outcomes, refuse_all
from tests.virtual_time import run

DRAIN = 20.0


def test_a_letter_of_a_sink_that_was_removed_stays_until_the_sink_is_back():
    async def scene():
        stage = Stage({"out": refuse_all(), "stays": FakeSink()}, window=0)
        async with stage.open():
            claim = await stage.begin()
            [letter] = await given_up(stage, claim, message(0, blob_event("a", 1)))
            await exchanged(stage, {"stays": {}})
            async with looking(stage, claim):
                await ask(stage, letter)
                await asyncio.sleep(LOOK_SECONDS)
                assert (outcomes(stage)["no_sink"], len(await stage.dead_letters())) == (1, 1)
                await asyncio.sleep(DRAIN)
                back = FakeSink()
                await exchanged(stage, {"stays": {}, "out": {}}, {"out": back})
                await ask(stage, letter)
                await asyncio.sleep(LOOK_SECONDS)
                assert (back.ids, await stage.dead_letters()) == (["a-1"], [])
            await stage.end(claim)

    run(scene())


def test_a_replay_under_way_when_its_sink_is_removed_ends_there_or_the_letter_stays():
    async def scene():
        out = refuse_all()
        stage = Stage({"out": out, "stays": FakeSink()}, window=0)
        async with stage.open():
            claim = await stage.begin()
            letters = await given_up(stage, claim, message(0, blob_event("a", 1)), message(1, blob_event("b", 1)))
            out._refuse = None
            out.open_gate.clear()
            async with looking(stage, claim):
                await ask(stage, letters[0])
                await asyncio.sleep(LOOK_SECONDS)
                await exchanged(stage, {"stays": {}})
                out.open_gate.set()
                await asyncio.sleep(LOOK_SECONDS)
                assert (out.ids, len(await stage.dead_letters())) == (["a-1"], 1)
                anew = FakeSink()
                anew.open_gate.clear()
                await exchanged(stage, {"stays": {}, "out": {}}, {"out": anew})
                await ask(stage, letters[1])
                await asyncio.sleep(LOOK_SECONDS)
                assert anew.under_way == 1
                await exchanged(stage, {"stays": {}})
                await asyncio.sleep(DRAIN + LOOK_SECONDS)
                assert (anew.under_way, anew.closed, outcomes(stage)["gave_up"]) == (0, 1, 1)
                assert [each.event_id for each in await stage.dead_letters()] == ["b-1"]
            await stage.end(claim)

    run(scene())


def test_a_letter_without_a_sink_goes_by_the_rules_of_the_day():
    async def scene():
        stage = Stage({"out": FakeSink()}, window=0)
        async with stage.open():
            claim = await stage.begin()
            letter = await kept_by_hand(stage, message(5, blob_event("a", 1)), reason="not_json")
            other = FakeSink()
            await exchanged(stage, {"other": {}}, {"other": other}, specs=[to("other")])
            async with looking(stage, claim):
                await ask(stage, letter)
                await asyncio.sleep(LOOK_SECONDS)
            assert (other.ids, stage.sinks["out"].ids) == (["a-1"], [])
            await stage.end(claim)

    run(scene())
