"""A partition that an operator puts elsewhere: read again as if for the first time, whoever has it and whoever dies."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.fakes import FakeSink
from tests.memory_store import MemoryStore
from tests.pipeline.digests import GROUPED, begin, told
from tests.pipeline.stage import PARTITION, Stage, blob_event, message
from tests.virtual_time import run, settle_down
from worker import state as codec
from worker.checkpoint import Checkpoint
from worker.claim import Claim
from worker.config import LimitSettings
from worker.errors import StoreUnavailable, WorkerError
from worker.ownership import Fenced, take
from worker.progress import Watermark
from worker.seek import Unsure, seek
from worker.state import Again, HubIdentity

HUB = HubIdentity("2026-01-01T00:00:00+00:00", -1)
START = Watermark(-1, "-1")
MESSAGES = [message(number, blob_event("a", number), at=number) for number in range(10)]
IDS = [f"a-{number}" for number in range(10)]


async def put(store: MemoryStore, place: Watermark, *, name: str = "seek", again: Again | None = None) -> None:
    await seek(store, PARTITION, place, hub=HUB, claimant=name, limits=LimitSettings(), again=again)


async def reading(stage: Stage, name: str) -> Claim:
    """A claim as the SDK makes it: the position is what was listed before the partition was taken."""
    claim = Claim(PARTITION, name, stage.parts)
    claim.reads_from = await stage.checkpoint()
    stage.running.append(asyncio.create_task(claim.run(), name=name))
    return claim


async def read_on(stage: Stage, name: str = "next") -> int:
    """Claims until it may read, and gives what the hub has from there; returns how often it had to claim."""
    for times in range(1, 4):
        claim = await reading(stage, f"{name}{times}")
        while claim.tenure is None and not claim.done.is_set():
            await asyncio.sleep(0.05)
        await settle_down()
        if claim.done.is_set():
            continue
        begun = -1 if claim.reads_from is None else claim.reads_from
        if fresh := [each for each in MESSAGES if each.sequence_number > begun]:
            await stage.play(claim, *fresh)
        await asyncio.sleep(6)
        await stage.end(claim)
        return times
    raise AssertionError("no claim may read")


async def history(store: MemoryStore, **options: Any) -> Stage:
    """All of it was read and delivered once."""
    stage = Stage(store=store, window=0, **options)
    async with stage.open():
        await read_on(stage, "first")
    assert (stage.sinks["out"].ids, await stage.checkpoint()) == (IDS, 9)
    return stage


@pytest.mark.parametrize("number", [-1, 0, 4, 8])
def test_what_lies_behind_the_place_is_delivered_again_neither_as_a_copy_nor_late(number: int):
    async def scene():
        store = MemoryStore()
        await history(store)
        await put(store, Watermark(number, ""))
        state = await Stage(store=store).state()
        assert (state.watermark, state.released, state.sought) == ((number, ""), True, False)
        stage = Stage(store=store, window=0)
        assert await stage.checkpoint() == number
        async with stage.open():
            assert await read_on(stage) == 1
        assert stage.sinks["out"].ids == IDS[number + 1 :]
        assert all(each.released.late_by_ms is None for each in stage.sinks["out"].accepted)
        assert stage.count("worker_duplicate_events_total", partition="0", kind="same") == 0
        assert await stage.checkpoint() == 9

    run(scene())


def test_what_is_passed_over_is_not_delivered():
    async def scene():
        store = MemoryStore()
        await put(store, Watermark(6, "600"))
        stage = Stage(store=store, window=0)
        async with stage.open():
            await read_on(stage)
        assert stage.sinks["out"].ids == IDS[7:]

    run(scene())


def test_a_live_owner_ends_what_is_under_way_and_the_next_claim_goes_on_from_the_place():
    async def scene():
        store, sink = MemoryStore(), FakeSink()
        stage = Stage({"out": sink}, store=store, window=0)
        async with stage.open():
            claim = await reading(stage, "owner")
            await asyncio.sleep(0.1)
            sink.open_gate.clear()
            await stage.play(claim, *MESSAGES)
            moving = asyncio.create_task(put(store, START))
            while not claim.closed:  # what `process` does each half second
                await asyncio.sleep(0.5)
                await claim.look((await store.state_versions())[PARTITION])
            assert not moving.done(), "a delivery is under way"
            sink.open_gate.set()
            await moving
            assert claim.done.is_set()
            assert sink.ids == IDS[:1]
            await read_on(stage)
        assert sink.ids == [IDS[0], *IDS]

    run(scene())


def test_an_owner_that_is_frozen_is_fenced_and_can_move_nothing_when_it_thaws():
    async def scene():
        store = MemoryStore()
        stage = await history(store)
        frozen = await take(store, PARTITION, claimant="frozen", hand_over_seconds=5, drain_seconds=20)
        checkpoint = Checkpoint(frozen, store, stage.metrics)
        await checkpoint.begin()
        await put(store, START)
        with pytest.raises(Fenced):
            await checkpoint.move(Watermark(9, "900"))
        with pytest.raises(Fenced):
            await frozen.save(released=True)
        assert await stage.checkpoint() == -1

    run(scene())


def test_a_claim_whose_position_was_told_before_the_move_is_made_anew():
    """The SDK has listed the checkpoints, and the partition is moved before it is taken."""

    async def scene():
        store = MemoryStore()
        await history(store)
        stage = Stage(store=store, window=0)
        async with stage.open():
            claim = Claim(PARTITION, "told too early", stage.parts)
            claim.reads_from = await stage.checkpoint()
            await put(store, Watermark(3, ""))
            stage.running.append(asyncio.create_task(claim.run()))
            await claim.done.wait()
            assert (await stage.state()).released
            assert await read_on(stage) == 1
        assert stage.sinks["out"].ids == IDS[4:]

    run(scene())


class Dies(MemoryStore):
    """A process dies at one of its calls, before or after the effect."""

    def __init__(self, store: MemoryStore, at: int, *, after: bool) -> None:
        super().__init__(store.contents)
        self._left = at
        self._after = after

    async def _reach(self, name: str) -> None:
        if not self._after:
            self._count()

    async def _answered(self, name: str) -> None:
        if self._after:
            self._count()

    def _count(self) -> None:
        if self._left == 0:
            raise KeyError("dead")  # no error that anybody handles: the end of a process
        self._left -= 1


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(8))
def test_whoever_dies_in_between_has_moved_it_or_changed_nothing(at: int, after: bool):
    async def scene():
        store = MemoryStore()
        await history(store)
        died = False
        try:
            await put(Dies(store, at, after=after), Watermark(3, ""))
        except KeyError:
            died = True
        assert died == (at < 7), "the number of calls: change the range with it"
        stage = Stage(store=store, window=0)
        async with stage.open():
            await read_on(stage)
        assert stage.sinks["out"].ids in ([], IDS[4:])
        assert await stage.checkpoint() == 9
        await put(store, Watermark(3, ""))
        again = Stage(store=store, window=0)
        async with again.open():
            await read_on(again)
        assert again.sinks["out"].ids == IDS[4:]

    run(scene())


class Goes(Dies):
    """The store is away from one of its calls on: that one may have had its effect."""

    def _count(self) -> None:
        if self._left == 0:
            raise StoreUnavailable("The store is away.")
        self._left -= 1


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(8))
def test_what_is_said_to_be_moved_is_and_what_is_said_not_to_be_is_not(at: int, after: bool):
    """Or else who repeats it `--again` would have effects twice."""

    async def scene():
        store = MemoryStore()
        await history(store)
        error: Exception | None = None
        try:
            await put(Goes(store, at, after=after), Watermark(3, ""), again=Again("wish", 9))
        except WorkerError as raised:
            error = raised
        state = await Stage(store=store).state()
        if not isinstance(error, Unsure):
            assert (state.watermark == (3, ""), state.again is not None) == (error is None, error is None)
        assert (type(error) is Unsure) == (at == 2), "the call that gives the store the place"
        stage = Stage(store=store, window=0)
        async with stage.open():
            await read_on(stage)
        assert stage.sinks["out"].ids == (IDS[4:] if state.watermark == (3, "") else [])

    run(scene())


def test_where_no_checkpoint_was_written_any_more_a_start_does_so_from_the_place():
    async def scene():
        store = MemoryStore()
        await history(store)
        with pytest.raises(KeyError):
            await put(Dies(store, 3, after=False), Watermark(3, ""))
        assert (await Stage(store=store).state()).sought
        assert await Stage(store=store).checkpoint() == 9
        stage = Stage(store=store, window=0)
        async with stage.open():
            assert await read_on(stage) == 2, "the first claim was told the old checkpoint"
        assert stage.sinks["out"].ids == IDS[4:]

    run(scene())


def test_of_two_at_once_one_stands_whole():
    async def scene():
        store = MemoryStore()
        await history(store)
        places = [Watermark(2, ""), Watermark(6, "")]
        results = await asyncio.gather(
            *(put(store, place, name=f"seek-{place.sequence_number}") for place in places), return_exceptions=True
        )
        assert any(result is None for result in results)
        assert all(result is None or isinstance(result, WorkerError) for result in results)
        state = await Stage(store=store).state()
        assert state.watermark in places
        assert state.released
        assert await Stage(store=store).checkpoint() == state.watermark.sequence_number

    run(scene())


def test_what_waits_to_be_told_stays_and_what_is_remembered_of_events_goes():
    async def scene():
        store = MemoryStore()
        stage = await history(store)
        stored = await store.read_state(PARTITION)
        waiting = {"content": {"x": 1}, "parts": [], "rows": []}
        state = replace(
            codec.decode(stored.payload),
            digests=waiting,
            expectations=waiting,
            stopped="junk",
            stopped_under="digest",
            memory_parts=["0000000001-000001"],
            values_from=1,
        )
        assert state.memory_since
        await store.write_state(PARTITION, codec.encode(state), expected=stored.version)
        await put(store, START)
        after = await stage.state()
        assert (after.digests, after.expectations) == (waiting, waiting)
        assert (after.memory_parts, after.memory_since, after.values_from) == ([], {}, None)
        assert (after.stopped, after.hub, after.generation) == (None, HUB, state.generation + 1)

    run(scene())


def test_a_sink_with_a_ledger_gets_it_again_only_where_that_is_wished_and_then_once_though_a_process_dies():
    async def scene():
        store = MemoryStore()
        await history(store, ledger=True)
        await put(store, START)
        plain = Stage(store=store, window=0, ledger=True)
        async with plain.open():
            await read_on(plain)
        assert plain.sinks["out"].ids == []

        await put(store, START, again=Again("wish", 5))
        stage = Stage(store=store, window=0, ledger=True)
        async with stage.open():
            await read_on(stage)
        assert stage.sinks["out"].ids == IDS[:6], "what came after the wish is not meant"
        assert (await stage.state()).again is None

        # As if nothing of that had been saved: what was done for the wish is not done once more.
        await put(store, START, again=Again("wish", 5))
        once_more = Stage(store=store, window=0, ledger=True)
        async with once_more.open():
            await read_on(once_more)
        assert once_more.sinks["out"].ids == []

    run(scene())


def test_what_was_told_together_is_told_again_whatever_the_ledger_says():
    """It knows a digest by its members and by when it was closed, and no event that was told in one."""

    async def scene():
        store = MemoryStore()
        for _ in range(2):
            stage = Stage(store=store, window=0, ledger=True, quiet=GROUPED)
            async with stage.open():
                claim = await begin(stage, "life", *MESSAGES)
                await asyncio.sleep(200)
                await stage.end(claim)
            assert [told(delivery) for delivery in stage.sinks["out"].accepted] == [IDS]
            await put(store, START)

    run(scene())
