"""Bytes to events: what a message of the hub holds, element by element, or why an element is not an event.

Knows Event Grid's two envelopes and CloudEvents' binary mode over AMQP. Nothing that comes in makes it raise. It judges
envelopes only: what `data` means is left to filters and sinks, what an event is ordered by to `keys`.
"""

from base64 import b64encode
from binascii import a2b_base64
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from typing import Any, NamedTuple

import orjson

from worker.events import BadEvent, Event, Message, Schema
from worker.keys import order_key, time_of_milliseconds

MAX_DEPTH = 250
"""How deep an element may nest, itself included: orjson reads 1,024 levels but writes 254, and a sink must write it."""


class BadReason(StrEnum):
    """Why an element, or a whole message, is not an event."""

    AMQP_BODY = "amqp_body"
    """The message's body is an AMQP map, list or sequence."""
    NOT_JSON = "not_json"
    TOO_DEEP = "too_deep"
    """Nested deeper than MAX_DEPTH."""
    NOT_AN_OBJECT = "not_an_object"
    NO_ENVELOPE = "no_envelope"
    """An object that is neither an Event Grid event nor a CloudEvent."""
    UNKNOWN_SPECVERSION = "unknown_specversion"
    MISSING_ID = "missing_id"
    MISSING_TYPE = "missing_type"
    NOT_A_STRING = "not_a_string"
    """A subject, source or time of another type."""
    BAD_BASE64 = "bad_base64"
    BAD_ATTRIBUTE = "bad_attribute"
    """An AMQP application property of a CloudEvent in binary mode that is not UTF-8."""


class _NotAnEvent(Exception):
    def __init__(self, reason: BadReason, detail: str) -> None:
        self.entry = BadEvent(reason, detail)
        super().__init__(detail)


def decode(message: Message) -> list[Event | BadEvent]:
    """One entry per element of the body's array, none for `[]`; one for a single object or for what cannot be read."""
    try:
        elements, shallow = _elements(message)
    except _NotAnEvent as bad:
        return [bad.entry]
    return [_decode_element(element, shallow=shallow) for element in elements]


def _elements(message: Message) -> tuple[list[Any], bool]:
    """What the message holds, and whether it is certain without looking that nothing in it nests too deep."""
    if message.defect is not None:
        raise _NotAnEvent(BadReason.AMQP_BODY, message.defect)
    # With so few opening brackets nothing can be deep, which spares nearly every message the walk through its values.
    shallow = message.body.count(b"{") + message.body.count(b"[") < MAX_DEPTH
    if _is_binary_mode(message):
        return [_binary_envelope(message)], shallow
    body = _parse(message.body)
    return (body if isinstance(body, list) else [body]), shallow


def _parse(body: bytes) -> Any:
    try:
        return orjson.loads(body.lstrip().removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        # What orjson itself refuses is told apart by its words only; a test notices when they change.
        too_deep = error.msg.startswith("depth limit")
        reason = BadReason.TOO_DEEP if too_deep else BadReason.NOT_JSON
        raise _NotAnEvent(reason, f"The body cannot be read as JSON: {error}.") from error


def _decode_element(element: Any, *, shallow: bool) -> Event | BadEvent:
    if not isinstance(element, dict):
        return BadEvent(BadReason.NOT_AN_OBJECT, f"The element is {_kind(element)}, not an object.")
    if not shallow and is_deeper(element, MAX_DEPTH):
        return BadEvent(BadReason.TOO_DEEP, f"The element is nested deeper than {MAX_DEPTH} levels.")
    try:
        return _event(element)
    except _NotAnEvent as bad:
        return bad.entry


def is_deeper(element: Mapping[str, Any], levels: int) -> bool:
    """Whether it is nested deeper. Level by level, because recursion is what deep nesting breaks."""
    level: list[Any] = [element]
    for _ in range(levels):
        level = [
            value
            for container in level
            for value in (container.values() if isinstance(container, dict) else container)
            if isinstance(value, dict | list)
        ]
        if not level:
            return False
    return True


def _event(element: dict[str, Any]) -> Event:
    version = element.get("specversion")
    if version is None:
        version = element.get("specVersion")  # so misspelt in some of the vendor's own examples
    if version is not None:
        if version != "1.0":
            raise _NotAnEvent(BadReason.UNKNOWN_SPECVERSION, 'The only `specversion` understood is the text "1.0".')
        return _enveloped(element, _CLOUD_EVENTS, _cloud_event_data(element))
    if "eventType" in element:
        return _enveloped(element, _EVENT_GRID, element.get("data"))
    raise _NotAnEvent(
        BadReason.NO_ENVELOPE,
        "The object has neither `eventType` (Event Grid) nor `specversion` (CloudEvents); "
        "a subscription with the custom input schema sends no envelope.",
    )


class _Names(NamedTuple):
    """What the two envelopes call the same things; `id` and `subject` they call alike."""

    schema: Schema
    type: str
    source: str
    time: str


_EVENT_GRID = _Names(Schema.EVENT_GRID, type="eventType", source="topic", time="eventTime")
_CLOUD_EVENTS = _Names(Schema.CLOUD_EVENTS, type="type", source="source", time="time")


def _enveloped(element: dict[str, Any], names: _Names, data: Any) -> Event:
    event_id = _required(element, "id", BadReason.MISSING_ID)
    event_type = _required(element, names.type, BadReason.MISSING_TYPE)
    time = _optional(element, names.time)
    key, defect = order_key(event_type, time, data)
    return Event(
        schema=names.schema,
        id=event_id,
        type=event_type,
        source=_optional(element, names.source),
        subject=_optional(element, "subject"),
        time=time,
        data=data,
        envelope=element,
        order_key=key,
        order_defect=defect,
    )


def _cloud_event_data(element: dict[str, Any]) -> Any:
    """`data`; where there is none, what `data_base64` stands for."""
    data, encoded = element.get("data"), element.get("data_base64")
    if encoded is None:
        return data
    if not isinstance(encoded, str):
        raise _NotAnEvent(BadReason.BAD_BASE64, f"`data_base64` is {_kind(encoded)}, not a string.")
    try:
        raw = a2b_base64(encoded, strict_mode=True)
    except ValueError as error:
        raise _NotAnEvent(BadReason.BAD_BASE64, "`data_base64` is not valid base64.") from error
    return raw if data is None else data


def _required(element: dict[str, Any], name: str, reason: BadReason) -> str:
    value = element.get(name)
    if isinstance(value, str) and value:
        return value
    raise _NotAnEvent(reason, f"`{name}` must be a non-empty string and is {_kind(value)}.")


def _optional(element: dict[str, Any], name: str) -> str | None:
    value = element.get(name)
    if value is None or isinstance(value, str):
        return value
    raise _NotAnEvent(BadReason.NOT_A_STRING, f"`{name}` must be a string and is {_kind(value)}.")


def _kind(value: Any) -> str:
    """What stands in a value's place, in the words of JSON. Never the value: it may be a secret."""
    if value is None:
        return "absent or null"
    if value == "":
        return "empty"
    return _KINDS.get(type(value), "a number")


_KINDS: dict[type, str] = {str: "a string", bool: "true or false", list: "an array", dict: "an object"}


# ---- CloudEvents in binary mode: the attributes are application properties, the body is `data`.

_PREFIXES = ("cloudEvents:", "cloudEvents_")
_PREFIX_LENGTH = len("cloudEvents:")
_BINARY_MODE_MARKS = frozenset(
    mark for prefix in _PREFIXES for mark in (f"{prefix}specversion", f"{prefix}specversion".encode())
)


def _is_binary_mode(message: Message) -> bool:
    """As the AMQP binding says: the version is a property, and the content type does not announce a whole event."""
    return (
        message.properties is not None
        and not message.properties.keys().isdisjoint(_BINARY_MODE_MARKS)
        and not (message.content_type or "").lower().startswith("application/cloudevents")
    )


def _binary_envelope(message: Message) -> dict[str, Any]:
    """The same event as it would stand in structured mode, so that filters and sinks know one form only."""
    envelope = _attributes(message.properties or {})
    content_type = message.content_type or envelope.get("datacontenttype")
    if content_type is not None:
        envelope["datacontenttype"] = content_type
    if message.body:
        envelope.update(_binary_data(message.body, str(content_type or "")))
    return envelope


def _attributes(properties: Mapping[Any, object]) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    for raw_name, raw_value in properties.items():
        name = raw_name.decode(errors="replace") if isinstance(raw_name, bytes) else raw_name
        if isinstance(name, str) and name.startswith(_PREFIXES):
            value = _attribute(name, raw_value)
            name = name[_PREFIX_LENGTH:]
            if name == "time" and type(value) is int:  # an AMQP timestamp
                value = time_of_milliseconds(value) or str(value)
            attributes[name] = value
    attributes.pop("data", None)  # not attributes: the body alone says what the data is
    attributes.pop("data_base64", None)
    return attributes


def _attribute(name: str, value: object) -> str | int | None:
    """A property's value as JSON can say it."""
    if value is None or isinstance(value, int):
        return value
    try:
        if isinstance(value, bytes):
            return value.decode()
        f"{name}{value}".encode()  # JSON could not be written later
    except UnicodeError as error:
        raise _NotAnEvent(BadReason.BAD_ATTRIBUTE, f"The application property {name!a} is not UTF-8.") from error
    return str(value)


def _binary_data(body: bytes, content_type: str) -> dict[str, Any]:
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in ("application/json", "text/json") or media_type.endswith("+json"):
        return {"data": _parse(body)}
    if media_type.startswith("text/"):
        with suppress(UnicodeDecodeError):  # another character set, which the receiver may know
            return {"data": body.decode()}
    return {"data_base64": b64encode(body).decode()}
