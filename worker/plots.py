"""The last hour in lines: from samples to the points of a drawing. Pure: times are passed in, and it draws nothing."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import floor, log10
from typing import NamedTuple

SPAN_SECONDS = 3600.0
SAMPLE_SECONDS = 15.0
SAMPLES = int(SPAN_SECONDS / SAMPLE_SECONDS) + 1
"""So many are kept."""
WIDTH, HEIGHT = 600, 100
"""Of a drawing, in its own units; the line stays as thick however far that is stretched."""
_GAP_SECONDS = 2.5 * SAMPLE_SECONDS
"""Farther apart, nobody knows what was between two samples."""
_DOT = 2.0


class Sample(NamedTuple):
    """How it stood at one time; None where nothing was known."""

    at: float
    """Of a clock that only goes forwards."""
    lag_events: float | None
    lag_seconds: float | None
    delivered: float
    """Accepted by destinations since the process started."""
    oldest_seconds: float | None
    """How long the oldest delivery in any lane has waited."""


class Plot(NamedTuple):
    """One drawing."""

    title: str
    unit: str
    now: float | None
    highest: float | None
    top: float
    """What the upper edge stands for; the lower one is 0."""
    lines: tuple[str, ...]
    """Points as SVG has them. Several, where something between is not known."""


def plots(samples: Sequence[Sample], now: float) -> tuple[Plot, ...]:
    """All that is drawn of these samples."""
    return (
        _plot("Lag", "events", [(each.at, each.lag_events) for each in samples], now),
        _plot("Oldest unsettled", "seconds", [(each.at, each.lag_seconds) for each in samples], now),
        _plot("Deliveries", "per minute", list(_per_minute(samples)), now),
        _plot("Oldest delivery waiting", "seconds", [(each.at, each.oldest_seconds) for each in samples], now),
    )


def _per_minute(samples: Sequence[Sample]) -> Iterable[tuple[float, float | None]]:
    for before, after in pairwise(samples):
        seconds = after.at - before.at
        if seconds > 0:
            yield after.at, (after.delivered - before.delivered) / seconds * 60


def _plot(title: str, unit: str, values: Sequence[tuple[float, float | None]], now: float) -> Plot:
    recent = [(at, value) for at, value in values if now - at <= SPAN_SECONDS]
    known = [value for _, value in recent if value is not None]
    top = _round_up(max(known, default=0.0))
    lines = tuple(_points(part, now, top) for part in _parts(recent))
    return Plot(title, unit, recent[-1][1] if recent else None, max(known, default=None), top, lines)


def _parts(values: Iterable[tuple[float, float | None]]) -> Iterable[list[tuple[float, float]]]:
    """Stretches without a gap."""
    part: list[tuple[float, float]] = []
    for at, value in values:
        if part and (value is None or at - part[-1][0] > _GAP_SECONDS):
            yield part
            part = []
        if value is not None:
            part.append((at, value))
    if part:
        yield part


def _points(part: Sequence[tuple[float, float]], now: float, top: float) -> str:
    places = [(WIDTH * (1 - (now - at) / SPAN_SECONDS), HEIGHT * (1 - max(0.0, value) / top)) for at, value in part]
    if len(places) == 1:  # a line of one point is not seen
        [(x, y)] = places
        places = [(x - _DOT, y), (x, y)]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _round_up(value: float) -> float:
    """The next 1, 2 or 5 times a power of ten; 1 at least."""
    if value <= 1:
        return 1.0
    power = 10.0 ** floor(log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value or step == 10)
