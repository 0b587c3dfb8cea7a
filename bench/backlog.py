"""What benchmarks read: events of Azure ML as Event Grid sends them, each a body of exactly so many bytes.

Pure: the same arguments give the same messages.
"""

import random
import zlib
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import orjson

from worker.local.traffic import EVENT_GRID_JSON, TrafficMessage

_ML = "Microsoft.MachineLearningServices."
MARK = "Bench.Mark"
"""The type of the events that say where a backlog ends."""
_AFTERWARDS = "Bench.Afterwards"
_GROUP = "/subscriptions/6f1c6c0e-2d0b-4c55-9a35-0c1b6b0f5d11/resourceGroups/ml-platform/providers/"
_WORKSPACE = _GROUP + "Microsoft.MachineLearningServices/workspaces/forecasting"
_BEGAN = datetime(2026, 1, 1, 8, tzinfo=UTC)
_SPACING = timedelta(milliseconds=1)
_STATUSES = ("Queued", "Preparing", "Running", "Finalizing", "Completed", "Failed")
_EXPERIMENTS = ("demand-forecast", "churn-automl", "vision-defects", "pricing-elasticity")


def backlog(
    events: int, *, subjects: int, body_bytes: int = 900, displaced: int = 20, seed: int = 1
) -> list[TrafficMessage]:
    """So many events about `subjects` subjects, each at most `displaced` places from where its time says it belongs."""
    rng = random.Random(seed)  # noqa: S311 - the same events each time
    messages = [_message(number, rng.randrange(subjects), rng, body_bytes) for number in range(events)]
    keyed = sorted((number + rng.randint(0, displaced), number) for number in range(events))
    return [messages[number] for _, number in keyed]


def _message(number: int, subject: int, rng: random.Random, body_bytes: int) -> TrafficMessage:
    kind, path, data = _told(subject, rng)
    event = _event(f"{rng.getrandbits(128):032x}", _ML + kind, path, number, data)
    return TrafficMessage(_filled(event, body_bytes), EVENT_GRID_JSON, path, events=())


def _told(subject: int, rng: random.Random) -> tuple[str, str, dict[str, Any]]:
    """What happened, to what, and the data; a subject is always of one kind."""
    experiment = _EXPERIMENTS[subject % len(_EXPERIMENTS)]
    match subject % 10:
        case 0 | 1:
            name = f"{experiment}-{subject}"
            data = {"modelName": name, "modelVersion": str(rng.randrange(50)), "modelTags": {"stage": "staging"}}
            return "ModelRegistered", f"models/{name}:1", data
        case 2:
            data = {"dataDriftName": experiment, "driftCoefficient": round(rng.random(), 3)}
            return "DatasetDriftDetected", f"datadrifts/{experiment}/runs/{subject}", data
        case _:
            run = f"{experiment.replace('-', '_')}_{subject:06d}"
            data = {"experimentName": experiment, "runId": run, "runStatus": rng.choice(_STATUSES)}
            return "RunStatusChanged", f"experiments/{experiment}/runs/{run}", data


def _event(identity: str, kind: str, subject: str, number: int, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "topic": _WORKSPACE,
        "subject": subject,
        "eventType": kind,
        "eventTime": f"{_BEGAN + number * _SPACING:%Y-%m-%dT%H:%M:%S.%f}0Z",
        "id": identity,
        "data": data,
        "dataVersion": "2",
        "metadataVersion": "1",
    }


def _filled(event: dict[str, Any], body_bytes: int) -> bytes:
    """As the hub gets it: an array of one, with so much in its data that the body has the size that is wanted."""
    event["data"]["runProperties"] = ""
    missing = body_bytes - len(orjson.dumps([event]))
    if missing < 0:
        raise ValueError(f"a body of {body_bytes} bytes is too small: {-missing} more are needed")
    event["data"]["runProperties"] = "x" * missing
    return orjson.dumps([event])


def marks(partitions: int) -> list[TrafficMessage]:
    """An event for each partition, to be sent behind all others: who is given all of them has come to the end."""
    return [_bare(MARK, key) for key in _keys(partitions)]


def afterwards(partitions: int) -> list[TrafficMessage]:
    """An event for each partition, to be sent a window after the marks: who reads it knows that their time has come."""
    return [_bare(_AFTERWARDS, key) for key in _keys(partitions)]


def _bare(kind: str, key: str) -> TrafficMessage:
    event = _event(f"{kind}-{key}", kind, f"{kind}/{key}", 0, {})
    return TrafficMessage(orjson.dumps([event]), EVENT_GRID_JSON, key, events=())


def _keys(partitions: int) -> list[str]:
    """One partition key for each, as `worker.local.send` spreads them."""
    found: dict[int, str] = {}
    for number in count():
        found.setdefault(zlib.crc32(f"{number}".encode()) % partitions, f"{number}")
        if len(found) == partitions:
            break
    return list(found.values())


def routing(sinks: list[dict[str, Any]], to: str, marks_to: str) -> dict[str, Any]:
    """routes.yaml with ten routes and their filters: eight share a backlog, one takes nothing, one takes the marks."""
    statuses = [
        {
            "includedEventTypes": [_ML + "RunStatusChanged"],
            "advancedFilters": [{"operatorType": "StringIn", "key": "data.runStatus", "values": [status]}],
        }
        for status in _STATUSES
    ]
    filters = [
        *statuses,
        {"includedEventTypes": [_ML + "ModelRegistered"], "subjectBeginsWith": "models/"},
        {"includedEventTypes": [_ML + "DatasetDriftDetected"], "subjectBeginsWith": "datadrifts/"},
        {"subjectEndsWith": "/never"},
    ]
    routes = [{"name": f"part-{number}", "filter": each, "sinks": [to]} for number, each in enumerate(filters)]
    ends = {"name": "marks", "filter": {"includedEventTypes": [MARK]}, "sinks": [marks_to]}
    return {"sinks": sinks, "routes": [*routes, ends]}
