"""One partition from top to bottom: decode, recognise duplicates, order, route, deliver, settle.

It starts no delivery itself (the lanes do), writes nothing itself (the keeper does), and does not know whose the
partition is (the claim does). What becomes of the deliveries, and when an event is settled, is in `settling`.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from worker import deadletters
from worker.caution import KILLS_THE_WORKER
from worker.clock import STALL_SECONDS, PartitionClock
from worker.decode import decode
from worker.decode_limit import DecodeLimit
from worker.duplicates import Verdict
from worker.events import BadEvent, Event, Message, PartitionId, Placed, Position, Released, UnixSeconds
from worker.expecting import Expecting
from worker.feed import Feed
from worker.keys import data_digest, duplicate_key, idempotency_key
from worker.latest import superseded
from worker.missed import Missed
from worker.noting import NOTING
from worker.parts import Parts
from worker.pending import LOOKED_AT
from worker.progress import Watermark
from worker.route import Late, Target
from worker.settling import Settling
from worker.sightings import Sightings
from worker.sinks import Delivery
from worker.state import PartitionState
from worker.through import CLOCKS_SECONDS, Through
from worker.unchanged import value_digest
from worker.unsettled import Open

_log = structlog.get_logger()

_BEAT_SECONDS = 5.0
_NONE = -1
"""Below every sequence number."""
_NOTED = Target(NOTING, NOTING, Late.DELIVER)


class Pipeline(Settling):
    """The way of a partition's events, up to the lanes."""

    def __init__(self, partition: PartitionId, parts: Parts) -> None:
        super().__init__(partition, parts)
        self.feed = Feed()
        self.sightings = Sightings()
        self.stopped: str | None = None
        """Why nothing is read until an operator or a new configuration says otherwise."""
        self.missed: Callable[[list[Missed]], None] = _nobody
        """Called with what has just been found missing: to be written into the state, then told."""
        self._orderer = self.judge.orderer
        self._decode_limit = DecodeLimit(
            stop_ratio=parts.spoiled.stop_ratio,
            of_at_least=parts.spoiled.of_at_least,
            per_seconds=parts.spoiled.per_minutes * 60,
        )
        self._counted = (0, 0)
        self._clock = PartitionClock()
        self.through = Through(
            partition, parts, self.feed, self._orderer, expectations=self.expectations, across=self.across
        )
        self._expecting = Expecting(partition, parts, self.expectations)
        self._settled_before = _NONE
        """Up to this message an earlier life has settled everything."""
        self._began_at = 0.0
        self._first_life = False
        """Nobody has had the partition before."""

    # --- the way of an event

    async def read(self) -> None:
        """Takes messages from the feed until it is cancelled."""
        if self.stopped:
            await self._stand_still()
        while True:
            self._beat()
            await self._release_due()
            self.look_for_missed()
            for message in await self.feed.get(self._idle_seconds()):
                if self._is_full:
                    await self._make_way()
                if self._is_to_be_marked(message) and not await self._marked(message):
                    return
                self._take_in(message)
                if self._caution.taken_in is not None:
                    await self._unmark()
                if self._decode_limit.exceeded:
                    await self._stop_reading()
            self._show()

    def _is_to_be_marked(self, message: Message) -> bool:
        return self._caution.marks(message.sequence_number, now=asyncio.get_running_loop().time())

    async def _marked(self, message: Message) -> bool:
        """While the worker is careful: writes down which message it takes in next."""
        while self._caution.attempted is not None:
            self._quiet.clear()
            await self._quiet.wait()
        self._caution.taken_in = message.sequence_number
        return await self.save()

    async def _unmark(self) -> None:
        """The message is taken in: the mark in the state is taken back."""
        self._caution.taken_in = None
        await self.save()

    async def _stop_reading(self) -> None:
        limit = self._decode_limit
        reason = (
            f"{limit.bad} of its last {limit.messages} messages cannot be decoded; is this the right hub? "
            "Reading goes on after `worker resume`, or with another configuration"
        )
        _log.error("partition stopped", partition=self.partition, reason=reason)
        await self.save(stopped=reason, stopped_under=self._parts.rules.digest)
        self.stopped = reason  # only now: a stop that is not in the state was taken back by an operator
        await self._stand_still()

    async def _stand_still(self) -> None:
        """Reads nothing more until it is cancelled; what was read goes its way."""
        name = f"partition {self.partition}"
        self._parts.health.set_ready(name, ok=False, detail=f"stopped: {self.stopped}")
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
        if message.sequence_number <= self._settled_before:
            return  # the SDK fixed its start before we knew how far the last owner had come
        self._clock.read(message.enqueued_at, at=asyncio.get_running_loop().time())
        self._release(self._clock.now)
        elements = self._decode(message)
        decoded = [element for element in elements if not isinstance(element, BadEvent)]
        self._decode_limit.saw(decoded=bool(decoded or not elements), now=self._clock.read_at)
        missing = self._progress.missing
        self._progress.begin(message.sequence_number, message.offset, len(elements))
        if self._progress.missing > missing:
            self._say_missing(message, self._progress.missing - missing)
        self.feed.lag.read(message.sequence_number, message.enqueued_at)
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
        self.through.took(message)

    def _say_missing(self, message: Message, count: int) -> None:
        self._parts.metrics.missing.labels(self.partition).inc(count)
        _log.error(
            "messages that were not settled did not come again: has the hub's retention passed them?",
            partition=self.partition,
            count=count,
            before=message.sequence_number,
        )

    def _decode(self, message: Message) -> list[Event | BadEvent]:
        deaths = self._caution.condemns(message.sequence_number)
        if not deaths:
            return decode(message)
        _log.error("message given up", partition=self.partition, sequence_number=message.sequence_number, deaths=deaths)
        self._progress.start_over(message.sequence_number)
        detail = f"{deaths} processes in a row died while they worked on this message"
        return [BadEvent(KILLS_THE_WORKER, detail, whole_message=True)]

    def _refuse(self, message: Message, bad: list[tuple[Position, BadEvent]]) -> None:
        for position, element in bad:
            self._parts.metrics.bad.labels(self.partition, element.reason).inc()
            self._unsettled.open(position, Open(b"", "", sinks=1))
        for letter, positions in deadletters.from_bad_elements(message, bad):
            self._write_letter(letter, self._done(positions))

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
        if self._parts.order.window_seconds != 0:  # else no order is asked for
            self.sightings.saw(event.key, at=placed.message.enqueued_at, keyed=placed.message.keyed)
        verdict = self.judge.see(placed, now=self._clock.now)
        if verdict is Verdict.COPY:
            self._parts.metrics.duplicates.labels(self.partition, "same").inc()
            self._progress.settle(placed.position)
            self._settled("duplicate")
            return
        if verdict is Verdict.VARIANT:
            self._parts.metrics.duplicates.labels(self.partition, "other_data").inc()
        late = self.judge.add(placed, now=self._clock.now)
        if late is not None:
            self._dispatch(late, self._parts.rules.routes.match(event))
        self._make_room_for_held()

    def _make_room_for_held(self) -> None:
        early = min(self._orderer.held - self._held_limit, self._room.left)
        if early > 0:
            self._dispatch_all(self._orderer.release_early(now=self._clock.now, at_most=early))

    @property
    def _held_limit(self) -> int:
        """What an earlier life had in flight is held again first: there is that much more room for it."""
        limits = self._parts.limits
        return limits.held + limits.in_flight if self._reading_again else limits.held

    @property
    def _is_full(self) -> bool:
        """Whether there is no room for what a message releases, or for what it adds to the held."""
        return self._room.left <= 0 or self._orderer.held > self._held_limit

    async def _make_way(self) -> None:
        """Before a message: waits until there is room for it."""
        while self._is_full:
            await self._room.wait(self._look)
            self._make_room_for_held()

    @property
    def _reading_again(self) -> bool:
        """Whether what was read in an earlier life is still coming again.

        Until all of it has come, nothing is released: what an earlier life had together must be in order together.
        """
        if not self.through.is_behind:
            return False
        return asyncio.get_running_loop().time() - self._clock.read_at < STALL_SECONDS

    def _release(self, now: UnixSeconds) -> None:
        due = self._orderer.next_due()
        if due is None or due > now or self._reading_again:
            return
        self._dispatch_all(self._orderer.due(now=now, at_most=self._room.left))

    async def _release_due(self) -> None:
        """Releases what is due now, also when no message comes to say what time it is."""
        while True:
            now = self._clock.idle(at=asyncio.get_running_loop().time(), drained=self.feed.drained)
            self._release(now)
            due = self._orderer.next_due()
            if due is None or due > now or self._reading_again:
                return
            await self._room.wait(self._look)

    def _dispatch_all(self, together: list[Released]) -> None:
        """Events that are released at one moment: some routes want only the newest of them."""
        routes = self._parts.rules.routes
        if not routes.some_want_latest:
            for released in together:
                self._dispatch(released, routes.match(released.placed.event))
            return
        matched = [routes.match(released.placed.event) for released in together]
        for released, targets, newer_at in zip(together, matched, superseded(together, matched), strict=True):
            self._dispatch(released, targets, newer_at)

    def _dispatch(self, released: Released, targets: Sequence[Target], newer_at: frozenset[str] = frozenset()) -> None:
        placed = released.placed
        self._parts.metrics.released.labels(self.partition).inc()
        if released.late_by_ms is not None:
            self._parts.metrics.late.labels(self.partition).inc()
        served = self._progress.served_by(placed.position)
        wanted = [target for target in targets if target.sink not in served and not _dropped(released, target)]
        looked_at = False
        if self._parts.rules.expect:  # most configurations expect nothing
            looked_at = LOOKED_AT not in served and self._expecting.look(released)
            self.across.see_life(placed)
            if NOTING not in served and self.across.is_to_be_noted(placed):
                self.across.begin(placed)
                wanted.append(_NOTED)
        entry = Open(placed.duplicate_key, placed.digest, len(wanted))
        if not wanted:
            self._settle(placed.position, entry, "no_route" if not targets else "late_dropped")
            return
        self._unsettled.open(placed.position, entry)
        if looked_at:
            self._progress.served(placed.position, LOOKED_AT)
        for target in wanted:
            if target.sink in newer_at and not (target.changed and self._may_be_known(placed)):
                self._parts.metrics.superseded.labels(target.route, target.sink).inc()
                self._part_done(placed.position, target.sink, "superseded")
            else:
                self._send(released, target)

    def _may_be_known(self, placed: Placed) -> bool:
        """Whether its value may be what a sink has, though not what is remembered: then it must not be passed over."""
        return not self._first_life and self._may_have_been_tried(placed)

    def _may_have_been_tried(self, placed: Placed) -> bool:
        """Whether it was in the hub before this life began: an earlier one may have died before it could save that."""
        return placed.message.enqueued_at <= self._began_at + CLOCKS_SECONDS

    def _send(self, released: Released, target: Target) -> None:
        key = idempotency_key(released.placed.event, target.sink, released.data_digest)
        again = self._again_for(released.placed.position)
        delivery = Delivery(released, target.route, target.sink, key, again=again)
        if released.late_by_ms is not None and target.late is Late.DEAD_LETTER:
            detail = f"came {released.late_by_ms} ms after a later event of its subject was released"
            self._give_up(delivery, "late", detail, attempts=0)  # nothing waits for it: it is out of order anyway
            return
        job = self._unsettled.job(delivery, self, again=self._may_have_been_tried(released.placed))
        if target.changed is not None:
            job.value = value_digest(target.changed, released.placed.event)
        self._parts.rules.lanes[target.sink].submit(job)

    # --- what has not happened

    @property
    def wants_hub_end(self) -> bool:
        """Whether something would be known to be missed, if only it were known that the hub has nothing more."""
        return not self.stopped and self.through.wants_hub_end

    def look_for_missed(self) -> None:
        """Finds what is missing by now."""
        if self._expecting.keep_rules():
            self.changed()
        due = self.expectations.next_due()
        if due is not None and due < (through := self.through.seen()):
            self.missed(self.expectations.miss(through, now=self._parts.clock()))

    # --- time and room

    def _look(self) -> None:
        self.look_for_missed()  # a sink that is down holds up what comes, not what is missing by now
        self._beat()
        self._show()

    def _idle_seconds(self) -> float:
        due = self._orderer.next_due()
        if due is None or self._reading_again:
            return _BEAT_SECONDS
        return min(_BEAT_SECONDS, max(0.001, due - self._clock.now))

    # --- state

    def snapshot(self) -> dict[str, Any]:
        """What the next generation must know, and whoever looks at the partition from outside."""
        watermark = self._progress.watermark
        oldest_at = self.feed.lag.oldest_at(None if watermark is None else watermark.sequence_number)
        return {**super().snapshot(), "oldest_at": oldest_at}

    def restore(self, state: PartitionState, checkpoint: Watermark | None = None) -> None:
        """Goes on from what an earlier generation left."""
        super().restore(state, checkpoint)
        self._began_at = self._parts.clock()
        self._first_life = state.generation == 1 and checkpoint is None
        self._clock.read_at = asyncio.get_running_loop().time()
        watermark = self._progress.watermark
        self.through.resume(watermark.sequence_number if watermark else None, self._progress.read)
        if watermark is not None:
            self._settled_before = watermark.sequence_number
        if begin := watermark or checkpoint:
            self.feed.lag.begin(begin.sequence_number)
        if state.stopped_under == self._parts.rules.digest:
            self.stopped = state.stopped

    # --- what is seen from outside

    def _beat(self) -> None:
        self._parts.health.beat(f"partition {self.partition}")

    def _show(self) -> None:
        metrics, partition = self._parts.metrics, self.partition
        metrics.held.labels(partition).set(self._orderer.held)
        metrics.order_window.labels(partition).set(self._orderer.window_seconds)
        if self.judge.auto:
            metrics.order_late_share.labels(partition).set(self.judge.auto.late_share)
        counted = self._orderer.released_early, self._orderer.kind_changes
        metrics.released_early.labels(partition).inc(counted[0] - self._counted[0])
        metrics.kind_changes.labels(partition).inc(counted[1] - self._counted[1])
        self._counted = counted
        metrics.in_flight.labels(partition).set(len(self._unsettled))
        self._expecting.show()
        self._show_lag()

    def _show_lag(self) -> None:
        """Nothing where nothing is known: 0 would be a claim."""
        watermark, lag, metrics = self._progress.watermark, self.feed.lag, self._parts.metrics
        number = None if watermark is None else watermark.sequence_number
        seconds, events = lag.seconds(number, self._parts.clock()), lag.events(self._progress.unsettled)
        if seconds is not None:
            metrics.lag_seconds.labels(self.partition).set(seconds)
        if events is not None:
            metrics.lag_events.labels(self.partition).set(events)


def _nobody(_missed: list[Missed]) -> None:
    """Nobody is told of what was missed: it waits in the state."""


def _dropped(released: Released, target: Target) -> bool:
    return released.late_by_ms is not None and target.late is Late.DROP
