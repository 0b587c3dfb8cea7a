"""One partition from top to bottom: decode, recognise duplicates, order, route, deliver, settle.

It starts no delivery itself (the lanes do), writes nothing itself (the keeper does), and does not know whose the
partition is (the claim does).
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog

from worker import deadletters
from worker.config import DeadLetterSettings, LimitSettings, OrderSettings, StoreIntervals
from worker.deadletters import DeadLetterWriter
from worker.decode import decode
from worker.decode_limit import DecodeLimit
from worker.deliver import Job, Lane
from worker.duplicates import Duplicates, Verdict
from worker.events import BadEvent, Message, PartitionId, Placed, Position, Released, UnixSeconds
from worker.feed import Feed
from worker.health import Health
from worker.keys import data_digest, duplicate_key, idempotency_key
from worker.metrics import Metrics
from worker.order import Orderer
from worker.progress import Progress
from worker.route import Late, Routes, Target
from worker.sinks import Delivery
from worker.state import PartitionState
from worker.stores import DeadLetter, HubScope, Store

_log = structlog.get_logger()

_BEAT_SECONDS = 5.0
_STALL_SECONDS = 60.0
"""When the hub says that there is more and nothing comes for so long, time goes on without it."""
_RECENT_KEPT = 1000
"""Recent events kept in the state to recognise re-sent ones after a hand-over: about 100 bytes each."""
_MEMORY_EVENTS = 200_000
_PATIENCE_SECONDS = 5.0
"""How long a partition is full before a sink with `overflow: dead_letter` gives up: a burst is no overflow."""
_FILLS_IT = 10
"""A sink fills a partition when at least this part (a tenth) of limits.in_flight waits for it."""
_LETTERS_PER_MESSAGE = 100
"""Each holds the whole message: a megabyte of bad elements must not become a terabyte of dead letters."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What all pipelines of a process share."""

    store: Store
    scope: HubScope
    routes: Routes
    lanes: Mapping[str, Lane]
    dead_letters: DeadLetterWriter
    order: OrderSettings
    limits: LimitSettings
    spoiled: DeadLetterSettings
    intervals: StoreIntervals
    metrics: Metrics
    health: Health
    lease_valid: Callable[[PartitionId], bool]
    """Whether the ownership of a partition was renewed recently enough to start something."""


@dataclass(slots=True)
class _Open:
    """An event that is released and not settled."""

    key: bytes
    digest: str
    sinks: int


class Pipeline:
    """The way of a partition's events. Also the owner of their deliveries, as the lanes see it."""

    def __init__(self, partition: PartitionId, parts: Parts) -> None:
        self.partition = partition
        self.feed = Feed()
        self.closed = False
        self.attempts: set[asyncio.Timeout] = set()
        self.changed: Callable[[], None] = lambda: None
        """Called when there is something new to write into the state."""
        self._parts = parts
        self._orderer = Orderer(
            window_seconds=parts.order.window_seconds, memory_seconds=parts.order.memory_hours * 3600
        )
        self._duplicates = Duplicates(memory_seconds=parts.order.memory_hours * 3600, limit=_MEMORY_EVENTS)
        self._progress = Progress()
        self._decode_limit = DecodeLimit(
            stop_ratio=parts.spoiled.stop_ratio,
            of_at_least=parts.spoiled.of_at_least,
            per_seconds=parts.spoiled.per_minutes * 60,
        )
        self._open: dict[Position, _Open] = {}
        self._letters = 0
        self._counted = (0, 0)
        self._unsettled: deque[tuple[int, UnixSeconds]] = deque()
        self._now = UnixSeconds(0.0)
        self._now_read_at = 0.0
        self._room_again = asyncio.Event()
        self._crowded_since: float | None = None
        """Since when the partition has been full, and never half empty."""
        self._quiet = asyncio.Event()

    def stop_starting(self) -> None:
        """From now on no delivery starts; those that have not started are left to the next owner."""
        self.closed = True
        for lane in self._parts.lanes.values():
            lane.withdraw(self)

    async def drain(self, seconds: float) -> None:
        """Lets what is under way end; what has not ended by then is aborted."""
        try:
            async with asyncio.timeout(seconds):
                while self.attempts or self._letters:
                    self._quiet.clear()
                    await self._quiet.wait()
        except TimeoutError:
            _log.warning("drain ended with deliveries under way", partition=self.partition, attempts=len(self.attempts))
            for attempt in self.attempts:
                attempt.reschedule(asyncio.get_running_loop().time())

    # --- the way of an event

    async def read(self) -> None:
        """Takes messages from the feed until it is cancelled."""
        while True:
            self._beat()
            await self._release_due()
            for message in await self.feed.get(self._idle_seconds()):
                if self._full:
                    await self._room()
                self._take_in(message)
                if self._decode_limit.exceeded:
                    await self._stand_still()
            self._show()

    async def _stand_still(self) -> None:
        """Reads nothing more until it is cancelled; what was read goes its way."""
        limit, name = self._decode_limit, f"partition {self.partition}"
        detail = f"stopped: {limit.bad} of its last {limit.messages} messages cannot be decoded; is this the right hub?"
        _log.error("partition stopped", partition=self.partition, undecodable=limit.bad, messages=limit.messages)
        self._parts.health.set_ready(name, ok=False, detail=detail)
        self._parts.metrics.stopped.labels(self.partition).set(1)
        try:
            while True:
                self._beat()
                await self._release_due()
                self._show()
                await asyncio.sleep(_BEAT_SECONDS)
        finally:
            self._parts.health.set_ready(name, ok=True)
            self._parts.metrics.stopped.labels(self.partition).set(0)

    def _take_in(self, message: Message) -> None:
        watermark = self._progress.watermark
        if watermark is not None and message.sequence_number <= watermark.sequence_number:
            return  # the SDK fixed its start before we knew how far the last owner had come
        self._now = max(self._now, message.enqueued_at)
        self._now_read_at = asyncio.get_running_loop().time()
        self._release(self._now)
        elements = decode(message)
        decoded = not elements or any(not isinstance(element, BadEvent) for element in elements)
        self._decode_limit.saw(decoded=decoded, now=self._now_read_at)
        self._progress.begin(message.sequence_number, message.offset, len(elements))
        self._unsettled.append((message.sequence_number, message.enqueued_at))
        bad: list[tuple[Position, BadEvent]] = []
        for index, element in enumerate(elements):
            position = Position(message.sequence_number, index)
            if self._progress.already_settled(position):
                continue
            if isinstance(element, BadEvent):
                bad.append((position, element))
            else:
                self._place(Placed(element, message, position, duplicate_key(element), data_digest(element)))
        if bad:
            self._refuse(message, bad)
        if not elements:
            self._settled("empty")

    def _refuse(self, message: Message, bad: list[tuple[Position, BadEvent]]) -> None:
        """A dead letter for each bad element, up to a limit; the last one then stands for the rest of the message."""
        for position, element in bad:
            self._parts.metrics.bad.labels(self.partition, element.reason).inc()
            self._open[position] = _Open(b"", "", sinks=1)
        *told, (position, last) = bad[:_LETTERS_PER_MESSAGE]
        rest = [other for other, _ in bad[_LETTERS_PER_MESSAGE:]]
        if rest:
            last = replace(last, detail=f"{last.detail} (and {len(rest)} more elements of this message)")
        for each, element in told:
            self._write_letter(deadletters.from_bad_event(message, each.element, element), self._done([each]))
        letter = deadletters.from_bad_event(message, position.element, last)
        self._write_letter(letter, self._done([position, *rest]))

    def _done(self, positions: list[Position]) -> Callable[[], None]:
        def done() -> None:
            for position in positions:
                self._part_done(position, "")

        return done

    def _place(self, placed: Placed) -> None:
        event = placed.event
        self._parts.metrics.decoded.labels(self.partition, event.schema).inc()
        if event.order_defect:
            self._parts.metrics.weak_order.labels(self.partition, event.order_defect).inc()
        verdict = self._duplicates.see(placed.duplicate_key, placed.digest, placed.position, now=self._now)
        if verdict is Verdict.COPY:
            self._parts.metrics.duplicates.labels(self.partition, "same").inc()
            self._progress.settle(placed.position)
            self._settled("duplicate")
            return
        if verdict is Verdict.VARIANT:
            self._parts.metrics.duplicates.labels(self.partition, "other_data").inc()
        variant = placed.digest if verdict is Verdict.VARIANT else ""
        late = self._orderer.add(placed, now=self._now, data_digest=variant)
        if late is not None:
            self._dispatch(late)
        self._make_room_for_held()

    def _make_room_for_held(self) -> None:
        excess = self._orderer.held - self._parts.limits.held
        if excess > 0:
            for released in self._orderer.release_early(now=self._now, at_most=excess):
                self._dispatch(released)

    def _release(self, now: UnixSeconds) -> None:
        for released in self._orderer.due(now=now, at_most=self._parts.limits.in_flight - len(self._open)):
            self._dispatch(released)

    async def _release_due(self) -> None:
        """Releases what is due now, also when no message comes to say what time it is."""
        while True:
            now = self._time()
            self._release(now)
            due = self._orderer.next_due()
            if due is None or due > now:
                return
            await self._room()

    def _dispatch(self, released: Released) -> None:
        placed = released.placed
        event = placed.event
        self._parts.metrics.released.labels(self.partition).inc()
        if released.late_by_ms is not None:
            self._parts.metrics.late.labels(self.partition).inc()
        targets = self._parts.routes.match(event)
        served = self._progress.served_by(placed.position)
        wanted = [target for target in targets if target.sink not in served and not _dropped(released, target)]
        entry = _Open(placed.duplicate_key, placed.digest, len(wanted))
        if not wanted:
            self._settle(placed.position, entry, "no_route" if not targets else "late_dropped")
            return
        self._open[placed.position] = entry
        for target in wanted:
            self._send(released, target)

    def _send(self, released: Released, target: Target) -> None:
        if released.late_by_ms is not None and target.late is Late.DEAD_LETTER:
            detail = f"came {released.late_by_ms} ms after a later event of its subject was released"
            self._give_up(released.placed, target.route, target.sink, "late", detail, attempts=0)
            return
        key = idempotency_key(released.placed.event, target.sink, released.data_digest)
        delivery = Delivery(released, target.route, target.sink, key)
        self._parts.lanes[target.sink].submit(Job(delivery, self))

    # --- what the lanes say (deliver.Owner)

    def may_start(self) -> bool:
        """Whether the partition is surely still ours: not closed, not fenced, and its ownership renewed in time."""
        return not self.closed and self._parts.lease_valid(self.partition)

    def accepted(self, job: Job) -> None:
        """The destination took it."""
        self._part_done(job.delivery.released.placed.position, job.delivery.sink)

    def gave_up(self, job: Job, reason: str, detail: str) -> None:
        """It becomes a dead letter."""
        delivery = job.delivery
        self._give_up(delivery.released.placed, delivery.route, delivery.sink, reason, detail, attempts=job.attempts)

    def attempt_ended(self) -> None:
        """One attempt less under way."""
        self._quiet.set()

    # --- settling

    def _give_up(self, placed: Placed, route: str, sink: str, reason: str, detail: str, *, attempts: int) -> None:
        letter = deadletters.from_event(placed, reason=reason, detail=detail, route=route, sink=sink, attempts=attempts)
        self._write_letter(letter, partial(self._part_done, placed.position, sink))

    def _write_letter(self, letter: DeadLetter, done: Callable[[], None]) -> None:
        def written() -> None:
            self._letters -= 1
            done()
            self._quiet.set()

        self._letters += 1
        self._parts.dead_letters.put(letter, written)

    def _part_done(self, position: Position, sink: str) -> None:
        """One sink is done with an event: it was accepted there, or its dead letter is kept."""
        entry = self._open[position]
        entry.sinks -= 1
        if entry.sinks:
            self._progress.served(position, sink)
            self.changed()
            return
        del self._open[position]
        self._settle(position, entry, "delivered" if sink else "bad")
        self._room_again.set()
        if len(self._open) < self._parts.limits.in_flight // 2:
            self._crowded_since = None

    def _settle(self, position: Position, entry: _Open, outcome: str) -> None:
        self._progress.settle(position)
        if entry.key:
            self._duplicates.settled(entry.key, entry.digest)
        self._settled(outcome)

    def _settled(self, outcome: str) -> None:
        self._parts.metrics.settled.labels(self.partition, outcome).inc()
        self.changed()

    # --- time and room

    @property
    def _full(self) -> bool:
        return len(self._open) >= self._parts.limits.in_flight

    async def _room(self) -> None:
        """Full means that reading waits; after a while, sinks that say so give up what waits for them."""
        if self._crowded_since is None:
            self._crowded_since = asyncio.get_running_loop().time()
        while self._full:
            self._beat()
            self._room_again.clear()
            try:
                async with asyncio.timeout(_BEAT_SECONDS):
                    await self._room_again.wait()
            except TimeoutError:
                self._show()
            self._shed()

    def _shed(self) -> None:
        since = self._crowded_since
        if since is not None and asyncio.get_running_loop().time() - since >= _PATIENCE_SECONDS:
            for lane in self._parts.lanes.values():
                lane.shed(self, at_least=max(1, self._parts.limits.in_flight // _FILLS_IT))

    def _time(self) -> UnixSeconds:
        """The partition's clock: the newest enqueued time, going on by itself once there is nothing more to read."""
        idle = asyncio.get_running_loop().time() - self._now_read_at
        if self.feed.drained or idle >= _STALL_SECONDS:
            self._now = UnixSeconds(max(self._now, self._now + idle))
            self._now_read_at += idle
        return self._now

    def _idle_seconds(self) -> float:
        due = self._orderer.next_due()
        if due is None:
            return _BEAT_SECONDS
        return min(_BEAT_SECONDS, max(0.001, due - self._now))

    # --- state

    def restore(self, state: PartitionState) -> None:
        """Goes on from what an earlier generation left."""
        self._progress = Progress.restore(state.progress) if state.progress else Progress()
        self._duplicates.restore(state.recent)

    def snapshot(self) -> dict[str, Any]:
        """What the next generation must know: fields of the partition state."""
        return {
            "progress": self._progress.snapshot(),
            "recent": self._duplicates.settled_keys(_RECENT_KEPT),
        }

    # --- what is seen from outside

    def _beat(self) -> None:
        self._parts.health.beat(f"partition {self.partition}")

    def _show(self) -> None:
        metrics, partition = self._parts.metrics, self.partition
        metrics.held.labels(partition).set(self._orderer.held)
        counted = self._orderer.released_early, self._orderer.kind_changes
        metrics.released_early.labels(partition).inc(counted[0] - self._counted[0])
        metrics.kind_changes.labels(partition).inc(counted[1] - self._counted[1])
        self._counted = counted
        metrics.in_flight.labels(partition).set(len(self._open))
        watermark = self._progress.watermark
        while self._unsettled and watermark and self._unsettled[0][0] <= watermark.sequence_number:
            self._unsettled.popleft()
        metrics.lag_seconds.labels(partition).set(time.time() - self._unsettled[0][1] if self._unsettled else 0)
        if self.feed.last_enqueued is not None and watermark is not None:
            metrics.lag_events.labels(partition).set(self.feed.last_enqueued - watermark.sequence_number)


def _dropped(released: Released, target: Target) -> bool:
    return released.late_by_ms is not None and target.late is Late.DROP
