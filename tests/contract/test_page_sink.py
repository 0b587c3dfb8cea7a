"""The sink of docs/sinks/third-party.md keeps what every kind of sink promises: a suite for sinks of others, too."""

import sys
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.contract.rigs import SECRETS, STATUS, Mood, echo, headers_of
from tests.contract.test_sinks import *  # noqa: F403 - the tests
from tests.page import install_from_the_page
from worker.errors import SinkUnavailable


class NtfyRig:
    kind = "ntfy"
    says_when = True
    lost = SinkUnavailable  # it is told the key, so that it may be asked again

    def __init__(self) -> None:
        self.url = ""
        self._arrived: list[dict[str, Any]] = []
        self._moods: list[Mood] = []

    def next_time(self, mood: Mood) -> None:
        self._moods.append(mood)

    def well_again(self) -> None:
        """It is."""

    async def handle(self, request: web.Request) -> web.Response:
        message = orjson.loads(await request.read())
        mood = self._moods.pop() if self._moods else None
        if mood in STATUS:
            return web.Response(status=STATUS[mood], text=echo(), headers=headers_of(mood))
        if mood is Mood.LOSES_THE_ANSWER and request.transport is not None:
            request.transport.abort()
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


@pytest.fixture
def answering(rig) -> NtfyRig:
    return rig
