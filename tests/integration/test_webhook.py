"""What the webhook sink sends, and where it refuses to send it."""

import asyncio
import base64

import orjson
import pytest
from aiohttp import web

from tests.deliveries import ELEMENT, delivery_of
from tests.integration.hooks import NOW, SECRET_PATH, Names, hook, refusal, sink_to
from tests.standard_webhooks import verify
from tests.support import eventually, free_port
from worker.errors import Misconfigured
from worker.sinks.cloudevents import structured

__all__ = ["hook", "sink_to"]  # fixtures


async def test_the_request_is_the_cloud_event_with_its_key(hook, sink_to):
    delivery = delivery_of(late_by_ms=1500)
    await (await sink_to(hook.base + "/in", headers={"X-Team": "ml"})).deliver(delivery)

    [request] = hook.received
    assert orjson.loads(request.body) == structured(delivery)
    assert orjson.loads(request.body)["lateby"] == 1500
    assert request.headers["Content-Type"] == "application/cloudevents+json; charset=utf-8"
    assert request.headers["webhook-id"] == delivery.idempotency_key
    assert request.headers["Idempotency-Key"] == delivery.idempotency_key
    assert request.headers["User-Agent"] == "event-grid-worker"
    assert request.headers["X-Team"] == "ml"
    assert "webhook-signature" not in request.headers


@pytest.mark.parametrize("secret", ["whsec_" + base64.b64encode(b"k" * 24).decode(), "a plain secret"])
async def test_a_signed_request_verifies(hook, sink_to, monkeypatch, secret):
    monkeypatch.setenv("OUT_SECRET", secret)
    await (await sink_to(hook.base, secret_env="OUT_SECRET")).deliver(delivery_of())

    [request] = hook.received
    assert request.headers["webhook-timestamp"] == str(int(NOW))
    assert verify(secret, request.headers, request.body, now=NOW)
    assert not verify(secret, request.headers, request.body + b" ", now=NOW)


async def test_while_a_secret_is_replaced_receivers_of_either_take_the_request(hook, sink_to, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("hidden-old\n")
    new.write_text("hidden-new\n")
    sink = await sink_to(hook.base, secret_file=new, previous_secret_file=old)
    await sink.deliver(delivery_of())
    hook.says(400, "hidden-old hidden-new")
    await refusal(sink)

    request = hook.received[0]
    for secret in ("hidden-old", "hidden-new"):
        assert verify(secret, request.headers, request.body, now=NOW)


async def test_the_key_of_a_function_is_sent_as_its_header_and_read_each_time(hook, sink_to, tmp_path):
    key = tmp_path / "key"
    key.write_text("hidden-one\n")
    sink = await sink_to(hook.base, functions_key_file=key)
    await sink.deliver(delivery_of())
    key.write_text("hidden-two\n")
    await sink.deliver(delivery_of())
    hook.says(401, "not with hidden-two")
    await refusal(sink)

    assert [request.headers["x-functions-key"] for request in hook.received[:2]] == ["hidden-one", "hidden-two"]


async def test_a_secret_url_and_header_arrive_exactly_as_they_are(hook, sink_to, monkeypatch):
    monkeypatch.setenv("OUT_AUTH", "Bearer hidden-token")
    await (await sink_to(hook.base + SECRET_PATH, headers_env={"Authorization": "OUT_AUTH"})).deliver(delivery_of())

    [request] = hook.received
    assert request.path == SECRET_PATH
    assert request.headers["Authorization"] == "Bearer hidden-token"


async def test_secret_files_are_read_again_at_each_attempt(hook, sink_to, tmp_path):
    url, key = tmp_path / "url", tmp_path / "key"
    url.write_text(hook.base + "/old\n")
    key.write_text("one\n")
    sink = await sink_to(url_file=url, headers_file={"x-functions-key": key})
    await sink.deliver(delivery_of())
    url.write_text(hook.base + "/new\n")
    key.write_text("two\n")
    await sink.deliver(delivery_of())

    assert [(request.path, request.headers["x-functions-key"]) for request in hook.received] == [
        ("/old", "one"),
        ("/new", "two"),
    ]


async def test_no_proxy_is_used_and_no_cookie_kept(hook, sink_to, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    hook.says(200, "fine", Set_Cookie="a=b; Path=/")
    sink = await sink_to(hook.base.replace("127.0.0.1", "hooks.test"), allow_private=True)
    await sink.deliver(delivery_of())
    await sink.deliver(delivery_of())

    assert len(hook.received) == 2
    assert not [request for request in hook.received if "Cookie" in request.headers]


async def test_one_connection_serves_one_delivery_after_the_other(hook, sink_to):
    hook.says(200, "a body that has to be read before the connection is free")
    sink = await sink_to(hook.base)
    for _ in range(10):
        await sink.deliver(delivery_of())

    assert len({request.peer for request in hook.received}) == 1


async def test_it_opens_no_more_connections_than_its_concurrency(hook, sink_to):
    gate = asyncio.Event()
    inside = 0

    async def wait(_: web.Request) -> web.StreamResponse:
        nonlocal inside
        inside += 1
        await gate.wait()
        return web.Response()

    hook.answer = wait
    sink = await sink_to(hook.base, concurrency=2)
    async with asyncio.TaskGroup() as group:
        for n in range(6):
            group.create_task(sink.deliver(delivery_of(ELEMENT | {"id": str(n)})))
        await eventually(lambda: inside == 2)
        gate.set()

    assert len(hook.received) == 6
    assert len({request.peer for request in hook.received}) == 2


@pytest.mark.parametrize(
    "url",
    [
        "https://169.254.169.254/hidden",
        "https://[::ffff:10.0.0.1]/hidden",
        "http://hooks.example.org/hidden",
        "https://user:hidden@hooks.example.org/",
        "hidden",
    ],
)
async def test_a_secret_url_that_leads_where_it_must_not_pauses_the_sink(sink_to, url):
    error = await refusal(await sink_to(url))

    assert type(error) is Misconfigured
    assert str(error).startswith("sink out: the URL ")


@pytest.mark.parametrize("host", ["inside.test", "metadata.test"])
async def test_a_name_that_resolves_to_a_private_address_pauses_the_sink(sink_to, host):
    error = await refusal(await sink_to(f"https://{host}{SECRET_PATH}"))

    assert type(error) is Misconfigured
    assert str(error).startswith(f"sink out: {host} resolves to {Names.ADDRESSES[host]}, which is not a public address")


async def test_a_name_and_http_are_fine_where_the_settings_permit_them(hook, sink_to):
    sink = await sink_to(hook.base.replace("127.0.0.1", "hooks.test"), allow_private=True)
    await sink.deliver(delivery_of())

    assert len(hook.received) == 1


async def test_a_secret_that_is_not_there_pauses_the_sink(sink_to, hook, monkeypatch, tmp_path):
    monkeypatch.setenv("OUT_BROKEN", "whsec_hidden!")
    monkeypatch.setenv("OUT_LINES", "hidden\r\nX-Evil: 1")
    missing = {
        "OUT_NOTHING": await sink_to(url_env="OUT_NOTHING"),
        str(tmp_path / "no"): await sink_to(hook.base, secret_file=tmp_path / "no"),
        "not base64": await sink_to(hook.base, secret_env="OUT_BROKEN"),
        "X-Key": await sink_to(hook.base, headers_env={"X-Key": "OUT_LINES"}),
    }
    for named, sink in missing.items():
        error = await refusal(sink)
        assert type(error) is Misconfigured
        assert named in str(error)
    assert hook.received == []
