"""Azurite as a destination: what stands in a container, and how the service goes wrong before it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web
from azure.storage.blob.aio import ContainerClient

from tests.api_service import Scripted
from tests.contract.store_helpers import Proxy


class BlobService(Proxy):
    """A container behind a proxy that answers as the script says, and remembers what was accepted."""

    def __init__(self, azurite: str, container: str) -> None:
        super().__init__(azurite)
        self.container = container
        self.script: list[Scripted] = []
        """For the next requests that write a blob, in this order."""
        self.accepted: list[dict[str, Any]] = []
        """One record per blob that was written, or was there already: its key, and its event's id."""
        self.asked: list[str] = []
        """The writing requests: `create`, or what `comp` says."""
        self.over = asyncio.Event()
        """Ends what stalls."""

    async def _answer(self, request: web.Request) -> web.Response:
        if request.method != "PUT" or request.query.get("restype"):
            return await super()._answer(request)
        self.asked.append(request.query.get("comp") or "create")
        one = self.script.pop(0) if self.script else Scripted(takes_effect=True)
        answer = web.Response(status=500)
        if one.takes_effect:
            answer = await super()._answer(request)
            await self._note(request, answer)
        if one.stalls:
            await self.over.wait()
        if one.drops:
            assert request.transport is not None
            request.transport.abort()
        if one.status is not None:
            return web.Response(status=one.status, text=one.text, headers=one.headers)
        return answer

    async def _note(self, request: web.Request, answer: web.Response) -> None:
        if answer.status in {201, 409} and request.path.endswith(".json"):
            key = request.path.rpartition("/")[2].removesuffix(".json")
            self.accepted.append({"id": orjson.loads(await request.read())["id"], "key": key})

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[ContainerClient]:
        """Past the script: nothing but reads comes from it."""
        async with ContainerClient.from_connection_string(self.connection_string, self.container) as client:
            yield client

    async def create_container(self) -> None:
        async with self._client() as client:
            await client.create_container()

    async def delete(self, name: str) -> None:
        async with self._client() as client:
            await client.delete_blob(name)

    async def blobs(self) -> dict[str, bytes]:
        """Everything that stands there, by name."""
        async with self._client() as client:
            names = [name async for name in client.list_blob_names()]
            return {name: await (await client.download_blob(name)).readall() for name in names}


@asynccontextmanager
async def blob_service(azurite: str, container: str) -> AsyncIterator[BlobService]:
    async with BlobService(azurite, container).running() as service:
        assert isinstance(service, BlobService)
        yield service
        service.over.set()
