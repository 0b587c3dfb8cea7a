"""A lane on its own, in virtual time: owners that record what becomes of their deliveries, and sinks with a script."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

from tests.deliveries import ELEMENT, delivery_of
from tests.support import sample
from worker.chains import Job, Turn
from worker.deliver import Lane
from worker.ledger import Ledger
from worker.metrics import Metrics
from worker.settings import SinkSettings
from worker.sinks import Delivery, Sink


def job_of(owner: "FakeOwner", subject: str, event_id: str, **given: Any) -> Job:
    """A delivery of one event."""
    return Job(delivery_of(ELEMENT | {"subject": subject, "id": event_id}), owner, **given)


def id_of(delivery: Delivery) -> str:
    return delivery.released.placed.event.id


class FakeOwner:
    """A partition, as a lane sees it."""

    def __init__(self, name: str = "owner") -> None:
        self.name = name
        self.closed = False
        self.attempts: set[asyncio.Timeout] = set()
        self.lease = True
        self.accepted_ids: list[str] = []
        self.letters: dict[str, tuple[str, str]] = {}
        """What was given up: id to reason and detail."""

    def starts_at_once(self, job: Job) -> bool:
        return False

    async def may_start(self, job: Job) -> bool:
        return self.lease

    def is_ours(self) -> bool:
        return self.lease

    def turn(self, job: Job) -> Turn:
        return Turn.ALONE

    def accepted(self, job: Job) -> None:
        self._end(job)
        self.accepted_ids.append(id_of(job.delivery))

    def gave_up(self, job: Job, reason: str, detail: str) -> None:
        self._end(job)
        self.letters[id_of(job.delivery)] = (reason, detail)

    def attempt_ended(self, job: Job) -> None:
        pass

    def _end(self, job: Job) -> None:
        assert id_of(job.delivery) not in {*self.accepted_ids, *self.letters}, "a delivery ended twice"

    @property
    def ended(self) -> int:
        return len(self.accepted_ids) + len(self.letters)

    def close(self, lane: Lane) -> None:
        """As a pipeline does when it stops starting."""
        self.closed = True
        lane.withdraw(self)

    def abort(self) -> None:
        """As a pipeline does at the end of its drain."""
        for attempt in self.attempts:
            attempt.reschedule(asyncio.get_running_loop().time())


class ScriptedSink:
    """Each attempt takes its time and ends as the script says; after the script, or without one, all are accepted."""

    def __init__(
        self,
        script: Iterable[tuple[float, Exception | None]] = (),
        *,
        fail: Callable[[], Exception | None] = lambda: None,
    ) -> None:
        self.started: list[tuple[float, Delivery]] = []
        self.under_way: list[Delivery] = []
        self.most_under_way = 0
        self.seconds = 0.0
        self._script = list(script)
        self._fail = fail

    @property
    def ids(self) -> list[str]:
        return [id_of(delivery) for _, delivery in self.started]

    async def open(self) -> None:
        pass

    async def deliver(self, delivery: Delivery) -> None:
        self.started.append((asyncio.get_running_loop().time(), delivery))
        self.under_way.append(delivery)
        self.most_under_way = max(self.most_under_way, len(self.under_way))
        seconds, error = self._script.pop(0) if self._script else (self.seconds, self._fail())
        try:
            await asyncio.sleep(seconds)
            if error is not None:
                raise error
        finally:
            self.under_way.remove(delivery)

    async def aclose(self) -> None:
        pass


class LaneScene:
    """One lane to one sink."""

    def __init__(
        self,
        sink: Sink,
        *,
        give_up_after_seconds: float = 3600.0,
        ledger: Ledger | None = None,
        metrics: Metrics | None = None,
        **settings: Any,
    ) -> None:
        self.metrics = metrics or Metrics()
        self.lane = Lane(
            SinkSettings(**{"name": "out", "kind": "fake", **settings}),
            sink,
            give_up_after_seconds=give_up_after_seconds,
            metrics=self.metrics,
            ledger=ledger,
            seed=1,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator["LaneScene"]:
        task = asyncio.create_task(self.lane.run())
        try:
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def count(self, metric: str, **labels: str) -> float:
        return sample(self.metrics.registry, metric, {"sink": "out", **labels}) or 0.0
