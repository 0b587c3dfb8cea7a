"""A receiver of CloudEvents over HTTP for tests, written from the HTTP binding 1.0.2 and the webhook specification.

It takes all three modes and refuses what a strict receiver refuses: a signature that is not of its secret, an event
without what every event has, a body that is not what its type says. It keeps what it took. Asked by OPTIONS, it
consents or not.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.api_service import Scripted, no_step
from tests.standard_webhooks import verify

Step = Callable[[], Awaitable[None]]
_REQUIRED = ("specversion", "id", "source", "type")
_NAME = re.compile(r"[a-z0-9]+")


class Refused(Exception):
    def __init__(self, status: int, why: str) -> None:
        self.status = status
        super().__init__(why)


@dataclass(frozen=True)
class Taken:
    """One event as it came."""

    event: dict[str, Any]
    """Its attributes; in `data` what is JSON or text, in `bytes` the body of binary mode."""
    key: str
    """What it is known by."""


class Receiver:
    """One endpoint."""

    def __init__(self, secret: str | None = None) -> None:
        self.secret = secret
        self.taken: list[Taken] = []
        self.refusals: list[str] = []
        self.asked: list[tuple[str, dict[str, str]]] = []
        """Methods, and headers with their names in lower case."""
        self.batches: list[list[str]] = []
        """The ids of the events that came together."""
        self.script: list[Scripted] = []
        """For the next POSTs, in this order."""
        self.judge: Callable[[list[Taken]], int | None] = lambda _: None
        """The status with which it refuses what else is in order."""
        self.consent: dict[str, str] | None = None
        """The headers of its answer to OPTIONS; None: it does not know the method."""
        self.needs_origin: str | None = None
        self.before: Step = no_step
        self.after: Step = no_step
        self.url = ""

    @property
    def ids(self) -> list[str]:
        return [each.event["id"] for each in self.taken]

    @property
    def posts(self) -> list[dict[str, str]]:
        return [headers for method, headers in self.asked if method == "POST"]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append((request.method, headers))
        if request.method == "OPTIONS":
            return web.Response(status=405 if self.consent is None else 200, headers=self.consent)
        body = await request.read()
        one = self.script.pop(0) if self.script else Scripted(takes_effect=True)
        try:
            taken = self._read(headers, body)
        except Refused as refused:
            self.refusals.append(str(refused))
            return web.Response(status=refused.status, text=str(refused))
        await self.before()
        if status := self.judge(taken):
            one = Scripted(status)
        if one.takes_effect:
            self.taken += taken
            self.batches.append([each.event["id"] for each in taken])
        await self.after()
        if one.stalls:
            await asyncio.Event().wait()
        if one.drops and request.transport is not None:
            request.transport.abort()
        text = f"{headers.get('authorization')} {one.text}" if one.echoes else one.text
        return web.Response(status=one.status or 202, text=text or None, headers=one.headers)

    def _read(self, headers: dict[str, str], body: bytes) -> list[Taken]:
        if self.secret is not None and not verify(self.secret, headers, body, now=time.time()):
            raise Refused(401, "the signature is none of ours")
        if self.needs_origin is not None and headers.get("webhook-request-origin") != self.needs_origin:
            raise Refused(403, "not from you")
        if not headers.get("webhook-id") or headers["webhook-id"] != headers.get("idempotency-key"):
            raise Refused(400, "no key")
        taken = _taken(headers, body)
        for each in taken:
            _check(each.event)
        return taken


def _taken(headers: dict[str, str], body: bytes) -> list[Taken]:
    content_type = headers.get("content-type", "")
    try:
        if content_type.startswith("application/cloudevents-batch+json"):
            return [Taken(event, event["idempotencykey"]) for event in orjson.loads(body)]
        if content_type.startswith("application/cloudevents+json"):
            return [Taken(orjson.loads(body), headers["webhook-id"])]
    except (ValueError, KeyError) as error:
        raise Refused(400, f"no JSON event: {error}") from None
    if content_type.startswith("application/cloudevents"):
        raise Refused(415, "this event format is not known")
    return [Taken(_binary(headers, body), headers["webhook-id"])]


def _binary(headers: dict[str, str], body: bytes) -> dict[str, Any]:
    event: dict[str, Any] = {
        name.removeprefix("ce-"): unquote_to_bytes(value).decode()
        for name, value in headers.items()
        if name.startswith("ce-")
    }
    if "datacontenttype" in event:
        raise Refused(400, "ce-datacontenttype must not be there")
    if "content-type" in headers:
        event["datacontenttype"] = headers["content-type"]
    if body:
        event["bytes"] = body
    return event


def _check(event: dict[str, Any]) -> None:
    if missing := [name for name in _REQUIRED if not event.get(name)]:
        raise Refused(400, f"without {missing}")
    if event["specversion"] != "1.0":
        raise Refused(400, "another version")
    if wrong := [name for name in event if name not in ("data", "data_base64", "bytes") and not _NAME.fullmatch(name)]:
        raise Refused(400, f"no names of attributes: {wrong}")


@asynccontextmanager
async def served(receiver: Receiver, path: str = "/in") -> AsyncIterator[Receiver]:
    """Serves it on a free port of this machine, under `receiver.url`."""
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", path, receiver.handle)
    async with TestServer(app, host="127.0.0.1", shutdown_timeout=0.1) as server:
        receiver.url = str(server.make_url(path))
        yield receiver
