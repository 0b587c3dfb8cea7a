"""The shared table, as several processes with a partition each work at it: without their pipelines, in virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import orjson

from tests.memory_store import MemoryStore
from tests.support import sample
from tests.virtual_time import settle_down
from worker.board import NEVER, Board, watch
from worker.decode import decode
from worker.events import Message, PartitionId, Placed, Position, Released, UnixSeconds
from worker.expect import ExpectRule, compile_rule
from worker.expect_settings import ExpectSettings
from worker.filters import compile_filter
from worker.keys import idempotency_key
from worker.metrics import Metrics
from worker.missed import Missed
from worker.noting import NOTING, Noting
from worker.overdue import Overdue
from worker.silences import Signs
from worker.sinks import Delivery

START = 1_700_000_000.0
SOURCE = "/subscriptions/s/workspaces/Prod"


def rule(**section: Any) -> ExpectRule:
    """A rule, as it stands in the file."""
    settings = ExpectSettings.model_validate(section)

    def compiled(given: dict[str, object] | None) -> Any:
        return None if given is None else compile_filter(given)

    return compile_rule(
        settings, after=compiled(settings.after), then=compiled(settings.then), events=compiled(settings.events)
    )


DEPLOYED = rule(
    name="model-is-deployed",
    after={"includedEventTypes": ["Registered"]},
    then={"includedEventTypes": ["Deployed"]},
    correlate={"after": "{{ event.data.model }}", "then": "{{ event.data.models }}", "split": ","},
    within="1h",
)
SILENT = rule(name="silent", sources=[SOURCE], every="1h")


def event(kind: str, at: float, *, event_id: str = "", source: str = SOURCE, **data: Any) -> dict[str, Any]:
    """An event of a model, `at` seconds after the start."""
    return {
        "specversion": "1.0",
        "id": event_id or f"{kind}-{at:g}",
        "source": source,
        "type": kind,
        "subject": f"{kind}/{data.get('model', data.get('models'))}",
        "time": f"{datetime.fromtimestamp(START + at, UTC):%Y-%m-%dT%H:%M:%S.%f}Z",
        "data": data,
    }


def delivery(content: dict[str, Any], *, enqueued: float | None = None, late_by_ms: int | None = None) -> Delivery:
    """Of an event to the lane that notes."""
    at = UnixSeconds(START + (enqueued or 0.0))
    message = Message(PartitionId("0"), 1, "1", at, orjson.dumps(content), "application/cloudevents+json")
    (decoded,) = decode(message)
    assert not hasattr(decoded, "reason"), decoded
    released = Released(Placed(decoded, message, Position(1, 0)), late_by_ms)  # type: ignore[arg-type]
    return Delivery(released, NOTING, NOTING, idempotency_key(decoded, NOTING))  # type: ignore[arg-type]


class Side:
    """One process that holds one partition."""

    def __init__(self, table: "Table", partition: str) -> None:
        self.partition = PartitionId(partition)
        self.metrics = Metrics()
        self.rules = table.rules
        self.board = Board(
            table.store, lambda: self.rules, lambda: table.partitions, metrics=self.metrics, clock=table.clock
        )
        self.noting = Noting(self.board, lambda: self.rules, self.metrics)
        self.signs = Signs()
        self.through: float | None = 0.0
        """Seconds after the start."""
        self.told: list[Missed] = []
        self.may_save = True
        self.overdue = Overdue(
            self.partition,
            self.board,
            self.signs,
            through=lambda: NEVER if self.through is None else START + self.through,
            submit=self.told.append,
            metrics=self.metrics,
            clock=table.clock,
        )
        self.overdue.save = self._save
        self.saves = 0
        self._changed = asyncio.Event()

    async def _save(self) -> bool:
        """What the keeper does."""
        if self.may_save:
            await self.overdue.write(None)
            self.saves += 1
        return self.may_save

    async def _keep(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self.overdue.write(None)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.overdue.run())
            tasks.create_task(self._keep())
            tasks.create_task(watch(self.board, self.overdue.look))

    def done(self, missed: Missed, *sinks: str) -> None:
        """Sinks were told; without any: all were."""
        missed.served |= set(sinks)
        if sinks:
            missed.book.note(missed)
        else:
            missed.book.settled(missed)
        self._changed.set()

    def count(self, outcome: str, name: str = "model-is-deployed") -> float:
        """Of worker_expectations_total."""
        labels = {"rule": name, "outcome": outcome}
        return sample(self.metrics.registry, "worker_expectations_total", labels) or 0.0

    def waiting(self, partition: str) -> float:
        """Of worker_expectations_waiting_seconds."""
        labels = {"waits_for": partition}
        return sample(self.metrics.registry, "worker_expectations_waiting_seconds", labels) or 0.0


class Table:
    """The table and whoever works at it."""

    def __init__(self, *rules: ExpectRule, partitions: int = 2, store: MemoryStore | None = None) -> None:
        self.rules = rules
        self.store = store or MemoryStore()
        self.partitions = [PartitionId(str(number)) for number in range(partitions)]
        self.sides = [Side(self, partition) for partition in self.partitions]
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def clock(self) -> float:
        """The wall clock: a virtual loop begins at 1,000 s."""
        return START + asyncio.get_running_loop().time() - 1000.0

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Table"]:
        """All sides work inside."""
        for number in range(len(self.sides)):
            self.begin(number)
        try:
            yield self
        finally:
            for number in list(self._tasks):
                await self.kill(number)

    def begin(self, number: int) -> Side:
        """A new process takes the partition, with the signs of life that the last one saved."""
        before = self.sides[number]
        side = self.sides[number] = Side(self, str(number))
        side.through, side.rules = before.through, before.rules
        side.signs.restore(before.signs.snapshot())
        self._tasks[number] = asyncio.create_task(side.run())
        return side

    async def kill(self, number: int) -> None:
        """A process ends at once."""
        task = self._tasks.pop(number)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def note(self, content: dict[str, Any], *, side: int = 0, **more: Any) -> None:
        """An event is noted."""
        await self.sides[side].noting.deliver(delivery(content, **more))

    async def pass_by(self, seconds: float = 11.0, *, through: float | None = None) -> None:
        """Time passes: two looks; `through`: all partitions are that far then."""
        if through is not None:
            for side in self.sides:
                side.through = through
        await asyncio.sleep(seconds)
        await settle_down()

    @property
    def told(self) -> list[Missed]:
        """By all sides."""
        return [missed for side in self.sides for missed in side.told]

    def rows(self, kind: str = "") -> dict[str, str]:
        """The marks of the rows."""
        return {name: mark for name, mark in self.store.contents.row_marks.items() if name.startswith(kind)}
