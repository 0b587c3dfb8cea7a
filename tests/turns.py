"""Processes that end after any number of turns of the event loop, and what outlives them: the ledger's store.

A process that ends is one whose lane is cancelled and whose connections are closed: so at each await between the
submission and the end, those inside the HTTP client included.
"""

import asyncio
import time
from collections.abc import Callable

from tests.lanes import FakeOwner, LaneScene, job_of
from tests.memory_store import Contents, MemoryStore
from worker.ledger import EntryState, Ledger, decode
from worker.metrics import Metrics
from worker.settings import SinkSettings
from worker.sinks import Sink

METRICS = Metrics()
"""One for all lives: making them takes longer than a life."""
MOST_TURNS = 1_000_000
HOUR = 3600.0


class SlowStore(MemoryStore):
    """Takes a turn of the event loop before and after each effect: moments at which its process may end."""

    async def _reach(self, name: str) -> None:
        await asyncio.sleep(0)

    async def _answered(self, name: str) -> None:
        await asyncio.sleep(0)


class Lives:
    """One delivery through one sink, and the processes that are given it one after the other."""

    def __init__(self, settings: SinkSettings, build: Callable[[], Sink]) -> None:
        self.contents = Contents()
        self._settings = settings
        self._build = build

    @property
    def recorded(self) -> EntryState | None:
        """What the ledger says of the one delivery."""
        entries = [decode(entry.payload).state for entry in self.contents.entries.values()]
        return entries[0] if entries else None

    async def live(self, name: str, *, turns: int = MOST_TURNS, later_by: float = 0) -> FakeOwner:
        """One process that ends after so many turns, or when it is done."""
        owner = FakeOwner(name)
        sink = self._build()
        await sink.open()
        try:
            async with LaneScene(sink, ledger=self._ledger(sink, name, later_by), metrics=METRICS).running() as stage:
                stage.lane.submit(job_of(owner, "a", "a1"))
                for _ in range(turns):
                    if owner.ended:
                        break
                    await asyncio.sleep(0)
        finally:
            await sink.aclose()
        return owner

    def _ledger(self, sink: Sink, name: str, later_by: float) -> Ledger | None:
        if not self._settings.uses_ledger:
            return None

        def clock() -> float:
            """Long after the attempts of earlier lives: an intent without outcome is unknown then."""
            return time.time() + later_by

        store = SlowStore(self.contents, clock=clock)
        return Ledger(store, self._settings, sink, by=name, metrics=METRICS, clock=clock)
