"""Each request to a store is counted once, by kind and by how it ended: what a bill and a quota count."""

import asyncio
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from tests.contract.store_helpers import P0, SCOPE, Proxy
from worker.errors import Conflict, StoreUnavailable
from worker.stores.blob import BlobStore
from worker.stores.sqlite import SqliteStore


class Counts(Counter[tuple[str, str]]):
    def count(self, operation: str, outcome: str) -> None:
        self[operation, outcome] += 1


def blob(connection_string: str, container: str, counts: Counts, *, timeout_seconds: float = 10.0) -> BlobStore:
    return BlobStore(
        container,
        SCOPE,
        connection_string=connection_string,
        account_url=None,
        credential=None,
        timeout_seconds=timeout_seconds,
        count=counts.count,
    )


async def test_requests_to_blob_storage_by_kind_and_outcome(azurite: str, container: str):
    counts = Counts()
    store = blob(azurite, container, counts)
    await store.open()
    assert counts == {("list", "missing"): 1, ("write", "ok"): 1}, "is it there? then it is made"
    counts.clear()

    assert await store.read_state(P0) is None
    version = await store.write_state(P0, b"one", expected=None)
    await store.write_state(P0, b"two", expected=version)
    await store.read_state(P0)
    await store.state_versions()
    await store.write_memory(P0, "1-1", b"memory")
    await store.forget_memory(P0, keep=())
    assert counts == {
        ("read", "missing"): 1,
        ("write", "ok"): 3,
        ("read", "ok"): 1,
        ("list", "ok"): 2,
        ("delete", "ok"): 1,
    }
    counts.clear()

    with pytest.raises(Conflict):
        await store.write_state(P0, b"three", expected=version)
    assert counts == {("write", "conflict"): 1, ("read", "ok"): 1}, "it looks whether it was itself"
    await store.aclose()


async def test_what_nobody_answers_is_counted_with_each_try(proxy: Proxy, container: str, store: BlobStore):
    counts = Counts()
    behind = blob(proxy.connection_string, container, counts, timeout_seconds=5.0)
    await behind.open()
    counts.clear()
    proxy.lose = lambda _: True
    with pytest.raises(StoreUnavailable):
        await behind.read_state(P0)
    assert set(counts) == {("read", "no_answer")}
    assert counts["read", "no_answer"] > 1
    await behind.aclose()


async def test_transactions_of_sqlite_by_kind_and_outcome(tmp_path: Path):
    counts = Counts()
    path = tmp_path / "worker.db"
    store = SqliteStore(path, SCOPE, busy_timeout_seconds=0.1, count=counts.count)
    await store.open()
    version = await store.write_state(P0, b"one", expected=None)
    await store.read_state(P0)
    with pytest.raises(Conflict):
        await store.write_state(P0, b"two", expected=None)
    assert counts == {("write", "ok"): 1, ("read", "ok"): 1, ("write", "conflict"): 1}
    counts.clear()

    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable):
        await store.write_state(P0, b"two", expected=version)
    assert counts == {("write", "failed"): 1}
    other.close()
    counts.clear()

    waiting = asyncio.create_task(store.read_state(P0))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert counts == {("read", "no_answer"): 1}
    await store.aclose()
