"""Partitions that are not read although they should be, on the real SDK and the local hub: seen, repaired, or said."""

import asyncio
from collections import Counter

import orjson
import pytest
from azure.eventhub import EventData

from tests.integration.eventhub import send
from tests.integration.test_source import hub_for, working
from tests.pipeline.stage import Stage, blob_event
from tests.support import eventually
from worker.errors import WatchdogError
from worker.events import PartitionId
from worker.local.chaos import Faults
from worker.local.positions import StartPosition

ZERO = PartitionId("0")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.source._HEARTBEAT_SECONDS", 0.3)
    monkeypatch.setattr("worker.watchdog._FIRST_QUESTION_SECONDS", 1.0)


@pytest.fixture
def attaches(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """How often a position was asked for, by its value."""
    counted: Counter[str] = Counter()
    resolve = StartPosition.resolve

    def counting(self, log):
        counted[self.value] += 1
        return resolve(self, log)

    monkeypatch.setattr(StartPosition, "resolve", counting)
    return counted


@pytest.fixture
async def faulty(start_broker):
    """A hub with one partition that can be told to misbehave, and its faults."""
    broker = await start_broker(admin_port=0, partitions=1)
    async with Faults(broker.admin_url) as faults:
        yield broker, faults


def event(subject: str, number: int) -> EventData:
    return EventData(orjson.dumps(blob_event(subject, number)))


async def test_messages_that_the_hub_forgot_to_push_are_fetched_by_connecting_anew(faulty, monkeypatch):
    broker, _ = faulty
    text, stage = broker.connection_string("hub"), Stage(window=0)
    async with working(hub_for(text, monkeypatch), stage, stall_seconds=2) as source:
        await send(text, event("a", 1))
        await eventually(lambda: stage.sinks["out"].ids == ["a-1"])
        first = source.claims[ZERO]
        [hub] = broker._hubs
        hub.partitions[0].listeners.clear()  # heartbeats go on, messages do not
        await send(text, event("a", 2))
        await eventually(lambda: len(stage.sinks["out"].ids) == 2, 30)
        assert source.claims[ZERO] is not first
    assert stage.sinks["out"].ids == ["a-1", "a-2"]
    assert stage.count("worker_client_restarts_total", reason="stalled") == 1


async def test_a_hub_that_takes_links_and_never_answers_ends_the_process_when_nothing_helps(faulty, monkeypatch):
    broker, faults = faulty
    text, stage = broker.connection_string("hub"), Stage(window=0)
    await send(text, event("a", 1))
    await faults.make("ignore", on="attach", link="receiver")

    async def run() -> None:
        async with working(hub_for(text, monkeypatch), stage, stall_seconds=1):
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.timeout(60):
            await run()
    assert raised.group_contains(WatchdogError, match="partition 0 .*connecting anew 3 times")
    assert stage.count("worker_client_restarts_total", reason="stalled") == 4


async def test_a_quiet_hub_is_no_reason_to_connect_anew(faulty, monkeypatch):
    broker, _ = faulty
    text, stage = broker.connection_string("hub"), Stage(window=0)
    async with working(hub_for(text, monkeypatch), stage, stall_seconds=1) as source:
        await send(text, event("a", 1))
        await eventually(lambda: stage.sinks["out"].ids == ["a-1"])
        first = source.claims[ZERO]
        until = asyncio.get_running_loop().time() + 5
        await eventually(lambda: asyncio.get_running_loop().time() > until)
        assert source.claims[ZERO] is first
        assert not first.closed


async def read_and_recreate(broker, faults, stage: Stage, source, text: str) -> None:
    """The history: three events are read, then the hub is another one that has a single event."""
    await send(text, event("old", 1), event("old", 2), event("old", 3))
    await eventually(lambda: len(stage.sinks["out"].ids) == 3)

    async def checkpointed() -> bool:
        stored = await stage.store.read_checkpoint(ZERO)
        return stored is not None and stored.sequence_number == 2

    await eventually(checkpointed, 20)
    await faults.make("recreate", hub="hub")
    await send(text, event("new", 1))


async def test_a_hub_that_was_created_anew_while_we_read_stops_its_partitions_quietly(faulty, monkeypatch, attaches):
    broker, faults = faulty
    text, stage = broker.connection_string("hub"), Stage(window=0)
    async with working(hub_for(text, monkeypatch), stage, stall_seconds=60) as source:
        await read_and_recreate(broker, faults, stage, source, text)
        await eventually(lambda: stage.count("worker_partition_stopped", partition="0") == 1, 30)
        await eventually(lambda: broker.consumers == 0)
        assert source.claims[ZERO].held
        before = attaches.total()
        until = asyncio.get_running_loop().time() + 4
        await eventually(lambda: asyncio.get_running_loop().time() > until)
        assert attaches.total() == before
    assert stage.sinks["out"].ids == ["old-1", "old-2", "old-3"]


async def test_a_hub_that_was_created_anew_is_read_from_its_beginning_where_that_is_wanted(faulty, monkeypatch):
    broker, faults = faulty
    text, stage = broker.connection_string("hub"), Stage(window=0)
    async with working(hub_for(text, monkeypatch), stage, policy="earliest") as source:
        await read_and_recreate(broker, faults, stage, source, text)
        await eventually(lambda: len(stage.sinks["out"].ids) == 4, 30)
        await send(text, event("new", 2))
        await eventually(lambda: len(stage.sinks["out"].ids) == 5, 30)
    assert stage.sinks["out"].ids == ["old-1", "old-2", "old-3", "new-1", "new-2"]


async def test_a_fail_over_to_other_numbers_stops_the_partition(faulty, monkeypatch):
    broker, faults = faulty
    text, stage = broker.connection_string("hub"), Stage(window=0)
    async with working(hub_for(text, monkeypatch), stage):
        await faults.make("epoch", hub="hub", value=1)
        await send(text, event("a", 1))
        await eventually(lambda: stage.sinks["out"].ids == ["a-1"])
        await faults.make("epoch", hub="hub", value=2)
        await send(text, event("a", 2))
        await eventually(lambda: stage.count("worker_partition_stopped", partition="0") == 1, 30)
        [reason] = stage.parts.health.not_ready().values()
        assert "epoch" in reason
    assert stage.sinks["out"].ids == ["a-1"]
