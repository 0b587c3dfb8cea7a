"""Dead letters, and the requests to replay them, in the SQLite file."""

import sqlite3
from collections.abc import AsyncIterator, Sequence
from functools import partial

from worker.errors import StoreUnavailable
from worker.events import PartitionId, UnixSeconds
from worker.stores import DeadLetter, ReplayRequest
from worker.stores.layout import (
    LETTER_FORMAT,
    is_understood,
    letter_from_json,
    letter_name,
    letter_to_json,
    name_after,
    without_body,
)
from worker.stores.sqlite_file import Database

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

_END_REPLAY = "DELETE FROM replays WHERE scope = ? AND letter = ?"


class SqliteLetters:
    """The part of the Store protocol that is about dead letters."""

    def __init__(self, database: Database, scope: str) -> None:
        self._database = database
        self._scope = scope

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

    async def read_dead_letter(self, name: str) -> DeadLetter | None:
        """One row."""
        query = "SELECT letter FROM dead_letters WHERE scope = ? AND name = ?"
        rows = await self._database.read(query, (self._scope, name))
        return self._letter(name, rows[0][0]) if rows else None

    async def drop_dead_letters(self, names: Sequence[str]) -> int:
        """A few in each transaction, each together with the request to replay it."""
        dropped = 0
        for start in range(0, len(names), _LETTERS_PER_DELETION):
            some = names[start : start + _LETTERS_PER_DELETION]
            dropped += await self._database.write(partial(self._drop, some))
        return dropped

    async def expire_dead_letters(self, before: UnixSeconds) -> int:
        """A few in each transaction. The file does not shrink; what becomes free is used again."""
        names = "SELECT name FROM dead_letters WHERE scope = ? AND name > ? AND name < ? ORDER BY name LIMIT ?"
        expired, last, end = 0, "", name_after(before)
        while some := await self._database.read(names, (self._scope, last, end, _LETTERS_PER_DELETION)):
            first, last = last, some[-1][0]
            values = (self._scope, first, last, LETTER_FORMAT, before)
            expired += await self._database.execute(_EXPIRE_LETTERS, [values])
        return expired

    async def request_replays(self, requests: Sequence[ReplayRequest]) -> None:
        """All or none, in one transaction."""
        rows = [(self._scope, request.letter, request.partition) for request in requests]
        await self._database.execute("INSERT INTO replays VALUES (?, ?, ?) ON CONFLICT DO NOTHING", rows)

    async def replays(self) -> list[ReplayRequest]:
        """One query."""
        query = "SELECT partition, letter FROM replays WHERE scope = ? ORDER BY letter"
        rows = await self._database.read(query, (self._scope,))
        return [ReplayRequest(PartitionId(partition), letter) for partition, letter in rows]

    async def end_replays(self, requests: Sequence[ReplayRequest]) -> None:
        """All or none, in one transaction."""
        rows = [(self._scope, request.letter) for request in requests]
        await self._database.execute(_END_REPLAY, rows)

    def _drop(self, names: Sequence[str], db: sqlite3.Connection) -> int:
        dropped = 0
        for key in ((self._scope, name) for name in names):
            row = db.execute("SELECT letter FROM dead_letters WHERE scope = ? AND name = ?", key).fetchone()
            if row is None or is_understood(row[0]):
                db.execute(_END_REPLAY, key)
                dropped += db.execute("DELETE FROM dead_letters WHERE scope = ? AND name = ?", key).rowcount
        return dropped

    def _letter(self, name: str, row: bytes) -> DeadLetter:
        try:
            return letter_from_json(row)
        except ValueError as error:
            raise StoreUnavailable(
                f"The dead letter {name} in {self._database.path} cannot be read: {error}"
            ) from error
