"""The eventhub sink: forwards events to another hub, each subject to one partition.

So a hub that was fed without partition keys becomes one in which the order of a subject can be had. Events that come at
one time go in one batch per partition.

A hub knows no repetition, so delivery is at least once; each message carries the idempotency key, by which readers
recognise it. There is no ledger: to keep from acting twice is the readers' part, who have to expect repetitions in any
hub. How this one is reached is in `hub_link`.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Self

import orjson
from pydantic import AfterValidator, ConfigDict, Field, model_validator

from worker.connections import checked_host_name, hub_address
from worker.errors import Misconfigured, Rejected, SinkUnavailable, Throttled, WorkerError
from worker.events import Schema
from worker.settings import FilePath, Secret, SinkSettings, one_of
from worker.sinks import Delivery, TokenSource
from worker.sinks.batching import Batcher
from worker.sinks.cloudevents import CONTENT_TYPE, structured_json, structured_text
from worker.sinks.partitioning import partition_of
from worker.tracing import Span, current

if TYPE_CHECKING:
    from worker.sinks.hub_link import HubLayout, HubLink, Outgoing, PartitionLink

_MOST = 1000
"""Events in a batch: as many as may be under way at one time."""
_EVENT_GRID_JSON = "application/json; charset=utf-8"
_PREPARE_SECONDS = 45.0
"""Before the first batch: what the hub is like, with a token before it."""


class EventHubSettings(SinkSettings):
    """A sink of kind `eventhub`."""

    model_config = ConfigDict(
        hide_input_in_errors=True
    )  # a connection string that was written where it does not belong

    needs_one_of = (("connection_string_env", "connection_string_file", "namespace"),)

    kind: Literal["eventhub"] = "eventhub"
    concurrency: int = Field(default=256, ge=1, le=1000)
    """Events under way at one time per process. Those of one partition go in one batch, so many cost little."""
    connection_string_env: str | None = None
    connection_string_file: FilePath | None = None
    """The hub's or the namespace's connection string, with the right to send."""
    namespace: Annotated[str, AfterValidator(checked_host_name)] | None = None
    """The host name instead of a connection string: the identity of the process is used, with the role Azure Event
    Hubs Data Sender."""
    hub: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,255}$")
    """The event hub in that namespace."""
    format: Literal["original", "cloudevents"] = "original"
    """original: each event in its own schema, as it was read, so that another worker with the same routes sees the same
    event. cloudevents: as CloudEvents 1.0 JSON, with `lateby` on late ones, as a webhook gets it."""
    partitioning: Literal["subject", "source"] = "subject"
    """What decides on the partition. subject: the event's subject, as Event Grid does with PartitionKey = subject.
    source: all of one source stays together, for readers who compare subjects; a large source then fills one partition.
    Order per subject is kept by both."""
    timeout_seconds: float = Field(default=30, gt=0, le=600)
    """For one batch, with a new connection where one is needed."""

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        one_of(dict(self), *self.needs_one_of[0])
        return self

    def check_secret(self, key: str, value: str) -> None:
        """See SinkSettings."""
        if key != "connection_string":
            return
        try:
            address = hub_address(value)
        except ValueError as error:
            raise ValueError(f"the connection string {error}") from None
        if address.hub and address.hub.casefold() != self.hub.casefold():
            raise ValueError("the connection string is for another hub (EntityPath) than hub; take that hub's")

    @property
    def needs_identity(self) -> bool:
        """Without a connection string."""
        return self.namespace is not None

    @property
    def attempt_seconds(self) -> float:
        """The batch before it, its own, and what comes before the first."""
        return _PREPARE_SECONDS + 2 * self.timeout_seconds


class EventHubSink:
    """Sends events to the partitions of one hub."""

    def __init__(
        self, settings: EventHubSettings, tokens: TokenSource | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._tokens = tokens
        self._clock = clock
        self._secret = Secret.of(settings, "connection_string")
        self._link: HubLink | None = None
        self._asking: asyncio.Task[HubLayout] | None = None
        """Asks, or has asked, what the hub is like; None: to be asked (again)."""
        self._ways: dict[tuple[str, int], _Way] = {}

    async def open(self) -> None:
        """Connects to nothing yet: that comes with the first deliveries."""
        # Not before it is needed: it brings the SDK with it, which `worker check` does without.
        from worker.sinks.hub_link import HubLink, Target  # noqa: PLC0415

        settings = self._settings
        read = None if self._secret is None else self._connection_string
        target = Target(settings.name, settings.hub, read, settings.namespace, self._tokens)
        self._link = HubLink(target, self._clock)

    async def deliver(self, delivery: Delivery) -> None:
        """Sends the event in a batch with whatever else is for its partition. On return the hub has it."""
        limit = self._settings.attempt_seconds
        scope = asyncio.timeout(limit)
        try:
            async with scope:
                await self._deliver(delivery)
        except TimeoutError:
            if not scope.expired():
                raise  # a bug
            raise SinkUnavailable(f"sink {delivery.sink}: the event was not sent within {limit:g} s") from None

    def preview(self, delivery: Delivery) -> str:
        """The message, its properties, and what its partition is chosen by."""
        if self._settings.format == "cloudevents":
            body = structured_text(delivery)
        else:
            body = orjson.dumps(_element(delivery), option=orjson.OPT_INDENT_2).decode()
        properties = orjson.dumps(properties_of(delivery), option=orjson.OPT_INDENT_2).decode()
        chosen = f"partition by {self._settings.partitioning}: {self._key(delivery)!r}"
        return f"{chosen}\napplication properties: {properties}\n{body}"

    async def aclose(self) -> None:
        """Ends what is under way and closes the connections, in a bounded time."""
        ways, self._ways = self._ways, {}
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        await asyncio.gather(*(way.aclose() for way in ways.values()))
        self._link = None

    def _connection_string(self) -> str:
        assert self._secret is not None
        text = self._secret.read_for(self._settings.name)
        try:
            self._settings.check_secret("connection_string", text)
        except ValueError as error:
            raise Misconfigured(f"sink {self._settings.name}: {error}") from None
        return text

    async def _deliver(self, delivery: Delivery) -> None:
        asking = self._layout()
        layout = await asyncio.shield(asking)
        message = self._message(delivery, layout.max_bytes)
        way = self._way_to(partition_of(self._key(delivery), layout.partitions), layout.max_bytes)
        try:
            await way.batcher.put(message)
        except (Rejected, Throttled):
            raise
        except WorkerError:
            if self._asking is asking:  # else it was asked since
                self._asking = None  # the hub may have become another one
            raise

    def _layout(self) -> "asyncio.Task[HubLayout]":
        """Asks once, for all who want to know, and again after errors."""
        assert self._link is not None, "open() comes first"
        if self._asking is None or (self._asking.done() and _failed(self._asking)):
            self._asking = asyncio.create_task(self._link.ask(), name=f"sink {self._settings.name} asks its hub")
        return self._asking

    def _message(self, delivery: Delivery, max_bytes: int) -> "Outgoing":
        from worker.sinks.hub_link import Outgoing, most_size_of, room_in, size_of  # noqa: PLC0415 - see open

        body, content_type = self._body(delivery)
        properties = properties_of(delivery)
        if span := current():
            properties |= _trace(span)
        message = Outgoing(body, content_type, delivery.idempotency_key, properties)
        size, room = most_size_of(message), room_in(max_bytes)
        if size > room:
            size = size_of(message)
        if size > room:
            raise Rejected(
                f"sink {delivery.sink}: the event takes {size:,} bytes in a message; "
                f"hub {self._settings.hub} takes {room:,}"
            )
        return message._replace(size=size)

    def _body(self, delivery: Delivery) -> tuple[bytes, str]:
        if self._settings.format == "cloudevents":
            return structured_json(delivery), CONTENT_TYPE
        schema = delivery.released.placed.event.schema
        return orjson.dumps(_element(delivery)), CONTENT_TYPE if schema is Schema.CLOUD_EVENTS else _EVENT_GRID_JSON

    def _key(self, delivery: Delivery) -> str:
        event = delivery.released.placed.event
        # Without a subject all events of the source are one subject to whoever reads.
        if self._settings.partitioning == "subject" and event.subject:
            return event.subject
        return event.key.source

    def _way_to(self, partition: str, max_bytes: int) -> "_Way":
        way = self._ways.get((partition, max_bytes))
        if way is None:
            assert self._link is not None
            link = self._link.partition(partition, max_bytes, send_seconds=self._settings.timeout_seconds)
            way = self._ways[partition, max_bytes] = _Way(
                link, name=f"sink {self._settings.name}, partition {partition}", max_bytes=max_bytes
            )
        return way


class _Way:
    """The stream of batches to one partition."""

    def __init__(self, link: "PartitionLink", *, name: str, max_bytes: int) -> None:
        from worker.sinks.hub_link import room_in  # noqa: PLC0415 - see EventHubSink.open

        self._link = link
        self._room = room_in(max_bytes)
        self.batcher = Batcher(link.send, name=name, most=_MOST, cut=self._cut)

    async def aclose(self) -> None:
        await self.batcher.aclose()
        await self._link.aclose()

    def _cut(self, messages: Sequence["Outgoing"]) -> int:
        """How many of the first fit together; the first always does."""
        room = self._room
        for count, message in enumerate(messages):
            room -= message.size
            if room < 0:
                return max(1, count)
        return len(messages)


def properties_of(delivery: Delivery) -> dict[str, str]:
    """What a reader may tell a repetition by without opening the body."""
    event = delivery.released.placed.event
    named = {"idempotencykey": delivery.idempotency_key, "id": event.id, "source": event.source}
    return {name: value for name, value in named.items() if value}


def _trace(span: Span) -> dict[str, str]:
    """Under both names by which the SDKs look for it."""
    carrier = span.carrier
    return {**carrier, "Diagnostic-Id": carrier["traceparent"]}


def _element(delivery: Delivery) -> object:
    return delivery.released.placed.event.envelope


def _failed(asked: "asyncio.Task[HubLayout]") -> bool:
    return asked.cancelled() or asked.exception() is not None
