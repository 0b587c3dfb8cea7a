"""Tells of missed expectations: each becomes an event of the worker's own, which goes through the routes to the lanes.

What was missed is in the stored state before anybody is told, and stays there until every sink is done with it: has it,
holds it for a digest, or it is a dead letter. Whoever takes over tells the others, under the same idempotency key.
What is missed, and when, is decided elsewhere (`pending`).
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import orjson
import structlog

from worker import deadletters
from worker.chains import Job, Turn
from worker.decode import decode
from worker.events import MADE_HERE, Event, Message, PartitionId, Placed, Position, Released, UnixSeconds
from worker.groups import Groups, Step
from worker.keys import idempotency_key
from worker.missed import Missed, missed_source
from worker.owner import PartitionOwner
from worker.parts import Parts
from worker.pending import Outcome
from worker.route import Target
from worker.sinks import Delivery

_log = structlog.get_logger()

_AT_ONCE = 500
"""So many are in the lanes at one time: a rule may be missed by thousands in one moment. Not fewer, for a sink that is
down holds as many back from the others."""


class Alarms(PartitionOwner):
    """Tells what was missed on a partition. Also the owner of those deliveries, as the lanes see it."""

    def __init__(self, partition: PartitionId, parts: Parts, groups: Groups) -> None:
        super().__init__(partition, parts)
        self.changed: Callable[[], None] = lambda: None
        """Called when there is something new to write into the state."""
        self.save: Callable[[], Awaitable[bool]] = _saved
        """Writes the state now; False: the partition is another owner's."""
        self.joined: Callable[[], None] = lambda: None
        """Called when an event has joined a group."""
        self._groups = groups
        self._unsaved: list[Missed] = []
        self._waiting: deque[Missed] = deque()
        self._open: dict[Missed, set[str]] = {}
        """The sinks that are still to be done with it."""
        self._jobs: dict[Job, Missed] = {}
        self._letters = 0
        self._unheard: Counter[str] = Counter()
        """Rules, and how many missed ones no route has taken: not yet said."""
        self._news = asyncio.Event()

    def missed(self, missed: Iterable[Missed]) -> None:
        """These have just been found missing, and are not in the stored state yet."""
        self._unsaved += missed
        self._news.set()

    def tell(self, missed: Iterable[Missed]) -> None:
        """Tells these, which are in the store."""
        self._waiting += missed
        self._news.set()

    async def run(self) -> None:
        """Works until it is cancelled, or the partition is another owner's."""
        while True:
            await self._news.wait()
            self._news.clear()
            unsaved, self._unsaved = self._unsaved, []
            if unsaved:
                if not await self.save():
                    return
                self._say(unsaved)
                self._waiting += unsaved
            while self._waiting and len(self._open) < _AT_ONCE and not self.closed:
                self._submit(self._waiting.popleft())
            self._say_unheard()

    def _say_unheard(self) -> None:
        for rule, count in self._unheard.items():
            self._parts.metrics.expectations.labels(rule, Outcome.NO_ROUTE).inc(count)
            _log.warning("no route takes a missed expectation", partition=self.partition, rule=rule, count=count)
        self._unheard.clear()

    def _say(self, missed: list[Missed]) -> None:
        for each in missed:
            self._parts.metrics.expectations.labels(each.rule, Outcome.MISSED).inc()
        rules = sorted({each.rule for each in missed})
        _log.warning("expectations missed", partition=self.partition, rules=rules, count=len(missed))

    # --- to the lanes

    def _submit(self, missed: Missed) -> None:
        event, message = self._event(missed)
        targets = self._parts.rules.routes.match(event)
        if not targets:
            self._unheard[missed.rule] += 1
        wanted = [target for target in targets if target.sink not in missed.served]
        if not wanted:
            self._settle(missed)
            return
        self._open[missed] = {target.sink for target in wanted}
        for target in wanted:
            self._send(missed, target, Placed(event, message, Position(0, MADE_HERE)))

    def _send(self, missed: Missed, target: Target, placed: Placed) -> None:
        key = idempotency_key(placed.event, target.sink)
        delivery = Delivery(Released(placed), target.route, target.sink, key)
        attempts = missed.attempts.get(target.sink, 0)
        # The time to give up counts from when it was missed, in this life or an earlier one.
        age = self._parts.clock() - missed.made_at
        began_at = asyncio.get_running_loop().time() - max(0.0, age)
        asked = attempts > 0
        # An earlier life may have tried it and died before it could say so.
        job = Job(delivery, self, attempts=attempts, asked=asked, began_at=began_at, again=True, made_here=True)
        self._jobs[job] = missed
        self._parts.rules.lanes[target.sink].submit(job)

    def _event(self, missed: Missed) -> tuple[Event, Message]:
        scope = self._parts.scope
        body = orjson.dumps(missed.event(missed_source(scope.hub, scope.consumer_group)))
        made_at = UnixSeconds(missed.made_at)
        message = Message(self.partition, 0, "", made_at, body, "application/cloudevents+json")
        (event,) = decode(message)
        assert isinstance(event, Event), event  # what we wrote ourselves
        return event, message

    # --- what the lanes ask and say (chains.Owner)

    async def may_start(self, _job: Job) -> bool:
        """Whether the partition is surely still ours."""
        return self.is_ours()

    def turn(self, job: Job) -> Turn:
        """Whether it is tried alone, or joins those that are told together: then its sink is done with it."""
        # As in `settling`: what was asked for alone ends so, in this life and the next.
        if job.alone or job.asked or not self._groups.may_tell(job.delivery.sink):
            return Turn.ALONE
        match self._groups.meet(job.delivery, now=self._parts.clock()):
            case Step.ALONE:
                job.alone = True
                return Turn.ALONE
            case Step.WAIT:
                return Turn.WAIT
            case Step.JOINED:
                missed = self._jobs.pop(job)
                missed.held.add(job.delivery.sink)
                self._sink_done(missed, job.delivery.sink)
                self.joined()
            case Step.DROPPED:
                self._parts.metrics.muted.labels(job.delivery.sink).inc()
                self._sink_done(self._jobs.pop(job), job.delivery.sink)
            case _:
                self._parts.metrics.muted.labels(job.delivery.sink).inc()
                self.gave_up(job, "muted", "its sink is muted at this time, and its window lets none be held")
        return Turn.ASIDE

    def accepted(self, job: Job) -> None:
        """The destination took it."""
        self._sink_done(self._jobs.pop(job), job.delivery.sink)

    def gave_up(self, job: Job, reason: str, detail: str) -> None:
        """It becomes a dead letter."""
        missed = self._jobs.pop(job)
        self._letters += 1
        letter = deadletters.from_delivery(job.delivery, reason=reason, detail=detail, attempts=job.attempts)
        self._parts.dead_letters.put(letter, partial(self._written, missed, job.delivery.sink))

    def attempt_ended(self, job: Job) -> None:
        """One attempt less under way."""
        if missed := self._jobs.get(job):
            missed.attempts[job.delivery.sink] = job.attempts
            missed.book.note(missed)
            self.changed()
        self._quiet.set()

    @property
    def _busy(self) -> bool:
        return bool(self.attempts or self._letters)

    # --- ending

    def _written(self, missed: Missed, sink: str) -> None:
        self._letters -= 1
        self._sink_done(missed, sink)
        self._quiet.set()

    def _sink_done(self, missed: Missed, sink: str) -> None:
        missed.served.add(sink)
        missed.attempts.pop(sink, None)
        left = self._open[missed]
        left.discard(sink)
        if left:
            missed.book.note(missed)
            self.changed()
        else:
            del self._open[missed]
            self._settle(missed)

    def _settle(self, missed: Missed) -> None:
        missed.book.settled(missed)
        self.changed()
        self._news.set()


async def _saved() -> bool:
    return True
