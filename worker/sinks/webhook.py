"""The webhook sink: POSTs events as CloudEvents 1.0 to a URL, signed when there is a secret.

`webhook-id` and `Idempotency-Key` are the same at every attempt, so an ambiguous end (no answer, a server error) is
simply tried again. It follows no redirect, uses no proxy, keeps no cookie, and connects to no private address unless it
is told to. The URL may itself be the secret: errors name the sink and the host, never path or query.

What is sent is in `webhook_messages`, what can be configured in `webhook_settings`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from worker.errors import ConfigError, Gone, Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable
from worker.settings import Secret
from worker.sinks import Delivery
from worker.sinks.addresses import checked_url
from worker.sinks.answers import to_hide
from worker.sinks.batching import Batcher
from worker.sinks.cloudevents import structured_text
from worker.sinks.handshake import Handshake
from worker.sinks.posting import Poster, refusal, url_secrets
from worker.sinks.signing import signed, signing_key
from worker.sinks.webhook_messages import (
    Member,
    Message,
    batch_message,
    binary_message,
    fitting,
    member_of,
    structured_message,
)
from worker.sinks.webhook_settings import FUNCTIONS_KEY, BatchSettings, WebhookSettings, check_header_value


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a request goes and what it proves itself with, from the secrets as they are at this moment."""

    url: URL
    url_is_secret: bool
    secret_headers: Mapping[str, str]
    signing_secrets: tuple[str, ...]
    """As they were given, the new one first."""

    @property
    def signing_keys(self) -> list[bytes]:
        """What requests are signed with."""
        return [signing_key(secret) for secret in self.signing_secrets]

    def secrets(self) -> tuple[str, ...]:
        """What no error may repeat, longest first: secrets whole and their long pieces, percent-encoded or not."""
        whole = {*self.secret_headers.values(), *self.signing_secrets}
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
        ticks: Callable[[], float] = time.monotonic,
        resolver: Callable[[], AbstractResolver] = aiohttp.ThreadedResolver,
    ) -> None:
        """`clock` tells what time it is, `ticks` how much of it has gone by."""
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
            timeout_seconds=settings.timeout_seconds,
            resolver=resolver,
            clock=clock,
        )
        self._url = Secret.of(settings, "url")
        self._signing = [each for key in ("secret", "previous_secret") if (each := Secret.of(settings, key))]
        self._headers = {name: Secret("headers", env=env) for name, env in settings.headers_env.items()}
        self._headers |= {name: Secret("headers", file=file) for name, file in settings.headers_file.items()}
        if functions_key := Secret.of(settings, "functions_key"):
            self._headers[FUNCTIONS_KEY] = functions_key
        self._handshake: Handshake | None = None
        if asked := settings.handshake:
            self._handshake = Handshake(self._poster, sink=settings.name, origin=asked.origin, clock=ticks)
        self._batches: Batcher[Member] | None = None
        if settings.mode == "batched":
            batch = settings.batch or BatchSettings()
            cut = partial(fitting, most_bytes=batch.bytes)
            name = f"sink {settings.name}"
            self._batches = Batcher(self._send_batch, name=name, most=batch.events, cut=cut, clock=ticks)

    async def open(self) -> None:
        """Makes the session; connections come with the first deliveries."""
        await self._poster.open()

    def wait_seconds(self) -> float:
        """How long nothing can be sent to keep the rate that the destination allows."""
        return self._handshake.wait_seconds() if self._handshake else 0.0

    async def deliver(self, delivery: Delivery) -> None:
        """POSTs once, in a batch with others perhaps. Returns on any 2xx."""
        if self._batches:
            await self._batches.put(member_of(delivery))
        else:
            await self._send(self._message(delivery))

    def preview(self, delivery: Delivery) -> str:
        """The body, with line breaks that are not sent, below the headers that the receiver tells repetitions by."""
        try:
            message = self._message(delivery)
        except Rejected as error:
            return str(error)
        body = structured_text(delivery) if self._settings.mode == "structured" else _shown(message.body)
        headers = {**message.headers, "webhook-id": message.id, **self._settings.headers}
        if self._handshake:
            headers |= self._handshake.headers
        return "\n".join((*(f"{name}: {value}" for name, value in headers.items()), "", body))

    async def aclose(self) -> None:
        """Ends what is under way for several, and closes the connections."""
        if self._batches:
            await self._batches.aclose()
        if self._handshake:
            await self._handshake.aclose()
        await self._poster.aclose()

    def _message(self, delivery: Delivery) -> Message:
        """The event as it is sent alone."""
        match self._settings.mode:
            case "structured":
                return structured_message(delivery)
            case "batched":
                return batch_message([member_of(delivery)])
            case "binary":
                try:
                    return binary_message(delivery)
                except Rejected as error:
                    raise Rejected(f"sink {self._settings.name}: {error}") from None

    async def _send_batch(self, members: Sequence[Member]) -> None:
        await self._send(batch_message(members))

    async def _send(self, message: Message) -> None:
        target = self._target()
        headers = {**self._settings.headers, **target.secret_headers}
        if self._handshake:
            await self._handshake.agree(target.url, headers, target.secrets())
            self._handshake.take_turn()
            headers |= self._handshake.headers
        headers |= message.headers
        headers |= {"webhook-id": message.id, "Idempotency-Key": message.id}
        headers |= signed(target.signing_keys, message_id=message.id, body=message.body, at=self._clock())
        # Nothing instead of an empty body, which the client would give a type of its own.
        answer = await self._poster.request("POST", target.url, message.body or None, headers)
        if answer.accepted or answer.status in self._settings.accepts:
            return
        if self._handshake and answer.status in {401, 403}:
            self._handshake.forget()
        if answer.status == 410:
            raise Gone(answer.said(target.secrets()))
        raise refusal(answer, target.secrets(), unclear=self._unclear)

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
            check_header_value(name, value)
        signing_secrets = tuple(secret.read() for secret in self._signing)
        for secret in signing_secrets:
            signing_key(secret)
        return _Target(
            url=checked_url(text, allow_private=self._settings.allow_private),
            url_is_secret=self._url is not None,
            secret_headers=headers,
            signing_secrets=signing_secrets,
        )


def _shown(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return f"({len(body)} bytes that are no text)"
