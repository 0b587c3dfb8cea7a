"""What the worker tells over HTTP: /metrics for Prometheus, /livez and /readyz for the kubelet.

It reads metrics and health and changes nothing. There is no authentication: the answers hold no payload, no subject and
no secret, and the host is the loopback unless the operator says otherwise.
"""

from collections.abc import Awaitable, Callable

import orjson
import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from worker.errors import ConfigError
from worker.health import Health

_log = structlog.get_logger()

# Stopping waits this long for an answer that is being written; answers take milliseconds.
_SHUTDOWN_SECONDS = 1.0


class Endpoints:
    """The HTTP server: `start` it once, `aclose` it at the very end, so that the last seconds can be watched."""

    def __init__(self, *, host: str, port: int, registry: CollectorRegistry, health: Health) -> None:
        self._host = host
        self._port = port
        self._registry = registry
        self._health = health
        self._runner: web.AppRunner | None = None

    async def start(self) -> int:
        """Listens, and returns the port: with port 0, the free one that was found.

        Raises ConfigError when the address cannot be had.
        """
        app = web.Application(middlewares=[_no_traces])
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self.aclose()
            reason = error.strerror or type(error).__name__
            advice = "choose another http.host or http.port, or port 0 for a free one"
            raise ConfigError([f"http: cannot listen on {self._host}:{self._port}: {reason}; {advice}"]) from error
        port: int = self._runner.addresses[0][1]
        return port

    async def aclose(self) -> None:
        """Stops listening. Safe to call twice, and without `start`."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

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
