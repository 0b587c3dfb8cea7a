"""One partition's pipeline on a fake store and fake sinks, in virtual time: what the tests of this folder play on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import orjson

from tests.fakes import FakeHub, FakeSink
from tests.memory_store import MemoryStore
from tests.support import sample
from tests.virtual_time import settle_down
from worker import state as codec
from worker.board import Board, watch
from worker.claim import Claim
from worker.config import DeadLetterSettings, LimitSettings, OrderSettings, StoreIntervals
from worker.deadletters import DeadLetterWriter
from worker.deliver import Lane
from worker.events import Message, PartitionId, UnixSeconds
from worker.health import Health
from worker.lanes import Lanes
from worker.ledger import Ledger
from worker.metrics import Metrics
from worker.noting import Noting
from worker.noting import settings as noting_settings
from worker.parts import Parts
from worker.quiet import QuietSettings
from worker.reset import Positions
from worker.route import Late, Routes, RouteSpec
from worker.rules import Rules, RuleSet
from worker.settings import SinkSettings
from worker.state import PartitionState
from worker.stores import DeadLetter, HubScope
from worker.tracing import Tracing

PARTITION = PartitionId("0")
SCOPE = HubScope("hub.test", "events", "$Default")
START = 1_700_000_000.0
TOPIC = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/a"


def blob_event(subject: str, sequencer: int, *, event_id: str | None = None, data: object = None) -> dict[str, Any]:
    """An event with a sequencer; its id tells subject and place."""
    return {
        "id": event_id or f"{subject}-{sequencer}",
        "topic": TOPIC,
        "subject": subject,
        "eventType": "Microsoft.Storage.BlobCreated",
        "eventTime": "2026-01-01T00:00:00.0000000Z",
        "data": {"sequencer": f"{sequencer:048x}", "content": data},
        "dataVersion": "",
        "metadataVersion": "1",
    }


def message(number: int, *events: object, at: float = 0.0, body: bytes | None = None) -> Message:
    """The message with this sequence number, enqueued `at` seconds after the start."""
    return Message(
        partition=PARTITION,
        sequence_number=number,
        offset=str(number * 100),
        enqueued_at=UnixSeconds(START + at),
        body=orjson.dumps(list(events)) if body is None else body,
    )


async def in_turn(function: Callable[..., Any], *arguments: Any) -> Any:
    """What threads do elsewhere: in virtual time they would be waited for in vain."""
    return function(*arguments)


class Stage:
    """What pipelines of one test share; make a new one over the same `store` for another process."""

    def __init__(
        self,
        sinks: dict[str, FakeSink] | None = None,
        *,
        store: MemoryStore | None = None,
        window: float = 5,
        late: Late = Late.DELIVER,
        limits: dict[str, Any] | None = None,
        lanes: dict[str, Any] | None = None,
        lane: dict[str, dict[str, Any]] | None = None,
        configuration: str = "digest",
        ledger: bool = False,
        quiet: dict[str, dict[str, Any]] | None = None,
        routes: Iterable[RouteSpec] | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._ledger = ledger
        self._tracing = tracing
        self.store = store or MemoryStore()
        self.sinks = sinks or {"out": FakeSink()}
        self.metrics = Metrics()
        self.lease = True
        self.partitions = [PARTITION]
        self.hub = FakeHub()
        self.letters = DeadLetterWriter(self.store, self.metrics)
        self.lanes = {
            name: self._lane(
                SinkSettings(name=name, kind="fake", **{**(lanes or {}), **(lane or {}).get(name, {})}), sink
            )
            for name, sink in self.sinks.items()
        }
        each = [RouteSpec(f"to-{name}", (name,), None, None, late) for name in self.sinks]
        self.board = Board(
            self.store,
            lambda: self.rules.expect,
            lambda: self.partitions,
            metrics=self.metrics,
            clock=lambda: START + asyncio.get_running_loop().time(),
        )
        noting = Noting(self.board, lambda: self.rules.expect, self.metrics)
        own = Lane(noting_settings(), noting, give_up_after_seconds=3600, metrics=self.metrics, seed=1)
        told = {name: QuietSettings.model_validate(section) for name, section in (quiet or {}).items()}
        self.rules = Rules(RuleSet(Routes(routes or each), self.lanes, told, digest=configuration), own=[own])
        self.limits = LimitSettings(**(limits or {}))
        self.fleet = Lanes(self.rules, drain_seconds=self.limits.drain_seconds, metrics=self.metrics)
        self.parts = Parts(
            store=self.store,
            board=self.board,
            scope=SCOPE,
            rules=self.rules,
            dead_letters=self.letters,
            order=OrderSettings(window_seconds=window),
            limits=self.limits,
            spoiled=DeadLetterSettings(),
            intervals=StoreIntervals(),
            metrics=self.metrics,
            health=Health(limit_seconds=30, clock=lambda: asyncio.get_running_loop().time()),
            lease_valid=lambda _: self.lease,
            positions=Positions(self.store, self.hub, "stop"),
            clock=lambda: START + asyncio.get_running_loop().time(),
            offload=in_turn,
            tracing=tracing,
        )
        self.claims: list[Claim] = []
        self.running: list[asyncio.Task[None]] = []

    def now(self, **rules: Any) -> None:
        """These rules hold from now on, and the others as before."""
        self.rules.exchange(replace(self.rules.current, **rules))

    def _lane(self, settings: SinkSettings, sink: FakeSink) -> Lane:
        give_up_after_seconds = settings.retry.give_up_after_seconds or 3600
        ledger = Ledger(self.store, settings, sink, by="stage", metrics=self.metrics) if self._ledger else None
        return Lane(
            settings,
            sink,
            give_up_after_seconds=give_up_after_seconds,
            metrics=self.metrics,
            ledger=ledger,
            seed=1,
            tracing=self._tracing,
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Stage"]:
        """Lanes and the dead-letter writer work inside, as long as the process would."""
        tasks = [asyncio.create_task(work) for work in (self.fleet.run(), self.letters.run())]
        tasks.append(asyncio.create_task(watch(self.board, self._look)))
        try:
            yield self
        finally:
            for task in (*tasks, *self.running):
                task.cancel()
            for task in (*tasks, *self.running):
                with suppress(asyncio.CancelledError):
                    await task

    def _look(self) -> None:
        for claim in self.claims:
            claim.overdue.look()

    async def begin(self, claimant: str = "first", *, taken: bool = True, partition: PartitionId = PARTITION) -> Claim:
        """A pipeline that has taken the partition (or asks for it)."""
        claim = Claim(partition, claimant, self.parts)
        self.claims.append(claim)
        self.running.append(asyncio.create_task(claim.run(), name=claimant))
        while taken and claim.tenure is None:
            await asyncio.sleep(0.05)
        await settle_down()
        return claim

    async def play(self, claim: Claim, *messages: Message, last: int | None = None) -> None:
        """Hands messages over as the SDK would, and lets everything run that needs no time."""
        newest = max(each.sequence_number for each in messages) if last is None else last
        await claim.feed.put(list(messages), newest)
        await settle_down()

    async def end(self, claim: Claim) -> None:
        """Closes the pipeline and waits until it has left the partition."""
        claim.close()
        await claim.done.wait()
        await settle_down()

    async def checkpoint(self) -> int | None:
        """The sequence number of the stored checkpoint."""
        stored: Iterable[dict[str, Any]] = await self.store.list_checkpoints(*SCOPE)
        return next((each["sequence_number"] for each in stored), None)

    async def state(self) -> PartitionState:
        """The stored partition state."""
        stored = await self.store.read_state(PARTITION)
        assert stored is not None
        return codec.decode(stored.payload)

    async def dead_letters(self) -> list[DeadLetter]:
        """All dead letters."""
        return [each async for each in self.store.dead_letters()]

    def count(self, metric: str, **labels: str) -> float:
        """A metric's value, 0 where it was never counted."""
        return sample(self.metrics.registry, metric, labels) or 0.0
