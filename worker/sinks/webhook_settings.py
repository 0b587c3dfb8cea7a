"""What can be written about a sink of kind `webhook`, and what is refused. No I/O."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from worker.settings import FilePath, SinkSettings, one_of
from worker.sinks.addresses import checked_url
from worker.sinks.batching import PATIENCE_SECONDS
from worker.sinks.signing import signing_key
from worker.strict import Settings

FUNCTIONS_KEY = "x-functions-key"

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
# What the sink or the HTTP client writes; a second one would contradict it.
_OWN_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "idempotency-key",
        "transfer-encoding",
        "webhook-id",
        "webhook-request-origin",
        "webhook-signature",
        "webhook-timestamp",
    }
)
_CREDENTIAL_HEADERS = frozenset(
    {
        "api-key",
        "authorization",
        "cookie",
        "ocp-apim-subscription-key",
        "proxy-authorization",
        "x-api-key",
        FUNCTIONS_KEY,
    }
)
_NEVER_ACCEPTED = frozenset({401, 403, 408, 410, 425, 429})
"""These say something of the worker or of the moment, and nothing of the event."""
_BATCH_EVENTS = 100


class BatchSettings(Settings):
    """How much goes together in one request."""

    events: int = Field(default=_BATCH_EVENTS, ge=1, le=1000)
    """At most; they are those that came while a request was under way, so a quiet sink sends one by one."""
    bytes: int = Field(default=262_144, ge=1, le=64 * 1024 * 1024)
    """Of the body, at most; an event that is larger goes alone. What comes between has to pass 64 KiB, says the
    CloudEvents specification; most servers take a megabyte."""


class HandshakeSettings(Settings):
    """Asks the destination for its consent before the first event."""

    origin: str = Field(default="event-grid-worker", pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$")
    """The name of the sender, that the destination may know it by: one for all processes."""


class WebhookSettings(SinkSettings):
    """A sink of kind `webhook`."""

    model_config = ConfigDict(hide_input_in_errors=True)  # a URL that is refused here may hold a secret

    ledger = "optional"
    needs_one_of = (("url", "url_env", "url_file"),)

    kind: Literal["webhook"] = "webhook"
    mode: Literal["structured", "binary", "batched"] = "structured"
    """The whole event as JSON; or its attributes as headers and its data as the body; or several as one JSON array."""
    batch: BatchSettings | None = None
    """For mode batched. There, `concurrency` is twice its `events` unless set: one batch under way, one that waits."""
    allow_private: bool = False
    """Permits http:// and private, link-local and reserved addresses. The loopback is always permitted."""
    url: str | None = None
    """Where to POST to. A URL with a query holds a secret more often than not: it goes into url_env or url_file."""
    url_env: str | None = None
    url_file: FilePath | None = None
    secret_env: str | None = None
    """Signs requests as Standard Webhooks does (HMAC-SHA256): whsec_ and base64, or else the key's own text."""
    secret_file: FilePath | None = None
    previous_secret_env: str | None = None
    """Signs them a second time, with the secret that is being replaced: until every receiver knows the new one."""
    previous_secret_file: FilePath | None = None
    functions_key_env: str | None = None
    """The key of an Azure Function (or of its app): sent as the header x-functions-key."""
    functions_key_file: FilePath | None = None
    headers: Mapping[str, str] = {}
    """More headers, for all to see."""
    headers_env: Mapping[str, str] = {}
    """More headers, each from the environment variable named: `Authorization: OUT_AUTHORIZATION`."""
    headers_file: Mapping[str, FilePath] = {}
    """More headers, each from a file."""
    accepts: frozenset[int] = frozenset()
    """Statuses beyond 2xx that mean accepted: 409, where the receiver says so of what it has already."""
    handshake: HandshakeSettings | None = None
    """Whether the destination is asked before the first event: `true`, or `{origin: NAME}`. Off, because most do not
    know how to answer."""
    timeout_seconds: float = Field(default=30, gt=0, le=600)
    """For one request, from the connection (10 s at most) to the answer's status."""

    @property
    def attempt_seconds(self) -> float:
        """One request, before it perhaps the handshake; in a batch, besides, the wait for its turn."""
        requests = self.timeout_seconds * (1 if self.handshake is None else 2)
        return requests + (PATIENCE_SECONDS if self.mode == "batched" else 0.0)

    @model_validator(mode="after")
    def _room_for_batches(self) -> Self:
        if self.mode == "batched" and "concurrency" not in self.model_fields_set:
            events = self.batch.events if self.batch else _BATCH_EVENTS
            object.__setattr__(self, "concurrency", min(1000, 2 * events))  # frozen for all others
        return self

    @field_validator("url")
    @classmethod
    def _open_url(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is None:
            return None
        url = checked_url(text, allow_private=info.data.get("allow_private", False))
        if "code" in url.query:
            raise ValueError(
                "the URL has ?code=, the key of a function; put that into functions_key_env, and leave it out"
            )
        if url.raw_query_string:
            raise ValueError("the URL has a query, which often holds a secret; put it into url_env or url_file")
        return text

    @field_validator("headers", "headers_env", "headers_file")
    @classmethod
    def _header_names(cls, headers: Mapping[str, object]) -> Mapping[str, object]:
        for name in headers:
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a header name; it may hold letters, digits and -")
            if name.lower() in _OWN_HEADERS or name.lower().startswith("ce-"):
                raise ValueError(f"{name} is written by the sink itself; remove it")
        return headers

    @field_validator("headers")
    @classmethod
    def _open_headers(cls, headers: Mapping[str, str]) -> Mapping[str, str]:
        for name, value in headers.items():
            if name.lower() == FUNCTIONS_KEY:
                raise ValueError(f"{name} is a secret; put it into functions_key_env or functions_key_file")
            if name.lower() in _CREDENTIAL_HEADERS:
                raise ValueError(f"{name} is a secret; put it into headers_env or headers_file")
            check_header_value(name, value)
        return headers

    @field_validator("accepts")
    @classmethod
    def _statuses(cls, statuses: frozenset[int]) -> frozenset[int]:
        for status in sorted(statuses):
            if not 400 <= status <= 499 or status in _NEVER_ACCEPTED:
                raise ValueError(
                    f"{status} never means accepted; write a 4xx such as 409, but none of "
                    f"{', '.join(map(str, sorted(_NEVER_ACCEPTED)))}"
                )
        return statuses

    @field_validator("handshake", mode="before", json_schema_input_type=bool | HandshakeSettings | None)
    @classmethod
    def _on_or_off(cls, value: Any) -> Any:
        if value is None or isinstance(value, bool):
            return {} if value else None
        if not isinstance(value, dict | HandshakeSettings):
            raise ValueError("is neither on nor off; write true, or {origin: NAME}")  # noqa: TRY004 - for pydantic
        return value

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        given = dict(self)
        one_of(given, *self.needs_one_of[0])
        one_of(given, "secret_env", "secret_file", required=False)
        one_of(given, "previous_secret_env", "previous_secret_file", required=False)
        one_of(given, "functions_key_env", "functions_key_file", required=False)
        if (self.previous_secret_env or self.previous_secret_file) and not (self.secret_env or self.secret_file):
            raise ValueError("there is a previous secret but no new one; add secret_env or secret_file")
        keys = [FUNCTIONS_KEY] if self.functions_key_env or self.functions_key_file else []
        names = Counter(name.lower() for name in [*self.headers, *self.headers_env, *self.headers_file, *keys])
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"the header {twice[0]} is given twice; keep one")
        return self

    @model_validator(mode="after")
    def _fits_its_mode(self) -> Self:
        if self.mode != "batched":
            if self.batch is not None:
                raise ValueError("batch is for mode: batched; remove it, or add mode: batched")
            return self
        if self.on_unknown is not None:
            raise ValueError(
                "on_unknown needs a request for each event, and mode: batched sends several in one; remove it, and let "
                "the receiver know repetitions by idempotencykey, or change the mode"
            )
        if self.accepts:
            raise ValueError("accepts cannot be told for mode: batched: a status does not say which event it means")
        return self

    def check_secret(self, key: str, value: str) -> None:
        """See SinkSettings."""
        match key:
            case "url":
                checked_url(value, allow_private=self.allow_private)
            case "secret" | "previous_secret":
                signing_key(value)
            case "functions_key":
                check_header_value(FUNCTIONS_KEY, value)
            case "headers":
                check_header_value("value", value)


def check_header_value(name: str, value: str) -> None:
    """Raises ValueError, whose text does not hold the value."""
    if not _HEADER_VALUE.fullmatch(value):
        raise ValueError(f"the header {name} holds a line break or another character that headers cannot hold")
