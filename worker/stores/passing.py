"""The shared table of a store that lasts as long as its process: for `worker test`, which has no store."""

from itertools import count

from worker.errors import Conflict
from worker.stores import ListedRow, StateVersion, StoredRow


class Table:
    """The part of the Store protocol that is about shared rows."""

    def __init__(self) -> None:
        self._rows: dict[str, StoredRow] = {}
        self._marks: dict[str, str] = {}
        self._versions = count(1)

    async def list_rows(self) -> dict[str, ListedRow]:
        """All rows by name."""
        return {name: ListedRow(row.version, self._marks[name]) for name, row in self._rows.items()}

    async def read_row(self, name: str) -> StoredRow | None:
        """The row, or None."""
        return self._rows.get(name)

    async def write_row(self, name: str, payload: bytes, *, mark: str, expected: StateVersion | None) -> StateVersion:
        """Compares and writes."""
        self._compare(name, expected)
        self._rows[name], self._marks[name] = StoredRow(payload, StateVersion(next(self._versions))), mark
        return self._rows[name].version

    async def delete_row(self, name: str, *, expected: StateVersion) -> None:
        """Compares and deletes."""
        self._compare(name, expected)
        del self._rows[name], self._marks[name]

    def _compare(self, name: str, expected: StateVersion | None) -> None:
        there = self._rows.get(name)
        version = there.version if there else None
        if version != expected:
            raise Conflict(f"The shared row {name} has version {version}, not {expected}: someone else wrote it.")
