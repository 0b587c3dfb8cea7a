"""overview.py: how far a partition is and how much waits there, by what hub and store say."""

from typing import Any

import pytest

from tests.memory_store import MemoryStore
from tests.virtual_time import run
from worker import state as codec
from worker.events import PartitionId
from worker.overview import PartitionView, overview
from worker.progress import SavedProgress
from worker.state import PartitionState
from worker.stores import HubScope, StateVersion, StoredCheckpoint
from worker.target import Span

NOW = 1_770_000_000.0
SCOPE = HubScope("hub.test", "events", "$Default")
FULL = Span(0, 99, "o99", NOW - 20, empty=False)


def progress(number: int) -> SavedProgress:
    return SavedProgress(watermark=[number, "o"], read=number, unsettled=[], parts=[], served=[])


def view(
    *, span: Span = FULL, checkpoint: int | None = None, watermark: int | None = None, owned: bool = False, **state: Any
) -> PartitionView:
    said = None
    if watermark is not None or state:
        saved = None if watermark is None else progress(watermark)
        said = PartitionState(**{"generation": 2, "owner": "host-1/3", "progress": saved, **state})
    stands = None if checkpoint is None else StoredCheckpoint("o", checkpoint, StateVersion("1"))
    return PartitionView(PartitionId("0"), span, owned, stands, said)


@pytest.mark.parametrize(
    ("seen", "lag", "lost"),
    [
        (view(), 100, 0),  # never read
        (view(checkpoint=99), 0, 0),
        (view(checkpoint=49), 50, 0),
        (view(checkpoint=49, watermark=59), 40, 0),  # the state is ahead of the checkpoint
        (view(checkpoint=69, watermark=59), 30, 0),  # moved by hand: whichever is further
        (view(checkpoint=69, watermark=9, sought=True), 90, 0),  # an operator has put it there
        (view(watermark=59), 40, 0),
        (view(span=Span(60, 99, "o", NOW, empty=False), checkpoint=49), 40, 10),
        (view(span=Span(100, 99, "o", NOW, empty=True), checkpoint=49), 0, 50),
        (view(span=Span(0, -1, "-1", 0.0, empty=True), checkpoint=-1), 0, 0),
        (view(span=Span(0, -1, "-1", 0.0, empty=True)), 0, 0),
        (view(checkpoint=149), -50, 0),  # another hub: said, not hidden
        (view(span=Span(0, -1, "-1", 0.0, empty=True), checkpoint=9), -10, 0),
    ],
)
def test_what_waits_and_what_is_gone(seen: PartitionView, lag: int, lost: int):
    assert (seen.lag_events, seen.lost_events) == (lag, lost)


@pytest.mark.parametrize(
    ("seen", "seconds", "exact"),
    [
        (view(checkpoint=99), 0, True),
        (view(checkpoint=49), 20, False),  # the newest is so old: the oldest is no younger
        (view(checkpoint=98), 20, True),  # they are the same one
        (view(checkpoint=59, watermark=59, oldest_at=NOW - 300), 300, True),
        (view(checkpoint=69, watermark=59, oldest_at=NOW - 300), 20, False),  # that one is passed
    ],
)
def test_how_long_it_has_waited(seen: PartitionView, seconds: float, exact: bool):
    assert seen.lag_seconds(NOW) == (seconds, exact)


@pytest.mark.parametrize(
    ("seen", "owner"),
    [
        (view(owned=True, watermark=5), "host-1"),
        (view(owned=False, watermark=5), None),
        (view(owned=True, watermark=5, released=True), None),
        (view(owned=True), None),
    ],
)
def test_whose_it_is(seen: PartitionView, owner: str | None):
    assert seen.owner == owner


def test_hub_and_store_are_put_together_and_an_ownership_that_has_expired_is_none():
    class Hub:
        scope = SCOPE

        async def spans(self) -> dict[PartitionId, Span]:
            return {PartitionId(each): FULL for each in ("0", "1", "2")}

    async def scene():
        clock = [NOW - 30]
        store = MemoryStore(clock=lambda: clock[0])
        keys = dict(zip(("fully_qualified_namespace", "eventhub_name", "consumer_group"), SCOPE, strict=True))
        await store.claim_ownership([{**keys, "partition_id": "0", "owner_id": "dead"}])
        clock[0] = NOW - 3
        await store.claim_ownership(
            [{**keys, "partition_id": each, "owner_id": owner} for each, owner in (("1", "alive"), ("2", ""))]
        )
        state = PartitionState(generation=1, owner="host-9/1", progress=progress(9))
        await store.write_state(PartitionId("1"), codec.encode(state), expected=None)
        await store.write_checkpoint(PartitionId("1"), offset="o", sequence_number=4, expected=None)
        views = await overview(Hub(), store, expiry_seconds=20, now=NOW)
        assert [(each.partition, each.owned, each.owner, each.lag_events) for each in views] == [
            ("0", False, None, 100),
            ("1", True, "host-9", 90),
            ("2", False, None, 100),
        ]

    run(scene())
