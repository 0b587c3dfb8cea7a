"""What becomes of a partition's deliveries: which may be tried, which are told together, and when an event is settled.

The part of a pipeline that the lanes see. How events get there is in `pipeline`; it writes nothing itself (the keeper
does), and tries nothing (the lanes do).
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from worker import deadletters
from worker.across import Across
from worker.caution import Caution
from worker.chains import Job, Turn
from worker.config import OrderSettings
from worker.digests import Digest
from worker.disorder import AutoWindow
from worker.events import PartitionId, Position, UnixSeconds
from worker.givenup import GivenUp, Place
from worker.groups import Groups, Step
from worker.judge import Judge
from worker.noting import NOTING
from worker.owner import PartitionOwner
from worker.parts import Parts
from worker.pending import Expectations
from worker.progress import Progress, Watermark
from worker.room import Room, share
from worker.sinks import Delivery
from worker.state import Again, PartitionState
from worker.stores import DeadLetter
from worker.tracing import exemplar, traceparent_of
from worker.unchanged import NOTHING
from worker.unsettled import Open, Unsettled

_LEAST_IN_FLIGHT = 100
"""Enough for the concurrency of some sinks."""


class Settling(PartitionOwner):
    """The owner of a partition's deliveries, and the book of what is settled."""

    def __init__(self, partition: PartitionId, parts: Parts) -> None:
        super().__init__(partition, parts)
        self.changed: Callable[[], None] = lambda: None
        """Called when there is something new to write into the state."""
        self.save: Callable[..., Awaitable[bool]] = _saved
        """Writes the state now, with these fields changed; False: the partition is another owner's."""
        self.joined: Callable[[], None] = lambda: None
        """Called when an event has joined a group."""
        self.judge = _judge(parts.order)
        self.groups = Groups(parts.rules.quiet)
        self.expectations = Expectations()
        self.across = Across(parts)
        self._progress = Progress()
        self._unsettled = Unsettled(parts.clock)
        self._caution = Caution(PartitionState(generation=0, owner=""), now=0.0)
        self._given_up = GivenUp()
        self._letters = 0
        self._again: Again | None = None
        in_flight = share(parts.limits.in_flight, len(parts.board.partitions()), least=_LEAST_IN_FLIGHT)
        self._room = Room(in_flight, lambda: len(self._unsettled), self._shed)

    # --- what the lanes ask and say (chains.Owner)

    def starts_at_once(self, job: Job) -> bool:
        """Whether nothing has to be waited for or written first, which is nearly always so."""
        number = job.delivery.released.placed.position.sequence_number
        if self._given_up or self._caution.marks(number, now=asyncio.get_running_loop().time()) or not self.is_ours():
            return False
        self._unsettled.tried(job)
        return True

    async def may_start(self, job: Job) -> bool:
        """Whether the partition is surely still ours; while the worker is careful, one attempt at a time."""
        if not self.is_ours() or not await self._follows_nothing_unfinished((job.subject, job.delivery.sink)):
            return False
        number = job.delivery.released.placed.position.sequence_number
        if self._caution.marks(number, now=asyncio.get_running_loop().time()) and not await self._mark_attempt(number):
            return False
        if not self.is_ours():  # no more: the store took its time
            self._caution.ended(number)
            return False
        self._unsettled.tried(job)
        return True

    def turn(self, job: Job) -> Turn:
        """Whether a delivery is tried alone, or joins those that are told together: it is settled then."""
        place = job.subject, job.delivery.sink
        if job.value != NOTHING and self.judge.values.has(job.delivery.sink, job.subject, job.value, now=self._now):
            self._leave_unchanged(job)
            return Turn.ASIDE
        # What was asked for alone ends so, whatever the sink's settings are by now.
        if job.alone or job.asked or not self.groups.may_tell(job.delivery.sink):
            return Turn.ALONE
        if self._given_up.has_no_letter(place) or self._given_up.is_unsaved(place):
            return Turn.WAIT
        trace = "" if self._parts.tracing is None else traceparent_of(job.delivery.released.placed)
        match self.groups.meet(job.delivery, now=self._parts.clock(), trace=trace):
            case Step.ALONE:
                job.alone = True
                return Turn.ALONE
            case Step.JOINED:
                self._note_value(job, job.value)
                self._part_done(job.delivery.released.placed.position, job.delivery.sink, "grouped")
                self.joined()
            case Step.WAIT:
                return Turn.WAIT
            case muted:
                self._leave_untold(job, muted)
        return Turn.ASIDE

    def _leave_unchanged(self, job: Job) -> None:
        self._parts.metrics.unchanged.labels(job.delivery.route, job.delivery.sink).inc()
        self._note_value(job, job.value)
        self._part_done(job.delivery.released.placed.position, job.delivery.sink, "unchanged")

    def _note_value(self, job: Job, value: bytes) -> None:
        """What its sink has of the subject now. A late event says nothing of that: a newer one went before it."""
        if job.delivery.released.late_by_ms is None and self.judge.values.minds(job.delivery.sink, value):
            self.judge.values.note(job.delivery.sink, job.subject, value, now=self._now)

    @property
    def _now(self) -> UnixSeconds:
        return UnixSeconds(self._parts.clock())

    def _leave_untold(self, job: Job, step: Step) -> None:
        self._parts.metrics.muted.labels(job.delivery.sink).inc()
        match step:
            case Step.REFUSED:
                self.gave_up(job, "muted", "its sink is muted at this time, and its window says dead_letter")
            case Step.OVERFLOWS:
                self.gave_up(job, "muted", "its sink is muted at this time, and holds as many events as it may")
            case _:
                self._note_value(job, NOTHING)
                self._part_done(job.delivery.released.placed.position, job.delivery.sink, "muted")

    async def _mark_attempt(self, number: int) -> bool:
        if self._caution.busy:
            return False
        self._caution.attempted = number
        if not await self.save(patient=False):
            self._caution.ended(number)
            return False
        return True

    async def _follows_nothing_unfinished(self, place: Place) -> bool:
        if self._given_up.has_no_letter(place):
            return False
        return not self._given_up.is_unsaved(place) or await self.save(patient=False)

    @property
    def _busy(self) -> bool:
        return bool(self.attempts or self._letters)

    def accepted(self, job: Job) -> None:
        """The destination took it."""
        if job.asked:  # else the ledger knew it: it was taken at some other time
            seconds = self._parts.clock() - job.delivery.released.placed.message.enqueued_at
            pointer = None if self._parts.tracing is None else exemplar()
            self._parts.metrics.event_seconds.labels(job.delivery.sink).observe(seconds, pointer)
        self._note_value(job, job.value)
        self._part_done(job.delivery.released.placed.position, job.delivery.sink)

    def gave_up(self, job: Job, reason: str, detail: str) -> None:
        """It becomes a dead letter."""
        place = job.subject, job.delivery.sink
        self._note_value(job, NOTHING)  # it may have got there all the same, in this life or an earlier one
        self._given_up.begin(place)
        kept = partial(self._given_up.kept, place)
        self._give_up(job.delivery, reason, detail, attempts=job.attempts, kept=kept)

    def attempt_ended(self, job: Job) -> None:
        """One attempt less under way."""
        self._caution.ended(job.delivery.released.placed.position.sequence_number)
        self.changed()
        self._quiet.set()

    # --- settling

    def _again_for(self, position: Position) -> str:
        """The operator's wish, if there is one, to have this event's effects a second time."""
        again = self._again
        return again.wish if again is not None and position.sequence_number <= again.through else ""

    def _give_up(
        self, delivery: Delivery, reason: str, detail: str, *, attempts: int, kept: Callable[[], None] = lambda: None
    ) -> None:
        def done() -> None:
            kept()
            self._part_done(delivery.released.placed.position, delivery.sink)

        letter = deadletters.from_delivery(delivery, reason=reason, detail=detail, attempts=attempts)
        self._write_letter(letter, done)

    def _write_letter(self, letter: DeadLetter, done: Callable[[], None]) -> None:
        def written() -> None:
            self._letters -= 1
            done()
            self._quiet.set()

        self._letters += 1
        self._parts.dead_letters.put(letter, written)

    def _part_done(self, position: Position, sink: str, outcome: str = "delivered") -> None:
        """One sink is done with an event: it was accepted there, or its dead letter is kept, or it joined a group."""
        if sink == NOTING:
            self.across.done(position)
        entry = self._unsettled.sink_done(position, sink)
        if entry is None:
            self._progress.served(position, sink)
            self.changed()
            return
        self._settle(position, entry, outcome if sink else "bad")
        self._room.freed()

    def _settle(self, position: Position, entry: Open, outcome: str) -> None:
        self._progress.settle(position)
        if not self._progress.holds(position.sequence_number):
            self._caution.clear(position.sequence_number)
        if entry.key:
            self.judge.settled(position, entry.key, entry.digest)
        self._settled(outcome)

    def _settled(self, outcome: str) -> None:
        self._parts.metrics.settled.labels(self.partition, outcome).inc()
        self.changed()

    def _shed(self, at_least: int) -> None:
        for lane in self._parts.rules.every_lane:
            lane.shed(self, at_least=at_least)

    def untold(self, digest: Digest) -> None:
        """What was told together is given up: what its sink has of its subjects is not known any more."""
        subjects = {member.subject for member in digest.members}
        self.judge.values.forget(digest.sink, subjects, now=self._now)

    # --- from rules to rules, and from life to life

    def follow(self) -> None:
        """Other rules may hold since now."""
        self.groups.follow(self._parts.rules.quiet, now=self._parts.clock())

    def restore(self, state: PartitionState, checkpoint: Watermark | None = None) -> None:
        """Goes on from what an earlier generation left."""
        self._progress = Progress.restore(state.progress, checkpoint=checkpoint)
        self.judge.restore(state)
        self.across.signs.restore(state.signs)
        self._unsettled = Unsettled(self._parts.clock, state.attempts)
        self._again = state.again
        self._caution = Caution(state, now=asyncio.get_running_loop().time())

    def snapshot(self) -> dict[str, Any]:
        """What the next generation must know: fields of the partition state."""
        watermark = self._progress.watermark
        through = watermark.sequence_number if watermark else None
        if self._again is not None and through is not None and through >= self._again.through:
            self._again = None
        self._given_up.saving()
        return {
            "progress": self._progress.snapshot(),
            "again": self._again,
            **self.judge.snapshot(through),
            "attempts": self._unsettled.attempts(),
            **self._caution.snapshot(),
            "signs": self.across.signs.snapshot(),
        }

    def saved(self) -> None:
        """The state of the last snapshot is stored."""
        self._given_up.saved()


def _judge(order: OrderSettings) -> Judge:
    memory_seconds = order.memory_hours * 3600
    if order.window_seconds != "auto":
        return Judge(window_seconds=order.window_seconds, memory_seconds=memory_seconds)
    window = AutoWindow(late_target=order.late_target, min_seconds=order.min_seconds, max_seconds=order.max_seconds)
    return Judge(window_seconds=window, memory_seconds=memory_seconds)


async def _saved(**_: object) -> bool:
    return True
