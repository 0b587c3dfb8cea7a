"""What sinks tell of their requests while tracing is on: the span, the headers that go along, and no secret."""

import asyncio

import pytest
from aiohttp import web

from tests.deliveries import ELEMENT, delivery_of
from tests.hub_service import HUB, hub_service
from tests.integration.hooks import Hook, hook, sink_to
from tests.lanes import FakeOwner
from tests.support import eventually, free_port
from tests.traces import SPAN, Traces, trace_of, traces
from worker.chains import Job
from worker.errors import SinkUnavailable
from worker.sinks import Delivery, Sink
from worker.sinks.eventhub import EventHubSettings, EventHubSink

__all__ = ["hook", "sink_to"]  # fixtures

CLOUD_EVENT = {"specversion": "1.0", "id": "c1", "type": "T", "source": "/s", "subject": "subject-1"}


@pytest.fixture
def kept():
    with traces() as found:
        yield found


def event(number: int) -> Delivery:
    """One of a trace of its own; all of one subject."""
    return delivery_of({**CLOUD_EVENT, "id": f"c{number}", "traceparent": f"00-{number:032x}-{SPAN}-01"})


async def attempt(kept: Traces, sink: Sink, delivery: Delivery) -> None:
    """As a lane does."""
    with kept.spans.attempt(Job(delivery, FakeOwner()), "kind"):
        await sink.deliver(delivery)


@pytest.mark.parametrize(
    "secret",
    [
        "/workflows/hidden/triggers/manual/paths/invoke?api-version=1&sp=%2Fhidden&sig=hidden",
        "/api/hidden?code=hidden%3D%3D",
        "/;hidden=1/..;/hidden%2F?hidden#hidden",
        "//hidden//?x=https://u:hidden@elsewhere.example/hidden",
    ],
)
async def test_of_the_url_a_request_went_to_the_host_is_told(kept: Traces, hook: Hook, sink_to, secret):
    await attempt(kept, await sink_to(hook.base + secret), event(1))
    [request] = kept.named("POST")
    assert (request.attributes or {})["url.full"] == hook.base
    assert (request.attributes or {})["server.address"] == "127.0.0.1"
    assert f"{(request.attributes or {})['server.port']}" == hook.base.rpartition(":")[2]
    [received] = hook.received
    assert request.context is not None
    assert received.headers.getall("traceparent") == [f"00-{1:032x}-{request.context.span_id:016x}-01"]
    assert not [span for span in kept.finished if "hidden" in span.to_json()]


async def test_a_request_that_fails_says_how_and_nothing_of_the_answer(kept: Traces, hook: Hook, sink_to):
    hook.says(503, "AccountKey=hidden")
    with pytest.raises(SinkUnavailable):
        await attempt(kept, await sink_to(hook.base), event(1))
    with pytest.raises(SinkUnavailable):
        await attempt(kept, await sink_to(f"http://127.0.0.1:{free_port()}/hidden"), event(2))
    refused, lost = kept.named("POST")
    assert (refused.attributes or {})["http.response.status_code"] == 503
    assert (refused.attributes or {})["error.type"] == "503"
    assert (lost.attributes or {})["error.type"] == "SinkUnavailable"
    assert "127.0.0.1 cannot be connected to" in (lost.status.description or "")
    assert not [span for span in kept.finished if "hidden" in span.to_json()]


async def test_without_tracing_a_request_has_no_such_header(hook: Hook, sink_to):
    await (await sink_to(hook.base)).deliver(event(1))
    assert "traceparent" not in hook.received[0].headers


async def test_events_that_go_in_one_request_are_all_linked_with_it(kept: Traces, hook: Hook, sink_to):
    gate = asyncio.Event()

    async def answer(_: web.Request) -> web.StreamResponse:
        await gate.wait()
        return web.Response(status=202)

    hook.answer = answer
    sink = await sink_to(hook.base, mode="batched")
    async with asyncio.TaskGroup() as group:
        group.create_task(attempt(kept, sink, event(1)))
        await eventually(lambda: hook.received)
        for number in (2, 3):
            group.create_task(attempt(kept, sink, event(number)))
        await eventually(lambda: len(sink._batches._waiting) == 2)
        gate.set()
    [together] = kept.named("send")
    own = {trace_of(span): span for span in kept.named("deliver out")}
    assert {link.context.trace_id for link in together.links} == {2, 3}
    assert together.parent is not None
    parent = own[f"{2:032x}"]
    assert parent.context is not None
    assert together.parent.span_id == parent.context.span_id
    assert [link.context.trace_id for link in own[f"{3:032x}"].links] == [2]
    alone, several = kept.named("POST")
    assert [trace_of(span) for span in (alone, several)] == [f"{1:032x}", f"{2:032x}"]
    assert several.parent is not None
    assert together.context is not None
    assert several.parent.span_id == together.context.span_id


async def test_each_message_to_a_hub_carries_the_trace_of_its_own_event(kept: Traces, monkeypatch):
    async with hub_service() as service:
        monkeypatch.setenv("ORDERED", service.connection_string)
        settings = {"name": "out", "kind": "eventhub", "connection_string_env": "ORDERED", "hub": HUB}
        sink = EventHubSink(EventHubSettings.model_validate(settings), None)
        await sink.open()
        async with asyncio.TaskGroup() as group:
            for number in range(1, 6):
                group.create_task(attempt(kept, sink, event(number)))
        await sink.deliver(delivery_of(ELEMENT))  # by whoever does not trace
        await sink.aclose()
        came = {message.event["id"]: message.properties for message in service.came()}
    assert len(came) == 6
    for span in kept.named("deliver out"):
        number = span.context.trace_id if span.context else 0
        expected = f"00-{number:032x}-{span.context.span_id:016x}-01" if span.context else ""
        assert came[f"c{number}"]["traceparent"] == came[f"c{number}"]["Diagnostic-Id"] == expected
    assert not {"traceparent", "Diagnostic-Id"} & came["e1"].keys()
    sent = kept.named(f"send {HUB}")
    assert sum((span.attributes or {})["messaging.batch.message_count"] for span in sent) == 5
    assert "SharedAccess" not in "".join(span.to_json() for span in kept.finished)
