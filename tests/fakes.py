"""Fakes with the real interfaces: sinks that fail. The store in memory is in memory_store.py."""

import asyncio
from collections.abc import Callable, Iterable

from worker.config import OnInvalidOffset
from worker.errors import HubUnavailable
from worker.events import PartitionId
from worker.progress import Watermark
from worker.sinks import Delivery
from worker.state import HubIdentity


class FakeSink:
    """Records what it accepts. `fails` is consumed first; `hold` makes attempts wait until it is released."""

    def __init__(
        self, fails: Iterable[Exception] = (), *, refuse: Callable[[Delivery], Exception | None] | None = None
    ):
        self.accepted: list[Delivery] = []
        self.attempts: list[Delivery] = []
        self.under_way = 0
        self.most_under_way = 0
        self.closed = 0
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
        assert not self.under_way, "closed in the middle of an attempt"
        self.closed += 1


class FakeHub:
    """What a claim knows of the hub: which one it is, and where its partitions begin and end."""

    def __init__(self, created_at: str = "2026-01-01T00:00:00+00:00") -> None:
        self.identity: HubIdentity | None = HubIdentity(created_at, -1)
        self.edges = {"earliest": Watermark(-1, "-1"), "latest": Watermark(99, "9900")}
        self.down = False

    async def identify(self) -> HubIdentity:
        if self.down or self.identity is None:
            raise HubUnavailable("the hub is away")
        return self.identity

    async def edge(self, partition: PartitionId, which: OnInvalidOffset) -> Watermark:
        if self.down:
            raise HubUnavailable("the hub is away")
        return self.edges[which]
