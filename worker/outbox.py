"""The digests of one claim: made when their groups are due, sent through the lanes of their sinks, and settled.

A digest is in the stored state before it is submitted. So whoever takes over sends the same digest under the same
idempotency key, and a ledger knows it: the member list is fixed before the intent. Its members are settled already; a
digest that is given up becomes a dead letter that names them. A digest travels as an event of its own, of type
`Worker.Digest`, so that every sink can tell of it.

Who joins a group is asked by the pipeline and decided in `groups`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime

import orjson
import structlog

from worker import deadletters
from worker.chains import Job
from worker.decode import decode
from worker.digests import Digest
from worker.events import DIGEST_TYPE, MADE_HERE, Event, Message, PartitionId, Placed, Position, Released, UnixSeconds
from worker.groups import Groups
from worker.keys import idempotency_key
from worker.owner import PartitionOwner
from worker.parts import Parts
from worker.sinks import Delivery
from worker.tracing import MEMBERS, MOST_MEMBERS

_log = structlog.get_logger()

Save = Callable[[], Awaitable[bool]]
"""Writes the state now; False: the partition is another owner's."""

_LOOK_SECONDS = 1.0
"""How often it looks whether a group is due, while anything is held."""


class Outbox(PartitionOwner):
    """Sends what the groups of a partition have to tell. Also the owner of those deliveries, as the lanes see it."""

    def __init__(
        self, partition: PartitionId, parts: Parts, groups: Groups, *, look_seconds: float = _LOOK_SECONDS
    ) -> None:
        """`look_seconds`: how long it trusts that the wall clock goes on as the loop's does."""
        super().__init__(partition, parts)
        self._look_seconds = look_seconds
        self.changed: Callable[[], None] = lambda: None
        """Called when there is something new to write into the state."""
        self.save: Save = _saved
        self.untold: Callable[[Digest], None] = lambda _: None
        """Called with a digest that becomes a dead letter."""
        self._groups = groups
        self._jobs: dict[Job, Digest] = {}
        self._letters = 0
        self._given_up: list[Digest] = []
        """Dead letters by now, in the stored state perhaps unsent still."""
        self._news = asyncio.Event()

    def joined(self) -> None:
        """An event has joined a group, or groups are due at other times."""
        self._news.set()

    async def run(self) -> None:
        """Works until it is cancelled, or the partition is another owner's."""
        for groups in self._groups:  # closed by an earlier generation, and in the state
            for digest in list(groups.unsent):
                self._submit(digest)
        while True:
            self._show()
            await self._wait()
            given_up, self._given_up = self._given_up, []
            digests = self._groups.close(self._parts.clock())
            if not (given_up or digests):
                continue
            if not await self.save():
                return
            for digest in given_up:
                self._groups.release(digest)
            for digest in digests:
                self._parts.metrics.digests.labels(digest.sink, digest.because.value).inc()
                self._submit(digest)

    async def _wait(self) -> None:
        """Until something may be due: for a moment while anything is held, else until an event joins."""
        self._news.clear()
        if not any(groups.held for groups in self._groups):
            await self._news.wait()
        seconds = min((groups.oldest_due() for groups in self._groups), default=0.0) - self._parts.clock()
        if seconds <= 0:  # what is due already could not be told just now
            seconds = _LOOK_SECONDS
        with suppress(TimeoutError):
            async with asyncio.timeout(min(seconds, self._look_seconds)):
                await self._news.wait()

    def _submit(self, digest: Digest) -> None:
        if self.closed:
            return
        delivery = self._delivery(digest)
        lane = self._parts.rules.lane_of(digest.sink)
        if lane is None:
            detail = f"there is no sink {digest.sink} in the configuration any more"
            self._give_up(digest, delivery, "no_sink", detail, attempts=0)
            return
        loop_time, age = asyncio.get_running_loop().time(), self._parts.clock() - digest.closed_at
        # The time to give up counts from when it was closed, in this life or an earlier one.
        began_at = loop_time - max(0.0, age)
        asked = digest.attempts > 0
        job = Job(delivery, self, attempts=digest.attempts, asked=asked, began_at=began_at, made_here=True)
        self._jobs[job] = digest
        lane.submit(job)

    def _delivery(self, digest: Digest) -> Delivery:
        scope = self._parts.scope
        body = orjson.dumps(_as_event(digest, source=f"/worker/{scope.hub}/{scope.consumer_group}/{self.partition}"))
        closed_at = UnixSeconds(digest.closed_at)
        traces = list(dict.fromkeys(member.trace for member in digest.members if member.trace))[-MOST_MEMBERS:]
        properties = {MEMBERS: " ".join(traces)} if traces else None
        message = Message(self.partition, 0, "", closed_at, body, "application/cloudevents+json", properties)
        (event,) = decode(message)
        assert isinstance(event, Event), event  # what we wrote ourselves
        released = Released(Placed(event, message, Position(0, MADE_HERE)))
        return Delivery(released, digest.members[0].route, digest.sink, idempotency_key(event, digest.sink))

    # --- what the lanes say (chains.Owner)

    async def may_start(self, _job: Job) -> bool:
        """Whether the partition is surely still ours."""
        return self.is_ours()

    def accepted(self, job: Job) -> None:
        """The destination took it."""
        self._groups.sent(self._jobs.pop(job))
        self.changed()
        self._news.set()

    def gave_up(self, job: Job, reason: str, detail: str) -> None:
        """It becomes a dead letter."""
        self._give_up(self._jobs.pop(job), job.delivery, reason, detail, attempts=job.attempts)

    def attempt_ended(self, job: Job) -> None:
        """One attempt less under way."""
        if digest := self._jobs.get(job):
            digest.attempts = job.attempts
            self.changed()
        self._quiet.set()

    @property
    def _busy(self) -> bool:
        return bool(self.attempts or self._letters)

    # --- ending

    def _give_up(self, digest: Digest, delivery: Delivery, reason: str, detail: str, *, attempts: int) -> None:
        def written() -> None:
            self._letters -= 1
            self._groups.given_up(digest)
            self._given_up.append(digest)
            self.changed()
            self._news.set()
            self._quiet.set()

        self._letters += 1
        self.untold(digest)
        letter = deadletters.from_delivery(delivery, reason=reason, detail=detail, attempts=attempts)
        self._parts.dead_letters.put(letter, written)

    def _show(self) -> None:
        for groups in self._groups:
            self._parts.metrics.digest_held.labels(self.partition, groups.sink).set(groups.held)


def _as_event(digest: Digest, *, source: str) -> dict[str, object]:
    """The digest as a CloudEvent. All of one sink and partition have one subject: they are sent one after the other."""
    return {
        "specversion": "1.0",
        "id": digest.id,
        "source": source,
        "type": DIGEST_TYPE,
        "subject": f"digests/{digest.sink}",
        "time": f"{datetime.fromtimestamp(digest.closed_at, UTC):%Y-%m-%dT%H:%M:%S.%f}0Z",
        "datacontenttype": "application/json",
        "data": {
            "count": len(digest.members),
            "because": digest.because.value,
            "group": dict(digest.values),
            "events": [entry.to_json() for entry in digest.entries],
        },
    }


async def _saved() -> bool:
    return True
