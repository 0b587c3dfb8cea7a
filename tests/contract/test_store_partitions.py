"""What every store promises of a partition's checkpoint, written by version, and of its memory."""

import asyncio

import pytest

from tests.contract.store_helpers import P0, P1, SCOPE, OpenStore, names, real_stores
from worker.errors import Conflict
from worker.stores import StateVersion, Store, StoredCheckpoint


async def write(store: Store, number: int, expected: StateVersion | None) -> StateVersion:
    return await store.write_checkpoint(P0, offset=f"{number}00", sequence_number=number, expected=expected)


async def read(store: Store) -> StoredCheckpoint:
    found = await store.read_checkpoint(P0)
    assert found is not None
    return found


# --- checkpoints by version ---


async def test_a_checkpoint_is_read_as_it_was_written_with_the_version_that_was_returned(open_store: OpenStore):
    store, other = await open_store(), await open_store()
    assert await store.read_checkpoint(P0) is None

    version = await store.write_checkpoint(P0, offset="1:2:700", sequence_number=7, expected=None)

    assert await other.read_checkpoint(P0) == ("1:2:700", 7, version)
    assert await other.read_checkpoint(P1) is None


async def test_a_checkpoint_may_move_back_and_forward_by_version(open_store: OpenStore):
    store = await open_store()
    version = await write(store, 7, None)
    for number in (3, -1, 9):
        version = await write(store, number, version)
        assert await read(store) == (f"{number}00", number, version)


async def test_writing_a_checkpoint_as_it_stands_makes_the_former_version_fail(open_store: OpenStore):
    former, new = await open_store(), await open_store()
    version = await write(former, 7, None)

    fence = await write(new, 7, version)

    assert fence != version
    with pytest.raises(Conflict, match="checkpoint of partition 0"):
        await write(former, 8, version)
    assert await read(new) == ("700", 7, fence)


async def test_a_checkpoint_that_exists_is_not_created_again(open_store: OpenStore):
    store, late = await open_store(), await open_store()
    version = await write(store, 7, None)

    with pytest.raises(Conflict):
        await write(late, 8, None)
    assert await read(late) == ("700", 7, version)


async def test_a_version_of_a_checkpoint_that_is_absent_is_a_conflict(open_store: OpenStore):
    store = await open_store()

    with pytest.raises(Conflict):
        await write(store, 7, StateVersion("1"))
    assert await store.read_checkpoint(P0) is None


async def test_of_two_that_write_a_checkpoint_at_once_exactly_one_wins_every_time(open_store: OpenStore):
    stores = [await open_store(), await open_store()]
    version = None
    for number in range(0, 30, 2):
        results = await asyncio.gather(
            *(write(store, number + i, version) for i, store in enumerate(stores)), return_exceptions=True
        )
        assert {type(result) for result in results} == {Conflict, StateVersion}
        winner, version = next((i, each) for i, each in enumerate(results) if isinstance(each, StateVersion))
        assert await read(stores[0]) == (f"{number + winner}00", number + winner, version)


async def test_the_sdk_lists_a_checkpoint_that_was_written_by_version(open_store: OpenStore):
    store = await open_store()
    await write(store, 7, None)

    assert list(await store.checkpoints.list_checkpoints(*SCOPE)) == [names(sequence_number=7, offset="700")]


@pytest.mark.parametrize("force", [False, True])
async def test_the_sdks_update_changes_the_version(open_store: OpenStore, force: bool):
    store, other = await open_store(), await open_store()
    await other.checkpoints.update_checkpoint(names(sequence_number=7, offset="700"))
    before = await read(store)
    assert before[:2] == ("700", 7)
    number = 3 if force else 8
    await other.checkpoints.update_checkpoint(names(sequence_number=number, offset="x"), force=force)

    with pytest.raises(Conflict):
        await write(store, 9, before.version)
    assert (await read(store))[:2] == ("x", number)


async def test_an_update_that_is_ignored_leaves_the_version(open_store: OpenStore):
    store, other = await open_store(), await open_store()
    version = await write(store, 7, None)
    await other.checkpoints.update_checkpoint(names(sequence_number=6, offset="600"))

    version = await write(store, 8, version)

    assert await read(store) == ("800", 8, version)


async def test_the_sdks_update_goes_forward_from_a_checkpoint_that_was_moved_back_by_version(open_store: OpenStore):
    store = await open_store()
    await store.checkpoints.update_checkpoint(names(sequence_number=50, offset="50"))
    await write(store, 10, (await read(store)).version)

    await store.checkpoints.update_checkpoint(names(sequence_number=9, offset="9"))
    assert (await read(store))[:2] == ("1000", 10)
    await store.checkpoints.update_checkpoint(names(sequence_number=11, offset="11"))
    assert (await read(store))[:2] == ("11", 11)


# --- memory ---


async def parts_of(store: Store, *parts: str) -> dict[str, bytes | None]:
    return {part: await store.read_memory(P0, part) for part in parts}


async def test_a_part_of_the_memory_comes_back_byte_for_byte(open_store: OpenStore):
    store, other = await open_store(), await open_store()
    payload = bytes(range(256)) * 20_000
    assert await store.read_memory(P0, "1") is None

    await store.write_memory(P0, "1", payload)

    assert await other.read_memory(P0, "1") == payload


async def test_a_part_is_replaced_by_a_later_one_of_its_name_and_by_no_other(open_store: OpenStore):
    store = await open_store()
    await store.write_memory(P0, "1", b"old")
    await store.write_memory(P0, "2", b"second")
    await store.write_memory(P1, "1", b"of another partition")

    await store.write_memory(P0, "1", b"")

    assert await parts_of(store, "1", "2") == {"1": b"", "2": b"second"}
    assert await store.read_memory(P1, "1") == b"of another partition"


async def test_parts_that_are_not_kept_are_forgotten_in_their_partition_only(open_store: OpenStore):
    store = await open_store()
    for number in range(40):
        await store.write_memory(P0, f"{number:02}", b"x")
    await store.write_memory(P1, "00", b"y")

    await store.forget_memory(P0, keep=["07", "39"])

    left = await parts_of(store, *(f"{number:02}" for number in range(40)))
    assert [part for part, payload in left.items() if payload] == ["07", "39"]
    assert await store.read_memory(P1, "00") == b"y"


async def test_a_former_owner_does_not_forget_what_a_later_one_wrote(open_store: OpenStore):
    former, new = await open_store(), await open_store()
    await former.write_memory(P0, "1-1", b"old")
    await former.write_memory(P0, "1-2", b"x")
    await new.write_memory(P0, "2-1", b"new")

    await former.forget_memory(P0, keep=["1-2"])

    assert await parts_of(new, "1-1", "1-2", "2-1") == {"1-1": None, "1-2": b"x", "2-1": b"new"}


async def test_with_nothing_to_keep_all_parts_are_forgotten(open_store: OpenStore):
    store = await open_store()
    await store.forget_memory(P0, keep=[])
    await store.write_memory(P0, "1", b"x")
    await store.write_memory(P0, "2", b"x")

    await store.forget_memory(P0, keep=())

    assert await parts_of(store, "1", "2") == {"1": None, "2": None}


@real_stores
async def test_another_scopes_checkpoint_and_memory_are_another_ones(open_store: OpenStore):
    store, other = await open_store(), await open_store(SCOPE._replace(consumer_group="other"))
    await write(store, 7, None)
    await store.write_memory(P0, "1", b"mine")

    await other.forget_memory(P0, keep=[])
    await write(other, 3, None)

    assert (await read(store)).sequence_number == 7
    assert await store.read_memory(P0, "1") == b"mine"
    assert await other.read_memory(P0, "1") is None
