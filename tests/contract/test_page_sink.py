"""The sink of docs/sinks/third-party.md keeps what every kind of sink promises: a suite for sinks of others, too."""

import sys
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.contract.test_sinks import *  # noqa: F403 - the tests
from tests.contract.test_sinks import SECRETS
from tests.page import install_from_the_page


class NtfyRig:
    kind = "ntfy"

    def __init__(self) -> None:
        self.url = ""
        self._arrived: list[dict[str, Any]] = []

    async def handle(self, request: web.Request) -> web.Response:
        message = orjson.loads(await request.read())
        self._arrived.append({"id": message["tags"][0], "key": request.headers["Idempotency-Key"]})
        return web.json_response({})

    def settings(self) -> dict[str, Any]:
        return {"url": self.url, "topic": "ml-alerts", "token_env": "CONTRACT_AUTH"}

    def arrived(self) -> list[dict[str, Any]]:
        return self._arrived


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    return install_from_the_page(tmp_path_factory.mktemp("page"))


@pytest.fixture
async def rig(packages, monkeypatch) -> AsyncIterator[NtfyRig]:
    monkeypatch.syspath_prepend(packages)
    monkeypatch.setenv("CONTRACT_AUTH", SECRETS["CONTRACT_AUTH"])
    app, rig = web.Application(), NtfyRig()
    app.router.add_post("/", rig.handle)
    async with TestServer(app, host="127.0.0.1") as server:
        rig.url = str(server.make_url("/"))
        yield rig
    sys.modules.pop("worker_ntfy", None)
