"""The local hub, as the unmodified Python SDK sees it."""

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from azure.eventhub import EventData
from azure.eventhub.aio import EventHubConsumerClient
from azure.eventhub.amqp import AmqpAnnotatedMessage, AmqpMessageHeader, AmqpMessageProperties
from azure.eventhub.exceptions import (
    AuthenticationError,
    ConnectError,
    ConnectionLostError,
    EventHubError,
)

from tests.integration.eventhub import Reading, producer, read, reading, send
from tests.support import eventually

MIB = 1_048_576


def numbered(count: int) -> list[EventData]:
    return [EventData(str(number)) for number in range(count)]


def bodies(events: list[EventData]) -> list[str]:
    return [event.body_as_str() for event in events]


# Sending


async def test_single_events_without_a_key_go_to_all_partitions_in_turn(connection_string):
    async with producer(connection_string) as client:
        for event in numbered(4):
            await client.send_event(event)
        ends = [await client.get_partition_properties(str(partition)) for partition in range(4)]
    assert [end["last_enqueued_sequence_number"] for end in ends] == [0, 0, 0, 0]


async def test_a_batch_arrives_whole_and_in_order_on_one_partition(connection_string):
    async with producer(connection_string) as client:
        batch = await client.create_batch(partition_id="2")
        for event in numbered(500):
            batch.add(event)
        await client.send_batch(batch)
    events = await read(connection_string, 500, partition="2")
    assert bodies(events) == [str(number) for number in range(500)]
    assert [event.sequence_number for event in events] == list(range(500))


async def test_the_same_key_always_leads_to_the_same_partition(connection_string):
    keys = [f"key-{number}" for number in range(12)]
    async with producer(connection_string) as client:
        for key in keys * 2:
            await client.send_event(EventData(key), partition_key=key)
            await client.send_batch([EventData(key)], partition_key=key)
    async with reading(connection_string, partition=None) as seen:
        await seen.at_least(48)
    places: dict[str, set[str]] = {}
    for event, context in zip(seen.events, seen.contexts, strict=True):
        assert event.partition_key == event.body_as_str().encode()
        places.setdefault(event.body_as_str(), set()).add(context.partition_id)
    assert all(len(partitions) == 1 for partitions in places.values())
    assert len(set.union(*places.values())) > 1


async def test_an_event_that_looks_like_a_batch_stays_one_event(connection_string):
    envelope = b"\x00\x53\x75\xa0\x06\x00\x53\x75\xa0\x01x"
    async with producer(connection_string) as client:
        await client.send_event(EventData(envelope), partition_id="0")
    [event] = await read(connection_string, 1)
    assert b"".join(event.body) == envelope


async def test_a_message_of_just_under_one_mebibyte_passes(connection_string):
    body = bytes(range(256)) * 4095
    async with producer(connection_string) as client:
        await client.send_event(EventData(body), partition_id="0")
    [event] = await read(connection_string, 1)
    assert b"".join(event.body) == body


async def test_a_larger_message_is_refused_and_the_next_one_passes(connection_string):
    async with producer(connection_string) as client:
        with pytest.raises(EventHubError, match="exceeds the limit"):
            await client.send_event(EventData(b"x" * (MIB + 1)), partition_id="0")
        await client.send_event(EventData("small"), partition_id="0")
    assert bodies(await read(connection_string, 1)) == ["small"]


# Every section of a message

FULL = {
    "header": AmqpMessageHeader(durable=True, priority=7, time_to_live=60_000, delivery_count=3, first_acquirer=True),
    "properties": AmqpMessageProperties(
        message_id="id-1",
        user_id=b"user",
        to="to",
        subject="subject",
        reply_to="reply-to",
        correlation_id="correlation",
        content_type="application/json",
        content_encoding="gzip",
        group_id="group",
        group_sequence=9,
        reply_to_group_id="reply-group",
    ),
    "application_properties": {"text": "ü", "number": 5, "truth": True, "fraction": 1.5, "id": UUID(int=7)},
    "annotations": {"x-own": "annotation"},
    "delivery_annotations": {"d-own": 5},
    "footer": {"f-own": "footer"},
}
BODIES = [
    {"data_body": [b"a", b"b"]},
    {"sequence_body": [[1, "two"], [b"3"]]},
    {"value_body": {"nested": [1, None]}},
]


async def test_every_section_comes_out_as_it_was_put_in(connection_string):
    messages = [AmqpAnnotatedMessage(**body, **FULL) for body in BODIES]
    async with producer(connection_string) as client:
        for message in messages:
            await client.send_event(message, partition_id="0")
        await client.send_batch(messages, partition_id="0")
    for tracked in (False, True):
        events = await read(connection_string, 6, track_last_enqueued_event_properties=tracked)
        for event, sent in zip(events, BODIES * 2, strict=True):
            check_sections(event.raw_amqp_message, sent)


def check_sections(received: AmqpAnnotatedMessage, sent: dict) -> None:
    assert dict(received.header) == dict(FULL["header"])
    assert text(dict(received.properties)) == text(dict(FULL["properties"]))
    for section in ("application_properties", "footer"):
        assert text(getattr(received, section)) == text(FULL[section])
    assert received.annotations[b"x-own"] == b"annotation"
    assert received.delivery_annotations[b"d-own"] == 5
    [body] = sent.values()
    assert text(received.body if isinstance(body, dict) else list(received.body)) == text(body)


def text(value):
    """Strings arrive as bytes in places where the SDK does not decode them."""
    match value:
        case dict():
            return {text(key): text(item) for key, item in value.items()}
        case list() | tuple():
            return [text(item) for item in value]
        case bytes():
            return value.decode()
        case _:
            return value


async def test_annotations_of_another_hub_give_way_to_the_new_place(connection_string):
    elsewhere = {"x-opt-sequence-number": 77, "x-opt-offset": "777", "x-opt-enqueued-time": 7}
    forwarded = AmqpAnnotatedMessage(data_body=[b"x"], annotations=elsewhere)
    await send(connection_string, forwarded, partition_id="0")
    [event] = await read(connection_string, 1)
    assert (event.sequence_number, event.offset) == (0, "0")
    assert event.enqueued_time > datetime(2020, 1, 1, tzinfo=UTC)


# Where to start


async def test_reading_goes_on_after_an_offset(connection_string):
    await send(connection_string, *numbered(5), partition_id="0")
    offset = (await read(connection_string, 5))[2].offset
    exclusive, inclusive = await asyncio.gather(
        read(connection_string, 2, starting_position=offset),
        read(connection_string, 3, starting_position=offset, starting_position_inclusive=True),
    )
    assert bodies(exclusive) == ["3", "4"]
    assert bodies(inclusive) == ["2", "3", "4"]


async def test_reading_goes_on_after_a_sequence_number(connection_string):
    await send(connection_string, *numbered(5), partition_id="0")
    exclusive, inclusive = await asyncio.gather(
        read(connection_string, 2, starting_position=2),
        read(connection_string, 3, starting_position=2, starting_position_inclusive=True),
    )
    assert bodies(exclusive) == ["3", "4"]
    assert bodies(inclusive) == ["2", "3", "4"]


async def test_reading_goes_on_after_a_moment(connection_string):
    await send(connection_string, EventData("before"), partition_id="0")
    [before] = await read(connection_string, 1)
    moment = before.enqueued_time
    await eventually(lambda: datetime.now(UTC) > moment + timedelta(milliseconds=2))
    await send(connection_string, EventData("after"), partition_id="0")
    exclusive, inclusive = await asyncio.gather(
        read(connection_string, 1, starting_position=moment),
        read(connection_string, 2, starting_position=moment, starting_position_inclusive=True),
    )
    assert bodies(exclusive) == ["after"]
    assert bodies(inclusive) == ["before", "after"]


async def test_reading_from_the_latest_sees_only_what_comes_later(broker, connection_string):
    await send(connection_string, EventData("before"), partition_id="0")
    async with reading(connection_string, starting_position="@latest") as seen:
        await eventually(lambda: broker.consumers == 1)
        await send(connection_string, EventData("after"), partition_id="0")
        await seen.at_least(1)
    assert seen.bodies == ["after"]


async def test_an_offset_beyond_the_log_is_refused_in_the_words_of_the_service(connection_string):
    await send(connection_string, *numbered(1), partition_id="0")
    async with reading(connection_string, starting_position="4096") as seen:
        error = await seen.error()
    assert isinstance(error, ConnectError)
    assert "The supplied offset '4096' is invalid. The last offset in the system is '0'" in str(error)


async def test_a_waiting_consumer_is_given_what_comes(connection_string):
    async with reading(connection_string) as seen, producer(connection_string) as client:
        for count, event in enumerate(numbered(5), start=1):
            await client.send_event(event, partition_id="0")
            await seen.at_least(count)
    assert seen.bodies == ["0", "1", "2", "3", "4"]


async def test_more_than_the_prefetch_arrives_complete_and_in_order(connection_string):
    await send(connection_string, *numbered(2000), partition_id="0")
    events = await read(connection_string, 2000, prefetch=50)
    assert [event.sequence_number for event in events] == list(range(2000))


# Who may read


async def test_an_equal_epoch_takes_the_partition_over(connection_string):
    await send(connection_string, *numbered(1), partition_id="0")
    async with reading(connection_string, owner_level=0) as first:
        await first.at_least(1)
        async with reading(connection_string, owner_level=0) as second:
            await second.at_least(1)
            error = await first.error()
            await send(connection_string, EventData("later"), partition_id="0")
            await second.at_least(2)
    assert isinstance(error, ConnectionLostError)
    assert "New receiver 'nil' with higher epoch of '0' is created" in str(error)
    assert first.bodies == ["0"]
    assert second.bodies == ["0", "later"]


async def test_a_lower_epoch_is_refused_and_the_holder_goes_on(connection_string):
    await send(connection_string, *numbered(1), partition_id="0")
    async with reading(connection_string, owner_level=2) as holder:
        await holder.at_least(1)
        async with reading(connection_string, owner_level=1) as lower, reading(connection_string) as without:
            errors = [await lower.error(), await without.error()]
        await send(connection_string, EventData("later"), partition_id="0")
        await holder.at_least(2)
    assert all("with a higher epoch of '2' already exists" in str(error) for error in errors)


async def test_consumer_groups_do_not_disturb_each_other(connection_string):
    await send(connection_string, *numbered(1), partition_id="0")
    async with (
        reading(connection_string, group="one", owner_level=0) as one,
        reading(connection_string, group="two", owner_level=0) as two,
    ):
        await one.at_least(1)
        await two.at_least(1)
    assert not one.errors
    assert not two.errors


async def test_a_sixth_reader_without_epoch_is_refused(connection_string):
    await send(connection_string, *numbered(1), partition_id="0")
    async with AsyncExitStack() as stack:
        five = [await stack.enter_async_context(reading(connection_string)) for _ in range(5)]
        await asyncio.gather(*(one.at_least(1) for one in five))
        sixth = await stack.enter_async_context(reading(connection_string))
        assert "Exceeded the maximum number of allowed receivers" in str(await sixth.error())
    assert bodies(await read(connection_string, 1)) == ["0"]


async def test_processors_share_the_partitions_and_read_everything(connection_string):
    async with producer(connection_string) as client:
        for partition in range(4):
            await client.send_batch(numbered(10), partition_id=str(partition))
    async with reading(connection_string, partition=None, owner_level=0) as seen:
        await seen.at_least(40)
    assert len(seen.events) == 40


# What it tells


async def test_management_tells_about_the_hub_and_its_partitions(connection_string):
    before = datetime.now(UTC)
    await send(connection_string, *numbered(3), partition_id="1")
    async with producer(connection_string) as client:
        hub = await client.get_eventhub_properties()
        full, empty = [await client.get_partition_properties(partition) for partition in ("1", "0")]
    assert (hub["eventhub_name"], hub["partition_ids"]) == ("hub", ["0", "1", "2", "3"])
    assert before - timedelta(minutes=1) < hub["created_at"] <= datetime.now(UTC)
    last = (await read(connection_string, 3, partition="1"))[2]
    assert full["beginning_sequence_number"] == 0
    assert full["last_enqueued_sequence_number"] == last.sequence_number == 2
    assert full["last_enqueued_offset"] == last.offset
    assert full["last_enqueued_time_utc"] == last.enqueued_time
    assert full["is_empty"] is False
    assert (empty["last_enqueued_sequence_number"], empty["is_empty"]) == (-1, True)


async def test_a_tracking_consumer_hears_how_far_the_log_goes(connection_string):
    await send(connection_string, *numbered(3), partition_id="0")
    async with reading(connection_string, track_last_enqueued_event_properties=True, prefetch=1) as seen:
        events = await seen.at_least(3)
        last = seen.contexts[0].last_enqueued_event_properties
    assert (last["sequence_number"], last["offset"]) == (2, events[2].offset)
    assert last["enqueued_time"] == events[2].enqueued_time
    assert last["retrieval_time"] >= last["enqueued_time"]


# What it refuses


async def test_an_unknown_hub_is_not_found(broker):
    async with producer(broker.connection_string("missing")) as client:
        with pytest.raises((AuthenticationError, ConnectError)):
            await client.send_event(EventData("x"))
        with pytest.raises((AuthenticationError, ConnectError)):
            await client.get_eventhub_properties()


async def test_the_right_key_opens_the_hub_and_a_wrong_one_does_not(start_broker):
    broker = await start_broker(keys={"send and listen": "right/+key=="})
    good = broker.connection_string("hub")
    await send(good, EventData("x"), partition_id="0")
    assert bodies(await read(good, 1)) == ["x"]
    for bad in (good.replace("right", "wrong"), good.replace("listen;", "other;")):
        async with producer(bad) as client:
            with pytest.raises(AuthenticationError):
                await client.send_event(EventData("x"))
            with pytest.raises(AuthenticationError):
                await client.get_eventhub_properties()


async def test_the_announcement_holds_no_key(start_broker):
    broker = await start_broker(keys={"name": "hush-hush"})
    assert "hush-hush" not in broker.announcement()
    assert "hush-hush" in broker.connection_string("hub")


# Many hubs, many starts


async def test_a_hundred_hubs_are_told_apart(start_broker):
    names = tuple(f"hub-{number}" for number in range(100))
    broker = await start_broker(hubs=names, partitions=1)
    strings = [broker.connection_string(name) for name in names]
    some = range(0, 100, 9)
    await asyncio.gather(*(send(strings[n], EventData(names[n])) for n in some))
    received = await asyncio.gather(*(read(strings[n], 1) for n in some))
    assert [bodies(events) for events in received] == [[names[n]] for n in some]


async def test_a_restart_keeps_what_the_log_holds(start_broker, tmp_path):
    first = await start_broker(data=tmp_path / "data")
    await send(first.connection_string("hub"), *numbered(3), partition_id="0")
    before = await read(first.connection_string("hub"), 3)
    async with producer(first.connection_string("hub")) as client:
        created_at = (await client.get_eventhub_properties())["created_at"]
    await first.aclose()

    second = await start_broker(data=tmp_path / "data")
    connection_string = second.connection_string("hub")
    await send(connection_string, EventData("new"), partition_id="0")
    after = await read(connection_string, 4)
    async with producer(connection_string) as client:
        assert (await client.get_eventhub_properties())["created_at"] == created_at
    assert [places(event) for event in after[:3]] == [places(event) for event in before]
    assert (after[3].body_as_str(), after[3].sequence_number) == ("new", 3)
    assert bodies(await read(connection_string, 1, starting_position=before[2].offset)) == ["new"]


def places(event: EventData) -> tuple:
    return event.body_as_str(), event.sequence_number, event.offset, event.enqueued_time


async def test_a_consumer_survives_a_restart_of_the_broker(start_broker, tmp_path):
    first = await start_broker(data=tmp_path)
    connection_string = first.connection_string("hub")
    await send(connection_string, EventData("one"), partition_id="0")
    seen = Reading()
    client = EventHubConsumerClient.from_connection_string(connection_string, "$Default", retry_total=100_000)
    async with client:
        task = asyncio.create_task(client.receive(seen.take, partition_id="0", starting_position="-1"))
        await seen.at_least(1)
        await first.aclose()
        await start_broker(data=tmp_path, port=first.port)
        await send(connection_string, EventData("two"), partition_id="0")
        await eventually(lambda: "two" in seen.bodies, timeout_seconds=30)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert seen.bodies == ["one", "two"]
