"""A managed identity's endpoint on this machine, as App Service offers one: what azure-identity asks for tokens."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.tokens import token_for

_PROOF = "hidden-identity-header"


class IdentityService:
    """What it is asked for, and how it answers."""

    def __init__(self, token: str | None) -> None:
        self.token = token
        self.asked: list[str] = []
        self.refusal: web.Response | None = None

    async def handle(self, request: web.Request) -> web.Response:
        assert request.headers["X-IDENTITY-HEADER"] == _PROOF
        self.asked.append(request.query["resource"])
        token = token_for(request.query["resource"]) if self.token is None else self.token
        answer = {"access_token": token, "expires_on": str(int(time.time()) + 3600), "token_type": "Bearer"}
        return self.refusal or web.json_response(answer | {"resource": request.query["resource"]})


@asynccontextmanager
async def identity_service(token: str | None, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[IdentityService]:
    """Serves, and makes it the identity of this process and of those that it starts.

    `token`: what it gives for everything; None: what `token_for` says of the resource.
    """
    service = IdentityService(token)
    app = web.Application()
    app.router.add_get("/token", service.handle)
    async with TestServer(app, host="127.0.0.1") as server:
        monkeypatch.setenv("IDENTITY_ENDPOINT", str(server.make_url("/token")))
        monkeypatch.setenv("IDENTITY_HEADER", _PROOF)
        monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
        yield service
