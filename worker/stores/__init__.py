"""What must survive a process: ownership and checkpoints, one state object per partition, dead letters.

The protocol only. `sqlite` serves one machine, `blob` serves production; `tests/contract` holds both to the same
promises. Nothing here knows what a state object contains.
"""

from collections.abc import AsyncIterator, Mapping
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

    async def put_dead_letters(self, letters: list[DeadLetter]) -> None:
        """Keeps them durably. A letter whose id is there already is left as it is."""
        ...

    def dead_letters(self, *, bodies: bool = True) -> AsyncIterator[DeadLetter]:
        """All of them, oldest first, by when the hub took the message; on request without bodies and properties."""
        ...

    async def expire_dead_letters(self, before: UnixSeconds) -> int:
        """Deletes those whose `time` (when they became dead letters) is before this; returns how many it deleted.

        A letter that this version does not understand stays. After a StoreUnavailable some may be deleted already.
        """
        ...
