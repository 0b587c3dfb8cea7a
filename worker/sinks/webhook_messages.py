"""What a webhook is sent: one event as structured JSON, one in binary mode, or several in one array.

Pure, and made from deliveries alone, so that each attempt sends the same. What a request proves itself with is not
known here.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

import orjson

from worker.sinks import Delivery
from worker.sinks.cloudevents import BATCH_CONTENT_TYPE, CONTENT_TYPE, binary, structured, structured_json

KEY_ATTRIBUTE = "idempotencykey"
"""The extension attribute with an event's own key, in a batch; the file sink has it too."""


class Message(NamedTuple):
    """One request, without what it proves itself with."""

    id: str
    """What a receiver knows a repetition by."""
    headers: dict[str, str]
    body: bytes


class Member(NamedTuple):
    """One event of a batch."""

    key: str
    event: bytes
    """As JSON."""


def structured_message(delivery: Delivery) -> Message:
    """The event as one JSON object."""
    return Message(delivery.idempotency_key, {"Content-Type": CONTENT_TYPE}, structured_json(delivery))


def binary_message(delivery: Delivery) -> Message:
    """The attributes as headers, and the data as the body. Raises Rejected where that cannot be."""
    headers, body = binary(delivery)
    return Message(delivery.idempotency_key, headers, body)


def member_of(delivery: Delivery) -> Member:
    """The event as a batch has it."""
    key = delivery.idempotency_key
    return Member(key, orjson.dumps(structured(delivery) | {KEY_ATTRIBUTE: key}))


def batch_message(members: Sequence[Member]) -> Message:
    """The events as one JSON array. Its id is that of these events in this order: another batch has another."""
    batch_id = sha256(orjson.dumps([member.key for member in members])).hexdigest()
    body = b"[" + b",".join(member.event for member in members) + b"]"
    return Message(batch_id, {"Content-Type": BATCH_CONTENT_TYPE}, body)


def fitting(members: Sequence[Member], *, most_bytes: int) -> int:
    """How many of the first ones make an array of at most so many bytes; one at least."""
    size = 1
    for number, member in enumerate(members):
        size += len(member.event) + 1  # a comma, or the bracket at the end
        if size > most_bytes:
            return max(1, number)
    return len(members)
