"""Where the contestants keep their progress, how it fails: a SQLite file is locked, an Azurite freezes."""

import asyncio
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, NamedTuple

from azure.storage.blob.aio import ContainerClient

from bench.azurite import HOST, Azurite
from worker.errors import WorkerError
from worker.stores import HubScope, Store
from worker.stores.blob import BlobStore
from worker.stores.sqlite import SqliteStore

_CONTAINER = "chaos"
_NAIVE_CONTAINER = "naive"
_CONNECTION_ENV = "CHAOS_STORE"
_START_SECONDS = 30.0


class StoreKind(NamedTuple):
    """A store, as the run needs it."""

    settings: dict[str, Any]
    """The section `store` of worker.yaml, without intervals."""
    environment: dict[str, str]
    """For the worker, and for the hand-written loop."""
    open: Callable[[HubScope], Store]
    fail: Callable[[float], Any]
    """Makes it fail for so many seconds; a coroutine function."""
    fault: str
    """What failing is, for people."""


@asynccontextmanager
async def store_of(kind: str, folder: Path) -> AsyncIterator[StoreKind]:
    """The store of one contestant."""
    if kind == "sqlite":
        yield _sqlite(folder)
        return
    async with _azurite() as (process, connection_string):
        # The SDK's store wants its container to be there.
        async with ContainerClient.from_connection_string(connection_string, _NAIVE_CONTAINER) as container:
            await container.create_container()
        yield _blob(process, connection_string)


def _sqlite(folder: Path) -> StoreKind:
    path, theirs = folder / "worker.db", folder / "naive.db"

    async def lock(seconds: float) -> None:
        await asyncio.gather(*(asyncio.to_thread(_hold, each, seconds) for each in (path, theirs) if each.exists()))

    return StoreKind(
        settings={"kind": "sqlite", "path": str(path.absolute())},
        environment={"NAIVE_SQLITE": str(theirs.absolute())},
        open=lambda scope: SqliteStore(path, scope),
        fail=lock,
        fault="lock the store's file",
    )


def _hold(path: Path, seconds: float) -> None:
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        time.sleep(seconds)
        database.execute("ROLLBACK")


def _blob(process: asyncio.subprocess.Process, connection_string: str) -> StoreKind:
    async def freeze(seconds: float) -> None:
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            process.send_signal(signal.SIGCONT)

    return StoreKind(
        settings={"kind": "blob", "connection_string_env": _CONNECTION_ENV, "container": _CONTAINER},
        environment={
            _CONNECTION_ENV: connection_string,
            "NAIVE_BLOB": connection_string,
            "NAIVE_CONTAINER": _NAIVE_CONTAINER,
        },
        open=lambda scope: BlobStore(
            _CONTAINER, scope, connection_string=connection_string, account_url=None, credential=None
        ),
        fail=freeze,
        fault="freeze the store",
    )


@asynccontextmanager
async def _azurite() -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """An empty Blob service in memory."""
    if not await asyncio.to_thread(Azurite.is_installed):
        raise WorkerError("Azurite is not installed: run `make node`, or use STORE=sqlite")
    azurite = Azurite.new()
    process = await asyncio.create_subprocess_exec(
        *azurite.command,
        stdout=asyncio.subprocess.DEVNULL,
        env={**os.environ, **azurite.environment},
        start_new_session=True,
    )
    try:
        await _listening(azurite.port)
        yield process, azurite.connection_string
    finally:
        if process.returncode is None:
            process.kill()  # it holds nothing that anybody reads again
        await process.wait()


async def _listening(port: int) -> None:
    async with asyncio.timeout(_START_SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection(HOST, port)
            except OSError:
                await asyncio.sleep(0.1)
            else:
                writer.close()
                return
