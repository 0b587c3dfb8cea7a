"""The store for one machine: one SQLite file that several worker processes share.

Not for a network file system (the write-ahead log needs shared memory between the processes) and not for several
machines: that is `blob`.
"""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from azure.eventhub.aio import CheckpointStore

from worker.errors import ConfigError, Conflict, StoreUnavailable
from worker.events import PartitionId, UnixSeconds
from worker.stores import DeadLetter, HubScope, StateVersion, StoredState
from worker.stores.layout import (
    LETTER_FORMAT,
    letter_from_json,
    letter_name,
    letter_to_json,
    name_after,
    scope_prefix,
    sdk_names,
    sdk_scope,
    without_body,
)

_APPLICATION_ID = 0x45475731
"""Marks the file as ours ("EGW1"), so that a wrong path does not add tables to another program's database."""
_SCHEMA_VERSION = 1
_SCHEMA = (
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
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_SCHEMA_VERSION}",
)
_WAL_AGAIN_SECONDS = 0.01
_LETTERS_PER_QUERY = 64
"""Bounds memory: a letter holds a message of up to 1 MiB."""
_LETTERS_PER_DELETION = 16
"""Bounds how long other writers wait: about 0.1 s for messages of 1 MiB."""
_EXPIRE_LETTERS = """
    DELETE FROM dead_letters WHERE scope = ? AND name > ? AND name <= ? AND
    CASE WHEN json_valid(CAST(letter AS TEXT)) THEN
        json_extract(CAST(letter AS TEXT), '$.format') <= ? AND json_extract(CAST(letter AS TEXT), '$.time') < ?
    END"""
"""Read by SQLite on its own thread: to parse large letters in Python would hold up the event loop."""

_Result = TypeVar("_Result")


class SqliteStore:
    """The Store protocol on one file. A method that raises StoreUnavailable has changed nothing."""

    def __init__(self, path: Path, scope: HubScope, *, busy_timeout_seconds: float = 5.0) -> None:
        self._database = _Database(path, busy_timeout_seconds)
        self._scope = scope_prefix(scope)
        self._checkpoints = _Checkpoints(self._database)

    @property
    def checkpoints(self) -> CheckpointStore:
        """For the SDK; works between `open` and `aclose`."""
        return self._checkpoints

    async def open(self) -> None:
        """Creates the folder, the file and the tables where they are missing."""
        await self._database.open()

    async def aclose(self) -> None:
        """Closes the file once everything asked for before has been done."""
        await self._database.aclose()

    async def release_ownership(self, owner_id: str) -> None:
        """One statement: no renewal can come in between."""
        statement = (
            "UPDATE ownership SET owner_id = '', version = version + 1, modified = ? WHERE scope = ? AND owner_id = ?"
        )
        await self._database.execute(statement, [(time.time(), self._scope, owner_id)])

    async def state_versions(self) -> dict[PartitionId, StateVersion]:
        """One query that reads no payload."""
        query = "SELECT partition, version FROM states WHERE scope = ?"
        rows = await self._database.read(query, (self._scope,))
        return {PartitionId(partition): StateVersion(version) for partition, version in rows}

    async def read_state(self, partition: PartitionId) -> StoredState | None:
        """Payload and version of one moment."""
        query = "SELECT payload, version FROM states WHERE scope = ? AND partition = ?"
        rows = await self._database.read(query, (self._scope, partition))
        return StoredState(payload=rows[0][0], version=StateVersion(rows[0][1])) if rows else None

    async def write_state(
        self, partition: PartitionId, payload: bytes, *, expected: StateVersion | None
    ) -> StateVersion:
        """Compares and writes in one transaction."""

        def write(db: sqlite3.Connection) -> StateVersion:
            key = (self._scope, partition)
            row = db.execute("SELECT version FROM states WHERE scope = ? AND partition = ?", key).fetchone()
            stored = StateVersion(row[0]) if row else None
            if stored != expected:
                raise Conflict(
                    f"The state of partition {partition} has version {stored}, not {expected}: someone else wrote it."
                )
            version = row[0] + 1 if row else 1
            db.execute("INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?)", (*key, version, payload))
            return StateVersion(version)

        return await self._database.write(write)

    async def put_dead_letters(self, letters: list[DeadLetter]) -> None:
        """All or none, in one transaction."""
        rows = [(self._scope, letter_name(letter), letter_to_json(letter)) for letter in letters]
        statement = "INSERT INTO dead_letters VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        await self._database.execute(statement, rows)

    async def dead_letters(self, *, bodies: bool = True) -> AsyncIterator[DeadLetter]:
        """Oldest first, by when the hub took the message; on request without bodies and properties.

        Read in pages, so that no long read holds up the write-ahead log.
        """
        query = "SELECT name, letter FROM dead_letters WHERE scope = ? AND name > ? ORDER BY name LIMIT ?"
        last = ""
        while True:
            rows = await self._database.read(query, (self._scope, last, _LETTERS_PER_QUERY))
            for name, row in rows:
                letter = self._letter(name, row)
                yield letter if bodies else without_body(letter)
            if len(rows) < _LETTERS_PER_QUERY:
                return
            last = rows[-1][0]

    async def expire_dead_letters(self, before: UnixSeconds) -> int:
        """A few in each transaction. The file does not shrink; what becomes free is used again."""
        names = "SELECT name FROM dead_letters WHERE scope = ? AND name > ? AND name < ? ORDER BY name LIMIT ?"
        expired, last, end = 0, "", name_after(before)
        while some := await self._database.read(names, (self._scope, last, end, _LETTERS_PER_DELETION)):
            first, last = last, some[-1][0]
            values = (self._scope, first, last, LETTER_FORMAT, before)
            expired += await self._database.execute(_EXPIRE_LETTERS, [values])
        return expired

    def _letter(self, name: str, row: bytes) -> DeadLetter:
        try:
            return letter_from_json(row)
        except ValueError as error:
            raise StoreUnavailable(
                f"The dead letter {name} in {self._database.path} cannot be read: {error}"
            ) from error


class _Checkpoints(CheckpointStore):
    """Ownership and checkpoints as the SDK wants them: dictionaries, etags, and epoch floats for times."""

    def __init__(self, database: "_Database") -> None:
        self._database = database

    async def list_ownership(
        self, fully_qualified_namespace: str, eventhub_name: str, consumer_group: str, **_: Any
    ) -> list[dict[str, Any]]:
        scope = HubScope(fully_qualified_namespace, eventhub_name, consumer_group)
        query = "SELECT partition, owner_id, version, modified FROM ownership WHERE scope = ? ORDER BY partition"
        rows = await self._database.read(query, (scope_prefix(scope),))
        return [
            {
                **sdk_names(scope, partition),
                "owner_id": owner_id,
                "etag": str(version),
                "last_modified_time": modified,
            }
            for partition, owner_id, version, modified in rows
        ]

    async def claim_ownership(self, ownership_list: Iterable[dict[str, Any]], **_: Any) -> list[dict[str, Any]]:
        """All claims in one transaction; the result holds those that were won."""
        wanted = list(ownership_list)

        def claim(db: sqlite3.Connection) -> list[dict[str, Any]]:
            return [won for ownership in wanted if (won := _claim(db, ownership)) is not None]

        return await self._database.write(claim)

    async def update_checkpoint(self, checkpoint: dict[str, Any], *, force: bool = False, **_: Any) -> None:
        """Forward only, unless forced."""
        statement = """
            INSERT INTO checkpoints VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE
            SET "offset" = excluded."offset", sequence_number = excluded.sequence_number
            WHERE excluded.sequence_number > checkpoints.sequence_number OR ?"""
        offset = checkpoint["offset"]
        values = (
            *_key(checkpoint),
            # Text, always: an integer would be taken as a sequence number by the SDK when it starts to read.
            "" if offset is None else str(offset),
            checkpoint["sequence_number"],
            force,
        )
        await self._database.execute(statement, [values])

    async def list_checkpoints(
        self, fully_qualified_namespace: str, eventhub_name: str, consumer_group: str, **_: Any
    ) -> list[dict[str, Any]]:
        scope = HubScope(fully_qualified_namespace, eventhub_name, consumer_group)
        query = 'SELECT partition, "offset", sequence_number FROM checkpoints WHERE scope = ? ORDER BY partition'
        rows = await self._database.read(query, (scope_prefix(scope),))
        return [
            {**sdk_names(scope, partition), "offset": offset, "sequence_number": sequence_number}
            for partition, offset, sequence_number in rows
        ]


def _claim(db: sqlite3.Connection, ownership: dict[str, Any]) -> dict[str, Any] | None:
    """Without an etag: create if absent. With one: replace exactly that version."""
    key = _key(ownership)
    row = db.execute("SELECT version FROM ownership WHERE scope = ? AND partition = ?", key).fetchone()
    stored = str(row[0]) if row else None
    if stored != (ownership.get("etag") or None):
        return None
    version, now = (row[0] + 1 if row else 1), time.time()
    db.execute("INSERT OR REPLACE INTO ownership VALUES (?, ?, ?, ?, ?)", (*key, ownership["owner_id"], version, now))
    return {**ownership, "etag": str(version), "last_modified_time": now}


def _is_busy(error: sqlite3.DatabaseError) -> bool:
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY  # the low byte; the rest tells busy with what


def _key(names: dict[str, Any]) -> tuple[str, str]:
    return scope_prefix(sdk_scope(names)), str(names["partition_id"])


class _Database:
    """One connection on a thread of its own: SQLite blocks, and the event loop must not."""

    def __init__(self, path: Path, busy_timeout_seconds: float) -> None:
        self.path = path
        self._busy_timeout_seconds = busy_timeout_seconds
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite-store")
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    async def open(self) -> None:
        await self._on_thread(self._open)

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            await self._on_thread(self._close)
        finally:
            self._thread.shutdown(wait=False)

    async def read(self, query: str, values: tuple[object, ...]) -> list[Any]:
        """All rows of one query; in WAL mode it waits for nobody."""
        return await self._on_thread(lambda: self._guarded(lambda db: db.execute(query, values).fetchall()))

    async def execute(self, statement: str, rows: Sequence[tuple[object, ...]]) -> int:
        """One statement, once for each row, in one transaction; returns how many rows of the table it changed."""

        def work(db: sqlite3.Connection) -> int:
            return db.executemany(statement, rows).rowcount  # its cursor stays on this thread

        return await self.write(work)

    async def write(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Queries and changes in one transaction, alone on the file from its first statement on."""

        def transaction(db: sqlite3.Connection) -> _Result:
            with db:  # commits, or rolls back
                # IMMEDIATE: a transaction that began as a reader and turns writer fails at once when another wrote
                # in between; this one waits its turn instead.
                db.execute("BEGIN IMMEDIATE")
                return work(db)

        return await self._on_thread(lambda: self._guarded(transaction))

    async def _on_thread(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _guarded(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
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
            self._check_schema(db)
        self._switch_to_wal(db)
        # NORMAL syncs the log at checkpoints only. A killed process loses nothing: what it committed is with the
        # kernel. A power cut can lose the last commits, but never one that a later surviving commit built on, so the
        # worker merely reads some events again.
        db.execute("PRAGMA synchronous = NORMAL")
        with db:
            db.execute("BEGIN IMMEDIATE")
            if not self._check_schema(db):  # again: another process may have been faster
                for statement in _SCHEMA:
                    db.execute(statement)

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

    def _check_schema(self, db: sqlite3.Connection) -> bool:
        """Whether the tables are there; ConfigError when they are not ours or newer than this code."""
        (application_id,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application_id != _APPLICATION_ID:
            if tables:
                raise ConfigError([f"store.path: {self.path} belongs to another program: give another path"])
            return False
        if version > _SCHEMA_VERSION:
            mistake = (
                f"store.path: {self.path} was written by a newer version of the worker (schema {version}, this version "
                f"knows {_SCHEMA_VERSION}): upgrade this worker or give another path"
            )
            raise ConfigError([mistake])
        return True

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
