"""The hub, and the SDK's own client on a simulated transport.

The client is the real one: its load balancer, its event processor, its order of callbacks and of closing. Only what
would talk AMQP is replaced: the questions about partitions, and the consumer of one partition with its two loops. Like
the real one, the consumer hands over again what it had read when its link breaks, does not cancel a callback when its
link is stolen, and says nothing while the hub is away.
"""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from traceback import extract_tb
from typing import Any

from azure.eventhub.aio import CheckpointStore, EventHubConsumerClient
from azure.eventhub.amqp import AmqpMessageBodyType
from azure.eventhub.exceptions import ConnectError, ConnectionLostError, EventHubError

import worker
from tests.simulation.history import Element, Enqueued, History, Link
from tests.simulation.loop import LIFE, WALL_CLOCK_OFFSET, SimulationLoop
from worker.config import SourceSettings
from worker.errors import WorkerError
from worker.hub import Hub

NAMESPACE = "hub.simulated.test"
_WORKER = Path(worker.__file__).parent
_CREATED = datetime(2026, 1, 1, tzinfo=UTC)
_REOPEN_SECONDS = 0.5
_ABANDON_SECONDS = 1.0
"""How long the SDK waits for a callback whose link is gone."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as the hub keeps it."""

    number: int
    offset: str
    enqueued: datetime
    body: bytes


class SimulatedLog:
    """What is in the hub, who is attached, and whether it answers."""

    def __init__(self, partitions: int, history: History, loop: SimulationLoop, random: Random) -> None:
        self.partitions = {str(number): list[Stored]() for number in range(partitions)}
        self.away = False
        self._history = history
        self._loop = loop
        self._random = random
        self._links: dict[str, Consumer] = {}
        self._last: dict[str, int] = dict.fromkeys(self.partitions, -1)

    def append(self, partition: str, body: bytes, elements: tuple[Element, ...]) -> None:
        """A producer sent a message. Numbers may have gaps."""
        last = self._last[partition]
        number = last + self._random.choice((1, 1, 1, 1, 1, 3)) if last >= 0 else 0
        self._last[partition] = number
        now = self._loop.time()
        enqueued = datetime.fromtimestamp(WALL_CLOCK_OFFSET + now, UTC)
        self.partitions[partition].append(Stored(number, str(number * 100 + 7), enqueued, body))
        self._history.entries.append(Enqueued(self._history.tick(), now, partition, number, elements))
        link = self._links.get(partition)
        if link is not None:
            self._loop.world(link.arrive, delay=self.latency())

    def latency(self) -> float:
        """Of one message on the network: short, and sometimes not."""
        return self._random.choice((0.005, 0.01, 0.02, 0.02, 0.05, 0.3))

    def report(self, error: Exception) -> None:
        """A callback failed as it never should. What the SDK itself stumbles over, it also gets up from."""
        where = Path(extract_tb(error.__traceback__)[-1].filename)
        if not self._loop.is_closed() and where.is_relative_to(_WORKER):
            self._history.errors.append(f"a callback of the SDK raised {error!r}")

    def attach(self, partition: str, consumer: "Consumer") -> None:
        """The later attacher wins, whoever it is: all have the same epoch."""
        former = self._links.get(partition)
        self._links[partition] = consumer
        self.note(partition, consumer.life, up=True)
        if former is not None and former is not consumer:
            self._loop.world(former.steal, delay=self.latency())

    def detach(self, partition: str, consumer: "Consumer") -> None:
        if self._links.get(partition) is consumer:
            del self._links[partition]
        self.note(partition, consumer.life, up=False)

    def note(self, partition: str, life: str, *, up: bool) -> None:
        """For the history: whose receiver is attached."""
        self._history.entries.append(Link(self._history.tick(), self._loop.time(), life, partition, up))

    def drop_link(self, partition: str) -> None:
        """A connection breaks."""
        link = self._links.pop(partition, None)
        if link is not None:
            link.drop()

    def go_away(self) -> None:
        """The namespace cannot be reached."""
        self.away = True
        for partition in list(self._links):
            self.drop_link(partition)

    def come_back(self) -> None:
        self.away = False

    def after(self, partition: str, offset: str) -> int:
        """Where in the log the message after this offset stands."""
        if offset == "-1":
            return 0
        last = (int(offset) - 7) // 100
        log = self.partitions[partition]
        return next((index for index, stored in enumerate(log) if stored.number > last), len(log))


class SimulatedHub(Hub):
    """The worker's own hub, whose clients talk to the log."""

    def __init__(self, settings: SourceSettings, log: SimulatedLog, random: Random) -> None:
        super().__init__(settings, None)
        self._log = log
        self._random = random

    def connect(self, checkpoints: CheckpointStore | None = None, **_: Any) -> EventHubConsumerClient:
        return _Client(self._log, self._random, self._settings, checkpoints)


class _NoCredential:
    async def get_token(self, *_: str, **__: Any) -> Any:
        raise AssertionError("the simulated hub asks for no token")


class _Client(EventHubConsumerClient):
    def __init__(
        self, log: SimulatedLog, random: Random, settings: SourceSettings, checkpoints: CheckpointStore | None
    ) -> None:
        super().__init__(
            NAMESPACE,
            settings.hub,
            settings.consumer_group,
            _NoCredential(),
            checkpoint_store=checkpoints,
            load_balancing_interval=settings.balance_interval_seconds,
            partition_ownership_expiration_interval=settings.ownership_expiry_seconds,
        )
        self._log = log
        self._random = random

    async def receive_batch(self, on_event_batch: Any, *, on_error: Any, **options: Any) -> None:
        async def listen(context: Any, error: Exception) -> None:
            if not isinstance(error, WorkerError | EventHubError):
                self._log.report(error)  # the SDK would only log it, and go on
            await on_error(context, error)

        await super().receive_batch(on_event_batch, on_error=listen, **options)

    async def _answered(self) -> None:
        await asyncio.sleep(self._log.latency())
        if self._log.away:
            raise ConnectError("the hub is away")

    async def get_partition_ids(self) -> list[str]:
        await self._answered()
        return list(self._log.partitions)

    async def get_eventhub_properties(self) -> dict[str, Any]:
        await self._answered()
        return {"eventhub_name": "events", "created_at": _CREATED, "partition_ids": list(self._log.partitions)}

    async def get_partition_properties(self, partition_id: str) -> dict[str, Any]:
        await self._answered()
        log = self._log.partitions[partition_id]
        return {
            "eventhub_name": "events",
            "id": partition_id,
            "beginning_sequence_number": log[0].number if log else 0,
            "last_enqueued_sequence_number": log[-1].number if log else -1,
            "last_enqueued_offset": log[-1].offset if log else "-1",
            "last_enqueued_time_utc": log[-1].enqueued if log else _CREATED,
            "is_empty": not log,
        }

    def _create_consumer(
        self, consumer_group: str, partition_id: str, event_position: Any, on_event_received: Any, **_: Any
    ) -> Any:
        return Consumer(self._log, partition_id, event_position, on_event_received, self._random)


class Consumer:
    """One receiver of one partition, in the SDK's place between socket and callback."""

    def __init__(
        self, log: SimulatedLog, partition: str, position: Any, on_event_received: Any, random: Random
    ) -> None:
        self._log = log
        self._partition = partition
        self._on_event_received = on_event_received
        self._random = random
        self._next = log.after(partition, position)
        self._attached = False
        life = LIFE.get()
        self.life = life.name if life else ""
        self._stolen: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._news = asyncio.Event()
        self._running = True

    # What the world does to it.

    def arrive(self) -> None:
        self._news.set()

    def steal(self) -> None:
        if not self._stolen.done():
            self._attached = False
            self._log.note(self._partition, self.life, up=False)
            self._stolen.set_exception(ConnectionLostError("New receiver with the same epoch '0': link stolen"))
            self._stolen.exception()  # seen, also when nobody waits any more

    def drop(self) -> None:
        """The link breaks: what was read ahead is handed over, and then read again."""
        self._attached = False
        self._log.note(self._partition, self.life, up=False)
        self._next = max(0, self._next - self._random.choice((0, 0, 1, 3)))
        self._news.set()

    # What the event processor does with it.

    async def receive(self, batch: object, max_batch_size: int, max_wait_time: float) -> None:
        calling = asyncio.create_task(self._call_back(max_batch_size, max_wait_time), name="callback")
        try:
            await asyncio.gather(calling, self._stolen)
        finally:
            self._running = False
            self._news.set()
            if not calling.done():
                await asyncio.wait([calling], timeout=_ABANDON_SECONDS)

    async def close(self) -> None:
        self._running = False
        self._log.detach(self._partition, self)
        await asyncio.sleep(self._log.latency())

    async def _call_back(self, max_batch_size: int, max_wait_time: float) -> None:
        loop = asyncio.get_running_loop()
        call_at = loop.time() + max_wait_time
        while self._running:
            if not self._attached:
                await self._open()
            self._news.clear()
            events = self._read(max_batch_size)
            if not events and loop.time() < call_at:
                timer = loop.call_at(call_at, self._news.set)
                await self._news.wait()
                timer.cancel()
                continue
            call_at = loop.time() + max_wait_time
            await self._on_event_received(events)

    async def _open(self) -> None:
        while self._running and not self._stolen.done():
            await asyncio.sleep(self._log.latency())
            if not self._log.away and self._running:
                self._log.attach(self._partition, self)
                self._attached = True
                return
            await asyncio.sleep(_REOPEN_SECONDS)

    def _read(self, at_most: int) -> list["Received"]:
        log = self._log.partitions[self._partition]
        if not self._attached or self._next >= len(log):
            return []
        batch = log[self._next : self._next + min(at_most, self._random.choice((1, 3, 10, 300)))]
        self._next += len(batch)
        last = log[-1]
        return [Received(stored, last) for stored in batch]


class _Annotated:
    """The AMQP message below it."""

    def __init__(self, stored: Stored) -> None:
        # A hub rounds to milliseconds. Here not: what is judged compares with the moment of sending.
        self.annotations: dict[bytes, Any] = {
            b"x-opt-sequence-number-epoch": -1,
            b"x-opt-enqueued-time": stored.enqueued.timestamp() * 1000,
        }


class Received:
    """What the worker reads of an EventData."""

    body_type = AmqpMessageBodyType.DATA
    content_type = None
    partition_key = None
    properties: dict[str, Any] = {}  # noqa: RUF012 - nobody writes into it

    def __init__(self, stored: Stored, last: Stored) -> None:
        self.sequence_number = stored.number
        self.offset = stored.offset
        self.raw_amqp_message = _Annotated(stored)
        self.body = (stored.body,)
        self._last_enqueued_event_properties = {"sequence_number": last.number, "offset": last.offset}
