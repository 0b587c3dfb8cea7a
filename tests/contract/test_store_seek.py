"""A partition is put elsewhere over every store: through the fence, whoever has it, and one after the other."""

import asyncio
import time

import pytest

from tests.contract.store_helpers import P0, P1, SCOPE, OpenStore
from worker import state as codec
from worker.checkpoint import Checkpoint
from worker.config import LimitSettings
from worker.errors import WorkerError
from worker.metrics import Metrics
from worker.ownership import Fenced, Tenure, take
from worker.progress import SavedProgress, Watermark
from worker.seek import seek
from worker.state import Again, HubIdentity, PartitionState
from worker.stores import Store

HUB = HubIdentity("2026-01-01T00:00:00+00:00", -1)
LIMITS = LimitSettings(hand_over_seconds=0.3, drain_seconds=0.3)


async def put(store: Store, place: Watermark, *, name: str = "seek", again: Again | None = None) -> None:
    await seek(store, P0, place, hub=HUB, claimant=name, limits=LIMITS, again=again)


async def owner(store: Store, number: int) -> tuple[Tenure, Checkpoint]:
    """Somebody who has read so far."""
    tenure = await take(store, P0, claimant="owner/1", hand_over_seconds=0.3, drain_seconds=0.3)
    checkpoint = Checkpoint(tenure, store, Metrics())
    await checkpoint.begin()
    progress = SavedProgress(watermark=[number, f"{number}00"], read=number, unsettled=[], parts=[], served=[])
    await tenure.save(progress=progress, memory_parts=["0000000001-000001"])
    await checkpoint.move(Watermark(number, f"{number}00"))
    return tenure, checkpoint


async def stored(store: Store) -> tuple[PartitionState, tuple[str, int], dict[str, int]]:
    """The state, the checkpoint, and what the SDK and other tools see of it."""
    state, checkpoint = await store.read_state(P0), await store.read_checkpoint(P0)
    assert state is not None
    assert checkpoint is not None
    listed = await store.checkpoints.list_checkpoints(*SCOPE)
    seen = {row["partition_id"]: row["sequence_number"] for row in listed}
    return codec.decode(state.payload), (checkpoint.offset, checkpoint.sequence_number), seen


@pytest.mark.parametrize("place", [Watermark(-1, "-1"), Watermark(3, ""), Watermark(9_000_000_000, "1:2:3")])
async def test_state_and_checkpoint_say_the_place_back_or_forth(open_store: OpenStore, place: Watermark):
    store, operator = await open_store(), await open_store()
    tenure, _ = await owner(store, 70)
    await tenure.save(released=True)
    await put(operator, place, again=Again("wish", 70))
    state, checkpoint, seen = await stored(store)
    assert (state.watermark, state.generation, state.released, state.sought) == (place, 2, True, False)
    assert (state.memory_parts, state.hub, state.again) == ([], HUB, ("wish", 70))
    assert checkpoint == (place.offset, place.sequence_number)
    assert seen == {"0": place.sequence_number}


async def test_a_partition_that_nobody_ever_had_is_put_too(open_store: OpenStore):
    store = await open_store()
    await put(store, Watermark(41, ""))
    state, checkpoint, _ = await stored(store)
    assert (state.generation, state.watermark, checkpoint) == (1, (41, ""), ("", 41))
    assert await store.read_state(P1) is None


async def test_a_former_owner_that_was_silent_can_write_neither_state_nor_checkpoint(open_store: OpenStore):
    store, operator = await open_store(), await open_store()
    tenure, checkpoint = await owner(store, 70)
    await put(operator, Watermark(3, ""))
    with pytest.raises(Fenced):
        await checkpoint.move(Watermark(80, "8000"))
    with pytest.raises(Fenced):
        await tenure.save(released=True)
    assert (await stored(store))[1] == ("", 3)


async def test_of_several_at_once_one_stands_whole(open_store: OpenStore):
    stores = [await open_store() for _ in range(3)]
    places = [Watermark(number, "") for number in (5, 6, 7)]
    results = await asyncio.gather(
        *(put(store, place, name=f"seek-{place}") for store, place in zip(stores, places, strict=True)),
        return_exceptions=True,
    )
    assert None in results
    assert all(result is None or isinstance(result, WorkerError) for result in results)
    state, checkpoint, _ = await stored(stores[0])
    assert (state.watermark in places, state.released, state.sought) == (True, True, False)
    assert checkpoint == ("", state.watermark.sequence_number)


async def test_a_store_says_what_time_it_is(open_store: OpenStore):
    store = await open_store()
    assert abs(await store.clock() - time.time()) < 5
