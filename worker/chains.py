"""What waits in a lane: a chain of deliveries for each subject of each owner, and whose turn it is.

Only the first of a chain is ever tried, which is what keeps a subject in order. Chains that are ready are handed out
owner by owner in turn, so that a partition with a long queue does not delay the others. Decides nothing about attempts.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from prometheus_client import Gauge

from worker.events import Subject
from worker.ledger import Memo
from worker.sinks import Delivery
from worker.unchanged import NOTHING


class Turn(StrEnum):
    """What is to become of a delivery that is the first of its subject now."""

    ALONE = "alone"
    """It is to be tried."""
    ASIDE = "aside"
    """Its owner has taken it: it is told together with others, or not at all."""
    WAIT = "wait"
    """Neither yet."""


class Owner(Protocol):
    """Whose delivery it is: one generation of one partition."""

    closed: bool
    """True: its deliveries that have not started are dropped."""
    attempts: set[asyncio.Timeout]
    """The attempts under way; rescheduling one to now ends it."""

    def is_ours(self) -> bool:
        """Whether the partition is surely still ours."""
        ...

    def starts_at_once(self, job: "Job", /) -> bool:
        """Whether this may be tried now and that is certain without waiting: then `may_start` is not asked.

        As there, True is followed by an attempt; False says nothing.
        """
        ...

    async def may_start(self, job: "Job", /) -> bool:
        """Whether this may be tried now: the partition is surely still ours. True is followed by an attempt."""
        ...

    def turn(self, job: "Job", /) -> Turn:
        """The delivery is the first of its subject: is it tried, or taken aside? Asked until it is not WAIT."""
        ...

    def accepted(self, job: "Job", /) -> None:
        """The destination took it."""
        ...

    def gave_up(self, job: "Job", /, reason: str, detail: str) -> None:
        """It becomes a dead letter."""
        ...

    def attempt_ended(self, job: "Job", /) -> None:
        """Called after each attempt, also an aborted one."""
        ...


@dataclass(slots=True, eq=False)
class Job:
    """A delivery on its way through a lane."""

    delivery: Delivery
    owner: Owner
    attempts: int = 0
    """How often the destination was really asked to take it, also by earlier generations."""
    asked: bool = False
    """It was, be it only how it stands: its time runs."""
    began_at: float | None = None
    """Loop time of the first attempt, also by an earlier generation: it may be before the loop's own beginning."""
    submitted_at: float = 0.0
    """Loop time; set by the lane."""
    failures: int = 0
    """How often in this lane it ended without a result: what the back-off grows with."""
    memo: Memo = field(default_factory=Memo)
    alone: bool = False
    """It is to be tried, whatever its owner would say."""
    again: bool = False
    """An earlier life may have tried it: it was in the hub before this one began."""
    progress: str = ""
    """What the destination last said that is at work on it."""
    made_here: bool = False
    """The worker wrote it itself: a digest."""
    value: bytes = NOTHING
    """What its route compares with the last delivered (`unchanged`); NOTHING: it has none, or the route does not."""
    subject: Subject = field(init=False)
    """What order is kept for. Asked for six times with each delivery."""

    def __post_init__(self) -> None:
        self.subject = self.delivery.released.placed.event.key

    @property
    def suspect(self) -> Hashable:
        """What may be at fault when an attempt fails, and not the destination.

        Digests have one subject and go one after the other, and are the worker's own words: of them, each attempt.
        """
        return (self.delivery.idempotency_key, self.attempts) if self.made_here else self.subject

    def learn_served(self) -> None:
        """Tells the delivery who has it already."""
        if self.memo.served != self.delivery.served:
            self.delivery = replace(self.delivery, served=self.memo.served)

    @property
    def since(self) -> float:
        """Where the time to give up counts from: the first attempt, or, never tried, when it came to the lane."""
        return self.submitted_at if self.began_at is None else self.began_at


@dataclass(slots=True, eq=False)
class Chain:
    """The deliveries of one subject of one owner, first one first.

    It is ready, in a worker's hand, or waiting for its timer: never in two of these places.
    """

    owner: Owner
    subject: Subject
    jobs: deque[Job] = field(default_factory=deque)
    trying: bool = False
    """The first one is being tried: it cannot be taken away."""
    exhausted: bool = False
    """The one before was given up after all its time: those that waited behind it have used theirs too."""
    turned_away: bool = False
    """Its turn had come, and nobody was asked (errors.Throttled): it comes before those that had none."""
    timer: asyncio.TimerHandle | None = None


class _Turns(asyncio.Queue[Chain]):
    """The chains that are ready, handed out owner by owner."""

    def _init(self, maxsize: int) -> None:  # noqa: ARG002 - the signature of asyncio.Queue, whose hooks these are
        self._queue: OrderedDict[int, deque[Chain]] = OrderedDict()

    def _put(self, item: Chain) -> None:
        ready = self._queue.setdefault(id(item.owner), deque())
        if item.turned_away:
            ready.appendleft(item)
        else:
            ready.append(item)

    def _get(self) -> Chain:
        owner, ready = next(iter(self._queue.items()))
        chain = ready.popleft()
        if ready:
            self._queue.move_to_end(owner)
        else:
            del self._queue[owner]
        return chain

    def forget(self, owner: Owner, *, all_chains: bool) -> None:
        """Takes the chains of an owner out, or only those with nothing left in them."""
        ready = self._queue.pop(id(owner), None)
        kept = deque(chain for chain in ready or () if chain.jobs and not all_chains)
        if kept:
            self._queue[id(owner)] = kept


class Chains:
    """All that waits in one lane or is being tried."""

    def __init__(self, queued: Gauge) -> None:
        self._queued = 0
        queued.set_function(lambda: self._queued)  # counted with every event, asked for with every scrape
        self._of: dict[int, dict[Subject, Chain]] = {}
        self._filled = asyncio.Event()
        """Set when the first one of all has come."""
        self._emptied = asyncio.Event()
        """Set when the last one of an owner has gone."""
        self._ready = _Turns()  # bounded by limits.in_flight of the partitions

    def __iter__(self) -> Iterator[Chain]:
        for chains in self._of.values():
            yield from chains.values()

    @property
    def oldest_event(self) -> float:
        """When the hub had the oldest event in here; 0 when there is none. Replays are old by nature, digests ours."""
        first = (chain.jobs[0] for chain in self if chain.jobs)
        ours = (job.delivery for job in first if not job.made_here and not job.delivery.replayed)
        return min((each.released.placed.message.enqueued_at for each in ours), default=0.0)

    async def until_any(self) -> None:
        """Returns in a moment in which something is in here."""
        while not self._of:
            self._filled.clear()
            await self._filled.wait()

    async def until_empty(self) -> None:
        """Returns in a moment in which nothing is in here."""
        while self._of:
            self._emptied.clear()
            await self._emptied.wait()

    def is_first(self, job: Job) -> bool:
        """Whether nothing of its subject is in here."""
        return job.subject not in self._of.get(id(job.owner), {})

    def add(self, job: Job) -> None:
        """Takes a delivery in, after the earlier ones of its subject."""
        if not self._of:
            self._filled.set()
        chains = self._of.setdefault(id(job.owner), {})
        chain = chains.get(job.subject)
        if chain is None:
            chain = chains[job.subject] = Chain(job.owner, job.subject)
            self._ready.put_nowait(chain)
        chain.jobs.append(job)
        self._queued += 1

    async def take(self) -> Chain:
        """The next chain in turn. It may be emptied by others while it is in the taker's hand."""
        return await self._ready.get()

    def later(self, chain: Chain, delay_seconds: float) -> None:
        """Its turn comes again after the delay."""
        # A timer, not a sleeping worker: a subject that is being retried takes no place from the others.
        chain.timer = asyncio.get_running_loop().call_later(delay_seconds, self._due, chain)

    def hurry(self, chains: Iterable[Chain] | None = None) -> None:
        """Whoever waits for a delay is ready now: of all, or of these."""
        for chain in self if chains is None else chains:
            if chain.timer is not None:
                chain.timer.cancel()
                self._due(chain)

    def _due(self, chain: Chain) -> None:
        chain.timer = None
        self._ready.put_nowait(chain)

    def advance(self, chain: Chain, goes_aside: Callable[[Job], bool]) -> None:
        """The first one is done with, and those after it that go aside: the next one's turn comes."""
        chain.jobs.popleft()
        self._queued -= 1
        while chain.jobs and goes_aside(chain.jobs[0]):
            chain.jobs.popleft()
            self._queued -= 1
        if chain.jobs:
            self._ready.put_nowait(chain)
        else:
            self._remove(chain)

    def drop(self, chain: Chain) -> None:
        """Forgets a chain that is in the caller's hand."""
        self._queued -= len(chain.jobs)
        chain.jobs.clear()
        self._remove(chain)

    def waiting(self, owner: Owner) -> int:
        """How many deliveries of an owner are not being tried."""
        return sum(len(chain.jobs) - chain.trying for chain in self._of.get(id(owner), {}).values())

    def take_waiting(self, owner: Owner) -> list[Job]:
        """Takes out what is not being tried."""
        taken: list[Job] = []
        for chain in list(self._of.get(id(owner), {}).values()):
            tried = [chain.jobs.popleft()] if chain.trying else []
            taken += chain.jobs
            chain.jobs = deque(tried)
            if not tried:
                self._remove(chain)
        self._ready.forget(owner, all_chains=True)
        self._queued -= len(taken)
        return taken

    def take_first(self, condition: Callable[[Job], bool]) -> list[Job]:
        """Takes out, from the front of every chain that is not being tried, what meets the condition."""
        taken: list[Job] = []
        emptied: list[Chain] = []
        for chain in self:
            if chain.trying:
                continue
            while chain.jobs and condition(chain.jobs[0]):
                taken.append(chain.jobs.popleft())
            if not chain.jobs:
                emptied.append(chain)
        for chain in emptied:
            self._remove(chain)
        for owner in {id(chain.owner): chain.owner for chain in emptied}.values():
            self._ready.forget(owner, all_chains=False)
        self._queued -= len(taken)
        return taken

    def _remove(self, chain: Chain) -> None:
        if chain.timer is not None:
            chain.timer.cancel()
            chain.timer = None
        chains = self._of[id(chain.owner)]
        del chains[chain.subject]
        if not chains:
            del self._of[id(chain.owner)]
            self._emptied.set()
