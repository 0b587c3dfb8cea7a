"""The store for one machine: one SQLite file that several worker processes share.

Not for a network file system (the write-ahead log needs shared memory between the processes) and not for several
machines: that is `blob`.
"""

import sqlite3
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from azure.eventhub.aio import CheckpointStore

from worker.counted import Count, uncounted
from worker.errors import Conflict
from worker.events import PartitionId, UnixSeconds
from worker.stores import HubScope, ListedRow, StateVersion, StoredCheckpoint, StoredEntry, StoredRow, StoredState
from worker.stores.layout import forgettable, scope_prefix, sdk_names, sdk_scope
from worker.stores.sqlite_file import Database
from worker.stores.sqlite_letters import SqliteLetters

_ENTRIES_PER_DELETION = 500
"""Bounds how long other writers wait: some milliseconds."""


class SqliteStore(SqliteLetters):
    """The Store protocol on one file.

    A method that raises StoreUnavailable has changed nothing; but one that deletes many does so in several steps.
    """

    def __init__(
        self, path: Path, scope: HubScope, *, busy_timeout_seconds: float = 5.0, count: Count = uncounted
    ) -> None:
        super().__init__(Database(path, busy_timeout_seconds, count), scope_prefix(scope))
        self._checkpoints = _Checkpoints(self._database)

    @property
    def checkpoints(self) -> CheckpointStore:
        """For the SDK; works between `open` and `aclose`."""
        return self._checkpoints

    async def open(self) -> None:
        """Creates the folder, the file and the tables where they are missing."""
        await self._database.open()

    async def clock(self) -> UnixSeconds:
        """The machine's: there is no other."""
        await self._database.read("SELECT 1", ())
        return UnixSeconds(time.time())

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
        key = (self._scope, partition)

        def write(db: sqlite3.Connection) -> StateVersion:
            stored = db.execute("SELECT version FROM states WHERE scope = ? AND partition = ?", key).fetchone()
            version = _next_version(stored, expected, f"state of partition {partition}")
            db.execute("INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?)", (*key, version, payload))
            return StateVersion(version)

        return await self._database.write(write)

    async def read_checkpoint(self, partition: PartitionId) -> StoredCheckpoint | None:
        """One row."""
        query = 'SELECT "offset", sequence_number, version FROM checkpoints WHERE scope = ? AND partition = ?'
        rows = await self._database.read(query, (self._scope, partition))
        return StoredCheckpoint(rows[0][0], rows[0][1], StateVersion(rows[0][2])) if rows else None

    async def write_checkpoint(
        self, partition: PartitionId, *, offset: str, sequence_number: int, expected: StateVersion | None
    ) -> StateVersion:
        """Compares and writes in one transaction."""
        key = (self._scope, partition)

        def write(db: sqlite3.Connection) -> StateVersion:
            query = "SELECT version FROM checkpoints WHERE scope = ? AND partition = ?"
            stored = db.execute(query, key).fetchone()
            version = _next_version(stored, expected, f"checkpoint of partition {partition}")
            db.execute(
                'INSERT OR REPLACE INTO checkpoints (scope, partition, "offset", sequence_number, version) '
                "VALUES (?, ?, ?, ?, ?)",
                (*key, offset, sequence_number, version),
            )
            return StateVersion(version)

        return await self._database.write(write)

    async def read_memory(self, partition: PartitionId, part: str) -> bytes | None:
        """One row."""
        query = "SELECT payload FROM memory WHERE scope = ? AND partition = ? AND part = ?"
        rows = await self._database.read(query, (self._scope, partition, part))
        return rows[0][0] if rows else None

    async def write_memory(self, partition: PartitionId, part: str, payload: bytes) -> None:
        """One row."""
        row = (self._scope, partition, part, payload)
        await self._database.execute("INSERT OR REPLACE INTO memory VALUES (?, ?, ?, ?)", [row])

    async def forget_memory(self, partition: PartitionId, *, keep: Collection[str]) -> None:
        """Looks and deletes in one transaction."""
        key = (self._scope, partition)

        def forget(db: sqlite3.Connection) -> None:
            parts = db.execute("SELECT part FROM memory WHERE scope = ? AND partition = ?", key).fetchall()
            rows = [(*key, part) for part in forgettable((part for (part,) in parts), keep)]
            db.executemany("DELETE FROM memory WHERE scope = ? AND partition = ? AND part = ?", rows)

        await self._database.write(forget)

    async def read_entry(self, key: str) -> StoredEntry | None:
        """Payload and version of one moment."""
        query = "SELECT payload, version FROM ledger WHERE scope = ? AND key = ?"
        rows = await self._database.read(query, (self._scope, key))
        return StoredEntry(rows[0][0], StateVersion(rows[0][1])) if rows else None

    async def write_entry(self, key: str, payload: bytes, *, expected: StateVersion | None) -> StateVersion:
        """Compares and writes in one transaction."""

        def write(db: sqlite3.Connection) -> StateVersion:
            stored = db.execute("SELECT version FROM ledger WHERE scope = ? AND key = ?", (self._scope, key)).fetchone()
            # Not from 1: an entry may expire, and its old version must not fit the next one of this key.
            version = _next_version(stored, expected, f"ledger's entry {key}", first=time.time_ns())
            row = (self._scope, key, version, time.time(), payload)
            db.execute("INSERT OR REPLACE INTO ledger VALUES (?, ?, ?, ?, ?)", row)
            return StateVersion(version)

        return await self._database.write(write)

    async def expire_entries(self, before: UnixSeconds) -> int:
        """Some in each transaction. The file does not shrink; what becomes free is used again."""
        statement = """DELETE FROM ledger WHERE rowid IN
            (SELECT rowid FROM ledger WHERE scope = ? AND modified < ? ORDER BY modified LIMIT ?)"""
        expired = 0
        while some := await self._database.execute(statement, [(self._scope, before, _ENTRIES_PER_DELETION)]):
            expired += some
        return expired

    async def list_rows(self) -> dict[str, ListedRow]:
        """One query that reads no payload."""
        query = "SELECT name, version, mark FROM shared_rows WHERE scope = ?"
        rows = await self._database.read(query, (self._scope,))
        return {name: ListedRow(StateVersion(version), mark) for name, version, mark in rows}

    async def read_row(self, name: str) -> StoredRow | None:
        """Payload and version of one moment."""
        query = "SELECT payload, version FROM shared_rows WHERE scope = ? AND name = ?"
        rows = await self._database.read(query, (self._scope, name))
        return StoredRow(rows[0][0], StateVersion(rows[0][1])) if rows else None

    async def write_row(self, name: str, payload: bytes, *, mark: str, expected: StateVersion | None) -> StateVersion:
        """Compares and writes in one transaction."""
        key = (self._scope, name)

        def write(db: sqlite3.Connection) -> StateVersion:
            stored = db.execute("SELECT version FROM shared_rows WHERE scope = ? AND name = ?", key).fetchone()
            # Not from 1: a row may be deleted, and its old version must not fit the next one of this name.
            version = _next_version(stored, expected, f"shared row {name}", first=time.time_ns())
            db.execute("INSERT OR REPLACE INTO shared_rows VALUES (?, ?, ?, ?, ?)", (*key, version, mark, payload))
            return StateVersion(version)

        return await self._database.write(write)

    async def delete_row(self, name: str, *, expected: StateVersion) -> None:
        """Compares and deletes in one statement."""
        statement = "DELETE FROM shared_rows WHERE scope = ? AND name = ? AND CAST(version AS TEXT) = ?"
        if not await self._database.execute(statement, [(self._scope, name, expected)]):
            raise Conflict(f"The shared row {name} is no longer of version {expected}: someone else wrote it.")


class _Checkpoints(CheckpointStore):
    """Ownership and checkpoints as the SDK wants them: dictionaries, etags, and epoch floats for times."""

    def __init__(self, database: Database) -> None:
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
            INSERT INTO checkpoints (scope, partition, "offset", sequence_number) VALUES (?, ?, ?, ?)
            ON CONFLICT DO UPDATE SET
            "offset" = excluded."offset", sequence_number = excluded.sequence_number, version = version + 1
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


def _next_version(stored: tuple[int] | None, expected: StateVersion | None, what: str, *, first: int = 1) -> int:
    version = StateVersion(stored[0]) if stored else None
    if version != expected:
        raise Conflict(f"The {what} has version {version}, not {expected}: someone else wrote it.")
    return stored[0] + 1 if stored else first


def _key(names: dict[str, Any]) -> tuple[str, str]:
    return scope_prefix(sdk_scope(names)), str(names["partition_id"])
