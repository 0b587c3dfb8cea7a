"""The faults of the local hub, and what the user of the unmodified Python SDK sees of each."""

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from azure.eventhub import EventData
from azure.eventhub.aio import EventHubConsumerClient
from azure.eventhub.exceptions import ConnectError, ConnectionLostError, EventDataSendError, EventHubError

from tests.integration.eventhub import Reading, producer, read, send
from tests.support import eventually
from worker.local.broker import Broker
from worker.local.chaos import ChaosFailed, Faults
from worker.local.faults import Drop

# What the SDK does to the socket of a connection that broke: it is left to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def _collect_broken_sockets() -> Iterator[None]:
    """Here, where that is expected, and not during whichever test comes next."""
    yield
    gc.collect()


@pytest.fixture
async def broker(start_broker) -> Broker:
    """One that takes requests for faults."""
    return await start_broker(admin_port=0)


@pytest.fixture
async def faults(broker: Broker) -> AsyncIterator[Faults]:
    async with Faults(broker.admin_url) as client:
        yield client


@asynccontextmanager
async def consuming(connection_string: str, *, start="-1", retries=3, **options) -> AsyncIterator[Reading]:
    """Reads partition 0; by default like most users' clients, who try again."""
    seen = Reading()
    client = EventHubConsumerClient.from_connection_string(
        connection_string, "$Default", retry_total=retries, retry_backoff_factor=0.1, **options
    )
    task = asyncio.create_task(client.receive(seen.take, on_error=seen.fail, partition_id="0", starting_position=start))
    try:
        yield seen
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await client.close()


async def send_numbers(connection_string: str, *numbers: int) -> None:
    await send(connection_string, *(EventData(str(number)) for number in numbers), partition_id="0")


@asynccontextmanager
async def consuming_three(connection_string: str, **options) -> AsyncIterator[Reading]:
    """A consumer that has been given 0, 1 and 2."""
    await send_numbers(connection_string, 0, 1, 2)
    async with consuming(connection_string, **options) as seen:
        await seen.at_least(3)
        yield seen


def texts(*numbers: int) -> list[str]:
    return [str(number) for number in numbers]


# Connections


async def test_a_dropped_connection_is_made_anew_and_nothing_is_missed(connection_string, faults):
    async with consuming_three(connection_string) as seen:
        dropped = await faults.make("drop", hub="HUB", partition="0", group="$default", link="receiver")
        await send_numbers(connection_string, 3)
        await seen.at_least(4)
    assert (dropped["affected"], seen.bodies) == (1, texts(0, 1, 2, 3))


async def test_a_dropped_connection_is_an_error_to_a_client_that_does_not_try_again(connection_string, faults):
    async with consuming_three(connection_string, retries=0) as seen:
        await faults.make("drop", partition="0")
        assert isinstance(await seen.error(), ConnectError)


async def test_a_drop_that_comes_while_somebody_connects_meets_whoever_is_there_by_then(broker):
    for turns in range(6):  # of the loop, between the system's connection and ours
        with socket.create_connection(("127.0.0.1", broker.port)):
            for _ in range(turns):
                await asyncio.sleep(0)
            _, hit = broker._admin._injector.make(Drop(kind="drop"))
            assert hit in {0, 1}


async def test_a_drop_meets_only_the_connections_that_it_names(connection_string, faults):
    async with consuming_three(connection_string, retries=0) as seen:
        for elsewhere in ({"partition": "1"}, {"group": "other"}, {"link": "sender"}):
            assert (await faults.make("drop", **elsewhere))["affected"] == 0
        await send_numbers(connection_string, 3)
        assert [event.body_as_str() for event in await seen.at_least(4)] == texts(0, 1, 2, 3)


async def test_a_black_hole_is_silence_and_what_was_sent_meanwhile_comes_when_it_is_lifted(connection_string, faults):
    async with consuming_three(connection_string, retries=0) as seen:
        hole = await faults.make("blackhole", link="receiver")
        await send_numbers(connection_string, 3)
        # Another receiver has been given the message by now: the hub has it, and only the way is dead.
        assert len(await read(connection_string, 4, group="other")) == 4
        assert seen.bodies == texts(0, 1, 2)
        await faults.lift(hole["id"])
        await seen.at_least(4)
    assert (seen.bodies, seen.errors) == (texts(0, 1, 2, 3), [])


async def test_a_client_with_an_idle_timeout_leaves_a_black_hole_by_itself(connection_string, faults):
    async with consuming_three(connection_string, idle_timeout=1) as seen:
        await faults.make("blackhole", link="receiver")
        await send_numbers(connection_string, 3)
        await seen.at_least(4)
        [hole] = await faults.list()
    assert hole["kind"] == "blackhole"


async def test_a_black_hole_ends_after_its_time(connection_string, faults):
    async with consuming_three(connection_string, retries=0) as seen:
        await faults.make("blackhole", seconds=0.5)
        await send_numbers(connection_string, 3)
        await seen.at_least(4)
        assert await faults.list() == []


async def test_a_hub_that_never_answers_a_connection_leaves_the_client_waiting(connection_string, faults):
    ignoring = await faults.make("ignore", on="connect")
    sending = asyncio.create_task(send_numbers(connection_string, 0))

    async def connected():
        return (await faults.list())[0]["hits"] == 1

    await eventually(connected, timeout_seconds=30)
    assert not sending.done()
    await faults.lift(ignoring["id"])
    await sending
    assert [event.body_as_str() for event in await read(connection_string, 1)] == texts(0)


async def test_an_attach_that_is_never_answered_leaves_the_client_waiting(connection_string, faults):
    """For ever: the SDK has no time limit there. Whoever calls it needs one of his own."""
    await faults.make("ignore", on="attach", link="sender")
    sending = asyncio.create_task(send_numbers(connection_string, 0))

    async def attached():
        return (await faults.list())[0]["hits"] == 1

    await eventually(attached, timeout_seconds=30)
    assert len(await faults.list()) == 1
    assert not sending.done()
    sending.cancel()
    with suppress(asyncio.CancelledError):
        await sending
    await faults.lift_all()
    await send_numbers(connection_string, 1)
    assert [event.body_as_str() for event in await read(connection_string, 1)] == texts(1)


@pytest.mark.parametrize("direction", ["incoming", "outgoing", "both"])
async def test_delayed_frames_come_late_and_in_order(connection_string, faults, direction):
    loop = asyncio.get_running_loop()
    await faults.make("delay", milliseconds=100, direction=direction, seconds=60)
    began = loop.time()
    await send_numbers(connection_string, *range(50))
    # Open, begin, attach and the rest each wait for an answer.
    assert loop.time() - began > 0.3
    assert [event.body_as_str() for event in await read(connection_string, 50)] == texts(*range(50))


async def test_a_delay_holds_back_a_connection_that_is_there_and_lets_go_of_it(connection_string, faults):
    async with consuming_three(connection_string, retries=0) as seen:
        delay = await faults.make("delay", milliseconds=60_000, group="$Default", direction="outgoing")
        await send_numbers(connection_string, 3)
        assert len(await read(connection_string, 4, group="other")) == 4
        assert (delay["affected"], seen.bodies) == (1, texts(0, 1, 2))


# Links


@pytest.mark.parametrize(
    ("condition", "error"),
    [
        ("com.microsoft:server-busy", ConnectError),
        ("com.microsoft:timeout", ConnectError),
        ("amqp:link:detach-forced", ConnectionLostError),
        ("amqp:internal-error", ConnectionLostError),
        ("amqp:link:stolen", ConnectionLostError),
        ("amqp:not-found", ConnectionLostError),
    ],
)
async def test_a_detached_receiver_gets_the_condition_that_was_asked_for(connection_string, faults, condition, error):
    async with consuming_three(connection_string, retries=0) as seen:
        await faults.make("detach", link="receiver", condition=condition, description="because")
        found = await seen.error()
    assert isinstance(found, error)
    assert condition in str(found)
    assert "because" in str(found)


async def test_a_detached_receiver_attaches_again_and_misses_nothing(connection_string, faults):
    async with consuming_three(connection_string) as seen:
        await faults.make("detach", partition="0", link="receiver")
        await send_numbers(connection_string, 3)
        await seen.at_least(4)
    assert seen.bodies == texts(0, 1, 2, 3)


async def test_a_detached_sender_attaches_again(connection_string, faults):
    async with producer(connection_string, retry_total=3, retry_backoff_factor=0.1) as client:
        await client.send_event(EventData("0"), partition_id="0")
        detached = await faults.make("detach", link="sender", condition="com.microsoft:server-busy")
        await client.send_event(EventData("1"), partition_id="0")
    assert detached["affected"] == 1
    assert [event.body_as_str() for event in await read(connection_string, 2)] == texts(0, 1)


async def test_without_its_token_link_a_receiver_goes_on(connection_string, faults):
    async with consuming_three(connection_string) as seen:
        detached = await faults.make("detach", link="cbs")
        await send_numbers(connection_string, 3)
        await seen.at_least(4)
    assert detached["affected"] == 2


async def test_a_receiver_that_comes_back_gets_messages_again(connection_string, faults):
    async with consuming_three(connection_string) as seen:
        await faults.make("repeat", messages=2, times=1)
        await faults.make("drop", link="receiver")
        await seen.at_least(5)
        assert await faults.list() == []
    assert seen.bodies == texts(0, 1, 2, 1, 2)


# Sending


async def test_a_busy_hub_refuses_a_message_and_says_so(connection_string, faults):
    await faults.make("refuse", on="send", times=1)
    with pytest.raises(EventDataSendError, match="server-busy"):
        await send_numbers(connection_string, 0)
    await send_numbers(connection_string, 1)
    assert [event.body_as_str() for event in await read(connection_string, 1)] == texts(1)


async def test_a_busy_hub_refuses_a_receiver_and_one_that_tries_again_gets_through(connection_string, faults):
    await send_numbers(connection_string, 0, 1, 2)
    await faults.make("refuse", on="attach", times=3)
    async with consuming(connection_string, retries=0) as seen:
        assert "com.microsoft:server-busy" in str(await seen.error())
    async with consuming(connection_string) as seen:
        await seen.at_least(3)
    assert await faults.list() == []


async def test_a_sender_that_a_busy_hub_refuses_has_sent_nothing(connection_string, faults):
    """Which error that is depends on how quickly the SDK sends: it does so before it has read the refusal."""
    await faults.make("refuse", on="attach", times=1)
    async with producer(connection_string) as client:
        with pytest.raises(EventHubError):
            await client.send_event(EventData("0"), partition_id="0")
        await client.send_event(EventData("1"), partition_id="0")
    assert [event.body_as_str() for event in await read(connection_string, 1)] == texts(1)


async def test_slow_credit_makes_a_sender_wait_for_each_message(connection_string, faults):
    loop = asyncio.get_running_loop()
    await faults.make("slow_credit", milliseconds=100)
    async with producer(connection_string) as client:
        began = loop.time()
        for number in range(5):
            await client.send_event(EventData(str(number)), partition_id="0")
    assert loop.time() - began > 0.4
    [slow] = await faults.list()
    assert slow["hits"] >= 5
    assert [event.body_as_str() for event in await read(connection_string, 5)] == texts(*range(5))


async def test_duplicates_are_the_same_for_the_same_seed(start_broker):
    seen = []
    for seed in (1, 1, 2):
        broker = await start_broker(admin_port=0)
        async with Faults(broker.admin_url) as faults:
            await faults.make("duplicate", probability=0.3, seed=seed)
            await send_numbers(broker.connection_string("hub"), *range(40))
            [doubling] = await faults.list()
        events = await read(broker.connection_string("hub"), 40 + doubling["hits"])
        seen.append([event.body_as_str() for event in events])
        assert sorted(set(seen[-1]), key=int) == texts(*range(40))
        assert [event.sequence_number for event in events] == list(range(len(events)))
    assert seen[0] == seen[1] != seen[2]
    assert len(seen[0]) > 40


async def test_reordered_messages_are_all_there_and_move_no_more_often_than_asked(connection_string, faults):
    await faults.make("reorder", probability=1, times=3)
    await send_numbers(connection_string, *range(6))
    assert [event.body_as_str() for event in await read(connection_string, 6)] == texts(1, 2, 3, 0, 4, 5)
    assert await faults.list() == []


# Hubs


@pytest.mark.parametrize("kept", [False, True])
async def test_a_recreated_hub_is_empty_and_younger_and_refuses_the_offsets_of_the_old_one(
    start_broker, tmp_path, kept
):
    broker = await start_broker(admin_port=0, data=tmp_path if kept else None)
    connection_string = broker.connection_string("hub")
    async with Faults(broker.admin_url) as faults, consuming_three(connection_string, retries=1) as seen:
        async with producer(connection_string) as client:
            before = await client.get_eventhub_properties()
            recreated = await faults.make("recreate", hub="hub")
            after = await client.get_eventhub_properties()
            partition = await client.get_partition_properties("0")
        # The SDK comes back with the offset of the last message that it saw.
        assert "The supplied offset" in str(await seen.error())
    assert recreated["affected"] == 1
    assert after["created_at"] > before["created_at"]
    assert partition["is_empty"]
    await send_numbers(connection_string, 7)
    [event] = await read(connection_string, 1)
    assert (event.body_as_str(), event.sequence_number, event.offset) == ("7", 0, "0")


async def test_the_links_of_a_recreated_hub_end_with_not_found(connection_string, faults):
    async with consuming_three(connection_string, retries=0) as seen:
        await faults.make("recreate", hub="hub")
        error = await seen.error()
    assert isinstance(error, ConnectionLostError)
    assert "amqp:not-found" in str(error)


async def test_a_hub_kept_on_disk_goes_on_after_a_restart_with_what_it_was_recreated_with(start_broker, tmp_path):
    first = await start_broker(admin_port=0, data=tmp_path)
    await send_numbers(first.connection_string("hub"), 0, 1)
    async with Faults(first.admin_url) as faults:
        await faults.make("recreate", hub="hub")
    await send_numbers(first.connection_string("hub"), 2)
    async with producer(first.connection_string("hub")) as client:
        before = await client.get_eventhub_properties()
    await first.aclose()
    second = await start_broker(data=tmp_path)
    async with producer(second.connection_string("hub")) as client:
        after = await client.get_eventhub_properties()
    [event] = await read(second.connection_string("hub"), 1)
    assert (event.body_as_str(), event.sequence_number) == ("2", 0)
    assert after["created_at"] == before["created_at"]


async def test_a_restarted_hub_keeps_its_log_and_the_consumer_goes_on(start_broker, tmp_path):
    first = await start_broker(data=tmp_path)
    async with consuming_three(first.connection_string("hub"), retries=10) as seen:
        await first.aclose()
        await start_broker(data=tmp_path, port=first.port)
        await send_numbers(first.connection_string("hub"), 3)
        await seen.at_least(4)
    assert seen.bodies == texts(0, 1, 2, 3)
    assert [event.sequence_number for event in seen.events] == [0, 1, 2, 3]


async def test_messages_after_a_fail_over_carry_another_epoch(connection_string, faults):
    await send_numbers(connection_string, 0)
    await faults.make("epoch", hub="hub", value=3)
    await send_numbers(connection_string, 1)
    events = await read(connection_string, 2)
    assert [event.raw_amqp_message.annotations[b"x-opt-sequence-number-epoch"] for event in events] == [-1, 3]


# The admin port


async def test_faults_are_listed_with_what_they_did_and_lifted_one_by_one_or_all(faults):
    first = await faults.make("refuse", on="send", hub="hub", times=5)
    await faults.make("delay", milliseconds=1, seconds=1000)
    listed = await faults.list()
    assert [(each["kind"], each["hits"]) for each in listed] == [("refuse", 0), ("delay", 0)]
    assert 0 < listed[1]["seconds_left"] <= 1000
    await faults.lift(first["id"])
    assert [each["kind"] for each in await faults.list()] == ["delay"]
    await faults.lift_all()
    assert await faults.list() == []
    with pytest.raises(ChaosFailed, match="no lasting fault that is on has the id"):
        await faults.lift(first["id"])


async def test_the_admin_port_says_what_there_is(broker):
    async with aiohttp.ClientSession() as session, session.get(broker.admin_url) as answer:
        described = await answer.json()
    assert "POST /faults" in described["calls"]
    assert {"drop", "detach", "ignore", "blackhole", "delay", "repeat", "refuse", "slow_credit"} <= described[
        "faults"
    ].keys()
    assert described["faults"]["delay"]["required"] == ["milliseconds"]
    assert all(each["does"] for each in described["faults"].values())


async def test_the_admin_port_tells_who_is_connected(broker, connection_string):
    async with (
        consuming_three(connection_string),
        aiohttp.ClientSession() as session,
        session.get(f"{broker.admin_url}/connections") as answer,
    ):
        links = [link for connection in (await answer.json())["connections"] for link in connection]
    assert {"link": "receiver", "hub": "hub", "partition": "0", "group": "$Default"} in links


@pytest.mark.parametrize(
    ("request_line", "body", "status", "sentence"),
    [
        ("POST /faults", b"drop", 400, "the body is no JSON"),
        ("POST /faults", b"\xff", 400, "the body is no JSON"),
        ("POST /faults", b'{"kind": "drop", "hub": "other"}', 400, "hub: this broker has no 'other'; it has hub"),
        ("POST /faults", b'{"kind": "drop", "partition": 9}', 400, "has a partition '9'"),
        ("GET /nonsense", b"", 404, "see GET /"),
        ("PUT /faults", b"", 405, "see GET /"),
        ("DELETE /faults/x", b"", 404, "see GET /faults"),
    ],
)
async def test_a_wrong_request_gets_a_sentence(broker, request_line, body, status, sentence):
    method, path = request_line.split()
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, broker.admin_url + path, data=body) as answer,
    ):
        assert answer.status == status
        assert sentence in (await answer.json())["error"]


async def test_an_admin_port_in_use_is_said_and_leaves_nothing_open(start_broker, broker):
    taken = int(broker.admin_url.rpartition(":")[2])
    with pytest.raises(ValueError, match=f"--admin-port {taken}: .* is in use"):
        await start_broker(admin_port=taken)


async def test_without_being_asked_there_is_no_admin_port(start_broker):
    assert (await start_broker()).admin_url is None
