"""`worker local send`: puts traffic or files into a hub with the Event Hubs SDK. What traffic is like, `traffic` says.

The order of the messages of one partition key is kept: a key always goes to the same partition, and a partition is
sent one batch at a time.
"""

import asyncio
import logging
import os
import random
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson
from azure.eventhub import EventData, EventDataBatch
from azure.eventhub.aio import EventHubProducerClient
from azure.eventhub.exceptions import AuthenticationError, EventHubError

from worker.connections import hub_address
from worker.errors import ConfigError, HubUnavailable
from worker.local.traffic import TrafficMessage, TrafficOptions, generate

SEEDED_START = datetime(2024, 3, 11, 8, tzinfo=UTC)
"""When seeded traffic happens: fixed, so that the same seed sends the same events again, byte for byte."""

_DEFAULT_COUNT = 1000
_ANSWER_SECONDS = 10.0
_RETRIES = 3
_SLICES_PER_SECOND = 20
_SLICE_UNLIMITED = 1000
"""Messages that are spread over the partitions and sent at one time, when no rate is set."""
_PROPERTIES: dict[str | bytes, object] = {
    "aeg-subscription-name": "ML-EVENTS-TO-HUB",
    "aeg-delivery-count": "0",
    "aeg-event-type": "Notification",
    "aeg-metadata-version": "1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SendOptions:
    """What to send, how, and where."""

    files: tuple[Path, ...] = ()
    """Each is one message body, sent as it is."""
    count: int | None = None
    """Events to generate; None: 1,000, or none where there are files."""
    rate: float | None = None
    """Messages per second; None: as fast as the hub takes them."""
    subjects: int | None = None
    disorder: int = 0
    duplicates_percent: float = 0.0
    malformed_percent: float = 0.0
    arrays_percent: float = 0.0
    seed: int | None = None
    """None: another one each time."""
    connection_string_env: str = "EVENTHUB_CONNECTION_STRING"
    hub: str | None = None
    """None: the one the connection string names as EntityPath."""


def main(options: SendOptions) -> int:
    """Sends and says what was sent. Raises ConfigError and HubUnavailable."""
    # What the SDK logs on its way to an error stands in the error.
    logging.getLogger("azure.eventhub").setLevel(logging.CRITICAL)
    connection_string, hub = _where(options)
    seed = random.randrange(2**32) if options.seed is None else options.seed
    traffic = generate(_traffic(options, seed))
    messages = [*_from_files(options.files), *traffic]
    asyncio.run(send(messages, connection_string=connection_string, hub=hub, rate=options.rate))
    seeded = f", seed {seed}" if traffic else ""
    print(f"{len(messages)} messages sent to {hub}{seeded}")  # noqa: T201 - the result of the command
    return 0


async def send(
    messages: Sequence[TrafficMessage],
    *,
    connection_string: str,
    hub: str,
    rate: float | None = None,
    on_sent: Callable[[int], None] = lambda _: None,
) -> None:
    """Sends in the given order; `on_sent` hears of each slice that the hub has accepted."""
    try:
        # Asked without retries, so that a wrong name or key is known at once and not after the SDK's patience.
        async with _connect(connection_string, hub, retries=0) as client, asyncio.timeout(_ANSWER_SECONDS):
            partitions = await client.get_partition_ids()
        async with _connect(connection_string, hub, retries=_RETRIES) as client:
            await _send_in_slices(messages, _Producer(client, partitions), rate, on_sent)
    except (EventHubError, TimeoutError) as error:
        where = f"the hub {hub} at {hub_address(connection_string).namespace}"
        raise HubUnavailable(f"{where} {_explain(error)}") from error


def _connect(connection_string: str, hub: str, *, retries: int) -> EventHubProducerClient:
    return EventHubProducerClient.from_connection_string(connection_string, eventhub_name=hub, retry_total=retries)


def _explain(error: Exception) -> str:
    match error:
        case AuthenticationError():  # the SDK says the same when the hub does not exist
            return "does not exist or refuses the key: check both names and the key in the connection string"
        case TimeoutError():
            return f"does not answer within {_ANSWER_SECONDS:g} s: check the host and the port"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"does not take the messages: {reason}"


async def _send_in_slices(
    messages: Sequence[TrafficMessage], producer: "_Producer", rate: float | None, on_sent: Callable[[int], None]
) -> None:
    size = _SLICE_UNLIMITED if rate is None else max(1, round(rate / _SLICES_PER_SECOND))
    clock = asyncio.get_running_loop().time
    began = clock()
    for start in range(0, len(messages), size):
        part = messages[start : start + size]
        await producer.send(part)
        on_sent(len(part))
        if rate is not None:
            await asyncio.sleep(began + (start + len(part)) / rate - clock())


class _Producer:
    """Sends to all partitions at one time, and to each in order."""

    def __init__(self, client: EventHubProducerClient, partitions: list[str]) -> None:
        self._client = client
        self._partitions = partitions

    async def send(self, messages: Sequence[TrafficMessage]) -> None:
        by_partition: dict[str, list[TrafficMessage]] = defaultdict(list)
        for message in messages:
            number = zlib.crc32(message.partition_key.encode()) % len(self._partitions)
            by_partition[self._partitions[number]].append(message)
        await asyncio.gather(*(self._send_to(partition, part) for partition, part in by_partition.items()))

    async def _send_to(self, partition: str, messages: list[TrafficMessage]) -> None:
        batch = await self._client.create_batch(partition_id=partition)
        for message in messages:
            event = _event_data(message)
            if not _fits(batch, event):
                await self._client.send_batch(batch)
                batch = await self._client.create_batch(partition_id=partition)
                if not _fits(batch, event):
                    raise ConfigError([f"a message of {len(message.body):,} bytes is larger than the hub takes"])
        await self._client.send_batch(batch)


def _event_data(message: TrafficMessage) -> EventData:
    event = EventData(message.body)
    event.content_type = message.content_type
    event.properties = _PROPERTIES
    return event


def _fits(batch: EventDataBatch, event: EventData) -> bool:
    try:
        batch.add(event)
    except ValueError:
        return False
    return True


def _where(options: SendOptions) -> tuple[str, str]:
    """The connection string and the hub. Errors name the variable and never hold its value."""
    variable = options.connection_string_env
    connection_string = os.environ.get(variable, "")
    if not connection_string:
        hint = "set it to what `worker local broker` prints, or name another with --connection-string-env"
        raise ConfigError([f"the environment variable {variable} is not set: {hint}"])
    try:
        hub = options.hub or hub_address(connection_string).hub
    except ValueError as error:
        raise ConfigError([f"the environment variable {variable} {error}"]) from None
    if not hub:
        raise ConfigError([f"no hub is named: use --hub, or EntityPath=HUB in {variable}"])
    return connection_string, hub


def _traffic(options: SendOptions, seed: int) -> TrafficOptions:
    count = options.count
    if count is None:
        count = 0 if options.files else _DEFAULT_COUNT
    return TrafficOptions(
        count=count,
        started_at=datetime.now(UTC) if options.seed is None else SEEDED_START,
        subjects=options.subjects,
        disorder=options.disorder,
        duplicates_percent=options.duplicates_percent,
        malformed_percent=options.malformed_percent,
        arrays_percent=options.arrays_percent,
        seed=seed,
    )


def _from_files(files: Sequence[Path]) -> list[TrafficMessage]:
    messages = []
    mistakes = []
    for file in files:
        try:
            body = file.read_bytes()
        except OSError as error:
            mistakes.append(f"{file}: cannot be read: {error.strerror}")
        else:
            messages.append(TrafficMessage(body, "application/json", _partition_key(body), events=()))
    if mistakes:
        raise ConfigError(mistakes)
    return messages


def _partition_key(body: bytes) -> str:
    """The subject of the first event in the body, as Event Grid would use it; "" where there is none to be seen."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    first = content[0] if isinstance(content, list) and content else content
    subject = first.get("subject") if isinstance(first, dict) else None
    return subject if isinstance(subject, str) else ""
