import asyncio
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from worker.errors import ConfigError
from worker.health import Health
from worker.http import Endpoints


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Server:
    """Endpoints that listen, and a client for them."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.clock = Clock()
        self.health = Health(limit_seconds=10, clock=self.clock)
        self.registry = CollectorRegistry()
        self.endpoints = Endpoints(host="127.0.0.1", port=0, registry=self.registry, health=self.health)
        self.port = 0
        self._session = session

    async def get(self, path: str, method: str = "GET") -> tuple[int, str, str]:
        async with self._session.request(method, f"http://127.0.0.1:{self.port}{path}") as response:
            return response.status, response.headers["Content-Type"], await response.text()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with aiohttp.ClientSession() as session:
        server = Server(session)
        server.port = await server.endpoints.start()
        yield server
        await server.endpoints.aclose()


async def test_metrics_are_what_prometheus_reads(server):
    Counter("worker_things", "Things.", ["kind"], registry=server.registry).labels("a").inc(3)

    status, content_type, text = await server.get("/metrics")

    assert status == 200
    assert content_type.startswith("text/plain; version=")
    samples = {
        sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples
    }
    assert samples["worker_things_total"] == 3


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75", "openmetrics"),
        ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", "text/plain"),
        ("application/openmetrics-text; version=none", "text/plain"),
        ("application/openmetrics-text; version=a.b", "text/plain"),
        ("", "text/plain"),
    ],
)
async def test_metrics_come_as_whoever_asks_can_read_them(server, accept, content_type):
    labels = {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}
    Histogram("worker_lasts", "Lasts.", registry=server.registry).observe(1, labels)
    url = f"http://127.0.0.1:{server.port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url, headers={"Accept": accept}) as answer:
        text = await answer.text()
    assert content_type in answer.headers["Content-Type"]
    assert ("trace_id" in text) == ("# EOF" in text) == (content_type == "openmetrics")
    if content_type == "openmetrics":
        [family] = openmetrics(text)
        assert [sample.exemplar.labels for sample in family.samples if sample.exemplar] == [labels]


async def test_livez_names_the_loops_that_stopped_moving(server):
    server.health.beat("partition 1")
    assert await server.get("/livez") == (200, "text/plain; charset=utf-8", "ok")

    server.clock.now += 11
    status, _, text = await server.get("/livez")
    assert (status, text) == (503, "stopped moving: partition 1")


async def test_readyz_gives_the_reasons_as_json(server):
    server.health.set_ready("hub", ok=False, detail="connecting")
    status, content_type, text = await server.get("/readyz")
    assert (status, content_type) == (503, "application/json")
    assert text == '{"ready":false,"reasons":{"hub":"connecting"},"notes":{}}'

    server.health.set_ready("hub", ok=True)
    assert (await server.get("/readyz"))[::2] == (200, '{"ready":true,"reasons":{},"notes":{}}')


async def test_readyz_gives_notes_that_make_nothing_unready(server):
    server.health.note("rules", "the last reload was refused")

    assert (await server.get("/readyz"))[::2] == (
        200,
        '{"ready":true,"reasons":{},"notes":{"rules":"the last reload was refused"}}',
    )


async def test_a_worker_that_is_not_ready_is_alive(server):
    server.health.set_ready("hub", ok=False)

    assert (await server.get("/livez"))[0] == 200


async def test_an_error_inside_shows_nothing_of_itself_even_in_debug_mode(server):
    def collect():
        raise RuntimeError("the secret of the metric")

    Gauge("worker_broken", "Broken.", registry=server.registry).set_function(collect)
    asyncio.get_running_loop().set_debug(True)
    with capture_logs() as logged:
        status, _, text = await server.get("/metrics")

    assert status == 500
    assert "secret" not in text
    assert "Traceback" not in text
    assert [line["event"] for line in logged] == ["http handler failed"]


async def test_it_only_answers_reads_of_what_it_has(server):
    assert (await server.get("/metrics", method="POST"))[0] == 405
    assert (await server.get("/"))[0] == 404


async def test_a_taken_port_is_a_mistake_that_says_what_to_do(server):
    other = Endpoints(host="127.0.0.1", port=server.port, registry=server.registry, health=server.health)

    with pytest.raises(ConfigError) as refused:
        await other.start()

    [mistake] = refused.value.mistakes
    assert f"127.0.0.1:{server.port}" in mistake
    assert "http.port" in mistake
    await other.aclose()


async def test_after_it_is_closed_nothing_listens_and_closing_twice_is_fine(server):
    await server.endpoints.aclose()
    await server.endpoints.aclose()

    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0


async def test_on_the_loopback_the_page_answers_to_names_of_the_loopback_only(server):
    """Else a site could lead a name of its own here (DNS rebinding), and read the page as if it were its own."""
    endpoints = Endpoints(
        host="0.0.0.0",
        port=0,
        registry=server.registry,
        health=server.health,
        page=lambda *, refreshing: f"refreshing: {refreshing}",
        page_port=0,
        page_host="127.0.0.1",
    )
    port = await endpoints.start()
    async with aiohttp.ClientSession() as session:

        async def status(name: str, port: int | None, path: str = "/") -> int:
            async with session.get(f"http://127.0.0.1:{port}{path}", headers={"Host": name}) as answer:
                return answer.status

        for name in ("localhost", "LOCALHOST:8081", "127.0.0.1:8081", "127.0.0.2", "[::1]", "[::1]:8081"):
            assert await status(name, endpoints.page_port) == 200, name
        for name in (
            "rebound.example.org",
            "rebound.example.org:8081",
            "127.0.0.1.example.org",
            "localhost.example.org",
            "10.0.0.7",
        ):
            assert await status(name, endpoints.page_port) == 403, name
        assert await status("event-grid-worker", port, "/metrics") == 200
        assert await status("event-grid-worker", port) == 404
    await endpoints.aclose()
