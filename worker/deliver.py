"""Lanes: one per sink, shared by the partitions of the process. Concurrency, rate, attempts, what waits.

A lane decides when an attempt starts; what its end means is in `conclude`; what an attempt is, the sink knows; what a
settled event is, the pipeline knows. Order is in `chains`, when a destination is left alone in `breaker`, acting once
in `ledger`. Nothing is thrown away here: a delivery is accepted, given up with a reason, or dropped because its
partition has gone to another owner, who reads it again.

A sink that is configured anew keeps its lane, and so its order: what is under way ends as it began, what starts
afterwards goes the new `way`. Which lanes there are says `lanes`.
"""

import asyncio
import random
from functools import partial

import structlog

from worker.breaker import OVER, Breaker, Flow
from worker.chains import Chain, Chains, Job, Owner, Turn
from worker.conclude import Conclusions
from worker.errors import (
    Gone,
    InProgress,
    Misconfigured,
    OutcomeUnknown,
    PartlyAccepted,
    Rejected,
    SinkUnavailable,
    StoreUnavailable,
    Throttled,
    WorkerError,
)
from worker.lane_log import LaneLog
from worker.lately import ATTEMPTS, Attempts, attempt_of
from worker.ledger import Later, Ledger, Skipped
from worker.metrics import Metrics
from worker.outcomes import Outcome
from worker.settings import SinkSettings
from worker.sinks import Sink
from worker.tracing import Attempt, Tracing
from worker.way import Way

_log = structlog.get_logger()

_LEASE_AGAIN_SECONDS = 0.25
_LOOK_SECONDS = 5.0
"""How often a lane looks at what waits in it: for its age, and for what must be given up though nothing is tried."""


class Lane:
    """The way to one sink."""

    def __init__(
        self,
        settings: SinkSettings,
        sink: Sink,
        *,
        give_up_after_seconds: float,
        metrics: Metrics,
        ledger: Ledger | None = None,
        seed: int | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """`tracing`: where it is on, each attempt is a span."""
        self.name = settings.name
        self._tracing = tracing
        self.recent = Attempts(maxlen=ATTEMPTS)
        """The last attempts, for people who look."""
        jitter = random.Random(seed)  # noqa: S311 - spreads retries, guards nothing
        self._metrics = metrics
        self._seconds = metrics.delivery_seconds.labels(self.name)
        self._oldest_seconds = metrics.lane_oldest_seconds.labels(self.name)
        self._oldest_event = metrics.lane_oldest_event.labels(self.name)
        self._chains = Chains(metrics.lane_queued.labels(self.name))
        self._breaker = Breaker(self.name, held=settings.paused, jitter=jitter, metrics=metrics)
        self._ends = Conclusions(self.name, self._chains, self._breaker, jitter, self._goes_aside)
        self._go(Way(settings, sink, ledger), give_up_after_seconds)
        self._next_start = 0.0
        self._says = LaneLog(self.name)
        self._end = ("", "")
        """Why nothing is tried any more: the reason of the dead letters, and what they say."""
        self._workers = 0
        self._tasks: asyncio.TaskGroup | None = None
        self._under_way: set[asyncio.Timeout] = set()

    def _go(self, way: Way, give_up_after_seconds: float) -> None:
        settings = way.settings
        self._way = way
        self._concurrency = settings.concurrency
        self._pace_seconds = 1 / settings.rate if settings.rate else 0.0
        self._ends.follow(give_up_after_seconds=give_up_after_seconds, max_attempts=settings.retry.max_attempts)
        self._sheds = settings.overflow == "dead_letter"

    def submit(self, job: Job) -> None:
        """Takes a delivery; it comes after the earlier ones of its subject."""
        job.submitted_at = asyncio.get_running_loop().time()
        # Whoever goes aside needs no destination: it does not wait for one that is slow or down.
        if not (self._chains.is_first(job) and self._goes_aside(job)):
            self._chains.add(job)

    def withdraw(self, owner: Owner) -> None:
        """Forgets an owner's deliveries, except those being tried. The owner is closed: nothing of it starts again."""
        self._chains.take_waiting(owner)

    def shed(self, owner: Owner, *, at_least: int) -> None:
        """The owner's partition is full: where the sink's overflow says so, its waiting deliveries are given up.

        Not when there are fewer than `at_least`: then it is not this sink that fills the partition.
        """
        if self._sheds and self._chains.waiting(owner) >= at_least:
            for job in self._chains.take_waiting(owner):
                job.owner.gave_up(job, "overflow", "the partition was full and this sink's overflow is dead_letter")

    # --- configured anew, or not any more

    @property
    def way(self) -> Way:
        """Which attempts take that start now."""
        return self._way

    @property
    def flow(self) -> Flow:
        """What it lets through."""
        return self._breaker.flow

    @property
    def last_error(self) -> str:
        """What its sink said last; empty: nothing is wrong."""
        return self._says.last_error

    async def until_empty(self) -> None:
        """Returns in a moment in which nothing waits here or is being tried."""
        await self._chains.until_empty()

    def follow(self, way: Way, *, give_up_after_seconds: float) -> Way:
        """The sink is configured anew: whatever starts from now on goes this way. Returns the one so far."""
        before = self._way
        self._go(way, give_up_after_seconds)
        self._next_start = min(self._next_start, asyncio.get_running_loop().time() + self._pace_seconds)
        self._breaker.begin_anew(held=way.settings.paused)
        self._chains.hurry()  # the new destination has not asked anybody to wait
        self._hire()
        return before

    def remove(self, why: str) -> None:
        """The sink has had its time to drain: all that is left is given up, also what is being tried."""
        self._end = ("sink_removed", why)
        self._breaker.remove()
        self._chains.hurry()
        for attempt in self._under_way:
            attempt.reschedule(asyncio.get_running_loop().time())

    # --- work

    async def run(self) -> None:
        """Works until it is cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self._watch(), name=f"lane {self.name}, watch")
            self._hire()

    def _hire(self) -> None:
        while self._tasks is not None and self._workers < self._concurrency:
            self._workers += 1
            self._tasks.create_task(self._work(), name=f"lane {self.name}, worker {self._workers}")

    async def _work(self) -> None:
        while not self._too_many():
            chain = await self._chains.take()
            probe = False if self._is_open else await self._turn(chain)
            if self._too_many() and not probe:  # the concurrency was lowered meanwhile
                chain.turned_away = True
                self._chains.later(chain, 0.0)
                break
            way = self._way
            outcome = await self._try(chain, probe=probe)
            nothing = outcome in (None, Outcome.ABORTED, Outcome.POSTPONED, Outcome.KNOWN, Outcome.SKIPPED)
            if probe and nothing and way is self._way:
                at_once = outcome in (None, Outcome.KNOWN, Outcome.SKIPPED)  # each of these is one delivery less
                self._breaker.probe_was_nothing(at_once=at_once)
        self._workers -= 1

    def _too_many(self) -> bool:
        return self._workers > self._concurrency

    @property
    def _is_open(self) -> bool:
        """Whether an attempt need not wait for anything."""
        return self._breaker.flow is Flow.FREE and not self._pace_seconds and self._way.limited is None

    async def _turn(self, chain: Chain) -> bool:
        """Waits until an attempt may begin; True when it is a probe."""
        while True:
            probe = await self._breaker.enter()
            if self._breaker.over:
                await asyncio.sleep(0)  # there may be thousands to give up, and others are to work between them
                return False
            await self._keep_limit()
            if not chain.turned_away:  # it has waited for its pace, and used up nothing
                await self._keep_pace()
            if self._breaker.flow in (Flow.FREE, *OVER):  # not closed while we kept pace
                return False
            if probe and self._breaker.flow is not Flow.HELD:  # nor paused
                return True

    async def _keep_limit(self) -> None:
        """Waits before an attempt rather than in it: it costs no intent, and those that wait keep their turns."""
        limited = self._way.limited
        if limited is not None and (wait_seconds := limited.wait_seconds()):
            await self._breaker.pause(wait_seconds)

    async def _keep_pace(self) -> None:
        while self._pace_seconds:
            now, way = asyncio.get_running_loop().time(), self._way
            start = max(now, self._next_start)
            self._next_start = start + self._pace_seconds
            await self._breaker.pause(start - now)
            if way is self._way or self._breaker.over:  # else it has another pace by now
                return

    # --- one attempt

    async def _try(self, chain: Chain, *, probe: bool) -> Outcome | None:
        if not chain.jobs:
            return None  # withdrawn, shed or given up meanwhile
        job = chain.jobs[0]
        chain.trying = True  # nobody else takes it away while its owner thinks
        turn = await self._look_back(job) if self._must_look_back(job) else job.owner.turn(job)
        may_start = turn is Turn.ALONE and not self._breaker.over
        if may_start and not job.owner.starts_at_once(job):
            may_start = await job.owner.may_start(job)
        chain.trying = False
        if job.owner.closed:
            self._chains.drop(chain)
            return None
        if self._breaker.over and turn is not Turn.ASIDE:
            self._end_of(chain, job, before_attempt=may_start)
            return None
        match turn:
            case Turn.ALONE if may_start:
                if self._tracing is None:
                    return await self._attempt(chain, job, probe=probe)
                with self._tracing.attempt(job, self._way.settings.kind) as span:
                    return await self._attempt(chain, job, probe=probe, span=span)
            case Turn.ASIDE:
                self._chains.advance(chain, self._goes_aside)
            case _:
                self._ends.again(chain, _LEASE_AGAIN_SECONDS)
        return None

    def _end_of(self, chain: Chain, job: Job, *, before_attempt: bool = False) -> None:
        """Nothing goes there any more. Where the partition may be another's by now, that one may have a way still."""
        if before_attempt:
            job.owner.attempt_ended(job)  # it was told that one follows, and waits for its end
        if not job.owner.is_ours():
            self._chains.later(chain, _LEASE_AGAIN_SECONDS)
            return
        reason, why = self._end
        said = f"{job.attempts} attempts, no more: {why}" if job.attempts else f"not sent: {why}"
        self._ends.give_up(job, said, reason=reason)
        self._chains.advance(chain, self._goes_aside)

    def _goes_aside(self, job: Job) -> bool:
        return not self._must_look_back(job) and job.owner.turn(job) is Turn.ASIDE

    def _must_look_back(self, job: Job) -> bool:
        """Whether it may have been delivered alone in an earlier life, and must not be told a second time."""
        return job.again and self._way.looks_back

    async def _look_back(self, job: Job) -> Turn:
        assert self._way.ledger is not None, "`looks_back` says so"
        try:
            job.alone = await self._way.ledger.knows(job.delivery)  # then it goes on as it began
        except StoreUnavailable:
            return Turn.WAIT
        job.again = False
        return job.owner.turn(job)

    async def _attempt(self, chain: Chain, job: Job, *, probe: bool, span: Attempt | None = None) -> Outcome:
        loop, way = asyncio.get_running_loop(), self._way
        started = loop.time()
        if job.began_at is None:
            # What waited for a destination that fails has used up that time; what waited for its turn has not.
            job.began_at = job.submitted_at if probe or chain.exhausted else started
        acted, aborted = False, False
        error: WorkerError | None = None
        scope = asyncio.timeout(None)
        chain.trying, chain.turned_away = True, False
        job.owner.attempts.add(scope)
        self._under_way.add(scope)
        way.enter()
        try:
            async with scope:
                acted = await self._deliver(job, way)
        except (SinkUnavailable, OutcomeUnknown, Misconfigured, Rejected, Skipped, Later, StoreUnavailable) as problem:
            error = problem
        except TimeoutError:
            if not scope.expired():
                raise  # the sink's own: a bug there
            aborted = True
        finally:
            way.leave()
            chain.trying = False
            job.owner.attempts.discard(scope)
            self._under_way.discard(scope)
            self._seconds.observe(loop.time() - started)
        if aborted:
            self._abort(chain, job)
            outcome = Outcome.ABORTED
        else:
            if way is self._way:  # else it says nothing about where attempts go by now
                self._tell_breaker(job, error, acted=acted, probe=probe)
            outcome = self._ends.conclude(chain, job, error, acted=acted)
            if way is not self._way:
                self._chains.hurry([chain])  # how long it is to wait says the destination before
        self._count(job, outcome, error, span)
        job.owner.attempt_ended(job)
        return outcome

    def _count(self, job: Job, outcome: Outcome, error: WorkerError | None, span: Attempt | None) -> None:
        if span is not None:
            span.ended(outcome, error)
        self._metrics.deliveries.labels(self.name, outcome).inc()
        if outcome is not Outcome.POSTPONED:  # nobody was asked
            self.recent.append(attempt_of(job.delivery, outcome, error, at=asyncio.get_running_loop().time()))

    def _abort(self, chain: Chain, job: Job) -> None:
        """By its owner, which is closed, or because the sink was removed; it may be there again by now."""
        if self._breaker.over and not job.owner.closed:
            self._end_of(chain, job)
        else:
            self._ends.again(chain, self._ends.backoff(job))

    async def _deliver(self, job: Job, way: Way) -> bool:
        """Whether the destination was asked; returning means accepted."""
        if way.ledger is None:
            await self._act(job, way)
            return True
        act = partial(self._act, job, way)
        return await way.ledger.once(job.delivery, job.memo, act, attempt=job.attempts + 1)

    async def _act(self, job: Job, way: Way) -> None:
        """Asks the destination; returning means accepted."""
        if not job.owner.is_ours():  # the intent took its time, or the process was frozen meanwhile
            raise Later("the partition is no longer surely ours")
        if self._breaker.over:
            raise Later("nothing goes to this destination any more")
        asked_before = job.asked
        job.attempts, job.asked = job.attempts + 1, True
        job.learn_served()  # by now the ledger has told
        try:
            await way.sink.deliver(job.delivery)
        except PartlyAccepted as error:
            job.memo.served |= error.served
            job.learn_served()
            raise
        except Throttled:
            job.attempts, job.asked = job.attempts - 1, asked_before  # nobody was asked
            raise

    def _tell_breaker(self, job: Job, error: WorkerError | None, *, acted: bool, probe: bool) -> None:
        match error:
            case None if not acted:
                return
            case Skipped() | Later() | StoreUnavailable() | Throttled():
                return
            case InProgress():
                self._breaker.answered()
                return
            case SinkUnavailable() | OutcomeUnknown():
                self._breaker.failed(job.suspect, error, probe=probe)
            case Misconfigured():
                self._breaker.refused(job.suspect, error, probe=probe)
            case Gone():
                self._end = ("gone", str(error))
                self._breaker.gone(error)
                self._chains.hurry()
                return
            case _:
                self._breaker.answered()
        self._says.ended(error)

    # --- what waits

    async def _watch(self) -> None:
        """Looks at the age of what waits. In a lane that is stopped nothing is tried, and time is over all the same."""
        while True:
            await self._chains.until_any()  # nothing ages where nothing is: most lanes, most of the time
            await asyncio.sleep(_LOOK_SECONDS)
            if self._breaker.flow in (Flow.DOWN, Flow.REFUSED):
                self._give_up_untried()
            now = asyncio.get_running_loop().time()
            oldest = max((now - chain.jobs[0].since for chain in self._chains if chain.jobs), default=0.0)
            self._oldest_seconds.set(oldest)
            self._oldest_event.set(self._chains.oldest_event)
            self._says.age(oldest, flow=self._breaker.flow, give_up_after_seconds=self._ends.give_up_after_seconds)

    def _give_up_untried(self) -> None:
        now = asyncio.get_running_loop().time()
        for job in self._chains.take_first(lambda each: self._ends.overdue(each, now)):
            waited = f"{job.attempts} attempts in {now - job.since:.0f} s"
            self._ends.give_up(job, f"{waited}; the sink's last error: {self._says.last_error}")
