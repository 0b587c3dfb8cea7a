"""One process's work once its parts are open: who claims, who delivers, who keeps watch, and in which order it ends.

It opens and closes nothing: `app` does, and so does whoever wants to play a process on a clock of his own.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from worker.board import Board
from worker.board import watch as watch_board
from worker.checkpoint import bring_back
from worker.claim import Claim
from worker.config import Config
from worker.deadletters import DeadLetterWriter, Expiry
from worker.deliver import Lane
from worker.errors import StoreUnavailable, WorkerError
from worker.events import PartitionId
from worker.expect import ExpectRule
from worker.health import Health
from worker.hub import Hub
from worker.lanes import Lanes, close_sink
from worker.lease import Leases
from worker.metrics import Metrics
from worker.noting import Noting
from worker.noting import settings as noting_settings
from worker.parts import Parts
from worker.replay import watch
from worker.reset import Positions
from worker.retry import until_available
from worker.rules import Rules, RuleSet
from worker.shown import Inside
from worker.sinks import Sink
from worker.source import Source
from worker.spread import Spread
from worker.stores import Store
from worker.tracing import Tracing

_log = structlog.get_logger()

_REQUESTS_SECONDS = 0.5
"""How often the worker looks whether somebody asks for one of its partitions."""
_MARGIN_SECONDS = 2.5
"""What the last writes and closing the client may take beyond the drain."""


class EndedEarly(WorkerError):
    """A task that works as long as the process returned: a bug, which must not go unnoticed."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What a process works with, open and ready."""

    name: str
    """Of the process; unique, for people and for claims."""
    hub: Hub
    store: Store
    leases: Leases
    lanes: Mapping[str, Lane]
    metrics: Metrics
    health: Health
    offload: Callable[..., Awaitable[Any]] = asyncio.to_thread
    """Runs a long computation where it does not hold up the event loop."""
    clock: Callable[[], float] = time.time
    """The wall clock."""
    close_sink: Callable[[Sink], Awaitable[None]] = close_sink
    """Closes a sink that is not needed any more."""
    reloads: Callable[[Lanes], Awaitable[None]] | None = None
    """Works as long as the process: exchanges the rules when they change."""
    shows: Callable[[Inside], Awaitable[None]] | None = None
    """Works as long as the process: lets it be looked at."""
    tracing: Tracing | None = None
    """None: it is off."""


class Process:
    """The tasks of one process."""

    def __init__(self, config: Config, opened: Opened) -> None:
        self._config = config
        self._opened = opened
        self._claims = 0
        self._letters = DeadLetterWriter(opened.store, opened.metrics)
        self._board = Board(
            opened.store, self._expect, lambda: opened.hub.partitions, metrics=opened.metrics, clock=opened.clock
        )
        self.lanes = Lanes(
            Rules(RuleSet.of(config, opened.lanes), own=[self._noting_lane()]),
            drain_seconds=config.worker.limits.drain_seconds,
            metrics=opened.metrics,
            close=opened.close_sink,
            tracing=opened.tracing,
        )
        self._parts = self._shared_parts()

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set; then drains and returns, in a bounded time."""
        opened, settings = self._opened, self._config.worker
        async with asyncio.TaskGroup() as tasks:

            def open_claim(partition: PartitionId) -> Claim:
                self._claims += 1
                claim = Claim(partition, f"{opened.name}/{self._claims}", self._parts)
                tasks.create_task(claim.run(), name=f"partition {partition}")
                return claim

            close_seconds = settings.limits.drain_seconds + _MARGIN_SECONDS
            source = Source(
                opened.hub, settings.source, opened.leases, open_claim, opened.metrics, close_seconds=close_seconds
            )
            working = [tasks.create_task(_forever(work, name), name=name) for name, work in self._lifelong(source)]
            working.append(tasks.create_task(source.run(lambda: self._reachable(stop)), name="source"))
            opened.health.set_ready("starting", ok=True)
            await stop.wait()
            _log.info("stopping", partitions=len(source.claims))
            opened.health.set_ready("stopping", ok=False, detail="draining")
            await source.hand_over()
            source.begin_stop()
            await source.stop()
            for task in working:
                task.cancel()

    def _lifelong(self, source: Source) -> list[tuple[str, Awaitable[None]]]:
        opened = self._opened

        def held() -> list[Claim]:
            return [each for each in source.claims.values() if each.held]

        spread = Spread(opened.store, held, metrics=opened.metrics, health=opened.health)
        expiry = Expiry(
            opened.store,
            opened.metrics,
            keep_days=self._config.worker.dead_letters.keep_days,
            ledger_keep_days=self._config.ledger_keep_days,
            clock=opened.clock,
        )
        return [
            ("dead letters", self._letters.run()),
            ("expiry", expiry.run()),
            ("requests", self._watch(source)),
            ("replays", watch(opened.store, lambda: [each.replays for each in held()])),
            ("subjects on several partitions", spread.run()),
            ("shared table", watch_board(self._board, lambda: self._look_at_board(source))),
            ("lanes", self.lanes.run()),
            *([("reloads", opened.reloads(self.lanes))] if opened.reloads else []),
            *([("overview", opened.shows(self._inside(source)))] if opened.shows else []),
        ]

    def _inside(self, source: Source) -> Inside:
        return Inside(claims=source.claims.values, rules=self.lanes.rules, letters=self._letters.recent)

    def _expect(self) -> Sequence[ExpectRule]:
        return self.lanes.rules.expect  # those of now

    def _noting_lane(self) -> Lane:
        """Of what expectations across subjects are about: into the shared table."""
        settings, metrics = noting_settings(), self._opened.metrics
        noting = Noting(self._board, self._expect, metrics)
        give_up_after_seconds = self._config.give_up_after_seconds(settings)
        seed = random.getrandbits(32)  # from where a simulation can seed it
        return Lane(settings, noting, give_up_after_seconds=give_up_after_seconds, metrics=metrics, seed=seed)

    def _look_at_board(self, source: Source) -> None:
        for claim in source.claims.values():
            claim.overdue.look()

    def _shared_parts(self) -> Parts:
        opened, settings = self._opened, self._config.worker
        return Parts(
            store=opened.store,
            scope=opened.hub.scope,
            board=self._board,
            rules=self.lanes.rules,
            dead_letters=self._letters,
            order=settings.order,
            limits=settings.limits,
            spoiled=settings.dead_letters,
            intervals=settings.store,
            metrics=opened.metrics,
            health=opened.health,
            lease_valid=opened.leases.valid,
            positions=Positions(opened.store, opened.hub, settings.source.on_invalid_offset),
            offload=opened.offload,
            clock=opened.clock,
            tracing=opened.tracing,
        )

    async def _reachable(self, stop: asyncio.Event) -> bool:
        opened = self._opened
        opened.health.set_ready("hub", ok=False, detail="not reached")
        found = await until_available(self._prepare, stop)
        opened.health.set_ready("hub", ok=found, detail="not reached")
        return found

    async def _prepare(self) -> None:
        opened = self._opened
        await bring_back(opened.store, opened.hub.scope)
        await opened.hub.prepare(opened.store)

    async def _watch(self, source: Source) -> None:
        """Looks for requests in the states of all partitions held here, with one query; and shows what is held."""
        opened = self._opened
        while True:
            opened.health.beat("requests")
            held = [each for each in source.claims.values() if each.held]
            opened.metrics.owned.set(len(held))
            opened.metrics.hub_partitions.set(len(opened.hub.partitions))
            if held:
                try:
                    versions = await opened.store.state_versions()
                    for claim in held:
                        await claim.look(versions.get(claim.partition))
                except StoreUnavailable as error:
                    _log.debug("requests not seen", error=str(error))  # the keeper says that the store is away
            await asyncio.sleep(_REQUESTS_SECONDS)


async def _forever(work: Awaitable[None], name: str) -> None:
    await work
    raise EndedEarly(f"{name} ended by itself")
