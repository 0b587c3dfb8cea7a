"""One POST over HTTP, for the sinks that make some: bounded in time, no redirect, no proxy, errors in words.

It connects to no private address unless it is told to. What an answer means is the sink's decision; `refusal` is what
most of them decide. Errors name the sink and the host, never path or query, and repeat no secret that they are told.
"""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver
from yarl import URL

from worker.errors import Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable, WorkerError
from worker.settings import SinkSettings
from worker.sinks.addresses import PublicResolver, why_not_connected
from worker.sinks.answers import excerpt, note_answer
from worker.tracing import current

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 2.0  # for the body of an answer, which only decorates an error
_ANSWER_BYTES = 4096
_RETRY_AFTER_MAX_SECONDS = 3600.0


Unclear = type[OutcomeUnknown] | type[SinkUnavailable]
"""What an end that leaves open what happened is raised as."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the destination answered."""

    where: str
    """The sink and the host."""
    status: int
    headers: Mapping[str, str]
    body: bytes
    """Its first bytes, as far as they came soon."""
    retry_after_seconds: float | None

    @property
    def accepted(self) -> bool:
        """Any 2xx."""
        return 200 <= self.status < 300

    @property
    def fields(self) -> dict[str, Any]:
        """The JSON object that it holds; empty where it is none, or was cut."""
        try:
            body = orjson.loads(self.body)
        except ValueError:
            return {}
        return body if isinstance(body, dict) else {}

    @property
    def error_code(self) -> str:
        """The service's name for an error, as Azure's services write it; empty where it gives none."""
        error = self.fields.get("error")
        code = error.get("code") if isinstance(error, dict) else None
        return code if isinstance(code, str) else ""

    def said(self, secrets: tuple[str, ...]) -> str:
        """The answer as one short line that is safe to show."""
        return f"{self.where} answered {self.status}{excerpt(self.body.decode(errors='replace'), secrets)}"


class Poster:
    """One session with one pool of connections, for one sink."""

    def __init__(
        self,
        settings: SinkSettings,
        *,
        unclear: Unclear,
        timeout_seconds: float | None = None,
        resolver: Callable[[], AbstractResolver] = aiohttp.ThreadedResolver,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """As the sink's settings say: their name, concurrency and timeout, and `allow_private` where they have it.

        `unclear` is raised when the request was sent and no answer came: it may have taken effect. `timeout_seconds` is
        for one request; None: as long as an attempt may take.
        """
        self._sink = settings.name
        self._concurrency = settings.concurrency
        self._timeout_seconds = settings.attempt_seconds if timeout_seconds is None else timeout_seconds
        self._connect_seconds = min(_CONNECT_SECONDS, self._timeout_seconds)
        self._allow_private: bool = getattr(settings, "allow_private", False)
        self._unclear = unclear
        self._resolver = resolver
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Makes the session; connections come with the first requests."""
        resolver = self._resolver()
        if not self._allow_private:
            resolver = PublicResolver(resolver, sink=self._sink)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._concurrency, resolver=resolver),
            timeout=aiohttp.ClientTimeout(total=self._timeout_seconds, connect=self._connect_seconds),
            headers={"User-Agent": "event-grid-worker", "Accept-Encoding": "identity"},
            skip_auto_headers=["Content-Type"],  # of nothing the client would say that it is application/octet-stream
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # a few bytes on the wire must not become many in memory
            trust_env=False,
            middlewares=(_once,),
        )

    async def aclose(self) -> None:
        """Closes the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def post(self, url: URL, body: bytes, headers: Mapping[str, str]) -> Answer:
        """POSTs once and returns the answer, whatever its status."""
        return await self.request("POST", url, body, headers)

    async def request(
        self,
        method: str,
        url: URL,
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        most_bytes: int = _ANSWER_BYTES,
    ) -> Answer:
        """Asks once and returns the answer, whatever its status. Raises SinkUnavailable, Misconfigured or `unclear`.

        `most_bytes` of its body are read, as far as they come soon. Of more than the default the caller wants to know
        them all: they have the time that is left of the request's.
        """
        span = current()
        if span is None:
            return await self._ask(method, url, body, headers, most_bytes)
        with span.call(method, _about(method, url)) as call:
            answer = await self._ask(method, url, body, {**headers, **call.carrier}, most_bytes)
            call.answered(answer.status)
            return answer

    async def _ask(
        self, method: str, url: URL, body: bytes | None, headers: Mapping[str, str], most_bytes: int
    ) -> Answer:
        assert self._session is not None, "open() comes first"
        where = f"sink {self._sink}: {url.host}"
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, allow_redirects=False
            ) as response:
                # Read also when all is well: only an answer read to its end leaves the connection for the next.
                beginning = await _beginning(
                    response.content, most_bytes, _ANSWER_SECONDS if most_bytes <= _ANSWER_BYTES else None
                )
        except aiohttp.ConnectionTimeoutError:
            raise SinkUnavailable(f"{where} could not be connected to within {self._connect_seconds:g} s") from None
        except TimeoutError:
            raise self._unclear(f"{where} did not answer within {self._timeout_seconds:g} s") from None
        except aiohttp.ClientConnectorError as error:
            # Without its cause: the client's own texts may quote the URL.
            raise SinkUnavailable(f"{where} {_what_happened(error)}") from None
        except aiohttp.ClientError as error:
            raise self._unclear(f"{where} {_what_happened(error)}") from None
        note_answer(response.status, beginning)
        retry_after = seconds_of(response.headers.get("Retry-After"), now=self._clock())
        return Answer(where, response.status, response.headers, beginning, retry_after)


class _Lost(aiohttp.ClientConnectionError):
    """The connection went before the answer came."""


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keeps the client from asking a second time by itself, as it does for a PUT or DELETE whose connection was lost.

    Whether that is right is the lane's decision. A question may be asked twice.
    """
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
        if request.method == "GET":
            raise
        raise _Lost from None


def refusal(answer: Answer, secrets: tuple[str, ...], *, unclear: Unclear) -> WorkerError:
    """What is to be done about an answer that is no 2xx; `unclear`: about one that leaves open what happened."""
    said = answer.said(secrets)
    busy = answer.status == 503 and answer.retry_after_seconds is not None  # who says when to come again did nothing
    if answer.status >= 500 and not busy and unclear is OutcomeUnknown:
        return OutcomeUnknown(said)
    if answer.status in {408, 425, 429} or answer.status >= 500:
        return SinkUnavailable(said, retry_after_seconds=answer.retry_after_seconds)
    if answer.status in {401, 403, 404}:
        return Misconfigured(said)
    return Rejected(said)


def url_secrets(url: URL) -> list[str]:
    """What no error may repeat of a URL that is itself a secret: the whole, and its pieces, percent-encoded or not."""
    pieces = [str(url), url.raw_path_qs, *url.raw_parts, *url.parts, *url.query.values()]
    return pieces + re.split("[&=]", url.raw_query_string)


def _about(method: str, url: URL) -> dict[str, str | int]:
    """What a trace may say of a request. Path and query are secrets of some destinations."""
    found: dict[str, str | int] = {"http.request.method": method, "url.full": str(url.origin())}
    if url.host:
        found["server.address"] = url.host
    if url.port:
        found["server.port"] = url.port
    return found


async def _beginning(content: aiohttp.StreamReader, most_bytes: int, seconds: float | None) -> bytes:
    """The first bytes of an answer's body, as far as they come in time."""
    answer = bytearray()
    with suppress(TimeoutError, aiohttp.ClientError):  # the status was the answer; the rest would only explain it
        async with asyncio.timeout(seconds):
            while len(answer) < most_bytes and (chunk := await content.read(most_bytes - len(answer))):
                answer += chunk
    return bytes(answer)


def _what_happened(error: aiohttp.ClientError) -> str:
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return "shows a TLS certificate that is not trusted"
        case aiohttp.ClientConnectorDNSError():
            return f"cannot be resolved: {error.os_error.strerror or 'no address found'}"
        case aiohttp.ClientConnectorError():
            return f"cannot be connected to: {why_not_connected(error.os_error)}"
        case _Lost() | aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return "closed the connection before it answered"
        case _:
            return f"did not answer in proper HTTP ({type(error).__name__})"


def seconds_of(retry_after: str | None, *, now: float) -> float | None:
    """Retry-After as seconds from now, at most an hour; None where there is none or it makes no sense."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text)
    else:
        try:
            date = parsedate_to_datetime(text)
        except ValueError:
            return None
        # A date without a zone ("-0000") is UTC too.
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
    return min(max(seconds, 0.0), _RETRY_AFTER_MAX_SECONDS)
