"""What a partition's state and memory cost for 100,000 subjects: a table of `python -m bench stages`.

One partition takes in 1,000 events a second for a while, on SQLite in a temporary folder; then another owner restores
it. "Held up" is the longest time in which the event loop could do nothing else, seen by a task that only yields.
"""

import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable
from hashlib import sha256
from pathlib import Path

from worker import state as codec
from worker.events import Event, Message, OrderKey, OrderKind, PartitionId, Placed, Position, Schema, UnixSeconds
from worker.judge import Judge
from worker.metrics import Metrics
from worker.recall import Recall
from worker.state import PartitionState
from worker.stores import HubScope
from worker.stores.sqlite import SqliteStore

SUBJECTS = 100_000
EVENTS_PER_SECOND = 1_000
SECONDS = 70
"""Long enough for more parts than are left to stand."""
SOURCE = "/subscriptions/0b2c/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws"
PARTITION = PartitionId("0")
DAY_SECONDS = 86_400.0


def settle(judge: Judge, number: int, subject: int) -> None:
    """One event from its arrival to its end."""
    key = OrderKey(OrderKind.TIME, f"2026-11-23T01:{number // 600_000_000:02d}:00.{number % 10_000_000:07d}Z/3")
    event = Event(
        Schema.EVENT_GRID, str(number), "t", SOURCE, f"experiments/e/runs/run_{subject:08d}", None, None, {}, key
    )
    now = UnixSeconds(number / EVENTS_PER_SECOND)
    digest = sha256(b"%d" % number).digest()
    message = Message(PARTITION, number, str(number), now, b"")
    placed = Placed(event, message, Position(number, 0), digest[:16], digest[16:].hex())
    judge.see(placed, now=now)
    judge.add(placed, now=now)
    judge.orderer.due(now=now, at_most=10)
    judge.settled(placed.position, placed.duplicate_key, placed.digest)


class LoopWatch:
    """The longest time between two turns of the event loop."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def during(self, work: Awaitable[None]) -> None:
        """Watches until the work is done."""
        self.longest = 0.0
        watching = asyncio.create_task(self._watch())
        await asyncio.sleep(0)
        try:
            await work
        finally:
            watching.cancel()

    async def _watch(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            self.longest, last = max(self.longest, now - last), now


def new_recall(judge: Judge, store: SqliteStore, metrics: Metrics, generation: int) -> Recall:
    """As a claim makes it."""
    return Recall(PARTITION, generation, judge, store, offload=asyncio.to_thread, metrics=metrics)


async def save(recall: Recall, state_bytes: list[int]) -> PartitionState:
    """What the keeper does, but for the write of the state itself."""
    state = PartitionState(generation=1, owner="bench", **await recall.write(recall.snapshot()))
    state_bytes.append(len(codec.encode(state)))
    await recall.saved(state)
    return state


async def measured(store: SqliteStore) -> list[tuple[str, str]]:
    """On this store."""
    judge, metrics, watch, sizes = Judge(window_seconds=0, memory_seconds=DAY_SECONDS), Metrics(), LoopWatch(), [0]
    recall = new_recall(judge, store, metrics, 1)
    for number in range(SUBJECTS):
        settle(judge, number, number)
    await save(recall, sizes)
    chance = random.Random(1)  # noqa: S311 - a bench wants the same numbers each time
    number, state = SUBJECTS, PartitionState(generation=0, owner="")
    seconds_of_saves, sizes = list[float](), list[int]()
    for _ in range(SECONDS):
        for _ in range(EVENTS_PER_SECOND):
            settle(judge, number, chance.randrange(SUBJECTS))
            number += 1
        began = time.perf_counter()
        state = await save(recall, sizes)
        seconds_of_saves.append(time.perf_counter() - began)
    before = _written(metrics)
    renewing = asyncio.create_task(recall.run(), name="renewing")

    async def renewed() -> None:
        nonlocal state
        while _written(metrics) == before:  # noqa: ASYNC110 - a counter, which nobody announces
            await asyncio.sleep(0.01)
        state = await save(recall, sizes)

    began = time.perf_counter()
    async with asyncio.timeout(60):
        await watch.during(renewed())
    renewing.cancel()
    found = [
        ("hot state, bytes, largest of a write", f"{max(sizes):,}"),
        ("a save's memory at 1,000 events/s, ms, longest", f"{max(seconds_of_saves) * 1000:.0f}"),
        ("whole part, bytes", f"{_written(metrics) - before:,.0f}"),
        ("whole part, ms from beginning to end", f"{(time.perf_counter() - began) * 1000:.0f}"),
        ("whole part, loop held up at most, ms", f"{watch.longest * 1000:.1f}"),
    ]
    began = time.perf_counter()
    later = Judge(window_seconds=0, memory_seconds=DAY_SECONDS)
    await watch.during(new_recall(later, store, metrics, 2).restore(state))
    assert sum(rows.number for rows in later.walk()) == sum(rows.number for rows in judge.walk())
    return [
        *found,
        ("rows: subjects and duplicates", f"{sum(rows.number for rows in later.walk()):,}"),
        ("restore, ms", f"{(time.perf_counter() - began) * 1000:.0f}"),
        ("restore, loop held up at most, ms", f"{watch.longest * 1000:.1f}"),
    ]


def _written(metrics: Metrics) -> float:
    labels = {"partition": PARTITION, "kind": "whole"}
    return metrics.registry.get_sample_value("worker_memory_written_bytes_total", labels) or 0.0


async def rows() -> list[tuple[str, str]]:
    """What costs how much."""
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder) / "worker.db", HubScope("bench", "bench", "bench"))
        await store.open()
        try:
            return await measured(store)
        finally:
            await store.aclose()
