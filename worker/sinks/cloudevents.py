"""An event as a CloudEvent 1.0, the one form in which sinks hand events on: as structured JSON, or as headers and body.

A pure function of the delivery: no clock, no attempt counter, so that every attempt sends the same bytes. It converts
and never judges; what is no event was refused by `decode`. What a strict receiver would refuse the whole event for is
repaired or left out here, attribute by attribute:

- absent, null and empty attributes are left out; `source`, which CloudEvents requires, is then `NO_SOURCE`
- a time that the worker reads but RFC 3339 does not allow (no zone) goes out in UTC; one that is none is left out
- names become lower-case letters and digits (`specVersion`, `trace_id`); where two become one, the first stays
- extension values of a type that CloudEvents does not have (numbers beyond 32 bits or with a fraction, objects,
  arrays) become their JSON text
"""

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import orjson

from worker.errors import Rejected
from worker.events import Event, Schema
from worker.keys import normal_time
from worker.sinks import Delivery

NO_SOURCE = "/"
"""The source of an event that came without one: a URI reference, as the attribute must be, that names nothing."""

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"

BATCH_CONTENT_TYPE = "application/cloudevents-batch+json; charset=utf-8"

_MAX_INTEGER = 2**31 - 1  # CloudEvents' Integer has 32 bits

_is_rfc3339 = re.compile(r"[0-9-]{10}T[0-9:]{8}(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:[0-9]{2})").fullmatch
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]")

# Written by `structured` itself, from the decoded event or as the payload: never taken over as an extension.
_CORE = frozenset({"specversion", "id", "source", "type", "subject", "time", "data", "data_base64"})
_TEXTS = frozenset({"datacontenttype", "dataschema"})

# HTTP binding 3.1.3.2: in a header's value all but the printable characters of ASCII is percent-encoded, and of these
# space, quote and percent.
_AS_THEY_ARE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_is_header_value = re.compile(r"[!-~](?:[\t -~]*[!-~])?").fullmatch
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([^\s;\"]+)", re.IGNORECASE)


def structured(delivery: Delivery) -> dict[str, Any]:
    """The CloudEvent as a JSON object, required attributes first, payload last."""
    released = delivery.released
    event = released.placed.event
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source or NO_SOURCE,
        "type": event.type,
    }
    if event.subject:
        attributes["subject"] = event.subject
    if event.time and (time := _rfc3339(event.time)):
        attributes["time"] = time
    if event.schema is Schema.CLOUD_EVENTS:
        for name, value in _other_attributes(event.envelope):
            attributes.setdefault(name, value)
    elif event.data is not None:
        attributes["datacontenttype"] = "application/json"
    if released.late_by_ms is not None:
        attributes["lateby"] = min(released.late_by_ms, _MAX_INTEGER)
    if delivery.replayed:
        attributes["replayed"] = True
    return attributes | _payload(event)


def structured_json(delivery: Delivery) -> bytes:
    """The same as UTF-8 bytes: what is signed, and what is sent."""
    return orjson.dumps(structured(delivery))


def structured_text(delivery: Delivery) -> str:
    """The same for people: with line breaks."""
    return orjson.dumps(structured(delivery), option=orjson.OPT_INDENT_2).decode()


class Binary(NamedTuple):
    """A CloudEvent in HTTP's binary mode."""

    headers: dict[str, str]
    body: bytes
    """Empty where there is no data."""


def binary(delivery: Delivery) -> Binary:
    """The attributes as `ce-` headers, the data as it is. Raises Rejected where its type cannot be said in a header."""
    attributes = structured(delivery)
    for payload in ("data", "data_base64"):
        attributes.pop(payload, None)
    data = delivery.released.placed.event.data
    media_type = attributes.pop("datacontenttype", None)
    headers = {f"ce-{name}": _header_value(value) for name, value in attributes.items()}
    if media_type is None and data is not None:
        media_type = "application/octet-stream" if isinstance(data, bytes) else "application/json"
    if media_type is not None:
        headers["Content-Type"] = _checked_type(media_type)
    return Binary(headers, _body(data, media_type or ""))


def _header_value(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return quote(text, safe=_AS_THEY_ARE)


def _checked_type(media_type: str) -> str:
    if not _is_header_value(media_type):
        raise Rejected("the event's datacontenttype cannot stand in a header: mode binary cannot send it")
    if media_type.lower().startswith("application/cloudevents"):
        raise Rejected("the event's data is itself a CloudEvent: in mode binary it would be taken for the event")
    return media_type


def _body(data: object, media_type: str) -> bytes:
    if data is None or isinstance(data, bytes):
        return data or b""
    if not isinstance(data, str) or _is_json(media_type):
        return orjson.dumps(data)
    charset = _CHARSET.search(media_type)
    try:
        return data.encode(charset[1] if charset else "utf-8")
    except (LookupError, UnicodeError):
        raise Rejected("the event's data cannot be written in the charset of its datacontenttype") from None


def _is_json(media_type: str) -> bool:
    subtype = media_type.partition(";")[0].strip().lower().rpartition("/")[2]
    return subtype == "json" or subtype.endswith("+json")


def _rfc3339(text: str) -> str | None:
    normal = normal_time(text)
    return text if normal is not None and _is_rfc3339(text) else normal


def _other_attributes(envelope: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in envelope.items():
        name = _NOT_IN_NAMES.sub("", key.lower())
        if key in _CORE or name in _CORE or not name or value is None or value == "":
            continue
        if name in _TEXTS and not isinstance(value, str):
            continue
        yield name, value if _is_attribute_value(value) else orjson.dumps(value).decode()


def _is_attribute_value(value: object) -> bool:
    if isinstance(value, int):
        return -_MAX_INTEGER - 1 <= value <= _MAX_INTEGER
    return isinstance(value, str)


def _payload(event: Event) -> dict[str, Any]:
    if event.data is None:
        return {}
    if isinstance(event.data, bytes):
        return {"data_base64": b64encode(event.data).decode()}
    return {"data": event.data}
