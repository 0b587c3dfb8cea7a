"""Requests to REST APIs: what proves who asks, what an answer says, and what is hidden of both."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import ValidationError
from yarl import URL

from tests.deliveries import delivery_of
from tests.tokens import HIDDEN_TOKEN, FakeCredential, token_for
from worker.errors import Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable
from worker.identity import Tokens
from worker.settings import Secret
from worker.sinks import rest
from worker.sinks.rest import ArmSettings, RestClient, RestSettings, bearer_in, bearer_of, short_key

SCOPE = "https://management.azure.com/.default"
SETTINGS = RestSettings.model_validate({"name": "out", "kind": "x", "timeout_seconds": 5})


@asynccontextmanager
async def asked(answer, authorize=None):
    """A server that answers so, and a client that asks it."""
    requests = []

    async def handle(request: web.Request) -> web.StreamResponse:
        requests.append((request.method, request.headers, await request.read()))
        return await answer(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    client = RestClient(SETTINGS, authorize or bearer_of(Tokens(FakeCredential()), SCOPE), unclear=OutcomeUnknown)
    async with TestServer(app, host="127.0.0.1", shutdown_timeout=0.1) as server:
        await client.open()
        try:
            yield client, URL(str(server.make_url("/x"))), requests
        finally:
            await client.aclose()


def says(status: int, body: object = None, **headers: str):
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(body, status=status, headers=headers)

    return answer


async def test_a_request_carries_a_token_for_its_scope_and_its_content_as_json():
    async with asked(says(200, {"id": 7})) as (client, url, requests):
        reply = await client.request("PUT", url, {"a": "ä"}, {"x-more": "1"})
    [(method, headers, body)] = requests
    assert (method, body) == ("PUT", '{"a":"ä"}'.encode())
    assert headers["Authorization"] == f"Bearer {token_for(SCOPE)}"
    assert (headers["Content-Type"], headers["Accept"], headers["x-more"]) == (
        "application/json",
        "application/json",
        "1",
    )
    assert (reply.accepted, reply.status, reply.fields) == (True, 200, {"id": 7})


async def test_a_question_has_no_body_and_its_long_answer_is_read_whole():
    long = {"value": [{"name": "x" * 1000} for _ in range(2000)]}
    async with asked(says(200, long)) as (client, url, requests):
        assert (await client.request("GET", url)).fields == long
    assert "Content-Type" not in requests[0][1]


@pytest.mark.parametrize("body", [[1], "text", None])
async def test_an_answer_that_is_no_object_has_no_fields_and_no_code(body):
    async with asked(says(400, body)) as (client, url, _):
        reply = await client.request("GET", url)
    assert (reply.fields, reply.error_code) == ({}, "")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, Rejected), (403, Misconfigured), (429, SinkUnavailable), (503, SinkUnavailable), (500, OutcomeUnknown)],
)
async def test_an_answer_that_echoes_the_token_does_not_make_it_known(status, kind):
    echo = {"error": {"code": "Some.Code", "message": f"you said Bearer {token_for(SCOPE)}"}}
    async with asked(says(status, echo, **{"Retry-After": "7"})) as (client, url, _):
        reply = await client.request("POST", url, {})
    error = reply.refusal(unclear=OutcomeUnknown)
    assert type(error) is kind
    assert "Some.Code" in str(error)
    assert reply.error_code == "Some.Code"
    assert HIDDEN_TOKEN not in str(error)
    assert HIDDEN_TOKEN not in reply.said


async def test_no_token_in_time_is_tried_again_and_nothing_is_sent(monkeypatch):
    monkeypatch.setattr(rest, "TOKEN_SECONDS", 0.01)

    async def never():
        await asyncio.Event().wait()

    async with asked(says(200), never) as (client, url, requests):
        with pytest.raises(SinkUnavailable, match=r"sink out: no access token within 0\.01 s"):
            await client.request("GET", url)
    assert requests == []


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE"])
async def test_a_request_whose_connection_is_lost_is_not_made_again_by_the_client(method):
    async def vanish(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with asked(vanish) as (client, url, requests):
        with pytest.raises(OutcomeUnknown, match="closed the connection before it answered"):
            await client.request(method, url, {})
    assert [each[0] for each in requests] == [method]


@pytest.mark.parametrize("kind", [Misconfigured, SinkUnavailable])
async def test_what_the_identity_says_is_told_with_the_sinks_name(kind):
    async def refused():
        raise kind("no identity here")

    async with asked(says(200), refused) as (client, url, _):
        with pytest.raises(kind, match=r"^sink out: no identity here"):
            await client.request("GET", url)


async def test_a_token_in_a_secret_is_read_at_each_request_and_its_absence_is_misconfigured(tmp_path):
    file = tmp_path / "token"
    authorize = bearer_in(Secret("token", file=file), "out")
    async with asked(says(200), authorize) as (client, url, requests):
        with pytest.raises(Misconfigured, match=r"^sink out: token_file: "):
            await client.request("GET", url)
        for token in ("one", "two"):
            file.write_text(f"{token}\n")
            await client.request("GET", url)
    assert [headers["Authorization"] for _, headers, _ in requests] == ["Bearer one", "Bearer two"]


def test_the_scope_goes_with_the_cloud():
    assert ArmSettings(name="a", kind="x").token_scope == SCOPE
    china = ArmSettings(name="a", kind="x", management_url="https://management.chinacloudapi.cn/")
    assert china.token_scope == "https://management.chinacloudapi.cn/.default"
    assert ArmSettings(name="a", kind="x", scope="api://other/.default").token_scope == "api://other/.default"


@pytest.mark.parametrize(
    "url", ["https://management.azure.com/subscriptions/s", "http://management.azure.com", "nothing"]
)
def test_a_management_url_is_a_host_and_encrypted(url):
    with pytest.raises(ValidationError):
        ArmSettings(name="a", kind="x", management_url=url)


def test_an_attempt_is_bounded_by_its_requests():
    class Two(RestSettings):
        requests_per_attempt = 2

    assert Two(name="a", kind="x", timeout_seconds=30).attempt_seconds == 80


def test_the_short_key_is_legal_as_a_name_everywhere():
    delivery = delivery_of()
    assert short_key(delivery) == f"evt-{delivery.idempotency_key[:32]}"
    assert len(short_key(delivery)) == 36


async def test_nothing_that_is_shown_of_a_request_holds_its_token():
    async with asked(says(500)) as (client, url, _):
        reply = await client.request("GET", url)
    login = await bearer_of(Tokens(FakeCredential()), SCOPE)()
    assert token_for(SCOPE) in login.header
    assert token_for(SCOPE) not in repr(login) + repr(reply)
