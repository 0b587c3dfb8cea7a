"""`worker local send` against the local hub, read back with the Event Hubs SDK."""

import asyncio
from collections import defaultdict
from contextlib import asynccontextmanager

import pytest
from azure.eventhub import EventData
from azure.eventhub.aio import EventHubConsumerClient

from tests.support import eventually, free_port
from worker.errors import ConfigError, HubUnavailable
from worker.local.broker import Broker, BrokerOptions
from worker.local.send import SEEDED_START, SendOptions, main, send
from worker.local.traffic import TrafficMessage, TrafficOptions, generate

HUB = "ml-events"
VARIABLE = "EVENTHUB_CONNECTION_STRING"
SECRET = "mySharedSecretThatNobodyMaySee"


@pytest.fixture
async def connection_string():
    broker = Broker(BrokerOptions(port=0, hubs=(HUB,), partitions=2))
    await broker.start()
    yield broker.connection_string(HUB)
    await broker.aclose()


@asynccontextmanager
async def reading(connection_string):
    """What arrives from the beginning, per partition."""
    arrived: dict[str, list[EventData]] = defaultdict(list)

    async def take(context, events):
        arrived[context.partition_id] += events

    client = EventHubConsumerClient.from_connection_string(
        connection_string, "$Default", load_balancing_strategy="greedy", load_balancing_interval=0.1
    )
    receiving = asyncio.create_task(client.receive_batch(take, starting_position="-1"))
    try:
        yield arrived
    finally:
        await client.close()
        await receiving


async def read(connection_string, count: int) -> dict[str, list[EventData]]:
    async with reading(connection_string) as arrived:
        await eventually(lambda: sum(map(len, arrived.values())) >= count, timeout_seconds=30)
    assert sum(map(len, arrived.values())) == count
    return arrived


def body(event: EventData) -> bytes:
    return b"".join(event.body)


def sized(size: int, key: str = "key") -> TrafficMessage:
    return TrafficMessage(b"x" * size, "application/json", key, events=())


@pytest.mark.parametrize("rate", [None, 2000])
async def test_every_message_arrives_as_it_is_and_those_of_a_key_in_order_on_one_partition(connection_string, rate):
    messages = generate(
        TrafficOptions(count=1500, started_at=SEEDED_START, disorder=50, duplicates_percent=5, malformed_percent=5)
    )
    told = []
    await send(messages, connection_string=connection_string, hub=HUB, rate=rate, on_sent=told.append)
    arrived = await read(connection_string, len(messages))
    assert sum(told) == len(messages)
    assert len(arrived) == 2
    keys = {message.body: message.partition_key for message in messages}
    by_key = defaultdict(list)
    for events in arrived.values():
        own = defaultdict(list)
        for event in events:
            own[keys[body(event)]].append(body(event))
        assert not own.keys() & by_key.keys()
        by_key |= own
    for key, bodies in by_key.items():
        assert bodies == [message.body for message in messages if message.partition_key == key]
    content_types = {(body(event), event.content_type) for events in arrived.values() for event in events}
    assert content_types == {(message.body, message.content_type) for message in messages}


async def test_what_does_not_fit_into_one_batch_goes_in_several_and_in_order(connection_string):
    messages = [sized(size) for size in (400_000, 400_001, 400_002, 1_000_000, 10)]
    await send(messages, connection_string=connection_string, hub=HUB)
    (events,) = (await read(connection_string, len(messages))).values()
    assert [len(body(event)) for event in events] == [400_000, 400_001, 400_002, 1_000_000, 10]


async def test_a_message_that_is_too_large_for_the_hub_is_named_by_its_size(connection_string):
    with pytest.raises(ConfigError, match="1,100,000 bytes"):
        await send([sized(10), sized(1_100_000)], connection_string=connection_string, hub=HUB)


async def test_files_are_sent_as_they_are_and_nothing_else(connection_string, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(VARIABLE, connection_string)
    contents = [b'[{"subject": "a", "n": 1}]', b'{"subject": "a"}', b"\xff no JSON", b"", b"[]", b"[7]"]
    files = []
    for number, content in enumerate(contents):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_bytes(content)
    assert await asyncio.to_thread(main, SendOptions(files=tuple(files))) == 0
    arrived = await read(connection_string, len(contents))
    assert sorted(body(event) for events in arrived.values() for event in events) == sorted(contents)
    of_a = [[body(event) for event in events if b'"a"' in body(event)] for events in arrived.values()]
    assert contents[:2] in of_a
    assert f"{len(contents)} messages sent to {HUB}" in capsys.readouterr().out


async def test_the_same_seed_sends_the_very_same_events_again_and_no_seed_others(connection_string, monkeypatch):
    monkeypatch.setenv("ELSEWHERE", connection_string)
    for seed in (5, 5, None):
        options = SendOptions(count=50, seed=seed, connection_string_env="ELSEWHERE", hub=HUB)
        assert await asyncio.to_thread(main, options) == 0
    arrived = await read(connection_string, 150)
    assert len({body(event) for events in arrived.values() for event in events}) == 100


def test_an_unset_variable_is_named_with_what_to_do(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=f"{VARIABLE} is not set: .*worker local broker.*--connection-string-env"):
        main(SendOptions())


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (f"Endpoint=https://elsewhere;SharedAccessKey={SECRET}", "sb://"),
        (f"Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=n;SharedAccessKey={SECRET}", "no hub is named: use --hub"),
    ],
)
def test_a_wrong_connection_string_is_explained_and_not_repeated(monkeypatch, value, said):
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(ConfigError, match=said) as refused:
        main(SendOptions())
    assert SECRET not in str(refused.value)


def test_all_unreadable_files_are_named_and_nothing_is_sent(monkeypatch, tmp_path):
    monkeypatch.setenv(
        VARIABLE, f"Endpoint=sb://127.0.0.1:{free_port()};SharedAccessKeyName=n;SharedAccessKey=k;EntityPath=h"
    )
    with pytest.raises(ConfigError) as refused:
        main(SendOptions(files=(tmp_path / "absent.json", tmp_path)))
    assert [str(tmp_path) in mistake and "cannot be read" in mistake for mistake in refused.value.mistakes] == [
        True
    ] * 2


def test_a_hub_that_is_not_there_is_named_without_its_key(monkeypatch):
    port = free_port()
    endpoint = f"Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName=n;SharedAccessKey={SECRET}"
    monkeypatch.setenv(VARIABLE, f"{endpoint};UseDevelopmentEmulator=true;EntityPath={HUB}")
    with pytest.raises(HubUnavailable, match=f"the hub {HUB} at 127.0.0.1:{port} does not take") as refused:
        main(SendOptions(count=1))
    assert SECRET not in str(refused.value)


async def test_a_hub_that_does_not_exist_is_named(connection_string):
    with pytest.raises(
        HubUnavailable, match=r"the hub elsewhere at 127\.0\.0\.1:\d+ does not exist or refuses the key"
    ):
        await send([sized(1)], connection_string=connection_string.replace(HUB, "elsewhere"), hub="elsewhere")
