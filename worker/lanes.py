"""The lanes of a process: runs them, and exchanges them with the rules.

A sink that stays keeps its lane; one that is configured anew keeps it too, and with it the order of its subjects. One
that is gone from the configuration drains, and then ends; when it comes back meanwhile, it has its lane again. So there
are never two lanes of one name. Sinks are built elsewhere (`app`); here they are closed when nobody uses them any more.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping

import structlog

from worker.config import Config
from worker.deliver import Lane
from worker.metrics import Metrics
from worker.rules import Rules, RuleSet
from worker.settings import SinkSettings
from worker.sinks import Sink
from worker.tracing import Tracing
from worker.way import Way

_log = structlog.get_logger()

_CLOSE_SECONDS = 10.0
"""How long a sink may take to close. Nothing of it is under way then, and a reload or the end of the process waits."""


async def close_sink(sink: Sink) -> None:
    """Closes a sink that is not needed any more, and therefore never fails."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await sink.aclose()
    except TimeoutError:
        _log.warning("sink not closed in time", kind=type(sink).__name__)
    except Exception:  # noqa: BLE001 - somebody else's sink may raise anything
        _log.exception("sink not closed as it should be")


class Lanes:
    """Runs the lanes of the rules in force."""

    def __init__(
        self,
        rules: Rules,
        *,
        drain_seconds: float,
        metrics: Metrics,
        close: Callable[[Sink], Awaitable[None]] = close_sink,
        tracing: Tracing | None = None,
    ) -> None:
        self.rules = rules
        self._drain_seconds = drain_seconds
        self._metrics = metrics
        self._close = close
        self._tracing = tracing
        self._tasks = asyncio.TaskGroup()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._draining: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Works until it is cancelled."""
        async with self._tasks:
            for lane in self.rules.lanes.values():
                self._start(lane)
            await asyncio.Event().wait()

    def _start(self, lane: Lane) -> None:
        self._running[lane.name] = self._tasks.create_task(lane.run(), name=f"lane {lane.name}")

    def exchange(self, config: Config, ways: Mapping[str, Way]) -> None:
        """From now on this configuration holds. `ways` has every sink that is new or configured anew, open.

        One step, in which nothing else runs; while `run` does.
        """
        before = self.rules.current.lanes
        lanes = {each.name: self._lane(config, each, ways.get(each.name)) for each in config.sinks}
        for name, lane in before.items():
            if name not in lanes:
                self._let_go(lane)
        self.rules.exchange(RuleSet.of(config, lanes))

    def _lane(self, config: Config, settings: SinkSettings, way: Way | None) -> Lane:
        name, give_up_after_seconds = settings.name, config.give_up_after_seconds(settings)
        lane = self.rules.lanes.get(name) or self._come_back(name)
        if lane is None:
            assert way is not None, "a sink without a lane is new"
            lane = Lane(
                settings,
                way.sink,
                give_up_after_seconds=give_up_after_seconds,
                metrics=self._metrics,
                ledger=way.ledger,
                seed=random.getrandbits(32),  # spreads retries; a simulation seeds it
                tracing=self._tracing,
            )
            self._start(lane)
        elif way is not None:
            before = lane.follow(way, give_up_after_seconds=give_up_after_seconds)
            self._tasks.create_task(self._retire(before), name=f"lane {name}, closing the sink before")
        return lane

    # --- sinks that are not configured any more

    def _let_go(self, lane: Lane) -> None:
        self.rules.leaving[lane.name] = lane
        self._draining[lane.name] = self._tasks.create_task(self._drain(lane), name=f"lane {lane.name}, draining")

    def _come_back(self, name: str) -> Lane | None:
        """The lane of a sink that was removed and is not quite gone."""
        lane = self.rules.leaving.pop(name, None)
        if lane is not None:
            self._draining.pop(name).cancel()
        return lane

    async def _drain(self, lane: Lane) -> None:
        await asyncio.sleep(self._drain_seconds)  # in full: what is held for digests is only just being closed
        lane.remove(f"the sink was taken out of the configuration {self._drain_seconds:g} s ago")
        await lane.until_empty()
        self._forget(lane)
        await self._retire(lane.way)

    def _forget(self, lane: Lane) -> None:
        """Without waiting for anything since it was seen to be empty: from now on the name is free."""
        del self.rules.leaving[lane.name], self._draining[lane.name]
        self._running.pop(lane.name).cancel()
        self._metrics.forget_sink(lane.name)
        _log.info("lane ended: its sink was removed", sink=lane.name)

    async def _retire(self, way: Way) -> None:
        await way.until_unused()
        await self._close(way.sink)
