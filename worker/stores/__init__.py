"""What must survive a process: ownership and checkpoints, state and memory of each partition, ledger, dead letters.

And a small table of rows that the partitions share.

The protocol only. `sqlite` serves one machine, `blob` serves production; `tests/contract` holds both to the same
promises. Nothing here knows what a state object contains.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from azure.eventhub.aio import CheckpointStore

from worker.events import PartitionId, UnixSeconds


class HubScope(NamedTuple):
    """Whose partitions: a store may serve several hubs and consumer groups, and keeps them apart."""

    namespace: str
    """Fully qualified, with the port when the connection string has one; exactly as the SDK hands it to a store."""
    hub: str
    consumer_group: str


class StateVersion(str):
    """What a conditional write compares: an ETag on Blob, a number on SQLite. Opaque."""

    __slots__ = ()


class StoredState(NamedTuple):
    """A partition's state object as it was read."""

    payload: bytes
    version: StateVersion


class StoredCheckpoint(NamedTuple):
    """A partition's checkpoint as it was read."""

    offset: str
    sequence_number: int
    version: StateVersion


class StoredEntry(NamedTuple):
    """An entry of the ledger as it was read."""

    payload: bytes
    version: StateVersion


class StoredRow(NamedTuple):
    """A row of the shared table as it was read."""

    payload: bytes
    version: StateVersion


class ListedRow(NamedTuple):
    """A row of the shared table as a list tells it: without its payload."""

    version: StateVersion
    mark: str
    """What whoever wrote it wants everybody to see at a glance."""


class ReplayRequest(NamedTuple):
    """Somebody wants a dead letter delivered again; the owner of its partition does it."""

    partition: PartitionId
    letter: str
    """`layout.letter_name` of the letter."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event, or a whole message, that was given up: where it came from, why, and its bytes as they came."""

    id: str
    """Stable: the same message, element and sink give the same id, so that writing twice keeps one row."""
    time: UnixSeconds
    reason: str
    detail: str
    route: str | None
    sink: str | None
    """None for a message that could not be decoded."""
    attempts: int
    partition: PartitionId
    sequence_number: int
    index: int | None
    """Position in the message's array; None when the whole message is meant."""
    event_id: str | None
    type: str | None
    subject: str | None
    source: str | None
    body: bytes
    """The whole message, byte for byte."""
    content_type: str | None
    properties: Mapping[str, object]
    enqueued_at: UnixSeconds
    idempotency_key: str | None = None
    """Under which its sink knows the event; None where there is no sink."""


class Store(Protocol):
    """One consumer group's memory. Every method raises StoreUnavailable when the store cannot be reached in time."""

    @property
    def checkpoints(self) -> CheckpointStore:
        """Ownership and checkpoints behind the SDK's own interface.

        A checkpoint only moves forward: an update with a sequence number at or below the stored one is ignored.
        `update_checkpoint(checkpoint, force=True)` overrules that (seek, recreated hub).
        """
        ...

    async def open(self) -> None:
        """Creates what is missing (container, tables) and fails when the store cannot be used."""
        ...

    async def clock(self) -> UnixSeconds:
        """What time it is where the store is: its own clock, by which ownership expires; to the second."""
        ...

    async def aclose(self) -> None:
        """Closes connections. Safe to call twice, and without `open`."""
        ...

    async def release_ownership(self, owner_id: str) -> None:
        """Gives up every ownership this owner holds in this scope, whatever the SDK believes."""
        ...

    async def state_versions(self) -> dict[PartitionId, StateVersion]:
        """The versions of all partitions' state objects, in one cheap query."""
        ...

    async def read_state(self, partition: PartitionId) -> StoredState | None:
        """The state object, or None where none was ever written."""
        ...

    async def write_state(
        self, partition: PartitionId, payload: bytes, *, expected: StateVersion | None
    ) -> StateVersion:
        """Writes when the stored version is `expected` (None: only if absent), else raises Conflict."""
        ...

    async def read_checkpoint(self, partition: PartitionId) -> StoredCheckpoint | None:
        """The checkpoint, or None where none was ever written."""
        ...

    async def write_checkpoint(
        self, partition: PartitionId, *, offset: str, sequence_number: int, expected: StateVersion | None
    ) -> StateVersion:
        """Writes, forward or back, when the stored version is `expected` (None: only if absent), else raises Conflict.

        Also when the values are those that stand there: the version is another one afterwards. That is how a new
        generation makes every write of a former one fail.
        """
        ...

    async def read_memory(self, partition: PartitionId, part: str) -> bytes | None:
        """A part of a partition's memory, or None where it is not there."""
        ...

    async def write_memory(self, partition: PartitionId, part: str, payload: bytes) -> None:
        """Writes a part; what stood there under this name is replaced.

        Unconditional: the state says which parts count, so a part that a former owner writes is never read.
        """
        ...

    async def forget_memory(self, partition: PartitionId, *, keep: Collection[str]) -> None:
        """Deletes the parts of the partition's memory that sort before the last of these, and are none of them.

        What sorts after it stays: when a former owner deletes, it is the new owner's. With none to keep, all go.
        """
        ...

    async def read_entry(self, key: str) -> StoredEntry | None:
        """The ledger's entry under an idempotency key, or None."""
        ...

    async def write_entry(self, key: str, payload: bytes, *, expected: StateVersion | None) -> StateVersion:
        """Writes when the stored version is `expected` (None: only if absent), else raises Conflict."""
        ...

    async def expire_entries(self, before: UnixSeconds) -> int:
        """Deletes the ledger's entries last written before this; returns how many."""
        ...

    async def list_rows(self) -> dict[str, ListedRow]:
        """All rows of the shared table by name, in one cheap query."""
        ...

    async def read_row(self, name: str) -> StoredRow | None:
        """The row, or None where there is none."""
        ...

    async def write_row(self, name: str, payload: bytes, *, mark: str, expected: StateVersion | None) -> StateVersion:
        """Writes when the stored version is `expected` (None: only if absent), else raises Conflict.

        A name is of letters, digits and `-_./`; a mark is of up to 200 such, and may be empty. A version is never given
        twice: that of a row that was deleted does not fit the next one of its name.
        """
        ...

    async def delete_row(self, name: str, *, expected: StateVersion) -> None:
        """Deletes the row when its version is still this one, else raises Conflict: when it is gone, too."""
        ...

    async def put_dead_letters(self, letters: list[DeadLetter]) -> None:
        """Keeps them durably. A letter whose id is there already is left as it is."""
        ...

    def dead_letters(self, *, bodies: bool = True) -> AsyncIterator[DeadLetter]:
        """All of them, oldest first, by when the hub took the message; on request without bodies and properties."""
        ...

    async def read_dead_letter(self, name: str) -> DeadLetter | None:
        """The letter with this `layout.letter_name`, whole; None when it is no longer there."""
        ...

    async def drop_dead_letters(self, names: Sequence[str]) -> int:
        """Deletes the letters with these names, and the requests to replay them; returns how many letters went.

        A letter that this version does not understand stays. After a StoreUnavailable some may be deleted already.
        """
        ...

    async def request_replays(self, requests: Sequence[ReplayRequest]) -> None:
        """Keeps the requests until they are ended. One that is there already stays one."""
        ...

    async def replays(self) -> list[ReplayRequest]:
        """All requests of the scope in the order of their letters' names, in one cheap query."""
        ...

    async def end_replays(self, requests: Sequence[ReplayRequest]) -> None:
        """Removes requests; those that are gone are no error."""
        ...

    async def expire_dead_letters(self, before: UnixSeconds) -> int:
        """Deletes those whose `time` (when they became dead letters) is before this; returns how many it deleted.

        A letter that this version does not understand stays. After a StoreUnavailable some may be deleted already.
        """
        ...
