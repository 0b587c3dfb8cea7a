"""tracing.py: which traces an event belongs to, and that nothing is looked at or imported while tracing is off."""

import subprocess
import sys
from typing import Any

import orjson
import pytest

from tests.deliveries import ELEMENT
from tests.traces import OTHER, PARENT, SPAN, TRACE
from worker import tracing
from worker.decode import decode
from worker.events import DIGEST_TYPE, Event, Message, PartitionId, Placed, Position, UnixSeconds

CLOUD_EVENT = {"specversion": "1.0", "id": "c1", "type": "t", "source": "/s", "subject": "x"}


def placed(element: dict[str, Any], **properties: object) -> Placed:
    return placed_with(
        element, {name.replace("Diagnostic_Id", "Diagnostic-Id"): value for name, value in properties.items()}
    )


def placed_with(element: dict[str, Any], properties: dict[Any, object]) -> Placed:
    content = orjson.dumps(element)
    message = Message(PartitionId("0"), 7, "700", UnixSeconds(1.0), content, properties=properties or None)
    [event] = decode(message)
    assert isinstance(event, Event)
    return Placed(event, message, Position(7, 0))


def parents(element: dict[str, Any], **properties: object) -> list[str]:
    return [each["traceparent"] for each in tracing.contexts_of(placed(element, **properties))]


def test_an_event_without_a_trace_has_none():
    assert parents(ELEMENT) == parents(CLOUD_EVENT, other=b"x") == []
    assert tracing.traceparent_of(placed(ELEMENT)) == ""


@pytest.mark.parametrize("value", [PARENT, PARENT.encode()])
@pytest.mark.parametrize("name", ["traceparent", "Diagnostic_Id"])
def test_the_message_brings_it_in_either_property_as_text_or_bytes(name, value):
    assert parents(ELEMENT, **{name: value}) == [PARENT]


@pytest.mark.parametrize("value", [PARENT, PARENT.encode()])
@pytest.mark.parametrize("name", [b"traceparent", b"Diagnostic-Id"])
def test_names_may_be_bytes_as_the_sdk_gives_them(name, value):
    [context] = tracing.contexts_of(placed_with(ELEMENT, {name: value, b"tracestate": b"a=1"}))
    assert context == {"traceparent": PARENT, "tracestate": "a=1"}


def test_the_newer_property_counts_where_both_are_there():
    assert parents(ELEMENT, traceparent=PARENT, Diagnostic_Id=OTHER) == [PARENT]


def test_a_cloud_events_own_trace_comes_first_and_then_that_of_its_message():
    event = {**CLOUD_EVENT, "traceparent": PARENT, "tracestate": "a=1"}
    assert parents(event, traceparent=OTHER) == [PARENT, OTHER]
    assert parents(event, traceparent=PARENT) == [PARENT]
    assert tracing.contexts_of(placed(event))[0]["tracestate"] == "a=1"


def test_a_key_of_that_name_in_the_other_envelope_is_no_trace():
    assert parents({**ELEMENT, "traceparent": PARENT}) == []


@pytest.mark.parametrize(
    "value",
    [
        "",
        b"\xff\xfe",
        7,
        None,
        ["x"],
        "|7a9f.1.",  # the older form of Diagnostic-Id
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"{PARENT}-more",
        PARENT[:-1],
        PARENT + "\r\nX-Injected: 1",
    ],
)
def test_what_is_no_trace_is_passed_over(value):
    assert parents(ELEMENT, traceparent=value) == []


def test_of_a_later_version_what_is_known_is_taken():
    assert parents(ELEMENT, traceparent=f"cc-{TRACE}-{SPAN}-01-what-the-future-brings") == [f"cc-{TRACE}-{SPAN}-01"]


@pytest.mark.parametrize("state", ["a=" + "x" * 511, "a=1\r\nX-Injected: 1", "ä=1", b"\xff", 7])
def test_a_state_that_cannot_stand_in_a_header_is_not_passed_on(state):
    [context] = tracing.contexts_of(placed(ELEMENT, traceparent=PARENT, tracestate=state))
    assert "X-Injected" not in str(context)
    assert context["traceparent"] == PARENT
    assert context.get("tracestate", "a").isascii()
    assert len(context.get("tracestate", "")) <= 512


DIGEST = {**CLOUD_EVENT, "type": DIGEST_TYPE}


@pytest.mark.parametrize("name", [tracing.MEMBERS, tracing.MEMBERS.encode()])
def test_a_digests_message_names_the_traces_of_its_events(name):
    members = tracing.members_of(placed_with(DIGEST, {name: f"{PARENT} rubbish {OTHER}"}))
    assert [each["traceparent"] for each in members] == [PARENT, OTHER]


def test_who_names_very_many_is_not_listened_to_for_long():
    named = " ".join(f"00-{number:032x}-{SPAN}-01" for number in range(1, 20_000))
    assert len(tracing.members_of(placed_with(DIGEST, {tracing.MEMBERS: named}))) == tracing.MOST_MEMBERS
    assert tracing.members_of(placed_with(CLOUD_EVENT, {tracing.MEMBERS: named})) == []


def test_while_nothing_is_under_way_there_is_nothing_to_say():
    assert tracing.current() is None
    assert tracing.exemplar() is None
    with tracing.together("send", [None, None]):
        assert tracing.current() is None


def test_a_worker_that_does_not_trace_imports_nothing_of_opentelemetry():
    modules = "worker.app, worker.cli, worker.sinks.table, worker.sinks.hub_link, worker.sinks.blob_link"
    program = f"import sys, {modules}; print([name for name in sys.modules if 'opentelemetry' in name])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
