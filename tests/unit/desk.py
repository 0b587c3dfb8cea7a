"""A ledger's desk: processes that share a store in memory and a destination, on a clock by hand."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from tests.deliveries import delivery_of
from tests.memory_store import MemoryStore
from tests.support import sample
from tests.virtual_time import run
from worker.ledger import Entry, Ledger, Memo, decode
from worker.metrics import Metrics
from worker.settings import OnUnknown, SinkSettings
from worker.sinks import Delivery

START = 1_700_000_000.0
POLICIES: list[OnUnknown] = ["resend", "skip", "verify"]
DEADLINE_SECONDS = 60 + 15
"""An attempt's bound and the margins: after that an intent without outcome is unknown."""


class LedgerSettings(SinkSettings):
    ledger = "always"
    verifies = True


class SettlingSettings(LedgerSettings):
    settles_seconds: float = 30.0


class Destination:
    """Counts effects; `found` is what it says when it is asked."""

    def __init__(self) -> None:
        self.effects = 0
        self.acted_at: list[float] = []
        self.found: bool | Exception | None = False
        self.asked = 0

    async def open(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    async def deliver(self, delivery: Delivery) -> None:
        raise AssertionError("the ledger is handed what acts")

    async def verify(self, delivery: Delivery) -> bool | None:
        self.asked += 1
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


class Desk:
    """Processes that share a store and a destination."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0
        """By how much the clock is wrong."""
        self.store = MemoryStore(clock=self.clock)
        self.destination = Destination()
        self.metrics = Metrics()
        self.delivery = delivery_of()
        self._processes = 0

    def clock(self) -> float:
        return START + asyncio.get_running_loop().time() + self.ahead_seconds

    def process(
        self, on_unknown: OnUnknown | None = "resend", kind: type[LedgerSettings] = LedgerSettings
    ) -> "Process":
        self._processes += 1
        settings = kind(name="out", kind="fake", on_unknown=on_unknown)
        name = f"process-{self._processes}"
        return Process(
            self, Ledger(self.store, settings, self.destination, by=name, metrics=self.metrics, clock=self.clock)
        )

    def act(self) -> None:
        """What an attempt does there."""
        self.destination.effects += 1
        self.destination.acted_at.append(self.clock())

    async def entry(self) -> Entry | None:
        stored = await self.store.read_entry(self.delivery.idempotency_key)
        return decode(stored.payload) if stored else None

    def count(self, decision: str) -> float:
        labels = {"sink": "out", "decision": decision}
        return sample(self.metrics.registry, "worker_ledger_decisions_total", labels) or 0.0


class Process:
    """One process's ledger, and what it remembers of the delivery."""

    def __init__(self, desk: Desk, ledger: Ledger) -> None:
        self._desk = desk
        self._ledger = ledger
        self.memo = Memo()

    async def attempt(
        self,
        error: Exception | None = None,
        *,
        effect: bool | None = None,
        seconds: float = 0.0,
        replayed: bool = False,
    ) -> bool:
        """One attempt that ends with this error; it has its effect when it ends well, unless told otherwise."""

        async def act() -> None:
            await asyncio.sleep(seconds)
            if effect if effect is not None else error is None:
                self._desk.act()
            if error is not None:
                raise error

        delivery = self._desk.delivery
        if replayed:
            delivery = replace(delivery, replayed=True)
        return await self._ledger.once(delivery, self.memo, act, attempt=1)


def played(scene: Callable[[Desk], object]) -> None:
    async def play() -> None:
        await scene(Desk())

    run(play())
