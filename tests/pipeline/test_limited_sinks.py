"""Lanes to sinks that keep a limit: they wait before an attempt, and waiting is no failure."""

import asyncio
from itertools import pairwise

from tests.lanes import FakeOwner, LaneScene, ScriptedSink, id_of, job_of
from tests.memory_store import Contents, MemoryStore
from tests.virtual_time import run
from worker.errors import SinkUnavailable, Throttled
from worker.ledger import Ledger, decode
from worker.metrics import Metrics
from worker.settings import SinkSettings
from worker.sinks import Delivery
from worker.sinks.limiter import Rate, TokenBuckets

HOUR = 3600.0


class LimitedFake(ScriptedSink):
    """Takes a token for each attempt, and may keep it to itself that none is left."""

    def __init__(self, buckets: TokenBuckets, *rates: Rate, tells: bool = True) -> None:
        super().__init__()
        self._buckets = buckets
        self._rates = rates
        self._tells = tells
        self.throttled = 0

    def wait_seconds(self) -> float:
        return self._buckets.wait_seconds(self._rates) if self._tells else 0.0

    async def deliver(self, delivery: Delivery) -> None:
        if wait_seconds := self._buckets.take(self._rates):
            self.throttled += 1
            raise Throttled("nothing more is sent now", retry_after_seconds=wait_seconds)
        await super().deliver(delivery)


def buckets() -> TokenBuckets:
    return TokenBuckets(asyncio.get_running_loop().time)


def test_a_lane_waits_for_the_limit_before_it_begins_and_keeps_the_order_of_those_that_wait():
    async def scene():
        sink, owner = LimitedFake(buckets(), Rate(1, 1.0), Rate(10, HOUR)), FakeOwner()
        began = asyncio.get_running_loop().time()
        scenery = LaneScene(sink, concurrency=1, retry={"max_attempts": 1}, give_up_after_seconds=60)
        async with scenery.running() as stage:
            for number in range(20):
                stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
            await asyncio.sleep(9.5)
            assert len(sink.started) == 10
            await asyncio.sleep(3 * HOUR)
            assert owner.accepted_ids == [f"e{number}" for number in range(20)]
            assert owner.letters == {}
            assert sink.throttled == 0
            assert stage.count("worker_lane_down") == 0
            starts = [round(at - began) for at, _ in sink.started]
            assert starts[:11] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 360]
            assert {later - earlier for earlier, later in pairwise(starts[10:])} == {360}

    run(scene())


def test_to_be_throttled_is_no_attempt_no_failure_and_opens_no_breaker():
    async def scene():
        sink, owner = LimitedFake(buckets(), Rate(1, 1.0), tells=False), FakeOwner()
        scenery = LaneScene(sink, concurrency=10, retry={"max_attempts": 1}, give_up_after_seconds=5)
        async with scenery.running() as stage:
            for number in range(20):
                stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
            for _ in range(60):
                await asyncio.sleep(1)
                assert stage.count("worker_lane_down") == 0
            assert sorted(owner.accepted_ids) == sorted(f"e{number}" for number in range(20))
            assert owner.letters == {}
            assert sink.throttled > 20
            assert stage.count("worker_deliveries_total", outcome="unavailable") == 0
            assert stage.count("worker_deliveries_total", outcome="postponed") == sink.throttled

    run(scene())


def test_time_that_a_failing_destination_used_up_is_not_given_back_by_waiting_for_the_limit():
    async def scene():
        sink, owner = LimitedFake(buckets(), Rate(1, 30.0)), FakeOwner()
        sink._fail = lambda: SinkUnavailable("503")
        scenery = LaneScene(sink, concurrency=1, give_up_after_seconds=100)
        async with scenery.running() as stage:
            stage.lane.submit(job_of(owner, "a", "a1"))
            await asyncio.sleep(200)
            assert owner.letters["a1"][0] == "retries_exhausted"
            assert len(sink.started) in {3, 4, 5}

    run(scene())


def test_two_lanes_to_one_destination_share_its_limit():
    async def scene():
        shared = buckets()
        sinks = [LimitedFake(shared, Rate(1, 1.0)) for _ in range(2)]
        owners = [FakeOwner("one"), FakeOwner("two")]
        sceneries = [LaneScene(sink, concurrency=1) for sink in sinks]
        began = asyncio.get_running_loop().time()
        async with sceneries[0].running() as one, sceneries[1].running() as two:
            for stage, owner in ((one, owners[0]), (two, owners[1])):
                for number in range(5):
                    stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
            await asyncio.sleep(60)
            starts = sorted(at - began for sink in sinks for at, _ in sink.started)
            assert [round(start) for start in starts] == list(range(10))
            assert [len(owner.accepted_ids) for owner in owners] == [5, 5]

    run(scene())


class LedgerSettings(SinkSettings):
    ledger = "always"


def test_waiting_for_the_limit_leaves_no_intent_and_one_that_lost_a_race_leaves_a_failure_not_an_unknown():
    async def scene():
        for tells in (True, False):
            sink, owner = LimitedFake(buckets(), Rate(1, HOUR), tells=tells), FakeOwner()
            contents = Contents()
            settings = LedgerSettings(name="out", kind="fake", on_unknown="skip")
            ledger = Ledger(MemoryStore(contents), settings, sink, by="p", metrics=Metrics())
            async with LaneScene(sink, ledger=ledger, concurrency=1).running() as stage:
                for number in range(3):
                    stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
                await asyncio.sleep(60)
                states = [decode(each.payload).state.value for each in contents.entries.values()]
                assert states == (["accepted"] if tells else ["accepted", "failed", "failed"])
                await asyncio.sleep(5 * HOUR)
                assert sorted(id_of(delivery) for _, delivery in sink.started) == ["e0", "e1", "e2"]
                assert owner.letters == {}

    run(scene())
