"""Fixtures of the contract suites."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from tests.contract.store_helpers import SCOPE, OpenStore, Proxy, blob_store
from tests.memory_store import MemoryStore
from worker.stores import HubScope, Store
from worker.stores.blob import BlobStore
from worker.stores.sqlite import SqliteStore


@pytest.fixture
def container() -> str:
    return f"test-{uuid4().hex}"


@pytest.fixture
async def store(azurite: str, container: str) -> AsyncIterator[BlobStore]:
    opened = blob_store(azurite, container)
    await opened.open()
    yield opened
    await opened.aclose()


@pytest.fixture
async def proxy(azurite: str) -> AsyncIterator[Proxy]:
    async with Proxy(azurite).running() as running:
        yield running


@pytest.fixture
async def behind_proxy(proxy: Proxy, container: str, store: BlobStore) -> AsyncIterator[BlobStore]:
    opened = blob_store(proxy.connection_string, container)
    await opened.open()
    yield opened
    await opened.aclose()


@pytest.fixture(params=["sqlite", "blob", "memory"])
async def open_store(request: pytest.FixtureRequest, tmp_path: Path, container: str) -> AsyncIterator[OpenStore]:
    """Opens a store; all those of one test share their place, as the processes of one deployment do."""
    memory = MemoryStore()

    def build(scope: HubScope) -> Store:
        match request.param:
            case "sqlite":
                return SqliteStore(tmp_path / "missing" / "worker.db", scope)
            case "blob":
                return blob_store(request.getfixturevalue("azurite"), container, scope=scope)
            case _:
                return memory

    async with AsyncExitStack() as opened:

        async def open_one(scope: HubScope = SCOPE) -> Store:
            store = build(scope)
            opened.push_async_callback(store.aclose)
            await store.open()
            return store

        yield open_one
