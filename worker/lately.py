"""What happened last, for people who look: some attempts of each lane, some dead letters. Bounded, and without payload.

Kept in memory only, by each process of what it did itself. Pure: times are passed in.
"""

from collections import deque
from typing import NamedTuple

from worker.outcomes import Outcome
from worker.sinks import Delivery

ATTEMPTS = 10
"""So many each lane remembers: one that fails all the time does not push out what others did."""
LETTERS = 30
_CHARACTERS = 300
"""An event may say anything, also a megabyte of it."""


class Attempt(NamedTuple):
    """An attempt that has ended."""

    at: float
    """Loop time."""
    sink: str
    subject: str
    event_id: str
    outcome: Outcome
    error: str


class KeptLetter(NamedTuple):
    """A dead letter that was written."""

    at: float
    """Unix time when it was given up."""
    reason: str
    detail: str
    sink: str
    partition: str
    sequence_number: int
    subject: str
    event_id: str


Attempts = deque[Attempt]
Letters = deque[KeptLetter]


def attempt_of(delivery: Delivery, outcome: Outcome, error: Exception | None, *, at: float) -> Attempt:
    """What is remembered of an attempt: nothing that would keep its event in memory."""
    event = delivery.released.placed.event
    said = clip(str(error)) if error else ""
    return Attempt(at, delivery.sink, clip(event.subject), clip(event.id), outcome, said)


def clip(text: str | None) -> str:
    """Its beginning, where it is long."""
    if text is None:
        return ""
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]}…"
