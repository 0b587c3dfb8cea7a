"""Whether the worker is alive and ready: loops leave heartbeats, parts say whether they can work.

Alive means that its own loops move. It never asks a destination or the hub: restarting the worker repairs neither.
It serves nothing; `http` does. Used from the event loop only.
"""

import time
from collections.abc import Callable


class Health:
    """What `/livez` and `/readyz` answer from."""

    def __init__(self, *, limit_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_seconds = limit_seconds
        self._clock = clock
        self._beats: dict[str, float] = {}
        self._not_ready: dict[str, str] = {}
        self._notes: dict[str, str] = {}

    def beat(self, name: str) -> None:
        """The loop `name` has just moved; from its first beat on it is expected to beat again within the limit."""
        self._beats[name] = self._clock()

    def forget(self, name: str) -> None:
        """The loop `name` ended as it should."""
        self._beats.pop(name, None)

    def stale(self, now: float | None = None) -> list[str]:
        """The loops that have not moved for longer than the limit, by name."""
        moment = self._clock() if now is None else now
        return sorted(name for name, beat in self._beats.items() if moment - beat > self._limit_seconds)

    def set_ready(self, name: str, *, ok: bool, detail: str = "") -> None:
        """States a condition of readiness. One that was never stated does not count: state it as False at the start."""
        if ok:
            self._not_ready.pop(name, None)
        else:
            self._not_ready[name] = detail

    def not_ready(self) -> dict[str, str]:
        """The conditions that do not hold, with what is known about why; empty: ready."""
        return dict(sorted(self._not_ready.items()))

    def note(self, name: str, text: str) -> None:
        """States something that somebody should know, and that does not make the worker unready. Empty: no more."""
        if text:
            self._notes[name] = text
        else:
            self._notes.pop(name, None)

    def notes(self) -> dict[str, str]:
        """What was noted and still holds."""
        return dict(sorted(self._notes.items()))
