"""One SQLite file and the thread that works on it: transactions, its tables, and errors in words.

Knows the tables by name only; what stands in them is the business of `sqlite` and `sqlite_letters`.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from worker.counted import Count, counted
from worker.errors import ConfigError, StoreUnavailable

_APPLICATION_ID = 0x45475731
"""Marks the file as ours ("EGW1"), so that a wrong path does not add tables to another program's database."""
_TO_VERSION_1 = (
    f"PRAGMA application_id = {_APPLICATION_ID}",
    """CREATE TABLE ownership (
        scope TEXT NOT NULL, partition TEXT NOT NULL, owner_id TEXT NOT NULL, version INTEGER NOT NULL,
        modified REAL NOT NULL, PRIMARY KEY (scope, partition)) WITHOUT ROWID""",
    """CREATE TABLE checkpoints (
        scope TEXT NOT NULL, partition TEXT NOT NULL, "offset" TEXT NOT NULL, sequence_number INTEGER NOT NULL,
        PRIMARY KEY (scope, partition)) WITHOUT ROWID""",
    """CREATE TABLE states (
        scope TEXT NOT NULL, partition TEXT NOT NULL, version INTEGER NOT NULL, payload BLOB NOT NULL,
        PRIMARY KEY (scope, partition))""",
    """CREATE TABLE dead_letters (
        scope TEXT NOT NULL, name TEXT NOT NULL, letter BLOB NOT NULL, PRIMARY KEY (scope, name))""",
)
_TO_VERSION_2 = (
    # A worker of version 1 that still has the file open can write no checkpoint any more: it says so, and nothing is
    # lost. It would otherwise leave the version as it is.
    "ALTER TABLE checkpoints ADD COLUMN version INTEGER NOT NULL DEFAULT 1",
    """CREATE TABLE memory (
        scope TEXT NOT NULL, partition TEXT NOT NULL, part TEXT NOT NULL, payload BLOB NOT NULL,
        PRIMARY KEY (scope, partition, part))""",
    """CREATE TABLE ledger (
        scope TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL, modified REAL NOT NULL,
        payload BLOB NOT NULL, PRIMARY KEY (scope, key))""",
    "CREATE INDEX ledger_by_age ON ledger (scope, modified)",
    """CREATE TABLE replays (
        scope TEXT NOT NULL, letter TEXT NOT NULL, partition TEXT NOT NULL,
        PRIMARY KEY (scope, letter)) WITHOUT ROWID""",
)
_TO_VERSION_3 = (
    """CREATE TABLE shared_rows (
        scope TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, mark TEXT NOT NULL,
        payload BLOB NOT NULL, PRIMARY KEY (scope, name))""",
)
_STEPS = (_TO_VERSION_1, _TO_VERSION_2, _TO_VERSION_3)
"""From an empty file to the present version: a new file takes all steps, an older one those that it lacks."""
_SCHEMA_VERSION = len(_STEPS)
_WAL_AGAIN_SECONDS = 0.01

Result = TypeVar("Result")


def _is_busy(error: sqlite3.DatabaseError) -> bool:
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY  # the low byte; the rest tells busy with what


class Database:
    """One connection on a thread of its own: SQLite blocks, and the event loop must not."""

    def __init__(self, path: Path, busy_timeout_seconds: float, count: Count) -> None:
        self.path = path
        self._busy_timeout_seconds = busy_timeout_seconds
        self._count = count
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite-store")
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    async def open(self) -> None:
        """Creates what is missing: folder, file, tables."""
        await self._on_thread(self._open)

    async def aclose(self) -> None:
        """Closes the file once everything asked for before has been done."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._on_thread(self._close)
        finally:
            self._thread.shutdown(wait=False)

    async def read(self, query: str, values: tuple[object, ...]) -> list[Any]:
        """All rows of one query; in WAL mode it waits for nobody."""
        with counted(self._count, "read"):
            return await self._on_thread(lambda: self._guarded(lambda db: db.execute(query, values).fetchall()))

    async def execute(self, statement: str, rows: Sequence[tuple[object, ...]]) -> int:
        """One statement, once for each row, in one transaction; returns how many rows of the table it changed."""

        def work(db: sqlite3.Connection) -> int:
            return db.executemany(statement, rows).rowcount  # its cursor stays on this thread

        return await self.write(work)

    async def write(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Queries and changes in one transaction, alone on the file from its first statement on."""

        def transaction(db: sqlite3.Connection) -> Result:
            with db:  # commits, or rolls back
                # IMMEDIATE: a transaction that began as a reader and turns writer fails at once when another wrote
                # in between; this one waits its turn instead.
                db.execute("BEGIN IMMEDIATE")
                return work(db)

        with counted(self._count, "write"):
            return await self._on_thread(lambda: self._guarded(transaction))

    async def _on_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _guarded(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        assert self._connection is not None, "open() comes first"
        try:
            return work(self._connection)
        except sqlite3.DatabaseError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: sqlite3.DatabaseError) -> Exception:
        if type(error) not in (sqlite3.OperationalError, sqlite3.DatabaseError):
            return error  # a constraint or a wrong statement: a bug, and no trouble with the file
        if _is_busy(error):
            return StoreUnavailable(
                f"The store {self.path} has been locked for over {self._busy_timeout_seconds:g} s: another program "
                "holds a transaction open on it."
            )
        return StoreUnavailable(
            f"The store {self.path} cannot be used: {error}. Check that it is a file, that this user may write to it "
            "and to its folder, and that the disk is not full."
        )

    def _open(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                [f"store.path: the folder {self.path.parent} cannot be created: {error.strerror}"]
            ) from error
        try:
            connection = sqlite3.connect(self.path, timeout=self._busy_timeout_seconds, isolation_level=None)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
                raise ConfigError(
                    [f"store.path: {self.path} is no SQLite database: give another path, or move that file away"]
                ) from error
            raise self._unavailable(error) from error
        self._connection = connection

    def _prepare(self, db: sqlite3.Connection) -> None:
        with db:
            # First, so that another program's file stays as it is, and in a transaction, so that a file that another
            # worker is just preparing is seen either empty or ready.
            db.execute("BEGIN")
            self._version(db)
        self._switch_to_wal(db)
        # NORMAL syncs the log at checkpoints only. A killed process loses nothing: what it committed is with the
        # kernel. A power cut can lose the last commits, but never one that a later surviving commit built on, so the
        # worker merely reads some events again.
        db.execute("PRAGMA synchronous = NORMAL")
        with db:
            db.execute("BEGIN IMMEDIATE")
            missing = _STEPS[self._version(db) :]  # asked again: another process may have been faster
            for step in missing:
                for statement in step:
                    db.execute(statement)
            if missing:
                db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")

    def _switch_to_wal(self, db: sqlite3.Connection) -> None:
        """Waits here for another worker that does the same to a new file: SQLite itself says "busy" at once."""
        deadline = time.monotonic() + self._busy_timeout_seconds
        while True:
            try:
                db.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise
                time.sleep(_WAL_AGAIN_SECONDS)
            else:
                return

    def _version(self, db: sqlite3.Connection) -> int:
        """Of the tables that are there, 0 for none; ConfigError when they are not ours or newer than this code."""
        (application_id,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application_id != _APPLICATION_ID:
            if tables:
                raise ConfigError([f"store.path: {self.path} belongs to another program: give another path"])
            return 0
        if version > _SCHEMA_VERSION:
            mistake = (
                f"store.path: {self.path} was written by a newer version of the worker (schema {version}, this version "
                f"knows {_SCHEMA_VERSION}): upgrade this worker or give another path"
            )
            raise ConfigError([mistake])
        return int(version)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
