"""What both stores call things, and how a dead letter is written down: one row of JSON that survives every property.

No I/O.
"""

import base64
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID

from worker.events import UnixSeconds
from worker.stores import DeadLetter, HubScope

LETTER_FORMAT = 1
"""Written into every row; a reader refuses a higher one instead of guessing.

A field that is merely added does not raise it: rows without it are read, and readers pass over what they do not know.
"""

_LETTER_FIELDS = frozenset(field.name for field in fields(DeadLetter))


def scope_prefix(scope: HubScope) -> str:
    """`<namespace>/<hub>/<group>` in lower case, as the SDK's blob names: Azure compares all three without case."""
    return "/".join(scope).lower()


def sdk_scope(names: Mapping[str, Any]) -> HubScope:
    """The scope of one of the SDK's dictionaries."""
    return HubScope(names["fully_qualified_namespace"], names["eventhub_name"], names["consumer_group"])


def sdk_names(scope: HubScope, partition: str) -> dict[str, Any]:
    """What each of the SDK's dictionaries begins with."""
    return {
        "fully_qualified_namespace": scope.namespace,
        "eventhub_name": scope.hub,
        "consumer_group": scope.consumer_group,
        "partition_id": partition,
    }


def forgettable(parts: Iterable[str], keep: Collection[str]) -> list[str]:
    """Which of a memory's parts nobody needs: those that are not kept, as far as the last that is."""
    return [part for part in parts if part not in keep and (not keep or part < max(keep))]


def letter_name(letter: DeadLetter) -> str:
    """A name that sorts by when the hub took the message, then by its place in the partition.

    Made only of what never changes, so that a letter written again, also by another process, meets its own name.
    """
    return f"{_timestamp(letter.enqueued_at)}-{letter.sequence_number:020d}-{quote(letter.id, safe='')}"


def name_after(enqueued_at: UnixSeconds) -> str:
    """What sorts after the name of every letter whose message the hub took until then.

    A letter is never older than its message, so those that became dead letters until then are before it too.
    """
    return f"{_timestamp(enqueued_at)}~"  # "~" sorts after the "-" of a name


def _timestamp(time: UnixSeconds) -> str:
    return f"{datetime.fromtimestamp(time, UTC):%Y%m%dT%H%M%S.%f}Z"


def letter_to_json(letter: DeadLetter) -> bytes:
    """One row. The body is base64; a property that JSON has no word for is an object with one `$` key."""
    row: dict[str, Any] = {field.name: getattr(letter, field.name) for field in fields(letter)}
    row["body"] = base64.b64encode(letter.body).decode("ascii")
    row["properties"] = {key: _property_to_json(value) for key, value in letter.properties.items()}
    # The standard library, not orjson: it takes integers of any size and lone surrogates, and a letter that cannot be
    # written would hold up its partition for good.
    return json.dumps({"format": LETTER_FORMAT, **row}, separators=(",", ":"), allow_nan=False).encode("ascii")


def letter_from_json(row: bytes) -> DeadLetter:
    """The letter again. Raises ValueError, with a sentence, for a row that this version does not understand."""
    values = json.loads(row)
    if not isinstance(values, dict) or not isinstance(values.get("format"), int):
        raise ValueError("it is no dead letter: the field 'format' is missing")  # noqa: TRY004 - a file's value
    if values.pop("format") > LETTER_FORMAT:
        raise ValueError("it was written by a newer version of the worker: upgrade this one")
    try:
        values["body"] = base64.b64decode(values["body"], validate=True)
        values["properties"] = {key: _property_from_json(value) for key, value in values["properties"].items()}
        return DeadLetter(**{name: value for name, value in values.items() if name in _LETTER_FIELDS})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is no dead letter: {error}") from error


def is_understood(row: bytes) -> bool:
    """Whether this version can read the letter, and so knows what it would delete."""
    try:
        letter_from_json(row)
    except ValueError:
        return False
    return True


def is_older(row: bytes, before: UnixSeconds) -> bool:
    """Whether it became a dead letter before this; never for a row that this version does not understand."""
    try:
        return letter_from_json(row).time < before
    except ValueError:
        return False


def without_body(letter: DeadLetter) -> DeadLetter:
    """The letter as a list shows it: no body and no properties."""
    return replace(letter, body=b"", properties={})


_FORMS: dict[str, tuple[tuple[type, ...], Callable[[Any], str], Callable[[str], object]]] = {
    "$bytes": (
        (bytes, bytearray, memoryview),
        lambda value: base64.b64encode(value).decode("ascii"),
        lambda text: base64.b64decode(text, validate=True),
    ),
    "$float": ((float,), repr, float),
    "$time": ((datetime,), datetime.isoformat, datetime.fromisoformat),
    "$uuid": ((UUID,), str, UUID),
}
"""What JSON has no word for: the tag, the types it stands for, and the way there and back."""


def _property_to_json(value: object) -> Any:
    """Bytes, times, UUIDs and numbers come back as they were; a tuple as a list, any other type as its text."""
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, list | tuple):
        return [_property_to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {"$map": [[_property_to_json(key), _property_to_json(item)] for key, item in value.items()]}
    for tag, (types, to_text, _) in _FORMS.items():
        if isinstance(value, types):
            return {tag: to_text(value)}
    return str(value)


def _property_from_json(value: Any) -> object:
    if isinstance(value, list):
        return [_property_from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    if tag == "$map":
        return {_property_from_json(key): _property_from_json(item) for key, item in content}
    _, _, from_text = _FORMS[tag]
    return from_text(content)
