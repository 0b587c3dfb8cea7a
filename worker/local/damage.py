"""Messages that no reader of Event Grid events can understand, one kind after the other. Pure and seeded.

Every body is different, so that each can be found again among the dead letters by its bytes.
"""

import random
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import orjson

from worker.local.workspace import RUN_STATUS_CHANGED, WORKSPACE, guid


def damaged_bodies(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """The kind of damage and the body, for ever."""
    for kind, make in cycle(_KINDS.items()):
        yield kind, make(_sound_event(rng))


def _sound_event(rng: random.Random) -> dict[str, Any]:
    run = guid(rng)
    return {
        "topic": WORKSPACE,
        "subject": f"experiments/damaged/runs/{run}",
        "eventType": RUN_STATUS_CHANGED,
        "eventTime": "2024-03-11T08:00:00.0000000Z",
        "id": guid(rng),
        "data": {"runId": run, "runStatus": "Running"},
        "dataVersion": "2",
        "metadataVersion": "1",
    }


def _in_array(event: dict[str, Any]) -> bytes:
    return orjson.dumps([event])


def _cut_short(event: dict[str, Any]) -> bytes:
    return _in_array(event)[:-40]


def _not_utf8(event: dict[str, Any]) -> bytes:
    return _in_array(event).replace(b"Running", b"L\xe4uft")


def _text_at_top(event: dict[str, Any]) -> bytes:
    return orjson.dumps(f"run {event['data']['runId']} changed")


def _no_envelope(event: dict[str, Any]) -> bytes:
    return orjson.dumps(event["data"])


def _no_id(event: dict[str, Any]) -> bytes:
    return _in_array({name: value for name, value in event.items() if name != "id"})


def _type_is_number(event: dict[str, Any]) -> bytes:
    return _in_array(event | {"eventType": 7})


def _subject_is_list(event: dict[str, Any]) -> bytes:
    return _in_array(event | {"subject": [event["subject"]]})


def _nesting_bomb(event: dict[str, Any]) -> bytes:
    # Written by hand: orjson refuses to write what is this deep.
    return _in_array(event | {"data": "BOMB"}).replace(b'"BOMB"', b'{"a":' * 2000 + b"1" + b"}" * 2000)


def _other_version(event: dict[str, Any]) -> bytes:
    return orjson.dumps({"specversion": "0.3", "type": event["eventType"], "source": WORKSPACE, "id": event["id"]})


def _broken_base64(event: dict[str, Any]) -> bytes:
    return orjson.dumps(
        {
            "specversion": "1.0",
            "type": event["eventType"],
            "source": WORKSPACE,
            "id": event["id"],
            "data_base64": "this is not base64!",
        }
    )


_KINDS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "cut short": _cut_short,
    "not UTF-8": _not_utf8,
    "text at the top": _text_at_top,
    "no envelope": _no_envelope,
    "no id": _no_id,
    "type is a number": _type_is_number,
    "subject is a list": _subject_is_list,
    "nesting bomb": _nesting_bomb,
    "other specversion": _other_version,
    "broken base64": _broken_base64,
}
