"""What is measured says what happened: lag where nothing is read, how partitions move, how long events take."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace

from tests.fakes import FakeSink
from tests.memory_store import MemoryStore
from tests.pipeline.stage import PARTITION, START, Stage, blob_event, message
from tests.pipeline.test_source_callbacks import CONTEXT, Client, reading, until
from tests.virtual_time import run, settle_down
from worker.claim import Claim
from worker.errors import Rejected, SinkUnavailable
from worker.hub import End


def gauge(stage: Stage, name: str) -> float | None:
    return stage.metrics.registry.get_sample_value(name, {"partition": PARTITION})


def ask_hub(claim: Claim, number: int, at: float, *, empty: bool = False) -> None:
    claim.hub_end(number, START + at, empty=empty, asked_at=asyncio.get_running_loop().time())


def test_a_backlog_is_lag_from_the_start_though_nothing_of_it_has_come():
    async def scene():
        async with Stage(window=0).open() as first:
            claim = await first.begin()
            await first.play(claim, message(0, blob_event("a", 0)))
            await first.end(claim)
        async with Stage(store=first.store, window=0).open() as stage:
            claim = await stage.begin("second")
            await asyncio.sleep(10)
            assert gauge(stage, "worker_lag_events") is None, "nobody has asked: nothing is known"
            assert gauge(stage, "worker_lag_seconds") is None
            began = asyncio.get_running_loop().time()
            ask_hub(claim, 1000, began - 3600)
            await asyncio.sleep(10)
            assert gauge(stage, "worker_lag_events") == 1000
            assert 3600 <= gauge(stage, "worker_lag_seconds") <= 3610
            await asyncio.sleep(100)
            assert gauge(stage, "worker_lag_seconds") >= 3700
            await stage.play(claim, *(message(n, blob_event("a", n)) for n in range(1, 1001)))
            await asyncio.sleep(10)
            assert gauge(stage, "worker_lag_events") == gauge(stage, "worker_lag_seconds") == 0
            await stage.end(claim)

    run(scene())


def test_a_partition_that_begins_at_its_first_message_has_a_lag_and_one_that_begins_at_a_time_not_yet():
    async def scene():
        for checkpoint, lag in ((True, 42), (False, None)):
            async with Stage(window=0).open() as stage:
                if checkpoint:
                    await stage.store.write_checkpoint(PARTITION, offset="-1", sequence_number=-1, expected=None)
                claim = await stage.begin()
                ask_hub(claim, 41, asyncio.get_running_loop().time())
                await asyncio.sleep(10)
                assert gauge(stage, "worker_lag_events") == lag
                assert (gauge(stage, "worker_lag_seconds") is None) == (lag is None)
                await stage.end(claim)

    run(scene())


def test_one_event_that_waits_is_one_event_of_lag_whatever_is_settled_above_it():
    async def scene():
        refuse = {"a": SinkUnavailable("down")}
        sink = FakeSink(refuse=lambda each: refuse.get(each.released.placed.event.subject))
        async with Stage({"out": sink}, window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, *(message(n, blob_event("a" if n == 0 else f"s{n}", n)) for n in range(50)))
            await asyncio.sleep(30)
            assert gauge(stage, "worker_lag_events") == 1
            assert gauge(stage, "worker_lag_seconds") >= 25
            assert stage.count("worker_lane_oldest_event_timestamp_seconds", sink="out") == START
            refuse.clear()
            await asyncio.sleep(120)
            assert gauge(stage, "worker_lag_events") == gauge(stage, "worker_lag_seconds") == 0
            assert stage.count("worker_lane_oldest_event_timestamp_seconds", sink="out") == 0
            await stage.end(claim)

    run(scene())


def test_a_partition_that_stands_still_goes_on_to_lag():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, *(message(n, body=b"junk") for n in range(100)))
            await asyncio.sleep(10)
            assert stage.count("worker_partition_stopped", partition=PARTITION) == 1
            began = asyncio.get_running_loop().time()
            ask_hub(claim, 299, began)
            await asyncio.sleep(600)
            assert gauge(stage, "worker_lag_events") == 200
            assert gauge(stage, "worker_lag_seconds") >= 590
            await stage.end(claim)

    run(scene())


def test_of_a_partition_of_which_nothing_comes_the_hub_is_asked_soon_and_again_and_again():
    async def scene():
        client, asked = Client(), list[float]()

        async def ends(partitions):
            asked.append(asyncio.get_running_loop().time())
            return {each: End(41, datetime.fromtimestamp(START, UTC), empty=False) for each in partitions}

        async with reading(
            SimpleNamespace(connect=lambda _: client, identity=None, ends=ends, partitions=["0"])
        ) as claims:
            await until(lambda: client.callbacks)
            await client.callbacks["on_partition_initialize"](CONTEXT)
            opened_at = asyncio.get_running_loop().time()
            for _ in range(50):  # the callbacks of a quiet partition
                await client.callbacks["on_event_batch"](CONTEXT, [])
                await asyncio.sleep(2)
            assert claims[0].feed.end.number == 41
        assert asked[0] - opened_at < 5
        assert 3 <= len(asked) <= 6

    run(scene())


def test_how_a_partition_was_taken_is_counted():
    async def scene():
        store = MemoryStore()

        def taken(stage: Stage, how: str) -> float:
            return stage.count("worker_partition_takes_total", partition=PARTITION, how=how)

        async with Stage(store=store).open() as first, Stage(store=store).open() as second:
            former = await first.begin("first")
            assert taken(first, "free") == 1
            taking = asyncio.create_task(second.begin("second"))
            while not former.closed:
                await former.look(None)
                await asyncio.sleep(0.1)
            await (claim := await taking).look(None)
            assert taken(second, "handed_over") == 1
            third = Stage(store=store)
            async with third.open():
                last = await third.begin("third")  # the second is not told, and does not look
                assert taken(third, "silent") == 1
                await third.end(last)
            claim.close()
            await claim.done.wait()

    run(scene())


def test_the_state_has_a_size():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 0)))
            await asyncio.sleep(5)
            stored = await stage.store.read_state(PARTITION)
            assert gauge(stage, "worker_state_bytes") == len(stored.payload)
            await stage.end(claim)
            assert gauge(stage, "worker_state_bytes") is None

    run(scene())


def test_the_time_of_an_event_counts_from_when_the_hub_had_it_and_only_when_it_was_accepted():
    async def scene():
        sink = FakeSink([SinkUnavailable("not now")], refuse=lambda each: _refusal(each.released.placed.event.subject))
        async with Stage({"out": sink}, window=0).open() as stage:
            claim = await stage.begin()
            at = asyncio.get_running_loop().time() - 100
            await stage.play(claim, message(0, blob_event("a", 0), at=at), message(1, blob_event("bad", 1), at=at))
            await asyncio.sleep(10)
            assert stage.count("worker_event_to_destination_seconds_count", sink="out") == 1
            assert 100 <= stage.count("worker_event_to_destination_seconds_sum", sink="out") < 110
            await stage.end(claim)

    def _refusal(subject: str) -> Exception | None:
        return Rejected("no") if subject == "bad" else None

    run(scene())


def test_what_the_ledger_knows_is_no_latency():
    async def scene():
        store, sink = MemoryStore(), FakeSink()
        async with Stage({"out": sink}, store=store, window=0, ledger=True).open() as first:
            claim = await first.begin()
            store.down = False
            await first.play(claim, message(0, blob_event("a", 0)))
            await settle_down()
            assert first.count("worker_event_to_destination_seconds_count", sink="out") == 1
            await first.end(claim)
        store.contents.states.clear()  # as if it had died before it could save that
        store.contents.checkpoints.clear()
        async with Stage({"out": sink}, store=store, window=0, ledger=True).open() as second:
            claim = await second.begin("second")
            await second.play(claim, message(0, blob_event("a", 0)))
            await asyncio.sleep(5)
            assert len(sink.accepted) == 1
            assert second.count("worker_ledger_decisions_total", sink="out", decision="already_accepted") == 1
            assert second.count("worker_event_to_destination_seconds_count", sink="out") == 0
            await second.end(claim)

    run(scene())
