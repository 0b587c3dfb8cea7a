"""What the worker tells over HTTP: /metrics for Prometheus, /livez and /readyz for the kubelet, / for people.

It reads and changes nothing. There is no authentication, and the host is the loopback unless the operator says
otherwise: no answer holds a payload or a secret, and only the page holds subjects and ids of events. It can be left
out, or have a port of its own, on the loopback alone if need be. There it answers to the loopback's names only: else
any site that its reader's browser shows could read it, under a name of the site's that it has led here (DNS rebinding).
"""

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Protocol

import orjson
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder

from worker.errors import ConfigError
from worker.health import Health
from worker.status import headers

_log = structlog.get_logger()

# Stopping waits this long for an answer that is being written; answers take milliseconds.
_SHUTDOWN_SECONDS = 1.0


class Page(Protocol):
    """The page for people."""

    def __call__(self, *, refreshing: bool) -> str:
        """The page as it is now; `refreshing`: the browser asks for it again by itself."""
        ...


class Endpoints:
    """The HTTP server: `start` it once, `aclose` it at the very end, so that the last seconds can be watched."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        registry: CollectorRegistry,
        health: Health,
        page: Page | None = None,
        page_port: int | None = None,
        page_host: str | None = None,
    ) -> None:
        """`page` is served on /, on `page_port` where that is given, of `page_host` or else of the same host."""
        self._host = host
        self._port = port
        self._registry = registry
        self._health = health
        self._page = page
        self._page_host = (page_host if page_port is not None else None) or host
        self.page_port = page_port
        """Where the page is, once it is served."""
        self._runners: list[web.AppRunner] = []

    async def start(self) -> int:
        """Listens, and returns the port: with port 0, the free one that was found.

        Raises ConfigError when the address cannot be had.
        """
        app = _application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        own = app if self.page_port is None else _application()
        if self._page is not None:
            own.router.add_get("/", self._show)
        port = await self._listen(app, "http.host", self._host, "http.port", self._port)
        if own is not app and self._page is not None:
            place = "http.status_host", self._page_host, "http.status_port", self.page_port or 0
            self.page_port = await self._listen(own, *place)
        else:
            self.page_port = port
        return port

    async def _listen(self, app: web.Application, host_key: str, host: str, key: str, port: int) -> int:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
        self._runners.append(runner)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            await self.aclose()
            reason = error.strerror or type(error).__name__
            advice = f"choose another {host_key} or {key}, or port 0 for a free one"
            raise ConfigError([f"http: cannot listen on {host}:{port}: {reason}; {advice}"]) from error
        found: int = runner.addresses[0][1]
        return found

    async def aclose(self) -> None:
        """Stops listening. Safe to call twice, and without `start`."""
        while self._runners:
            await self._runners.pop().cleanup()

    async def _show(self, request: web.Request) -> web.Response:
        assert self._page is not None, "else nothing is served there"
        if _is_loopback(self._page_host) and not _is_loopback(_name_in(request.headers.get("Host", ""))):
            return web.Response(status=403, text="ask for it as http://127.0.0.1 or http://localhost, with the port")
        html = self._page(refreshing=request.query.get("refresh") != "off")
        # An error's text may hold what no encoding can write: half a character of somebody's file name.
        body = html.encode("utf-8", "replace")
        return web.Response(body=body, content_type="text/html", charset="utf-8", headers=headers())

    async def _metrics(self, request: web.Request) -> web.Response:
        """As who asks can read them: only OpenMetrics has exemplars."""
        try:
            encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        except (ValueError, TypeError):  # a version that is none
            encode, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})

    async def _livez(self, _: web.Request) -> web.Response:
        if stale := self._health.stale():
            return web.Response(status=503, text="stopped moving: " + ", ".join(stale))
        return web.Response(text="ok")

    async def _readyz(self, _: web.Request) -> web.Response:
        reasons = self._health.not_ready()
        return web.Response(
            status=503 if reasons else 200,
            body=orjson.dumps({"ready": not reasons, "reasons": reasons, "notes": self._health.notes()}),
            content_type="application/json",
        )


def _name_in(host: str) -> str:
    """The name or address in a Host header: without the port, and brackets."""
    name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    return name.lower()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"  # browsers ask nobody where that is


def _application() -> web.Application:
    return web.Application(middlewares=[_no_traces])


@web.middleware
async def _no_traces(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Keeps traces in the log: aiohttp would put them into the answer while asyncio's debug mode is on."""
    try:
        return await handler(request)
    except web.HTTPException:
        raise
    except Exception:  # noqa: BLE001 -- it is logged with its trace; the probes must go on being answered
        _log.exception("http handler failed", path=request.path)
        return web.Response(status=500, text="internal error; the worker's log has the details")
