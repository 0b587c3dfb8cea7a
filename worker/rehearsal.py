"""Plays events through one partition's own pipeline, on a virtual clock, to sinks that only note what they are sent.

What decodes, recognises copies, orders, routes, and tells together is what runs in production, with the configured
window, memory, limits and quiet times. There is no hub, no store and no secret, and nothing is sent; where a sink can
show what it would send it does, so that a template that cannot be filled in makes the dead letter it would make.
Behind `worker test`.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from structlog.testing import capture_logs

from worker.alarms import Alarms
from worker.board import Board
from worker.config import Config
from worker.deadletters import DeadLetterWriter
from worker.decode import decode
from worker.deliver import Lane
from worker.events import Event, Message, PartitionId, UnixSeconds
from worker.feed import HubEnd
from worker.health import Health
from worker.metrics import Metrics
from worker.noting import Noting
from worker.noting import settings as noting_settings
from worker.outbox import Outbox
from worker.overdue import Overdue
from worker.parts import Parts
from worker.pipeline import Pipeline
from worker.route import Routes, Target
from worker.rules import Rules, RuleSet
from worker.settings import SinkSettings
from worker.sinks import Delivery, PreviewingSink, Sink
from worker.sinks.installed import find_kind
from worker.state import PartitionState
from worker.stores import DeadLetter, HubScope
from worker.stores.passing import Table
from worker.through import CLOCKS_SECONDS
from worker.virtual import VirtualTimeLoop

_PARTITION = PartitionId("0")
_MOMENT_SECONDS = 0.001
"""Between two messages. Also how long everything takes that needs no time: the clock goes on only when it is done."""
_LOOK_SECONDS = 1.0
_LONGEST_LOOK_SECONDS = 5.0
_LONGEST_SECONDS = 8 * 86_400.0
"""After the last message: longer than any mute window or group waits."""
_GIVE_UP_SECONDS = 3600.0
_NOT_HERE: Any = None
"""What only a claim of a partition asks for: here is none."""


@dataclass(frozen=True, slots=True)
class Came:
    """One delivery, or one dead letter."""

    at_seconds: float
    """Since the first message."""
    sink: str | None
    route: str | None
    event: Event | None
    """None where a message could not be decoded."""
    late_by_ms: int | None = None
    dead_letter: str | None = None
    """The reason; None: it was delivered."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Performance:
    """What came of a case."""

    came: list[Came] = field(default_factory=list)
    """In the order in which it came."""
    routed: list[Event] = field(default_factory=list)
    """The events whose turn came, in that order: no copies."""
    reached: set[str] = field(default_factory=set)
    """The routes that matched any of them."""
    settled: Counter[str] = field(default_factory=Counter)
    """How the events ended, of several sinks at the last one: delivered, duplicate, late_dropped, no_route, …"""


class Rehearsals:
    """The configuration, ready to be played on as often as wanted."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._sinks = {each.name: find_kind(each.kind).build(each, None) for each in config.sinks}

    def play(self, given: Iterable[bytes | float], *, starts_at: UnixSeconds) -> Performance:
        """What comes of these bodies of messages, and the seconds between them, in a worker that knows nothing yet."""
        with capture_logs(), asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            return runner.run(self._play(given, starts_at))

    async def _play(self, given: Iterable[bytes | float], starts_at: UnixSeconds) -> Performance:
        return await _Rehearsal(self._config, self._sinks, starts_at).play(given)


class _Rehearsal:
    """One partition, from its first message until nothing waits any more."""

    def __init__(self, config: Config, sinks: dict[str, Sink], starts_at: UnixSeconds) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._starts_at = starts_at
        self._performance = Performance()
        self._metrics = Metrics()
        letters: Any = _Letters(self)
        self._letters = DeadLetterWriter(letters, self._metrics)
        self._lanes = {name: self._lane(name, sink) for name, sink in sinks.items()}
        rules, table = config.routing.expect, Table()
        store: Any = table  # all that is wanted of one
        self._board = Board(store, lambda: rules, lambda: [_PARTITION], metrics=self._metrics, clock=self._clock)
        noting = Noting(self._board, lambda: rules, self._metrics)
        own = Lane(noting_settings(), noting, give_up_after_seconds=_GIVE_UP_SECONDS, metrics=self._metrics, seed=1)
        watched = _WatchedRoutes(config, self._performance)
        self._rules = Rules(replace(RuleSet.of(config, self._lanes), routes=watched), own=[own])
        self._parts = self._shared_parts(config)
        self._pipeline = Pipeline(_PARTITION, self._parts)
        self._outbox = Outbox(_PARTITION, self._parts, self._pipeline.groups, look_seconds=_LONGEST_SECONDS)
        self._alarms = Alarms(_PARTITION, self._parts, self._pipeline.groups)
        self._overdue = Overdue(
            _PARTITION,
            self._board,
            self._pipeline.across.signs,
            through=self._pipeline.through.noted,
            submit=lambda missed: self._alarms.tell([missed]),
            metrics=self._metrics,
            clock=self._clock,
        )
        self._pipeline.missed = self._alarms.missed
        self._pipeline.joined = self._alarms.joined = self._outbox.joined
        self._outbox.untold = self._pipeline.untold
        self._pipeline.restore(PartitionState(generation=1, owner="rehearsal"))
        self._messages = 0

    def _lane(self, name: str, sink: Sink) -> Lane:
        # Without its rate and pauses, which say when and not what.
        settings = SinkSettings(name=name, kind="rehearsal")
        recorder = _Recorder(self, sink)
        return Lane(settings, recorder, give_up_after_seconds=_GIVE_UP_SECONDS, metrics=self._metrics, seed=1)

    def _shared_parts(self, config: Config) -> Parts:
        source, settings = config.worker.source, config.worker
        return Parts(
            store=_NOT_HERE,
            positions=_NOT_HERE,
            scope=HubScope("rehearsal", source.hub, source.consumer_group),
            board=self._board,
            rules=self._rules,
            dead_letters=self._letters,
            order=settings.order,
            limits=settings.limits,
            spoiled=settings.dead_letters,
            intervals=settings.store,
            metrics=self._metrics,
            health=Health(limit_seconds=_LONGEST_SECONDS, clock=self._loop.time),
            lease_valid=lambda _: True,
            clock=self._clock,
        )

    def _clock(self) -> float:
        return self._starts_at + self.seconds

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self._loop.time() - self._began

    async def play(self, given: Iterable[bytes | float]) -> Performance:
        """All of it."""
        lanes = (lane.run() for lane in self._rules.every_lane)
        async with asyncio.TaskGroup() as tasks:
            working = [
                tasks.create_task(work)
                for work in (self._pipeline.read(), self._outbox.run(), self._alarms.run(), self._overdue.run())
            ]
            working += [tasks.create_task(work) for work in (self._letters.run(), *lanes)]
            await self._look_at_table()  # so that silences begin
            for step in given:
                await self._take(step)
            await self._let_end()
            for task in working:
                task.cancel()
        self._count_settled()
        return self._performance

    def _count_settled(self) -> None:
        for metric in self._metrics.settled.collect():
            for sample in metric.samples:
                if sample.name.endswith("_total"):
                    self._performance.settled[sample.labels["outcome"]] += int(sample.value)

    async def _take(self, step: bytes | float) -> None:
        if not isinstance(step, bytes):
            await self._wait(step)
            return
        self._messages += 1
        number = self._messages
        message = Message(_PARTITION, number, str(number), UnixSeconds(self._clock()), step)
        await self._pipeline.feed.put([message], None)
        await asyncio.sleep(_MOMENT_SECONDS)

    async def _wait(self, seconds: float) -> None:
        """Time goes by, with nothing more in the hub; what is missed meanwhile is found when it is due."""
        until = self._clock() + seconds
        await self._look_at_table()
        while (left := until - self._clock()) > 0:
            dues = [due for due in (self._pipeline.expectations.next_due(), self._board.next_due) if due is not None]
            until_due = min(dues) - self._clock() + _MOMENT_SECONDS if dues else _LONGEST_LOOK_SECONDS
            await asyncio.sleep(min(left, max(until_due, _MOMENT_SECONDS), _LONGEST_LOOK_SECONDS))
            self._find_missed()
            await self._look_at_table()

    def _find_missed(self) -> None:
        asked_at = UnixSeconds(self._clock() + CLOCKS_SECONDS)  # by the one clock that there is
        self._pipeline.feed.end = HubEnd(self._messages, empty=False, asked_at=asked_at)
        self._pipeline.look_for_missed()

    async def _look_at_table(self) -> None:
        """What a process does every few seconds, and a claim with each save of its state."""
        if self._board.rules:
            self._overdue.snapshot()
            await self._overdue.write(None)
            await self._overdue.stored()
            await self._board.look()
            self._overdue.look()
            await asyncio.sleep(_MOMENT_SECONDS)

    async def _let_end(self) -> None:
        groups, until = self._pipeline.groups, self._loop.time() + _LONGEST_SECONDS
        while self._loop.time() < until:
            await asyncio.sleep(_MOMENT_SECONDS)
            if self._pipeline.judge.orderer.held:
                await asyncio.sleep(_LOOK_SECONDS)
            elif any(each.held for each in groups):
                due = min(each.oldest_due() for each in groups) - self._clock()
                await asyncio.sleep(min(max(due, _LOOK_SECONDS), _LONGEST_SECONDS))
            else:
                return

    def note(self, came: Came) -> None:
        """Something came."""
        self._performance.came.append(came)


class _Recorder:
    """Stands in for a sink: notes what that would be sent."""

    def __init__(self, rehearsal: _Rehearsal, sink: Sink) -> None:
        self._rehearsal = rehearsal
        self._previewing = sink if isinstance(sink, PreviewingSink) else None

    async def open(self) -> None:
        """Nothing to acquire."""

    async def deliver(self, delivery: Delivery) -> None:
        """Notes it. Raises Rejected where the sink could not make a message of it."""
        if self._previewing is not None:
            self._previewing.preview(delivery)
        released = delivery.released
        came = Came(self._rehearsal.seconds, delivery.sink, delivery.route, released.placed.event, released.late_by_ms)
        self._rehearsal.note(came)

    async def aclose(self) -> None:
        """Nothing to release."""


class _Letters:
    """Stands in for the store, of which only dead letters are wanted."""

    def __init__(self, rehearsal: _Rehearsal) -> None:
        self._rehearsal = rehearsal

    async def put_dead_letters(self, letters: list[DeadLetter]) -> None:
        """Notes them."""
        for each in letters:
            came = Came(
                self._rehearsal.seconds,
                each.sink,
                each.route,
                _event_of(each),
                dead_letter=each.reason,
                detail=each.detail,
            )
            self._rehearsal.note(came)


def _event_of(letter: DeadLetter) -> Event | None:
    message = Message(letter.partition, 0, "0", letter.enqueued_at, letter.body, letter.content_type)
    elements = decode(message)
    element = elements[letter.index or 0] if elements else None
    return element if isinstance(element, Event) else None


class _WatchedRoutes(Routes):
    """The configured routes, which note what they are asked."""

    def __init__(self, config: Config, performance: Performance) -> None:
        super().__init__(config.routing.specs)
        self._performance = performance

    def match(self, event: Event) -> tuple[Target, ...]:
        """As always."""
        self._performance.routed.append(event)
        self._performance.reached.update(verdict.route for verdict in self.explain(event) if verdict.matched)
        return super().match(event)
