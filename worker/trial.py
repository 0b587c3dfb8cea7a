"""One delivery through one sink, for a person who tries it: no lane, no ledger, no store, no hub.

What is shown of it holds no secret of the sink, whatever the destination echoes. What is said is the command's work.
"""

import asyncio
import json
import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from yarl import URL

from worker.connections import endpoint_of
from worker.errors import ConfigError, Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable
from worker.logs import redact
from worker.settings import Secret, SinkSettings, secret_keys
from worker.sinks import Delivery, PreviewingSink, Sink
from worker.sinks.answers import LONG_CHARACTERS, Heard, excerpt, listening
from worker.sinks.cloudevents import structured_text
from worker.sinks.posting import url_secrets
from worker.terminal import printable

_OVERRUN_SECONDS = 5.0
"""A sink that does not keep its own bound is ended after so long, as in a running worker."""
_WHERE = (
    "management_url",
    "url",
    "endpoint",
    "endpoint_url",
    "host",
    "api_url",
    "organization",
    "namespace",
    "account_url",
)
"""The keys that say where a sink sends to, of whatever kind."""
_BETWEEN = re.compile(r"[\s;,]+")
"""Between the pieces of a header's value or of a connection string."""

Problem = SinkUnavailable | Rejected | Misconfigured | OutcomeUnknown


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the attempt ended."""

    problem: Problem | None
    """None: the destination accepted."""
    detail: str
    """The problem's sentence, masked."""
    answers: tuple[str, ...]
    """What the destination answered, as far as the sink hears it; masked."""
    seconds: float


class Mask:
    """Takes the secrets of a sink out of a text."""

    def __init__(self, settings: SinkSettings) -> None:
        username = getattr(settings, "username", None)
        forms = {form for value in _secret_values(settings) for form in _forms(value, username)}
        self._forms = tuple(sorted(forms, key=len, reverse=True))

    def text(self, text: str) -> str:
        """The text without them, and without what looks like others'."""
        for form in self._forms:
            text = text.replace(form, "***")
        return str(redact(text))

    def answer(self, heard: Heard) -> str:
        """An answer as one short line."""
        return f"{heard.status}{excerpt(heard.body.decode(errors='replace'), self._forms)}"


async def attempt(
    sink: Sink, delivery: Delivery, settings: SinkSettings, clock: Callable[[], float] = time.monotonic
) -> Outcome:
    """Opens the sink, delivers once within its time, and closes it."""
    mask = Mask(settings)  # with the secrets as they are now, because they may change meanwhile
    began = clock()
    problem: Problem | None = None
    with listening() as heard:
        try:
            await _deliver(sink, delivery, settings)
        except (SinkUnavailable, Rejected, Misconfigured, OutcomeUnknown) as error:
            problem = error
        finally:
            seconds = clock() - began
            await sink.aclose()
    answers = tuple(mask.answer(each) for each in heard)
    return Outcome(problem, mask.text(str(problem)) if problem else "", answers, seconds)


async def _deliver(sink: Sink, delivery: Delivery, settings: SinkSettings) -> None:
    limit = settings.attempt_seconds + _OVERRUN_SECONDS
    scope = asyncio.timeout(limit)
    try:
        async with scope:
            await sink.open()
            await sink.deliver(delivery)
    except TimeoutError:
        if not scope.expired():
            raise  # the sink's own: a bug there
        raise OutcomeUnknown(f"sink {settings.name}: no end after {limit:g} s") from None


def preview(sink: Sink, delivery: Delivery, settings: SinkSettings) -> str:
    """What would be sent, safe for a terminal: the sink's own words, or the CloudEvent."""
    text = sink.preview(delivery) if isinstance(sink, PreviewingSink) else structured_text(delivery)
    return "\n".join(printable(line) for line in Mask(settings).text(text).splitlines())


def destination(settings: SinkSettings) -> str | None:
    """Where the sink sends to, without what may be secret: a host or a file. None where its settings do not say."""
    if text := where(settings):
        return _host(text)
    path = dict(settings).get("path")
    return str(path) if isinstance(path, Path) else None


def where(settings: SinkSettings) -> str | None:
    """The host name or the whole address that the sink sends to, which may hold a secret. None as `destination`."""
    values = dict(settings)
    for key in _WHERE:
        text = values.get(key) or _value(Secret.of(settings, key))
        if isinstance(text, str) and text and _host(text):
            return text
    endpoint = endpoint_of(_value(Secret.of(settings, "connection_string")))
    return endpoint if endpoint and _host(endpoint) else None


def _host(text: str) -> str | None:
    if "/" not in text:
        return text
    try:
        url = URL(text, encoded=True)
    except ValueError:
        return None
    if url.host is None:
        return None
    return url.host if url.is_default_port() or url.port is None else f"{url.host}:{url.port}"


def _secret_values(settings: SinkSettings) -> Iterator[str]:
    for key in secret_keys(type(settings)):
        for suffix in ("env", "file"):
            given = getattr(settings, f"{key}_{suffix}", None)
            for each in given.values() if isinstance(given, Mapping) else (given,):
                if each is not None:
                    yield from filter(None, [_value(Secret(key, **{suffix: each}))])


def _value(secret: Secret | None) -> str:
    try:
        return secret.read() if secret else ""
    except ConfigError:
        return ""


def _forms(value: str, username: str | None) -> Iterator[str]:
    """A secret as it may come out again: whole, in pieces, and as URLs, JSON and logins write it."""
    for piece in (value, *(piece for piece in _pieces(value) if len(piece) >= LONG_CHARACTERS)):
        yield from (piece, quote(piece, safe=""), json.dumps(piece)[1:-1], json.dumps(piece, ensure_ascii=False)[1:-1])
    logins = () if username is None else (f"\0{username}\0{value}", f"{username}:{value}")
    for text in (value, *logins):
        yield b64encode(text.encode()).decode()


def _pieces(value: str) -> list[str]:
    words = _BETWEEN.split(value)
    pieces = [*words, *(word.partition("=")[2] for word in words)]
    if "://" in value:
        with suppress(ValueError):  # no URL after all
            pieces += url_secrets(URL(value, encoded=True))
    return pieces
