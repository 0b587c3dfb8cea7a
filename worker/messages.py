"""The SDK's events as the worker's messages: bytes, numbers and times, and what is no event at all. Reads nothing."""

import time
from typing import Any

import orjson
from azure.eventhub import EventData
from azure.eventhub.amqp import AmqpMessageBodyType

from worker.events import Message, PartitionId, UnixSeconds

_EPOCH = b"x-opt-sequence-number-epoch"
_ENQUEUED = b"x-opt-enqueued-time"
_NOT_REPLICATED = -1


def epoch(event: EventData) -> int:
    """Which life of the hub the sequence number is of: -1 where it is not replicated."""
    annotations = event.raw_amqp_message.annotations or {}
    number = annotations.get(_EPOCH)
    return number if isinstance(number, int) else _NOT_REPLICATED


def message(partition: PartitionId, event: EventData) -> Message:
    """What the hub handed over, as it travels."""
    body, defect = _body(event)
    annotations = event.raw_amqp_message.annotations or {}
    enqueued_ms = annotations.get(_ENQUEUED)
    return Message(
        partition=partition,
        sequence_number=event.sequence_number or 0,
        offset=event.offset or "",
        enqueued_at=UnixSeconds(enqueued_ms / 1000 if enqueued_ms else time.time()),
        body=body,
        content_type=event.content_type,
        properties=event.properties or None,
        keyed=event.partition_key is not None,
        defect=defect,
    )


def _body(event: EventData) -> tuple[bytes, str | None]:
    """The body's bytes; a body that is an AMQP map, list or sequence is no event, and kept as JSON."""
    body: Any = event.body
    if event.body_type is AmqpMessageBodyType.DATA:
        return b"".join(body), None
    if event.body_type is AmqpMessageBodyType.SEQUENCE:
        body = list(body)
    elif isinstance(body, str):
        return body.encode(), None
    elif isinstance(body, bytes | bytearray | memoryview):
        return bytes(body), None
    return orjson.dumps(_plain(body)), f"the body is an AMQP {type(body).__name__}, not bytes"


def _plain(value: Any) -> Any:
    """AMQP's values as JSON has them; what it has no word for becomes text."""
    match value:
        case dict():
            return {str(_plain(key)): _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case bytes() | bytearray():
            return bytes(value).decode("utf-8", "backslashreplace")
        case None | bool() | float():
            return value
        case int() if abs(value) < 2**63:
            return value
    return str(value)
