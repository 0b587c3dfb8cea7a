"""What the end of an attempt means for a delivery and for those behind it: done, tried again and when, or given up.

Tries nothing (`deliver` does). What an error says about the destination, and so about all deliveries, is in `breaker`.
"""

import asyncio
import random
from collections.abc import Callable

import structlog

from worker.breaker import Breaker, Flow
from worker.chains import Chain, Chains, Job
from worker.errors import Gone, InProgress, Rejected, SinkUnavailable, StoreUnavailable, Throttled, WorkerError
from worker.ledger import Later, Skipped
from worker.outcomes import Outcome, failure

_log = structlog.get_logger()

_FIRST_RETRY_SECONDS = 0.5
_LONGEST_RETRY_SECONDS = 60.0
_SOONEST_AGAIN_SECONDS = 0.01
"""However soon a sink's own limit says: a lane that asks for ever must leave the loop to others."""


class Conclusions:
    """Those of one lane. `goes_aside` is asked of the deliveries behind one that is done with."""

    def __init__(
        self, sink: str, chains: Chains, breaker: Breaker, jitter: random.Random, goes_aside: Callable[[Job], bool]
    ) -> None:
        self.give_up_after_seconds = 0.0
        self._max_attempts: int | None = None
        self._sink = sink
        self._chains = chains
        self._breaker = breaker
        self._jitter = jitter
        self._goes_aside = goes_aside

    def follow(self, *, give_up_after_seconds: float, max_attempts: int | None) -> None:
        """So patient from now on."""
        self.give_up_after_seconds = give_up_after_seconds
        self._max_attempts = max_attempts

    def conclude(self, chain: Chain, job: Job, error: WorkerError | None, *, acted: bool) -> Outcome:
        """What the end of an attempt means for the delivery and for those behind it."""
        match error:
            case None:
                job.owner.accepted(job)
                outcome = Outcome.ACCEPTED if acted else Outcome.KNOWN
            case Rejected():
                outcome = Outcome.GONE if isinstance(error, Gone) else Outcome.REJECTED
                job.owner.gave_up(job, outcome.value, str(error))
            case Skipped():
                job.owner.gave_up(job, "unknown_outcome", str(error))
                outcome = Outcome.SKIPPED
            case Later() | StoreUnavailable():
                return self._postpone(chain, job, error)
            case Throttled():
                return self._let_wait(chain, job, error)
            case InProgress():
                return self._ask_again(chain, job, error)
            case _:
                return self._retry(chain, job, error)
        chain.exhausted = False
        self._chains.advance(chain, self._goes_aside)
        return outcome

    def _postpone(self, chain: Chain, job: Job, error: Later | StoreUnavailable) -> Outcome:
        """The destination was not asked, so this is no failure of its."""
        known = error.retry_after_seconds if isinstance(error, Later) else 0.0
        # Who knows when to look again does not wait longer and longer: it would come long after the others have ended.
        self.again(chain, max(known, _SOONEST_AGAIN_SECONDS) if known else self.backoff(job))
        return Outcome.POSTPONED

    def _let_wait(self, chain: Chain, job: Job, error: Throttled) -> Outcome:
        """Others took what the limit had when this one's turn came: it goes on waiting for its turn."""
        if not job.asked:
            job.began_at = None
        chain.turned_away = True
        self.again(chain, max(error.retry_after_seconds or 0.0, _SOONEST_AGAIN_SECONDS))
        return Outcome.POSTPONED

    def _ask_again(self, chain: Chain, job: Job, error: InProgress) -> Outcome:
        """The destination is at work: no failure, but it has its time like any delivery."""
        chain.exhausted = False  # it works: those behind wait for their turn, and not for the destination
        wait_seconds = max(error.retry_after_seconds or 0.0, _FIRST_RETRY_SECONDS)
        if self.overdue(job, asyncio.get_running_loop().time() + wait_seconds):
            self.give_up(job, f"not done in its time; the last: {error}")
            self._chains.advance(chain, self._goes_aside)
            return Outcome.EXPIRED
        if job.progress != str(error):
            job.progress = str(error)
            _log.info("delivery in progress", sink=self._sink, key=job.delivery.idempotency_key, why=job.progress)
        job.attempts -= 1  # asking how it stands is no attempt
        self.again(chain, wait_seconds)
        return Outcome.IN_PROGRESS

    def _retry(self, chain: Chain, job: Job, error: WorkerError) -> Outcome:
        delay = self.backoff(job)
        if isinstance(error, SinkUnavailable) and error.retry_after_seconds is not None:
            delay = max(delay, error.retry_after_seconds)
        overdue = self.overdue(job, asyncio.get_running_loop().time() + delay)
        if not overdue and not self._spent(job):
            self.again(chain, delay)
            return failure(error)
        self.give_up(job, f"{job.attempts} attempts; the last: {error}")
        chain.exhausted = overdue
        self._chains.advance(chain, self._goes_aside)
        return Outcome.EXPIRED

    def again(self, chain: Chain, delay_seconds: float) -> None:
        """Its turn comes again after the delay, unless it need not."""
        if chain.owner.closed:
            self._chains.drop(chain)
        else:
            self._chains.later(chain, 0.0 if self._breaker.over else delay_seconds)

    def give_up(self, job: Job, detail: str, *, reason: str = "retries_exhausted") -> None:
        """It becomes a dead letter."""
        job.owner.gave_up(job, "unknown_outcome" if job.memo.unknown else reason, detail)

    def overdue(self, job: Job, now: float) -> bool:
        """Whether it has had its time."""
        return now - job.since > self.give_up_after_seconds

    def _spent(self, job: Job) -> bool:
        # While the destination refuses the worker, that is not the event's fault: then only its time can end.
        refused = self._breaker.flow is Flow.REFUSED
        return self._max_attempts is not None and job.attempts >= self._max_attempts and not refused

    def backoff(self, job: Job) -> float:
        """How long it waits after one more attempt without a result."""
        job.failures += 1
        longest = min(_LONGEST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2.0 ** min(job.failures - 1, 16))
        return longest * self._jitter.uniform(0.5, 1.0)
