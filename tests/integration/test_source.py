"""Source and hub against the real SDK and the local hub, in this process; the store is in memory."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from azure.eventhub import EventData
from azure.eventhub.amqp import AmqpAnnotatedMessage
from azure.identity import CredentialUnavailableError

from tests.fakes import FakeSink
from tests.integration.eventhub import send
from tests.memory_store import MemoryStore
from tests.pipeline.stage import Stage, blob_event
from tests.support import eventually
from worker.claim import Claim
from worker.config import OnInvalidOffset, SourceSettings
from worker.errors import HubUnavailable
from worker.events import PartitionId
from worker.hub import Hub, explain
from worker.lease import Leases
from worker.reset import Positions
from worker.retry import until_available
from worker.source import Source


def hub_for(connection_string: str, monkeypatch: pytest.MonkeyPatch, **settings) -> Hub:
    monkeypatch.setenv("TEST_HUB", connection_string)
    return Hub(source_settings(**settings), None)


def source_settings(**settings) -> SourceSettings:
    return SourceSettings(
        connection_string_env="TEST_HUB",
        **{"hub": "hub", "balance_interval_seconds": 0.5, "ownership_expiry_seconds": 5, **settings},
    )


async def checkpoints(store: MemoryStore, hub: Hub) -> dict[str, tuple[str, int]]:
    rows = await store.list_checkpoints(*hub.scope)
    return {each["partition_id"]: (each["offset"], each["sequence_number"]) for each in rows}


@asynccontextmanager
async def working(hub: Hub, stage: Stage, *, policy: OnInvalidOffset = "stop", **settings) -> AsyncIterator[Source]:
    """The source at work, with claims whose sinks are the stage's."""
    leases = Leases(stage.store, balance_seconds=0.5, expiry_seconds=100)
    stage.parts = replace(stage.parts, positions=Positions(stage.store, hub, policy))
    async with stage.open(), asyncio.TaskGroup() as tasks:

        def open_claim(partition: PartitionId) -> Claim:
            claim = Claim(partition, f"claim-{len(claims)}", stage.parts)
            claims.append(claim)
            tasks.create_task(claim.run())
            return claim

        claims: list[Claim] = []

        async def reachable() -> bool:
            return await until_available(lambda: hub.prepare(stage.store), stop)

        stop = asyncio.Event()
        source = Source(hub, source_settings(**settings), leases, open_claim, stage.metrics, close_seconds=10)
        running = tasks.create_task(source.run(reachable))
        try:
            yield source
        finally:
            stop.set()
            source.begin_stop()
            await source.stop()
            await running


async def test_a_partition_without_a_checkpoint_gets_one_before_its_first_event(connection_string, monkeypatch):
    await send(connection_string, EventData("x"), EventData("y"), partition_id="1")
    store = MemoryStore()
    hub = hub_for(connection_string, monkeypatch)
    await hub.prepare(store)
    assert await checkpoints(store, hub) == {str(partition): ("-1", -1) for partition in range(4)}


async def test_latest_is_fixed_once_so_that_nothing_sent_later_is_skipped(connection_string, monkeypatch):
    await send(connection_string, EventData("x"), EventData("y"), partition_id="1")
    store = MemoryStore()
    hub = hub_for(connection_string, monkeypatch, start="latest")
    await hub.prepare(store)
    first = await checkpoints(store, hub)
    assert first["1"][1] == 1
    assert first["0"] == ("-1", -1)
    await send(connection_string, EventData("z"), partition_id="1")
    await hub.prepare(store)
    assert await checkpoints(store, hub) == first


async def test_a_start_at_a_time_reads_from_there(connection_string, monkeypatch):
    await send(connection_string, EventData(orjson.dumps(blob_event("old", 1))), partition_id="0")
    start = datetime.now(UTC) + timedelta(milliseconds=20)
    await eventually(lambda: datetime.now(UTC) > start + timedelta(milliseconds=20))
    await send(connection_string, EventData(orjson.dumps(blob_event("new", 1))), partition_id="0")
    stage = Stage(window=0)
    async with working(hub_for(connection_string, monkeypatch, start=start), stage, start=start):
        await eventually(lambda: stage.sinks["out"].ids)
    assert stage.sinks["out"].ids == ["new-1"]


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (lambda text: text.replace("hub", "nobody"), "nobody"),
        (lambda text: text.replace("SharedAccessKey=right", "SharedAccessKey=wrong"), "refuses the credentials"),
    ],
)
async def test_what_is_wrong_with_the_hub_is_said_in_one_sentence(start_broker, monkeypatch, broken, sentence):
    broker = await start_broker(keys={"reader": "right"})
    good = broker.connection_string("hub")
    assert "SharedAccessKey=right" in good
    text = broken(good)
    hub = hub_for(text, monkeypatch, hub="nobody" if "nobody" in text else "hub")
    with pytest.raises(HubUnavailable, match=sentence) as caught:
        await hub.prepare(MemoryStore())
    assert "\n" not in str(caught.value)
    assert "wrong" not in str(caught.value)


async def test_a_process_without_an_identity_is_told_so():
    class Nobody:
        async def get_token(self, *_, **__):
            raise CredentialUnavailableError("no managed identity, secret-tenant-id")

        async def close(self):
            pass

    hub = Hub(SourceSettings(namespace="no-such-namespace.example.invalid", hub="hub"), Nobody())
    sentence = explain(CredentialUnavailableError("secret-tenant-id"), hub.scope)
    assert "identity" in sentence
    assert "secret-tenant-id" not in sentence
    with pytest.raises(HubUnavailable, match="no-such-namespace"):
        await hub.prepare(MemoryStore())


async def test_a_peer_that_accepts_and_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr("worker.hub._ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        text = f"Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName=a;SharedAccessKey=b;UseDevelopmentEmulator=true"
        with pytest.raises(HubUnavailable, match="does not answer"):
            await hub_for(text, monkeypatch).prepare(MemoryStore())


async def test_an_amqp_value_is_read_and_a_map_becomes_a_dead_letter_kept_as_json(connection_string, monkeypatch):
    await send(
        connection_string,
        AmqpAnnotatedMessage(value_body=orjson.dumps(blob_event("bytes", 1))),
        AmqpAnnotatedMessage(value_body=orjson.dumps(blob_event("text", 1)).decode()),
        AmqpAnnotatedMessage(value_body={"a": [1, b"x", None], b"k": 2.5}),
        AmqpAnnotatedMessage(sequence_body=[[1, 2], ["x"]]),
        partition_id="0",
    )
    stage = Stage(window=0)
    async with working(hub_for(connection_string, monkeypatch), stage):
        await eventually(lambda: len(stage.sinks["out"].ids) == 2 and len(stage.store.calls) > 0)

        async def letters() -> bool:
            return len(await stage.dead_letters()) == 2

        await eventually(letters)
    kept = {each.sequence_number: each for each in await stage.dead_letters()}
    assert orjson.loads(kept[2].body) == {"a": [1, "x", None], "k": 2.5}
    assert orjson.loads(kept[3].body) == [[1, 2], ["x"]]
    assert "AMQP" in kept[2].detail


async def test_a_valid_event_of_a_megabyte_is_fine_and_goes_on_after_a_nesting_bomb(connection_string, monkeypatch):
    large = orjson.dumps([blob_event("large", 1, data="x" * 1_047_000)])
    await send(connection_string, EventData(b"[" * 1_000_000), partition_id="0")
    await send(connection_string, EventData(large), partition_id="0")
    stage = Stage(window=0)
    async with working(hub_for(connection_string, monkeypatch), stage):
        await eventually(lambda: stage.sinks["out"].ids == ["large-1"])
        await eventually(lambda: "put_dead_letters" in stage.store.calls)
    [letter] = await stage.dead_letters()
    assert letter.body == b"[" * 1_000_000


async def test_cloudevents_in_binary_mode_are_read_from_application_properties(connection_string, monkeypatch):
    event = EventData(b'{"answer": 42}')
    event.content_type = "application/json"
    names = {"specversion": "1.0", "id": "7", "type": "com.example.t", "source": "/s", "subject": "x"}
    event.properties = {f"cloudEvents:{name}": value for name, value in names.items()}
    await send(connection_string, event, partition_id="0")
    stage = Stage(window=0)
    async with working(hub_for(connection_string, monkeypatch), stage):
        await eventually(lambda: stage.sinks["out"].accepted)
    [delivery] = stage.sinks["out"].accepted
    assert delivery.released.placed.event.data == {"answer": 42}


async def test_a_partition_that_was_given_up_is_claimed_and_read_anew(connection_string, monkeypatch):
    """Whatever ends a claim while the SDK believes that we own the partition: nothing is skipped, nothing repeated."""
    stage = Stage(window=0)
    async with working(hub_for(connection_string, monkeypatch), stage) as source:
        await send(connection_string, EventData(orjson.dumps(blob_event("a", 1))), partition_id="0")
        await eventually(lambda: stage.sinks["out"].ids == ["a-1"])
        first = source.claims[PartitionId("0")]
        first.close()
        await send(connection_string, EventData(orjson.dumps(blob_event("a", 2))), partition_id="0")
        await eventually(lambda: len(stage.sinks["out"].ids) == 2, 20)
        assert source.claims[PartitionId("0")] is not first
    assert stage.sinks["out"].ids == ["a-1", "a-2"]


async def test_a_full_partition_stops_reading_and_goes_on_where_it_stopped(connection_string, monkeypatch):
    sink = FakeSink()
    sink.open_gate.clear()
    stage = Stage({"out": sink}, window=0, limits={"in_flight": 20})
    events = [EventData(orjson.dumps(blob_event(f"s{number}", 1))) for number in range(2000)]
    async with working(hub_for(connection_string, monkeypatch), stage, prefetch=300):
        await send(connection_string, *events, partition_id="0")
        await eventually(lambda: stage.count("worker_received_messages_total", partition="0") > 0)
        assert len(sink.attempts) <= 20
        sink.open_gate.set()
        await eventually(lambda: len(sink.ids) == 2000, 60)
    assert len(set(sink.ids)) == 2000


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.source._HEARTBEAT_SECONDS", 0.5)
    monkeypatch.setattr("worker.source._SILENCE_SECONDS", 2)


async def test_a_hub_that_went_away_is_connected_to_anew_and_nothing_is_lost_or_doubled(
    start_broker, tmp_path, monkeypatch, impatient
):
    broker = await start_broker(data=tmp_path)
    text = broker.connection_string("hub")
    stage = Stage(window=0)
    async with working(hub_for(text, monkeypatch), stage) as source:
        await send(text, EventData(orjson.dumps(blob_event("a", 1))), partition_id="0")
        await eventually(lambda: stage.sinks["out"].ids == ["a-1"])
        await broker.aclose()
        await eventually(lambda: all(claim.done.is_set() for claim in source.claims.values()), 30)
        again = await start_broker(data=tmp_path, port=broker.port)
        await send(text, EventData(orjson.dumps(blob_event("a", 2))), partition_id="0")
        await eventually(lambda: len(stage.sinks["out"].ids) == 2, 60)
        assert again.consumers == 4
    assert stage.sinks["out"].ids == ["a-1", "a-2"]


async def test_neither_a_quiet_hub_nor_a_full_partition_is_taken_for_silence(connection_string, monkeypatch, impatient):
    sink = FakeSink()
    sink.open_gate.clear()
    stage = Stage({"out": sink}, window=0, limits={"in_flight": 1})
    async with working(hub_for(connection_string, monkeypatch), stage, prefetch=10) as source:
        await send(connection_string, *[EventData(orjson.dumps([])) for _ in range(500)], partition_id="1")
        events = [EventData(orjson.dumps(blob_event(f"s{number}", 1))) for number in range(2000)]
        await send(connection_string, *events, partition_id="0")
        await eventually(lambda: len(source.claims) == 4 and sink.under_way)
        claims = dict(source.claims)
        waited = asyncio.get_running_loop().time() + 8
        await eventually(lambda: asyncio.get_running_loop().time() > waited)
        assert source.claims == claims
        assert not any(claim.closed for claim in claims.values())
        # A callback that waits for room goes on when its claim closes, and says nothing about the next one.
        for claim in claims.values():
            claim.close()
        sink.open_gate.set()
        await eventually(lambda: all(source.claims[each] is not claims[each] for each in claims), 20)
        anew = dict(source.claims)
        waited = asyncio.get_running_loop().time() + 5
        await eventually(lambda: asyncio.get_running_loop().time() > waited)
        assert source.claims == anew


async def test_stopping_releases_every_ownership(connection_string, monkeypatch):
    stage = Stage(window=0)
    hub = hub_for(connection_string, monkeypatch)

    async def owners() -> set[str]:
        return {each["owner_id"] for each in await stage.store.list_ownership(*hub.scope)}

    async with working(hub, stage):

        async def claimed() -> bool:
            return len(await stage.store.list_ownership(*hub.scope)) == 4 and "" not in await owners()

        await eventually(claimed)
    assert await owners() == {""}
