"""Fakes with the real interfaces: a store in memory (held to the contract of the real ones), sinks that fail."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any
from uuid import uuid4

from azure.eventhub.aio import CheckpointStore

from worker.errors import Conflict, StoreUnavailable
from worker.events import PartitionId, UnixSeconds
from worker.sinks import Delivery
from worker.stores import DeadLetter, StateVersion, StoredState
from worker.stores.layout import is_older, letter_from_json, letter_name, letter_to_json, without_body


class MemoryStore(CheckpointStore):
    """A Store. `down` makes every call fail as when the real one cannot be reached."""

    def __init__(self) -> None:
        self.down = False
        self.calls: list[str] = []
        self._ownership: dict[tuple[str, ...], dict[str, Any]] = {}
        self._checkpoints: dict[tuple[str, ...], dict[str, Any]] = {}
        self._states: dict[PartitionId, StoredState] = {}
        self._letters: dict[str, bytes] = {}

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.down:
            raise StoreUnavailable("the store is away")

    @property
    def checkpoints(self) -> CheckpointStore:
        return self

    async def open(self) -> None:
        self._called("open")

    async def aclose(self) -> None:
        pass

    async def list_ownership(self, *scope: str, **_: Any) -> Iterable[dict[str, Any]]:
        self._called("list_ownership")
        return [dict(each) for key, each in self._ownership.items() if key[:3] == scope]

    async def claim_ownership(self, ownership_list: Iterable[dict[str, Any]], **_: Any) -> Iterable[dict[str, Any]]:
        self._called("claim_ownership")
        granted = []
        for each in ownership_list:
            key = _key(each)
            present = self._ownership.get(key)
            if (present or {}).get("etag") == each.get("etag"):
                self._ownership[key] = {**each, "etag": uuid4().hex, "last_modified_time": time.time()}
                granted.append(dict(self._ownership[key]))
        return granted

    async def update_checkpoint(self, checkpoint: dict[str, Any], *, force: bool = False, **_: Any) -> None:
        self._called("update_checkpoint")
        present = self._checkpoints.get(_key(checkpoint))
        if force or present is None or checkpoint["sequence_number"] > present["sequence_number"]:
            self._checkpoints[_key(checkpoint)] = dict(checkpoint)

    async def list_checkpoints(self, *scope: str, **_: Any) -> Iterable[dict[str, Any]]:
        self._called("list_checkpoints")
        return [dict(each) for key, each in self._checkpoints.items() if key[:3] == scope]

    async def release_ownership(self, owner_id: str) -> None:
        self._called("release_ownership")
        for each in self._ownership.values():
            if each["owner_id"] == owner_id:
                each.update(owner_id="", etag=uuid4().hex)

    async def state_versions(self) -> dict[PartitionId, StateVersion]:
        self._called("state_versions")
        return {partition: state.version for partition, state in self._states.items()}

    async def read_state(self, partition: PartitionId) -> StoredState | None:
        self._called("read_state")
        return self._states.get(partition)

    async def write_state(
        self, partition: PartitionId, payload: bytes, *, expected: StateVersion | None
    ) -> StateVersion:
        self._called("write_state")
        present = self._states.get(partition)
        if (present.version if present else None) != expected:
            raise Conflict("another version is stored")
        version = StateVersion(uuid4().hex)
        self._states[partition] = StoredState(payload, version)
        return version

    async def put_dead_letters(self, letters: list[DeadLetter]) -> None:
        self._called("put_dead_letters")
        for letter in letters:
            self._letters.setdefault(letter_name(letter), letter_to_json(letter))

    async def dead_letters(self, *, bodies: bool = True) -> AsyncIterator[DeadLetter]:
        self._called("dead_letters")
        letters = [letter_from_json(row) for row in self._letters.values()]
        for letter in sorted(letters, key=lambda each: (each.enqueued_at, each.sequence_number)):
            yield letter if bodies else without_body(letter)

    async def expire_dead_letters(self, before: UnixSeconds) -> int:
        self._called("expire_dead_letters")
        old = [name for name, row in self._letters.items() if is_older(row, before)]
        for name in old:
            del self._letters[name]
        return len(old)


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    return (row["fully_qualified_namespace"], row["eventhub_name"], row["consumer_group"], row["partition_id"])


class FakeSink:
    """Records what it accepts. `fails` is consumed first; `hold` makes attempts wait until it is released."""

    def __init__(
        self, fails: Iterable[Exception] = (), *, refuse: Callable[[Delivery], Exception | None] | None = None
    ):
        self.accepted: list[Delivery] = []
        self.attempts: list[Delivery] = []
        self.under_way = 0
        self.most_under_way = 0
        self.open_gate = asyncio.Event()
        self.open_gate.set()
        self._fails = list(fails)
        self._refuse = refuse

    @property
    def ids(self) -> list[str]:
        return [each.released.placed.event.id for each in self.accepted]

    async def open(self) -> None:
        pass

    async def deliver(self, delivery: Delivery) -> None:
        self.attempts.append(delivery)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(0)
            await self.open_gate.wait()
            if self._fails:
                raise self._fails.pop(0)
            problem = self._refuse(delivery) if self._refuse else None
            if problem is not None:
                raise problem
            self.accepted.append(delivery)
        finally:
            self.under_way -= 1

    async def aclose(self) -> None:
        pass
