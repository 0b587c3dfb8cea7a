"""What the tests of the stores share: the SDK's dictionaries, dead letters, and a proxy that meddles with Azurite."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from tests.support import azurite_connection_string
from worker.events import PartitionId, UnixSeconds
from worker.stores import DeadLetter, HubScope, ReplayRequest, Store
from worker.stores.blob import BlobStore
from worker.stores.layout import letter_name

SCOPE = HubScope("Team.servicebus.windows.net:5671", "ML-Events", "$Default")
P0, P1 = PartitionId("0"), PartitionId("1")
OpenStore = Callable[..., Awaitable[Store]]
real_stores = pytest.mark.parametrize("open_store", ["sqlite", "blob"], indirect=True)
"""For what the fake has not: more than one scope."""

HOP_HEADERS = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


def names(partition: str = "0", **more: Any) -> dict[str, Any]:
    """One of the SDK's dictionaries."""
    return {
        "fully_qualified_namespace": SCOPE.namespace,
        "eventhub_name": SCOPE.hub,
        "consumer_group": SCOPE.consumer_group,
        "partition_id": partition,
        **more,
    }


def letter(number: int = 17, **changes: object) -> DeadLetter:
    """A dead letter of message `number`."""
    values: dict[str, Any] = {
        "id": f"id-{number}",
        "time": UnixSeconds(1_764_000_100.000001),
        "reason": "not_json",
        "detail": "The body is no JSON: line 1, column 2.",
        "route": None,
        "sink": None,
        "attempts": 0,
        "partition": P0,
        "sequence_number": number,
        "index": None,
        "event_id": None,
        "type": None,
        "subject": None,
        "source": None,
        "body": b"",
        "content_type": None,
        "properties": {},
        "enqueued_at": UnixSeconds(1_764_000_000.123),
    }
    return DeadLetter(**{**values, **changes})


def request(number: int = 17, partition: PartitionId = P0) -> ReplayRequest:
    """The request to replay `letter(number)`."""
    return ReplayRequest(partition, letter_name(letter(number)))


def blob_store(
    connection_string: str, container: str, *, scope: HubScope = SCOPE, timeout_seconds: float = 10.0
) -> BlobStore:
    """Not yet opened."""
    return BlobStore(
        container,
        scope,
        connection_string=connection_string,
        account_url=None,
        credential=None,
        timeout_seconds=timeout_seconds,
    )


def endpoint_of(connection_string: str) -> str:
    """The BlobEndpoint part."""
    return dict(part.split("=", 1) for part in connection_string.split(";") if part)["BlobEndpoint"]


class Proxy:
    """Stands before Azurite and meddles: `meddle` may wait, act, or answer in its place; `lose` drops an answer."""

    def __init__(self, azurite: str) -> None:
        self._target = URL(endpoint_of(azurite)).origin()
        self.connection_string = ""
        self.meddle: Callable[[web.Request], Awaitable[web.Response | None]] = self._pass
        self.lose: Callable[[web.Request], bool] = lambda _: False
        self.requests: list[str] = []
        """The methods, in the order in which the requests came."""
        self.most_under_way = 0
        self._under_way = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Proxy"]:
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None)
        async with aiohttp.ClientSession(auto_decompress=False) as self._session:
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.connection_string = azurite_connection_string(runner.addresses[0][1])
            yield self
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        self.requests.append(request.method)
        self._under_way += 1
        self.most_under_way = max(self.most_under_way, self._under_way)
        try:
            return await self._answer(request)
        finally:
            self._under_way -= 1

    async def _answer(self, request: web.Request) -> web.Response:
        instead = await self.meddle(request)
        if instead is not None:
            return instead
        url = URL(f"{self._target}{request.raw_path}", encoded=True)
        signed = {"headers": request.headers, "skip_auto_headers": ["Accept", "Accept-Encoding", "Content-Type"]}
        async with self._session.request(request.method, url, data=await request.read() or None, **signed) as answer:
            content = await answer.read()
        if self.lose(request):
            assert request.transport is not None
            request.transport.abort()
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_HEADERS}
        return web.Response(status=answer.status, headers=kept, body=content)

    async def _pass(self, _request: web.Request) -> None:
        return None
