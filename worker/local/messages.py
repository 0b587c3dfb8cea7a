"""An encoded message: taken apart by section, stamped by the broker, put together again. Bodies are never decoded.

Every section a sender put in comes out again, byte for byte, except that the broker's own annotations replace
annotations of the same name: a forwarded event carries those of the hub it came from.
"""

from collections.abc import Mapping
from typing import NamedTuple

from worker.local.encoding import (
    MalformedError,
    content_of,
    descriptor_of,
    encode_map,
    encode_section,
    end_of,
    items_of,
    joined,
    long,
    string,
    symbol,
    timestamp,
)

_HEADER, _DELIVERY_ANNOTATIONS, _MESSAGE_ANNOTATIONS, _DATA, _FOOTER = 0x70, 0x71, 0x72, 0x75, 0x78

PARTITION_KEY = b"x-opt-partition-key"
_NAMES = {
    name: symbol(name)
    for name in (
        "x-opt-partition-key",
        "x-opt-sequence-number",
        "x-opt-offset",
        "x-opt-enqueued-time",
        "x-opt-sequence-number-epoch",
        "last_enqueued_sequence_number",
        "last_enqueued_offset",
        "last_enqueued_time_utc",
        "runtime_info_retrieval_time_utc",
    )
}
NO_EPOCH = -1
"""The epoch of sequence numbers that namespaces without geo-replication send."""
_ENCODED_NO_EPOCH = b"\x55\xff"

Annotations = Mapping[bytes, tuple[bytes, bytes]]
"""Name -> encoded key and encoded value."""


class Stamp(NamedTuple):
    """A message's place in its partition."""

    sequence_number: int
    offset: int
    enqueued_ms: int


class Message(NamedTuple):
    """A message as it was sent, cut where the broker adds something."""

    header: bytes
    delivery_annotations: bytes
    """The section as it came, empty where there is none."""
    annotations: Annotations
    rest: bytes
    """From the properties to the footer."""

    @property
    def partition_key(self) -> bytes | None:
        """What decides the partition, where the sender gave it."""
        entry = self.annotations.get(PARTITION_KEY)
        return None if entry is None else content_of(entry[1])


def parse(encoded: bytes) -> Message:
    """Takes a message apart, or raises MalformedError: what cannot be walked would break every consumer.

    Sections are taken in any order, because the Python SDK does not send them in that of the standard.
    """
    apart = {_HEADER: b"", _DELIVERY_ANNOTATIONS: b"", _MESSAGE_ANNOTATIONS: b""}
    rest = []
    at = 0
    while at < len(encoded):
        code, _ = descriptor_of(encoded, at)
        end = end_of(encoded, at)
        if code in apart:
            apart[code] = encoded[at:end]
        elif _MESSAGE_ANNOTATIONS < code <= _FOOTER:
            rest.append(encoded[at:end])
        else:
            raise MalformedError(f"0x{code:02x} at byte {at} is no section of a message")
        at = end
    annotations = _annotations(apart[_MESSAGE_ANNOTATIONS])
    return Message(apart[_HEADER], apart[_DELIVERY_ANNOTATIONS], annotations, b"".join(rest))


def _annotations(section: bytes) -> Annotations:
    if not section:
        return {}
    items = items_of(section, descriptor_of(section, 0)[1])
    if len(items) % 2:
        raise MalformedError("a map of annotations has a key without a value")
    return {content_of(key): (key, value) for key, value in zip(items[::2], items[1::2], strict=True)}


def unwrap(batch: bytes) -> list[Message]:
    """The messages in a batch envelope: each data section holds one. The envelope's partition key is theirs."""
    envelope = parse(batch)
    key = {name: entry for name, entry in envelope.annotations.items() if name == PARTITION_KEY}
    messages = []
    at = 0
    while at < len(envelope.rest):
        code, value = descriptor_of(envelope.rest, at)
        at = end_of(envelope.rest, at)
        if code == _DATA:
            message = parse(content_of(envelope.rest[value:at]))
            messages.append(message._replace(annotations={**message.annotations, **key}))
    return messages


def stamped(message: Message, stamp: Stamp, epoch: int = NO_EPOCH) -> bytes:
    """The message as consumers get it and as the log keeps it; `epoch` is that of the sequence number."""
    annotations = {
        **message.annotations,
        **_named(
            ("x-opt-sequence-number", long(stamp.sequence_number)),
            ("x-opt-offset", string(str(stamp.offset))),
            ("x-opt-enqueued-time", timestamp(stamp.enqueued_ms)),
            ("x-opt-sequence-number-epoch", _ENCODED_NO_EPOCH if epoch == NO_EPOCH else long(epoch)),
        ),
    }
    section = encode_section(_MESSAGE_ANNOTATIONS, encode_map(joined(annotations.values())))
    return b"".join((message.header, message.delivery_annotations, section, message.rest))


def runtime_metric(last: Stamp, now_ms: int) -> Annotations:
    """What a delivery tells a consumer that tracks how far behind it is."""
    return _named(
        ("last_enqueued_sequence_number", long(last.sequence_number)),
        ("last_enqueued_offset", string(str(last.offset))),
        ("last_enqueued_time_utc", timestamp(last.enqueued_ms)),
        ("runtime_info_retrieval_time_utc", timestamp(now_ms)),
    )


def with_delivery_annotations(encoded: bytes, added: Annotations) -> bytes:
    """A stored message with delivery annotations, merged with those its sender put in."""
    at = end_of(encoded, 0) if encoded[2] == _HEADER else 0
    end = end_of(encoded, at) if encoded[at + 2] == _DELIVERY_ANNOTATIONS else at
    merged = {**_annotations(encoded[at:end]), **added}
    section = encode_section(_DELIVERY_ANNOTATIONS, encode_map(joined(merged.values())))
    return b"".join((encoded[:at], section, encoded[end:]))


def _named(*values: tuple[str, bytes]) -> Annotations:
    return {name.encode(): (_NAMES[name], value) for name, value in values}
