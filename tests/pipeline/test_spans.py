"""The spans of one partition's deliveries, in virtual time: attempts, digests, replays, and their traces."""

import asyncio
from dataclasses import replace

import pytest
from opentelemetry.trace import SpanKind, StatusCode

from tests.fakes import FakeSink
from tests.pipeline.digests import GROUPED
from tests.pipeline.stage import PARTITION, Stage, blob_event, message
from tests.traces import OTHER, PARENT, SPAN, TRACE, Traces, linked, trace_of, traces
from tests.virtual_time import run, settle_down
from worker.digests import Member
from worker.errors import OutcomeUnknown, Rejected, SinkUnavailable
from worker.events import Message
from worker.sinks import Delivery
from worker.stores import ReplayRequest
from worker.stores.layout import letter_name
from worker.tracing import current


def traced(number: int, subject: str, parent: str = PARENT) -> Message:
    return replace(message(number, blob_event(subject, 1)), properties={b"traceparent": parent.encode()})


def play(stage: Stage, *messages: Message, seconds: float = 0) -> None:
    async def scene():
        async with stage.open():
            claim = await stage.begin()
            await stage.play(claim, *messages)
            await asyncio.sleep(seconds)
            await stage.end(claim)

    run(scene())


def test_an_attempt_is_a_span_of_the_events_own_trace():
    with traces() as kept:
        play(Stage(window=0, tracing=kept.spans), traced(7, "a"))
        [span] = kept.finished
    assert (span.name, span.kind, span.status.status_code) == ("deliver out", SpanKind.CONSUMER, StatusCode.UNSET)
    assert trace_of(span) == TRACE
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == SPAN
    assert dict(span.attributes or {}) == {
        "messaging.system": "eventhubs",
        "messaging.operation.type": "process",
        "messaging.operation.name": "deliver",
        "messaging.destination.name": "events",
        "messaging.destination.partition.id": "0",
        "messaging.consumer.group.name": "$Default",
        "messaging.eventhubs.message.enqueued_time": 1_700_000_000,
        "messaging.message.id": "a-1",
        "cloudevents.event_id": "a-1",
        "cloudevents.event_type": "Microsoft.Storage.BlobCreated",
        "server.address": "hub.test",
        "worker.sink": "out",
        "worker.sink.kind": "fake",
        "worker.route": "to-out",
        "worker.attempt": 1,
        "worker.sequence_number": 7,
        "worker.idempotency_key": (span.attributes or {})["worker.idempotency_key"],
        "worker.outcome": "accepted",
    }


def test_an_event_without_a_trace_begins_one():
    with traces() as kept:
        play(Stage(window=0, tracing=kept.spans), message(1, blob_event("a", 1)), message(2, blob_event("b", 1)))
        spans = kept.finished
    assert [span.parent for span in spans] == [None, None]
    assert len({trace_of(span) for span in spans}) == 2


def test_each_attempt_has_its_span_and_says_how_it_ended():
    secret = "SharedAccessSignature=sig-hidden"
    sink = FakeSink(fails=[SinkUnavailable(f"503 {secret}"), OutcomeUnknown("no answer"), Rejected("400: no")])
    with traces() as kept:
        play(Stage({"out": sink}, window=0, tracing=kept.spans), traced(1, "a"), seconds=60)
        spans = kept.finished
    about = [span.attributes or {} for span in spans]
    assert [each["worker.attempt"] for each in about] == [1, 2, 3]
    assert [each["worker.outcome"] for each in about] == ["unavailable", "unknown", "rejected"]
    assert [each["error.type"] for each in about] == ["SinkUnavailable", "OutcomeUnknown", "Rejected"]
    assert [span.status.description for span in spans] == [
        "503 SharedAccessSignature=***",
        "no answer",
        "400: no",
    ]
    assert {span.status.status_code for span in spans} == {StatusCode.ERROR}
    assert {trace_of(span) for span in spans} == {TRACE}


def test_an_attempt_that_is_cut_off_is_ended_too():
    sink = FakeSink()
    with traces() as kept:
        sink.open_gate.clear()
        stage = Stage({"out": sink}, window=0, limits={"drain_seconds": 1}, tracing=kept.spans)
        play(stage, traced(1, "a"))
        [span] = kept.finished
    assert (span.attributes or {})["worker.outcome"] == "aborted"
    assert span.status.status_code is StatusCode.ERROR


class Bug(FakeSink):
    async def deliver(self, delivery: Delivery) -> None:
        raise ZeroDivisionError("hidden: whatever a library says")


def test_of_a_bug_its_class_is_told_and_not_its_words():
    with traces() as kept:
        stage = Stage({"out": Bug()}, window=0, tracing=kept.spans)
        with pytest.raises(BaseExceptionGroup):
            play(stage, traced(1, "a"))
        [span] = kept.finished
    assert (span.attributes or {})["error.type"] == "ZeroDivisionError"
    assert span.status.status_code is StatusCode.ERROR
    assert "hidden" not in span.to_json()


def test_what_was_decided_for_the_events_trace_holds():
    with traces() as kept:
        play(Stage(window=0, tracing=kept.spans), traced(1, "a", PARENT[:-2] + "00"))
        assert kept.finished == []
    with traces(sample_ratio=0) as kept:
        play(Stage(window=0, tracing=kept.spans), traced(1, "a"), message(2, blob_event("b", 1)))
        assert [trace_of(span) for span in kept.finished] == [TRACE]


class Asking(FakeSink):
    """Notes what is under way while it delivers."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    async def deliver(self, delivery: Delivery) -> None:
        await super().deliver(delivery)
        span = current()
        assert span is not None
        self.found.append((span.trace_id, span.carrier["traceparent"]))


def test_the_span_is_under_way_while_the_sink_delivers_and_not_afterwards():
    sink = Asking()
    with traces() as kept:
        play(Stage({"out": sink}, window=0, tracing=kept.spans), traced(1, "a"), traced(2, "b", OTHER))
        spans = kept.finished
    assert [found for found, _ in sink.found] == [trace_of(span) for span in spans]
    assert all(carrier != PARENT and found in carrier for found, carrier in sink.found)


def test_while_tracing_is_off_nothing_is_under_way_and_nobody_asks_for_a_trace(monkeypatch):
    monkeypatch.setattr("worker.settling.traceparent_of", lambda _: pytest.fail("it was asked for"))
    found = []

    class Looking(FakeSink):
        async def deliver(self, delivery: Delivery) -> None:
            found.append(current())
            await super().deliver(delivery)

    stage = Stage({"out": Looking()}, window=0, quiet=GROUPED)
    play(stage, traced(1, "a"), seconds=12)
    assert found == [None]
    assert stage.sinks["out"].accepted[0].released.placed.message.properties is None


def grouped(kept: Traces, *messages: Message) -> Stage:
    stage = Stage(window=0, quiet=GROUPED, tracing=kept.spans)
    play(stage, *messages, seconds=12)
    return stage


def test_a_digest_links_the_traces_of_its_events():
    with traces() as kept:
        grouped(kept, traced(1, "a"), traced(2, "b", OTHER), message(3, blob_event("c", 1)))
        [span] = kept.finished
    assert linked(span) == {TRACE, OTHER.split("-")[1]}
    assert span.parent is None
    assert (span.attributes or {})["messaging.batch.message_count"] == 3
    assert "worker.sequence_number" not in (span.attributes or {})


def test_what_is_told_in_a_digest_says_nothing_of_traces():
    with traces() as kept:
        stage = grouped(kept, traced(1, "a"))
    [delivery] = stage.sinks["out"].accepted
    assert TRACE not in delivery.released.placed.message.body.decode()


def test_a_digest_of_the_next_life_links_them_too():
    async def scene(kept: Traces):
        stage = Stage(window=0, quiet=GROUPED, tracing=kept.spans)
        async with stage.open():
            claim = await stage.begin("first")
            await stage.play(claim, traced(1, "a"))
            await asyncio.sleep(2)
            await stage.end(claim)
            claim = await stage.begin("second")
            await asyncio.sleep(20)
            await stage.end(claim)

    with traces() as kept:
        run(scene(kept))
        [span] = kept.finished
    assert linked(span) == {TRACE}


def test_a_members_row_without_a_trace_is_what_it_was_and_one_with_a_trace_is_passed_over_by_older_workers():
    sink = FakeSink()
    play(Stage({"out": sink}, window=0), message(1, blob_event("a", 1)))
    [delivery] = sink.accepted
    plain = Member.of(delivery, number=1, group=2)
    traced_row = Member.of(delivery, number=1, group=2, trace=PARENT).to_row()
    assert "traceparent" not in plain.to_row()[4]
    assert len(traced_row) == len(plain.to_row())
    assert Member.from_row(traced_row).trace == PARENT
    assert Member.from_row(traced_row).entry == plain.entry


def test_a_replay_goes_on_in_the_trace_of_its_event():
    async def scene(kept: Traces):
        sink = FakeSink(fails=[Rejected("400: no")])
        stage = Stage({"out": sink}, window=0, tracing=kept.spans)
        async with stage.open():
            claim = await stage.begin()
            await stage.play(claim, traced(1, "a"))
            await asyncio.sleep(1)
            [letter] = await stage.dead_letters()
            await stage.store.request_replays([ReplayRequest(PARTITION, letter_name(letter))])
            claim.replays.look(await stage.store.replays())
            await settle_down()
            await asyncio.sleep(1)
            assert sink.ids == ["a-1"]
            await stage.end(claim)

    with traces() as kept:
        run(scene(kept))
        first, again = kept.finished
    assert {trace_of(first), trace_of(again)} == {TRACE}
    assert "worker.replayed" not in (first.attributes or {})
    assert (again.attributes or {})["worker.replayed"] is True


def test_the_latency_of_a_sampled_event_points_to_its_trace():
    with traces() as kept:
        stage = Stage(window=0, tracing=kept.spans)
        play(stage, traced(1, "a"))
        [span] = kept.finished
        assert span.context is not None
        expected = {"trace_id": TRACE, "span_id": f"{span.context.span_id:016x}"}
        play(unsampled := Stage(window=0, tracing=kept.spans), traced(1, "a", PARENT[:-2] + "00"))
    assert exemplars(stage) == [expected]
    assert exemplars(unsampled) == exemplars(untraced()) == []


def untraced() -> Stage:
    stage = Stage(window=0)
    play(stage, traced(1, "a"))
    return stage


def exemplars(stage: Stage) -> list[dict[str, str]]:
    [family] = stage.metrics.event_seconds.collect()
    return [each.exemplar.labels for each in family.samples if each.exemplar]


def test_attempts_that_begin_at_one_time_do_not_mix_up_their_traces():
    sink = Asking()
    parents = [f"00-{number:032x}-{SPAN}-01" for number in range(1, 30)]
    with traces() as kept:
        stage = Stage({"out": sink}, window=0, lanes={"concurrency": 8}, tracing=kept.spans)
        play(stage, *(traced(number, f"s{number}", parent) for number, parent in enumerate(parents)))
        assert sorted(trace_of(span) for span in kept.finished) == sorted(found for found, _ in sink.found)
    assert sorted(found for found, _ in sink.found) == [parent.split("-")[1] for parent in parents]
