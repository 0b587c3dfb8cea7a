"""One partition's real pipeline, with a real lane, in this process: no hub, no store, and a sink that accepts at once.

For benchmarks of what grows with a partition. What is put in comes out in order, or the run fails.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

from bench.made import PARTITION
from worker.board import Board
from worker.config import DeadLetterSettings, LimitSettings, OrderSettings, StoreIntervals
from worker.deadletters import DeadLetterWriter
from worker.deliver import Lane
from worker.events import Message
from worker.health import Health
from worker.metrics import Metrics
from worker.parts import Parts
from worker.pipeline import Pipeline
from worker.route import Routes, RouteSpec
from worker.rules import Rules, RuleSet
from worker.settings import SinkSettings
from worker.sinks import Delivery
from worker.state import PartitionState
from worker.stores import HubScope

BATCH = 300
"""Messages, as the SDK hands them over."""
_MORE = 10**12
"""The hub has more: else the partition's clock would go on by itself, and nothing stay held."""
_NOT_HERE: Any = None
"""What only a claim of a partition asks for: here is none."""
_LIMIT_SECONDS = 300.0


class Counting:
    """A sink that takes everything at once, wants each subject in order, and says when it has had so many."""

    def __init__(self) -> None:
        self.accepted = 0
        self._wanted = 0
        self._there = asyncio.Event()
        self._last: dict[object, int] = {}

    async def open(self) -> None:
        """Nothing to acquire."""

    async def deliver(self, delivery: Delivery) -> None:
        """Takes it."""
        placed = delivery.released.placed
        key, number = placed.event.key, placed.position.sequence_number
        assert self._last.get(key, -1) < number, "a subject is out of order, or an event came twice"
        self._last[key] = number
        self.accepted += 1
        if self.accepted >= self._wanted:
            self._there.set()

    async def aclose(self) -> None:
        """Nothing to release."""

    async def has(self, wanted: int) -> None:
        """Waits until it has had so many, no more. Raises TimeoutError, AssertionError."""
        self._wanted = wanted
        if self.accepted < wanted:
            self._there.clear()
            async with asyncio.timeout(_LIMIT_SECONDS):
                await self._there.wait()
        assert self.accepted == wanted, f"{self.accepted:,} were delivered, and {wanted:,} were to be"


class Plumbing:
    """A pipeline that runs."""

    def __init__(self, *, window_seconds: float, held: int) -> None:
        self.sink = Counting()
        self.taken = 0
        metrics = Metrics()
        self.lane = Lane(
            SinkSettings(name="out", kind="bench"), self.sink, give_up_after_seconds=3600, metrics=metrics, seed=1
        )
        rules = Rules(RuleSet(Routes([RouteSpec("all", ("out",))]), {"out": self.lane}, {}))
        parts = Parts(
            store=_NOT_HERE,
            positions=_NOT_HERE,
            scope=HubScope("bench", "bench", "bench"),
            board=Board(_NOT_HERE, lambda: (), lambda: [PARTITION], metrics=metrics, clock=time.time),
            rules=rules,
            dead_letters=DeadLetterWriter(_NOT_HERE, metrics),
            order=OrderSettings(window_seconds=window_seconds),
            limits=LimitSettings(held=held),
            spoiled=DeadLetterSettings(),
            intervals=StoreIntervals(),
            metrics=metrics,
            health=Health(limit_seconds=3600),
            lease_valid=lambda _: True,
        )
        self.pipeline = Pipeline(PARTITION, parts)
        self.pipeline.restore(PartitionState(generation=1, owner="bench"))

    async def put(self, messages: Iterable[Message]) -> None:
        """Hands them over as the SDK does: what is full makes it wait."""
        coming = iter(messages)
        while batch := list(islice(coming, BATCH)):
            await self.pipeline.feed.put(batch, _MORE)
            self.taken += len(batch)


@asynccontextmanager
async def plumbing(*, window_seconds: float, held: int) -> AsyncIterator[Plumbing]:
    """It works inside."""
    made = Plumbing(window_seconds=window_seconds, held=held)
    working = [asyncio.create_task(work) for work in (made.pipeline.read(), made.lane.run())]
    try:
        yield made
    finally:
        for task in working:
            task.cancel()
        await asyncio.wait(working)
        for task in working:
            if not task.cancelled():
                task.result()
