"""What the local servers of REST APIs have in common: they log in, refuse what the real one refuses, and can go wrong.

An API is a class with routes that keeps its state, so that a doubled effect is seen. Each request is checked in the
order in which Azure does it: who asks, whether the path exists, the api-version, the body. Then, if there is a script,
it is answered as that says. Its `before` and `after` are the moments around an effect, for processes that die there.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.tokens import token_for

Step = Callable[[], Awaitable[None]]


async def no_step() -> None:
    pass


@dataclass
class Scripted:
    """How one request goes, instead of well."""

    status: int | None = None
    """None: as the API answers."""
    text: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    takes_effect: bool = False
    """Whether the API does what it is asked to, whatever it then answers."""
    drops: bool = False
    """The connection goes instead of the answer."""
    stalls: bool = False
    """The answer never comes."""
    echoes: bool = False
    """What the request proved itself with stands before the text."""


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    """Names in lower case."""
    body: Any
    """Its JSON; None where there was none."""


class Refused(Exception):
    """The API refuses a request."""

    def __init__(self, status: int, code: str, message: str = "", **headers: str) -> None:
        self.status = status
        self.code = code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        super().__init__(message or code)


class ApiService:
    """One API on this machine. Derive, say `api_versions` and `scope`, and add routes in `routes`."""

    api_versions: frozenset[str] = frozenset()
    """Those that it knows; empty: it has none."""
    scope: str | None = None
    """What a token must be for; None: the class looks itself (`check_login`). A test's own URL may replace it."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.refusals: list[str] = []
        """The codes of what it refused of itself."""
        self.script: list[Scripted] = []
        """For the next requests that change something (no GET, see `changes`), in this order."""
        self.before: Step = no_step
        self.after: Step = no_step
        self.url = ""

    def routes(self) -> list[web.RouteDef]:
        """Handlers take a request and return a response, or raise Refused; `self.body(request)` is its JSON."""
        raise NotImplementedError

    def changes(self, request: web.Request) -> bool:
        """Whether a request is one that the script and the steps are for."""
        return request.method != "GET"

    def error(self, status: int, code: str, message: str) -> Any:
        """The body of a refusal, as this API writes it."""
        return {"error": {"code": code, "message": message}}

    def check_login(self, request: web.Request) -> None:
        if self.scope is not None and request.headers.get("Authorization") != f"Bearer {token_for(self.scope)}":
            raise Refused(401, "AuthenticationFailed", "no token, or one for something else")

    def check_version(self, request: web.Request) -> None:
        if self.api_versions and request.query.get("api-version") not in self.api_versions:
            raise Refused(400, "InvalidApiVersionParameter", f"known are {sorted(self.api_versions)}")

    @staticmethod
    async def body(request: web.Request) -> dict[str, Any]:
        """The JSON object of a request. Raises Refused."""
        if request.content_type != "application/json":
            raise Refused(415, "UnsupportedMediaType")
        try:
            body = orjson.loads(await request.read())
        except ValueError:
            raise Refused(400, "InvalidRequestContent") from None
        if not isinstance(body, dict):
            raise Refused(400, "InvalidRequestContent")
        return body

    @web.middleware
    async def _gate(self, request: web.Request, handler: Any) -> web.StreamResponse:
        raw = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = orjson.loads(raw) if raw else None
        self.asked.append(Asked(request.method, request.path, dict(request.query), headers, body))
        try:
            self.check_login(request)
            _check_path(request)
            self.check_version(request)
            return await self._scripted(request, handler)
        except Refused as refused:
            self.refusals.append(refused.code)
            return web.json_response(
                self.error(refused.status, refused.code, str(refused)), status=refused.status, headers=refused.headers
            )

    async def _scripted(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if not self.changes(request):
            return await handler(request)
        one = self.script.pop(0) if self.script else Scripted(takes_effect=True)
        await self.before()
        answer: web.StreamResponse = web.Response(status=500)
        if one.takes_effect:
            answer = await handler(request)
        await self.after()
        if one.stalls:
            await asyncio.Event().wait()
        if one.drops and request.transport is not None:
            request.transport.abort()
        if one.status is None:
            return answer
        text = f"{request.headers.get('Authorization')} {one.text}" if one.echoes else one.text
        return web.Response(status=one.status, text=text or None, headers=one.headers)


def _check_path(request: web.Request) -> None:
    unknown = request.match_info.http_exception
    if unknown is not None:
        raise Refused(unknown.status, "NotFound", request.path)


@asynccontextmanager
async def served(service: ApiService) -> AsyncIterator[None]:
    """Serves the API on a free port of this machine, under `service.url`."""
    app = web.Application(middlewares=[service._gate])
    app.add_routes(service.routes())
    async with TestServer(app, host="127.0.0.1", shutdown_timeout=0.1) as server:
        service.url = str(server.make_url("")).rstrip("/")
        yield
