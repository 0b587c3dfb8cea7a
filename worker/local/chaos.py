"""Makes things go wrong on purpose: a plan of faults from a seed, and who carries it out.

Faults of the hub go through its admin port, faults of processes through whoever keeps them. What happens to the events
is judged elsewhere; here nothing is known of them.
"""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import aiohttp

from worker.errors import WorkerError

KILL, SUSPEND = "kill", "suspend"
PROCESS_KINDS = (KILL, SUSPEND)
HUB_KINDS = ("drop", "detach", "blackhole", "repeat", "refuse", "delay")
"""Of the admin port's kinds, those after which a consumer group must go on as if nothing had happened."""
KINDS = (*PROCESS_KINDS, *HUB_KINDS)

# What a receiver's link may be closed with at any time by the real service.
_CONDITIONS = ("com.microsoft:server-busy", "amqp:link:detach-forced", "amqp:internal-error", "com.microsoft:timeout")
_LATER = frozenset({"refuse"})
"""These wait for somebody to come."""
_ANSWER_SECONDS = 10.0
_DOWN_SECONDS = (0.2, 3.0)
"""How long a killed process stays away."""
_RESTART_SECONDS = 4.0
"""How long a started one needs until it works: it gets no other fault before."""


class ChaosFailed(WorkerError):
    """A fault could not be made: what was asked of the hub, and what it said."""


class HubFault(NamedTuple):
    """One or more requests to the admin port, sent one after the other."""

    kind: str
    requests: tuple[Mapping[str, Any], ...]
    text: str
    """For people."""


class ProcessFault(NamedTuple):
    """A process that is killed and started again, or frozen and thawed."""

    kind: str
    process: int
    """Its place in the list of processes."""
    seconds: float
    """How long it is away."""


Fault = HubFault | ProcessFault


class Planned(NamedTuple):
    """A fault and its moment."""

    after_seconds: float
    """Since the plan began."""
    fault: Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What there is that can break."""

    processes: int
    partitions: int
    hub: str | None = None
    """None: all hubs of the broker."""
    group: str | None = None
    """None: all consumer groups."""
    frozen_seconds: tuple[float, float] = (12.0, 16.0)
    """How long a suspended process sleeps, from and to: longer than the ownership expiry, or it proves little."""


def plan(
    seed: int, count: int, kinds: Sequence[str] = KINDS, *, scene: Scene, every_seconds: float = 2.0
) -> list[Planned]:
    """So many faults, one every so often; the same arguments make the same plan.

    All kinds come in turn. A process that is away gets no second fault, and where there are several, one is always left
    to work: meanwhile kinds of the hub's come instead or, where none is wanted, the plan waits.
    """
    return _Planner(random.Random(seed), tuple(kinds), scene).plan(count, every_seconds)


class _Planner:
    def __init__(self, rng: random.Random, kinds: tuple[str, ...], scene: Scene) -> None:
        unknown = set(kinds) - set(KINDS)
        if unknown or not kinds:
            raise ValueError(f"unknown kinds of faults {sorted(unknown)}: there are {', '.join(KINDS)}")
        self._rng = rng
        self._kinds = kinds
        self._hub_kinds = tuple(kind for kind in kinds if kind in HUB_KINDS)
        self._bag: list[str] = []
        self._scene = scene
        self._back_at = [0.0] * scene.processes

    def plan(self, count: int, every_seconds: float) -> list[Planned]:
        planned = []
        for number in range(count):
            # Not at the same distance each time, or the faults march in step with the balancing of the workers.
            moment = (number + self._rng.uniform(0.2, 0.8)) * every_seconds
            if not self._hub_kinds:
                moment = max(moment, self._process_free_at())
            planned.append(Planned(round(moment, 3), self._fault(moment)))
        return planned

    def _process_free_at(self) -> float:
        """When one process may get a fault: where there are several, when a second one works."""
        return sorted(self._back_at)[:2][-1]

    def _fault(self, moment: float) -> Fault:
        kind = self._next(self._kinds if self._process_free_at() <= moment else self._hub_kinds)
        if kind not in PROCESS_KINDS:
            return self._hub_fault(kind)
        free = [process for process, back_at in enumerate(self._back_at) if back_at <= moment]
        return self._process_fault(kind, self._rng.choice(free), moment)

    def _next(self, possible: Sequence[str]) -> str:
        """One of these kinds, as from a bag that is filled again when none of them is left in it."""
        if not any(kind in possible for kind in self._bag):
            self._bag += [kind for kind in self._rng.sample(self._kinds, len(self._kinds)) if kind not in self._bag]
        kind = next(kind for kind in self._bag if kind in possible)
        self._bag.remove(kind)
        return kind

    def _process_fault(self, kind: str, process: int, moment: float) -> ProcessFault:
        away = round(self._rng.uniform(*(_DOWN_SECONDS if kind == KILL else self._scene.frozen_seconds)), 2)
        self._back_at[process] = moment + away + _RESTART_SECONDS
        return ProcessFault(kind, process, away)

    def _hub_fault(self, kind: str) -> HubFault:
        partition = self._rng.randrange(self._scene.partitions)
        where = {"link": "receiver", "partition": str(partition)}
        where |= {name: value for name in ("hub", "group") if (value := getattr(self._scene, name)) is not None}
        fields, text = self._details(kind)
        first = {"kind": kind, **where, **fields}
        # A repetition shows when the receiver comes back, so it is sent away.
        requests = (first, {"kind": "drop", **where}) if kind == "repeat" else (first,)
        return HubFault(kind, requests, f"{text} of partition {partition}")

    def _details(self, kind: str) -> tuple[dict[str, Any], str]:
        rng = self._rng
        match kind:
            case "drop":
                return {}, "drop the receiver's connection"
            case "detach":
                condition = rng.choice(_CONDITIONS)
                return {"condition": condition}, f"detach with {condition} the receiver"
            case "repeat":
                messages = rng.randint(20, 400)
                return {"messages": messages, "times": 1}, f"repeat {messages} messages after a reconnect"
            case "delay":
                milliseconds, seconds = rng.randint(50, 400), round(rng.uniform(2, 5), 1)
                fields = {"milliseconds": milliseconds, "seconds": seconds}
                return fields, f"delay by {milliseconds} ms for {seconds:g} s the frames"
            case "refuse":
                seconds = round(rng.uniform(2, 6), 1)
                return {"on": "attach", "seconds": seconds}, f"refuse with server-busy for {seconds:g} s the receivers"
            case _:
                seconds = round(rng.uniform(3, 9), 1)
                return {"seconds": seconds}, f"black-hole for {seconds:g} s the receiver's connection"


def admin_url_in(announcement: str) -> str:
    """The admin port's address in the line that `worker local broker --admin-port` prints first."""
    found = re.search(r"http://[0-9.]+:[0-9]+", announcement)
    if found is None:
        raise ChaosFailed(f"the hub names no admin port: {announcement!r}")
    return found[0]


class Faults:
    """The hub's admin port as a client sees it; a context."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def make(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Makes a fault, as in `make("drop", partition="0")`; gives it back as the hub lists it."""
        return await self._ask("POST", "/faults", {"kind": kind, **fields})

    async def list(self) -> list[dict[str, Any]]:
        """The lasting faults that are on."""
        return list((await self._ask("GET", "/faults"))["faults"])

    async def lift(self, fault_id: int) -> None:
        """Ends one lasting fault."""
        await self._ask("DELETE", f"/faults/{fault_id}")

    async def lift_all(self) -> None:
        """Ends them all."""
        await self._ask("DELETE", "/faults")

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        assert self._session is not None, "Faults is a context: async with Faults(url) as faults"
        asked = f"{method} {self._url}{path}" + (f" {dict(body)}" if body else "")
        try:
            async with self._session.request(method, self._url + path, json=body) as answer:
                content = await answer.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ChaosFailed(f"the hub's admin port does not answer {asked}: {error!r}") from None
        if not answer.ok:
            raise ChaosFailed(f"the hub's admin port refuses {asked}: {content.get('error', content)}")
        return dict(content)


class Victim(Protocol):
    """A process that can be broken; `worker.local.children.Child` is one."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    async def crash(self) -> None:
        """Kills it with SIGKILL, and returns when it is gone."""
        ...

    async def restart(self) -> None:
        """Starts it again after a crash."""
        ...

    def suspend(self) -> None:
        """Freezes it."""
        ...

    def resume(self) -> None:
        """Thaws it."""
        ...


class Chaos:
    """Carries a plan out. All processes work again, and all faults of the hub are lifted, when `run` ends by itself."""

    def __init__(self, hub: Faults, processes: Sequence[Victim], say: Callable[[str], None] = lambda _: None) -> None:
        self.done: Counter[str] = Counter()
        """How many of each kind have begun."""
        self.missed: Counter[str] = Counter()
        """Those of them that met no connection: their receiver was just away, because of another fault."""
        self._hub = hub
        self._processes = processes
        self._say = say

    async def run(self, planned: Iterable[Planned]) -> None:
        """Every fault at its moment, those that last beside each other; raises ChaosFailed when one cannot be made."""
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.TaskGroup() as tasks:
                for each in planned:
                    await asyncio.sleep(began + each.after_seconds - clock())
                    self.done[each.fault.kind] += 1
                    tasks.create_task(self._make(each.fault), name=f"fault {each.fault.kind}")
        except ExceptionGroup as group:
            # The first tells why; what else failed did so with the same hub or process.
            raise group.exceptions[0] from None
        await self._hub.lift_all()

    async def _make(self, fault: Fault) -> None:
        number = f"fault {self.done.total():>3}  "
        if isinstance(fault, HubFault):
            made = [await self._hub.make(**request) for request in fault.requests]
            met = any(each["affected"] for each in made) or fault.kind in _LATER
            self.missed[fault.kind] += not met
            self._say(f"{number}{fault.text}{'' if met else ': nobody is there'}")
            return
        process = self._processes[fault.process]
        if fault.kind == KILL:
            self._say(f"{number}kill {process.name}, start it again after {fault.seconds:g} s")
            await self._kill(process, fault.seconds)
        else:
            self._say(f"{number}suspend {process.name} for {fault.seconds:g} s")
            await self._suspend(process, fault.seconds)

    @staticmethod
    async def _kill(process: Victim, seconds: float) -> None:
        await process.crash()
        await asyncio.sleep(seconds)
        await process.restart()

    @staticmethod
    async def _suspend(process: Victim, seconds: float) -> None:
        process.suspend()
        try:
            await asyncio.sleep(seconds)
        finally:
            process.resume()
