"""The store of all processes, as one of them reaches it: slow, sometimes away, sometimes with its answer lost.

Writes what takes effect into the history, in the moment in which it does.
"""

import asyncio
import base64
from random import Random
from typing import TYPE_CHECKING, Any

import orjson

from tests.memory_store import Contents, MemoryStore
from tests.simulation.history import (
    CheckpointWrite,
    History,
    LedgerWrite,
    LetterWrite,
    Renewal,
    StateSeen,
    StateWrite,
    missed_about,
)
from tests.simulation.loop import WALL_CLOCK_OFFSET, SimulationLoop
from worker.errors import StoreUnavailable
from worker.events import PartitionId
from worker.stores import StoredState

if TYPE_CHECKING:
    from types import TracebackType

_QUICK = frozenset({"state_versions", "list_ownership"})


class Weather:
    """Whether the store answers, for everybody and for each process."""

    def __init__(self) -> None:
        self.away = False
        self.cut_off: set[str] = set()
        self.failures = 0.0
        """The share of calls that fail on the way there, and again on the way back."""


class SimulatedStore(MemoryStore):
    """One process's way to the store."""

    def __init__(
        self,
        life: str,
        contents: Contents,
        weather: Weather,
        history: History,
        *,
        loop: SimulationLoop,
        random: Random,
    ) -> None:
        super().__init__(contents, clock=lambda: WALL_CLOCK_OFFSET + loop.time())
        self.life = life
        self.weather = weather
        self.history = history
        self.loop = loop
        self.random = random

    def _called(self, name: str) -> Any:
        return _Call(self, name)

    async def read_state(self, partition: PartitionId) -> StoredState | None:
        stored = await super().read_state(partition)
        if stored is not None:
            payload = orjson.loads(stored.payload)
            seen = payload["generation"], payload["owner"]
            self.history.entries.append(StateSeen(self.history.tick(), self.loop.time(), self.life, partition, *seen))
        return stored


class _Call:
    """One call: there, the effect at once, and back."""

    def __init__(self, store: SimulatedStore, name: str) -> None:
        self._store = store
        self._name = name

    async def __aenter__(self) -> Contents:
        store = self._store
        self._called_at, self._called_time = store.history.tick(), store.loop.time()
        await self._way("the store is away")
        contents = store.contents
        self._before = dict(contents.states), dict(contents.checkpoints), len(contents.letters)
        self._entries = dict(contents.entries)
        self._owned = {key: each["etag"] for key, each in contents.ownership.items()}
        return contents

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: "TracebackType | None"
    ) -> None:
        self._record()
        self._granted = [
            key[3]
            for key, each in self._store.contents.ownership.items()
            if each["owner_id"] and self._owned.get(key) != each["etag"]
        ]
        if not isinstance(error, asyncio.CancelledError | GeneratorExit):
            await self._way("the store did not answer")
        if self._name == "claim_ownership":
            self._renewed()

    async def _way(self, failure: str) -> None:
        store, weather = self._store, self._store.weather
        random = store.random
        await asyncio.sleep(random.choice((0.002, 0.005, 0.01, 0.03)))
        if weather.away or store.life in weather.cut_off:
            await asyncio.sleep(random.choice((0.1, 0.5, 2.0)))
            raise StoreUnavailable(failure)
        if weather.failures and self._name not in _QUICK and random.random() < weather.failures:
            raise StoreUnavailable(failure)

    def _record(self) -> None:
        """Whatever this call changed: the effect is judged, not the name under which it was asked for."""
        store, history = self._store, self._store.history
        now, contents = store.loop.time(), store.contents
        states, checkpoints, letters = self._before
        for partition, state in contents.states.items():
            if states.get(partition) is not state:
                payload = orjson.loads(state.payload)
                before = orjson.loads(states[partition].payload) if partition in states else {}
                history.counts["window changed"] += _window(payload) != _window(before) is not None
                progress = payload["progress"] or {"read": None, "watermark": None}
                history.entries.append(
                    StateWrite(
                        at=history.tick(),
                        time=now,
                        called_at=self._called_at,
                        life=store.life,
                        partition=partition,
                        generation=payload["generation"],
                        owner=payload["owner"],
                        request=payload["request"],
                        released=payload["released"],
                        read=-1 if progress["read"] is None else progress["read"],
                        watermark=-1 if progress["watermark"] is None else progress["watermark"][0],
                        late=frozenset((number, index) for number, index, _ in payload.get("late", ())),
                    )
                )
        for partition, checkpoint in contents.checkpoints.items():
            if checkpoints.get(partition) is not checkpoint:
                number = checkpoint.sequence_number
                history.entries.append(CheckpointWrite(history.tick(), now, store.life, partition, number))
        for key, entry in contents.entries.items():
            if self._entries.get(key) is not entry:
                state = orjson.loads(entry.payload)["state"]
                history.entries.append(LedgerWrite(history.tick(), now, store.life, key, state))
        for row in list(contents.letters.values())[letters:]:
            self._letter(orjson.loads(row))

    def _letter(self, row: dict[str, Any]) -> None:
        store, history = self._store, self._store.history
        history.entries.append(
            LetterWrite(
                at=history.tick(),
                time=store.loop.time(),
                life=store.life,
                partition=row["partition"],
                number=row["sequence_number"],
                index=row["index"],
                sink=row["sink"] or "",
                reason=row["reason"],
                attempts=row["attempts"],
                members=_members(row),
            )
        )

    def _renewed(self) -> None:
        store, history = self._store, self._store.history
        for partition in self._granted:
            history.entries.append(Renewal(history.tick(), store.loop.time(), store.life, partition, self._called_time))


def _window(state: dict[str, Any]) -> float | None:
    """What a window `auto` has come to."""
    seconds: float | None = state.get("disorder", {}).get("seconds")
    return seconds


def _members(row: dict[str, Any]) -> tuple[str, ...]:
    """Of a digest's letter: itself, and the events that it names. Of a missed expectation's: itself."""
    if row["type"] not in ("Worker.Digest", "Worker.ExpectationMissed"):
        return ()
    data = orjson.loads(base64.b64decode(row["body"]))["data"]
    if row["type"] == "Worker.ExpectationMissed":
        return (f"missed {missed_about(data)}",)
    return row["event_id"], *(each["id"] for each in data["events"])
