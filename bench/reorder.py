"""The reorder job of bench.peers, as data: what arrives, and whether what came out is right.

The standard library only: the peer runs it in an environment of its own, without the worker.
"""

import gc
import random
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

PER_SECOND = 10_000
COLLECTOR = (5_000, 5, 4_000)
"""That of worker/app.py, which the peer cannot import; a test compares them."""


class Job(NamedTuple):
    """What is to be put in order."""

    events: int
    subjects: int
    places: int
    """How many places an event may stand away from its true one."""

    @property
    def window_seconds(self) -> float:
        """How long an event has to be held, so that all that belongs before it has come."""
        return 2 * self.places / PER_SECOND


class Arrival(NamedTuple):
    """An event, decoded."""

    subject: str
    text: str
    """Its place among the events of its subject, as a text that compares like it."""
    number: int
    """Its true place among all."""
    at: float
    """When it came, in seconds."""


def set_collector() -> None:
    """As the worker sets it, for both: what is there before the job is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR)


def arrivals(job: Job) -> list[Arrival]:
    """In the order in which they come; the same for the same job."""
    chance = random.Random(1)  # noqa: S311 - a bench wants the same numbers each time
    places = sorted(range(job.events), key=lambda number: number + chance.uniform(0, job.places))
    return [
        Arrival(f"experiments/e/runs/{number % job.subjects}", f"{number:012d}", number, place / PER_SECOND)
        for place, number in enumerate(places)
    ]


def check(job: Job, numbers: Iterable[int]) -> None:
    """Raises ValueError unless every event came out once, and those of each subject in order."""
    came: dict[int, list[int]] = {}
    for number in numbers:
        came.setdefault(number % job.subjects, []).append(number)
    if sum(map(len, came.values())) != job.events:
        raise ValueError(f"{sum(map(len, came.values()))} of {job.events} events came out")
    for subject, those in came.items():
        if any(later <= earlier for earlier, later in pairwise(those)):
            raise ValueError(f"subject {subject} is out of order")
