"""Webhooks in binary and batched mode, at a strict receiver: what arrives, and how it ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import orjson
import pytest

from tests.api_service import Scripted
from tests.deliveries import ELEMENT, delivery_of
from tests.fate import Fate, Scene, die_at_every_step
from tests.lanes import FakeOwner, LaneScene, job_of
from tests.support import eventually
from tests.webhook_receiver import Receiver, served
from worker.errors import Gone, Misconfigured, Rejected, SinkUnavailable
from worker.ledger import EntryState
from worker.sinks import Delivery
from worker.sinks.webhook import WebhookSink
from worker.sinks.webhook_settings import WebhookSettings

SECRET = "hidden-signing-key"
OpenSink = Callable[..., Awaitable[WebhookSink]]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with served(Receiver(SECRET)) as receiver:
        yield receiver


@pytest.fixture
async def sink_to(monkeypatch, receiver) -> AsyncIterator[OpenSink]:
    opened = []
    monkeypatch.setenv("OUT_SECRET", SECRET)

    async def open_sink(mode: str, **given: Any) -> WebhookSink:
        sink = WebhookSink(settings_of(receiver, mode=mode, **given))
        await sink.open()
        opened.append(sink)
        return sink

    yield open_sink
    for sink in opened:
        await sink.aclose()


def settings_of(receiver: Receiver, **given: Any) -> WebhookSettings:
    return WebhookSettings.model_validate({"name": "out", "url": receiver.url, "secret_env": "OUT_SECRET"} | given)


def some(count: int, **more: Any) -> list[Delivery]:
    return [delivery_of(ELEMENT | {"id": f"e{number}", "subject": f"s{number}"} | more) for number in range(count)]


async def ends(sink: WebhookSink, deliveries: list[Delivery]) -> list[BaseException | None]:
    return await asyncio.gather(*(sink.deliver(each) for each in deliveries), return_exceptions=True)


# --- binary


@pytest.mark.parametrize(
    ("change", "body"),
    [
        ({"data": {"a": "ü"}}, '{"a":"ü"}'.encode()),
        ({"data": None, "data_base64": "AP8="}, b"\x00\xff"),
        ({"data": None}, None),
        ({"data": "text", "datacontenttype": "text/plain"}, b"text"),
        ({"subject": "Euro € 😀\r\nX-Evil: 1"}, None),
    ],
)
async def test_binary_arrives_as_it_was(receiver, sink_to, change, body):
    element = {"specversion": "1.0", "id": "e1", "source": "/s", "type": "t", "subject": "run 1"} | change
    delivery = delivery_of({name: value for name, value in element.items() if value is not None})
    await (await sink_to("binary")).deliver(delivery)

    [taken] = receiver.taken
    assert taken.key == delivery.idempotency_key
    assert taken.event.get("bytes") == body
    assert {name: taken.event[name] for name in ("id", "source", "type", "subject")} == {
        name: element[name] for name in ("id", "source", "type", "subject")
    }
    assert "x-evil" not in receiver.posts[0]


async def test_without_data_and_its_type_nothing_says_that_there_is_a_body(receiver, sink_to):
    await (await sink_to("binary")).deliver(delivery_of({"specversion": "1.0", "id": "e", "source": "/s", "type": "t"}))

    [headers] = receiver.posts
    assert "content-type" not in headers
    assert headers["content-length"] == "0"


async def test_what_binary_mode_cannot_say_is_a_dead_letter_and_is_not_sent(receiver, sink_to):
    element = {
        "specversion": "1.0",
        "id": "e",
        "source": "/s",
        "type": "t",
        "data": "x",
        "datacontenttype": "a\r\nb: c",
    }
    with pytest.raises(Rejected, match="sink out: the event's datacontenttype"):
        await (await sink_to("binary")).deliver(delivery_of(element))
    assert receiver.asked == []


# --- batched


async def test_what_comes_while_a_request_is_under_way_goes_together_and_each_carries_its_key(receiver, sink_to):
    sink = await sink_to("batched")
    first, *rest = some(10)
    gate = asyncio.Event()
    receiver.before = gate.wait
    sending = [asyncio.create_task(sink.deliver(first))]
    await eventually(lambda: receiver.asked)
    sending += [asyncio.create_task(sink.deliver(each)) for each in rest]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*sending)

    assert receiver.batches == [["e0"], [f"e{number}" for number in range(1, 10)]]
    assert [each.key for each in receiver.taken] == [each.idempotency_key for each in (first, *rest)]
    assert len({headers["webhook-id"] for headers in receiver.posts}) == 2


async def test_a_batch_holds_no_more_events_and_bytes_than_it_may(receiver, sink_to):
    sink = await sink_to("batched", batch={"events": 3, "bytes": 3000})
    small, large = some(5), some(3, data="x" * 2500)
    huge = some(1, id="huge", data="x" * 5000)

    assert await ends(sink, [*small, *large, *huge]) == [None] * 9
    assert [len(batch) for batch in receiver.batches] == [3, 2, 1, 1, 1, 1]


async def test_one_bad_event_does_not_take_the_others_with_it(receiver, sink_to):
    sink = await sink_to("batched")
    deliveries = some(16)
    bad = delivery_of({"specversion": "1.0", "id": "bad", "source": "/s", "type": "t"})
    deliveries[5] = bad
    receiver.judge = lambda taken: 400 if any(each.event["id"] == "bad" for each in taken) else None
    results = await ends(sink, deliveries)
    assert [type(each) for each in results if each] == [Rejected]
    assert type(results[5]) is Rejected
    assert sorted(receiver.ids) == sorted(f"e{number}" for number in range(16) if number != 5)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Scripted(503, headers={"Retry-After": "7"}), SinkUnavailable),
        (Scripted(takes_effect=True, drops=True), SinkUnavailable),
        (Scripted(403), Misconfigured),
        (Scripted(410), Gone),
    ],
)
async def test_how_a_batch_ends_is_how_each_of_its_events_ends(receiver, sink_to, answer, outcome):
    sink = await sink_to("batched")
    receiver.script = [answer]

    assert [type(each) for each in await ends(sink, some(5))] == [outcome] * 5
    assert len(receiver.posts) == 1


async def test_the_same_batch_sent_again_has_the_same_id_and_another_has_another(receiver, sink_to):
    sink = await sink_to("batched")
    receiver.script = [Scripted(503)]
    await ends(sink, some(3))
    await ends(sink, some(3))
    await ends(sink, some(2))

    first, again, other = (headers["webhook-id"] for headers in receiver.posts)
    assert first == again != other


async def test_a_lane_fills_batches_and_keeps_each_subject_in_order(receiver, sink_to):
    sink = await sink_to("batched", batch={"events": 20})
    owner = FakeOwner()
    async with LaneScene(sink, concurrency=40).running() as stage:
        for number in range(300):
            stage.lane.submit(job_of(owner, f"s{number % 50}", f"e{number}"))
        await eventually(lambda: owner.ended == 300)
    assert owner.letters == {}
    assert sorted(receiver.ids) == sorted(f"e{number}" for number in range(300))
    for subject in range(50):
        came = [int(each[1:]) for each in receiver.ids if int(each[1:]) % 50 == subject]
        assert came == sorted(came)
    assert len(receiver.batches) <= 40
    assert max(map(len, receiver.batches)) == 20


@pytest.mark.parametrize("mode", ["structured", "binary", "batched"])
async def test_a_lane_whose_receiver_is_gone_ends(receiver, sink_to, mode):
    sink = await sink_to(mode)
    owner = FakeOwner()
    receiver.script = [Scripted(410)] * 5
    async with LaneScene(sink, concurrency=2).running() as stage:
        for number in range(50):
            stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
        await eventually(lambda: owner.ended == 50)
    assert {reason for reason, _ in owner.letters.values()} == {"gone"}
    assert len(receiver.posts) <= 2


async def test_the_receiver_of_these_tests_refuses_what_a_strict_one_refuses(receiver):
    event = {"specversion": "1.0", "id": "e", "source": "/s", "type": "t"}
    receiver.secret = None
    key = {"webhook-id": "k", "Idempotency-Key": "k"}
    one, many = "application/cloudevents+json", "application/cloudevents-batch+json"
    refused = [
        ({}, orjson.dumps(event)),
        (key | {"Content-Type": one}, orjson.dumps(event | {"id": ""})),
        (key | {"Content-Type": one}, orjson.dumps(event | {"specversion": "0.3"})),
        (key | {"Content-Type": one}, orjson.dumps(event | {"Trace_ID": "x"})),
        (key | {"Content-Type": one}, b"{"),
        (key | {"Content-Type": many}, orjson.dumps([event])),
        (key | {"Content-Type": "application/cloudevents+avro"}, b"x"),
        (key | {"Content-Type": "text/plain", "ce-id": "e"}, b"x"),
    ]
    async with aiohttp.ClientSession() as session:
        for headers, body in refused:
            async with session.post(receiver.url, data=body, headers=headers) as response:
                assert response.status in {400, 415}, headers
        receiver.secret = SECRET
        async with session.post(
            receiver.url, data=orjson.dumps(event), headers=key | {"Content-Type": one}
        ) as response:
            assert response.status == 401
    assert receiver.taken == []


# --- processes that die


@pytest.mark.parametrize(
    "given", [{}, {"mode": "binary"}, {"handshake": True}], ids=["structured", "binary", "handshake"]
)
@pytest.mark.parametrize("on_unknown", ["resend", "skip"])
async def test_a_process_that_dies_at_any_step_keeps_what_on_unknown_promises(receiver, monkeypatch, given, on_unknown):
    monkeypatch.setenv("OUT_SECRET", SECRET)
    receiver.consent = {"WebHook-Allowed-Origin": "*"}
    settings = settings_of(receiver, on_unknown=on_unknown, **given)

    def begin() -> None:
        receiver.taken.clear()

    def meet(fate: Fate) -> None:
        receiver.before, receiver.after = fate.step, fate.step

    scene = Scene(settings, lambda: WebhookSink(settings), begin, meet, lambda: len(receiver.taken))
    held = await die_at_every_step(scene)
    assert frozenset({EntryState.INTENT}) in held


async def test_a_starter_that_answers_409_to_what_it_has_already_starts_it_once(receiver, monkeypatch):
    """As a starter of Durable Functions with the key as its instance: `resend` acts once all the same."""
    monkeypatch.setenv("OUT_SECRET", SECRET)
    settings = settings_of(receiver, on_unknown="resend", accepts=[409])
    receiver.judge = lambda taken: 409 if taken[0].key in {each.key for each in receiver.taken} else None

    def begin() -> None:
        receiver.taken.clear()

    def meet(fate: Fate) -> None:
        receiver.before, receiver.after = fate.step, fate.step

    effects: list[int] = []

    def count() -> int:
        effects.append(len(receiver.taken))
        return effects[-1]

    await die_at_every_step(Scene(settings, lambda: WebhookSink(settings), begin, meet, count))
    assert max(effects) == 1
