"""The demo's configuration: valid, and told a second time without contradiction."""

from datetime import UTC, datetime

import pytest
from aiohttp import ClientSession, web
from prometheus_client import generate_latest

from worker.decode import decode
from worker.events import BadEvent, Event, Message, PartitionId, UnixSeconds
from worker.loading import load
from worker.local.deployment import AUDIT, TEAM, Deployed, Scraper, expected_sinks, write_configuration
from worker.local.traffic import TrafficMessage, TrafficOptions, generate
from worker.local.view import PartitionView
from worker.metrics import Metrics

RECEIVER = "http://127.0.0.1:1/events"


def page(generations: dict[str, int], lags: dict[str, int]) -> str:
    """What /metrics of a worker says that holds, or once held, these partitions."""
    metrics = Metrics()
    for partition, generation in generations.items():
        metrics.generation.labels(partition).set(generation)
    for partition, lag in lags.items():
        metrics.lag_events.labels(partition).set(lag)
    return generate_latest(metrics.registry).decode()


PAGES = {"/one": page({"0": 3, "1": 0}, {"0": 17, "1": 99}), "/two": page({"1": 4}, {})}


def configuration(folder, name="worker-1"):
    return load(write_configuration(folder, name, RECEIVER).config, secrets=False)


def decoded(message: TrafficMessage) -> list[Event | BadEvent]:
    return decode(Message(PartitionId("0"), 0, "0", UnixSeconds(0.0), message.body, message.content_type))


def test_expected_sinks_says_the_same_as_the_routes_that_are_written(tmp_path):
    routes = configuration(tmp_path).routes
    messages = generate(TrafficOptions(count=3000, started_at=datetime(2024, 3, 11, 8, tzinfo=UTC)))
    told = set()
    for message in messages:
        for fact, event in zip(message.events, decoded(message), strict=True):
            sinks = {target.sink for target in routes.match(event)}
            assert sinks == set(expected_sinks(fact)), fact
            told.add((fact.type, len(sinks)))
    assert {kind for kind, _ in told} == {kind for kind, count in told if count == 2} | {
        "Microsoft.Storage.BlobDeleted"
    }
    assert {AUDIT, TEAM} == {sink.name for sink in configuration(tmp_path, "worker-2").sinks}


def test_what_is_called_damaged_cannot_be_decoded():
    messages = generate(
        TrafficOptions(count=100, started_at=datetime(2024, 3, 11, 8, tzinfo=UTC), malformed_percent=20)
    )
    damaged = [message for message in messages if message.damage]
    assert len(damaged) == 20
    for message in damaged:
        assert [type(element) for element in decoded(message)] == [BadEvent], message.damage


def test_the_workers_of_one_demo_share_the_store_and_the_audit_file_but_no_port(tmp_path):
    first, second = configuration(tmp_path, "worker-1"), configuration(tmp_path, "worker-2")
    assert first.worker.store.path.resolve() == second.worker.store.path.resolve() == tmp_path / "worker.db"
    assert first.sinks[0].path.resolve() == second.sinks[0].path.resolve() == tmp_path / "audit.jsonl"
    assert first.worker.http.port != second.worker.http.port


@pytest.fixture
async def metrics():
    """Serves what two workers would say; the third address answers nothing."""
    application = web.Application()

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=PAGES[request.path])

    application.router.add_get("/{name}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base = "http://{}:{}".format(*runner.addresses[0])
    yield [f"{base}/one", f"{base}/two", "http://127.0.0.1:1/metrics"]
    await runner.cleanup()


async def test_a_partition_belongs_to_the_worker_that_holds_a_generation_of_it(metrics, tmp_path):
    deployed = [Deployed(f"worker-{number}", tmp_path, url) for number, url in enumerate(metrics, 1)]
    async with ClientSession() as session:
        assert await Scraper(session, deployed, 3).partitions() == [
            PartitionView("0", "worker-1", 17),
            PartitionView("1", "worker-2", None),
            PartitionView("2", None, None),
        ]
