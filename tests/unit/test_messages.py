import pytest
from azure.eventhub import EventData

from worker.events import PartitionId
from worker.messages import message


@pytest.mark.parametrize(
    ("annotations", "keyed"),
    [({b"x-opt-partition-key": b"run"}, True), ({b"x-opt-offset": b"1"}, False)],
)
def test_a_message_says_whether_its_sender_gave_a_partition_key(annotations: dict[bytes, bytes], keyed: bool):
    event = EventData(b"{}")
    event.raw_amqp_message.annotations = annotations

    assert message(PartitionId("0"), event).keyed is keyed
