"""What every store promises of the ledger: one winner for each write, and an end to what is old."""

import asyncio
import time

import pytest

from tests.contract.store_helpers import SCOPE, OpenStore, real_stores
from worker.errors import Conflict
from worker.events import UnixSeconds
from worker.stores import StateVersion, Store

KEY = "5f" * 32
VARIANT = f"{KEY}.{'0a' * 8}"


def in_an_hour() -> UnixSeconds:
    """After everything that a test writes, by whoever's clock."""
    return UnixSeconds(time.time() + 3600)


async def test_an_entry_comes_back_with_the_version_that_was_returned(open_store: OpenStore):
    store, other = await open_store(), await open_store()
    assert await store.read_entry(KEY) is None

    version = await store.write_entry(KEY, b'{"intent":1}', expected=None)

    assert await other.read_entry(KEY) == (b'{"intent":1}', version)
    assert await other.read_entry(VARIANT) is None


async def test_of_two_intents_for_one_key_the_second_is_a_conflict(open_store: OpenStore):
    store, late = await open_store(), await open_store()
    version = await store.write_entry(KEY, b"mine", expected=None)

    with pytest.raises(Conflict, match=KEY):
        await late.write_entry(KEY, b"theirs", expected=None)
    assert await late.read_entry(KEY) == (b"mine", version)


async def test_an_outcome_replaces_its_intent_and_its_version(open_store: OpenStore):
    store = await open_store()
    intent = await store.write_entry(KEY, b"intent", expected=None)

    outcome = await store.write_entry(KEY, b"outcome", expected=intent)

    assert await store.read_entry(KEY) == (b"outcome", outcome)
    with pytest.raises(Conflict):
        await store.write_entry(KEY, b"too late", expected=intent)


async def test_a_version_of_an_entry_that_is_absent_is_a_conflict(open_store: OpenStore):
    store = await open_store()

    with pytest.raises(Conflict):
        await store.write_entry(KEY, b"x", expected=StateVersion("1"))
    assert await store.read_entry(KEY) is None


async def test_of_many_that_write_one_intent_at_once_exactly_one_wins(open_store: OpenStore):
    stores = [await open_store(), await open_store()]

    results = await asyncio.gather(
        *(stores[number % 2].write_entry(KEY, b"%d" % number, expected=None) for number in range(12)),
        return_exceptions=True,
    )

    assert [type(each) for each in results].count(Conflict) == 11
    winner = next(number for number, each in enumerate(results) if isinstance(each, StateVersion))
    assert await stores[0].read_entry(KEY) == (b"%d" % winner, results[winner])


@pytest.mark.parametrize("key", ["a/b?c#%d", "ä", "k"])
async def test_a_key_of_any_letters_is_its_own(open_store: OpenStore, key: str):
    store = await open_store()
    await store.write_entry(key, b"x", expected=None)

    entry = await store.read_entry(key)

    assert entry is not None
    assert entry.payload == b"x"
    assert await store.expire_entries(in_an_hour()) == 1
    assert await store.read_entry(key) is None


async def test_entries_expire_by_when_they_were_written_and_the_number_is_told(open_store: OpenStore):
    """More than one page of a list, and more than one transaction."""
    store, other = await open_store(), await open_store()
    keys = [f"{number:04x}{KEY}" for number in range(600)]
    for start in range(0, len(keys), 50):
        await asyncio.gather(*(store.write_entry(key, b"x", expected=None) for key in keys[start : start + 50]))

    assert await other.expire_entries(UnixSeconds(time.time() - 3600)) == 0
    assert await other.read_entry(keys[-1]) is not None
    assert await other.expire_entries(in_an_hour()) == 600
    assert await other.expire_entries(in_an_hour()) == 0
    assert await store.read_entry(keys[0]) is None


async def test_an_expired_entrys_version_does_not_fit_the_next_of_its_key(open_store: OpenStore):
    store = await open_store()
    frozen = await store.write_entry(KEY, b"intent", expected=None)
    await store.expire_entries(in_an_hour())
    await store.write_entry(KEY, b"another intent", expected=None)

    with pytest.raises(Conflict):
        await store.write_entry(KEY, b"outcome of the first", expected=frozen)


async def test_two_processes_that_expire_at_once_count_each_entry_once(open_store: OpenStore):
    stores: list[Store] = [await open_store(), await open_store()]
    await asyncio.gather(*(stores[0].write_entry(f"{number:02x}", b"x", expected=None) for number in range(40)))

    counts = await asyncio.gather(*(store.expire_entries(in_an_hour()) for store in stores))

    assert sum(counts) == 40


@real_stores
async def test_another_scopes_ledger_is_another_one(open_store: OpenStore):
    store, other = await open_store(), await open_store(SCOPE._replace(consumer_group="other"))
    version = await store.write_entry(KEY, b"mine", expected=None)

    await other.write_entry(KEY, b"theirs", expected=None)

    assert await other.expire_entries(in_an_hour()) == 1
    assert await store.read_entry(KEY) == (b"mine", version)
