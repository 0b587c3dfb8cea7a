"""One partition from owner to owner: drain, hand-over, fence, lease, and a store that goes away."""

import asyncio

import pytest

from tests.fakes import FakeSink
from tests.memory_store import MemoryStore
from tests.pipeline.stage import PARTITION, Stage, blob_event, message
from tests.virtual_time import run, settle_down
from worker import state as codec
from worker.claim import Claim
from worker.errors import SinkUnavailable, StateFormatUnknown
from worker.events import Position
from worker.ownership import Fenced, take
from worker.progress import SavedProgress
from worker.state import LateVerdict, PartitionState

WINDOW = 5


def test_after_a_clean_stop_nothing_that_was_accepted_is_delivered_again():
    """Held events below settled ones are the hard part: the watermark stays behind, the state knows what is above."""

    async def scene():
        messages = [
            message(0, blob_event("a", 1), at=0),
            message(1, blob_event("held", 1), at=20),
            message(2, blob_event("b", 1), blob_event("b", 2), at=20.1),
        ]
        async with Stage(limits={"held": 50_000}).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, *messages, last=50)
            assert stage.sinks["out"].ids == ["a-1"]
            # A late event settles above the watermark, while 1 and 2 are held.
            late = message(3, blob_event("a", 0), at=20.2)
            await stage.play(claim, late, last=50)
            assert stage.sinks["out"].ids == ["a-1", "a-0"]
            await stage.end(claim)
            assert (await stage.state()).released
            assert await stage.checkpoint() == 0
        async with Stage(store=stage.store).open() as second:
            claim = await second.begin("second")
            await second.play(claim, *messages, late)
            await asyncio.sleep(WINDOW + 1)
            assert sorted(second.sinks["out"].ids) == ["b-1", "b-2", "held-1"]
            await asyncio.sleep(6)
            assert await second.checkpoint() == 3

    run(scene())


def test_a_resent_event_is_recognised_by_the_next_owner():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)))
            await stage.end(claim)
        async with Stage(store=stage.store, window=0).open() as second:
            claim = await second.begin("second")
            await second.play(claim, message(1, blob_event("a", 1)), message(2, blob_event("a", 2)))
            assert second.sinks["out"].ids == ["a-2"]

    run(scene())


def test_an_unsettled_event_that_is_read_again_is_not_its_own_duplicate():
    async def scene():
        sink = FakeSink(refuse=lambda _: SinkUnavailable("503"))
        async with Stage({"out": sink}, window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)), message(1, blob_event("a", 1)))
            await asyncio.sleep(5)
            await stage.end(claim)
        async with Stage(store=stage.store, window=0).open() as second:
            claim = await second.begin("second")
            await second.play(claim, message(0, blob_event("a", 1)), message(1, blob_event("a", 1)))
            assert second.sinks["out"].ids == ["a-1"]

    run(scene())


def test_a_sink_that_took_an_event_does_not_get_it_again_because_another_did_not():
    async def scene():
        broken = FakeSink(refuse=lambda _: SinkUnavailable("503"))
        async with Stage({"fine": FakeSink(), "broken": broken}, window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)))
            await asyncio.sleep(2)
            assert stage.sinks["fine"].ids == ["a-1"]
            await stage.end(claim)
        async with Stage({"fine": FakeSink(), "broken": FakeSink()}, store=stage.store, window=0).open() as second:
            claim = await second.begin("second")
            await second.play(claim, message(0, blob_event("a", 1)))
            assert second.sinks["fine"].ids == []
            assert second.sinks["broken"].ids == ["a-1"]

    run(scene())


def test_a_stop_waits_for_the_attempt_under_way_and_starts_no_other():
    async def scene():
        sink = FakeSink()
        sink.open_gate.clear()
        async with Stage({"out": sink}, window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)), message(1, blob_event("a", 2)))
            claim.close()
            await asyncio.sleep(5)
            assert not claim.done.is_set()
            sink.open_gate.set()
            await claim.done.wait()
            assert sink.ids == ["a-1"]
            assert (await stage.state()).watermark == (0, "0")

    run(scene())


def test_a_stop_is_bounded_when_a_destination_never_answers():
    async def scene():
        sink = FakeSink()
        sink.open_gate.clear()
        async with Stage({"out": sink}, window=0, limits={"drain_seconds": 20}).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)))
            before = asyncio.get_running_loop().time()
            await stage.end(claim)
            assert asyncio.get_running_loop().time() - before == pytest.approx(20, abs=1)
            assert sink.under_way == 0
            assert (await stage.state()).watermark is None
            assert (await stage.state()).released

    run(scene())


def test_a_new_owner_asks_and_waits_until_the_old_one_has_drained():
    async def scene():
        sink = FakeSink()
        sink.open_gate.clear()
        store = MemoryStore()
        async with (
            Stage({"out": sink}, store=store, window=0).open() as old,
            Stage(store=store, window=0).open() as new,
        ):
            first = await old.begin("old")
            await old.play(first, message(0, blob_event("a", 1)), message(1, blob_event("a", 2)))
            second = await new.begin("new", taken=False)
            await new.play(second, message(0, blob_event("a", 1)), message(1, blob_event("a", 2)))
            await asyncio.sleep(1)
            await first.look((await store.state_versions())[PARTITION])
            await asyncio.sleep(8)  # longer than hand_over_seconds: an owner that has acknowledged may drain
            assert second.tenure is None
            sink.open_gate.set()
            await first.done.wait()
            await asyncio.sleep(1)
            assert sink.ids == ["a-1"]
            assert new.sinks["out"].ids == ["a-2"]
            assert second.tenure is not None
            assert second.tenure.state.generation == 2

    run(scene())


def test_a_silent_owner_is_waited_for_once_and_then_fenced():
    async def scene():
        store = MemoryStore()
        frozen = FakeSink()
        async with Stage({"out": frozen}, store=store, window=0).open() as old, Stage(store=store).open() as new:
            first = await old.begin("old")
            before = asyncio.get_running_loop().time()
            second = await new.begin("new")
            assert asyncio.get_running_loop().time() - before == pytest.approx(5, abs=0.5)
            assert second.tenure is not None
            frozen.open_gate.clear()
            await old.play(first, message(0, blob_event("a", 1)))  # the former owner thaws and goes on
            frozen.open_gate.set()
            await asyncio.sleep(2)
            assert first.done.is_set()
            assert first.tenure is not None
            assert first.tenure.lost
            assert (await new.state()).owner == "new"
            assert await old.checkpoint() is None
            with pytest.raises(Fenced):
                await first.tenure.save(released=True)
            assert not (await new.state()).released

    run(scene())


def test_two_claimants_cannot_both_take_one_release():
    async def scene():
        store = MemoryStore()
        async with Stage(store=store).open() as stage:
            await stage.end(await stage.begin())

            async def claim(name: str) -> int:
                tenure = await take(store, PARTITION, claimant=name, hand_over_seconds=5, drain_seconds=20)
                return tenure.state.generation

            assert sorted(await asyncio.gather(claim("x"), claim("y"), claim("z"))) == [2, 3, 4]

    run(scene())


def test_no_attempt_starts_once_the_lease_is_over_and_all_go_on_when_it_is_renewed():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            stage.lease = False
            await stage.play(claim, message(0, blob_event("a", 1)))
            await asyncio.sleep(60)
            assert stage.sinks["out"].attempts == []
            stage.lease = True
            await asyncio.sleep(1)
            assert stage.sinks["out"].ids == ["a-1"]

    run(scene())


def test_deliveries_go_on_while_the_store_is_away_and_the_state_catches_up():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)))
            await asyncio.sleep(10)
            stage.store.down = True
            await stage.play(claim, message(1, blob_event("a", 2)), message(2, body=b"bad"))
            await asyncio.sleep(300)
            assert stage.sinks["out"].ids == ["a-1", "a-2"]
            stage.store.down = False
            assert await stage.checkpoint() == 0
            await asyncio.sleep(60)
            assert await stage.checkpoint() == 2
            assert len(await stage.dead_letters()) == 1

    run(scene())


def test_a_new_owner_brings_up_the_checkpoint_that_a_dead_one_left_behind_also_when_nothing_more_comes():
    async def scene():
        store = MemoryStore()
        async with Stage(store=store, window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)))
            await asyncio.sleep(0.5)
            await stage.play(claim, message(1, blob_event("a", 2)))
            await asyncio.sleep(2)  # the state has followed, the checkpoint is due later
            assert (await stage.state()).watermark == (1, "100")
            assert await stage.checkpoint() == 0
        async with Stage(store=store, window=0).open() as second:
            await second.begin("second")
            await asyncio.sleep(1)
            assert await second.checkpoint() == 1

    run(scene())


def test_a_quiet_partition_costs_the_store_nothing():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)))
            await asyncio.sleep(30)
            stage.store.calls.clear()
            await asyncio.sleep(3600)
            assert stage.store.calls == []

    run(scene())


def test_under_load_the_state_is_written_once_an_interval_and_the_checkpoint_more_seldom():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            await settle_down()
            stage.store.calls.clear()
            for number in range(600):
                await stage.play(claim, message(number, blob_event(f"s{number % 7}", number), at=number * 0.1))
                await asyncio.sleep(0.1)
            assert stage.store.calls.count("write_state") <= 62
            assert stage.store.calls.count("update_checkpoint") <= 14
            await asyncio.sleep(10)
            assert await stage.checkpoint() == 599

    run(scene())


@pytest.mark.parametrize("stuck", [False, True])
def test_under_load_the_checkpoint_is_never_old_also_where_its_next_event_waits(stuck: bool):
    async def scene():
        refuse = SinkUnavailable("down") if stuck else None
        sink = FakeSink(refuse=lambda each: refuse if each.released.placed.event.subject == "first" else None)
        async with Stage({"out": sink}, window=0).open() as stage:
            claim = await stage.begin()
            ages = []
            for number in range(4000):
                event = blob_event(f"s{number % 7}" if number else "first", number)
                await stage.play(claim, message(number, event, at=number * 0.1))
                await asyncio.sleep(0.1)
                ages.append(stage.count("worker_checkpoint_age_seconds", partition="0"))
            assert 0 < max(ages) < 10
            stage.store.down = True
            await stage.play(claim, message(4000, blob_event("a", 1), at=400))
            await asyncio.sleep(100)
            assert 80 < stage.count("worker_checkpoint_age_seconds", partition="0") <= 110

    run(scene())


def test_a_claim_that_ends_before_it_has_begun_leaves_no_number_behind():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)))
            await asyncio.sleep(10)
            await stage.end(claim)
            claim = Claim(PARTITION, "second", stage.parts)
            claim.reads_from = 7  # behind what is to be read: it is claimed anew
            await claim.run()
            number = stage.metrics.registry.get_sample_value("worker_checkpoint_sequence_number", {"partition": "0"})
            assert number is None

    run(scene())


def test_the_checkpoint_has_an_age_while_it_is_behind_and_a_lost_partition_says_nothing_more():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            stage.store.down = True
            await stage.play(claim, message(0, blob_event("a", 1)))
            await asyncio.sleep(100)
            assert 80 < stage.count("worker_checkpoint_age_seconds", partition="0") <= 100
            stage.store.down = False
            await asyncio.sleep(30)
            assert stage.count("worker_checkpoint_age_seconds", partition="0") == 0
            assert stage.count("worker_lag_events", partition="0") == 0
            await stage.end(claim)
            gone = [
                sample.name
                for family in stage.metrics.registry.collect()
                for sample in family.samples
                if family.type == "gauge" and sample.labels.get("partition") == "0" and "generation" not in family.name
            ]
            assert gone == []

    run(scene())


def test_a_state_that_is_not_what_it_says_is_refused_with_a_sentence():
    with pytest.raises(StateFormatUnknown, match="has not"):
        codec.decode(b'{"format": 2}')


def test_a_state_of_a_newer_format_is_refused_and_not_taken_for_an_empty_one():
    payload = codec.encode(PartitionState(generation=3, owner="x")).replace(b'"format":2', b'"format":6')
    with pytest.raises(StateFormatUnknown, match="format 6"):
        codec.decode(payload)
    with pytest.raises(StateFormatUnknown):
        codec.decode(b"hello")


def test_the_state_survives_its_bytes():
    state = PartitionState(
        generation=3,
        owner="a",
        request="b",
        acknowledged="b",
        released=True,
        progress=SavedProgress(watermark=[7, "x;y"], read=9, unsettled=[[8, 8]], parts=[[8, 1]], served=[]),
        late=[LateVerdict(Position(8, 0), 1500)],
        variants=[Position(8, 2)],
        memory_parts=["0000000002-000001"],
        memory_since={"format": 1},
    )
    assert codec.decode(codec.encode(state)) == state
    assert state.watermark == (7, "x;y")


def test_a_claim_may_be_closed_twice_while_it_still_asks_for_its_partition():
    async def scene():
        async with Stage().open() as owner, Stage().open() as _:
            await owner.begin("owner")
            asking = Stage(store=owner.store)
            async with asking.open():
                claim = await asking.begin("asking", taken=False)
                claim.close()
                claim.close()
                await claim.done.wait()
                claim.close()
                assert claim.tenure is None

    run(scene())
