"""What only the store in memory has: it can be away, slow, shared, and lose what it answers."""

import pytest

from tests.contract.store_helpers import P0, SCOPE, letter, names
from tests.memory_store import MemoryStore
from worker.errors import Conflict, StoreUnavailable
from worker.events import UnixSeconds


class Faulty(MemoryStore):
    """Fails on the way there or back, and keeps what it was asked for."""

    def __init__(self, contents=None) -> None:
        super().__init__(contents)
        self.fails_before = False
        self.fails_after = False
        self.ways: list[str] = []

    async def _reach(self, name: str) -> None:
        self.ways.append(f"to {name}")
        if self.fails_before:
            raise StoreUnavailable("lost on the way")

    async def _answered(self, name: str) -> None:
        self.ways.append(f"from {name}")
        if self.fails_after:
            raise StoreUnavailable("the answer got lost")


async def test_while_it_is_down_every_call_fails_and_changes_nothing():
    store = MemoryStore()
    version = await store.write_state(P0, b"1", expected=None)
    store.down = True

    with pytest.raises(StoreUnavailable):
        await store.write_state(P0, b"2", expected=version)
    with pytest.raises(StoreUnavailable):
        await anext(store.dead_letters())

    store.down = False
    assert await store.read_state(P0) == (b"1", version)
    assert store.calls == ["write_state", "write_state", "dead_letters", "read_state"]


async def test_what_fails_on_the_way_there_has_no_effect_and_on_the_way_back_it_has():
    store = Faulty()

    store.fails_before = True
    with pytest.raises(StoreUnavailable, match="on the way"):
        await store.write_entry("key", b"1", expected=None)
    store.fails_before = False
    assert await store.read_entry("key") is None

    store.fails_after = True
    with pytest.raises(StoreUnavailable, match="answer"):
        await store.write_entry("key", b"2", expected=None)
    store.fails_after = False
    entry = await store.read_entry("key")
    assert entry is not None
    assert entry.payload == b"2"


async def test_a_conflict_is_an_answer_that_can_get_lost_too():
    store = Faulty()
    await store.write_entry("key", b"1", expected=None)
    store.fails_after = True

    with pytest.raises(StoreUnavailable) as caught:
        await store.write_entry("key", b"2", expected=None)
    assert isinstance(caught.value.__context__, Conflict)


async def test_every_call_goes_there_and_back():
    store = Faulty()
    await store.checkpoints.claim_ownership([names(owner_id="a")])
    await store.put_dead_letters([letter()])
    assert [each async for each in store.dead_letters()] == [letter()]

    names_of_calls = ["claim_ownership", "put_dead_letters", "dead_letters"]
    assert store.ways == [f"{way} {name}" for name in names_of_calls for way in ("to", "from")]


async def test_stores_that_share_their_contents_fail_each_for_itself():
    here = Faulty()
    there = Faulty(here.contents)
    version = await here.write_state(P0, b"1", expected=None)
    here.fails_before = True

    assert await there.read_state(P0) == (b"1", version)
    with pytest.raises(StoreUnavailable):
        await here.read_state(P0)


async def test_its_times_are_those_of_its_clock():
    now = 1_000.0
    store = MemoryStore(clock=lambda: now)
    [won] = await store.checkpoints.claim_ownership([names(owner_id="a")])
    await store.write_entry("old", b"x", expected=None)
    now = 2_000.0
    await store.write_entry("new", b"x", expected=None)

    [listed] = await store.checkpoints.list_ownership(*SCOPE)
    assert won["last_modified_time"] == listed["last_modified_time"] == 1_000.0
    assert await store.expire_entries(UnixSeconds(2_000.0)) == 1
    assert await store.read_entry("new") is not None


async def test_the_same_calls_give_the_same_versions():
    """A simulation must replay exactly."""

    async def versions() -> list[str]:
        store = MemoryStore()
        [won] = await store.checkpoints.claim_ownership([names(owner_id="a")])
        return [won["etag"], await store.write_state(P0, b"1", expected=None)]

    assert await versions() == await versions()
