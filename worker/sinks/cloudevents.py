"""An event as CloudEvents 1.0 structured JSON: the one form in which sinks hand events on.

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
from typing import Any

import orjson

from worker.events import Event, Schema
from worker.keys import normal_time
from worker.sinks import Delivery

NO_SOURCE = "/"
"""The source of an event that came without one: a URI reference, as the attribute must be, that names nothing."""

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"

_MAX_INTEGER = 2**31 - 1  # CloudEvents' Integer has 32 bits

_is_rfc3339 = re.compile(r"[0-9-]{10}T[0-9:]{8}(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:[0-9]{2})").fullmatch
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]")

# Written by `structured` itself, from the decoded event or as the payload: never taken over as an extension.
_CORE = frozenset({"specversion", "id", "source", "type", "subject", "time", "data", "data_base64"})
_TEXTS = frozenset({"datacontenttype", "dataschema"})


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
