"""What a process knows of itself: real lanes, claims and dead letters on fakes, and what is seen of them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from tests.fakes import FakeSink
from tests.lanes import FakeOwner, LaneScene, ScriptedSink, job_of
from tests.pipeline.exchanges import configuration, exchanged, settings
from tests.pipeline.stage import PARTITION, START, Stage, blob_event, message
from tests.virtual_time import run, settle_down
from worker.claim import Claim
from worker.errors import Misconfigured, Rejected, SinkUnavailable, Throttled
from worker.lately import ATTEMPTS, LETTERS
from worker.plots import SAMPLE_SECONDS, SAMPLES
from worker.shown import Inside, Overview
from worker.status import LaneView, Level, Status

PAYLOAD = "the payload, which nobody may see here"


@asynccontextmanager
async def looked_at(stage: Stage) -> AsyncIterator[Overview]:
    """An overview of what is on the stage, which takes its samples."""
    overview = Overview(
        replace(configuration([settings("out")]), digest="as it began"),
        "worker-1",
        metrics=stage.metrics,
        health=stage.parts.health,
        clock=lambda: START + asyncio.get_running_loop().time(),
    )
    assert overview.status().partitions == (), "it can be asked before there is anything"
    inside = Inside(lambda: stage.claims, stage.rules, stage.letters.recent)
    task = asyncio.create_task(overview.run(inside))
    await settle_down(1)
    try:
        yield overview
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def lanes(status: Status) -> dict[str, LaneView]:
    return {lane.name: lane for lane in status.lanes}


def levels(status: Status) -> dict[str, tuple[str, Level]]:
    return {name: (lane.state, lane.level) for name, lane in lanes(status).items()}


def events(count: int, **more: Any) -> list[dict[str, Any]]:
    return [blob_event(f"blobs/{number}", 1, **more) for number in range(count)]


def test_what_has_happened_is_seen_newest_first_and_without_payload():
    async def scene():
        sinks = {"out": FakeSink(), "picky": FakeSink(refuse=lambda _: Rejected("picky: 422 no such thing"))}
        stage = Stage(sinks, window=0)
        async with stage.open(), looked_at(stage) as overview:
            claim = await stage.begin()
            await stage.play(claim, message(1, *events(2, data=PAYLOAD)), message(2, body=PAYLOAD.encode()))
            await asyncio.sleep(2)
            await stage.play(claim, message(3, blob_event("last", 1, data=PAYLOAD)))
            await asyncio.sleep(6)
            status, page = overview.status(), overview.page(refreshing=True)

            [partition] = status.partitions
            assert (partition.name, partition.state, partition.generation) == ("0", "reading", 1)
            assert (partition.lag_events, partition.in_flight, partition.held) == (0, 0, 0)
            assert (partition.window_seconds, status.digest) == (0, "digest")
            assert {(each.sink, each.subject, each.outcome, each.level) for each in status.attempts[:2]} == {
                ("picky", "last", "rejected", "bad"),
                ("out", "last", "accepted", "good"),
            }
            assert [each.at for each in status.attempts] == sorted((each.at for each in status.attempts), reverse=True)
            assert START <= status.attempts[-1].at <= status.attempts[0].at <= status.now
            assert [each.reason for each in status.letters[:1]] == ["rejected"]
            assert {(each.place, each.sink, each.subject) for each in status.letters} == {
                ("0/1", "picky", "blobs/0"),
                ("0/1", "picky", "blobs/1"),
                ("0/2", "", ""),
                ("0/3", "picky", "last"),
            }
            assert lanes(status)["picky"].error == "picky: 422 no such thing"
            assert PAYLOAD not in page
            assert "last-1" in page

    run(scene())


def test_what_is_wrong_with_a_lane_is_said():
    async def scene():
        sinks = {
            "refusing": FakeSink(refuse=lambda _: Misconfigured("refusing: 403 of https://h/?sig=hunter2hunter2")),
            "down": FakeSink(refuse=lambda _: SinkUnavailable("down: 503")),
            "held": FakeSink(),
            "out": FakeSink(),
        }
        stage = Stage(sinks, window=0, lane={"held": {"paused": True}, "out": {"dry_run": True}})
        async with stage.open(), looked_at(stage) as overview:
            claim = await stage.begin()
            await stage.play(claim, message(1, *events(8)))
            await asyncio.sleep(20)
            status = overview.status()

            assert levels(status) == {
                "refusing": ("paused: the destination refuses this worker", "bad"),
                "down": ("breaker open: the destination is down", "bad"),
                "held": ("held by its configuration", "note"),
                "out": ("free", "good"),
            }
            seen = lanes(status)
            assert seen["refusing"].error == "refusing: 403 of https://h/?sig=***"
            assert (seen["held"].queued, seen["out"].queued, seen["out"].kind) == (8, 0, "fake, dry run")
            assert seen["down"].oldest_seconds > 10
            assert "hunter2" not in overview.page(refreshing=True)
            assert status.headline == ("ready, needs a look", "note")

            await exchanged(stage, {"out": {}})
            assert {name: level for name, (_, level) in levels(overview.status()).items()} == {
                "out": "good",
                **dict.fromkeys(("refusing", "down"), "bad"),
                "held": "note",
            }
            assert overview.status().digest == "other"

    run(scene())


def test_a_lane_whose_sink_was_removed_is_seen_to_drain_and_then_no_more():
    async def scene():
        stage = Stage({"out": FakeSink(), "gone": FakeSink()}, window=0, limits={"drain_seconds": 3})
        async with stage.open(), looked_at(stage) as overview:
            await exchanged(stage, {"out": {}})
            assert levels(overview.status())["gone"][0].startswith("draining")
            await asyncio.sleep(4)
            assert set(levels(overview.status())) == {"out"}

    run(scene())


def test_why_a_partition_stands_still_and_that_it_is_taken_and_left_is_said():
    async def scene():
        stage = Stage(window=0)
        async with stage.open(), looked_at(stage) as overview:
            claim = await stage.begin()
            await stage.play(claim, *(message(number, body=b"junk") for number in range(150)))
            await asyncio.sleep(6)
            [partition] = overview.status().partitions
            assert (partition.state, partition.level) == ("stopped", "bad")
            assert "cannot be decoded; is this the right hub?" in partition.why

            claim.close()
            assert overview.status().partitions[0].state == "being left"
            await claim.done.wait()
            assert overview.status().partitions == []
            stage.claims = [Claim(PARTITION, "second", stage.parts)]
            assert [each.state for each in overview.status().partitions] == ["being taken"]
            assert overview.status().partitions[0].lag_events is None, "what is not ours yet has no numbers"

    run(scene())


def test_samples_of_an_hour_are_kept_and_no_more():
    async def scene():
        sink = FakeSink()
        stage = Stage({"out": sink}, window=0)
        async with stage.open(), looked_at(stage) as overview:
            claim = await stage.begin()
            for number in range(300):
                await stage.play(claim, message(number, blob_event(f"s{number}", 1)))
                await asyncio.sleep(SAMPLE_SECONDS)
            _, _, deliveries, _ = overview.status().plots
            assert deliveries.now == deliveries.highest == 60 / SAMPLE_SECONDS
            [line] = deliveries.lines
            assert SAMPLES - 2 <= len(line.split()) <= SAMPLES

            sink.open_gate.clear()
            await stage.play(claim, *(message(300 + n, blob_event(f"late{n}", 1)) for n in range(5)))
            await asyncio.sleep(120)
            lag, age, deliveries, oldest = overview.status().plots
            assert (lag.now, deliveries.now) == (5, 0)
            assert age.now > 90
            assert oldest.now > 90
            sink.open_gate.set()
            await settle_down()

    run(scene())


def failing(error: Exception) -> Callable[[], Exception]:
    return lambda: error


def test_what_is_remembered_is_bounded_however_much_an_event_says():
    async def scene():
        owner = FakeOwner()
        async with LaneScene(ScriptedSink(fail=failing(Rejected("x" * 10_000)))).running() as stage:
            for number in range(50):
                stage.lane.submit(job_of(owner, "s" * 5_000 + str(number), "i" * 5_000 + str(number)))
            await settle_down(200)
            assert len(owner.letters) == 50
            assert len(stage.lane.recent) == ATTEMPTS
            for each in stage.lane.recent:
                assert max(map(len, (each.subject, each.event_id, each.error))) <= 301

    run(scene())


def test_of_dead_letters_too():
    async def scene():
        stage = Stage({"out": FakeSink(refuse=lambda _: Rejected("x" * 10_000))}, window=0)
        async with stage.open():
            claim = await stage.begin()
            await stage.play(claim, message(1, *(blob_event("s" * 5_000 + str(n), 1) for n in range(LETTERS + 20))))
            await asyncio.sleep(1)
            assert len(stage.letters.recent) == LETTERS
            for each in stage.letters.recent:
                assert each.partition == PARTITION
                assert max(map(len, (each.subject, each.event_id, each.detail))) <= 301

    run(scene())


def test_an_attempt_that_asked_nobody_is_none():
    async def scene():
        owner, sink = FakeOwner(), ScriptedSink([(0.0, Throttled("the limit is reached", retry_after_seconds=10))])
        async with LaneScene(sink).running() as stage:
            stage.lane.submit(job_of(owner, "a", "a1"))
            await asyncio.sleep(5)
            assert stage.count("worker_deliveries_total", outcome="postponed") == 1
            assert list(stage.lane.recent) == []
            await asyncio.sleep(10)
            assert [each.outcome for each in stage.lane.recent] == ["accepted"]

    run(scene())
