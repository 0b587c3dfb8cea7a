"""The handshake before the first event: what is asked, what counts as consent, and the rate that is kept."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web

from tests.api_service import Scripted
from tests.deliveries import ELEMENT, delivery_of
from tests.integration.hooks import SECRET_PATH, hook, refusal
from tests.integration.hooks import sink_to as plain_sink_to
from tests.support import eventually, free_port
from tests.webhook_receiver import Receiver, served
from worker.errors import Gone, Misconfigured, SinkUnavailable, Throttled
from worker.sinks import LimitedSink
from worker.sinks.webhook import WebhookSink
from worker.sinks.webhook_settings import WebhookSettings

__all__ = ["hook", "plain_sink_to"]  # fixtures

ORIGIN = "worker.example.org"
YES = {"WebHook-Allowed-Origin": ORIGIN, "WebHook-Allowed-Rate": "*"}
OpenSink = Callable[..., Awaitable[WebhookSink]]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with served(Receiver()) as receiver:
        receiver.consent = YES
        receiver.needs_origin = ORIGIN
        yield receiver


@pytest.fixture
async def sink_to(receiver, clock) -> AsyncIterator[OpenSink]:
    opened = []

    async def open_sink(**given: Any) -> WebhookSink:
        settings = {"name": "out", "handshake": {"origin": ORIGIN}} | given
        if "url_file" not in settings:
            settings.setdefault("url", receiver.url)
        sink = WebhookSink(WebhookSettings.model_validate(settings), ticks=clock)
        await sink.open()
        opened.append(sink)
        return sink

    yield open_sink
    for sink in opened:
        await sink.aclose()


def methods(receiver: Receiver) -> list[str]:
    return [method for method, _ in receiver.asked]


async def test_it_asks_once_before_the_first_event_and_says_who_it_is_each_time(receiver, sink_to, monkeypatch):
    monkeypatch.setenv("OUT_AUTH", "Bearer hidden-token")
    sink = await sink_to(headers_env={"Authorization": "OUT_AUTH"}, secret_env="OUT_AUTH")
    for _ in range(3):
        await sink.deliver(delivery_of())

    assert methods(receiver) == ["OPTIONS", "POST", "POST", "POST"]
    assert {headers["webhook-request-origin"] for _, headers in receiver.asked} == {ORIGIN}
    asked = receiver.asked[0][1]
    assert asked["authorization"] == "Bearer hidden-token"  # what stands before it may let nobody through without
    assert "webhook-signature" not in asked
    assert "content-length" not in asked


async def test_it_is_off_unless_it_is_asked_for(receiver, sink_to):
    receiver.needs_origin = None
    await (await sink_to(handshake=False)).deliver(delivery_of())

    assert methods(receiver) == ["POST"]
    assert "webhook-request-origin" not in receiver.posts[0]


async def test_true_is_a_name_that_is_the_same_for_every_process(receiver, sink_to):
    receiver.consent = {"webhook-allowed-origin": "*"}
    receiver.needs_origin = "event-grid-worker"
    await (await sink_to(handshake=True)).deliver(delivery_of())


@pytest.mark.parametrize("mode", ["binary", "batched"])
async def test_it_comes_before_the_other_modes_too(receiver, sink_to, mode):
    sink = await sink_to(mode=mode)
    await asyncio.gather(*(sink.deliver(delivery_of(ELEMENT | {"id": f"e{number}"})) for number in range(5)))

    assert methods(receiver)[0] == "OPTIONS"
    assert methods(receiver).count("OPTIONS") == 1
    assert len(receiver.taken) == 5


@pytest.mark.parametrize("consent", [{"WebHook-Allowed-Origin": "*"}, {"WEBHOOK-ALLOWED-ORIGIN": ORIGIN.upper()}])
async def test_consent_is_a_header_for_everybody_or_for_us(receiver, sink_to, consent):
    receiver.consent = consent
    await (await sink_to()).deliver(delivery_of())

    assert len(receiver.taken) == 1


@pytest.mark.parametrize("status", [200, 204, 400, 404, 405, 500])
async def test_consent_does_not_depend_on_the_status(hook, plain_sink_to, status):
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status if request.method == "OPTIONS" else 202, headers=YES)

    hook.answer = answer
    await (await plain_sink_to(hook.base, handshake={"origin": ORIGIN})).deliver(delivery_of())

    assert len(hook.received) == 2


@pytest.mark.parametrize(
    ("consent", "said"),
    [
        (None, "its answer to OPTIONS (405) has no WebHook-Allowed-Origin"),
        ({}, "its answer to OPTIONS (200) has no WebHook-Allowed-Origin"),
        ({"WebHook-Allowed-Rate": "*"}, "has no WebHook-Allowed-Origin"),
        ({"WebHook-Allowed-Origin": "other.example.org"}, "names another one in WebHook-Allowed-Origin"),
        ({"WebHook-Allowed-Origin": ""}, "names another one in WebHook-Allowed-Origin"),
    ],
)
async def test_without_consent_nothing_is_sent_and_the_sink_pauses_until_there_is(receiver, sink_to, consent, said):
    receiver.consent = consent
    sink = await sink_to()
    error = await refusal(sink)
    assert type(error) is Misconfigured
    assert str(error).startswith(f"sink out: 127.0.0.1 does not consent to events from {ORIGIN}: ")
    assert said in str(error)
    assert methods(receiver) == ["OPTIONS"]

    receiver.consent = YES
    await sink.deliver(delivery_of())
    assert methods(receiver) == ["OPTIONS", "OPTIONS", "POST"]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, SinkUnavailable) for status in (408, 425, 429, 500, 502, 503, 504)),
        *((status, Misconfigured) for status in (200, 204, 301, 307, 400, 401, 403, 404, 405, 501)),
        (410, Gone),
    ],
)
async def test_who_cannot_answer_now_is_asked_again_and_all_others_have_not_consented(
    hook, plain_sink_to, status, outcome
):
    hook.says(status, Retry_After="7", Location="/elsewhere")
    error = await refusal(await plain_sink_to(hook.base + SECRET_PATH, handshake=True, on_unknown="skip"))

    assert type(error) is outcome
    assert len(hook.received) == 1
    if outcome is SinkUnavailable:
        assert error.retry_after_seconds == 7.0


async def test_a_question_without_an_answer_is_no_unknown_outcome(hook, plain_sink_to):
    async def stall(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    hook.answer = stall
    sink = await plain_sink_to(hook.base, handshake=True, on_unknown="skip", timeout_seconds=0.2)
    assert type(await refusal(sink)) is SinkUnavailable
    nobody = await plain_sink_to(f"http://127.0.0.1:{free_port()}", handshake=True, on_unknown="skip")
    assert type(await refusal(nobody)) is SinkUnavailable


@pytest.mark.parametrize("status", [401, 403])
async def test_after_a_401_or_403_it_asks_again(receiver, sink_to, status):
    sink = await sink_to()
    await sink.deliver(delivery_of())
    receiver.script = [Scripted(status), Scripted(500)]
    assert type(await refusal(sink)) is Misconfigured
    assert type(await refusal(sink)) is SinkUnavailable
    await sink.deliver(delivery_of())

    assert methods(receiver) == ["OPTIONS", "POST", "POST", "OPTIONS", "POST", "POST"]


async def test_another_url_is_another_destination(receiver, sink_to, tmp_path):
    file = tmp_path / "url"
    file.write_text(receiver.url)
    sink = await sink_to(url_file=file)
    await sink.deliver(delivery_of())
    async with served(Receiver()) as other:
        other.consent = YES
        file.write_text(other.url)
        await sink.deliver(delivery_of())
        assert methods(other) == ["OPTIONS", "POST"]


async def test_all_who_come_meanwhile_wait_for_one_answer_and_who_is_cancelled_takes_nobody_along(hook, plain_sink_to):
    gate = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method == "OPTIONS":
            await gate.wait()
        return web.Response(status=202, headers=YES)

    hook.answer = answer
    sink = await plain_sink_to(hook.base, handshake={"origin": ORIGIN})
    attempts = [asyncio.create_task(sink.deliver(delivery_of(ELEMENT | {"id": f"e{n}"}))) for n in range(10)]
    await eventually(lambda: hook.received)
    attempts[0].cancel()
    await asyncio.sleep(0)
    gate.set()
    first, *others = await asyncio.gather(*attempts, return_exceptions=True)

    assert isinstance(first, asyncio.CancelledError)
    assert others == [None] * 9
    assert len(hook.received) == 10


async def test_all_who_wait_learn_that_there_is_no_consent_from_one_answer(receiver, sink_to):
    receiver.consent = {}
    sink = await sink_to()
    attempts = [sink.deliver(delivery_of(ELEMENT | {"id": f"e{n}"})) for n in range(10)]
    results = await asyncio.gather(*attempts, return_exceptions=True)

    assert [type(each) for each in results] == [Misconfigured] * 10
    assert methods(receiver) == ["OPTIONS"]


async def test_closing_ends_a_question_that_is_under_way(hook, plain_sink_to):
    async def stall(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    hook.answer = stall
    sink = await plain_sink_to(hook.base, handshake=True)
    attempt = asyncio.create_task(sink.deliver(delivery_of()))
    await eventually(lambda: hook.received)
    await sink.aclose()
    with pytest.raises(asyncio.CancelledError):
        await attempt


# --- the rate


async def test_the_rate_that_is_allowed_is_kept(receiver, sink_to, clock):
    receiver.consent = YES | {"WebHook-Allowed-Rate": "120"}
    sink = await sink_to()
    assert isinstance(sink, LimitedSink)
    assert sink.wait_seconds() == 0
    times = []
    for _ in range(10):
        while wait_seconds := sink.wait_seconds():
            clock.now += wait_seconds
        await sink.deliver(delivery_of())
        times.append(clock.now)
    assert all(later - earlier == pytest.approx(0.5, abs=1e-3) for earlier, later in pairwise(times))

    with pytest.raises(Throttled) as raised:
        await sink.deliver(delivery_of())
    assert raised.value.retry_after_seconds == pytest.approx(0.5, abs=1e-3)
    assert str(raised.value).startswith("sink out: ")
    assert len(receiver.posts) == 10


@pytest.mark.parametrize("rate", ["*", "0", "-5", "soon", "1.5", "", "9" * 5000])
async def test_a_rate_that_is_none_limits_nothing(receiver, sink_to, rate):
    receiver.consent = YES | {"WebHook-Allowed-Rate": rate}
    sink = await sink_to()
    for _ in range(5):
        await sink.deliver(delivery_of())

    assert sink.wait_seconds() == 0


async def test_a_batch_is_one_request_of_the_rate(receiver, sink_to, clock):
    receiver.consent = YES | {"WebHook-Allowed-Rate": "1"}
    sink = await sink_to(mode="batched")
    await sink.deliver(delivery_of())
    assert sink.wait_seconds() == pytest.approx(60)
    clock.now += 60
    await asyncio.gather(*(sink.deliver(delivery_of(ELEMENT | {"id": f"e{n}"})) for n in range(20)))

    assert [len(batch) for batch in receiver.batches] == [1, 20]
