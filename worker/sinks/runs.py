"""Runs of a forge's pipelines: what they are given, and whether a list of them shows that a delivery started one.

A forge starts a run for each request and knows no repetition, so each run carries the delivery's key, and its pipeline
shows that key in the run's name. Where a pipeline does not, no list can tell a run that is missing from one that is
there: this is noticed, because to take it for missing would start it twice. What is asked, and how, is the sink's.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog

from worker.errors import OutcomeUnknown, Rejected
from worker.sinks import Delivery
from worker.sinks.patterns import Pattern
from worker.sinks.rest import short_key

_log = structlog.get_logger()

KEY_CHARACTERS = 100
"""Of the name that the key travels under: no pipeline declares longer ones."""

LOOK_SECONDS = 120.0
"""For all pages of a list together."""
_KEY = re.compile(r"evt-[0-9a-f]{32}")
_CUT = re.compile(r"(\.\.\.|…|evt-[0-9a-f]*)$")
"""The end of a name that was too long: whether a key stood behind it cannot be seen."""
_CLOCKS_SECONDS = 600.0
"""How far the clocks of the hub, of the producer and of the forge may be apart."""
_COPY_SECONDS = 86_400.0
"""How much later a re-sent copy may come than the event that was tried first: Event Grid sends for a day."""


def texts_of(patterns: Mapping[str, Pattern], delivery: Delivery) -> dict[str, str]:
    """Inputs or parameters, filled in. Raises Rejected.

    They are texts, so true is `true` and an object its JSON.
    """
    return {name: _text(pattern.fill(delivery)) for name, pattern in patterns.items()}


def _text(value: Any) -> str:
    match value:
        case str():
            return value
        case None:
            return ""
        case _:
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def same_name(names: Iterable[str], key_name: str) -> str | None:
    """The one of these names that is the key's own, in whatever case: forges do not tell them apart."""
    return next((name for name in names if name.casefold() == key_name.casefold()), None)


def tried_since(delivery: Delivery) -> float:
    """Unix time before which no attempt was made for this delivery, nor for an earlier copy of its event."""
    placed = delivery.released.placed
    enqueued_at = float(placed.message.enqueued_at)
    return min(enqueued_at, max(_moment(placed.event.time), enqueued_at - _COPY_SECONDS)) - _CLOCKS_SECONDS


def _moment(time: str | None) -> float:
    """An event's time; that of the event is before its copies'. Where it makes no sense, long ago."""
    try:
        moment = datetime.fromisoformat(time or "")
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0


def unix_time(text: object) -> float | None:
    """The time that an API wrote; None where there is none."""
    try:
        return datetime.fromisoformat(text).timestamp() if isinstance(text, str) else None
    except ValueError:
        return None


def iso_time(seconds: float) -> str:
    """As APIs read it, to the second."""
    return datetime.fromtimestamp(max(seconds, 0.0), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Sighting:
    """What lists of runs show of one delivery. They are looked at from the newest run to the oldest."""

    def __init__(self, delivery: Delivery) -> None:
        self.found = False
        """A run carries the delivery's key."""
        self._key = short_key(delivery)
        self._oldest_shows: dict[str, bool] = {}
        """By pipeline, whether the oldest run so far that may be it shows a key."""
        self._cut: set[str] = set()

    def look(self, pipeline: str, texts: Collection[object], *, may_be_it: bool) -> None:
        """Looks at a run's texts. `may_be_it`: it was started as this sink does, and not before the delivery."""
        shown = {key for text in texts if isinstance(text, str) for key in _KEY.findall(text)}
        self.found = self.found or self._key in shown
        if not may_be_it:
            return  # what it shows says nothing of later ones: the pipeline may have been changed since
        self._oldest_shows[pipeline] = bool(shown)
        if not shown and any(isinstance(text, str) and _CUT.search(text) for text in texts):
            self._cut.add(pipeline)

    @property
    def silent(self) -> list[str]:
        """Pipelines with such runs that show no key: the delivery's may be one of these.

        A run without one is somebody else's where an older one shows its own, unless its name was cut. A newer one that
        does says nothing: somebody may have repaired the pipeline in between.
        """
        return sorted({pipeline for pipeline, shows in self._oldest_shows.items() if not shows} | self._cut)


async def verdict(look: Awaitable[bool | str], sink: str) -> bool | None:
    """What `verify` answers: whether there is a run; None, with a warning, where `look` says why it cannot tell.

    Raises SinkUnavailable and Misconfigured. Rejected is no verdict: what is refused is the question, not the event.
    """
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            found = await look
    except TimeoutError:
        found = f"the list of runs took longer than {LOOK_SECONDS:g} s"
    except (OutcomeUnknown, Rejected) as error:
        found = str(error)
    if isinstance(found, bool):
        return found
    _log.warning("cannot tell whether a run was started", sink=sink, why=found)
    return None
