"""Where an operator wants partitions to be read from: what he writes, and which place in a partition that is.

Pure: the hub is asked elsewhere (`hub`), and so is what only a message can tell (`peek`).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from worker.errors import WorkerError
from worker.events import UnixSeconds
from worker.letters import time_of
from worker.progress import Watermark

Edge = Literal["earliest", "latest"]

BEGINNING = "-1"
"""The offset before the first message, as the SDK has it."""
NO_OFFSET = ""
"""Of a place that is known by its number only: the SDK is then given the number (`lease`)."""


class Span(NamedTuple):
    """What a partition holds."""

    first: int
    """Sequence number of the oldest message that is there."""
    last: int
    """Of the newest one; -1 where there never was one."""
    last_offset: str
    last_at: UnixSeconds
    """When the hub took the newest one."""
    empty: bool
    """Nothing is there: nothing was sent, or all of it is forgotten."""

    @property
    def earliest(self) -> Watermark:
        """Behind which all of it is read."""
        return Watermark(max(-1, self.first - 1), BEGINNING)

    @property
    def latest(self) -> Watermark:
        """Behind which only what comes from now on is read."""
        return self.earliest if self.empty else Watermark(self.last, self.last_offset)


@dataclass(frozen=True, slots=True)
class Since:
    """The first message that the hub took at this time or later."""

    time: UnixSeconds


@dataclass(frozen=True, slots=True)
class Number:
    """The message with this sequence number, which is the first one to be read."""

    sequence_number: int


Target = Edge | Since | Number

_EDGES: dict[str, Edge] = {"earliest": "earliest", "latest": "latest"}


class OutOfReach(WorkerError):
    """A partition has no such place; the text says what it has."""


def place(target: Target, span: Span) -> Watermark | None:
    """The place behind which reading goes on; None: the first message since that time has to be looked for.

    Raises OutOfReach.
    """
    match target:
        case "earliest":
            return span.earliest
        case "latest":
            return span.latest
        case Since(time):
            return span.latest if span.empty or time > span.last_at else None
        case Number(number):
            return _place_of(number, span)


def _place_of(number: int, span: Span) -> Watermark:
    if number > span.last + 1:
        raise OutOfReach(f"the newest message has number {span.last}: there is no {number} yet")
    if number <= span.first:
        return span.earliest  # what was before it, the hub has forgotten
    return span.latest if number == span.last + 1 else before(number)


def before(sequence_number: int) -> Watermark:
    """The place behind which this message is the first."""
    return Watermark(sequence_number - 1, NO_OFFSET)


def parse(text: str, *, now: float) -> Target:
    """What `--to` says: an edge, a sequence number, a time or an age. Raises ValueError with a sentence."""
    text = text.strip()
    if text in _EDGES:
        return _EDGES[text]
    if text.isascii() and text.isdigit():
        return Number(int(text))
    try:
        time = time_of(text, now=now)
    except ValueError:
        raise ValueError(
            f"{text!r} is no place: write earliest, latest, a sequence number, a time such as 2026-01-31T06:00:00Z, "
            "or an age such as 2h"
        ) from None
    if time > now:
        raise ValueError(f"{text} is still to come: `latest` reads only what comes from now on")
    return Since(time)
