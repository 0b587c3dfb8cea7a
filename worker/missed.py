"""An expectation that was missed, and the event that tells of it. Values only; who delivers it is in `alarms`.

The event is the same in every life: its id is a digest of what was expected, its time is when that was due. So a sink
that knows idempotency keys is told once, whoever tells it and how often.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Protocol

import orjson

from worker.events import MISSED_TYPE

_LONGEST_KEY = 200


def missed_source(hub: str, consumer_group: str) -> str:
    """The source of the events that tell of what was missed: routes with `sources` name it."""
    return f"/worker/{hub}/{consumer_group}"


@dataclass(eq=False)
class Missed:
    """What is to be told, and how far that is."""

    number: int
    """What its book knows it by."""
    rule: str
    key: str
    """Of the expectation, as people read it: `shown_key`."""
    id: str
    due: float
    """Unix time: when it should have come at the latest."""
    data: dict[str, Any]
    """What the event says besides."""
    made_at: float
    """Wall clock, when it was found missing: the time to give up counts from here, over all lives."""
    book: "Book"
    served: set[str] = field(default_factory=set)
    """The sinks that are done with it."""
    held: set[str] = field(default_factory=set)
    """Those of them that hold it for a digest; a book outside the state waits until the state has that."""
    attempts: dict[str, int] = field(default_factory=dict)
    """How often each of the others was tried, over all lives."""

    def event(self, source: str) -> dict[str, Any]:
        """The CloudEvent that goes through the routes."""
        return {
            "specversion": "1.0",
            "id": self.id,
            "source": source,
            "type": MISSED_TYPE,
            "subject": f"expectations/{self.rule}/{self.key}",
            "time": time_text(self.due),
            "datacontenttype": "application/json",
            "data": {"rule": self.rule, **self.data, "due": time_text(self.due)},
        }


class Book(Protocol):
    """Who keeps what was missed until every sink is done with it."""

    def note(self, missed: Missed, /) -> None:
        """A sink is done with it, or was tried: `served` and `attempts` say so."""
        ...

    def settled(self, missed: Missed, /) -> None:
        """Every sink is done with it."""
        ...


def missed_id(*parts: str | None) -> str:
    """The same for the same rule, key and first event (or source and last sign of life). 32 hex digits."""
    return sha256(orjson.dumps(["missed", *parts])).hexdigest()[:32]


def shown_key(key: str) -> str:
    """A key where people and subjects can stand it: itself, or a short digest of one that is long, odd or empty."""
    if key and len(key) <= _LONGEST_KEY and key.isprintable():
        return key
    return sha256(key.encode(errors="replace")).hexdigest()[:16]


def time_text(seconds: float) -> str:
    """RFC 3339 in UTC, with the seven fraction digits of Event Grid."""
    return f"{datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}0Z"
