"""The checkpoint is the present owner's alone, and only moves forward; what is missing is made up for."""

import asyncio

import pytest
from structlog.testing import capture_logs

from tests.memory_store import MemoryStore
from tests.pipeline.stage import PARTITION, SCOPE, Stage, blob_event, message
from tests.virtual_time import run
from worker.checkpoint import bring_back
from worker.errors import StoreUnavailable
from worker.stores import StoredCheckpoint


class Frozen(MemoryStore):
    """Another process's way to the same contents: stands still before a call of this name, or after it."""

    before = ""
    after = ""

    async def _reach(self, name: str) -> None:
        while name == self.before:
            await asyncio.sleep(0.05)

    async def _answered(self, name: str) -> None:
        while name == self.after:
            await asyncio.sleep(0.05)


class Lossy(MemoryStore):
    """Takes a write of the checkpoint, and its answer is lost, as often as it says."""

    losses = 0

    async def _answered(self, name: str) -> None:
        if name == "write_checkpoint" and self.losses:
            self.losses -= 1
            raise StoreUnavailable("no answer")


async def checkpoint(store: MemoryStore) -> StoredCheckpoint:
    stored = await store.read_checkpoint(PARTITION)
    assert stored is not None
    return stored


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("call", ["write_state", "read_checkpoint", "write_checkpoint"])
def test_a_former_owner_that_was_frozen_at_any_write_moves_neither_state_nor_checkpoint(call: str, where: str):
    async def scene():
        store = MemoryStore()
        frozen = Frozen(store.contents)
        async with Stage(store=frozen, window=0).open() as old, Stage(store=store, window=0).open() as new:
            first = await old.begin("old")
            await old.play(first, message(0, blob_event("a", 1)))
            await asyncio.sleep(10)
            setattr(frozen, where, call)
            await old.play(first, message(1, blob_event("a", 2)), message(2, blob_event("a", 3)))
            await asyncio.sleep(10)
            second = await new.begin("new")
            await new.play(second, message(1, blob_event("a", 2)), message(2, blob_event("a", 3)))
            await new.play(second, message(3, blob_event("a", 4)))
            await asyncio.sleep(10)
            state, at = (await new.state()), await checkpoint(store)
            assert (state.generation, at.sequence_number) == (2, 3)
            setattr(frozen, where, "")  # it thaws, and has more to say
            await old.play(first, message(4, blob_event("a", 5)))
            await asyncio.sleep(30)
            assert await new.state() == state
            assert await checkpoint(store) == at
            assert first.tenure is not None
            assert first.tenure.lost

    run(scene())


def test_who_has_released_a_partition_has_lost_nothing_when_the_next_owner_is_quicker_with_the_checkpoint():
    async def scene():
        store = MemoryStore()
        slow = Frozen(store.contents)
        async with Stage(store=slow, window=0).open() as old, Stage(store=store, window=0).open() as new:
            first = await old.begin("old")
            await old.play(first, message(0, blob_event("a", 1)))
            await asyncio.sleep(1)
            await old.play(first, message(1, blob_event("a", 2)))
            slow.before = "write_checkpoint"
            with capture_logs() as logs:
                first.close()
                await asyncio.sleep(0.5)
                assert (await new.state()).released
                await new.begin("new")
                slow.before = ""
                await first.done.wait()
            assert (await checkpoint(store)).sequence_number == 1
            assert [each["event"] for each in logs if each["log_level"] == "warning"] == []
            assert old.count("worker_ownership_changes_total", partition="0", change="given_up") == 1
            assert not old.count("worker_ownership_changes_total", partition="0", change="lost")

    run(scene())


def test_a_former_owner_does_not_move_on_a_checkpoint_that_was_put_back_under_its_successor():
    async def scene():
        store = MemoryStore()
        frozen = Frozen(store.contents)
        async with Stage(store=frozen, window=0).open() as old, Stage(store=store, window=0).open() as new:
            first = await old.begin("old")
            await old.play(first, message(0, blob_event("a", 1)))
            await asyncio.sleep(10)
            frozen.before = "write_checkpoint"
            await old.play(first, message(1, blob_event("a", 2)))
            await asyncio.sleep(10)
            await new.begin("new")
            at = await checkpoint(store)
            await store.write_checkpoint(PARTITION, offset="0", sequence_number=0, expected=at.version)
            frozen.before = ""
            await asyncio.sleep(10)
            assert await new.checkpoint() == 0
            assert first.done.is_set()

    run(scene())


def test_a_new_owner_that_does_nothing_yet_has_fenced_the_checkpoint_already():
    async def scene():
        store = MemoryStore()
        frozen = Frozen(store.contents)
        async with Stage(store=frozen, window=0).open() as old, Stage(store=store, window=0).open() as new:
            first = await old.begin("old")
            await old.play(first, message(0, blob_event("a", 1)))
            await asyncio.sleep(10)
            before = await checkpoint(store)
            await new.begin("new")
            after = await checkpoint(store)
            assert (after.offset, after.sequence_number) == (before.offset, before.sequence_number)
            assert after.version != before.version

    run(scene())


def test_an_answer_that_is_lost_fences_nobody_and_the_checkpoint_goes_on():
    async def scene():
        store = Lossy()
        store.losses = 1
        async with Stage(store=store, window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)))
            await asyncio.sleep(10)
            store.losses = 2
            await stage.play(claim, message(1, blob_event("a", 2)))
            await asyncio.sleep(30)
            assert not claim.closed
            assert await stage.checkpoint() == 1
            await stage.play(claim, message(2, blob_event("a", 3)))
            await asyncio.sleep(30)
            assert await stage.checkpoint() == 2

    run(scene())


def test_an_answer_that_is_lost_at_the_beginning_is_survived():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)))
            await stage.end(claim)
        store = Lossy(stage.store.contents)
        store.losses = 3
        async with Stage(store=store, window=0).open() as second:
            claim = await second.begin("second")
            await second.play(claim, message(1, blob_event("a", 2)))
            await asyncio.sleep(30)
            assert await second.checkpoint() == 1

    run(scene())


def test_a_checkpoint_that_somebody_moved_on_by_hand_is_not_moved_back():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)))
            await asyncio.sleep(10)
            at = await checkpoint(stage.store)
            await stage.store.write_checkpoint(PARTITION, offset="5000", sequence_number=50, expected=at.version)
            await stage.play(claim, message(1, blob_event("a", 2)))
            await asyncio.sleep(10)
            assert await stage.checkpoint() == 50
            assert not claim.closed
            await stage.play(claim, message(51, blob_event("a", 3)))
            await asyncio.sleep(10)
            assert await stage.checkpoint() == 51

    run(scene())


def test_without_a_checkpoint_the_state_says_where_to_go_on():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)), message(1, blob_event("a", 2)))
            await stage.end(claim)
        stage.store.contents.checkpoints.clear()
        with capture_logs() as logs:
            async with Stage(store=stage.store, window=0).open() as second:
                claim = await second.begin("second")
                assert await second.checkpoint() == 1
                await second.play(claim, *(message(each, blob_event("a", each + 1)) for each in range(4)))
                assert second.sinks["out"].ids == ["a-3", "a-4"]
        assert "no checkpoint, going on from the state" in [each["event"] for each in logs]

    run(scene())


def test_without_a_state_the_checkpoint_says_where_to_go_on():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)), message(1, blob_event("a", 2)))
            await stage.end(claim)
        stage.store.contents.states.clear()
        with capture_logs() as logs:
            async with Stage(store=stage.store, window=0).open() as second:
                claim = await second.begin("second")
                await second.play(claim, *(message(each, blob_event("a", each + 1)) for each in range(4)))
                assert second.sinks["out"].ids == ["a-3", "a-4"]
                await asyncio.sleep(10)
                assert await second.checkpoint() == 3
        assert "no state, going on from the checkpoint" in [each["event"] for each in logs]

    run(scene())


def test_a_state_that_is_behind_the_checkpoint_brings_back_nothing_that_the_checkpoint_has_passed():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)))
            await asyncio.sleep(10)
            old = stage.store.contents.states[PARTITION]
            await stage.play(claim, *(message(each, blob_event("a", each + 1)) for each in range(1, 6)))
            await stage.end(claim)
        stage.store.contents.states[PARTITION] = old  # somebody put back an older copy
        async with Stage(store=stage.store, window=0).open() as second:
            claim = await second.begin("second")
            await second.play(claim, *(message(each, blob_event("a", each + 1)) for each in range(8)))
            assert second.sinks["out"].ids == ["a-7", "a-8"]
            await asyncio.sleep(10)
            assert await second.checkpoint() == 7
            assert (await second.state()).watermark == (7, "700")

    run(scene())


def test_a_checkpoint_that_is_missing_beside_a_state_is_written_before_anybody_reads():
    async def scene():
        store = MemoryStore()
        async with Stage(store=store, window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)), message(1, blob_event("a", 2)))
            await asyncio.sleep(10)
            await stage.end(claim)
        store.contents.checkpoints.clear()
        await bring_back(store, SCOPE)
        assert (await checkpoint(store)).sequence_number == 1

    run(scene())


def test_no_checkpoint_is_invented_or_replaced():
    async def scene():
        store = MemoryStore()
        await bring_back(store, SCOPE)
        assert await store.read_checkpoint(PARTITION) is None
        async with Stage(store=store, window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)))
            await asyncio.sleep(10)
            await stage.end(claim)
        before = await checkpoint(store)
        await bring_back(store, SCOPE)
        assert await checkpoint(store) == before

    run(scene())


def test_an_owner_that_was_frozen_before_it_had_begun_does_not_touch_its_successors_checkpoint():
    async def scene():
        store = MemoryStore()
        frozen = Frozen(store.contents)
        async with Stage(store=frozen, window=0).open() as old, Stage(store=store, window=0).open() as new:
            frozen.before = "read_checkpoint"
            first = await old.begin("old", taken=False)
            await asyncio.sleep(10)
            second = await new.begin("new")
            await new.play(second, message(0, blob_event("a", 1)), message(1, blob_event("a", 2)))
            await asyncio.sleep(10)
            await new.end(second)
            before = await checkpoint(store)
            frozen.before = ""
            await first.done.wait()
            assert await checkpoint(store) == before

    run(scene())
