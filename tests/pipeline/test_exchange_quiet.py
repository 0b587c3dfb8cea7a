"""Rules exchanged while something is held for digests: it is told, or it becomes a dead letter; never forgotten."""

import asyncio
from itertools import chain
from typing import Any

import orjson

from tests.fakes import FakeSink
from tests.pipeline.digests import GROUPED, all_told, begin, run_of, told
from tests.pipeline.exchanges import exchange, exchanged
from tests.pipeline.stage import Stage, blob_event, message
from tests.virtual_time import run, settle_down
from worker.errors import SinkUnavailable
from worker.quiet import QuietSettings

DRAIN = 20.0
LONG: dict[str, dict[str, Any]] = {"out": {"group_by": [], "group_wait_seconds": 3600, "group_interval_seconds": 3600}}


async def held(stage: Stage) -> list[Any]:
    """What the stored state says is still to be told."""
    digests = (await stage.state()).digests
    return [*digests["rows"], *digests["parts"]] if digests else []


def test_what_is_held_for_a_removed_sink_is_told_at_once_while_its_lane_drains():
    async def scene():
        out, stays = FakeSink(), FakeSink()
        stage = Stage({"out": out, "stays": stays}, window=0, quiet=LONG)
        async with stage.open():
            claim = await begin(stage, "first", *run_of(5))
            await exchanged(stage, {"stays": {}})
            assert all_told(stage) == [f"s{number}-1" for number in range(5)]
            await asyncio.sleep(DRAIN)
            await settle_down()  # both wait for the same moment
            assert out.closed == 1
            await stage.end(claim)
            assert await held(stage) == []

    run(scene())


def test_what_cannot_be_told_any_more_becomes_dead_letters_that_name_all():
    async def scene():
        out = FakeSink(refuse=lambda _: SinkUnavailable("503"))
        stage = Stage({"out": out, "stays": FakeSink()}, window=0, quiet={"out": {**LONG["out"], "max_events": 3}})
        async with stage.open():
            claim = await begin(stage, "first", *run_of(2))
            await exchanged(stage, {"stays": {}})
            await asyncio.sleep(DRAIN + 5)
            letters = await stage.dead_letters()
            assert [each.reason for each in letters] == ["sink_removed"]
            named = [row["id"] for each in letters for row in orjson.loads(each.body)["data"]["events"]]
            assert named == ["s0-1", "s1-1"]
            assert out.closed == 1
            await stage.end(claim)
            assert await held(stage) == []

    run(scene())


def test_what_is_held_by_a_partition_that_is_taken_when_the_sink_is_gone_is_a_dead_letter():
    async def scene():
        stage = Stage({"out": FakeSink(), "stays": FakeSink()}, window=0, quiet=LONG)
        async with stage.open():
            claim = await begin(stage, "first", *run_of(3))
            await stage.end(claim)
            await exchanged(stage, {"stays": {}})
            await asyncio.sleep(DRAIN + 1)
            again = await begin(stage, "second")
            await asyncio.sleep(5)
            assert [each.reason for each in await stage.dead_letters()] == ["no_sink"]
            await stage.end(again)
            assert await held(stage) == []

    run(scene())


def test_a_sink_that_is_not_quiet_any_more_tells_what_it_holds_and_then_each_in_order():
    async def scene():
        after = FakeSink()
        stage = Stage({"out": FakeSink()}, window=0, quiet=LONG)
        async with stage.open():
            claim = await begin(stage, "first", message(0, blob_event("a", 1)), message(1, blob_event("b", 1)))
            exchange(stage, {"out": {}}, {"out": after})
            await stage.play(claim, message(2, blob_event("a", 2)))  # before the digest is written down
            await asyncio.sleep(5)
            await stage.play(claim, message(3, blob_event("a", 3)))
            everything = [told(each) for each in after.accepted]
            assert sorted(chain.from_iterable(everything)) == ["a-1", "a-2", "a-3", "b-1"]
            of_a = [each for message_ in everything for each in message_ if each.startswith("a")]
            assert of_a == ["a-1", "a-2", "a-3"]
            assert everything[-1] == ["a-3"]
            await stage.end(claim)

    run(scene())


def test_a_sink_that_becomes_quiet_groups_what_comes_from_then_on_and_ends_alone_what_it_began():
    async def scene():
        before, after = FakeSink([SinkUnavailable("503")] * 100), FakeSink()
        stage = Stage({"out": before}, window=0)
        async with stage.open():
            claim = await begin(stage, "first", message(0, blob_event("a", 1)), message(1, blob_event("a", 2)))
            await exchanged(stage, {"out": {"quiet": GROUPED["out"]}}, {"out": after})
            await asyncio.sleep(60)
            assert [told(each) for each in after.accepted] == [["a-1"], ["a-2"]]
            types = [each.released.placed.event.type for each in after.accepted]
            assert types == ["Microsoft.Storage.BlobCreated", "Worker.Digest"]  # the first had been asked for alone
            await stage.end(claim)

    run(scene())


def test_shorter_waits_hold_for_what_is_held_and_longer_ones_do_not():
    async def scene():
        quick, slow = {**LONG["out"], "group_wait_seconds": 5}, LONG["out"]
        for first, second, seconds in ((slow, quick, 6), (quick, slow, 6)):
            after = FakeSink()
            stage = Stage({"out": FakeSink()}, window=0, quiet={"out": first})
            async with stage.open():
                claim = await begin(stage, "first", *run_of(3))
                await exchanged(stage, {"out": {"quiet": second}}, {"out": after})
                assert after.accepted == []
                await asyncio.sleep(seconds)
                assert [told(each) for each in after.accepted] == [["s0-1", "s1-1", "s2-1"]]
                await stage.end(claim)

    run(scene())


def test_a_mute_window_that_is_taken_away_does_not_hold_for_what_it_held():
    async def scene():
        muted = {"mute": [{"from": "00:00", "to": "23:59"}], "group_interval_seconds": 10}
        after = FakeSink()
        stage = Stage({"out": FakeSink()}, window=0, quiet={"out": muted})
        async with stage.open():
            claim = await begin(stage, "first", *run_of(3))
            await asyncio.sleep(60)
            assert all_told(stage) == []
            await exchanged(stage, {"out": {"quiet": {"group_interval_seconds": 10}}}, {"out": after})
            await asyncio.sleep(40)
            assert [told(each) for each in after.accepted] == [["s0-1", "s1-1", "s2-1"]]
            await stage.end(claim)

    run(scene())


def test_the_same_settings_change_nothing_of_what_is_held():
    async def scene():
        sink = FakeSink()
        stage = Stage({"out": sink}, window=0, quiet=GROUPED)
        async with stage.open():
            claim = await begin(stage, "first", *run_of(2))
            for _ in range(5):
                same = QuietSettings.model_validate(GROUPED["out"])
                await exchanged(stage, {"out": {"quiet": same.model_dump()}})
                await asyncio.sleep(1)
            assert sink.accepted == []
            await asyncio.sleep(6)
            assert [told(each) for each in sink.accepted] == [["s0-1", "s1-1"]]
            await settle_down()
            await stage.end(claim)

    run(scene())
