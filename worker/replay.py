"""Dead letters delivered again, because an operator asked: past duplicates and order, through the lane of their sink.

The owner of a letter's partition does it. A request stays in the store until its replay has ended: after a stop, a
hand-over or a crash in the middle, the next owner does it again under the same idempotency key. Requests are written
elsewhere (`letters`); a letter that is not accepted stays a letter.
"""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum

import structlog

from worker.caution import KILLS_THE_WORKER
from worker.chains import Job
from worker.decode import BadReason, decode
from worker.errors import StoreUnavailable
from worker.events import BadEvent, Event, Message, PartitionId, Placed, Position, Released
from worker.keys import idempotency_key
from worker.owner import PartitionOwner
from worker.parts import Parts
from worker.sinks import Delivery
from worker.stores import DeadLetter, ReplayRequest, Store

_log = structlog.get_logger()

_LOOK_SECONDS = 5.0
_LOOK_SHARE = 20
"""Looking takes at most this part (a twentieth) of the time, however many requests there are."""
_STORE_RETRY_SECONDS = 1.0
_AT_ONCE = 100
_BYTES_AT_ONCE = 16 * 2**20
"""Bounds memory: a letter holds a message of up to 1 MiB."""


class Outcome(StrEnum):
    """How a replay ended; the label of worker_replays_total."""

    ACCEPTED = "accepted"
    GAVE_UP = "gave_up"
    """A sink did not take it; the letter stays."""
    UNDECODABLE = "undecodable"
    """It still is no event; the letter stays."""
    NO_ROUTE = "no_route"
    """It is an event now, and no route wants it; the letter stays."""
    NO_SINK = "no_sink"
    """Its sink is not configured any more; the letter stays."""
    GONE = "gone"
    """The letter was dropped, or became too old, before its turn."""


@dataclass(slots=True, eq=False)
class _Replay:
    request: ReplayRequest
    size: int = 0
    waiting: int = 0
    """Deliveries that have not ended."""
    failure: str = ""
    """What the last of them that was given up for said."""
    outcome: Outcome = Outcome.ACCEPTED
    detail: str = ""


class _Impossible(Exception):
    def __init__(self, outcome: Outcome, detail: str) -> None:
        self.outcome = outcome
        super().__init__(detail)


class Replays(PartitionOwner):
    """The replays of one claim. Also the owner of their deliveries, as the lanes see it."""

    def __init__(self, partition: PartitionId, parts: Parts) -> None:
        super().__init__(partition, parts)
        self._requested: deque[ReplayRequest] = deque()
        self._under_way: dict[ReplayRequest, _Replay] = {}
        self._jobs: dict[Job, _Replay] = {}
        self._ended: list[_Replay] = []
        """Those whose end is not yet written down."""
        self._just_ended: set[ReplayRequest] = set()
        """Written down since the last look, which may have listed them before that."""
        self._more_to_begin = asyncio.Event()
        self._more_to_write = asyncio.Event()
        self._said = ""

    def look(self, requests: Iterable[ReplayRequest]) -> None:
        """Takes what is requested now, in this order; what is under way goes on."""
        if self.closed:
            return
        known = self._just_ended.union(self._under_way)
        self._requested = deque(each for each in requests if each not in known)
        self._just_ended.clear()
        self._more_to_begin.set()

    async def run(self) -> None:
        """Works until it is cancelled."""
        # Two tasks: what was accepted is written down while others begin, so that a crash repeats little.
        async with asyncio.TaskGroup() as tasks:
            for wanted, work in ((self._more_to_begin, self._begin_more), (self._more_to_write, self._write_down)):
                tasks.create_task(self._whenever(wanted, work), name=f"partition {self.partition}, {work.__name__}")

    async def _whenever(self, wanted: asyncio.Event, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await wanted.wait()
            wanted.clear()
            try:
                await work()
            except StoreUnavailable as error:
                self._say_away(str(error))
                await asyncio.sleep(_STORE_RETRY_SECONDS)
                wanted.set()
            else:
                self._said = ""

    def stop_starting(self) -> None:
        """From now on no replay starts; those that have not started are left to the next owner."""
        self._requested.clear()
        super().stop_starting()

    @property
    def _busy(self) -> bool:
        return bool(self.attempts or self._ended)

    # --- beginning

    async def _begin_more(self) -> None:
        while self._requested and self._has_room and not self.closed:
            request = self._requested.popleft()
            replay = self._under_way[request] = _Replay(request)
            try:
                letter = await self._parts.store.read_dead_letter(request.letter)
                if letter is not None and letter.reason == KILLS_THE_WORKER:
                    # Asked for once, tried once: it may end this process and then the next one, for ever.
                    await self._parts.store.end_replays([request])
            except StoreUnavailable:
                del self._under_way[request]  # the next look brings it again; one bad letter must not hold up the rest
                raise
            if not self.closed:
                self._begin(replay, letter)

    @property
    def _has_room(self) -> bool:
        under_way = self._under_way.values()
        return len(under_way) < _AT_ONCE and sum(each.size for each in under_way) < _BYTES_AT_ONCE

    def _begin(self, replay: _Replay, letter: DeadLetter | None) -> None:
        if letter is None:
            self._end(replay, Outcome.GONE, "the dead letter is no longer there")
            return
        try:
            deliveries = self._deliveries(letter)
        except _Impossible as reason:
            self._end(replay, reason.outcome, str(reason))
            return
        replay.size, replay.waiting = len(letter.body), len(deliveries)
        for delivery in deliveries:
            job = Job(delivery, self)
            self._jobs[job] = replay
            self._parts.rules.lanes[delivery.sink].submit(job)

    def _deliveries(self, letter: DeadLetter) -> list[Delivery]:
        """What is to be delivered for this letter: to its sink, or to all that want it where it was no event then."""
        message = _message(letter)
        late_by_ms = max(0, round((self._parts.clock() - letter.enqueued_at) * 1000))
        if letter.sink is not None and letter.sink not in self._parts.rules.lanes:
            raise _Impossible(Outcome.NO_SINK, f"there is no sink {letter.sink} in the configuration any more")
        deliveries = []
        for index, event in _events(letter, message):
            released = Released(Placed(event, message, Position(letter.sequence_number, index)), late_by_ms)
            for route, sink in self._targets(letter, event):
                key = (sink == letter.sink and letter.idempotency_key) or idempotency_key(event, sink)
                deliveries.append(Delivery(released, route, sink, key, replayed=True))
        if not deliveries:
            raise _Impossible(Outcome.NO_ROUTE, "it can be decoded now, and no route matches it")
        return deliveries

    def _targets(self, letter: DeadLetter, event: Event) -> list[tuple[str, str]]:
        if letter.sink is not None:
            return [(letter.route or "", letter.sink)]
        return [(target.route, target.sink) for target in self._parts.rules.routes.match(event)]

    # --- what the lanes say (deliver.Owner)

    async def may_start(self, _job: Job) -> bool:
        """Whether the partition is surely still ours."""
        return self.is_ours()

    def accepted(self, job: Job) -> None:
        """The destination took it."""
        self._one_less(job)

    def gave_up(self, job: Job, reason: str, detail: str) -> None:
        """It stays the dead letter that it is."""
        self._one_less(job, f"{job.delivery.sink}: {reason}: {detail}")

    def attempt_ended(self, _job: Job) -> None:
        """One attempt less under way."""
        self._quiet.set()

    # --- ending

    def _one_less(self, job: Job, failure: str = "") -> None:
        replay = self._jobs.pop(job)
        replay.waiting -= 1
        replay.failure = failure or replay.failure
        if not replay.waiting:
            self._end(replay, Outcome.GAVE_UP if replay.failure else Outcome.ACCEPTED, replay.failure)

    def _end(self, replay: _Replay, outcome: Outcome, detail: str) -> None:
        replay.outcome, replay.detail = outcome, detail
        self._ended.append(replay)
        self._more_to_write.set()

    async def _write_down(self) -> None:
        """The letters that were accepted go, and all requests that have ended."""
        ended = list(self._ended)
        store = self._parts.store
        if accepted := [each.request.letter for each in ended if each.outcome is Outcome.ACCEPTED]:
            await store.drop_dead_letters(accepted)  # and their requests
        if others := [each.request for each in ended if each.outcome is not Outcome.ACCEPTED]:
            await store.end_replays(others)
        del self._ended[: len(ended)]
        for each in ended:
            del self._under_way[each.request]
            self._just_ended.add(each.request)
        self._tell(ended)
        self._more_to_begin.set()
        self._quiet.set()

    def _tell(self, ended: list[_Replay]) -> None:
        """A line for each way in which some of them ended, not for each letter: there may be thousands."""
        for outcome, count in Counter(each.outcome for each in ended).items():
            self._parts.metrics.replays.labels(outcome).inc(count)
            if outcome is Outcome.ACCEPTED:
                _log.info("dead letters replayed", partition=self.partition, count=count)
                continue
            example = next(each for each in ended if each.outcome is outcome)
            _log.warning(
                "dead letters not replayed",
                partition=self.partition,
                outcome=outcome.value,
                count=count,
                letter=example.request.letter,
                detail=example.detail,
            )

    def _say_away(self, error: str) -> None:
        if error != self._said:
            self._said = error
            _log.warning("replays wait for the store", partition=self.partition, error=error)


async def watch(store: Store, held: Callable[[], Collection[Replays]]) -> None:
    """Looks for requests and hands them to whose partition it is, with one query for all. Works until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        if here := held():
            try:
                requested = defaultdict(list)
                for request in await store.replays():
                    requested[request.partition].append(request)
                for replays in here:
                    replays.look(requested[replays.partition])
            except StoreUnavailable as error:
                _log.debug("requests to replay not seen", error=str(error))  # the keeper says that the store is away
        await asyncio.sleep(max(_LOOK_SECONDS, _LOOK_SHARE * (loop.time() - began)))


def _message(letter: DeadLetter) -> Message:
    return Message(
        partition=letter.partition,
        sequence_number=letter.sequence_number,
        offset="",
        enqueued_at=letter.enqueued_at,
        body=letter.body,
        content_type=letter.content_type,
        properties=letter.properties,
        # Its body is our own writing of an AMQP value: that it reads as JSON does not make it an event.
        defect=letter.detail if letter.reason == BadReason.AMQP_BODY else None,
    )


def _events(letter: DeadLetter, message: Message) -> list[tuple[int, Event]]:
    """The letter's element, or all elements where the whole message could not be read; each with its index."""
    whole = letter.index is None or letter.reason in (BadReason.NOT_JSON, KILLS_THE_WORKER)
    events = []
    for index, element in enumerate(decode(message)):
        if not whole and index != letter.index:
            continue
        if isinstance(element, BadEvent):
            raise _Impossible(Outcome.UNDECODABLE, f"{element.reason}: {element.detail}")
        events.append((index, element))
    if not events:
        raise _Impossible(Outcome.UNDECODABLE, "its message holds no such element")
    return events
