"""The events of a partition that are released and not settled: who still waits for them, and how often each was tried.

Decides nothing: the pipeline says what happens, the lanes try. Attempts outlive the process, so that an event that
fails ten times here and ten times at the next owner has failed twenty times.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from worker.chains import Job, Owner
from worker.events import Position, UnixSeconds
from worker.sinks import Delivery
from worker.state import Attempted


@dataclass(slots=True)
class Open:
    """An event on its way to its sinks, or a bad one on its way to the dead letters."""

    key: bytes
    digest: str
    sinks: int
    """How many are not done with it."""


class Unsettled:
    """What is on its way, and its attempts. `clock` is the wall clock: it goes on between two lives."""

    def __init__(self, clock: Callable[[], float], left: Iterable[Attempted] = ()) -> None:
        self._clock = clock
        self._open: dict[Position, Open] = {}
        self._tried: dict[tuple[Position, str], Job] = {}
        self._left = {(each.position, each.sink): each for each in left}
        """From an earlier life, until its delivery comes again."""

    def __len__(self) -> int:
        return len(self._open)

    def open(self, position: Position, entry: Open) -> None:
        """The event waits for so many sinks."""
        self._open[position] = entry

    def job(self, delivery: Delivery, owner: Owner, *, again: bool) -> Job:
        """The delivery, with the attempts of an earlier life; `again`: there may have been some."""
        job = Job(delivery, owner, again=again)
        if not self._left:
            return job
        place = delivery.released.placed.position, delivery.sink
        earlier = self._left.pop(place, None)
        if earlier is not None:
            job.attempts, job.asked = earlier.attempts, True
            job.began_at = asyncio.get_running_loop().time() - max(0.0, self._clock() - earlier.first_at)
            self._tried[place] = job
        return job

    def tried(self, job: Job) -> None:
        """An attempt begins."""
        self._tried[job.delivery.released.placed.position, job.delivery.sink] = job

    def sink_done(self, position: Position, sink: str) -> Open | None:
        """One sink is done with it; the entry when it was the last."""
        entry = self._open[position]
        self._tried.pop((position, sink), None)
        if self._left:
            self._left.pop(
                (position, sink), None
            )  # it was tried in an earlier life, and is done with untried in this one
        entry.sinks -= 1
        if entry.sinks:
            return None
        return self._open.pop(position)

    def attempts(self) -> list[Attempted]:
        """What the next life must know."""
        shift = self._clock() - asyncio.get_running_loop().time()
        tried = [
            Attempted(position, sink, job.attempts, UnixSeconds(round(job.since + shift, 3)))
            for (position, sink), job in self._tried.items()
            if job.asked and job.began_at is not None
        ]
        return tried + list(self._left.values())
