"""Events that carry when they were sent, and who notes when each of them came: for bench.latency.

The clock is the steady one of the machine, the same in every process. `listen` is a bare client of the SDK; the sink of
kind `stamp` is brought to the worker as other distributions bring theirs, by an entry point.
"""

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self

import orjson
from azure.eventhub import EventData
from azure.eventhub.aio import EventHubConsumerClient, EventHubProducerClient, PartitionContext

from worker.local.traffic import EVENT_GRID_JSON
from worker.settings import FilePath, SinkSettings
from worker.sinks import Delivery
from worker.sinks.table import SinkKind

SUBJECTS = 200
BODY_BYTES = 900
TICK_SECONDS = 0.01
_AT_ONCE = 200
"""Events, at most: who has fallen behind does not catch up in one heap, which would be another load."""
_PREFETCH = 3000
_BATCH = 300
_HEARTBEAT_SECONDS = 2.0
"""As the worker asks the SDK."""
_TOPIC = "/subscriptions/6f1c/resourceGroups/ml/providers/Microsoft.MachineLearningServices/workspaces/forecasting"


class Stamp(NamedTuple):
    """One event, as it came."""

    number: int
    sent_ns: int
    came_ns: int

    @property
    def subject(self) -> int:
        """What it is about."""
        return self.number % SUBJECTS

    @property
    def milliseconds(self) -> float:
        """How long it was on its way."""
        return (self.came_ns - self.sent_ns) / 1e6


class Stamps:
    """A file that one process appends to, and another reads while it grows."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, number: int, sent_ns: int, came_ns: int) -> None:
        """One line, which whoever reads sees at once."""
        os.write(self._file, b"%d %d %d\n" % (number, sent_ns, came_ns))

    def close(self) -> None:
        """Notes no more."""
        os.close(self._file)


def stamps(path: Path, begin: int) -> Iterator[Stamp]:
    """What stands in the file behind so many bytes."""
    with path.open("rb") as file:
        file.seek(begin)
        for line in file.read().rpartition(b"\n")[0].splitlines():
            yield Stamp(*map(int, line.split()))


# --- sent


class Paced:
    """Sends events to a hub at a rate, as evenly as every 10 ms allows."""

    def __init__(self, connection_string: str) -> None:
        self._client = EventHubProducerClient.from_connection_string(connection_string)
        self._partitions: list[str] = []
        self._sent = 0

    async def __aenter__(self) -> Self:
        self._partitions = await self._client.get_partition_ids()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def send(self, rate: float, seconds: float) -> float:
        """Sends for so long; returns the rate that was really reached, in events per second."""
        count, first = round(rate * seconds), self._sent
        began = time.monotonic()
        while (done := self._sent - first) < count:
            due = round((time.monotonic() - began + TICK_SECONDS) * rate)
            until = min(count, done + _AT_ONCE, max(done + 1, due))
            await self._send_now(range(self._sent, first + until))
            self._sent = first + until
            await asyncio.sleep(began + until / rate - time.monotonic())
        return count / (time.monotonic() - began)

    async def _send_now(self, numbers: Sequence[int]) -> None:
        by_partition: dict[str, list[int]] = {}
        for number in numbers:
            partition = self._partitions[number % SUBJECTS % len(self._partitions)]
            by_partition.setdefault(partition, []).append(number)
        await asyncio.gather(*(self._send_to(partition, those) for partition, those in by_partition.items()))

    async def _send_to(self, partition: str, numbers: Sequence[int]) -> None:
        await self._client.send_batch([_event(number) for number in numbers], partition_id=partition)


def _event(number: int) -> EventData:
    """Of one number, sent now."""
    event = EventData(envelope(number, subject=f"experiments/e/runs/{number % SUBJECTS}", sent_ns=time.monotonic_ns()))
    event.content_type = EVENT_GRID_JSON
    return event


def envelope(
    number: int, *, subject: str, kind: str = "Microsoft.MachineLearningServices.RunStatusChanged", sent_ns: int = 0
) -> bytes:
    """A body of 900 bytes: an Event Grid event whose time goes on by a millisecond with each number."""
    hours, minutes, seconds = number // 3_600_000, number // 60_000 % 60, number // 1000 % 60
    bare = orjson.dumps(
        [
            {
                "topic": _TOPIC,
                "subject": subject,
                "eventType": kind,
                "eventTime": f"2026-01-01T{hours:02}:{minutes:02}:{seconds:02}.{number % 1000:03}0000Z",
                "id": f"event-{number:012}",
                "data": {"number": number, "sent": sent_ns, "runStatus": "Running", "filled": ""},
                "dataVersion": "2",
                "metadataVersion": "1",
            }
        ]
    )
    return bare.replace(b'"filled":""', b'"filled":"%s"' % (b"x" * (BODY_BYTES - len(bare))))


# --- received by the SDK alone


async def listen(connection_string: str, path: Path) -> None:
    """Notes when each event was handed to the callback; works until it is killed."""
    noted = Stamps(path)

    async def on_batch(_context: PartitionContext, events: list[EventData]) -> None:
        came_ns = time.monotonic_ns()
        for event in events:
            data = orjson.loads(event.body_as_str())[0]["data"]
            noted.note(data["number"], data["sent"], came_ns)

    client = EventHubConsumerClient.from_connection_string(connection_string, consumer_group="$Default")
    async with client:
        await client.receive_batch(
            on_batch,
            max_batch_size=_BATCH,
            max_wait_time=_HEARTBEAT_SECONDS,
            prefetch=_PREFETCH,
            starting_position="-1",
            track_last_enqueued_event_properties=True,
        )


# --- received by the worker


class StampSettings(SinkSettings):
    """A sink of kind `stamp`."""

    kind: Literal["stamp"] = "stamp"
    path: FilePath
    """Where the stamps go."""


class StampSink:
    """Notes when each event came to it."""

    def __init__(self, settings: StampSettings) -> None:
        self._path = settings.path
        self._stamps: Stamps | None = None

    async def open(self) -> None:
        """Opens the file."""
        self._stamps = Stamps(self._path)

    async def deliver(self, delivery: Delivery) -> None:
        """Notes the time."""
        came_ns = time.monotonic_ns()
        assert self._stamps is not None, "open() comes first"
        data = delivery.released.placed.event.data
        self._stamps.note(data["number"], data["sent"], came_ns)

    async def aclose(self) -> None:
        """Closes the file."""
        if self._stamps is not None:
            self._stamps.close()
            self._stamps = None


KIND = SinkKind(StampSettings, lambda settings, _tokens: StampSink(settings))


def bring(folder: Path) -> None:
    """Makes what an installer would leave in the folder: whoever imports from it has the kind `stamp`."""
    about = folder / "bench_stamp-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-stamp\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[event_grid_worker.sinks]\nstamp = bench.stamped:KIND\n")


if __name__ == "__main__":
    asyncio.run(listen(os.environ["EVENTHUB_CONNECTION_STRING"], Path(sys.argv[1])))
