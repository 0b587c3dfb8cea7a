"""A partition whose position the hub does not know: it stands still or begins anew, and is never read on from it."""

from dataclasses import replace

import pytest

from tests.memory_store import MemoryStore
from tests.pipeline.stage import PARTITION, Stage, blob_event, message
from tests.virtual_time import run, settle_down
from worker.reset import Positions
from worker.state import HubIdentity

OLD, NEW = "2026-01-01T00:00:00+00:00", "2026-02-02T00:00:00+00:00"


def stage_on(store: MemoryStore, created_at: str, policy: str = "stop") -> Stage:
    """A process that finds this hub."""
    stage = Stage(store=store, window=0)
    stage.hub.identity = HubIdentity(created_at, -1)
    positions = Positions(store, stage.hub, policy)
    stage.parts = replace(stage.parts, positions=positions)
    return stage


async def read_some(store: MemoryStore, created_at: str = OLD, policy: str = "stop") -> Stage:
    """The history: two events of the old hub, settled."""
    stage = stage_on(store, created_at, policy)
    async with stage.open():
        claim = await stage.begin()
        assert claim.may_read.is_set()
        await stage.play(claim, message(500, blob_event("a", 1)), message(501, blob_event("a", 2)))
        await stage.end(claim)
    return stage


async def stored_checkpoint(store: MemoryStore) -> tuple[str, int]:
    stored = await store.read_checkpoint(PARTITION)
    assert stored is not None
    return stored.offset, stored.sequence_number


def test_a_first_claim_writes_down_which_hub_its_numbers_are_of():
    async def scene():
        store = MemoryStore()
        stage = await read_some(store)
        assert (await stage.state()).hub == HubIdentity(OLD, -1)
        assert await stored_checkpoint(store) == ("50100", 501)

    run(scene())


def test_a_partition_of_a_hub_created_anew_stands_still_and_says_why():
    async def scene():
        store = MemoryStore()
        await read_some(store)
        stage = stage_on(store, NEW)
        async with stage.open():
            claim = await stage.begin()
            assert claim.held
            assert not claim.may_read.is_set()
            [reason] = stage.parts.health.not_ready().values()
            assert OLD in reason
            assert NEW in reason
            assert stage.count("worker_partition_stopped", partition="0") == 1
            await stage.end(claim)
            assert claim.may_read.is_set()
        state = await stage.state()
        assert state.watermark is not None
        assert state.watermark.sequence_number == 501
        assert await stored_checkpoint(store) == ("50100", 501)

    run(scene())


@pytest.mark.parametrize(("policy", "start"), [("earliest", ("-1", -1)), ("latest", ("9900", 99))])
def test_a_partition_of_a_hub_created_anew_begins_at_its_edge_where_that_is_wanted(policy: str, start: tuple[str, int]):
    async def scene():
        store = MemoryStore()
        await read_some(store)
        stage = stage_on(store, NEW, policy)
        async with stage.open():
            first = await stage.begin(taken=False)
            await first.done.wait()
            assert await stored_checkpoint(store) == start
            again = await stage.begin("again")
            assert again.may_read.is_set()
            number = start[1] + 1
            await stage.play(again, message(number, blob_event("b", 1)))
            await stage.end(again)
        assert stage.sinks["out"].ids == ["b-1"]
        assert (await stage.state()).hub == HubIdentity(NEW, -1)
        assert await stored_checkpoint(store) == (str(number * 100), number)

    run(scene())


def test_who_dies_between_checkpoint_and_state_leaves_it_to_be_begun_anew_again():
    async def scene():
        class Dies(MemoryStore):
            writes_after_checkpoint = None

            async def _reach(self, name: str) -> None:
                if name == "write_checkpoint":
                    self.writes_after_checkpoint = 0
                if name == "write_state" and self.writes_after_checkpoint is not None:
                    raise KeyError("dead")  # no error that anybody handles: the end of a process

        store = MemoryStore()
        await read_some(store)
        dying = stage_on(Dies(store.contents), NEW, "earliest")
        claim = await dying.begin(taken=False)
        await claim.done.wait()
        with pytest.raises(KeyError):
            await dying.running.pop()
        assert await stored_checkpoint(store) == ("-1", -1)
        stage = stage_on(store, NEW, "earliest")
        async with stage.open():
            first = await stage.begin(taken=False)
            await first.done.wait()
            again = await stage.begin("again")
            assert (await stage.state()).hub == HubIdentity(NEW, -1)
            await stage.end(again)

    run(scene())


def test_a_hub_that_does_not_answer_is_waited_for_before_anything_is_begun_anew():
    async def scene():
        store = MemoryStore()
        await read_some(store)
        stage = stage_on(store, NEW, "latest")
        stage.hub.down = True
        async with stage.open():
            claim = await stage.begin(taken=False)
            await settle_down()
            assert not claim.done.is_set()
            assert await stored_checkpoint(store) == ("50100", 501)
            stage.hub.down = False
            await claim.done.wait()
        assert await stored_checkpoint(store) == ("9900", 99)

    run(scene())


@pytest.mark.parametrize("policy", ["stop", "earliest"])
def test_a_position_that_the_hub_refuses_stops_the_next_claim_whoever_makes_it(policy: str):
    async def scene():
        store = MemoryStore()
        stage = stage_on(store, OLD)
        async with stage.open():
            claim = await stage.begin()
            await stage.play(claim, message(500, blob_event("a", 1)))
            claim.give_back("The supplied offset '50000' is invalid.")
            await claim.done.wait()
        other = stage_on(store, OLD, policy)
        async with other.open():
            claim = await other.begin("other", taken=False)
            if policy == "stop":
                while not claim.held:
                    await settle_down()
                assert not claim.may_read.is_set()
                [reason] = other.parts.health.not_ready().values()
                assert "The supplied offset" in reason
                await other.end(claim)
            else:
                await claim.done.wait()
                assert await stored_checkpoint(store) == ("-1", -1)
                assert (await other.state()).stopped is None

    run(scene())


def test_the_first_epoch_is_learnt_and_another_one_gives_the_partition_back():
    async def scene():
        store = MemoryStore()
        stage = stage_on(store, OLD)
        async with stage.open():
            claim = await stage.begin()
            assert claim.is_of_this_life(-1)
            assert claim.is_of_this_life(3)
            assert claim.is_of_this_life(3)
            await stage.play(claim, message(1, blob_event("a", 1)))
            assert not claim.is_of_this_life(4)
            await claim.done.wait()
        state = await stage.state()
        assert state.hub == HubIdentity(OLD, 3)
        assert state.stopped is not None
        assert "epoch 3" in state.stopped

    run(scene())


def test_what_the_store_knows_of_a_hub_that_was_not_asked_yet_is_not_doubted():
    async def scene():
        store = MemoryStore()
        await read_some(store)
        stage = stage_on(store, NEW)
        stage.hub.identity = None
        async with stage.open():
            claim = await stage.begin()
            assert claim.may_read.is_set()
            await stage.end(claim)
        assert (await stage.state()).hub == HubIdentity(OLD, -1)

    run(scene())
