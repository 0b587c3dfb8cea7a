"""An event that is given up stays before its successors, whenever the process dies."""

import asyncio

from tests.fakes import FakeSink
from tests.memory_store import MemoryStore
from tests.pipeline.stage import Stage, blob_event, message
from tests.virtual_time import run
from worker.errors import Rejected, StoreUnavailable
from worker.sinks import Delivery


def rejects_the_first(delivery: Delivery) -> Exception | None:
    return Rejected("never") if delivery.released.placed.event.id == "a-1" else None


class Without(MemoryStore):
    """A store to which some calls fail."""

    lacking = ""

    async def _reach(self, name: str) -> None:
        if name == self.lacking:
            raise StoreUnavailable(f"no {name}")


def test_the_next_event_of_a_subject_waits_until_the_dead_letter_is_kept():
    async def scene():
        store = Without()
        async with Stage({"out": FakeSink(refuse=rejects_the_first)}, store=store, window=0).open() as stage:
            claim = await stage.begin()
            store.lacking = "put_dead_letters"
            await stage.play(claim, message(1, blob_event("a", 1), blob_event("a", 2), blob_event("b", 1)))
            await asyncio.sleep(20)
            assert stage.sinks["out"].ids == ["b-1"]
            store.lacking = ""
            await asyncio.sleep(60)
            assert stage.sinks["out"].ids == ["b-1", "a-2"]

    run(scene())


def test_the_next_event_of_a_subject_waits_until_the_state_knows_of_the_dead_letter():
    async def scene():
        store = Without()
        async with Stage({"out": FakeSink(refuse=rejects_the_first)}, store=store, window=0).open() as stage:
            claim = await stage.begin()
            store.lacking = "write_state"
            await stage.play(claim, message(1, blob_event("a", 1), blob_event("a", 2)))
            await asyncio.sleep(20)
            assert [letter.event_id for letter in await stage.dead_letters()] == ["a-1"]
            assert stage.sinks["out"].ids == []
            store.lacking = ""
            await asyncio.sleep(60)
            assert stage.sinks["out"].ids == ["a-2"]

    run(scene())
