"""The eventhub sink and a hub on this machine: what arrives where, how it ends, and order though sending fails."""

import asyncio
import json
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.eventhub.aio import EventHubProducerClient

from tests.deliveries import ELEMENT, delivery_of
from tests.hub_service import HUB, HubService, hub_service
from tests.lanes import FakeOwner, LaneScene, job_of
from tests.support import eventually
from tests.tokens import FakeCredential, token_for
from worker.decode import decode
from worker.errors import Misconfigured, Rejected, SinkUnavailable, WorkerError
from worker.events import Event, Message, PartitionId, Placed, Position, Released, UnixSeconds
from worker.identity import AsCredential, Tokens
from worker.sinks import Delivery, hub_link
from worker.sinks.eventhub import EventHubSettings, EventHubSink
from worker.sinks.hub_link import HubLayout

CLOUD_EVENT = {
    "specversion": "1.0",
    "zebra": "first",
    "type": "T",
    "source": "/s",
    "id": "c1",
    "subject": "subject-1",
    "data": {"b": 1, "a": [2**63, 1.5, None, "☃"]},
}


@pytest.fixture
async def service(monkeypatch) -> AsyncIterator[HubService]:
    async with hub_service() as running:
        monkeypatch.setenv("ORDERED", running.connection_string)
        yield running


def sink_of(clock: Callable[[], float] = time.monotonic, **settings: Any) -> EventHubSink:
    base = {"name": "out", "kind": "eventhub", "connection_string_env": "ORDERED", "hub": HUB}
    return EventHubSink(EventHubSettings.model_validate(base | settings), None, clock=clock)


@asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[EventHubSink]:
    sink = sink_of(**settings)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.aclose()


async def deliver_all(sink: EventHubSink, deliveries: list[Delivery]) -> None:
    """As a lane does with those that are told that their turn came too late."""

    async def deliver(delivery: Delivery) -> None:
        while True:
            try:
                return await sink.deliver(delivery)
            except SinkUnavailable as error:
                if "its turn came too late" not in str(error):
                    raise

    async with asyncio.TaskGroup() as group:
        for delivery in deliveries:
            group.create_task(deliver(delivery))


def understood(body: bytes) -> Event:
    [event] = decode(Message(PartitionId("0"), 1, "1", UnixSeconds(1.0), body))
    assert isinstance(event, Event)
    return event


@pytest.mark.parametrize("element", [ELEMENT, CLOUD_EVENT, {**ELEMENT, "subject": None, "data": None}])
async def test_another_worker_sees_the_same_event(service, element):
    sent = delivery_of(element)
    async with opened() as sink:
        await sink.deliver(sent)

    [came] = service.came()
    seen = understood(came.body)
    assert seen == sent.released.placed.event
    assert list(came.event) == list(element)
    cloud_event = "specversion" in element
    assert came.content_type == f"application/{'cloudevents+' if cloud_event else ''}json; charset=utf-8"
    source = element.get("topic") or element["source"]
    assert came.properties == {"idempotencykey": sent.idempotency_key, "id": element["id"], "source": source}


@pytest.mark.parametrize(
    ("content_type", "body"),
    [("application/json", b'{"a": 1}'), ("text/plain", "naïve ☃".encode()), ("application/octet-stream", b"\0\xff")],
)
async def test_a_cloud_event_in_binary_mode_becomes_one_in_structured_mode(service, content_type, body):
    names = {"specversion": "1.0", "id": "c1", "type": "T", "source": "/s", "subject": "s1", "zebra": "z"}
    properties = {f"cloudEvents:{name}": value for name, value in names.items()}
    message = Message(PartitionId("0"), 1, "1", UnixSeconds(1.0), body, content_type, properties)
    [event] = decode(message)
    assert isinstance(event, Event)
    async with opened() as sink:
        await sink.deliver(Delivery(Released(Placed(event, message, Position(1, 0))), "all", "out", "key"))

    [came] = service.came()
    assert understood(came.body) == event


async def test_integers_beyond_64_bits_become_floats_and_nothing_else_changes(service):
    data = {"b": 2**63, "a": [2**70, 1.5, None, "☃"]}
    body = json.dumps(CLOUD_EVENT | {"data": data}).encode()
    placed = Placed(understood(body), Message(PartitionId("0"), 1, "1", UnixSeconds(1.0), body), Position(1, 0))
    async with opened() as sink:
        await sink.deliver(Delivery(Released(placed), "all", "out", "key"))

    [came] = service.came()
    assert came.event["data"] == {"b": 2**63, "a": [float(2**70), 1.5, None, "☃"]}
    assert isinstance(came.event["data"]["a"][0], float)


async def test_as_cloudevents_a_late_event_says_so(service):
    async with opened(format="cloudevents") as sink:
        await sink.deliver(delivery_of(late_by_ms=1500))

    [came] = service.came()
    assert came.content_type == "application/cloudevents+json; charset=utf-8"
    assert came.event["specversion"] == "1.0"
    assert came.event["lateby"] == 1500


async def test_each_subject_has_one_partition_and_what_comes_at_one_time_goes_together(service):
    deliveries = [
        delivery_of(ELEMENT | {"id": f"e{number}", "subject": f"subject-{number % 40}"}) for number in range(400)
    ]
    async with opened() as sink:
        await sink.deliver(deliveries[0])
        before = time.perf_counter()
        await deliver_all(sink, deliveries[1:])
        seconds = time.perf_counter() - before

    came = service.came()
    assert len({each.id for each in came}) == len(came) == 400
    partitions = defaultdict(set)
    for each in came:
        partitions[each.event["subject"]].add(each.partition)
    assert {len(each) for each in partitions.values()} == {1}
    assert {each.partition for each in came} == {"0", "1", "2", "3"}
    assert seconds < 30, "one by one they would take 400 answers"


async def test_by_source_all_subjects_of_a_source_stay_together(service):
    async with opened(partitioning="source") as sink:
        await deliver_all(sink, [delivery_of(ELEMENT | {"id": f"e{n}", "subject": f"s-{n}"}) for n in range(20)])

    assert len({each.partition for each in service.came()}) == 1


async def test_large_events_share_batches_as_far_as_they_fit(service):
    element = ELEMENT | {"subject": "one"}
    deliveries = [delivery_of(element | {"id": f"e{n}", "data": "x" * 300_000}) for n in range(12)]
    async with opened() as sink:
        await deliver_all(sink, deliveries)

    assert sorted(each.id for each in service.came()) == sorted(each.idempotency_key for each in deliveries)


async def test_what_is_too_large_is_said_in_words_and_the_others_arrive(service):
    deliveries = [delivery_of(ELEMENT | {"id": f"e{n}"}) for n in range(5)]
    async with opened() as sink, asyncio.TaskGroup() as group:
        others = group.create_task(deliver_all(sink, deliveries))
        with pytest.raises(Rejected, match=r"takes 1,1\d\d,\d{3} bytes in a message; hub ordered takes 1,048,5"):
            await sink.deliver(delivery_of(ELEMENT | {"id": "large", "data": "x" * 1_100_000}))
        await others

    assert len(service.came()) == 5


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"on": "attach", "condition": "amqp:unauthorized-access"}, Misconfigured),
        ({"on": "attach", "condition": "amqp:not-found"}, Misconfigured),
        ({"on": "attach", "condition": "com.microsoft:entity-disabled"}, Misconfigured),
        ({"on": "attach", "condition": "com.microsoft:server-busy"}, SinkUnavailable),
        ({"on": "send", "condition": "amqp:decode-error"}, Rejected),
        ({"on": "send", "condition": "amqp:resource-limit-exceeded"}, SinkUnavailable),
        ({"on": "send", "condition": "amqp:internal-error"}, SinkUnavailable),
    ],
)
async def test_a_refusal_is_named_by_what_is_to_be_done(service, fault, expected):
    async with opened() as sink:
        service.fault(kind="refuse", link="sender", description="because", **fault)
        with pytest.raises(WorkerError, match="because") as raised:
            await sink.deliver(delivery_of())
        assert type(raised.value) is expected
        service.well_again()
        await sink.deliver(delivery_of())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("EntityPath=ordered", "EntityPath=other"), r"is for another hub \(EntityPath\) than hub"),
        (("SharedAccessKey=", "SharedAccessKey=b3RoZXI"), "refuses the worker, or does not exist"),
        (("SharedAccessKeyName=sender;", ""), "has no SharedAccessKeyName"),
    ],
)
async def test_a_wrong_connection_string_pauses_the_lane_and_is_not_repeated(service, monkeypatch, change, expected):
    text = service.connection_string.replace(*change)
    monkeypatch.setenv("ORDERED", text)
    async with opened() as sink:
        with pytest.raises(Misconfigured, match=expected) as raised:
            await sink.deliver(delivery_of())
        assert not [part for part in ("a2V5", "b3RoZXI") if part in str(raised.value)]
        monkeypatch.setenv("ORDERED", service.connection_string)
        await sink.deliver(delivery_of())  # read anew, without a restart


async def test_a_hub_that_does_not_exist_is_misconfigured(service, monkeypatch):
    monkeypatch.setenv("ORDERED", service.connection_string.replace("EntityPath=ordered", "EntityPath=none"))
    async with opened(hub="none") as sink:
        with pytest.raises(Misconfigured, match=r"hub none .*does not exist"):
            await sink.deliver(delivery_of())


async def test_nobody_who_listens_is_unavailable(service, monkeypatch):
    await service.broker.aclose()
    async with opened() as sink:
        with pytest.raises(SinkUnavailable, match="hub ordered was not reached"):
            await sink.deliver(delivery_of())


async def test_a_lost_answer_is_tried_again_and_the_repetition_can_be_recognised(service):
    async with opened() as sink:
        service.lose_answers()
        with pytest.raises(SinkUnavailable):
            await sink.deliver(delivery_of())
        service.well_again()
        await sink.deliver(delivery_of())

    first, second = service.came()
    assert first == second


async def test_a_connection_that_was_lost_while_nothing_was_sent_costs_nothing(service):
    async with opened() as sink:
        await sink.deliver(delivery_of())
        service.fault(kind="drop")
        await sink.deliver(delivery_of(ELEMENT | {"id": "e2"}))

    assert [each.event["id"] for each in service.came()] == ["e1", "e2"]


@pytest.fixture
def senders(monkeypatch) -> list[EventHubProducerClient]:
    """Whose batches they were, one after the other."""
    used: list[EventHubProducerClient] = []

    class Noted(EventHubProducerClient):
        async def send_batch(self, *given: Any, **more: Any) -> None:
            used.append(self)
            await super().send_batch(*given, **more)

    monkeypatch.setattr(hub_link, "EventHubProducerClient", Noted)
    return used


async def test_what_failed_once_sends_nothing_more(service, senders):
    async with opened() as sink:
        await sink.deliver(delivery_of())
        service.fault(kind="refuse", on="send", link="sender", condition="amqp:internal-error", times=2)
        with pytest.raises(SinkUnavailable):
            await sink.deliver(delivery_of(ELEMENT | {"id": "e2"}))
        service.well_again()
        await sink.deliver(delivery_of(ELEMENT | {"id": "e2"}))

    first, failed, next_one = senders
    assert first is failed
    assert next_one is not failed


async def test_a_connection_on_which_nothing_was_sent_for_long_is_made_anew(service, senders):
    now = 0.0
    sink = sink_of(clock=lambda: now)
    await sink.open()
    for number, moment in enumerate((0, 59, 200)):
        now = float(moment)
        await sink.deliver(delivery_of(ELEMENT | {"id": f"e{number}"}))
    await sink.aclose()

    first, soon, late = senders
    assert first is soon
    assert late is not soon


async def test_a_hub_that_falls_silent_costs_no_more_than_its_time_and_nothing_goes_out_late(service):
    async with opened(timeout_seconds=4) as sink:
        await sink.deliver(delivery_of())
        service.fault(kind="blackhole")
        before = time.monotonic()
        with pytest.raises(SinkUnavailable, match=r"did not answer within 4 s"):
            await sink.deliver(delivery_of(ELEMENT | {"id": "e2"}))
        assert time.monotonic() - before < 10
    async with opened() as other:
        await other.deliver(delivery_of(ELEMENT | {"id": "e2"}))
        await other.deliver(delivery_of(ELEMENT | {"id": "e3"}))


async def test_it_closes_in_time_though_the_hub_says_nothing(service):
    sink = sink_of()
    await sink.open()
    await sink.deliver(delivery_of())
    service.fault(kind="blackhole")
    stuck = asyncio.create_task(sink.deliver(delivery_of(ELEMENT | {"id": "e2"})))
    await asyncio.sleep(0.05)
    async with asyncio.timeout(6):
        await sink.aclose()
    await asyncio.gather(stuck, return_exceptions=True)
    assert stuck.cancelled()


async def test_asking_a_hub_that_never_answers_ends_when_the_sink_closes(service):
    service.fault(kind="ignore", on="connect")
    sink = sink_of()
    await sink.open()
    waiting = [asyncio.create_task(sink.deliver(delivery_of(ELEMENT | {"id": f"e{n}"}))) for n in range(3)]
    await asyncio.sleep(0.2)
    async with asyncio.timeout(6):
        await sink.aclose()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert all(each.cancelled() for each in waiting)


async def test_what_was_asked_after_an_error_is_not_forgotten_for_an_older_one(monkeypatch):
    asked, sending = 0, list[asyncio.Future[None]]()

    class Link:
        async def send(self, _messages: object) -> None:
            sending.append(asyncio.Future())
            await sending[-1]

        async def aclose(self) -> None:
            pass

    class Hub:
        def __init__(self, *_: object) -> None:
            pass

        async def ask(self) -> HubLayout:
            nonlocal asked
            asked += 1
            return HubLayout(("0", "1", "2", "3"), 1_000_000)

        def partition(self, *_: object, **__: object) -> Link:
            return Link()

    async def send(subject: str) -> asyncio.Task[None]:
        before = len(sending)
        task = asyncio.create_task(sink.deliver(delivery_of(ELEMENT | {"subject": subject})))
        await eventually(lambda: len(sending) > before)
        return task

    monkeypatch.setattr(hub_link, "HubLink", Hub)
    async with opened() as sink:
        here, there = "subject-1", "exactly12byt"  # on two partitions
        first = [await send(here), await send(there)]
        sending[0].set_exception(SinkUnavailable("lost"))
        await asyncio.wait({first[0]})
        later = [await send(here)]
        sending[1].set_exception(SinkUnavailable("lost"))
        await asyncio.wait({first[1]})
        later.append(await send(there))
        for each in sending[2:]:
            each.set_result(None)
        await asyncio.gather(*later)
        assert all(isinstance(each.exception(), SinkUnavailable) for each in first)
    assert asked == 2


FAULTS = [
    {"kind": "drop"},
    {"kind": "detach", "link": "sender"},
    {"kind": "refuse", "on": "send", "link": "sender", "times": 2},
    {"kind": "refuse", "on": "attach", "link": "sender", "times": 3},
    {"kind": "refuse", "on": "send", "link": "sender", "condition": "amqp:internal-error", "times": 3},
]


async def test_each_subject_arrives_in_order_however_often_sending_fails(service):
    owner, rng = FakeOwner(), random.Random(7)
    subjects, length = 24, 12
    async with opened(timeout_seconds=5) as sink, LaneScene(sink, concurrency=64).running() as stage:
        for number in range(length):
            for subject in range(subjects):
                stage.lane.submit(job_of(owner, f"s{subject}", f"{subject}.{number}"))
        faults = 0
        while owner.ended < subjects * length:
            if faults < 12:
                faults += 1
                service.fault(**rng.choice(FAULTS))
                if faults % 4 == 0:
                    service.lose_answers()
            await asyncio.sleep(0.15)
            service.well_again()
            await asyncio.sleep(0.05)

    assert not owner.letters
    firsts, partitions = defaultdict(list), defaultdict(set)
    for each in service.came():
        subject, number = (int(part) for part in each.event["id"].split("."))
        partitions[subject].add(each.partition)
        if number not in firsts[subject]:
            firsts[subject].append(number)
        else:
            assert firsts[subject][-1] == number, "a repetition comes before anything later of its subject"
    assert all(firsts[subject] == list(range(length)) for subject in range(subjects))
    assert {len(each) for each in partitions.values()} == {1}


async def test_an_identity_that_gets_no_token_pauses_the_lane():
    class Nobody(FakeCredential):
        async def get_token(self, *scopes: str, **_more: object) -> Any:
            raise ClientAuthenticationError("AADSTS70021: no matching federated identity for hidden-tenant")

    settings = EventHubSettings(name="out", namespace="n.servicebus.windows.net", hub=HUB)
    sink = EventHubSink(settings, Tokens(Nobody()))
    await sink.open()
    with pytest.raises(Misconfigured, match="AADSTS70021") as raised:
        await sink.deliver(delivery_of())
    assert "hidden" not in str(raised.value)
    await sink.aclose()


async def test_the_sdk_gets_tokens_that_it_asks_for_again_soon():
    credential = AsCredential(Tokens(FakeCredential()), clock=lambda: 1000.0)
    scope = "https://eventhubs.azure.net//.default"

    assert await credential.get_token(scope) == (token_for(scope), 1300)


async def test_what_an_sdk_call_swallows_of_a_cancellation_does_not_hold_it_up(monkeypatch, service):
    from azure.eventhub.aio import EventHubProducerClient  # noqa: PLC0415 - only here

    swallowed = []

    async def deaf(self: object, *_: object, **__: object) -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                swallowed.append(1)
                if len(swallowed) > 1:
                    raise

    async with opened(timeout_seconds=0.2) as sink:
        monkeypatch.setattr(EventHubProducerClient, "send_batch", deaf)
        with pytest.raises(SinkUnavailable, match="did not answer"):
            await sink.deliver(delivery_of())
        await eventually(lambda: len(swallowed) == 2)
