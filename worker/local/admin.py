"""The admin port of the local hub: faults asked for over HTTP, in JSON. What they do is `injector`'s work.

It listens on this machine only, and lets everyone in who can reach it.
"""

import asyncio
import errno
import json
from collections.abc import Collection
from typing import Any

from aiohttp import web

from worker.local.faults import KINDS, Fault, WrongFaultError, kind_of, parse
from worker.local.injector import Active, Client, Injector

_HOST = "127.0.0.1"
_CALLS = {
    "GET /": "this",
    "GET /connections": "the connections there are, and what their links are for",
    "GET /faults": "the lasting faults that are on",
    "POST /faults": 'makes a fault: {"kind": "drop", "partition": "0"}; a lasting one gets an id',
    "DELETE /faults/ID": "ends a lasting fault",
    "DELETE /faults": "ends all lasting faults",
}


class AdminPort:
    """An HTTP server beside the hub. `start`, then `aclose`."""

    def __init__(self, injector: Injector, clients: Collection[Client]) -> None:
        self.port = 0
        """The one it listens on, once it has started."""
        self._injector = injector
        self._clients = clients
        application = web.Application(middlewares=[_in_json])
        application.router.add_routes(
            [
                web.get("/", self._describe),
                web.get("/connections", self._connections),
                web.get("/faults", self._list),
                web.post("/faults", self._make),
                web.delete("/faults", self._lift_all),
                web.delete("/faults/{id}", self._lift),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)

    async def start(self, port: int) -> None:
        """Listens; 0 takes a free port. Raises ValueError with a sentence where that is not possible."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, _HOST, port).start()
        except OSError as error:
            await self._runner.cleanup()
            why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be listened on: {error.strerror}"
            raise ValueError(f"--admin-port {port}: {_HOST}:{port} {why}; give another port, or 0.") from None
        self.port = self._runner.addresses[0][1]

    async def aclose(self) -> None:
        """Stops listening. Safe to call twice."""
        await self._runner.cleanup()

    async def _describe(self, _request: web.Request) -> web.Response:
        return web.json_response({"calls": _CALLS, "faults": {kind_of(kind): _description(kind) for kind in KINDS}})

    async def _connections(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {"connections": [[place._asdict() for place in client.places()] for client in self._clients]}
        )

    async def _list(self, _request: web.Request) -> web.Response:
        return web.json_response({"faults": [_listed(active) for active in self._injector.active]})

    async def _make(self, request: web.Request) -> web.Response:
        try:
            fault = parse(await request.json())
            active, affected = self._injector.make(fault)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            return _refused(f'the body is no JSON: {error}; send an object such as {{"kind": "drop"}}')
        except WrongFaultError as error:
            return _refused(str(error))
        made = {"id": None, **_fields(fault)} if active is None else _listed(active)
        return web.json_response({**made, "affected": affected}, status=201)

    async def _lift(self, request: web.Request) -> web.Response:
        number = request.match_info["id"]
        if not (number.isdecimal() and self._injector.lift(int(number))):
            return _refused(f"no lasting fault that is on has the id {number}; see GET /faults", status=404)
        return web.json_response({"lifted": 1})

    async def _lift_all(self, _request: web.Request) -> web.Response:
        return web.json_response({"lifted": self._injector.lift_all()})


@web.middleware
async def _in_json(request: web.Request, handler: Any) -> web.StreamResponse:
    """Also what aiohttp itself refuses is said in JSON, and says where to look."""
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPException as error:
        return _refused(f"{request.method} {request.path}: {error.reason}; see GET /", status=error.status)
    return response


def _refused(why: str, status: int = 400) -> web.Response:
    return web.json_response({"error": why}, status=status)


def _fields(fault: Fault) -> dict[str, Any]:
    return fault.model_dump(exclude_none=True)


def _listed(active: Active[Any]) -> dict[str, Any]:
    """A lasting fault with what has become of it."""
    left = None if active.ends_at is None else round(active.ends_at - asyncio.get_running_loop().time(), 3)
    return {"id": active.number, **_fields(active.fault), "seconds_left": left, "hits": active.hits}


def _description(kind: type[Fault]) -> dict[str, Any]:
    fields = {
        name: f"{field.description}{'' if field.is_required() or field.default is None else f' ({field.default})'}"
        for name, field in kind.model_fields.items()
        if name != "kind"
    }
    required = [name for name, field in kind.model_fields.items() if field.is_required() and name != "kind"]
    return {"does": " ".join((kind.__doc__ or "").split()), "fields": fields, "required": required}
