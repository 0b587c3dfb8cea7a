"""The destinations of a chaos run: an HTTP and an SMTP server that fail at random, and write down what they did.

What they wrote down is what the run is judged by. They know nothing of the worker, and decide by chance alone.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping
from email import message_from_bytes
from email.policy import default
from enum import StrEnum
from typing import Any

import orjson
from aiohttp import web
from aiosmtpd.smtp import SMTP, Envelope, Session

from worker.local.receiver import Record
from worker.local.verdict import Arrival

HOST = "127.0.0.1"
_HANG_SECONDS = 30.0
"""Longer than any client of the run waits."""


class Mood(StrEnum):
    """What becomes of a request."""

    TAKEN = "taken"
    BUSY = "asked to come back later"
    ERROR = "answered with an error"
    HANG = "never answered"
    LOST_BEFORE = "connection dropped before it took effect"
    LOST_AFTER = "connection dropped after it took effect"


HTTP_SHARES: Mapping[Mood, float] = {
    Mood.BUSY: 0.004,
    Mood.ERROR: 0.005,
    Mood.HANG: 0.0005,
    Mood.LOST_BEFORE: 0.003,
    Mood.LOST_AFTER: 0.001,
}
SMTP_SHARES: Mapping[Mood, float] = {
    Mood.BUSY: 0.03,
    Mood.ERROR: 0.02,
    Mood.HANG: 0.005,
    Mood.LOST_BEFORE: 0.03,
    Mood.LOST_AFTER: 0.02,
}


class Moods:
    """Draws one for every request."""

    def __init__(self, shares: Mapping[Mood, float], seed: int) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - chance, not secrecy
        self._moods = [*shares, Mood.TAKEN]
        self._weights = [*shares.values(), 1 - sum(shares.values())]

    def draw(self) -> Mood:
        """The next one."""
        return self._rng.choices(self._moods, self._weights)[0]


class Book(Record):
    """One destination's record: every effect in the order it came, and which of them the sender was not told of."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []
        """When each arrival came, as Unix time."""
        self.untold: Counter[str] = Counter()
        """By event: effects whose answer the destination kept to itself."""
        self.unanswered: set[str] = set()
        """Keys of mails that had come whole and got no answer, taken or not."""
        self.moods: Counter[Mood] = Counter()

    def add(self, arrival: Arrival) -> None:
        """Notes one more, and when."""
        super().add(arrival)
        self.times.append(time.time())

    def note(self, arrival: Arrival, mood: Mood) -> None:
        """An effect."""
        self.add(arrival)
        if mood is Mood.LOST_AFTER:
            self.untold[arrival.event_id] += 1


class HttpReceiver:
    """Two destinations: `/plain` takes everything as it comes, `/once` honours the idempotency key."""

    def __init__(self, plain: Book, once: Book, *, seed: int) -> None:
        self._books = {"/plain": plain, "/once": once}
        self._once = once
        self._keys: set[str] = set()
        self._moods = Moods(HTTP_SHARES, seed)
        application = web.Application()
        for path in self._books:
            application.router.add_post(path, self._receive)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1, handler_cancellation=True)

    async def __aenter__(self) -> str:
        """Listens on a free port and gives the address to which the paths are appended."""
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, 0, backlog=1024).start()
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        event = orjson.loads(await request.read())
        # A hand-written client sends no key; its event's id is all there is to know it by.
        arrival = Arrival(event["id"], request.headers.get("webhook-id", event["id"]), late="lateby" in event)
        book, mood = self._books[request.path], self._moods.draw()
        book.moods[mood] += 1
        match mood:
            case Mood.BUSY:
                return web.Response(status=429, headers={"Retry-After": "1"})
            case Mood.ERROR:
                return web.Response(status=500)
            case Mood.HANG:
                await asyncio.sleep(_HANG_SECONDS)
                return web.Response(status=503)
            case Mood.LOST_BEFORE:
                return self._hang_up(request)
        if book is not self._once or self._is_new(arrival.key):
            book.note(arrival, mood)
        return self._hang_up(request) if mood is Mood.LOST_AFTER else web.Response(status=204)

    def _is_new(self, key: str) -> bool:
        known = key in self._keys
        self._keys.add(key)
        return not known

    def _hang_up(self, request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()


class MailReceiver:
    """A mail server for everybody; a message it took is an effect."""

    def __init__(self, book: Book, *, seed: int) -> None:
        self._book = book
        self._moods = Moods(SMTP_SHARES, seed)
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> int:
        """Listens on a free port and gives it."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: SMTP(self, hostname="mail.chaos", timeout=_HANG_SECONDS, loop=loop), HOST, 0
        )
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's signature
        self, _server: SMTP, session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Sometimes refuses before there is a message."""
        mood = self._moods.draw()
        self._book.moods[mood] += 1
        if mood is Mood.BUSY:
            return "451 4.3.2 come back later"
        session.mood = mood  # type: ignore[attr-defined] # kept where the same session finds it again
        envelope.mail_from = address
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        """Takes the message or not, and says so or not."""
        mood: Mood = session.mood  # type: ignore[attr-defined] # see above
        if mood is Mood.ERROR:
            return "452 4.3.1 no room"
        assert isinstance(envelope.content, bytes)
        message = message_from_bytes(envelope.content, policy=default)
        event_id, key = str(message["X-Event-Id"]), str(message["X-Idempotency-Key"])
        if mood is not Mood.TAKEN:
            self._book.unanswered.add(key)
        if mood in {Mood.TAKEN, Mood.LOST_AFTER}:
            self._book.note(Arrival(event_id, key, late="This is late:" in _text(message)), mood)
        if mood is Mood.HANG:
            await asyncio.sleep(_HANG_SECONDS)
        elif mood is not Mood.TAKEN:
            _abort(server)
        return "250 OK"


def _text(message: Any) -> str:
    return str(message.get_body(("plain",)).get_content())


def _abort(server: SMTP) -> None:
    if isinstance(server.transport, asyncio.WriteTransport):
        server.transport.abort()
