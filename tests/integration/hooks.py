"""A destination for webhook tests that answers as it is told, and sinks that post to it.

`hook` and `sink_to` are fixtures; the modules that use them import them.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver
from aiohttp.test_utils import TestServer

from tests.deliveries import delivery_of
from worker.errors import Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable
from worker.sinks.webhook import WebhookSink
from worker.sinks.webhook_settings import WebhookSettings

NOW = 1_700_000_000.75
SECRET_PATH = "/hidden-path-4711/in?code=hidden%2Bcode%3D%3D&n=1"
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Received:
    """One request as it came."""

    def __init__(self, request: web.Request, body: bytes) -> None:
        self.path = request.raw_path
        self.headers = request.headers
        self.body = body
        self.peer = request.transport.get_extra_info("peername") if request.transport else None


class Hook:
    """A destination: `answer` decides what each request gets."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answer: Answer = self.accept
        self.base = ""

    async def accept(self, _: web.Request) -> web.StreamResponse:
        return web.Response(status=202)

    def says(self, status: int, text: str = "", **headers: str) -> None:
        async def answer(_: web.Request) -> web.StreamResponse:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            return web.Response(status=status, text=text or None, headers=names)

        self.answer = answer

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.received.append(Received(request, await request.read()))
        return await self.answer(request)


class Names(AbstractResolver):
    """A name service with three names, so that no test asks a real one."""

    ADDRESSES: ClassVar = {
        "hooks.test": "127.0.0.1",
        "inside.test": "10.0.0.1",
        "metadata.test": "::ffff:169.254.169.254",
    }

    async def resolve(self, host, port=0, family=socket.AF_UNSPEC):
        if host == "slow.test":
            await asyncio.Event().wait()
        if host not in self.ADDRESSES:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        address = self.ADDRESSES[host]
        return [{"hostname": host, "host": address, "port": port, "family": family, "proto": 0, "flags": 0}]

    async def close(self):
        pass


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    hook = Hook()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", hook.handle)
    async with TestServer(app, host="127.0.0.1", shutdown_timeout=0.1) as server:
        hook.base = str(server.make_url("")).rstrip("/")
        yield hook


@pytest.fixture
async def sink_to(monkeypatch) -> AsyncIterator[Callable[..., Awaitable[WebhookSink]]]:
    """Opens a sink with these settings; `url` is where it posts to."""
    opened = []

    async def open_sink(url: str | None = None, **settings: Any) -> WebhookSink:
        if url is not None:
            monkeypatch.setenv("OUT_URL", url)
            settings["url_env"] = "OUT_URL"
        sink = WebhookSink(WebhookSettings(name="out", **settings), clock=lambda: NOW, resolver=Names)
        await sink.open()
        opened.append(sink)
        return sink

    yield open_sink
    for sink in opened:
        await sink.aclose()


async def refusal(sink: WebhookSink) -> Exception:
    with pytest.raises((SinkUnavailable, OutcomeUnknown, Rejected, Misconfigured)) as raised:
        await sink.deliver(delivery_of())
    assert "hidden" not in repr(raised.value)
    assert str(raised.value).isprintable()
    assert raised.value.__cause__ is None
    return raised.value
