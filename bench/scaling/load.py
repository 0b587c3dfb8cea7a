"""Traffic that is even: each partition gets one event after the other at the same distance. Pure.

With it a gap in what a partition delivers is the partition's pause, and not the traffic's.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count, islice

import orjson

from worker.local.traffic import EVENT_GRID_JSON, TrafficEvent, TrafficMessage

_SOURCE = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/ml/providers/Contoso.Runs/runs"
_TYPE = "Contoso.Runs.Step"
_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Load:
    """Messages in the order to send them, one event each."""

    messages: list[TrafficMessage]
    partition_of: dict[str, int]
    """By the event's id."""


def even(partitions: int, each: int, *, subjects: int = 8) -> Load:
    """So many events for each partition, of so many subjects on each; partitions take turns, and so do subjects."""
    keys = [list(islice(_keys(partition, partitions), subjects)) for partition in range(partitions)]
    messages, partition_of = [], {}
    for number in range(partitions * each):
        turn, partition = divmod(number, partitions)
        index, which = divmod(turn, subjects)
        event = TrafficEvent(f"event-{number}", _TYPE, _SOURCE, keys[partition][which], index, {})
        partition_of[event.id] = partition
        messages.append(_message(event, _BEGAN + timedelta(milliseconds=number)))
    return Load(messages, partition_of)


def _keys(partition: int, partitions: int) -> Iterator[str]:
    """Subjects that `worker.local.send` puts on this partition."""
    names = (f"runs/{number}" for number in count())
    return (name for name in names if zlib.crc32(name.encode()) % partitions == partition)


def _message(event: TrafficEvent, time: datetime) -> TrafficMessage:
    envelope = {
        "topic": event.source,
        "subject": event.subject,
        "eventType": event.type,
        "eventTime": f"{time:%Y-%m-%dT%H:%M:%S.%f}0Z",
        "id": event.id,
        "data": {"step": event.index, "note": "x" * 300},
        "dataVersion": "1",
        "metadataVersion": "1",
    }
    return TrafficMessage(orjson.dumps([envelope]), EVENT_GRID_JSON, event.subject, (event,))
