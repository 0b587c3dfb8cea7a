"""The way of the `eventhub` sink to its hub: the SDK's producer clients, bounded, and its errors as a sink's.

One client for each partition, so that trouble with one closes no other's connection; it is let go after any error,
and made anew at the next attempt: what a client still holds of an attempt that was given up never goes out after later
events. What is sent, and to which partition, is the sink's decision. See `hub` for the hub that is read.
"""

import asyncio
import re
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

from azure.eventhub import EventData, EventDataBatch
from azure.eventhub.aio import EventHubProducerClient
from azure.eventhub.exceptions import AuthenticationError, EventDataSendError

from worker.errors import Misconfigured, Rejected, SinkUnavailable, WorkerError
from worker.identity import AsCredential
from worker.sinks import TokenSource
from worker.sinks.answers import excerpt, to_hide
from worker.tracing import current

ASK_SECONDS = 20.0
"""For asking what the hub is like: two connections, each with TLS and a token to show."""
CLOSE_SECONDS = 2.0
_CANCEL_SECONDS = 1.0
_IDLE_SECONDS = 60.0
"""The service hangs up on who is silent for two to four minutes, and the SDK notices only when it sends."""
_ENCODING_BYTES = 160
"""Of a message, beside its body and texts: descriptors, lengths, and a place in the batch."""
_SCOPE = "https://eventhubs.azure.net//.default"
"""With two slashes, as the SDK asks: so both find the same token in azure-identity's cache."""

_T = TypeVar("_T")

# Of AMQP's and the service's conditions, without what stands before the last colon.
_FOR_THE_OPERATOR = frozenset({"auth-failed", "entity-disabled", "not-allowed", "not-found", "unauthorized-access"})
_NEVER_TAKEN = frozenset({"decode-error", "message-size-exceeded"})
_REFUSED_TOKEN = re.compile(r"Status code: (None|40[134])\b")
"""None: the SDK drops the status where the answer names a condition as well."""


class Outgoing(NamedTuple):
    """One message."""

    body: bytes
    content_type: str
    id: str
    properties: Mapping[str, str]
    size: int = 0
    """What it takes of a batch at most, in bytes."""


class HubLayout(NamedTuple):
    """What the hub says of itself."""

    partitions: tuple[str, ...]
    """In the hub's order."""
    max_bytes: int
    """The largest batch it takes; depends on its tier."""


class Target(NamedTuple):
    """Which hub, and how its clients log in: with a connection string, or else as the process."""

    sink: str
    hub: str
    connection_string: Callable[[], str] | None
    """Read at each use. Raises Misconfigured when it cannot be right."""
    namespace: str | None
    tokens: TokenSource | None


def size_of(message: Outgoing) -> int:
    """How many bytes of a batch it takes, its share of the batch's own encoding included."""
    batch = EventDataBatch(max_size_in_bytes=2**32)
    empty = batch.size_in_bytes
    batch.add(_event_data(message))
    return batch.size_in_bytes - empty


def most_size_of(message: Outgoing) -> int:
    """At most so many. Encoding a message to know better takes as long as sending it."""
    texts = [message.content_type, message.id, *message.properties, *message.properties.values()]
    return len(message.body) + sum(len(text.encode()) for text in texts) + _ENCODING_BYTES


def room_in(max_bytes: int) -> int:
    """How many bytes of messages fit into a batch."""
    return max_bytes - EventDataBatch().size_in_bytes


class HubLink:
    """The clients of one hub."""

    def __init__(self, target: Target, clock: Callable[[], float] = time.monotonic) -> None:
        self._target = target
        self._clock = clock

    async def ask(self) -> HubLayout:
        """What the hub is like now. Raises SinkUnavailable, Misconfigured."""
        client = await connect(self._target)
        try:
            return await _bounded(_ask(client), ASK_SECONDS)
        except Exception as error:  # noqa: BLE001 - the SDK raises nearly anything, see `problem`
            raise problem(error, self._target, ASK_SECONDS) from None
        finally:
            await _close(client)

    def partition(self, partition: str, max_bytes: int, *, send_seconds: float) -> "PartitionLink":
        """The way to one partition, not yet connected."""
        return PartitionLink(self._target, partition, max_bytes, send_seconds=send_seconds, clock=self._clock)


class PartitionLink:
    """A connection to one partition, made when it is needed. One batch at a time."""

    def __init__(
        self, target: Target, partition: str, max_bytes: int, *, send_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._target = target
        self._partition = partition
        self._max_bytes = max_bytes
        self._send_seconds = send_seconds
        self._clock = clock
        self._client: EventHubProducerClient | None = None
        self._used_at = 0.0

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """Sends one batch; on return the hub has it. Raises SinkUnavailable, Misconfigured or Rejected for all of it.

        After a lost answer it may be there as well. The SDK itself sends once more when its first try fails, whatever
        it is told of retries: a batch may stand in the hub twice, one right after the other.
        """
        batch = EventDataBatch(max_size_in_bytes=self._max_bytes, partition_id=self._partition)
        try:
            for message in messages:
                batch.add(_event_data(message))
        except ValueError:
            raise Rejected(f"sink {self._target.sink}: {len(batch) + 1} events do not fit into one batch") from None
        client = await self._connected()
        try:
            with _sending(self._target, self._partition, len(batch)):
                await _bounded(client.send_batch(batch), self._send_seconds)
        except Exception as error:  # noqa: BLE001 - the SDK raises nearly anything, see `problem`
            reason = _why_detached(client, self._partition, error)
            await self.aclose()
            raise problem(reason, self._target, self._send_seconds) from None
        self._used_at = self._clock()

    async def aclose(self) -> None:
        """Lets the connection go, in a bounded time."""
        client, self._client = self._client, None
        if client is not None:
            await _close(client)

    async def _connected(self) -> EventHubProducerClient:
        if self._client is not None and self._clock() - self._used_at > _IDLE_SECONDS:
            await self.aclose()
        if self._client is None:
            self._client = await connect(self._target)
        return self._client


async def connect(target: Target) -> EventHubProducerClient:
    """A new client, with the secret or token as it is now. Raises Misconfigured, SinkUnavailable."""
    # Our lane retries. Without the factor the SDK would still sleep before it passes an error on.
    options: dict[str, Any] = {"retry_total": 0, "retry_backoff_factor": 0}
    if target.connection_string is None:
        assert target.namespace is not None
        assert target.tokens is not None, "whoever delivers has tokens; without, there is only something to look at"
        await _check_identity(target.tokens, target.sink)
        return EventHubProducerClient(target.namespace, target.hub, AsCredential(target.tokens), **options)
    text = target.connection_string()
    try:
        return EventHubProducerClient.from_connection_string(text, eventhub_name=target.hub, **options)
    except ValueError:  # its text may quote the connection string
        raise Misconfigured(
            f"sink {target.sink}: the connection string is not usable; copy it whole, with nothing before or after it"
        ) from None


async def _check_identity(tokens: TokenSource, sink: str) -> None:
    """Asks for a token before the SDK does, which would pass on only that something failed."""
    try:
        async with asyncio.timeout(ASK_SECONDS):
            await tokens.token(_SCOPE)
    except TimeoutError:
        raise SinkUnavailable(f"sink {sink}: no access token within {ASK_SECONDS:g} s") from None
    except Misconfigured as error:
        raise Misconfigured(f"sink {sink}: {error}") from None
    except SinkUnavailable as error:
        raise SinkUnavailable(f"sink {sink}: {error}") from None


@contextmanager
def _sending(target: Target, partition: str, count: int) -> Iterator[None]:
    """A batch is sent inside. The SDK makes no span of it."""
    span = current()
    if span is None:
        yield
        return
    about: dict[str, str | int] = {
        "messaging.system": "eventhubs",
        "messaging.operation.type": "send",
        "messaging.operation.name": "send",
        "messaging.destination.name": target.hub,
        "messaging.destination.partition.id": partition,
        "messaging.batch.message_count": count,
    }
    if target.namespace is not None:
        about["server.address"] = target.namespace
    with span.call(f"send {target.hub}", about):
        yield


async def _ask(client: EventHubProducerClient) -> HubLayout:
    partitions = await client.get_partition_ids()
    batch = await client.create_batch()
    return HubLayout(tuple(partitions), batch.max_size_in_bytes)


def _event_data(message: Outgoing) -> EventData:
    event = EventData(message.body)
    event.content_type = message.content_type
    event.message_id = message.id
    event.properties = dict[str | bytes, Any]((name, value) for name, value in message.properties.items())
    return event


async def _bounded(work: Coroutine[Any, Any, _T], seconds: float) -> _T:
    """The work's result, or TimeoutError; either way it has ended.

    By hand and not with asyncio.timeout: while it waits for an answer, the SDK may swallow a cancellation.
    """
    task = asyncio.create_task(work, name="eventhub sink")
    try:
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            raise TimeoutError
        return task.result()
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_CANCEL_SECONDS)
        if not task.cancelled():
            task.exception()  # looked at, so that nothing is said about it where somebody else was cancelled


async def _close(client: EventHubProducerClient) -> None:
    with suppress(Exception):  # about a connection that nobody needs any more
        await _bounded(client.close(), CLOSE_SECONDS)


def problem(error: Exception, target: Target, seconds: float) -> WorkerError:
    """What is to be done about an error of the SDK's. Whatever is not known can only be tried again.

    Never an unknown outcome: who reads a hub has to expect repetitions anyway, and knows these by their id.
    """
    where = f"sink {target.sink}: hub {target.hub}"
    if isinstance(error, TimeoutError):
        return SinkUnavailable(f"{where} did not answer within {seconds:g} s")
    text, condition = " ".join(str(error).split()), _condition(error)
    said = excerpt(text, _secrets(target))
    if condition in _NEVER_TAKEN:
        return Rejected(f"{where} does not take the event ({condition}){said}")
    if condition == "not-found" or "could not be found" in text:
        return Misconfigured(f"{where} does not exist: check `hub` and the namespace{said}")
    refused_token = isinstance(error, AuthenticationError) and _REFUSED_TOKEN.search(text)
    if condition in _FOR_THE_OPERATOR or refused_token:
        return Misconfigured(
            f"{where} refuses the worker, or does not exist: check the connection string and its right to send, or the "
            f"role Azure Event Hubs Data Sender{said}"
        )
    return SinkUnavailable(f"{where} was not reached, or did not take the events{said or f': {type(error).__name__}'}")


def _condition(error: Exception) -> str:
    """AMQP's or the service's word for it, without what stands before its last colon; empty where there is none."""
    found = getattr(error, "error", None) or getattr(error, "condition", None) or ""
    found = getattr(found, "value", found)
    return (found.decode(errors="replace") if isinstance(found, bytes) else str(found)).rpartition(":")[2]


def _why_detached(client: EventHubProducerClient, partition: str, error: Exception) -> Exception:
    """Why the service ended the link under a batch, where the SDK only passes on that it did.

    It says so only where the refusal comes before the batch is on its way. So this reads private fields of it, here
    and nowhere else; where they are not found, the reason stays unknown and is tried again.
    """
    if not isinstance(error, EventDataSendError) or _condition(error) != "unknown-error":
        return error
    producer = getattr(client, "_producers", {}).get(partition)
    reason = getattr(getattr(getattr(producer, "_handler", None), "_link", None), "_error", None)
    return reason if isinstance(reason, Exception) else error


def _secrets(target: Target) -> tuple[str, ...]:
    if target.connection_string is None:
        return ()  # a token is never part of what the SDK says of it
    try:
        text = target.connection_string()
    except Misconfigured:
        return ()
    return to_hide([value for part in text.split(";") for value in (part, part.partition("=")[2])], (text,))
