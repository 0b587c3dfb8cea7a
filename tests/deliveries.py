"""Deliveries for tests of sinks, made from an element as it stands in a message's body."""

from typing import Any

import orjson

from worker.decode import decode
from worker.events import Event, Message, PartitionId, Placed, Position, Released, UnixSeconds
from worker.keys import idempotency_key
from worker.sinks import Delivery

ELEMENT: dict[str, Any] = {
    "id": "e1",
    "topic": "/subscriptions/s/workspaces/ws",
    "subject": "experiments/exp/runs/run-1",
    "eventType": "Microsoft.MachineLearningServices.RunStatusChanged",
    "eventTime": "2017-06-26T18:41:00.9584103Z",
    "data": {"runStatus": "Failed", "note": "naïve ☃"},
}


def delivery_of(element: dict[str, Any] = ELEMENT, *, sink: str = "out", late_by_ms: int | None = None) -> Delivery:
    """The delivery of this element to this sink."""
    message = Message(PartitionId("0"), 7, "700", UnixSeconds(1.0), orjson.dumps(element))
    [event] = decode(message)
    assert isinstance(event, Event), event
    placed = Placed(event, message, Position(7, 0))
    return Delivery(
        released=Released(placed, late_by_ms=late_by_ms),
        route="all",
        sink=sink,
        idempotency_key=idempotency_key(event, sink),
    )
