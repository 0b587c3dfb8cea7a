"""The Blob store's conditional writes when answers get lost and others write in between."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from tests.contract.store_helpers import P0, SCOPE, Proxy, names
from worker.errors import Conflict
from worker.events import UnixSeconds
from worker.stores.blob import BlobStore

ThingOf = Callable[[BlobStore], tuple[Any, Any]]
"""Of a store: how one thing is read, and how it is written with a number for content."""


def state_of(store: BlobStore) -> tuple[Any, Any]:
    return lambda: store.read_state(P0), lambda number, expected: store.write_state(
        P0, b"%d" % number, expected=expected
    )


def checkpoint_of(store: BlobStore) -> tuple[Any, Any]:
    return lambda: store.read_checkpoint(P0), lambda number, expected: store.write_checkpoint(
        P0, offset="1", sequence_number=number, expected=expected
    )


def entry_of(store: BlobStore) -> tuple[Any, Any]:
    return lambda: store.read_entry("key"), lambda number, expected: store.write_entry(
        "key", b"%d" % number, expected=expected
    )


conditional_writes = pytest.mark.parametrize("thing_of", [state_of, checkpoint_of, entry_of])


@conditional_writes
async def test_our_own_write_whose_answer_was_lost_is_no_conflict(
    proxy: Proxy, behind_proxy: BlobStore, store: BlobStore, thing_of: ThingOf
):
    (_, write), (read, _) = thing_of(behind_proxy), thing_of(store)
    losses = iter([True])
    proxy.lose = lambda request: request.method == "PUT" and next(losses, False)

    first = await write(1, None)
    assert (await read()).version == first
    losses = iter([True])
    second = await write(2, first)

    assert next(losses, None) is None
    assert (await read()).version == second != first


@conditional_writes
async def test_another_ones_write_after_ours_whose_answer_was_lost_is_a_conflict(
    proxy: Proxy, behind_proxy: BlobStore, store: BlobStore, thing_of: ThingOf
):
    (_, write), (read, write_theirs) = thing_of(behind_proxy), thing_of(store)
    first = await write(1, None)
    puts, theirs = 0, []

    async def write_in_between(request: web.Request) -> None:
        nonlocal puts
        puts += request.method == "PUT"
        if request.method == "PUT" and puts == 2:  # ours, tried again
            ours = await read()
            assert ours.version != first
            theirs.append(await write_theirs(3, ours.version))

    proxy.meddle = write_in_between
    proxy.lose = lambda request: request.method == "PUT" and puts == 1

    with pytest.raises(Conflict):
        await write(2, first)
    assert [(await read()).version] == theirs


async def test_after_another_ones_versioned_write_the_sdks_update_still_only_moves_forward(
    behind_proxy: BlobStore, store: BlobStore
):
    """What a process remembers of its last write may be neither what stands there nor before it."""
    update = behind_proxy.checkpoints.update_checkpoint
    await update(names(sequence_number=50, offset="50"))
    found = await store.read_checkpoint(P0)
    assert found is not None
    version = await store.write_checkpoint(P0, offset="90", sequence_number=90, expected=found.version)

    await update(names(sequence_number=60, offset="60"))
    assert await store.read_checkpoint(P0) == ("90", 90, version)

    await store.write_checkpoint(P0, offset="10", sequence_number=10, expected=version)
    await update(names(sequence_number=20, offset="20"))
    assert await store.checkpoints.list_checkpoints(*SCOPE) == [names(sequence_number=20, offset="20")]


async def test_after_its_own_versioned_write_back_the_sdks_update_goes_on_from_there(
    proxy: Proxy, behind_proxy: BlobStore
):
    await behind_proxy.checkpoints.update_checkpoint(names(sequence_number=50, offset="50"))
    found = await behind_proxy.read_checkpoint(P0)
    assert found is not None
    await behind_proxy.write_checkpoint(P0, offset="10", sequence_number=10, expected=found.version)
    proxy.requests.clear()

    await behind_proxy.checkpoints.update_checkpoint(names(sequence_number=11, offset="11"))

    assert await behind_proxy.checkpoints.list_checkpoints(*SCOPE) == [names(sequence_number=11, offset="11")]
    assert proxy.requests == ["PUT", "GET"]  # it knew the version


async def test_an_entry_that_is_written_before_it_can_be_expired_stays(
    proxy: Proxy, behind_proxy: BlobStore, store: BlobStore
):
    version = await store.write_entry("key", b"intent", expected=None)
    written = []

    async def write_first(request: web.Request) -> None:
        if request.method == "DELETE":
            written.append(await store.write_entry("key", b"outcome", expected=version))

    proxy.meddle = write_first

    assert await behind_proxy.expire_entries(UnixSeconds(time.time() + 3600)) == 0
    assert await store.read_entry("key") == (b"outcome", written[0])
