"""A worker that traces, as a user runs it: its spans come to a collector, its destinations go on in the same trace."""

import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from azure.eventhub import EventData
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.deliveries import ELEMENT
from tests.integration.eventhub import producer, reading
from tests.integration.scene import HUB, Scene, scene
from tests.otlp_collector import Collector, Received, collector
from tests.support import eventually, free_port
from tests.traces import PARENT, SPAN, TRACE

FORWARDED = "forwarded"
TRACING = {"enabled": True}
OPENMETRICS = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}


class Hook:
    """A function that is called with a key, and refuses its first call."""

    def __init__(self) -> None:
        self.url = ""
        self.headers: list[dict[str, str]] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        return web.Response(status=503 if len(self.headers) == 1 else 202, text="AccountKey=hidden-answer")


@asynccontextmanager
async def hook() -> AsyncIterator[Hook]:
    called = Hook()
    app = web.Application()
    app.router.add_post("/hidden-path/in", called.handle)
    async with TestServer(app, host="127.0.0.1", shutdown_timeout=0.1) as server:
        called.url = f"{server.make_url('/hidden-path/in')}?sig=hidden-signature&code=hidden%2Bcode"
        yield called


def route_all(stage: Scene, called: Hook, azurite: str) -> None:
    """To a function, into an archive, and to another hub."""
    stage.environment |= {"HOOK": called.url, "KEY": "hidden-key", "AUTH": "Bearer hidden-token", "ARCHIVE": azurite}
    stage.routing = {
        "sinks": [
            {
                "name": "hook",
                "kind": "webhook",
                "url_env": "HOOK",
                "functions_key_env": "KEY",
                "headers_env": {"Authorization": "AUTH"},
            },
            {"name": "archive", "kind": "blob", "connection_string_env": "ARCHIVE", "container": "archive-traced"},
            {
                "name": "on",
                "kind": "eventhub",
                "connection_string_env": "EVENTHUB_CONNECTION_STRING",
                "hub": FORWARDED,
            },
        ],
        "routes": [{"name": "everything", "sinks": ["hook", "archive", "on"]}],
    }


def trace_into(stage: Scene, taking: Collector) -> None:
    stage.environment |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": taking.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20for-the-collector",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_SERVICE_NAME": "ml-events",
    }


async def send(stage: Scene) -> None:
    event = EventData(orjson.dumps(ELEMENT | {"subject": "hidden-subject", "data": {"hidden": "hidden-data"}}))
    event.properties = {"traceparent": PARENT, "Diagnostic-Id": PARENT}
    async with producer(stage.connection_string, eventhub_name=HUB) as client:
        await client.send_batch([event])


async def open_metrics_of(stage: Scene) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(stage.address("one", "/metrics"), headers=OPENMETRICS) as answer,
    ):
        assert answer.content_type == "application/openmetrics-text"
        return await answer.text()


def attempts(taking: Collector, sink: str) -> list[Received]:
    return sorted(taking.named(f"deliver {sink}"), key=lambda span: span.attributes["worker.attempt"])


async def test_an_events_trace_goes_through_the_worker_and_on(tmp_path: Path, azurite: str):
    async with scene(tmp_path, azurite, hubs=[FORWARDED]) as stage, hook() as called, collector() as taking:
        stage.connection_string = stage.connection_string.partition(";EntityPath=")[0]
        trace_into(stage, taking)
        route_all(stage, called, azurite)
        worker = await stage.start_worker("one", tracing=TRACING, order={"window_seconds": 0})
        await stage.until_shared("one")
        await send(stage)
        on = reading(stage.connection_string + f";EntityPath={FORWARDED}", partition=None)
        async with on as seen:
            [forwarded] = await seen.at_least(1)
        await eventually(lambda: len(attempts(taking, "hook")) == 2 and taking.named("deliver archive"), 30)
        open_metrics = await open_metrics_of(stage)
        text = await stage.metrics("one")
        await stage.family.stop([worker])
        log = [json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{")]

    refused, accepted = attempts(taking, "hook")
    [archived], [sent_on] = attempts(taking, "archive"), attempts(taking, "on")
    for span in (refused, accepted, archived, sent_on):
        assert (span.kind, span.trace_id, span.parent_id) == ("CONSUMER", TRACE, SPAN)
        assert span.resource["service.name"] == "ml-events"
    assert [each.attributes["worker.outcome"] for each in (refused, accepted)] == ["unavailable", "accepted"]
    assert [each.failed for each in (refused, accepted)] == [True, False]

    posts = [taking.below(each)[0] for each in (refused, accepted)]
    assert [(each.name, each.kind) for each in posts] == [("POST", "CLIENT")] * 2
    assert [each.attributes["http.response.status_code"] for each in posts] == [503, 202]
    assert posts[0].attributes["url.full"] == called.url.partition("/hidden")[0]
    assert [each["traceparent"] for each in called.headers] == [f"00-{TRACE}-{each.span_id}-01" for each in posts]

    uploads = taking.below(archived)  # the first finds that the container is missing
    assert {each.name for each in uploads} == {"BlobClient.upload_blob", "ContainerClient.create_container"}
    puts = [put for upload in uploads for put in taking.below(upload)]
    assert {(each.name, each.kind, each.attributes["url.full"]) for each in puts} == {
        ("PUT", "CLIENT", azurite.partition("BlobEndpoint=")[2].partition("/devstore")[0])
    }
    assert [each.name for each in taking.below(sent_on)] == [f"send {FORWARDED}"]
    properties = {bytes(name): bytes(value) for name, value in forwarded.properties.items()}
    assert properties[b"traceparent"] == properties[b"Diagnostic-Id"] == f"00-{TRACE}-{sent_on.span_id}-01".encode()

    # The store's own requests, every second, are none of these.
    assert {span.trace_id for span in taking.spans} == {TRACE}

    [failed] = [line for line in log if line["event"] == "delivery failed"]
    assert (failed["trace_id"], failed["span_id"]) == (TRACE, refused.span_id)
    assert all("trace_id" not in line for line in log if line["event"] in ("started", "hub reached", "stopped"))

    families = {family.name: family for family in text_string_to_metric_families(open_metrics)}
    [pointer] = [
        sample.exemplar.labels
        for sample in families["worker_event_to_destination_seconds"].samples
        if sample.exemplar and sample.labels["sink"] == "archive"
    ]
    assert pointer == {"trace_id": TRACE, "span_id": archived.span_id}
    samples = {sample.name for family in families.values() for sample in family.samples}
    names = {name.partition("[")[0] for name in text}
    assert names == samples
    assert not [name for name in names if name.endswith("_created")]

    exported = b"".join(taking.bodies)
    assert b"hidden" not in exported
    assert ELEMENT["topic"].encode() not in exported
    for secret in azurite.split("AccountKey=")[1].split(";")[:1]:
        assert secret.encode() not in exported
    assert {each["authorization"] for each in taking.headers} == {"Bearer for-the-collector"}


@asynccontextmanager
async def nobody() -> AsyncIterator[int]:
    """A port where nobody listens."""
    yield free_port()


@asynccontextmanager
async def silence() -> AsyncIterator[int]:
    """A port where somebody listens and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("lost", [nobody, silence])
async def test_a_collector_that_is_away_costs_no_delivery_and_one_line(
    tmp_path: Path, lost: Callable[[], AbstractAsyncContextManager[int]]
):
    async with scene(tmp_path) as stage, hook() as called, lost() as port:
        stage.environment |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}/hidden-tenant",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "0.5",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "HOOK": called.url,
        }
        stage.routing = {
            "sinks": [{"name": "hook", "kind": "webhook", "url_env": "HOOK"}],
            "routes": [{"name": "everything", "sinks": ["hook"]}],
        }
        worker = await stage.start_worker("one", tracing=TRACING, order={"window_seconds": 0})
        await stage.until_shared("one")
        for count in (2, 3, 4):
            await send(stage) if count == 2 else await send_another(stage, count)
            await eventually(lambda least=count: len(called.headers) >= least, 30)
        await eventually(lambda: "does not take spans" in worker.log.read_text(), 30)
        await stage.family.stop([worker])  # raises unless it exits 0, in time
        text = worker.log.read_text()
    assert text.count("does not take spans") == 1
    assert "hidden" not in text
    assert "Traceback" not in text


async def send_another(stage: Scene, number: int) -> None:
    event = EventData(orjson.dumps(ELEMENT | {"id": f"e{number}", "subject": f"s{number}"}))
    async with producer(stage.connection_string, eventhub_name=HUB) as client:
        await client.send_batch([event])


@pytest.mark.parametrize("why", ["disabled", "off"])
async def test_without_tracing_nothing_is_exported_and_nothing_sent_along(tmp_path: Path, why: str):
    async with scene(tmp_path) as stage, hook() as called, collector() as taking:
        trace_into(stage, taking)
        stage.environment |= {"HOOK": called.url, "OTEL_SDK_DISABLED": "true" if why == "disabled" else "false"}
        stage.routing = {
            "sinks": [{"name": "hook", "kind": "webhook", "url_env": "HOOK"}],
            "routes": [{"name": "everything", "sinks": ["hook"]}],
        }
        tracing = {"enabled": why == "disabled"}
        worker = await stage.start_worker("one", tracing=tracing, order={"window_seconds": 0})
        await stage.until_shared("one")
        await send(stage)
        await eventually(lambda: len(called.headers) == 2, 30)
        await stage.family.stop([worker])
        assert "trace_id" not in worker.log.read_text()
    assert taking.bodies == []
    assert not [headers for headers in called.headers if "traceparent" in headers]
