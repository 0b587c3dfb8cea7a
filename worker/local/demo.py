"""`worker demo`: the main job on this machine, from a hub to the destinations, verified at the end.

It starts a local hub, workers as a user would deploy them, and an HTTP receiver; sends traffic with the Event Hubs SDK;
and compares what the destinations and the dead-letter store hold with what was sent. The comparison is in `verdict`.
"""

import asyncio
import logging
import math
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from worker.connections import hub_address
from worker.errors import WorkerError
from worker.local.chaos import Chaos, Faults, Planned, Scene, admin_url_in, plan
from worker.local.children import Child, Children, children
from worker.local.deployment import (
    AUDIT,
    CONNECTION_STRING_ENV,
    HUB,
    OWNERSHIP_EXPIRY_SECONDS,
    TEAM,
    Deployed,
    Scraper,
    expected_sinks,
    write_configuration,
)
from worker.local.receiver import AuditTail, Receiver, Record
from worker.local.send import SEEDED_START, send
from worker.local.traffic import TrafficMessage, TrafficOptions, generate
from worker.local.verdict import Letter, Verdict, judge
from worker.local.view import PartitionView, Snapshot, View, verdict_table
from worker.stores import HubScope
from worker.stores.sqlite import SqliteStore

FOLDER = Path(".data/demo")

_PARTITIONS = 4
_DISORDER = 50
_DUPLICATES_PERCENT = 2.0
_MALFORMED_PERCENT = 0.25
_RATE = 1500.0
"""Messages per second: what two cores carry beside the hub, the receiver and the view."""
_LISTEN_SECONDS = 15.0
_SHARE_SECONDS = 30.0
_STALLED_SECONDS = 20.0
_STALLED_IN_CHAOS_SECONDS = 60.0
"""Longer than a frozen owner, its expiry and a hand-over in a row."""
_FAULT_SECONDS = 2.0
_FEWEST_FAULTS = 12
_LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """How large, and which."""

    events: int = 20_000
    workers: int = 2
    seed: int = 1
    chaos: bool = False
    """Whether faults happen meanwhile: to the workers, and between them and the hub."""


class DemoFailed(WorkerError):
    """The demo could not be carried to its end."""


def main(options: DemoOptions) -> int:
    """Runs the demo: 0 when everything arrived in order, else 1."""
    # What the SDK logs on its way to an error stands in the error.
    logging.getLogger("azure.eventhub").setLevel(logging.CRITICAL)
    try:
        return asyncio.run(_until_signal(options))
    except (asyncio.CancelledError, KeyboardInterrupt):
        print("stopped before the end; nothing is left running")  # noqa: T201 - the result of the command
        return 1


async def _until_signal(options: DemoOptions) -> int:
    """Ctrl-C cancels by itself; SIGTERM is made to do the same, so that no child is left."""
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    verdict = await Demo(options).run()
    return 0 if verdict.is_right else 1


class Demo:
    """One run: its traffic, its records, its view."""

    def __init__(self, options: DemoOptions) -> None:
        self._options = options
        self._messages = generate(_traffic(options))
        self._records = {AUDIT: Record(), TEAM: Record()}
        self._expected = _count_expected(self._messages)
        self._audit = AuditTail(self._records[AUDIT], FOLDER / "audit.jsonl")
        self._view = View()
        self._sent = 0
        self._plan = _plan(options, len(self._messages))
        self._faults: Counter[str] = Counter()
        self._missed = 0
        self._calm = asyncio.Event()
        self._began = time.monotonic()

    async def run(self) -> Verdict:
        """Everything in its order; whatever happens, no child is left."""
        _clear(FOLDER)
        with self._view:
            async with AsyncExitStack() as opened:
                received = opened.enter_context((FOLDER / "received.jsonl").open("wb"))
                url = await opened.enter_async_context(Receiver(self._records[TEAM], received))
                family = await opened.enter_async_context(children(FOLDER))
                announcement = await self._start_hub(family)
                connection_string = announcement[announcement.index("Endpoint=") :]
                store = _store(connection_string)
                opened.push_async_callback(store.aclose)
                deployed, workers = await self._start_workers(family, url, connection_string)
                scraper = Scraper(await opened.enter_async_context(aiohttp.ClientSession()), deployed, _PARTITIONS)
                await self._wait_until_shared(scraper)
                await store.open()
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._send(connection_string), name="send")
                    tasks.create_task(self._break(announcement, workers), name="chaos")
                    tasks.create_task(self._watch(store, scraper), name="watch")
                await self._wait_until_up(scraper)
                await family.stop(workers)
                self._audit.read()
                letters = [Letter(letter.body, letter.sink) async for letter in store.dead_letters()]
        arrivals = {sink: record.arrivals for sink, record in self._records.items()}
        verdict = judge(self._messages, expected_sinks, arrivals, letters)
        self._conclude(verdict)
        return verdict

    async def _start_hub(self, family: Children) -> str:
        arguments = ["local", "broker", "--port", "0", "--hub", HUB, "--partitions", str(_PARTITIONS)]
        if self._plan:
            arguments += ["--admin-port", "0"]
        hub = await family.start("hub", *arguments, speaks=True)
        line = await hub.first_line(timeout_seconds=_LISTEN_SECONDS)
        if "Endpoint=" not in line:
            raise hub.failure("printed no connection string")
        return line

    async def _start_workers(
        self, family: Children, receiver_url: str, connection_string: str
    ) -> tuple[list[Deployed], list[Child]]:
        names = [f"worker-{number}" for number in range(1, self._options.workers + 1)]
        deployed = [write_configuration(FOLDER, name, receiver_url) for name in names]
        environment = {CONNECTION_STRING_ENV: connection_string}
        started = [
            await family.start(each.name, "run", "--config", str(each.config), environment=environment)
            for each in deployed
        ]
        self._view.say(f"hub        {hub_address(connection_string).namespace}, {HUB}, {_PARTITIONS} partitions")
        self._view.say(f"receiver   {receiver_url}")
        for each, child in zip(deployed, started, strict=True):
            self._view.say(f"{each.name:<10} pid {child.pid}, {each.metrics_url}, {each.config}")
        self._view.say(f"files      {FOLDER}/: audit.jsonl, received.jsonl, worker.db, *.log")
        return deployed, started

    async def _wait_until_shared(self, scraper: Scraper) -> None:
        """Sending begins when each partition has an owner, and each worker a partition."""
        began = time.monotonic()
        sharing = min(self._options.workers, _PARTITIONS)
        while True:
            partitions = await scraper.partitions()
            self._show("workers share the partitions", partitions)
            owners = {each.owner for each in partitions}
            if None not in owners and len(owners) == sharing:
                return
            if time.monotonic() - began > _SHARE_SECONDS:
                raise DemoFailed(
                    f"the workers did not share the partitions within {_SHARE_SECONDS:.0f} seconds; "
                    f"see {FOLDER}/worker-*.log"
                )
            await asyncio.sleep(_LOOK_SECONDS)

    async def _send(self, connection_string: str) -> None:
        # No faster than the faults come, so that they meet traffic.
        rate = min(_RATE, len(self._messages) / (len(self._plan) * _FAULT_SECONDS)) if self._plan else _RATE
        await send(self._messages, connection_string=connection_string, hub=HUB, rate=rate, on_sent=self._count_sent)

    async def _break(self, announcement: str, workers: Sequence[Child]) -> None:
        if self._plan:
            async with Faults(admin_url_in(announcement)) as hub:
                chaos = Chaos(hub, workers, say=self._view.say)
                await chaos.run(self._plan)
            self._faults, self._missed = chaos.done, chaos.missed.total()
        self._calm.set()

    async def _wait_until_up(self, scraper: Scraper) -> None:
        """One that was just started after a fault would not hear yet that it is to stop."""
        began = time.monotonic()
        while not await scraper.all_answer():
            if time.monotonic() - began > _SHARE_SECONDS:
                raise DemoFailed(f"a worker does not answer {_SHARE_SECONDS:.0f} seconds; see {FOLDER}/worker-*.log")
            await asyncio.sleep(_LOOK_SECONDS)

    def _count_sent(self, count: int) -> None:
        self._sent += count

    async def _watch(self, store: SqliteStore, scraper: Scraper) -> None:
        """Returns when everything is where it should be, or nothing has moved for a while."""
        malformed = sum(message.damage is not None for message in self._messages)
        patience = _STALLED_IN_CHAOS_SECONDS if self._plan else _STALLED_SECONDS
        seen: tuple[int, ...] = ()
        moved = time.monotonic()
        while True:
            self._audit.read()
            letters = sum([1 async for _ in store.dead_letters()])
            delivered = {sink: record.events for sink, record in self._records.items()}
            self._show("events are sent and delivered", await scraper.partitions())
            now = (self._sent, letters, *(len(record.arrivals) for record in self._records.values()))
            if now != seen:
                seen, moved = now, time.monotonic()
            done = self._calm.is_set() and self._sent == len(self._messages) and letters >= malformed
            if done and all(delivered[sink] >= count for sink, count in self._expected.items()):
                return
            if self._calm.is_set() and time.monotonic() - moved > patience:
                self._view.say(f"nothing has moved for {patience:.0f} seconds: that is the end")
                return
            await asyncio.sleep(_LOOK_SECONDS)

    def _show(self, doing: str, partitions: Sequence[PartitionView]) -> None:
        self._view.show(
            Snapshot(
                seconds=time.monotonic() - self._began,
                doing=doing,
                sent=self._sent,
                to_send=len(self._messages),
                delivered={sink: (record.events, self._expected[sink]) for sink, record in self._records.items()},
                partitions=partitions,
            )
        )

    def _conclude(self, verdict: Verdict) -> None:
        self._view.say(
            f"sent {verdict.sent_messages:,} messages: {verdict.sent_events:,} events, "
            f"{verdict.resent:,} copies of them, {verdict.malformed:,} malformed"
        )
        self._view.console.print(verdict_table(verdict))
        if self._faults:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self._faults.items()))
            missed = f"; {self._missed} of them met nobody" if self._missed else ""
            self._view.say(f"{self._faults.total()} faults: {kinds}{missed}")
            self._view.say(_doubled(verdict))
        seconds = time.monotonic() - self._began
        said = "everything arrived, in order" if verdict.is_right else "NOT as promised: see the table and the logs"
        self._view.say(f"{said} ({seconds:.1f} s, seed {self._options.seed}); files are in {FOLDER}/")


def _doubled(verdict: Verdict) -> str:
    doubled = sum(sink.doubled for sink in verdict.sinks)
    expected = sum(sink.expected for sink in verdict.sinks)
    changed = sum(sink.doubled_under_another_key for sink in verdict.sinks)
    if not doubled:
        return f"none of {expected:,} deliveries doubled"
    keys = f"{changed:,} of them under another key" if changed else "each under the same idempotency key"
    return f"{doubled:,} of {expected:,} deliveries doubled ({doubled / expected:.2%}), {keys}"


def _plan(options: DemoOptions, messages: int) -> list[Planned]:
    """Faults as long as traffic flows at full rate, and a dozen at least."""
    if not options.chaos:
        return []
    count = max(_FEWEST_FAULTS, math.ceil(messages / _RATE / _FAULT_SECONDS))
    frozen = (OWNERSHIP_EXPIRY_SECONDS + 2.0, OWNERSHIP_EXPIRY_SECONDS + 5.0)
    scene = Scene(processes=options.workers, partitions=_PARTITIONS, hub=HUB, frozen_seconds=frozen)
    return plan(options.seed, count, scene=scene, every_seconds=_FAULT_SECONDS)


def _traffic(options: DemoOptions) -> TrafficOptions:
    return TrafficOptions(
        count=options.events,
        started_at=SEEDED_START,
        disorder=_DISORDER,
        duplicates_percent=_DUPLICATES_PERCENT,
        malformed_percent=_MALFORMED_PERCENT,
        seed=options.seed,
    )


def _count_expected(messages: Sequence[TrafficMessage]) -> dict[str, int]:
    events = {event.id: event for message in messages for event in message.events}
    sinks = [sink for event in events.values() for sink in expected_sinks(event)]
    return {sink: sinks.count(sink) for sink in (AUDIT, TEAM)}


def _clear(folder: Path) -> None:
    """What an earlier demo left is this demo's own to remove."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _store(connection_string: str) -> SqliteStore:
    scope = HubScope(hub_address(connection_string).namespace, HUB, "$Default")
    return SqliteStore(FOLDER / "worker.db", scope)
