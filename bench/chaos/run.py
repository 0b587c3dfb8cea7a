"""One chaos run: a hub, a store, destinations and processes, traffic and faults at the same time; then the judgement.

What the faults are, `worker.local.chaos` and `stores` know; what is right, `judge`.
"""

import asyncio
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.chaos.contestants import (
    AUDIT,
    EXPIRY_SECONDS,
    GROUP,
    HUB,
    MAIL,
    ONCE,
    PLAIN,
    PROCESSES,
    WORKER,
    Command,
    loops,
    naive_expects,
    worker_expects,
    workers,
)
from bench.chaos.judge import Result, judge_run
from bench.chaos.receivers import Book, HttpReceiver, MailReceiver
from bench.chaos.stores import StoreKind, store_of
from worker.connections import hub_address
from worker.local.chaos import HUB_KINDS, PROCESS_KINDS, Chaos, Faults, Scene, Victim, plan
from worker.local.children import Child, Children, children
from worker.local.receiver import AuditTail
from worker.local.send import SEEDED_START, send
from worker.local.traffic import TrafficOptions, generate
from worker.stores import DeadLetter, HubScope

_PARTITIONS = 6
_KINDS = (*PROCESS_KINDS, *HUB_KINDS, *HUB_KINDS, *HUB_KINDS)
"""Links break more often than processes: one process in about 17 seconds is killed or frozen in the full run."""
_FASTEST = 300.0
"""Messages per second that two cores carry, with all that stands around the workers."""
_FAULT_SECONDS = 1.5
"""Between two faults at the least; closer together, nothing works long enough to be broken."""
_STORE_FAULT_EVERY = 16
"""One in so many faults is the store's."""
_STORE_SECONDS = (1.0, 5.0)
_STALLED_SECONDS = 60.0
_SETTLING_SECONDS = 240.0
"""After the traffic and the faults; what has not arrived by then is lost."""
_LISTEN_SECONDS = 15.0
_LOOK_SECONDS = 0.5
_SAY_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How large, and which."""

    events: int = 100_000
    faults: int = 250
    seed: int = 1
    store: str = "sqlite"
    doubled_percent: float = 1.0
    """What a destination without a key may see twice. A small run says little: one kill may double several events."""
    folder: Path = Path(".data/chaos")

    @property
    def seconds(self) -> float:
        """How long the traffic takes, and with it the faults."""
        return max(self.events / _FASTEST, self.faults * _FAULT_SECONDS)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one contestant's run came to."""

    contestant: str
    result: Result
    faults: Counter[str]
    missed: int
    """Of those: faults of links that nobody had at that moment."""
    moods: dict[str, Counter[str]]
    """By destination: how requests were treated."""
    sending_seconds: float
    settled_seconds: float
    """From the first message sent to the last movement."""


class Run:
    """One contestant's run."""

    def __init__(self, contestant: str, options: Options, say: Callable[[str], None]) -> None:
        self._contestant = contestant
        self._options = options
        self._say = say
        self._folder = options.folder / contestant.replace(" ", "-")
        self._messages = generate(_traffic(options))
        self._books = {sink: Book() for sink in ((AUDIT, PLAIN, ONCE, MAIL) if contestant == WORKER else (PLAIN,))}
        self._expects = worker_expects if contestant == WORKER else naive_expects
        self._waited_for = self._expected_ids()
        self._audit = AuditTail(self._books[AUDIT], self._folder / "audit.jsonl") if contestant == WORKER else None
        self._arrived = asyncio.Event()
        self._sent = 0
        self._seen: tuple[int, ...] = ()
        self._began = self._moved = 0.0
        self._disturbed: list[float] = []
        self._faults: Counter[str] = Counter()
        self._missed = 0

    async def run(self) -> Outcome:
        """Everything in its order; whatever happens, no process is left."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        options = self._options
        async with AsyncExitStack() as opened:
            plain = self._books[PLAIN]
            receiver = HttpReceiver(plain, self._books.get(ONCE, Book()), seed=options.seed)
            http = await opened.enter_async_context(receiver)
            smtp = await opened.enter_async_context(MailReceiver(self._books.get(MAIL, Book()), seed=options.seed))
            store = await opened.enter_async_context(store_of(options.store, self._folder))
            family = await opened.enter_async_context(children(self._folder))
            hub, admin = await _start_hub(family)
            if self._contestant == WORKER:
                commands = workers(self._folder, store, hub, http, smtp)
            else:
                commands = loops(store, hub, http)
            processes = [await _start(family, command) for command in commands]
            faults = await opened.enter_async_context(Faults(admin))
            await self._break_and_watch(hub, store, Chaos(faults, self._noted(processes), self._say))
            await family.stop(processes)
            letters = await _letters(store, hub)
        if self._audit:
            self._audit.read()
        result = judge_run(
            self._messages,
            self._expects,
            self._books,
            letters,
            disturbed=self._disturbed,
            may_double={AUDIT: options.doubled_percent, PLAIN: options.doubled_percent},
        )
        return Outcome(
            contestant=self._contestant,
            result=result,
            faults=self._faults,
            missed=self._missed,
            moods={sink: Counter(map(str, book.moods.elements())) for sink, book in self._books.items()},
            sending_seconds=options.seconds,
            settled_seconds=self._moved - self._began,
        )

    async def _break_and_watch(self, hub: str, store: StoreKind, chaos: Chaos) -> None:
        """Traffic and faults beside each other; returns when both are over and nothing is left to wait for."""
        self._began = self._moved = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            sending = send(
                self._messages,
                connection_string=hub,
                hub=HUB,
                rate=len(self._messages) / self._options.seconds,
                on_sent=self._count_sent,
            )
            breaking = [
                tasks.create_task(sending, name="send"),
                tasks.create_task(self._break(chaos), name="faults"),
                tasks.create_task(self._break_store(store), name="faults of the store"),
            ]
            tasks.create_task(self._watch(hub, store, breaking), name="watch")
        self._faults += chaos.done
        self._missed += chaos.missed.total()

    def _count_sent(self, count: int) -> None:
        self._sent += count

    async def _break(self, chaos: Chaos) -> None:
        options = self._options
        count = options.faults - _store_faults(options)
        await self._first_arrival()
        scene = Scene(
            processes=PROCESSES,
            partitions=_PARTITIONS,
            hub=HUB,
            group=GROUP,
            frozen_seconds=(EXPIRY_SECONDS + 2, EXPIRY_SECONDS + 6),
        )
        if count:
            planned = plan(options.seed, count, _KINDS, scene=scene, every_seconds=options.seconds / count)
            await chaos.run(planned)

    async def _first_arrival(self) -> None:
        """What does not work yet cannot be broken."""
        with suppress(TimeoutError):  # then it does not work at all, and what is missing will say so
            async with asyncio.timeout(_LISTEN_SECONDS):
                await self._arrived.wait()

    async def _break_store(self, store: StoreKind) -> None:
        options = self._options
        count = _store_faults(options)
        rng = random.Random(options.seed)  # noqa: S311 - chance, not secrecy
        await self._first_arrival()
        began = time.monotonic()
        for number in range(count):
            moment = began + (number + rng.random()) * options.seconds / count
            seconds = round(rng.uniform(*_STORE_SECONDS), 1)
            await asyncio.sleep(moment - time.monotonic())
            self._faults["store"] += 1
            self._say(f"{store.fault} for {seconds:g} s")
            await store.fail(seconds)

    async def _watch(self, hub: str, store: StoreKind, breaking: Sequence[asyncio.Task[None]]) -> None:
        """Returns when everything is where it should be, or nothing has moved for a while."""
        said = 0.0
        over: float | None = None
        while over is None or (await self._missing(hub, store) and self._may_still_come(over)):
            await asyncio.sleep(_LOOK_SECONDS)
            self._look()
            if time.monotonic() - said > _SAY_SECONDS:
                said = time.monotonic()
                self._say(self._progress())
            if over is None and all(task.done() for task in breaking):
                over = time.monotonic()

    def _may_still_come(self, over: float) -> bool:
        now = time.monotonic()
        if now - self._moved < _STALLED_SECONDS and now - over < _SETTLING_SECONDS:
            return True
        self._say(f"not all has come {now - over:.0f} seconds after the traffic: that is the end")
        return False

    def _look(self) -> None:
        if self._audit:
            self._audit.read()
        now = (self._sent, *(len(book.arrivals) for book in self._books.values()))
        if now != self._seen:
            self._seen, self._moved = now, time.monotonic()
        if self._books[PLAIN].arrivals:
            self._arrived.set()

    def _progress(self) -> str:
        counts = ", ".join(f"{sink} {book.events:,}" for sink, book in self._books.items())
        seconds = time.monotonic() - self._began
        return f"{self._contestant} {seconds:5.0f} s: sent {self._sent:,} of {len(self._messages):,}; {counts}"

    async def _missing(self, hub: str, store: StoreKind) -> bool:
        """Whether something has neither arrived nor become a dead letter."""
        missing = {
            (sink, event)
            for sink, book in self._books.items()
            for event in self._waited_for[sink] - {arrival.event_id for arrival in book.arrivals}
        }
        if self._contestant == WORKER:
            letters = await _letters(store, hub)
            missing -= {(letter.sink, letter.event_id) for letter in letters}
            malformed = sum(message.damage is not None for message in self._messages)
            return bool(missing) or sum(letter.sink is None for letter in letters) < malformed
        return bool(missing)

    def _expected_ids(self) -> dict[str, set[str]]:
        expected: dict[str, set[str]] = {sink: set() for sink in self._books}
        for message in self._messages:
            for event in message.events:
                for sink in self._expects(event):
                    expected[sink].add(event.id)
        return expected

    def _noted(self, processes: Sequence[Child]) -> list[Victim]:
        return [_Noted(process, self._disturbed) for process in processes]


class _Noted:
    """A process; when it is disturbed is written down."""

    def __init__(self, process: Child, disturbed: list[float]) -> None:
        self._process = process
        self._disturbed = disturbed

    @property
    def name(self) -> str:
        return self._process.name

    async def crash(self) -> None:
        self._disturbed.append(time.time())
        await self._process.crash()

    async def restart(self) -> None:
        await self._process.restart()

    def suspend(self) -> None:
        self._disturbed.append(time.time())
        self._process.suspend()

    def resume(self) -> None:
        self._disturbed.append(time.time())
        self._process.resume()


async def _start_hub(family: Children) -> tuple[str, str]:
    """Its connection string, and the address of its admin port."""
    arguments = ("--port", "0", "--hub", HUB, "--partitions", str(_PARTITIONS), "--admin-port", "0")
    hub = await family.start("hub", "local", "broker", *arguments, speaks=True)
    line = await hub.first_line(timeout_seconds=_LISTEN_SECONDS)
    found = re.search(r"admin port is (\S+): (Endpoint=\S+)", line)
    if not found:
        raise hub.failure(f"printed {line!r} instead of its admin port and connection string")
    return found[2], found[1]


async def _start(family: Children, command: Command) -> Child:
    return await family.start(command.name, *command.arguments, environment=command.environment, module=command.module)


async def _letters(store: StoreKind, hub: str) -> list[DeadLetter]:
    reader = store.open(HubScope(hub_address(hub).namespace, HUB, GROUP))
    try:
        await reader.open()
        return [letter async for letter in reader.dead_letters()]
    finally:
        await reader.aclose()


def _store_faults(options: Options) -> int:
    return options.faults // _STORE_FAULT_EVERY


def _traffic(options: Options) -> TrafficOptions:
    return TrafficOptions(
        count=options.events,
        started_at=SEEDED_START,
        disorder=50,
        duplicates_percent=2.0,
        malformed_percent=0.25,
        seed=options.seed,
    )
