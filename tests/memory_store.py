"""A store in memory, held to the contract of the real ones: for simulation and all tests that are not of stores."""

import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from azure.eventhub.aio import CheckpointStore

from worker.errors import Conflict, StoreUnavailable
from worker.events import PartitionId, UnixSeconds
from worker.stores import (
    DeadLetter,
    HubScope,
    ListedRow,
    ReplayRequest,
    StateVersion,
    StoredCheckpoint,
    StoredEntry,
    StoredRow,
    StoredState,
)
from worker.stores.layout import (
    forgettable,
    is_older,
    is_understood,
    letter_from_json,
    letter_name,
    letter_to_json,
    sdk_names,
    without_body,
)


@dataclass
class Contents:
    """What is stored. Several stores may share it, as the processes of one deployment share a container."""

    ownership: dict[tuple[str, ...], dict[str, Any]] = field(default_factory=dict)
    checkpoints: dict[PartitionId, StoredCheckpoint] = field(default_factory=dict)
    states: dict[PartitionId, StoredState] = field(default_factory=dict)
    memory: dict[tuple[PartitionId, str], bytes] = field(default_factory=dict)
    entries: dict[str, StoredEntry] = field(default_factory=dict)
    entries_written: dict[str, float] = field(default_factory=dict)
    rows: dict[str, StoredRow] = field(default_factory=dict)
    row_marks: dict[str, str] = field(default_factory=dict)
    letters: dict[str, bytes] = field(default_factory=dict)
    replays: dict[str, ReplayRequest] = field(default_factory=dict)
    _versions: Iterator[int] = field(default_factory=lambda: count(1))

    def version(self) -> StateVersion:
        """One that was never given before; numbers, so that a simulation replays exactly."""
        return StateVersion(next(self._versions))


class MemoryStore(CheckpointStore):
    """A Store for one scope, whatever it is called. `down` makes every call fail as when the real one is away.

    A subclass makes calls slow or lets them fail: `_reach` is awaited before the effect and `_answered` after it. An
    effect itself happens at once. What either raises is what the caller sees: StoreUnavailable from `_answered` is an
    answer that got lost.
    """

    def __init__(self, contents: Contents | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self.contents = contents or Contents()
        self.down = False
        self.calls: list[str] = []
        self._clock = clock

    async def _reach(self, name: str) -> None:
        """The way to the store."""

    async def _answered(self, name: str) -> None:
        """The way back."""

    @asynccontextmanager
    async def _called(self, name: str) -> AsyncIterator[Contents]:
        """Every call goes through here; what is inside takes effect at once."""
        self.calls.append(name)
        await self._reach(name)
        if self.down:
            raise StoreUnavailable("the store is away")
        try:
            yield self.contents
        finally:  # a Conflict is an answer too
            await self._answered(name)

    @property
    def checkpoints(self) -> CheckpointStore:
        return self

    async def open(self) -> None:
        async with self._called("open"):
            pass

    async def clock(self) -> UnixSeconds:
        async with self._called("clock"):
            return UnixSeconds(self._clock())

    async def aclose(self) -> None:
        pass

    # --- ownership ---

    async def list_ownership(self, *scope: str, **_: Any) -> Iterable[dict[str, Any]]:
        async with self._called("list_ownership") as stored:
            return [dict(each) for key, each in stored.ownership.items() if key[:3] == scope]

    async def claim_ownership(self, ownership_list: Iterable[dict[str, Any]], **_: Any) -> Iterable[dict[str, Any]]:
        async with self._called("claim_ownership") as stored:
            granted = []
            for each in ownership_list:
                key = _key(each)
                if stored.ownership.get(key, {}).get("etag") == each.get("etag"):
                    stored.ownership[key] = {**each, "etag": stored.version(), "last_modified_time": self._clock()}
                    granted.append(dict(stored.ownership[key]))
            return granted

    async def release_ownership(self, owner_id: str) -> None:
        async with self._called("release_ownership") as stored:
            for each in stored.ownership.values():
                if each["owner_id"] == owner_id:
                    each.update(owner_id="", etag=stored.version())

    # --- checkpoints ---

    async def list_checkpoints(self, *scope: str, **_: Any) -> Iterable[dict[str, Any]]:
        async with self._called("list_checkpoints") as stored:
            return [
                {
                    **sdk_names(HubScope(*scope), partition),
                    "offset": each.offset,
                    "sequence_number": each.sequence_number,
                }
                for partition, each in stored.checkpoints.items()
            ]

    async def update_checkpoint(self, checkpoint: dict[str, Any], *, force: bool = False, **_: Any) -> None:
        async with self._called("update_checkpoint") as stored:
            partition, sequence_number = PartitionId(checkpoint["partition_id"]), checkpoint["sequence_number"]
            present = stored.checkpoints.get(partition)
            if force or present is None or sequence_number > present.sequence_number:
                stored.checkpoints[partition] = StoredCheckpoint(
                    checkpoint["offset"], sequence_number, stored.version()
                )

    async def read_checkpoint(self, partition: PartitionId) -> StoredCheckpoint | None:
        async with self._called("read_checkpoint") as stored:
            return stored.checkpoints.get(partition)

    async def write_checkpoint(
        self, partition: PartitionId, *, offset: str, sequence_number: int, expected: StateVersion | None
    ) -> StateVersion:
        async with self._called("write_checkpoint") as stored:
            _expect(stored.checkpoints.get(partition), expected, f"checkpoint of partition {partition}")
            stored.checkpoints[partition] = StoredCheckpoint(offset, sequence_number, stored.version())
            return stored.checkpoints[partition].version

    # --- state and memory ---

    async def state_versions(self) -> dict[PartitionId, StateVersion]:
        async with self._called("state_versions") as stored:
            return {partition: state.version for partition, state in stored.states.items()}

    async def read_state(self, partition: PartitionId) -> StoredState | None:
        async with self._called("read_state") as stored:
            return stored.states.get(partition)

    async def write_state(
        self, partition: PartitionId, payload: bytes, *, expected: StateVersion | None
    ) -> StateVersion:
        async with self._called("write_state") as stored:
            _expect(stored.states.get(partition), expected, f"state of partition {partition}")
            stored.states[partition] = StoredState(payload, stored.version())
            return stored.states[partition].version

    async def read_memory(self, partition: PartitionId, part: str) -> bytes | None:
        async with self._called("read_memory") as stored:
            return stored.memory.get((partition, part))

    async def write_memory(self, partition: PartitionId, part: str, payload: bytes) -> None:
        async with self._called("write_memory") as stored:
            stored.memory[partition, part] = payload

    async def forget_memory(self, partition: PartitionId, *, keep: Collection[str]) -> None:
        async with self._called("forget_memory") as stored:
            parts = [part for owner, part in stored.memory if owner == partition]
            for part in forgettable(parts, keep):
                del stored.memory[partition, part]

    # --- the ledger ---

    async def read_entry(self, key: str) -> StoredEntry | None:
        async with self._called("read_entry") as stored:
            return stored.entries.get(key)

    async def write_entry(self, key: str, payload: bytes, *, expected: StateVersion | None) -> StateVersion:
        async with self._called("write_entry") as stored:
            _expect(stored.entries.get(key), expected, f"ledger's entry {key}")
            stored.entries[key] = StoredEntry(payload, stored.version())
            stored.entries_written[key] = self._clock()
            return stored.entries[key].version

    async def expire_entries(self, before: UnixSeconds) -> int:
        async with self._called("expire_entries") as stored:
            old = [key for key, written_at in stored.entries_written.items() if written_at < before]
            for key in old:
                del stored.entries[key], stored.entries_written[key]
            return len(old)

    # --- the shared table ---

    async def list_rows(self) -> dict[str, ListedRow]:
        async with self._called("list_rows") as stored:
            return {name: ListedRow(row.version, stored.row_marks[name]) for name, row in stored.rows.items()}

    async def read_row(self, name: str) -> StoredRow | None:
        async with self._called("read_row") as stored:
            return stored.rows.get(name)

    async def write_row(self, name: str, payload: bytes, *, mark: str, expected: StateVersion | None) -> StateVersion:
        async with self._called("write_row") as stored:
            _expect(stored.rows.get(name), expected, f"shared row {name}")
            stored.rows[name], stored.row_marks[name] = StoredRow(payload, stored.version()), mark
            return stored.rows[name].version

    async def delete_row(self, name: str, *, expected: StateVersion) -> None:
        async with self._called("delete_row") as stored:
            _expect(stored.rows.get(name), expected, f"shared row {name}")
            del stored.rows[name], stored.row_marks[name]

    # --- dead letters ---

    async def put_dead_letters(self, letters: list[DeadLetter]) -> None:
        async with self._called("put_dead_letters") as stored:
            for letter in letters:
                stored.letters.setdefault(letter_name(letter), letter_to_json(letter))

    async def dead_letters(self, *, bodies: bool = True) -> AsyncIterator[DeadLetter]:
        async with self._called("dead_letters") as stored:
            letters = [letter_from_json(stored.letters[name]) for name in sorted(stored.letters)]
        for letter in letters:
            yield letter if bodies else without_body(letter)

    async def read_dead_letter(self, name: str) -> DeadLetter | None:
        async with self._called("read_dead_letter") as stored:
            return letter_from_json(stored.letters[name]) if name in stored.letters else None

    async def drop_dead_letters(self, names: Sequence[str]) -> int:
        async with self._called("drop_dead_letters") as stored:
            there = [name for name in set(names) if name in stored.letters and is_understood(stored.letters[name])]
            for name in there:
                del stored.letters[name]
            for name in names:
                if name not in stored.letters:
                    stored.replays.pop(name, None)
            return len(there)

    async def expire_dead_letters(self, before: UnixSeconds) -> int:
        async with self._called("expire_dead_letters") as stored:
            old = [name for name, row in stored.letters.items() if is_older(row, before)]
            for name in old:
                del stored.letters[name]
            return len(old)

    async def request_replays(self, requests: Sequence[ReplayRequest]) -> None:
        async with self._called("request_replays") as stored:
            for request in requests:
                stored.replays.setdefault(request.letter, request)

    async def replays(self) -> list[ReplayRequest]:
        async with self._called("replays") as stored:
            return [stored.replays[name] for name in sorted(stored.replays)]

    async def end_replays(self, requests: Sequence[ReplayRequest]) -> None:
        async with self._called("end_replays") as stored:
            for request in requests:
                stored.replays.pop(request.letter, None)


def _expect(
    present: StoredCheckpoint | StoredState | StoredEntry | StoredRow | None, expected: StateVersion | None, what: str
) -> None:
    version = present.version if present else None
    if version != expected:
        raise Conflict(f"The {what} has version {version}, not {expected}: someone else wrote it.")


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    return (row["fully_qualified_namespace"], row["eventhub_name"], row["consumer_group"], row["partition_id"])
