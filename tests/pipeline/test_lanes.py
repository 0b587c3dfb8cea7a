"""Lanes under stress: budgets, the breaker, pauses, fairness between partitions, memory; in virtual time."""

import asyncio
import gc
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.fakes import FakeSink
from tests.lanes import FakeOwner, LaneScene, ScriptedSink, id_of, job_of
from tests.pipeline.stage import Stage, blob_event, message
from tests.virtual_time import run, settle_down
from worker.chains import Chain, Job
from worker.errors import Gone, Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable

MINUTE = 60.0
HOUR = 60 * MINUTE


def now() -> float:
    return asyncio.get_running_loop().time()


# --- budgets


@pytest.mark.parametrize(
    ("base", "outcome"),
    [(SinkUnavailable, "unavailable"), (OutcomeUnknown, "unknown"), (Misconfigured, "misconfigured")],
)
def test_a_sink_may_derive_errors_of_its_own(base, outcome):
    error = type("Own", (base,), {})("said in its own way")

    async def scene():
        sink, owner = ScriptedSink([(0.0, error)]), FakeOwner()
        async with LaneScene(sink).running() as stage:
            stage.lane.submit(job_of(owner, "a", "a1"))
            await asyncio.sleep(5)
            assert owner.accepted_ids == ["a1"]
            assert stage.count("worker_deliveries_total", outcome=outcome) == 1

    run(scene())


def test_a_delivery_is_given_up_after_so_many_attempts():
    async def scene():
        sink, owner = ScriptedSink(fail=lambda: SinkUnavailable("503")), FakeOwner()
        async with LaneScene(sink, retry={"max_attempts": 3}).running() as stage:
            stage.lane.submit(job_of(owner, "a", "a1"))
            await asyncio.sleep(MINUTE)
            assert owner.letters["a1"] == ("retries_exhausted", "3 attempts; the last: 503")
            assert len(sink.started) == 3

    run(scene())


def test_attempts_of_an_earlier_life_count_and_so_does_its_time():
    async def scene():
        sink, owner = ScriptedSink(fail=lambda: SinkUnavailable("503")), FakeOwner()
        async with LaneScene(sink, give_up_after_seconds=HOUR, retry={"max_attempts": 10}).running() as stage:
            stage.lane.submit(job_of(owner, "a", "a1", attempts=9, began_at=now() - 10))
            stage.lane.submit(job_of(owner, "b", "b1", attempts=2, began_at=now() - HOUR + 1))
            await asyncio.sleep(MINUTE)
            assert Counter(sink.ids)["a1"] == 1
            assert owner.letters["a1"][1].startswith("10 attempts")
            assert owner.letters["b1"][0] == "retries_exhausted"
            assert Counter(sink.ids)["b1"] <= 3

    run(scene())


def test_a_refusing_destination_uses_up_no_attempts_but_the_time_of_what_waits_though_nothing_is_tried():
    async def scene():
        sink, owner = ScriptedSink(fail=lambda: Misconfigured("401")), FakeOwner()
        scenery = LaneScene(sink, give_up_after_seconds=20 * MINUTE, concurrency=4, retry={"max_attempts": 2})
        async with scenery.running() as stage:
            for number in range(50):
                stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
            await asyncio.sleep(19 * MINUTE)
            assert owner.ended == 0
            assert stage.count("worker_lane_paused") == 1
            await asyncio.sleep(2 * MINUTE)
            assert len(owner.letters) == 50
            reason, detail = owner.letters["e49"]
            assert (reason, "401" in detail, "0 attempts" in detail) == ("retries_exhausted", True, True)
            assert len(sink.started) < 30
            assert stage.count("worker_lane_queued_events") == 0

    run(scene())


def test_a_delivery_whose_time_passes_while_it_is_tried_is_not_given_up_before_the_attempt_has_ended():
    async def scene():
        dead = True
        sink = ScriptedSink(fail=lambda: SinkUnavailable("503") if dead else None)
        owner = FakeOwner()
        async with LaneScene(sink, give_up_after_seconds=100, concurrency=4).running() as stage:
            for number in range(8):
                stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
            await asyncio.sleep(60)
            assert stage.count("worker_lane_down") == 1
            dead, sink.seconds = False, 90.0
            await asyncio.sleep(300)
            assert len(owner.accepted_ids) == 1  # the probe; what could not be tried meanwhile was given up
            assert len(owner.letters) == 7

    run(scene())


def test_what_waited_behind_an_event_that_took_all_its_time_has_used_its_own_but_is_tried():
    async def scene():
        sink, owner = ScriptedSink(fail=lambda: SinkUnavailable("500 for this subject")), FakeOwner()
        async with LaneScene(sink, give_up_after_seconds=10 * MINUTE).running() as stage:
            for number in range(5):
                stage.lane.submit(job_of(owner, "a", f"a{number}"))
            await asyncio.sleep(12 * MINUTE)
            assert list(owner.letters) == ["a0", "a1", "a2", "a3", "a4"]
            assert all(1 <= Counter(sink.ids)[f"a{number}"] <= 5 for number in range(1, 5))

    run(scene())


def test_a_lane_that_is_paused_by_configuration_gives_nothing_up():
    async def scene():
        sink, owner = ScriptedSink(), FakeOwner()
        async with LaneScene(sink, give_up_after_seconds=MINUTE, paused=True).running() as stage:
            stage.lane.submit(job_of(owner, "a", "a1"))
            await asyncio.sleep(HOUR)
            assert (owner.ended, sink.started) == (0, [])
            assert stage.count("worker_lane_oldest_seconds") >= HOUR - MINUTE

    run(scene())


def test_at_half_of_its_time_a_waiting_delivery_is_warned_of_once():
    async def scene():
        broken = True
        sink = ScriptedSink(fail=lambda: SinkUnavailable("503") if broken else None)
        owner = FakeOwner()
        with capture_logs() as lines:
            async with LaneScene(sink, give_up_after_seconds=HOUR).running() as stage:
                stage.lane.submit(job_of(owner, "a", "a1"))
                await asyncio.sleep(29 * MINUTE)
                said = [line for line in lines if line["event"] == "deliveries wait for long"]
                assert said == []
                await asyncio.sleep(29 * MINUTE)
                [said] = [line for line in lines if line["event"] == "deliveries wait for long"]
                assert (said["given_up_after_seconds"], said["error"]) == (HOUR, "503")
                assert stage.count("worker_lane_oldest_seconds") == pytest.approx(58 * MINUTE, abs=6)
                broken = False
                await asyncio.sleep(2 * MINUTE)
                assert owner.accepted_ids == ["a1"]
                assert stage.count("worker_lane_oldest_seconds") == 0

    run(scene())


# --- the breaker


def test_a_dead_destination_gets_one_probe_at_a_time_with_a_growing_pause_and_recovers_with_the_first_success():
    async def scene():
        dead = True
        sink = ScriptedSink(fail=lambda: SinkUnavailable("connection refused") if dead else None)
        owner = FakeOwner()
        async with LaneScene(sink).running() as stage:
            for number in range(500):
                stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
            await asyncio.sleep(MINUTE)
            assert stage.count("worker_lane_down") == 1
            began = len(sink.started)
            assert began <= 16 + 4 + 8  # what began before the fifth failure, and the first probes
            sink.seconds, sink.most_under_way = 5.0, 0
            await asyncio.sleep(10 * MINUTE)
            assert sink.most_under_way == 1
            probes = [at for at, _ in sink.started[began:]]
            assert 600 / 35 - 1 <= len(probes) <= 600 / 20 + 1
            assert all(later - earlier >= 15 for earlier, later in pairwise(probes[2:]))
            dead, sink.seconds = False, 0.0
            await asyncio.sleep(2 * MINUTE)
            assert len(owner.accepted_ids) == 500
            assert stage.count("worker_lane_down") == 0

    run(scene())


def test_one_failing_subject_does_not_open_the_breaker():
    async def scene():
        sink = FakeSink(refuse=lambda each: SinkUnavailable("500") if id_of(each).startswith("bad") else None)
        owner = FakeOwner()
        async with LaneScene(sink).running() as stage:
            stage.lane.submit(job_of(owner, "bad", "bad1"))
            for second in range(300):
                if second % 60 == 0:
                    stage.lane.submit(job_of(owner, f"s{second}", f"e{second}"))
                await asyncio.sleep(1)
                assert stage.count("worker_lane_down") == 0
            assert len(owner.accepted_ids) == 5

    run(scene())


def test_retry_after_binds_the_whole_lane_once_several_subjects_were_told():
    async def scene():
        until = now() + 295
        busy = SinkUnavailable("429", retry_after_seconds=300)
        sink, owner = ScriptedSink(fail=lambda: busy if now() < until else None), FakeOwner()
        async with LaneScene(sink, concurrency=4).running() as stage:
            for number in range(100):
                stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
            await asyncio.sleep(299)
            assert len(sink.started) <= 4 + 3
            await asyncio.sleep(10)
            assert len(owner.accepted_ids) == 100

    run(scene())


def test_retry_after_to_one_subject_binds_that_subject_only():
    async def scene():
        sink = ScriptedSink([(0.1, SinkUnavailable("429", retry_after_seconds=300))])
        owner = FakeOwner()
        async with LaneScene(sink, concurrency=4).running() as stage:
            for number in range(100):
                stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
            await asyncio.sleep(200)
            assert len(owner.accepted_ids) == 99
            await asyncio.sleep(110)
            assert len(owner.accepted_ids) == 100

    run(scene())


def test_a_probe_whose_partition_has_gone_leaves_the_probing_to_the_next():
    async def scene():
        dead = True
        sink = ScriptedSink(fail=lambda: OutcomeUnknown("timeout") if dead else None)
        gone, lease_lost, here = FakeOwner("gone"), FakeOwner("lost"), FakeOwner("here")
        async with LaneScene(sink, concurrency=2).running() as stage:
            for number in range(50):
                for owner in (gone, lease_lost, here):
                    stage.lane.submit(job_of(owner, f"s{number}", f"{owner.name}{number}"))
            await asyncio.sleep(MINUTE)
            assert stage.count("worker_lane_down") == 1
            gone.close(stage.lane)
            lease_lost.lease = False
            dead = False
            await asyncio.sleep(MINUTE)
            assert len(here.accepted_ids) == 50
            assert gone.ended == 0

    run(scene())


def test_a_rejection_shows_that_the_destination_is_alive():
    async def scene():
        answers = SinkUnavailable("503")
        sink, owner = ScriptedSink(fail=lambda: answers), FakeOwner()
        async with LaneScene(sink, concurrency=8).running() as stage:
            for number in range(40):
                stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
            await settle_down()
            assert stage.count("worker_lane_down") == 1
            answers = Rejected("400")
            await asyncio.sleep(5)
            assert stage.count("worker_lane_down") == 0
            assert [reason for reason, _ in owner.letters.values()] == ["rejected"] * 40

    run(scene())


def test_the_rate_holds_also_when_the_breaker_closes():
    async def scene():
        dead = True
        sink = ScriptedSink(fail=lambda: SinkUnavailable("503") if dead else None)
        owner = FakeOwner()
        async with LaneScene(sink, rate=10).running() as stage:
            for number in range(200):
                stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
            await asyncio.sleep(MINUTE)
            dead, began = False, len(sink.started)
            await asyncio.sleep(MINUTE)
            assert len(owner.accepted_ids) == 200
            times = [at for at, _ in sink.started[began:]]
            assert all(later - earlier > 0.99 for earlier, later in zip(times, times[10:], strict=False))

    run(scene())


# --- fairness, bounds


def test_a_partition_with_a_long_queue_does_not_delay_another_ones_event_by_more_than_its_share():
    async def scene():
        sink, long, short = ScriptedSink(), FakeOwner("long"), FakeOwner("short")
        sink.seconds = 1.0
        async with LaneScene(sink, concurrency=4).running() as stage:
            for number in range(2000):
                stage.lane.submit(job_of(long, f"s{number}", f"long{number}"))
            await asyncio.sleep(10.5)
            for number in range(6):
                stage.lane.submit(job_of(short, f"s{number}", f"short{number}"))
            await asyncio.sleep(4.6)
            assert len(short.accepted_ids) == 6  # two of four places, one second each: three seconds, and one to wait
            assert len(long.accepted_ids) >= 48

    run(scene())


def test_memory_stays_flat_while_a_sink_is_down_for_an_hour():
    """Events go on to come, and other sinks to take them, until the bound; then nothing grows any more."""

    async def scene():
        before = _alive()
        down = FakeSink(refuse=lambda _: SinkUnavailable("503"))
        limits, patience = {"in_flight": 300}, {"retry": {"give_up_after_seconds": 2 * HOUR}}
        async with Stage({"out": down, "fine": FakeSink()}, window=0, limits=limits, lanes=patience).open() as stage:
            claim = await stage.begin()

            async def feed() -> None:
                for number in range(100_000):
                    await claim.feed.put([message(number, blob_event(f"s{number % 1000}", number))], number)

            feeding = asyncio.create_task(feed())
            seen = []
            for _ in range(7):
                await asyncio.sleep(10 * MINUTE)
                del down.attempts[:]  # the fake's own record
                seen.append(_alive() - before)
                assert stage.count("worker_in_flight_events", partition="0") in (299, 300)  # shown now and then
                assert stage.count("worker_lane_queued_events", sink="out") == 300
            feeding.cancel()
            assert max(each["jobs"] for each in seen) == 300, seen
            assert max(each["chains"] for each in seen) <= 300 + 2 * 16, seen  # each worker may remember its last one
            assert max(each["timers"] for each in seen) <= 300, seen
            assert all(each["jobs"] == seen[0]["jobs"] for each in seen), seen
            assert await stage.dead_letters() == []

    run(scene())


def _alive() -> Counter[str]:
    """What there is; tests of processes that die leave some of it behind."""
    gc.collect()
    kinds = Counter(type(each) for each in gc.get_objects())
    timers = len(asyncio.get_running_loop()._scheduled)  # type: ignore[attr-defined]  # what is asked here
    return Counter({"jobs": kinds[Job], "chains": kinds[Chain], "timers": timers})


@pytest.mark.parametrize("paused", [False, True])
def test_partitions_that_come_and_go_leave_nothing_in_a_lane_that_is_stopped(paused):
    async def scene():
        before = _alive()
        sink = ScriptedSink(fail=lambda: Misconfigured("401"))
        async with LaneScene(sink, concurrency=4, paused=paused).running() as stage:
            for _ in range(50):
                owner = FakeOwner()
                for number in range(100):
                    stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
                await asyncio.sleep(MINUTE)
                owner.close(stage.lane)
            del owner
            await asyncio.sleep(10 * MINUTE)
            assert stage.count("worker_lane_queued_events") == 0
            assert (_alive() - before)["chains"] <= 4  # empty, in the hands of workers that wait at the gate

    run(scene())


# --- any history


ERRORS = {
    "accepted": lambda: None,
    "unavailable": lambda: SinkUnavailable("503"),
    "told to wait": lambda: SinkUnavailable("429", retry_after_seconds=40),
    "unknown": lambda: OutcomeUnknown("timeout"),
    "rejected": lambda: Rejected("400"),
    "misconfigured": lambda: Misconfigured("401"),
}
OWNERS = st.integers(0, 2)
ACTIONS = st.one_of(
    st.tuples(st.just("submit"), OWNERS, st.integers(0, 4)),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.3, 2.0, 20.0, 200.0]), st.just(0)),
    st.tuples(st.sampled_from(["close", "abort", "shed"]), OWNERS, st.just(0)),
)
ENDS = st.tuples(st.sampled_from([0.0, 0.1, 3.0]), st.sampled_from([*ERRORS, "accepted", "accepted"]))
GONE = st.tuples(st.integers(0, 40), st.sampled_from([0.0, 3.0]))
"""After how many attempts the destination is gone for good, and how long it takes to say so."""


class _WatchedSink(ScriptedSink):
    """Sees that a subject of an owner is never tried twice at one time, and nothing of an owner that was closed or to
    a destination that is gone."""

    def __init__(self, script: list[tuple[float, Exception | None]], owner_of: dict[int, FakeOwner]) -> None:
        super().__init__(script)
        self._owner_of = owner_of
        self._gone = False

    async def deliver(self, delivery) -> None:
        assert not self._gone, "an attempt started though the destination had said that it is gone"
        owner = self._owner_of[id(delivery)]
        assert not owner.closed, "an attempt of a closed owner started"
        same = [
            each
            for each in self.under_way
            if self._owner_of[id(each)] is owner and each.released.placed.event.subject == _subject(delivery)
        ]
        assert not same, "two attempts of one subject at one time"
        try:
            await super().deliver(delivery)
        except Gone:
            self._gone = True
            raise


def _subject(delivery) -> str | None:
    return delivery.released.placed.event.subject


class History:
    """Three partitions on one lane, and what is done to them."""

    def __init__(self, ends: list[tuple[float, str]], **configured: object) -> None:
        self.owners = [FakeOwner(f"o{number}-") for number in range(3)]
        self.jobs: dict[FakeOwner, list[Job]] = {owner: [] for owner in self.owners}
        self._owner_of: dict[int, FakeOwner] = {}
        self.sink = _WatchedSink([(seconds, ERRORS[end]()) for seconds, end in ends], self._owner_of)
        self.stage = LaneScene(self.sink, give_up_after_seconds=100, overflow="dead_letter", **configured)

    def submit(self, owner: FakeOwner, subject: int) -> None:
        if not owner.closed:
            job = job_of(owner, f"s{subject}", f"{owner.name}{len(self.jobs[owner])}")
            self.jobs[owner].append(job)
            self._owner_of[id(job.delivery)] = owner
            self.stage.lane.submit(job)

    def close(self, owner: FakeOwner, _: int) -> None:
        owner.close(self.stage.lane)

    def abort(self, owner: FakeOwner, _: int) -> None:
        if owner.closed:
            owner.abort()

    def shed(self, owner: FakeOwner, _: int) -> None:
        self.stage.lane.shed(owner, at_least=3)

    def check(self, owner: FakeOwner) -> None:
        jobs = self.jobs[owner]
        assert owner.closed or owner.ended == len(jobs)  # FakeOwner sees to it that none ends twice
        subject_of = {id_of(job.delivery): _subject(job.delivery) for job in jobs}
        for subject in set(subject_of.values()):
            submitted = [each for each in subject_of if subject_of[each] == subject]
            accepted = [each for each in owner.accepted_ids if subject_of[each] == subject]
            assert accepted == [each for each in submitted if each in accepted]
        for job in jobs:
            assert job.attempts == self.sink.ids.count(id_of(job.delivery))


async def _play(history: History, actions: list[tuple[str, float, int]]) -> None:
    async with history.stage.running() as stage:
        for kind, which, subject in actions:
            if kind == "wait":
                await asyncio.sleep(which)
            else:
                getattr(history, kind)(history.owners[int(which)], subject)
        await asyncio.sleep(HOUR)
        assert stage.count("worker_lane_queued_events") == 0
    for owner in history.owners:
        history.check(owner)


@settings(deadline=None, max_examples=150)
@given(st.lists(ACTIONS, max_size=60), st.lists(ENDS, max_size=80), st.integers(1, 6), st.sampled_from([None, 1, 4]))
def test_in_any_history_a_subject_keeps_its_order_and_each_delivery_ends_once(actions, ends, concurrency, most):
    run(_play(History(ends, concurrency=concurrency, retry={"max_attempts": most}), actions))


@settings(deadline=None, max_examples=50)
@given(st.lists(ACTIONS, max_size=60), st.lists(ENDS, min_size=40, max_size=80), st.integers(1, 6), GONE)
def test_so_it_is_when_the_destination_goes_for_good(actions, ends, concurrency, gone):
    async def scene():
        after, seconds = gone
        history = History(ends, concurrency=concurrency)
        history.sink._script.insert(after, (seconds, Gone("410")))
        await _play(history, actions)

    run(scene())
