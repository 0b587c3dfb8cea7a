"""The webhook sink: POSTs each event as CloudEvents 1.0 structured JSON to a URL, signed when there is a secret.

`webhook-id` and `Idempotency-Key` are the same at every attempt, so an ambiguous end (no answer, a server error) is
simply tried again. It follows no redirect, uses no proxy, keeps no cookie, and connects to no private address unless it
is told to. The URL may itself be the secret: errors name the sink and the host, never path or query.
"""

import base64
import binascii
import hmac
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Self

import aiohttp
from aiohttp.abc import AbstractResolver
from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator
from yarl import URL

from worker.errors import ConfigError, Misconfigured, OutcomeUnknown, SinkUnavailable
from worker.settings import FilePath, Secret, SinkSettings, one_of
from worker.sinks import Delivery
from worker.sinks.addresses import checked_url
from worker.sinks.answers import to_hide
from worker.sinks.cloudevents import CONTENT_TYPE, structured_json, structured_text
from worker.sinks.posting import Poster, refusal, url_secrets

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
        "x-functions-key",
    }
)


class WebhookSettings(SinkSettings):
    """A sink of kind `webhook`."""

    model_config = ConfigDict(hide_input_in_errors=True)  # a URL that is refused here may hold a secret

    ledger = "optional"

    kind: Literal["webhook"] = "webhook"
    allow_private: bool = False
    """Permits http:// and private, link-local and reserved addresses. The loopback is always permitted."""
    url: str | None = None
    """Where to POST to. A URL with a query holds a secret more often than not: it goes into url_env or url_file."""
    url_env: str | None = None
    url_file: FilePath | None = None
    secret_env: str | None = None
    """Signs requests as Standard Webhooks does (HMAC-SHA256): whsec_ and base64, or else the key's own text."""
    secret_file: FilePath | None = None
    headers: Mapping[str, str] = {}
    """More headers, for all to see."""
    headers_env: Mapping[str, str] = {}
    """More headers, each from the environment variable named: `Authorization: OUT_AUTHORIZATION`."""
    headers_file: Mapping[str, FilePath] = {}
    """More headers, each from a file."""
    timeout_seconds: float = Field(default=30, gt=0, le=600)
    """For one attempt, from the connection (10 s at most) to the answer's status."""

    @field_validator("url")
    @classmethod
    def _open_url(cls, text: str | None, info: ValidationInfo) -> str | None:
        allow_private = info.data.get("allow_private", False)
        if text is not None and checked_url(text, allow_private=allow_private).raw_query_string:
            raise ValueError("the URL has a query, which often holds a secret; put it into url_env or url_file")
        return text

    @field_validator("headers", "headers_env", "headers_file")
    @classmethod
    def _header_names(cls, headers: Mapping[str, object]) -> Mapping[str, object]:
        for name in headers:
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a header name; it may hold letters, digits and -")
            if name.lower() in _OWN_HEADERS:
                raise ValueError(f"{name} is written by the sink itself; remove it")
        return headers

    @field_validator("headers")
    @classmethod
    def _open_headers(cls, headers: Mapping[str, str]) -> Mapping[str, str]:
        for name, value in headers.items():
            if name.lower() in _CREDENTIAL_HEADERS:
                raise ValueError(f"{name} is a secret; put it into headers_env or headers_file")
            _check_header_value(name, value)
        return headers

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        given = dict(self)
        one_of(given, "url", "url_env", "url_file")
        one_of(given, "secret_env", "secret_file", required=False)
        names = Counter(name.lower() for name in [*self.headers, *self.headers_env, *self.headers_file])
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"the header {twice[0]} is given twice; keep one")
        return self

    def check_secret(self, key: str, value: str) -> None:
        """See SinkSettings."""
        match key:
            case "url":
                checked_url(value, allow_private=self.allow_private)
            case "secret":
                _signing_key(value)
            case "headers":
                _check_header_value("value", value)


def _check_header_value(name: str, value: str) -> None:
    if not _HEADER_VALUE.fullmatch(value):
        raise ValueError(f"the header {name} holds a line break or another character that headers cannot hold")


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a request goes and what it proves itself with, from the secrets as they are at this moment."""

    url: URL
    url_is_secret: bool
    secret_headers: Mapping[str, str]
    signing_key: bytes | None
    signing_secret: str
    """As it was given; empty where there is none."""

    def secrets(self) -> tuple[str, ...]:
        """What no error may repeat, longest first: secrets whole and their long pieces, percent-encoded or not."""
        whole = {*self.secret_headers.values(), self.signing_secret}
        pieces = [word for value in self.secret_headers.values() for word in value.split()]
        if self.url_is_secret:
            pieces += url_secrets(self.url)
        return to_hide(pieces, whole)


class WebhookSink:
    """POSTs events over one session with one pool of connections."""

    def __init__(
        self,
        settings: WebhookSettings,
        *,
        clock: Callable[[], float] = time.time,
        resolver: Callable[[], AbstractResolver] = aiohttp.ThreadedResolver,
    ) -> None:
        self._settings = settings
        self._clock = clock
        # The receiver is taken to know `webhook-id`, so an unclear end is simply tried again, unless the sink says
        # that it matters.
        self._unclear: type[OutcomeUnknown | SinkUnavailable] = (
            OutcomeUnknown if settings.on_unknown else SinkUnavailable
        )
        self._poster = Poster(
            settings,
            unclear=self._unclear,
            resolver=resolver,
            clock=clock,
        )
        self._url = Secret.of(settings, "url")
        self._secret = Secret.of(settings, "secret")
        self._headers = {name: Secret("headers", env=env) for name, env in settings.headers_env.items()}
        self._headers |= {name: Secret("headers", file=file) for name, file in settings.headers_file.items()}

    async def open(self) -> None:
        """Makes the session; connections come with the first deliveries."""
        await self._poster.open()

    async def deliver(self, delivery: Delivery) -> None:
        """POSTs once. Returns on any 2xx."""
        target = self._target()
        body = structured_json(delivery)
        answer = await self._poster.post(target.url, body, self._headers_for(delivery, body, target))
        if not answer.accepted:
            raise refusal(answer, target.secrets(), unclear=self._unclear)

    def preview(self, delivery: Delivery) -> str:
        """The body, with line breaks that are not sent, below the headers that the receiver tells repetitions by."""
        headers = [f"Content-Type: {CONTENT_TYPE}", f"webhook-id: {delivery.idempotency_key}"]
        headers += [f"{name}: {value}" for name, value in self._settings.headers.items()]
        return "\n".join((*headers, "", structured_text(delivery)))

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._poster.aclose()

    def _target(self) -> _Target:
        """Reads the secrets. Misconfigured, not ConfigError: by now the lane can wait until it is repaired."""
        try:
            return self._read_target()
        except (ConfigError, ValueError) as error:
            raise Misconfigured(f"sink {self._settings.name}: {error}") from None

    def _read_target(self) -> _Target:
        text = self._url.read() if self._url else self._settings.url or ""
        headers = {name: secret.read() for name, secret in self._headers.items()}
        for name, value in headers.items():
            _check_header_value(name, value)
        signing_secret = self._secret.read() if self._secret else ""
        return _Target(
            url=checked_url(text, allow_private=self._settings.allow_private),
            url_is_secret=self._url is not None,
            secret_headers=headers,
            signing_key=_signing_key(signing_secret) if signing_secret else None,
            signing_secret=signing_secret,
        )

    def _headers_for(self, delivery: Delivery, body: bytes, target: _Target) -> dict[str, str]:
        headers = {
            **self._settings.headers,
            **target.secret_headers,
            "Content-Type": CONTENT_TYPE,
            "webhook-id": delivery.idempotency_key,
            "Idempotency-Key": delivery.idempotency_key,
        }
        if target.signing_key is not None:
            timestamp = str(int(self._clock()))
            signed = f"{delivery.idempotency_key}.{timestamp}.".encode() + body
            digest = hmac.digest(target.signing_key, signed, "sha256")
            headers["webhook-timestamp"] = timestamp
            headers["webhook-signature"] = "v1," + base64.b64encode(digest).decode()
        return headers


def _signing_key(secret: str) -> bytes:
    if not secret.startswith("whsec_"):
        return secret.encode()
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        key = b""
    if not key:
        raise ValueError("the signing secret begins with whsec_ but goes on with something that is not base64")
    return key
