"""Lanes: one per sink, shared by the partitions of the process. Order per subject, concurrency, rate, retries, pause.

A lane decides when an attempt starts and what its end means; what an attempt is, the sink knows; what a settled event
is, the pipeline knows. Nothing is thrown away here: a delivery is accepted, given up with a reason, or dropped because
its partition has gone to another owner, who reads it again.
"""

import asyncio
import random
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import structlog

from worker.errors import Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable, WorkerError
from worker.events import Subject
from worker.metrics import Metrics
from worker.settings import SinkSettings
from worker.sinks import Delivery, Sink

_log = structlog.get_logger()

_FIRST_RETRY_SECONDS = 0.5
_LONGEST_RETRY_SECONDS = 60.0
_LEASE_AGAIN_SECONDS = 0.25
_PROBE_SECONDS = 60.0
"""How often a paused lane tries one delivery."""
_REFUSED_SUBJECTS = 3
"""Different subjects refused in a row before a lane pauses: one may be the event's fault, three are the sink's."""


class Outcome(StrEnum):
    """How an attempt ended; the label of worker_deliveries_total."""

    ACCEPTED = "accepted"
    UNAVAILABLE = "unavailable"
    UNKNOWN = "unknown"
    MISCONFIGURED = "misconfigured"
    REJECTED = "rejected"
    EXPIRED = "expired"
    ABORTED = "aborted"


class Owner(Protocol):
    """Whose delivery it is: one generation of one partition."""

    closed: bool
    """True: its deliveries that have not started are dropped."""
    attempts: set[asyncio.Timeout]
    """The attempts under way; rescheduling one to now ends it."""

    def may_start(self) -> bool:
        """Whether the partition is surely still ours."""
        ...

    def accepted(self, job: "Job") -> None:
        """The destination took it."""
        ...

    def gave_up(self, job: "Job", reason: str, detail: str) -> None:
        """It becomes a dead letter."""
        ...

    def attempt_ended(self) -> None:
        """Called after each attempt, also an aborted one."""
        ...


@dataclass(slots=True, eq=False)
class Job:
    """A delivery on its way through a lane."""

    delivery: Delivery
    owner: Owner
    attempts: int = 0
    began_at: float = 0.0
    """Loop time of the first attempt."""


@dataclass(slots=True, eq=False)
class _Chain:
    """The deliveries of one subject of one owner, first one first; only the first is ever tried."""

    key: tuple[int, Subject]
    jobs: deque[Job] = field(default_factory=deque)
    trying: bool = False


class Lane:
    """The way to one sink."""

    def __init__(
        self,
        settings: SinkSettings,
        sink: Sink,
        *,
        give_up_after_seconds: float,
        metrics: Metrics,
        seed: int | None = None,
    ) -> None:
        self.name = settings.name
        self._sink = sink
        self._concurrency = settings.concurrency
        self._pace_seconds = 1 / settings.rate if settings.rate else 0.0
        self._give_up_after_seconds = give_up_after_seconds
        self._sheds = settings.overflow == "dead_letter"
        self._jitter = random.Random(seed)  # noqa: S311 - spreads retries, guards nothing
        self._metrics = metrics
        self._queued = metrics.lane_queued.labels(self.name)
        self._seconds = metrics.delivery_seconds.labels(self.name)
        self._chains: dict[tuple[int, Subject], _Chain] = {}
        self._ready: asyncio.Queue[_Chain] = asyncio.Queue()  # bounded by limits.in_flight of the partitions
        self._open = asyncio.Event()
        self._probing = False
        self._refused: set[Subject] = set()
        self._next_start = 0.0
        self._last_error = ""
        if not settings.paused:
            self._open.set()
        self._show_pause()

    def submit(self, job: Job) -> None:
        """Takes a delivery; it comes after the earlier ones of its subject."""
        key = (id(job.owner), job.delivery.released.placed.event.key)
        chain = self._chains.get(key)
        if chain is None:
            chain = self._chains[key] = _Chain(key)
            self._ready.put_nowait(chain)
        chain.jobs.append(job)
        self._queued.inc()

    def withdraw(self, owner: Owner) -> None:
        """Forgets an owner's deliveries, except those being tried. The owner is closed: nothing of it starts again."""
        self._take_waiting(owner)

    def shed(self, owner: Owner, *, at_least: int) -> None:
        """The owner's partition is full: where the sink's overflow says so, its waiting deliveries are given up.

        Not when there are fewer than `at_least`: then it is not this sink that fills the partition.
        """
        if self._sheds and self._waiting(owner) >= at_least:
            for job in self._take_waiting(owner):
                job.owner.gave_up(job, "overflow", "the partition was full and this sink's overflow is dead_letter")

    def _chains_of(self, owner: Owner) -> list[_Chain]:
        return [chain for key, chain in self._chains.items() if key[0] == id(owner)]

    def _waiting(self, owner: Owner) -> int:
        return sum(len(chain.jobs) - chain.trying for chain in self._chains_of(owner))

    def _take_waiting(self, owner: Owner) -> list[Job]:
        taken: list[Job] = []
        for chain in self._chains_of(owner):
            tried = [chain.jobs.popleft()] if chain.trying else []
            taken += chain.jobs
            self._queued.dec(len(chain.jobs))
            chain.jobs = deque(tried)
            if not tried:
                del self._chains[chain.key]
        return taken

    async def run(self) -> None:
        """Works until it is cancelled."""
        async with asyncio.TaskGroup() as workers:
            for number in range(self._concurrency):
                workers.create_task(self._work(), name=f"lane {self.name}, worker {number}")

    async def _work(self) -> None:
        while True:
            chain = await self._ready.get()
            probe = await self._pass_gate()
            await self._keep_pace()
            outcome = await self._try(chain)
            if probe:
                self._after_probe(outcome)

    async def _try(self, chain: _Chain) -> Outcome | None:
        if not chain.jobs:
            return None  # withdrawn meanwhile
        job = chain.jobs[0]
        if job.owner.closed:
            self._drop(chain)
            return None
        if not job.owner.may_start():
            self._again(chain, _LEASE_AGAIN_SECONDS)
            return None
        return await self._attempt(chain, job)

    async def _attempt(self, chain: _Chain, job: Job) -> Outcome:
        loop = asyncio.get_running_loop()
        started = loop.time()
        job.attempts += 1
        if job.attempts == 1:
            job.began_at = started
        error: WorkerError | None = None
        aborted = False
        scope = asyncio.timeout(None)
        chain.trying = True
        job.owner.attempts.add(scope)
        try:
            async with scope:
                await self._sink.deliver(job.delivery)
        except (SinkUnavailable, OutcomeUnknown, Misconfigured, Rejected) as problem:
            error = problem
        except TimeoutError:
            if not scope.expired():
                raise  # the sink's own: a bug there
            aborted = True
        finally:
            chain.trying = False
            job.owner.attempts.discard(scope)
            self._seconds.observe(loop.time() - started)
        outcome = self._abort(chain) if aborted else self._conclude(chain, job, error)
        self._metrics.deliveries.labels(self.name, outcome).inc()
        job.owner.attempt_ended()
        return outcome

    def _abort(self, chain: _Chain) -> Outcome:
        self._drop(chain)
        return Outcome.ABORTED

    def _conclude(self, chain: _Chain, job: Job, error: WorkerError | None) -> Outcome:
        """What the end of an attempt means for the delivery and for those behind it."""
        subject = job.delivery.released.placed.event.key
        if not isinstance(error, Misconfigured):
            self._refused.clear()
        self._say(error)
        match error:
            case None:
                job.owner.accepted(job)
                self._next(chain)
                return Outcome.ACCEPTED
            case Rejected():
                job.owner.gave_up(job, "rejected", str(error))
                self._next(chain)
                return Outcome.REJECTED
            case Misconfigured():
                self._refused.add(subject)
                if len(self._refused) >= _REFUSED_SUBJECTS:
                    self._pause()
        return self._retry(chain, job, error)

    def _retry(self, chain: _Chain, job: Job, error: WorkerError) -> Outcome:
        loop = asyncio.get_running_loop()
        delay = self._backoff(job.attempts)
        if isinstance(error, SinkUnavailable) and error.retry_after_seconds is not None:
            delay = max(delay, error.retry_after_seconds)
        if loop.time() + delay - job.began_at > self._give_up_after_seconds:
            job.owner.gave_up(job, "retries_exhausted", f"{job.attempts} attempts; the last: {error}")
            self._next(chain)
            return Outcome.EXPIRED
        self._again(chain, delay)
        match error:
            case Misconfigured():
                return Outcome.MISCONFIGURED
            case OutcomeUnknown():
                return Outcome.UNKNOWN
        return Outcome.UNAVAILABLE

    def _backoff(self, attempts: int) -> float:
        longest = min(_LONGEST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2.0 ** min(attempts - 1, 16))
        return longest * self._jitter.uniform(0.5, 1.0)

    # The chain of a subject: in the ready queue, in a worker's hand, or waiting for a timer. Never in two places.

    def _next(self, chain: _Chain) -> None:
        chain.jobs.popleft()
        self._queued.dec()
        if chain.jobs:
            self._ready.put_nowait(chain)
        else:
            del self._chains[chain.key]

    def _again(self, chain: _Chain, delay_seconds: float) -> None:
        # A timer, not a sleeping worker: a subject that is being retried takes no place from the others.
        asyncio.get_running_loop().call_later(delay_seconds, self._ready.put_nowait, chain)

    def _drop(self, chain: _Chain) -> None:
        self._queued.dec(len(chain.jobs))
        del self._chains[chain.key]

    async def _keep_pace(self) -> None:
        if self._pace_seconds:
            now = asyncio.get_running_loop().time()
            start = max(now, self._next_start)
            self._next_start = start + self._pace_seconds
            await asyncio.sleep(start - now)

    # Pausing: the destination refuses the worker itself, so its events wait, and one attempt a minute looks again.

    async def _pass_gate(self) -> bool:
        """Waits while the lane is paused; True for the one attempt that is let through as a probe."""
        while True:
            await self._open.wait()
            if self._probing:
                self._probing = False
                self._open.clear()
                return True
            if self._open.is_set():  # not closed again by a probe that was woken before us
                return False

    def _pause(self) -> None:
        if self._open.is_set():
            self._open.clear()
            _log.error("lane paused: the destination refuses this worker", sink=self.name, error=self._last_error)
            asyncio.get_running_loop().call_later(_PROBE_SECONDS, self._probe)
        self._show_pause()

    def _probe(self) -> None:
        self._probing = True
        self._open.set()

    def _after_probe(self, outcome: Outcome | None) -> None:
        if outcome is None:  # that delivery was dropped or not ours to start: let the next one try
            self._probe()
        elif outcome is Outcome.MISCONFIGURED:
            asyncio.get_running_loop().call_later(_PROBE_SECONDS, self._probe)
        else:
            self._open.set()
            _log.info("lane resumed", sink=self.name)
        self._show_pause()

    def _show_pause(self) -> None:
        self._metrics.lane_paused.labels(self.name).set(not self._open.is_set() or self._probing)

    def _say(self, error: WorkerError | None) -> None:
        """Logs when the error changes, not each time it comes."""
        text = str(error) if error else ""
        if text != self._last_error:
            if error:
                _log.warning("delivery failed", sink=self.name, outcome=type(error).__name__, error=text)
            elif self._last_error:
                _log.info("deliveries succeed again", sink=self.name)
            self._last_error = text
