import pytest
from azure.eventhub import EventData

from tests.traces import PARENT
from worker import replay, tracing
from worker.deadletters import from_bad_event
from worker.decode import decode
from worker.events import BadEvent, Event, Message, PartitionId, Placed, Position
from worker.messages import message
from worker.stores.layout import letter_from_json, letter_to_json


@pytest.mark.parametrize(
    ("annotations", "keyed"),
    [({b"x-opt-partition-key": b"run"}, True), ({b"x-opt-offset": b"1"}, False)],
)
def test_a_message_says_whether_its_sender_gave_a_partition_key(annotations: dict[bytes, bytes], keyed: bool):
    event = EventData(b"{}")
    event.raw_amqp_message.annotations = annotations

    assert message(PartitionId("0"), event).keyed is keyed


def binary_event() -> Message:
    """A CloudEvent in binary mode, as the SDK hands over what came: names and texts are bytes."""
    event = EventData(b'{"n": 1}')
    event.content_type = "application/json"
    event.properties = {
        b"cloudEvents:specversion": b"1.0",
        b"cloudEvents:id": b"c1",
        b"cloudEvents:type": b"t",
        b"cloudEvents:source": b"/s",
        b"cloudEvents:subject": "ü".encode(),
        b"traceparent": PARENT.encode(),
        b"count": 7,
    }
    return message(PartitionId("0"), event)


def test_what_the_sdk_gives_as_bytes_is_read_from_the_hub_and_from_its_dead_letter():
    came = binary_event()
    letter = from_bad_event(came, None, BadEvent("killed_worker", "why"))
    again = replay._message(letter_from_json(letter_to_json(letter)))
    for read in (came, again):
        [event] = decode(read)
        assert isinstance(event, Event)
        assert (event.id, event.type, event.source, event.subject, event.data) == ("c1", "t", "/s", "ü", {"n": 1})
        assert tracing.traceparent_of(Placed(event, read, Position(0, 0))) == PARENT
    assert (again.properties or {})["count"] == 7
