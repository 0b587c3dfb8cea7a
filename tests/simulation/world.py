"""One run of a seed: processes, hub, store and destinations, what goes wrong with them, and the history of it all."""

import asyncio
import gc
import random as global_random
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any

import orjson

from tests.memory_store import Contents
from tests.simulation import faults, traffic
from tests.simulation.faults import Fault, Plan
from tests.simulation.history import SINK_BACK, SINK_REMOVED, Element, History, LifeEvent
from tests.simulation.hub import SimulatedHub, SimulatedLog
from tests.simulation.loop import WALL_CLOCK_OFFSET, Life, SimulationLoop, reproducible
from tests.simulation.metrics import SilentMetrics
from tests.simulation.setup import BALANCE_SECONDS, EXPIRY_SECONDS, LEASE_SECONDS, config, variant, without
from tests.simulation.sinks import Destination, SimulatedSink
from tests.simulation.store import SimulatedStore, Weather
from worker.deliver import Lane
from worker.health import Health
from worker.lanes import Lanes
from worker.lease import Leases
from worker.ledger import Ledger
from worker.process import Opened, Process
from worker.settings import SinkSettings
from worker.stores import Store
from worker.way import Way

PARTITIONS = 2
POISONED = 0.05
"""The share of runs with an event that ends every process that delivers it."""
SETTLE_SECONDS = 900.0
"""After the last fault everything must be done within this: a lane that was paused probes once a minute."""
STOP_SECONDS = 30.0


async def _inline(work: Any, *args: Any, **options: Any) -> Any:
    """As a thread would, a little later."""
    await asyncio.sleep(0.001)
    return work(*args, **options)


class World:
    """Everything of one run."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.loop = SimulationLoop()
        self.variant = variant(self.random, Random(f"options of {seed}"))
        self.config = config(self.variant)
        self.history = History(
            seed=seed,
            late_policy={
                traffic.PLAIN: "deliver",
                traffic.IDEMPOTENT: self.variant.late,
                traffic.LEDGER: "deliver",
                traffic.DIGEST: "deliver",
            },
            skips=(traffic.LEDGER, traffic.DIGEST) if self.variant.on_unknown == "skip" else (),
            limits={
                "in_flight": self.variant.in_flight,
                "held": self.variant.held,
                "concurrency": self.variant.concurrency,
            },
            sheds=self.variant.overflow == "dead_letter",
            lease_seconds=LEASE_SECONDS,
            latest=(traffic.IDEMPOTENT,) if self.variant.only else (),
            changed=(traffic.IDEMPOTENT,) if self.variant.changed else (),
        )
        self.contents = Contents()
        self.weather = Weather()
        self.log = SimulatedLog(PARTITIONS, self.history, self.loop, self.random)
        self.destinations = [
            Destination(name, idempotent=name == traffic.IDEMPOTENT)
            for name in (traffic.PLAIN, traffic.IDEMPOTENT, traffic.LEDGER, traffic.DIGEST)
        ]
        self.elements: dict[tuple[str, int], tuple[Element, ...]] = {}
        self.lives: list[Life] = []
        self._stops: dict[str, asyncio.Event] = {}
        self.poison = ""
        self._born = 0
        self._ending = False
        self._reloads = faults.reloads(Random(f"{seed} reloads"))  # its own: runs without any stay as they were
        self._wanted: dict[str, asyncio.Queue[str]] = {}
        self._ways = 0

    # --- processes

    def begin_life(self) -> None:
        """A process starts."""
        if self._ending:
            return
        self._born += 1
        life = Life(f"p{self._born}")
        self.lives.append(life)
        self._stops[life.name] = asyncio.Event()
        self._wanted[life.name] = asyncio.Queue()
        self.note(life, "started")
        self.loop.start(life, self._live(life))

    async def _live(self, life: Life) -> None:
        """What `app` does around a process."""
        try:
            leases = await self._run(life)
            await leases.release()
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError | GeneratorExit):
                self.note(life, "failed", _reason(error))
                self._end(life)
                self.loop.world(self.begin_life, delay=1.0)
            raise
        self.note(life, "stopped")
        self._end(life)

    def _end(self, life: Life) -> None:
        """Nothing of it runs any more, as when a process has exited."""
        if life in self.lives:
            self.lives.remove(life)
        self.loop.kill(life)

    async def _run(self, life: Life) -> Leases:
        clock = self.loop.time
        settings = self.config.worker
        metrics: Any = SilentMetrics(life.name, self.history, clock)
        store = SimulatedStore(life.name, self.contents, self.weather, self.history, loop=self.loop, random=self.random)
        leases = Leases(
            store,
            balance_seconds=BALANCE_SECONDS,
            expiry_seconds=EXPIRY_SECONDS,
            hand_over_seconds=settings.limits.hand_over_seconds,
            clock=clock,
            wall=self._wall,
        )
        way = partial(self._way, life=life, store=store, metrics=metrics)
        lanes = {each.name: self._lane(way(each), metrics) for each in self.config.sinks}
        hub = SimulatedHub(settings.source, self.log, self.random)
        health = Health(limit_seconds=30, clock=clock)
        opened = Opened(
            life.name,
            hub,
            store,
            leases,
            lanes,
            metrics,
            health,
            offload=_inline,
            clock=self._wall,
            reloads=partial(self._reload, life, way),
        )
        await Process(self.config, opened).run(self._stops[life.name])
        return leases

    async def _reload(self, life: Life, way: Callable[[SinkSettings], Way], lanes: Lanes) -> None:
        """What `reload` does, but for the files."""
        while True:
            wanted = await self._wanted[life.name].get()
            missing = {each.name for each in self.config.sinks} - lanes.rules.lanes.keys()
            config = without(self.config, wanted)
            anew = [each for each in config.sinks if not wanted or each.name in missing]
            lanes.exchange(config, {each.name: way(each) for each in anew})
            for sink in missing - {wanted}:
                self.note(life, SINK_BACK, sink)
            if wanted:
                self.note(life, SINK_REMOVED, wanted)
            self.note(life, "reloaded")

    def _way(self, settings: SinkSettings, *, life: Life, store: Store, metrics: Any) -> Way:
        [destination] = [each for each in self.destinations if each.name == settings.name]
        sink = SimulatedSink(
            destination,
            life,
            self.elements,
            self.history,
            self.loop,
            random=self.random,
            poison=self.poison,
            die=lambda dead: self._kill(dead, 0.5),
        )
        ledger = None
        if settings.uses_ledger:
            self._ways += 1
            by = f"{life.name}/{self._ways}"
            ledger = Ledger(store, settings, sink, by=by, metrics=metrics, clock=self._wall)
        return Way(settings, sink, ledger)

    def _lane(self, way: Way, metrics: Any) -> Lane:
        return Lane(
            way.settings,
            way.sink,
            give_up_after_seconds=self.config.give_up_after_seconds(way.settings),
            metrics=metrics,
            ledger=way.ledger,
            seed=self.random.getrandbits(32),
        )

    def _wall(self) -> float:
        return WALL_CLOCK_OFFSET + self.loop.time()

    def note(self, life: Life, what: str, detail: str = "") -> None:
        if self.loop.is_closed():
            return  # clean-up of what was killed long ago
        self.history.entries.append(LifeEvent(self.history.tick(), self.loop.time(), life.name, what, detail))
        self.history.counts[what] += 1

    # --- the run

    async def play(self) -> None:
        """Producers, processes and faults; then quiet; then the end."""
        began = self.loop.time()
        sent = traffic.sendings(self.random, partitions=PARTITIONS, starts_at=self._wall())
        self._poison(sent)
        for sending in sent:
            self.loop.world(self._send, sending, delay=sending.time)
        for number in range(self.random.choice((2, 2, 3))):
            self.loop.world(self.begin_life, delay=self.random.choice((0.0, 0.1, 1.0, 8.0)) * number)
        for plan in faults.plans(self.random):
            self.loop.world(self._strike, plan, delay=plan.time)
        for reload in self._reloads:
            self.loop.world(self._ask_for, reload, delay=reload.time)
            if reload.sink is not None and reload.refuses:
                destination = self._at(reload.sink)
                self.loop.world(setattr, destination, "refuses", True, delay=max(0.0, reload.time - 3))
                self.loop.world(setattr, destination, "refuses", False, delay=reload.time + reload.seconds)
        self._set_failures(0.02, 0.2)
        await asyncio.sleep(faults.SECONDS)
        self._set_failures(0.0, 0.0)
        deadline = began + faults.SECONDS + SETTLE_SECONDS
        while not self._settled() and self.loop.time() < deadline:
            await asyncio.sleep(0.5)
        self.history.settled = self._settled()
        await self._stop_all()
        self.history.virtual_seconds = self.loop.time() - began

    def _poison(self, sent: list[traffic.Sending]) -> None:
        """In some runs one event ends every process that delivers it."""
        if self.random.random() < POISONED:
            delivered = [each.uid for sending in sent for each in sending.elements if traffic.PLAIN in each.sinks]
            self.poison = self.history.poison = self.random.choice(delivered) if delivered else ""

    def _send(self, sending: traffic.Sending) -> None:
        self.log.append(sending.partition, sending.body, sending.elements)
        self.elements[sending.partition, self.log.partitions[sending.partition][-1].number] = sending.elements

    def _set_failures(self, store: float, sinks: float) -> None:
        self.weather.failures = store
        for destination in self.destinations:
            destination.failures = sinks

    def _settled(self) -> bool:
        """Whether every partition's checkpoint stands at its last message, and nothing waits to be told."""
        checkpoints = self.contents.checkpoints
        return (
            all(
                not log or (partition in checkpoints and checkpoints[partition].sequence_number == log[-1].number)
                for partition, log in self.log.partitions.items()
            )
            and not any(_waits_to_be_told(state.payload) for state in self.contents.states.values())
            and self._told_of_rows()
        )

    def _told_of_rows(self) -> bool:
        """No expectation across subjects is pending or being told, and the last silence was told."""
        marks = self.contents.row_marks.values()
        since = [float(mark.removeprefix("told/")) for mark in marks if mark.startswith("told/")]
        life = [at for state in self.contents.states.values() for at in _signs(state.payload)]
        waits = any(mark.startswith(("due/", "telling/")) for mark in marks)
        return bool(since) and max(life, default=0.0) <= max(since) and not waits

    async def _stop_all(self) -> None:
        self._ending = True
        for life in list(self.lives):
            self._stop(life)
        deadline = self.loop.time() + STOP_SECONDS
        while self.lives and self.loop.time() < deadline:
            await asyncio.sleep(0.5)
        for life in self.lives:
            self.history.errors.append(f"{life.name} did not stop within {STOP_SECONDS:g} s")

    def _stop(self, life: Life) -> None:
        if not self._stops[life.name].is_set():
            self.note(life, "stopping")
            self._stops[life.name].set()

    # --- faults

    def _strike(self, plan: Plan) -> None:
        self.history.counts[plan.fault.value] += 1
        match plan.fault:
            case Fault.KILL | Fault.FREEZE | Fault.STOP | Fault.CUT_OFF:
                if self.lives:
                    self._strike_life(self.lives[int(plan.victim * len(self.lives))], plan)
            case Fault.STORE_AWAY:
                self.weather.away = True
                self.loop.world(self._store_back, delay=plan.seconds)
            case Fault.LINK_DROPPED:
                self.log.drop_link(str(int(plan.victim * PARTITIONS)))
            case Fault.HUB_AWAY:
                self.log.go_away()
                self.loop.world(self.log.come_back, delay=plan.seconds)
            case Fault.SINK_AWAY | Fault.SINK_REFUSES:
                destination = self._at(plan.victim)
                attribute = "away" if plan.fault is Fault.SINK_AWAY else "refuses"
                setattr(destination, attribute, True)
                self.loop.world(setattr, destination, attribute, False, delay=plan.seconds)

    def _at(self, share: float) -> Destination:
        return self.destinations[int(share * len(self.destinations))]

    def _ask_for(self, reload: faults.Reload) -> None:
        if not self.lives:
            return
        life = self.lives[int(reload.victim * len(self.lives))]
        sink = "" if reload.sink is None else self._at(reload.sink).name
        self._wanted[life.name].put_nowait(sink)
        if sink:
            self.loop.world(self._wanted[life.name].put_nowait, "", delay=reload.seconds)

    def _store_back(self) -> None:
        self.weather.away = False

    def _strike_life(self, life: Life, plan: Plan) -> None:
        match plan.fault:
            case Fault.KILL:
                life.strike_after(plan.steps, lambda: self._kill(life, plan.seconds))
            case Fault.FREEZE:
                life.strike_after(plan.steps, lambda: self._freeze(life, plan.seconds))
            case Fault.STOP:
                self._stop(life)
                self.loop.world(self.begin_life, delay=plan.seconds)
            case Fault.CUT_OFF:
                self.weather.cut_off.add(life.name)
                self.loop.world(self.weather.cut_off.discard, life.name, delay=plan.seconds)

    def _kill(self, life: Life, seconds: float) -> None:
        self.note(life, "killed")
        self._end(life)
        self.loop.world(self.begin_life, delay=seconds)

    def _freeze(self, life: Life, seconds: float) -> None:
        self.note(life, "frozen")
        self.loop.freeze(life)
        self.loop.world(self._thaw, life, delay=seconds)

    def _thaw(self, life: Life) -> None:
        self.note(life, "thawed")
        self.loop.thaw(life)


def _signs(state: bytes) -> list[float]:
    return list(orjson.loads(state).get("signs", {}).values()) or [0.0]


def _waits_to_be_told(state: bytes) -> bool:
    """Something is held for a digest, or an expectation is pending or missed."""
    content = orjson.loads(state)
    waiting = [content.get(name) or {"rows": [], "parts": []} for name in ("digests", "expectations")]
    return any(each["rows"] or each["parts"] for each in waiting)


def _reason(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return " + ".join(_reason(each) for each in error.exceptions)
    return f"{type(error).__name__}: {error}"


def simulate(seed: int) -> History:
    """Plays the run of a seed. Deterministic: the same seed gives the same history."""
    return play_world(World(seed))


def play_world(world: World) -> History:
    """Plays a run that is prepared."""
    seed = world.history.seed
    state = global_random.getstate()
    collecting = gc.isenabled()
    gc.disable()  # nothing of a dead process may be collected, and so cleaned up, in the middle
    try:
        global_random.seed(seed)
        with reproducible(world.loop, Random(seed)):
            try:
                world.loop.run(world.play())
            finally:
                world.history.errors += world.loop.errors
                with suppress(Exception):
                    world.loop.dispose()
    finally:
        global_random.setstate(state)
        if collecting:
            gc.enable()
    return world.history
