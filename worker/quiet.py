"""When a sink is told: at once and alone, in a digest with others, or not now. What the `quiet` section of a sink says.

Pure: the time is passed in, as seconds since 1970. Who is in which group, and what becomes of a group, is in `groups`.
The words group_wait, group_interval and repeat_interval are Prometheus Alertmanager's; here nothing "still fires", so a
repetition is an event that says of its group what was said of it before.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from functools import partial
from typing import Annotated, Literal, NamedTuple, Self, get_args
from zoneinfo import ZoneInfo

import orjson
from pydantic import AfterValidator, Field, field_validator, model_validator

from worker.about import Severity, experiment_of, line, model_of, severity_of, state_of
from worker.events import Event
from worker.filters import find, parse_key
from worker.strict import Settings

_VALUE_CHARACTERS = 100
_WINDOWS_IN_A_ROW = 15
"""Windows that touch are one; a week of days and nights has fewer."""
_WINDOWS_IN_A_WEEK = 20 * 8
_MINUTES_KNOWN = 100
_A_MONDAY = datetime(2024, 1, 1, tzinfo=UTC).timestamp()

Values = tuple[tuple[str, str], ...]
"""What the events of a group have in common: names as in `group_by`, and their values."""

_WORDS: Mapping[str, Callable[[Event], str]] = {
    "type": lambda event: event.type,
    "source": lambda event: event.key.source,
    "subject": lambda event: event.subject or "",
    "state": state_of,
    "severity": lambda event: severity_of(event).value,
    "experiment": experiment_of,
    "model": model_of,
}

_Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_DAYS: tuple[_Day, ...] = get_args(_Day)


def _group_key(name: str) -> str:
    if name not in _WORDS and (not name.startswith("data") or parse_key(name)[0] != "data"):
        words = ", ".join(_WORDS)
        raise ValueError(f"{name!r} is nothing to group by; write one of {words}, or a key such as data.runType")
    return name


def _clock_time(text: str) -> str:
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d|24:00", text):
        raise ValueError('is no time of day; write it as "22:00", in quotes')
    return text


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not found is a KeyError; a path, or a folder of zones, one of the others
        raise ValueError(f"{name!r} is no time zone; write a name such as Europe/Berlin, or UTC") from None
    return name


class PaceSettings(Settings):
    """How many messages a sink gets at most from one partition; what exceeds it becomes a digest."""

    messages: int = Field(ge=1, le=10_000)
    """So many messages at most,"""
    per_seconds: float = Field(gt=0, le=7 * 86_400)
    """in so much time."""


class MuteSettings(Settings):
    """A time of the week in which a sink is not told."""

    days: tuple[_Day, ...] = Field(default=_DAYS, min_length=1)
    """On which days it begins."""
    start: Annotated[str, AfterValidator(_clock_time)] = Field(default="00:00", alias="from")
    """The time of day at which it begins, in quotes."""
    end: Annotated[str, AfterValidator(_clock_time)] = Field(default="24:00", alias="to")
    """The time of day at which it ends. When it is not after `from`, it ends on the next day: with the same time, after
    24 hours."""
    timezone: Annotated[str, AfterValidator(_zone)] = "UTC"
    """In which the times are meant: a name such as Europe/Berlin."""
    then: Literal["hold", "drop", "dead_letter"] = "hold"
    """What becomes of its events: one digest when the window is over; nothing (counted); a dead letter."""
    let_through: Severity | None = None
    """Events of this severity and above are told all the same: info, success, warning or error."""


class QuietSettings(Settings):
    """What keeps a sink from becoming a storm."""

    group_by: tuple[Annotated[str, AfterValidator(_group_key)], ...] | None = Field(default=None, max_length=5)
    """Events with the same values of these are told together: type, source, subject, state, severity, experiment,
    model, or any key as filters have them (`data.runType`). []: all together; left out: each by itself."""
    group_wait_seconds: float = Field(default=30, ge=0, le=86_400)
    """How long a new group waits for more of its kind before it is told; 0: the first event is told at once."""
    group_interval_seconds: float = Field(default=300, gt=0, le=7 * 86_400)
    """How long after it was told the same group may be told again, when something new came to it."""
    repeat_interval_seconds: float | None = Field(default=None, gt=0, le=7 * 86_400)
    """The same, when what came says only what the last message of the group said (same types and states); left out: as
    long as group_interval_seconds."""
    limit: PaceSettings | None = None
    """How many messages at most from one partition; left out: no limit."""
    mute: tuple[MuteSettings, ...] = Field(default=(), max_length=20)
    """When it is not told."""
    max_events: int = Field(default=1000, ge=1, le=1000)
    """A digest stands for at most so many events; a group with more is told at once, and in several."""

    @property
    def tells_some_alone(self) -> bool:
        """Whether some events are told by themselves and others together."""
        return self.group_by is None and (self.limit is not None or any(each.then == "hold" for each in self.mute))

    @field_validator("mute")
    @classmethod
    def _mute_ends(cls, mute: tuple[MuteSettings, ...]) -> tuple[MuteSettings, ...]:
        if any(each.then == "hold" for each in mute) and _never_ends(mute):
            raise ValueError(
                "leaves no time of the week in which what is held could be told; add from and to, or write then: drop"
            )
        return mute

    @model_validator(mode="after")
    def _intervals(self) -> Self:
        repeat = self.repeat_interval_seconds
        if repeat is not None and repeat < self.group_interval_seconds:
            raise ValueError(
                "repeat_interval_seconds must not be shorter than group_interval_seconds; write a longer one"
            )
        return self


class Mute(NamedTuple):
    """A window that is open."""

    until: float
    """Unix time."""
    then: Literal["hold", "drop", "dead_letter"]


@dataclass(frozen=True, slots=True)
class Bucket:
    """What is left of a limit: tokens, each good for one message, as they were at a time."""

    tokens: float
    at: float


class Quiet:
    """One sink's settings, ready to be asked."""

    def __init__(self, settings: QuietSettings) -> None:
        self.settings = settings
        self.groups = settings.group_by is not None
        self._values = [
            (name, _WORDS.get(name) or partial(_found, parse_key(name))) for name in settings.group_by or ()
        ]
        self._windows = [(each, _Window(each)) for each in settings.mute]

    def values_of(self, event: Event) -> Values:
        """By which group the event is told."""
        return tuple((name, line(value(event), _VALUE_CHARACTERS)) for name, value in self._values)

    def muted(self, severity: Severity, now: float) -> Mute | None:
        """The window that is open for events of this severity, if any; of several the first in the file."""
        open_for = [
            (each, window)
            for each, window in self._windows
            if each.let_through is None or severity.rank < each.let_through.rank
        ]
        for each, window in open_for:
            if (until := window.end(now)) is not None:
                return Mute(_last_end(until, [other for _, other in open_for]), each.then)
        return None

    def due(self, *, now: float, told_at: float | None, news: bool) -> float:
        """When a group must be told to which an event comes now."""
        settings = self.settings
        waited = now + settings.group_wait_seconds
        if told_at is None:
            return waited
        repeat = settings.repeat_interval_seconds or settings.group_interval_seconds
        return max(waited, told_at + (settings.group_interval_seconds if news else repeat))

    @property
    def memory_seconds(self) -> float:
        """How long it matters that a group was told."""
        return max(self.settings.group_interval_seconds, self.settings.repeat_interval_seconds or 0.0)

    def filled(self, bucket: Bucket | None, now: float) -> Bucket | None:
        """The bucket as it is now; None where there is no limit."""
        limit = self.settings.limit
        if limit is None:
            return None
        if bucket is None:
            return Bucket(limit.messages, now)
        passed = max(0.0, now - bucket.at)
        return Bucket(min(limit.messages, bucket.tokens + passed * limit.messages / limit.per_seconds), now)


class _Window:
    """A mute window by the calendar of its zone."""

    def __init__(self, settings: MuteSettings) -> None:
        self._days = {_DAYS.index(day) for day in settings.days}
        self._zone = ZoneInfo(settings.timezone)
        self._from = _minutes(settings.start)
        length = _minutes(settings.end) - self._from
        self._to = self._from + (length if length > 0 else length + 24 * 60)
        self._ends: dict[int, float | None] = {}

    def end(self, now: float) -> float | None:
        """When it ends, where it is open now. It begins and ends with a minute, and is asked about each event."""
        minute = int(now // 60)
        if minute not in self._ends:
            if len(self._ends) >= _MINUTES_KNOWN:
                self._ends.clear()
            self._ends[minute] = self._look(now)
        return self._ends[minute]

    def _look(self, now: float) -> float | None:
        today = datetime.fromtimestamp(now, UTC).astimezone(self._zone).date()
        for day in (today, today - timedelta(days=1)):
            if day.weekday() in self._days:
                start, end = (self._moment(day.toordinal(), minutes) for minutes in (self._from, self._to))
                if start <= now < end:
                    return end
        return None

    def _moment(self, day: int, minutes: int) -> float:
        """Wall clock time, so that a night that the clocks change in ends when people look at them."""
        days, rest = divmod(minutes, 24 * 60)
        date = datetime.fromordinal(day + days).date()
        return datetime.combine(date, time_of_day(rest // 60, rest % 60), self._zone).timestamp()


def _never_ends(mute: Iterable[MuteSettings]) -> bool:
    """Whether at every time of the week a window is open for whatever nobody lets through."""
    windows = [_Window(each) for each in mute if each.let_through is not Severity.INFO]
    return _last_end(_A_MONDAY, windows, in_a_row=_WINDOWS_IN_A_WEEK) >= _A_MONDAY + 7 * 86_400


def _last_end(until: float, windows: list[_Window], *, in_a_row: int = _WINDOWS_IN_A_ROW) -> float:
    """Windows that touch are one."""
    for _ in range(in_a_row):
        later = [end for window in windows if (end := window.end(until)) is not None]
        if not later:
            break
        until = max(later)
    return until


def _minutes(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)


def _found(names: tuple[str, ...], event: Event) -> str:
    value = find(names, event)
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode(errors="replace")
