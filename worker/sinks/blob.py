"""The blob sink: an archive of events in a container, by the day or the hour in which they happened.

`mode: events` makes one blob per event, named after the idempotency key; one that is there already is accepted, so an
event that comes twice stands there once. `mode: lines` rolls up the events of an hour as JSON lines, see `blob_lines`.

The time is the event's own, so that a repetition finds the same place. Nothing that an event can choose is part of a
name, except the digits of its time. It never reads back for others, deletes or compacts anything.
"""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal, Self
from uuid import uuid4

import orjson
from pydantic import AfterValidator, ConfigDict, Field, model_validator

from worker.connections import check_storage_connection_string, checked_account_url, checked_container
from worker.errors import Misconfigured, SinkUnavailable
from worker.keys import normal_time
from worker.settings import FilePath, Secret, SinkSettings, one_of
from worker.sinks import Delivery, TokenSource
from worker.sinks.blob_lines import Line, Lines
from worker.sinks.cloudevents import CONTENT_TYPE, structured

if TYPE_CHECKING:
    from worker.sinks.blob_link import BlobLink

UNDATED = "undated"
"""The folder of events without a time that can be read."""
_WAITING_SECONDS = 5.0


class BlobSettings(SinkSettings):
    """A sink of kind `blob`."""

    model_config = ConfigDict(hide_input_in_errors=True)  # a connection string in the wrong place

    needs_one_of = (("connection_string_env", "connection_string_file", "account_url"),)

    kind: Literal["blob"] = "blob"
    concurrency: int = Field(default=64, ge=1, le=1000)
    """Events under way at one time per process: requests in mode events, lines that go together in mode lines."""
    connection_string_env: str | None = None
    connection_string_file: FilePath | None = None
    """The storage account's connection string."""
    account_url: Annotated[str, AfterValidator(checked_account_url)] | None = None
    """Instead of a connection string: the identity of the process is used, with the role Storage Blob Data
    Contributor."""
    container: Annotated[str, AfterValidator(checked_container)]
    """Created when it is missing."""
    prefix: str = Field(default="", pattern=r"^([A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_-])?/)*$", max_length=500)
    """Before every name: folders, each with a / behind it."""
    mode: Literal["events", "lines"] = "events"
    """events: one blob per event, each exactly once. lines: JSON lines by the hour, one blob per hour and process; far
    fewer requests, but after a crash a line may stand twice, with the same idempotencykey."""
    timeout_seconds: float = Field(default=30, gt=0, le=600)
    """For one request; in mode lines, for one batch of lines."""

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        one_of(dict(self), *self.needs_one_of[0])
        return self

    @model_validator(mode="after")
    def _name_for_a_folder(self) -> Self:
        if self.name.endswith("."):
            raise ValueError("name becomes a folder, which must not end with a dot; choose another")
        return self

    def check_secret(self, key: str, value: str) -> None:
        """See SinkSettings."""
        if key == "connection_string":
            try:
                check_storage_connection_string(value)
            except ValueError as error:
                raise ValueError(f"the connection string {error}") from None

    @property
    def needs_identity(self) -> bool:
        """Without a connection string."""
        return self.account_url is not None

    @property
    def attempt_seconds(self) -> float:
        """The batch before it, and its own."""
        return 2 * self.timeout_seconds + _WAITING_SECONDS


class BlobSink:
    """Writes events into one container."""

    def __init__(
        self, settings: BlobSettings, tokens: TokenSource | None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._tokens = tokens
        self._clock = clock
        self._secret = Secret.of(settings, "connection_string")
        self._link: BlobLink | None = None
        self._lines: Lines | None = None

    async def open(self) -> None:
        """Connects to nothing yet: that comes with the first deliveries."""
        # Not before it is needed: it brings the SDK with it, which `worker check` does without.
        from worker.sinks.blob_link import Account, BlobLink  # noqa: PLC0415

        settings = self._settings
        read = None if self._secret is None else self._connection_string
        account = Account(settings.name, settings.container, read, settings.account_url, self._tokens)
        self._link = BlobLink(account, read_seconds=settings.timeout_seconds, clock=self._clock)
        # A name that no other life of any process has: only then does this one know what stands in its blobs.
        self._lines = Lines(
            self._link, sink=settings.name, process=uuid4().hex, timeout_seconds=settings.timeout_seconds
        )

    async def deliver(self, delivery: Delivery) -> None:
        """Writes the event's blob, or its line. On return the service has it."""
        assert self._link is not None, "open() comes first"
        assert self._lines is not None
        settings = self._settings
        limit = settings.timeout_seconds if settings.mode == "events" else settings.attempt_seconds
        scope = asyncio.timeout(limit)
        try:
            async with scope:
                if settings.mode == "events":
                    await self._link.create(self._name(delivery), orjson.dumps(_event(delivery)), CONTENT_TYPE)
                else:
                    await self._lines.put(self._folder(delivery), _line(delivery))
        except TimeoutError:
            if not scope.expired():
                raise  # a bug
            raise SinkUnavailable(
                f"sink {settings.name}: container {settings.container} did not answer within {limit:g} s"
            ) from None

    def preview(self, delivery: Delivery) -> str:
        """Where the event would stand, and its JSON."""
        lines = self._settings.mode == "lines"
        name = f"{self._folder(delivery)}/PROCESS-1.jsonl" if lines else self._name(delivery)
        return (
            f"{self._settings.container}/{name}\n{orjson.dumps(_event(delivery), option=orjson.OPT_INDENT_2).decode()}"
        )

    async def aclose(self) -> None:
        """Ends what is under way and closes the connections."""
        lines, self._lines = self._lines, None
        link, self._link = self._link, None
        if lines is not None:
            await lines.aclose()
        if link is not None:
            await link.aclose()

    def _connection_string(self) -> str:
        assert self._secret is not None
        text = self._secret.read_for(self._settings.name)
        try:
            self._settings.check_secret("connection_string", text)
        except ValueError as error:
            raise Misconfigured(f"sink {self._settings.name}: {error}") from None
        return text

    def _name(self, delivery: Delivery) -> str:
        return f"{self._folder(delivery)}/{delivery.idempotency_key}.json"

    def _folder(self, delivery: Delivery) -> str:
        """By the event's time in UTC: the day, or in mode lines the hour."""
        event = delivery.released.placed.event
        moment = normal_time(event.time) if event.time else None
        parts = [UNDATED]
        if moment is not None:
            hour = [moment[11:13]] if self._settings.mode == "lines" else []
            parts = [moment[:4], moment[5:7], moment[8:10], *hour]
        return f"{self._settings.prefix}{self._settings.name}/{'/'.join(parts)}"


def _event(delivery: Delivery) -> dict[str, object]:
    return structured(delivery) | {"idempotencykey": delivery.idempotency_key}


def _line(delivery: Delivery) -> Line:
    return Line(delivery.idempotency_key, orjson.dumps(_event(delivery), option=orjson.OPT_APPEND_NEWLINE))
