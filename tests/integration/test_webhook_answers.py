"""What the webhook sink makes of answers: statuses, drops, stalls, redirects, and servers that talk too much."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web

from tests.deliveries import delivery_of
from tests.integration.hooks import NOW, SECRET_PATH, hook, refusal, sink_to
from tests.support import eventually, free_port
from worker.errors import Gone, Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable

__all__ = ["hook", "sink_to"]  # fixtures


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_any_2xx_is_accepted(hook, sink_to, status):
    hook.says(status)
    await (await sink_to(hook.base)).deliver(delivery_of())

    assert len(hook.received) == 1


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, SinkUnavailable) for status in (408, 425, 429, 500, 501, 502, 503, 504, 599)),
        *((status, Misconfigured) for status in (401, 403, 404)),
        *((status, Rejected) for status in (300, 301, 302, 303, 304, 307, 308, 400, 402, 405, 409, 413, 415, 422)),
        (410, Gone),
    ],
)
async def test_every_other_status_has_its_class_and_is_tried_once(hook, sink_to, status, outcome):
    hook.says(status, Location="/elsewhere")
    error = await refusal(await sink_to(hook.base + SECRET_PATH))

    assert type(error) is outcome
    assert str(error).startswith(f"sink out: 127.0.0.1 answered {status}")
    assert [request.path for request in hook.received] == [SECRET_PATH]


@pytest.mark.parametrize("on_unknown", [None, "skip"])
async def test_a_status_that_means_accepted_to_this_receiver_is_accepted(hook, sink_to, on_unknown):
    hook.says(409, "An instance with this ID exists.")
    sink = await sink_to(hook.base, accepts=[409], on_unknown=on_unknown)
    await sink.deliver(delivery_of())
    hook.says(422)

    assert type(await refusal(sink)) is Rejected


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("86400", 3600.0),
        ("9" * 500, 3600.0),
        ("Wed, 15 Nov 2023 00:00:00 GMT", 3600.0),
        (format_datetime(datetime.fromtimestamp(NOW, UTC).replace(microsecond=0) + timedelta(seconds=90)), 89.25),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("-5", None),
        ("soon", None),
        ("1.5", None),
        ("", None),
    ],
)
async def test_retry_after_is_understood_and_bounded(hook, sink_to, status, header, seconds):
    hook.says(status, Retry_After=header)
    error = await refusal(await sink_to(hook.base))

    assert error.retry_after_seconds == (None if seconds is None else pytest.approx(seconds))


async def test_a_connection_that_drops_before_the_answer_is_tried_again_later(hook, sink_to):
    async def drop(request: web.Request) -> web.StreamResponse:
        request.transport.abort()
        return web.Response()

    hook.answer = drop
    error = await refusal(await sink_to(hook.base + SECRET_PATH))

    assert type(error) is SinkUnavailable
    assert str(error) == "sink out: 127.0.0.1 closed the connection before it answered"
    assert len(hook.received) == 1


@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 599])
async def test_with_on_unknown_a_server_error_may_have_had_its_effect(hook, sink_to, status):
    hook.says(status)
    assert type(await refusal(await sink_to(hook.base, on_unknown="skip"))) is OutcomeUnknown


@pytest.mark.parametrize(("status", "headers"), [(408, {}), (425, {}), (429, {}), (503, {"Retry_After": "7"})])
async def test_with_on_unknown_a_server_that_asks_to_wait_still_has_done_nothing(hook, sink_to, status, headers):
    hook.says(status, **headers)
    assert type(await refusal(await sink_to(hook.base, on_unknown="skip"))) is SinkUnavailable


async def test_with_on_unknown_a_request_that_was_sent_and_not_answered_may_have_had_its_effect(hook, sink_to):
    async def drop(request: web.Request) -> web.StreamResponse:
        request.transport.abort()
        return web.Response()

    hook.answer = drop
    assert type(await refusal(await sink_to(hook.base, on_unknown="resend"))) is OutcomeUnknown


async def test_with_on_unknown_what_was_never_sent_has_had_no_effect(sink_to):
    error = await refusal(await sink_to(f"http://127.0.0.1:{free_port()}", on_unknown="skip"))
    assert type(error) is SinkUnavailable


async def test_a_server_that_stalls_ends_the_attempt_at_its_limit(hook, sink_to):
    gate = asyncio.Event()

    async def stall(_: web.Request) -> web.StreamResponse:
        await gate.wait()
        return web.Response()

    hook.answer = stall
    error = await refusal(await sink_to(hook.base + SECRET_PATH, timeout_seconds=0.2))
    gate.set()

    assert type(error) is SinkUnavailable
    assert str(error) == "sink out: 127.0.0.1 did not answer within 0.2 s"


async def test_nobody_listening_is_tried_again_later(sink_to):
    error = await refusal(await sink_to(f"http://127.0.0.1:{free_port()}{SECRET_PATH}"))

    assert type(error) is SinkUnavailable
    assert str(error) == "sink out: 127.0.0.1 cannot be connected to: Connection refused"


async def test_a_name_that_does_not_resolve_is_tried_again_later(sink_to):
    error = await refusal(await sink_to(f"https://nobody.test{SECRET_PATH}"))

    assert type(error) is SinkUnavailable
    assert str(error) == "sink out: nobody.test cannot be resolved: Name or service not known"


async def test_a_name_service_that_stalls_ends_the_attempt_at_its_limit(sink_to):
    error = await refusal(await sink_to(f"https://slow.test{SECRET_PATH}", timeout_seconds=0.05))

    assert type(error) is SinkUnavailable
    assert str(error).endswith("within 0.05 s")


async def test_an_answer_that_is_no_http_is_tried_again_later(sink_to):
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 hidden smtp.example.org ESMTP\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        error = await refusal(await sink_to(f"http://127.0.0.1:{port}"))

    assert type(error) is SinkUnavailable
    assert "did not answer in proper HTTP" in str(error)


async def test_tls_that_fails_is_tried_again_later(hook, sink_to):
    error = await refusal(await sink_to(hook.base.replace("http://", "https://") + SECRET_PATH))

    assert type(error) is SinkUnavailable
    assert str(error).startswith("sink out: 127.0.0.1 cannot be connected to: ")


async def test_a_huge_answer_is_not_read_to_its_end(hook, sink_to):
    sent = 0
    cut = asyncio.Event()

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(status=500)
        await response.prepare(request)
        try:
            for _ in range(4096):
                await response.write(b"x" * 65536)
                sent += 65536
        finally:
            cut.set()
        return response

    hook.answer = flood
    error = await refusal(await sink_to(hook.base))

    assert type(error) is SinkUnavailable
    assert len(str(error)) < 300
    await asyncio.wait_for(cut.wait(), 10)
    assert sent < 4096 * 65536 / 2


async def test_a_2xx_is_accepted_even_when_its_body_never_comes(hook, sink_to):
    gate = asyncio.Event()

    async def begin(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=200)
        await response.prepare(request)
        await gate.wait()
        return response

    hook.answer = begin
    await (await sink_to(hook.base, timeout_seconds=0.2)).deliver(delivery_of())
    gate.set()


async def test_an_error_quotes_the_answer_in_one_line_without_what_is_secret(hook, sink_to, monkeypatch):
    monkeypatch.setenv("OUT_AUTH", "Bearer hidden-token")
    said = (
        f"no\r\n\tsuch \x1b[31mthing: {hook.base}{SECRET_PATH} hidden+code== hidden-token /hidden-path-4711 "
        + "y" * 5000
    )
    hook.says(400, said)
    error = await refusal(await sink_to(hook.base + SECRET_PATH, headers_env={"Authorization": "OUT_AUTH"}))

    assert str(error).startswith("sink out: 127.0.0.1 answered 400: no such [31mthing: ***")
    assert len(str(error)) < 300


async def test_a_cancelled_attempt_closes_its_connection_and_the_next_sends_the_same(hook, sink_to):
    gone = asyncio.Event()

    async def wait(_: web.Request) -> web.StreamResponse:
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()
        return web.Response()

    hook.answer = wait
    sink = await sink_to(hook.base)
    attempt = asyncio.create_task(sink.deliver(delivery_of()))
    await eventually(lambda: hook.received)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    hook.answer = hook.accept
    await sink.deliver(delivery_of())

    first, second = hook.received
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.peer != second.peer
