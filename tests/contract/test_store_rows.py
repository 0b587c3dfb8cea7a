"""What every store promises of the table that the partitions share: one winner for each write, and a list for all."""

import asyncio

import pytest

from tests.contract.store_helpers import SCOPE, OpenStore, real_stores
from worker.errors import Conflict
from worker.stores import StateVersion

ROW = "expectation/model-is-deployed.5f5f"


async def test_a_row_comes_back_with_the_version_that_was_returned_and_a_list_tells_its_mark(open_store: OpenStore):
    store, other = await open_store(), await open_store()
    assert await store.read_row(ROW) is None
    assert await store.list_rows() == {}

    version = await store.write_row(ROW, b"x" * 70_000, mark="1700000000.5", expected=None)

    assert await other.read_row(ROW) == (b"x" * 70_000, version)
    assert await other.list_rows() == {ROW: (version, "1700000000.5")}


async def test_a_mark_may_be_empty_and_is_replaced_with_the_row(open_store: OpenStore):
    store = await open_store()
    first = await store.write_row(ROW, b"1", mark="", expected=None)
    assert await store.list_rows() == {ROW: (first, "")}

    second = await store.write_row(ROW, b"1", mark="m" * 200, expected=first)
    assert await store.list_rows() == {ROW: (second, "m" * 200)}

    third = await store.write_row(ROW, b"1", mark="", expected=second)
    assert await store.list_rows() == {ROW: (third, "")}
    assert len({first, second, third}) == 3


async def test_a_row_is_created_once_and_replaced_only_by_who_has_read_it(open_store: OpenStore):
    store, late = await open_store(), await open_store()
    version = await store.write_row(ROW, b"mine", mark="", expected=None)

    with pytest.raises(Conflict, match="model-is-deployed"):
        await late.write_row(ROW, b"theirs", mark="", expected=None)
    newer = await store.write_row(ROW, b"newer", mark="", expected=version)
    with pytest.raises(Conflict, match="model-is-deployed"):
        await late.write_row(ROW, b"theirs", mark="", expected=version)

    assert await late.read_row(ROW) == (b"newer", newer)


async def test_a_version_of_a_row_that_is_absent_is_a_conflict(open_store: OpenStore):
    store = await open_store()

    with pytest.raises(Conflict):
        await store.write_row(ROW, b"x", mark="", expected=StateVersion("1"))
    with pytest.raises(Conflict):
        await store.delete_row(ROW, expected=StateVersion("1"))
    assert await store.read_row(ROW) is None


async def test_of_many_that_write_one_row_at_once_exactly_one_wins(open_store: OpenStore):
    stores = [await open_store(), await open_store()]
    version = None
    for _ in range(3):
        results = await asyncio.gather(
            *(stores[each % 2].write_row(ROW, b"%d" % each, mark=f"{each}", expected=version) for each in range(8)),
            return_exceptions=True,
        )

        assert [type(each) for each in results].count(Conflict) == 7
        winner, version = next((at, each) for at, each in enumerate(results) if isinstance(each, StateVersion))
        assert await stores[0].read_row(ROW) == (b"%d" % winner, version)
        assert await stores[0].list_rows() == {ROW: (version, f"{winner}")}


async def test_only_the_version_that_is_there_is_deleted(open_store: OpenStore):
    store, other = await open_store(), await open_store()
    first = await store.write_row(ROW, b"1", mark="", expected=None)
    second = await other.write_row(ROW, b"2", mark="", expected=first)

    with pytest.raises(Conflict):
        await store.delete_row(ROW, expected=first)
    await store.delete_row(ROW, expected=second)

    assert await other.read_row(ROW) is None
    assert await other.list_rows() == {}


async def test_a_deleted_rows_version_does_not_fit_the_next_of_its_name(open_store: OpenStore):
    store = await open_store()
    frozen = await store.write_row(ROW, b"before", mark="", expected=None)
    await store.delete_row(ROW, expected=frozen)
    await store.write_row(ROW, b"after", mark="", expected=None)

    with pytest.raises(Conflict):
        await store.write_row(ROW, b"thawed", mark="", expected=frozen)


async def test_more_rows_than_a_page_of_a_list_are_all_told(open_store: OpenStore):
    store = await open_store()
    names = [f"expectation/rule.{number:04x}" for number in range(300)]
    for start in range(0, len(names), 50):
        await asyncio.gather(
            *(store.write_row(each, b"x", mark=each[-4:], expected=None) for each in names[start:][:50])
        )

    listed = await store.list_rows()

    assert {name: row.mark for name, row in listed.items()} == {name: name[-4:] for name in names}


@real_stores
async def test_another_scopes_rows_are_others(open_store: OpenStore):
    store, other = await open_store(), await open_store(SCOPE._replace(consumer_group="other"))
    version = await store.write_row(ROW, b"mine", mark="", expected=None)

    await other.write_row(ROW, b"theirs", mark="", expected=None)

    assert await store.read_row(ROW) == (b"mine", version)
