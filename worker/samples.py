"""Events to try a sink with: shaped like Azure's own, and each says in its names that it is a test.

Also one of the user's own. They become deliveries without a hub: no partition, no order, no route. Pure, but for the id
of a sample, which is new each time, so that a person sees it arrive again and no destination takes it for a repetition.
"""

from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import uuid4

import orjson

from worker.decode import decode
from worker.events import (
    DIGEST_TYPE,
    MISSED_TYPE,
    BadEvent,
    Event,
    Message,
    PartitionId,
    Placed,
    Position,
    Released,
    UnixSeconds,
)
from worker.keys import idempotency_key
from worker.notice import entry_of
from worker.sinks import Delivery

NAME = "worker send-test"
"""What the experiment, the model and the rest of a sample are called, and the route of every delivery made here."""

_SLUG = "worker-send-test"
_ML = "Microsoft.MachineLearningServices."
_SOURCE = (
    f"/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/{_SLUG}"
    f"/providers/Microsoft.MachineLearningServices/workspaces/{_SLUG}"
)
_ACCOUNT = (
    f"/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/{_SLUG}"
    f"/providers/Microsoft.Storage/storageAccounts/{_SLUG.replace('-', '')}"
)
_TAGS = {"note": "This is a test. Nothing has happened."}


class Sample(StrEnum):
    """What there is to try."""

    FAILED_RUN = "failed-run"
    COMPLETED_RUN = "completed-run"
    MODEL_REGISTERED = "model-registered"
    DRIFT = "drift"
    BLOB_CREATED = "blob-created"
    DIGEST = "digest"
    MISSED = "missed-expectation"


def sample_delivery(sample: Sample, sink: str, *, now: UnixSeconds, source: str | None = None) -> Delivery:
    """A new event of this kind, for this sink; `source`: of this workspace, and not of one that is named for a test."""
    usual = _ACCOUNT if sample is Sample.BLOB_CREATED else _SOURCE
    match sample:
        case Sample.DIGEST:
            element = _digest(sink, now)
        case Sample.MISSED:
            element = _missed(now, source or usual)
        case _:
            element = _single(sample, now, source or usual)
    return own_delivery(orjson.dumps(element), sink, now=now)


def own_delivery(body: bytes, sink: str, *, now: UnixSeconds) -> Delivery:
    """The one event in these bytes, for this sink. Raises ValueError where they hold none, or several."""
    message = Message(PartitionId("0"), 0, "0", now, body)
    match decode(message):
        case [Event() as event]:
            return _delivery(event, message, sink)
        case [BadEvent() as bad]:
            raise ValueError(f"holds no event ({bad.reason}): {bad.detail}")
        case events:
            raise ValueError(f"holds {len(events)} events; leave one")


def _delivery(event: Event, message: Message, sink: str) -> Delivery:
    return Delivery(
        released=Released(Placed(event, message, Position(0, 0))),
        route=NAME,
        sink=sink,
        idempotency_key=idempotency_key(event, sink),
    )


def _single(sample: Sample, now: UnixSeconds, source: str) -> dict[str, Any]:
    event_type, subject, data = _WHAT[sample]
    return {
        "id": _new_id(),
        "topic": source,
        "subject": subject,
        "eventType": event_type,
        "eventTime": _time(now),
        "data": data,
        "dataVersion": "2",
        "metadataVersion": "1",
    }


def _digest(sink: str, now: UnixSeconds) -> dict[str, Any]:
    """Made of four samples; the first failure is superseded, so that a reader sees how that looks."""
    members = (Sample.FAILED_RUN, Sample.COMPLETED_RUN, Sample.FAILED_RUN, Sample.MODEL_REGISTERED)
    deliveries = [
        sample_delivery(each, sink, now=UnixSeconds(now - 60 * number)) for number, each in enumerate(members)
    ]
    entries = [entry_of(each) for each in reversed(deliveries)]
    entries[1] = replace(entries[1], superseded=True)
    return {
        "specversion": "1.0",
        "id": _new_id(),
        "source": f"/{_SLUG}",
        "type": DIGEST_TYPE,
        "subject": NAME,
        "time": _time(now),
        "data": {
            "count": len(entries),
            "because": "group",
            "group": {"experiment": NAME},
            "events": [entry.to_json() for entry in entries],
        },
    }


def _missed(now: UnixSeconds, source: str) -> dict[str, Any]:
    """A run that began six hours ago, and did not end."""
    began = _single(Sample.FAILED_RUN, UnixSeconds(now - 6 * 3600), source)
    first = {**began, "data": _run(runStatus="Running")}
    return {
        "specversion": "1.0",
        "id": _new_id(),
        "source": f"/{_SLUG}",
        "type": MISSED_TYPE,
        "subject": f"expectations/{_SLUG}/{NAME}",
        "time": _time(now),
        "data": {
            "rule": _SLUG,
            "within": "6h",
            "key": NAME,
            "source": source,
            "due": _time(now),
            "after": first,
        },
    }


def _new_id() -> str:
    return f"{_SLUG}-{uuid4()}"


def _time(now: UnixSeconds) -> str:
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _run(**more: str) -> dict[str, Any]:
    return {
        "experimentId": _SLUG,
        "experimentName": NAME,
        "runId": f"{_SLUG}-run",
        "runType": "azureml.StepRun",
        **more,
        "runTags": _TAGS,
        "runProperties": {},
    }


_RUN_SUBJECT = f"experiments/{_SLUG}/runs/{_SLUG}-run"
_WHAT: dict[Sample, tuple[str, str, dict[str, Any]]] = {
    Sample.FAILED_RUN: (f"{_ML}RunStatusChanged", _RUN_SUBJECT, _run(runStatus="Failed")),
    Sample.COMPLETED_RUN: (f"{_ML}RunCompleted", _RUN_SUBJECT, _run()),
    Sample.MODEL_REGISTERED: (
        f"{_ML}ModelRegistered",
        f"models/{_SLUG}:1",
        {"modelName": NAME, "modelVersion": "1", "modelTags": _TAGS, "modelProperties": {}},
    ),
    Sample.DRIFT: (
        f"{_ML}DatasetDriftDetected",
        f"datadrift/{_SLUG}/run/{_SLUG}-run",
        {
            "dataDriftId": _SLUG,
            "dataDriftName": NAME,
            "runId": f"{_SLUG}-run",
            "baseDatasetId": f"{_SLUG}-baseline",
            "targetDatasetId": f"{_SLUG}-target",
            "driftCoefficient": 0.83,
            "startTime": "2026-01-05T00:00:00+00:00",
            "endTime": "2026-01-12T00:00:00+00:00",
        },
    ),
    Sample.BLOB_CREATED: (
        "Microsoft.Storage.BlobCreated",
        f"/blobServices/default/containers/{_SLUG}/blobs/{NAME}.parquet",
        {
            "api": "PutBlob",
            "contentType": "application/octet-stream",
            "contentLength": 0,
            "blobType": "BlockBlob",
            "eTag": "0x8D000000000000",
            "url": f"https://{_SLUG.replace('-', '')}.blob.core.windows.net/{_SLUG}/{NAME.replace(' ', '%20')}.parquet",
            "sequencer": "00000000000000000000000000000000",
        },
    ),
}
"""Type, subject and data of each event that a service of Azure sends."""
