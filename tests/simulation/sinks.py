"""The destinations, and one process's way to them: slow, failing before or after the effect, refusing the worker.

An effect happens at the destination whatever becomes of the process that asked for it: a request on the wire lands
also when its sender was killed, frozen, or gave up waiting.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from tests.simulation.history import Attempt, Element, History, missed_about
from tests.simulation.loop import Life, SimulationLoop
from worker.errors import Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable, WorkerError
from worker.events import Event
from worker.sinks import Delivery

_LATENCIES = (0.005, 0.01, 0.02, 0.05, 0.2, 1.0)
_NEVER_SECONDS = 1e9


@dataclass
class Destination:
    """What is at the other end of a sink."""

    name: str
    idempotent: bool
    """Whether it acts once for a key."""
    away: bool = False
    refuses: bool = False
    failures: float = 0.0
    """The share of attempts that do not simply succeed."""
    acted: set[str] = field(default_factory=set)

    def land(self, attempt: Attempt, history: History, now: float) -> None:
        """The request arrives."""
        attempt.landed_at, attempt.landed_time = history.tick(), now
        attempt.acted = not (self.idempotent and attempt.key in self.acted)
        self.acted.add(attempt.key)


@dataclass(frozen=True, slots=True)
class _Fate:
    """How an attempt will go."""

    answer_after: float
    land_after: float | None = None
    error: WorkerError | None = None
    outcome: str = "accepted"


def _digest(event: Event) -> Element:
    """As an element of its own kind: no order between digests is demanded here, but one at a time is."""
    return Element(event.id, event.subject or "", f"digest {event.id}", 0, ())


def _missed(event: Event, about: str) -> Element:
    """As an element of its own kind, known by what it is about."""
    return Element(f"missed {about}", event.subject or "", f"missed {event.id}", 0, ())


class SimulatedSink:
    """One process's way to a destination."""

    def __init__(
        self,
        destination: Destination,
        life: Life,
        elements: dict[tuple[str, int], tuple[Element, ...]],
        history: History,
        loop: SimulationLoop,
        *,
        random: Random,
        poison: str,
        die: Callable[[Life], None],
    ) -> None:
        self._destination = destination
        self._life = life
        self._elements = elements
        self._history = history
        self._loop = loop
        self._random = random
        self._poison = poison
        self._kill = die

    async def open(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    async def deliver(self, delivery: Delivery) -> None:
        attempt = self._begin(delivery)
        if attempt.element.uid == self._poison:
            await self._die()
        fate = self._fate()
        if fate.land_after is not None:
            self._loop.world(self._land, attempt, delay=fate.land_after)
        try:
            await asyncio.sleep(fate.answer_after)
        except asyncio.CancelledError:
            self._end(attempt, "aborted")
            raise
        self._end(attempt, fate.outcome)
        if fate.error is not None:
            raise fate.error

    def _begin(self, delivery: Delivery) -> Attempt:
        placed = delivery.released.placed
        number, index = placed.position
        partition = placed.message.partition
        told = placed.event.data["events"] if placed.event.type == "Worker.Digest" else ()
        about = missed_about(placed.event.data) if placed.event.type == "Worker.ExpectationMissed" else ""
        if about:
            element = _missed(placed.event, about)
        else:
            element = _digest(placed.event) if told else self._elements[partition, number][index]
        attempt = Attempt(
            at=self._history.tick(),
            time=self._loop.time(),
            life=self._life.name,
            partition=partition,
            number=number,
            index=index,
            element=element,
            sink=delivery.sink,
            key=delivery.idempotency_key,
            late_by_ms=delivery.released.late_by_ms,
            about=about,
            members=tuple((row["id"], "lateby" in row) for row in told),
        )
        self._history.entries.append(attempt)
        return attempt

    def _end(self, attempt: Attempt, outcome: str) -> None:
        attempt.ended_at, attempt.ended_time = self._history.tick(), self._loop.time()
        attempt.outcome = outcome

    async def _die(self) -> None:
        """The event that ends every process that touches it."""
        self._kill(self._life)
        await asyncio.sleep(_NEVER_SECONDS)

    def _land(self, attempt: Attempt) -> None:
        self._destination.land(attempt, self._history, self._loop.time())

    def _fate(self) -> _Fate:
        random, destination = self._random, self._destination
        there, back = random.choice(_LATENCIES), random.choice(_LATENCIES[:4])
        if destination.refuses:
            return _Fate(there, error=Misconfigured("401"), outcome="misconfigured")
        if destination.away and random.random() < 0.75:
            return _Fate(there, error=SinkUnavailable("503"), outcome="unavailable")
        if destination.away or random.random() < destination.failures:
            return self._failure(there, back)
        return _Fate(there + back, land_after=there)

    def _failure(self, there: float, back: float) -> _Fate:
        random = self._random
        match random.randrange(20):
            case 0:
                return _Fate(there, error=Rejected("422"), outcome="rejected")
            case 1 | 2 | 3:
                return _Fate(there, error=OutcomeUnknown("timeout"), outcome="unknown")
            case 4 | 5 | 6:
                return _Fate(there + back, land_after=there, error=OutcomeUnknown("reset"), outcome="unknown")
            case 7 | 8:  # the process stops waiting before the request arrives
                late = there + random.uniform(0, 3)
                return _Fate(there, land_after=late, error=OutcomeUnknown("timeout"), outcome="unknown")
            case 9 | 10:
                error = SinkUnavailable("429", retry_after_seconds=random.uniform(0.1, 3))
                return _Fate(there, error=error, outcome="unavailable")
            case _:
                return _Fate(there, error=SinkUnavailable("503"), outcome="unavailable")
