"""Destinations that take a delivery and are at work for long: the lane asks how it stands, and that is no failure."""

import asyncio
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from tests.fakes import FakeSink
from tests.lanes import FakeOwner, LaneScene, ScriptedSink, id_of, job_of
from tests.memory_store import Contents, MemoryStore
from tests.pipeline.stage import Stage, blob_event, message
from tests.virtual_time import run, settle_down
from worker.errors import InProgress, Rejected, SinkUnavailable, Throttled
from worker.ledger import Ledger
from worker.metrics import Metrics
from worker.settings import SinkSettings
from worker.sinks import Delivery
from worker.sinks.limiter import Rate, TokenBuckets

MINUTE, HOUR = 60.0, 3600.0
ASK_SECONDS = 30.0


def at_work() -> InProgress:
    return InProgress("creating", retry_after_seconds=ASK_SECONDS)


class SlowService(FakeSink):
    """Is at work on each event for so long, from when it was first asked; some it never ends."""

    def __init__(self, seconds: float, *, never: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._seconds = seconds
        self._never = never
        self._began: dict[str, float] = {}
        self.asked: list[tuple[float, str]] = []

    async def deliver(self, delivery: Delivery) -> None:
        now, event_id = asyncio.get_running_loop().time(), id_of(delivery)
        self.asked.append((now, event_id))
        if event_id in self._never or now < self._began.setdefault(event_id, now) + self._seconds:
            raise at_work()
        await super().deliver(delivery)

    def times(self, event_id: str) -> list[float]:
        return [at for at, asked in self.asked if asked == event_id]


def test_it_is_asked_every_so_often_and_accepted_when_it_is_done():
    async def scene():
        sink, owner = SlowService(20 * MINUTE), FakeOwner()
        async with LaneScene(sink, give_up_after_seconds=HOUR).running() as stage:
            stage.lane.submit(job_of(owner, "a", "a1"))
            await asyncio.sleep(19 * MINUTE)
            assert owner.ended == 0
            await asyncio.sleep(2 * MINUTE)
            assert owner.accepted_ids == ["a1"]
            assert {later - earlier for earlier, later in pairwise(sink.times("a1"))} == {ASK_SECONDS}
            assert stage.count("worker_deliveries_total", outcome="in_progress") == 40
            assert stage.count("worker_deliveries_total", outcome="accepted") == 1

    run(scene())


def test_why_it_takes_so_long_is_logged_when_that_changes_and_not_each_time():
    async def scene():
        creating, updating = at_work(), InProgress("updating", retry_after_seconds=ASK_SECONDS)
        sink, owner = ScriptedSink([(0, error) for error in [creating] * 3 + [updating] * 3]), FakeOwner()
        async with LaneScene(sink, give_up_after_seconds=HOUR).running() as stage:
            job = job_of(owner, "a", "a1")
            with capture_logs() as logs:
                stage.lane.submit(job)
                await asyncio.sleep(10 * MINUTE)
        said = [(line["key"], line["why"]) for line in logs if line["event"] == "delivery in progress"]
        assert said == [(job.delivery.idempotency_key, why) for why in ("creating", "updating")]
        assert owner.accepted_ids == ["a1"]

    run(scene())


def test_a_sink_that_wants_to_be_asked_at_once_is_not_asked_all_the_time():
    async def scene():
        sink, owner = ScriptedSink(fail=lambda: InProgress("look again", retry_after_seconds=0)), FakeOwner()
        async with LaneScene(sink).running() as stage:
            stage.lane.submit(job_of(owner, "a", "a1"))
            await asyncio.sleep(10)
            assert 10 <= len(sink.started) <= 21

    run(scene())


@pytest.mark.parametrize(("most", "ends"), [(2, ("retries_exhausted", "2 attempts; the last: 503")), (3, None)])
def test_asking_uses_up_no_attempts_and_a_failure_in_between_does(most, ends):
    async def scene():
        script = [at_work(), at_work(), SinkUnavailable("503"), at_work(), at_work(), SinkUnavailable("503"), at_work()]
        sink, owner = ScriptedSink([(0, error) for error in script]), FakeOwner()
        async with LaneScene(sink, give_up_after_seconds=HOUR, retry={"max_attempts": most}).running() as stage:
            stage.lane.submit(job_of(owner, "a", "a1"))
            await asyncio.sleep(10 * MINUTE)
        assert owner.letters.get("a1") == ends
        assert owner.ended == 1

    run(scene())


def test_it_is_no_failure_for_the_breaker_and_a_probe_that_finds_the_destination_at_work_closes_it():
    async def scene():
        down = False
        sink, owner = ScriptedSink(fail=lambda: SinkUnavailable("503") if down else at_work()), FakeOwner()
        async with LaneScene(sink, give_up_after_seconds=HOUR, concurrency=4).running() as stage:
            for number in range(20):
                stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
            for _ in range(20):
                await asyncio.sleep(ASK_SECONDS)
                assert stage.count("worker_lane_down") == 0
            down = True
            await asyncio.sleep(2 * MINUTE)
            assert stage.count("worker_lane_down") == 1
            down = False
            await asyncio.sleep(2 * MINUTE)
            assert stage.count("worker_lane_down") == 0
            assert owner.ended == 0

    run(scene())


def test_later_events_of_its_subject_wait_in_order_while_other_subjects_go_on_with_one_worker():
    async def scene():
        sink, owner = SlowService(0), FakeOwner()
        slow = SlowService(10 * MINUTE)

        class Both(FakeSink):
            async def deliver(self, delivery: Delivery) -> None:
                await (slow if id_of(delivery) == "a1" else sink).deliver(delivery)

        async with LaneScene(Both(), give_up_after_seconds=HOUR, concurrency=1).running() as stage:
            for subject in ("a", "b", "c"):
                for number in (1, 2, 3):
                    stage.lane.submit(job_of(owner, subject, f"{subject}{number}"))
            await asyncio.sleep(9 * MINUTE)
            assert sorted(owner.accepted_ids) == ["b1", "b2", "b3", "c1", "c2", "c3"]
            await asyncio.sleep(2 * MINUTE)
            assert owner.accepted_ids[6:] == ["a1", "a2", "a3"]

    run(scene())


def test_what_is_not_done_in_its_time_becomes_a_dead_letter_that_says_so_and_the_next_has_all_its_own():
    async def scene():
        sink, owner = SlowService(20 * MINUTE, never=("a1",)), FakeOwner()
        async with LaneScene(sink, give_up_after_seconds=HOUR).running() as stage:
            stage.lane.submit(job_of(owner, "a", "a1"))
            stage.lane.submit(job_of(owner, "a", "a2"))
            await asyncio.sleep(61 * MINUTE)
            assert owner.letters == {"a1": ("retries_exhausted", "not done in its time; the last: creating")}
            assert HOUR - ASK_SECONDS <= sink.times("a1")[-1] - sink.times("a1")[0] <= HOUR
            await asyncio.sleep(21 * MINUTE)
            assert owner.accepted_ids == ["a2"]

    run(scene())


def test_who_waits_behind_one_that_is_at_work_has_its_own_time_also_where_the_one_before_that_had_used_all():
    async def scene():
        # The first fails for all its time, so the second has used up its own; that one is given up while the
        # destination works again, and the third has waited for its turn only.
        fails = True
        slow, owner = SlowService(5 * MINUTE, never=("a2",)), FakeOwner()

        class Mixed(FakeSink):
            async def deliver(self, delivery: Delivery) -> None:
                if fails:
                    raise SinkUnavailable("503")
                await slow.deliver(delivery)

        async with LaneScene(Mixed(), give_up_after_seconds=20 * MINUTE).running() as stage:
            for number in (1, 2, 3):
                stage.lane.submit(job_of(owner, "a", f"a{number}"))
            while not owner.letters:
                await asyncio.sleep(1)
            fails = False
            await asyncio.sleep(30 * MINUTE)
            assert owner.letters.keys() == {"a1", "a2"}
            assert owner.accepted_ids == ["a3"]

    run(scene())


def test_a_stop_in_the_middle_loses_nothing_and_its_time_goes_on_at_the_next_owner():
    async def scene():
        sink = SlowService(0, never=("a-1",))
        limit = {"out": {"retry": {"give_up_after_seconds": HOUR}}}
        store, asked_first = None, None
        for life in range(4):
            stage = Stage({"out": sink}, store=store, window=0, lane=limit)
            store = stage.store
            async with stage.open():
                claim = await stage.begin(f"life {life}")
                await stage.play(claim, message(1, blob_event("a", 1)), message(2, blob_event("b", 2)))
                asked_first = asked_first or sink.times("a-1")[0]
                await asyncio.sleep(25 * MINUTE)
                if not await stage.dead_letters():
                    assert await stage.checkpoint() in (None, 0)  # it waits for the event
                    assert (await stage.state()).attempts[0].attempts == 0
                await stage.end(claim)
        (letter,) = await stage.dead_letters()
        assert letter.reason == "retries_exhausted"
        assert "not done in its time" in letter.detail
        assert HOUR - ASK_SECONDS - 1 <= sink.times("a-1")[-1] - asked_first <= HOUR
        assert sink.ids == ["b-2"]  # settled above the watermark: no owner delivered it again
        assert await stage.checkpoint() == 2

    run(scene())


def test_a_partition_that_goes_while_it_waits_leaves_no_timer_and_the_next_owner_asks_again():
    async def scene():
        sink, first, second = SlowService(10 * MINUTE), FakeOwner("first"), FakeOwner("second")
        async with LaneScene(sink, give_up_after_seconds=HOUR).running() as stage:
            stage.lane.submit(job_of(first, "a", "a1"))
            await asyncio.sleep(MINUTE)
            first.close(stage.lane)
            asked = len(sink.asked)
            await asyncio.sleep(MINUTE)
            assert (len(sink.asked), first.ended) == (asked, 0)
            assert stage.count("worker_lane_queued_events") == 0
            stage.lane.submit(job_of(second, "a", "a1"))
            await asyncio.sleep(10 * MINUTE)
            assert second.accepted_ids == ["a1"]

    run(scene())


def test_the_limit_of_a_sink_does_not_make_the_time_of_what_is_at_work_begin_anew():
    async def scene():
        buckets, owner = TokenBuckets(asyncio.get_running_loop().time), FakeOwner()
        rate = Rate(1, 90.0)

        class Limited(FakeSink):
            async def deliver(self, delivery: Delivery) -> None:
                if wait_seconds := buckets.take((rate,)):
                    raise Throttled("not now", retry_after_seconds=wait_seconds)
                raise at_work()

        async with LaneScene(Limited(), give_up_after_seconds=20 * MINUTE).running() as stage:
            stage.lane.submit(job_of(owner, "a", "a1"))
            await asyncio.sleep(21 * MINUTE)
            assert "not done in its time" in owner.letters["a1"][1]

    run(scene())


def test_with_a_ledger_it_is_asked_again_by_whoever_comes_and_accepted_once():
    async def scene():
        contents, clock = Contents(), asyncio.get_running_loop().time
        settings = SinkSettings(name="out", kind="fake")
        sink = SlowService(5 * MINUTE)
        owners = [FakeOwner(f"life {number}") for number in range(3)]
        for owner in owners:
            ledger = Ledger(
                MemoryStore(contents, clock=clock), settings, sink, by=owner.name, metrics=Metrics(), clock=clock
            )
            async with LaneScene(sink, ledger=ledger, give_up_after_seconds=HOUR).running() as stage:
                stage.lane.submit(job_of(owner, "a", "a1"))
                await asyncio.sleep(4 * MINUTE)
                owner.close(stage.lane)
                await settle_down()
        assert [owner.accepted_ids for owner in owners] == [[], ["a1"], ["a1"]]
        assert sink.ids == ["a1"]

    run(scene())


def test_what_it_refuses_in_the_end_is_a_dead_letter_at_once():
    async def scene():
        sink, owner = ScriptedSink([(0, at_work()), (0, at_work()), (0, Rejected("it failed"))]), FakeOwner()
        async with LaneScene(sink, give_up_after_seconds=HOUR).running() as stage:
            stage.lane.submit(job_of(owner, "a", "a1"))
            await asyncio.sleep(2 * MINUTE)
            assert owner.letters == {"a1": ("rejected", "it failed")}

    run(scene())
