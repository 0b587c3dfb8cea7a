"""Destinations that say that they are gone for good: nothing more is sent, nothing waits, nothing is lost."""

import asyncio

import pytest
from structlog.testing import capture_logs

from tests.fakes import FakeSink
from tests.lanes import FakeOwner, LaneScene, ScriptedSink, job_of
from tests.memory_store import Contents, MemoryStore
from tests.pipeline.digests import AT_ONCE, begin, run_of
from tests.pipeline.stage import Stage, blob_event, message
from tests.pipeline.test_replay import LOOK_SECONDS, ask, looking
from tests.virtual_time import run, settle_down
from worker.errors import Gone, Misconfigured, OutcomeUnknown, SinkUnavailable
from worker.ledger import Ledger
from worker.metrics import Metrics
from worker.settings import SinkSettings

HOUR = 3600.0
GONE = Gone("out: 410 Gone")


def reasons(owner: FakeOwner) -> set[str]:
    return {reason for reason, _ in owner.letters.values()}


def test_after_one_410_what_waits_and_what_comes_becomes_a_dead_letter_and_nothing_more_is_sent():
    async def scene():
        sink, owner, other = ScriptedSink(fail=lambda: GONE), FakeOwner(), FakeOwner("other")
        with capture_logs() as lines:
            async with LaneScene(sink, concurrency=1).running() as stage:
                for number in range(50):
                    stage.lane.submit(job_of(owner, f"s{number % 10}", f"e{number}"))
                await settle_down(200)
                assert len(owner.letters) == 50
                assert (len(sink.started), reasons(owner)) == (1, {"gone"})
                assert owner.letters["e0"] == ("gone", "out: 410 Gone")
                assert owner.letters["e49"] == ("gone", "not sent: out: 410 Gone")
                await asyncio.sleep(HOUR)
                stage.lane.submit(job_of(other, "s1", "later"))
                await settle_down()
                assert other.letters["later"][0] == "gone"
                assert len(sink.started) == 1
                assert stage.count("worker_lane_gone") == 1
                assert (stage.count("worker_lane_paused"), stage.count("worker_lane_down")) == (0, 0)
                assert stage.count("worker_lane_queued_events") == 0
                assert stage.count("worker_deliveries_total", outcome="gone") == 1
        [line] = [line for line in lines if line["log_level"] in ("warning", "error")]
        assert (line["event"], line["error"]) == ("lane ended: the destination is gone", "out: 410 Gone")

    run(scene())


def test_attempts_under_way_end_as_they_do_and_none_of_them_brings_the_lane_back():
    async def scene():
        script = [
            (1.0, GONE),
            (2.0, None),
            (3.0, SinkUnavailable("503", retry_after_seconds=600)),
            (4.0, Misconfigured("401")),
            (2.5, GONE),
            (6.0, OutcomeUnknown("lost")),
        ]
        sink, owner = ScriptedSink(script), FakeOwner()
        async with LaneScene(sink, concurrency=6).running() as stage:
            for number in range(6):
                stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
                stage.lane.submit(job_of(owner, f"s{number}", f"next{number}"))
            await asyncio.sleep(7)
            assert owner.accepted_ids == ["e1"]
            assert (len(owner.letters), reasons(owner)) == (11, {"gone"})
            assert len(sink.started) == 6
            assert stage.count("worker_lane_gone") == 1

    run(scene())


def test_what_waits_to_be_tried_again_or_for_its_pace_does_not_wait_until_then():
    async def scene():
        script = [(0.0, SinkUnavailable("429", retry_after_seconds=600)), (0.0, GONE)]
        sink, owner = ScriptedSink(script), FakeOwner()
        async with LaneScene(sink, concurrency=4, rate=0.1).running() as stage:
            for number in range(20):
                stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
            await asyncio.sleep(11)
            assert (len(owner.letters), reasons(owner)) == (20, {"gone"})
            assert len(sink.started) == 2

    run(scene())


class FullSink(ScriptedSink):
    """Has a limit of its own, which leaves nothing for an hour after the second attempt."""

    def wait_seconds(self) -> float:
        return HOUR if len(self.started) >= 2 else 0.0


def test_what_waits_for_the_sinks_own_limit_does_not_wait_until_then():
    async def scene():
        sink, owner = FullSink([(1.0, None), (2.0, GONE)]), FakeOwner()
        async with LaneScene(sink, concurrency=4).running() as stage:
            for number in range(20):
                stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
            await asyncio.sleep(3)
            assert (len(owner.letters), len(owner.accepted_ids)) == (19, 1)

    run(scene())


@pytest.mark.parametrize("error", [SinkUnavailable("503"), Misconfigured("401")])
def test_a_probe_may_be_told_so_too(error):
    async def scene():
        answers: list[Exception] = [error]
        sink, owner = ScriptedSink(fail=lambda: answers[-1]), FakeOwner()
        async with LaneScene(sink, concurrency=4).running() as stage:
            for number in range(30):
                stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
            await asyncio.sleep(30)
            assert stage.count("worker_lane_down") + stage.count("worker_lane_paused") == 1
            asked = len(sink.started)
            answers.append(GONE)
            await asyncio.sleep(90)
            assert len(sink.started) == asked + 1
            assert (len(owner.letters), reasons(owner)) == (30, {"gone"})
            assert stage.count("worker_lane_down") + stage.count("worker_lane_paused") == 0

    run(scene())


def test_a_probe_that_ends_after_it_was_told_does_not_bring_the_lane_back():
    async def scene():
        sink, owner = ScriptedSink([(10.0, GONE)], fail=lambda: SinkUnavailable("503")), FakeOwner()
        async with LaneScene(sink, concurrency=8).running() as stage:
            for number in range(30):
                stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
            await settle_down()
            assert stage.count("worker_lane_down") == 1
            sink.seconds = 4.0
            await asyncio.sleep(9.9)
            assert len(sink.under_way) == 2  # the first attempt, and a probe
            asked = len(sink.started)
            await asyncio.sleep(600)
            assert len(sink.started) == asked
            assert (len(owner.letters), reasons(owner)) == (30, {"gone"})
            assert (stage.count("worker_lane_gone"), stage.count("worker_lane_down")) == (1, 0)

    run(scene())


def test_a_lane_that_is_paused_holds_its_events_and_does_not_learn_it():
    async def scene():
        sink, owner = ScriptedSink(fail=lambda: GONE), FakeOwner()
        async with LaneScene(sink, paused=True).running() as stage:
            stage.lane.submit(job_of(owner, "a", "a1"))
            await asyncio.sleep(HOUR)
            assert (owner.ended, sink.started) == (0, [])
            assert stage.count("worker_lane_gone") == 0

    run(scene())


def test_what_was_unknown_before_stays_so():
    """The dead letter says that somebody has to look there."""

    async def scene():
        sink, owner = ScriptedSink([(0.0, OutcomeUnknown("lost")), (0.1, GONE)]), FakeOwner()
        settings = SinkSettings(name="out", kind="fake")
        ledger = Ledger(MemoryStore(Contents()), settings, sink, by="p", metrics=Metrics())
        async with LaneScene(sink, ledger=ledger, concurrency=2).running() as stage:
            stage.lane.submit(job_of(owner, "a", "lost"))
            stage.lane.submit(job_of(owner, "b", "b1"))
            await asyncio.sleep(60)
            assert {event: reason for event, (reason, _) in owner.letters.items()} == {
                "lost": "unknown_outcome",
                "b1": "gone",
            }

    run(scene())


def test_an_intent_that_was_being_written_when_it_was_told_is_not_acted_on():
    async def scene():
        sink, owner = ScriptedSink([(1.0, GONE)]), FakeOwner()
        store = SlowStore(Contents())
        ledger = Ledger(store, SinkSettings(name="out", kind="fake"), sink, by="p", metrics=Metrics())
        async with LaneScene(sink, ledger=ledger, concurrency=2).running() as stage:
            stage.lane.submit(job_of(owner, "a", "a1"))
            await asyncio.sleep(0.5)
            store.seconds = 2.0
            stage.lane.submit(job_of(owner, "b", "b1"))
            await asyncio.sleep(0.1)
            store.seconds = 0.0
            await asyncio.sleep(60)
            assert reasons(owner) == {"gone"}
            assert sink.ids == ["a1"]

    run(scene())


class SlowStore(MemoryStore):
    seconds = 0.0

    async def _reach(self, name: str) -> None:
        await asyncio.sleep(self.seconds)


def test_an_owner_that_leaves_in_the_middle_takes_its_deliveries_along():
    async def scene():
        sink, leaving, staying = ScriptedSink([(1.0, GONE), (5.0, None)]), FakeOwner("leaving"), FakeOwner("staying")
        async with LaneScene(sink, concurrency=2).running() as stage:
            for owner in (leaving, staying):
                for number in range(20):
                    stage.lane.submit(job_of(owner, f"s{number}", f"{owner.name}{number}"))
            await asyncio.sleep(0.5)
            leaving.close(stage.lane)
            await asyncio.sleep(10)
            assert leaving.ended == 1  # it was under way
            assert staying.ended == 20
            assert stage.count("worker_lane_queued_events") == 0

    run(scene())


# --- with a partition


def gone_after(accepted: int) -> FakeSink:
    sink = FakeSink()
    sink._refuse = lambda _: GONE if len(sink.accepted) >= accepted else None
    return sink


def test_a_partition_that_may_be_anothers_is_left_to_that_one_which_may_know_another_way():
    async def scene():
        sink, owner, frozen = ScriptedSink(fail=lambda: GONE), FakeOwner(), FakeOwner("frozen")
        async with LaneScene(sink).running() as stage:
            stage.lane.submit(job_of(owner, "a", "a1"))
            await settle_down()
            frozen.lease = False
            for subject in ("b", "c"):
                stage.lane.submit(job_of(frozen, subject, subject))
            await asyncio.sleep(60)
            assert frozen.ended == 0
            frozen.lease = True
            await asyncio.sleep(1)
            assert (len(frozen.letters), reasons(frozen)) == (2, {"gone"})
            frozen.lease = False
            stage.lane.submit(job_of(frozen, "b", "b2"))
            await asyncio.sleep(1)
            frozen.close(stage.lane)
            await asyncio.sleep(1)
            assert frozen.ended == 2
            assert stage.count("worker_lane_queued_events") == 0

    run(scene())


def test_nothing_is_held_up_and_the_other_sinks_go_on():
    async def scene():
        sinks = {"out": gone_after(3), "fine": FakeSink()}
        async with Stage(sinks, window=0, limits={"in_flight": 10}, lanes={"concurrency": 1}).open() as stage:
            claim = await stage.begin()
            for number in range(200):
                await stage.play(claim, message(number, blob_event(f"s{number % 20}", number)))
            await asyncio.sleep(10)
            assert await stage.checkpoint() == 199
            assert len(sinks["fine"].ids) == 200
            assert len(sinks["out"].attempts) == 4
            letters = await stage.dead_letters()
            assert sorted(letter.sequence_number for letter in letters) == list(range(3, 200))
            assert {(letter.reason, letter.sink) for letter in letters} == {("gone", "out")}
            assert stage.count("worker_dead_letters_total", reason="gone", sink="out") == 197

    run(scene())


def test_a_stop_in_the_middle_loses_nothing_and_sends_nothing_twice():
    async def scene():
        sink = gone_after(3)
        first = Stage({"out": sink}, window=0, lanes={"concurrency": 1})
        async with first.open() as stage:
            claim = await stage.begin()
            await claim.feed.put([message(number, blob_event(f"s{number}", 1)) for number in range(50)], 49)
            while not sink.attempts[3:]:
                await asyncio.sleep(0)
            await stage.end(claim)
        again = FakeSink()
        async with Stage({"out": again}, store=first.store, window=0).open() as stage:
            claim = await stage.begin("second")
            await stage.play(claim, *(message(number, blob_event(f"s{number}", 1)) for number in range(50)))
            await asyncio.sleep(10)
            assert await stage.checkpoint() == 49
            letters = [letter.sequence_number for letter in await stage.dead_letters()]
            reached = [each.released.placed.position.sequence_number for each in (*sink.accepted, *again.accepted)]
            assert sorted(reached + letters) == list(range(50))

    run(scene())


def test_an_operator_can_replay_them_when_the_worker_was_started_again():
    async def scene():
        first = Stage({"out": gone_after(0)}, window=0)
        async with first.open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)), message(1, blob_event("a", 2)))
            await asyncio.sleep(5)
            [one, *_] = await stage.dead_letters()
            async with looking(stage, claim):
                await ask(stage, one)
                await asyncio.sleep(LOOK_SECONDS)
            assert len(await stage.dead_letters()) == 2  # too early
            assert len(stage.sinks["out"].attempts) == 1
            await stage.end(claim)
        sink = FakeSink()
        async with Stage({"out": sink}, store=first.store, window=0).open() as stage:
            claim = await stage.begin("second")
            async with looking(stage, claim):
                await ask(stage, *await stage.dead_letters())
                await asyncio.sleep(LOOK_SECONDS)
            assert sorted(sink.ids) == ["a-1", "a-2"]
            assert await stage.dead_letters() == []

    run(scene())


def test_digests_become_dead_letters_that_name_their_events():
    async def scene():
        sink = gone_after(0)
        async with Stage({"out": sink}, window=0, quiet=AT_ONCE).open() as stage:
            claim = await begin(stage, "first", *run_of(5))
            await asyncio.sleep(10)
            await stage.play(claim, *run_of(5, first=5))
            await asyncio.sleep(10)
            assert await stage.checkpoint() == 9
            assert len(sink.attempts) == 1
            letters = await stage.dead_letters()
            assert {letter.reason for letter in letters} == {"gone"}
            told = "".join(letter.body.decode() for letter in letters)
            assert all(f"s{number}-1" in told for number in range(10))

    run(scene())


def test_a_sink_that_tells_some_alone_and_is_full_of_held_events_does_not_stand_still(monkeypatch):
    monkeypatch.setattr("worker.groups.HELD_EVENTS", 5)

    async def scene():
        sink = gone_after(1)
        quiet = {"out": {"limit": {"messages": 1, "per_seconds": 60}, "group_interval_seconds": 1}}
        async with Stage({"out": sink}, window=0, quiet=quiet, limits={"in_flight": 10}).open() as stage:
            claim = await stage.begin()
            for each in run_of(60):
                await stage.play(claim, each)
                await asyncio.sleep(2)
            await asyncio.sleep(200)
            assert await stage.checkpoint() == 59
            assert len(sink.attempts) == 2
            assert {letter.reason for letter in await stage.dead_letters()} == {"gone"}

    run(scene())
