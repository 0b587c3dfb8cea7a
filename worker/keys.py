"""What an event is compared by: its order key, the key it is recognised by, and the key it is delivered under.

Pure text arithmetic: no clock, no memory of earlier events (`duplicates` and `order` have that), and no calendar
library, whose times would lose the last of the seven fraction digits.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any, Literal

import orjson

from worker.events import Event, OrderKey, OrderKind

OrderDefect = Literal["sequencer", "time"]
"""Which stronger order key was there and could not be used."""

_ARRIVAL = OrderKey(OrderKind.ARRIVAL, None)

_SEQUENCER_DIGITS = 64
_is_sequencer = re.compile(rf"[0-9A-Fa-f]{{1,{_SEQUENCER_DIGITS}}}").fullmatch

# What nearly every Azure service sends is the normal form, but for its last letters: to recognise it is enough.
_is_usual_time = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{7}(?:Z|\+00:00)"
).fullmatch
_USUAL_LENGTH = len("2017-06-26T18:41:00.9584103")
# RFC 3339, and what is seen besides: no zone, a zone without its colon.
_parse_time = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9])(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([01][0-9]|2[0-3]):?([0-5][0-9]))?"
).fullmatch
_FRACTION_DIGITS = 7
_DAYS_PER_400_YEARS = 146_097
_MINUTES_PER_DAY = 24 * 60
_MILLISECONDS_PER_DAY = _MINUTES_PER_DAY * 60_000

_RUN_COMPLETED = "microsoft.machinelearningservices.runcompleted"
_RUN_STATUS_CHANGED = "microsoft.machinelearningservices.runstatuschanged"
_RUN_RANKS = {
    "notstarted": 1,
    "queued": 2,
    "preparing": 2,
    "provisioning": 2,
    "starting": 2,
    "running": 3,
    "cancelrequested": 4,
    "finalizing": 5,
    "completed": 8,
    "failed": 8,
    "canceled": 8,
    "notresponding": 8,
}
_UNKNOWN_RANK = 0
_RUN_COMPLETED_RANK = 9


def order_key(event_type: str, time: str | None, data: object) -> tuple[OrderKey, OrderDefect | None]:
    """The strongest order key the event has, and the name of a stronger one that is there but cannot be used."""
    fields: Mapping[str, Any] = data if isinstance(data, dict) else {}
    defect: OrderDefect | None = None
    sequencer = look_up(fields, "sequencer")
    if sequencer is not None:
        if isinstance(sequencer, str) and _is_sequencer(sequencer):
            # Widths and case are mixed in the wild; padded and lowered, the order of the texts is that of the integers.
            return OrderKey(OrderKind.SEQUENCER, sequencer.lower().rjust(_SEQUENCER_DIGITS, "0")), None
        defect = "sequencer"
    if time is None:
        return _ARRIVAL, defect
    utc = normal_time(time)
    if utc is None:
        return _ARRIVAL, defect or "time"
    return OrderKey(OrderKind.TIME, utc + _run_suffix(event_type, fields)), defect


def look_up(fields: Mapping[str, Any], name: str) -> Any:
    """The value of this name, else of the first name in the document that differs in case only, else None.

    Azure ML spells the same key `runTags`, `RunTags` and `ModelTags`, depending on the event and the year.
    """
    if name in fields:
        return fields[name]
    folded = name.casefold()
    for other, value in fields.items():
        if other.casefold() == folded:
            return value
    return None


def _run_suffix(event_type: str, fields: Mapping[str, Any]) -> str:
    """What breaks a tie between states of one Azure ML run that carry the same time; empty for all other events."""
    folded = event_type.casefold()
    if folded == _RUN_STATUS_CHANGED:
        status = look_up(fields, "runStatus")
        rank = _RUN_RANKS.get(status.casefold(), _UNKNOWN_RANK) if isinstance(status, str) else _UNKNOWN_RANK
        return f"/{rank}"
    return f"/{_RUN_COMPLETED_RANK}" if folded == _RUN_COMPLETED else ""


def normal_time(text: str) -> str | None:
    """The same moment as `2017-06-26T18:41:00.9584103Z`: UTC, seven fraction digits; None when it cannot be read.

    A time without a zone is UTC, digits beyond the seventh are cut, and neither a leap second nor a year outside 1 to
    9999 can be read.
    """
    if _is_usual_time(text):
        return f"{text[:_USUAL_LENGTH]}Z" if _date_days(text[:10]) is not None else None
    parsed = _parse_time(text)
    if parsed is None:
        return None
    date, hour, minute, second, fraction, sign, offset_hours, offset_minutes = parsed.groups()
    days = _date_days(date)
    if days is None:
        return None
    minutes = int(hour) * 60 + int(minute)
    if sign is not None:
        offset = int(offset_hours) * 60 + int(offset_minutes)
        minutes += -offset if sign == "+" else offset
    further_days, minutes = divmod(minutes, _MINUTES_PER_DAY)
    return _time_text(days + further_days, minutes, second, fraction or "")


def unix_seconds(time: str) -> float:
    """The moment of a time in normal form, in seconds since 1970."""
    days = _date_days(time[:10])
    assert days is not None, "it is in normal form"
    hours, minutes, seconds = int(time[11:13]), int(time[14:16]), float(time[17:-1])
    return (days - _days_before_year(1970)) * 86_400 + hours * 3600 + minutes * 60 + seconds


def time_of_milliseconds(milliseconds: int) -> str | None:
    """The normal form of an AMQP timestamp, milliseconds since 1970; None outside the years 1 to 9999."""
    days, rest = divmod(milliseconds, _MILLISECONDS_PER_DAY)
    minutes, rest = divmod(rest, 60_000)
    return _time_text(days + _days_before_year(1970), minutes, f"{rest // 1000:02}", f"{rest % 1000:03}")


def _time_text(days: int, minutes: int, second: str, fraction: str) -> str | None:
    date = _date_text(days)
    if date is None:
        return None
    digits = fraction[:_FRACTION_DIGITS].ljust(_FRACTION_DIGITS, "0")
    return f"{date}T{minutes // 60:02}:{minutes % 60:02}:{second}.{digits}Z"


# Events of one moment share their date: the hot path asks for the same few, again and again.
@lru_cache(maxsize=64)
def _date_days(date: str) -> int | None:
    """Days from 0001-01-01 to this `YYYY-MM-DD`; None when there is no such day."""
    year, month, day = int(date[:4]), int(date[5:7]), int(date[8:])
    if not (year >= 1 and 1 <= month <= 12 and 1 <= day <= _days_in_month(year, month)):
        return None
    return _days_before_year(year) + sum(_days_in_month(year, earlier) for earlier in range(1, month)) + day - 1


def _date_text(days: int) -> str | None:
    """The inverse of `_date_days`; None outside the years 1 to 9999."""
    if not 0 <= days < _days_before_year(10_000):
        return None
    year = days * 400 // _DAYS_PER_400_YEARS + 1
    if days >= _days_before_year(year + 1):  # by the mean year's length it is never too late, and at most one too early
        year += 1
    day_of_year = days - _days_before_year(year)
    month = 1
    while day_of_year >= _days_in_month(year, month):
        day_of_year -= _days_in_month(year, month)
        month += 1
    return f"{year:04}-{month:02}-{day_of_year + 1:02}"


def _days_before_year(year: int) -> int:
    """Days from 0001-01-01 to the first of January of this year, in the Gregorian calendar."""
    years = year - 1
    return years * 365 + years // 4 - years // 100 + years // 400


def _days_in_month(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


def duplicate_key(event: Event) -> bytes:
    """16 bytes, the same for an event and its re-sent copies, whatever partition or position they come from."""
    return sha256(orjson.dumps(_identity(event))).digest()[:16]


def data_digest(event: Event) -> str:
    """32 hex digits over `data`, the same in whatever order its names come: tells a re-sent event from another one."""
    # JSON cannot begin with a zero byte, so raw bytes and JSON are never taken for each other.
    raw = b"\0" + event.data if isinstance(event.data, bytes) else orjson.dumps(event.data, option=orjson.OPT_SORT_KEYS)
    return sha256(raw).hexdigest()[:32]


def idempotency_key(event: Event, sink: str, data_digest: str = "") -> str:
    """What a destination may recognise a repeated delivery by: the same for attempts, pods and restarts.

    `data_digest` is given for an event that equals an earlier one in everything but `data`.
    """
    parts = [*_identity(event), sink, data_digest] if data_digest else [*_identity(event), sink]
    return sha256(orjson.dumps(parts)).hexdigest()


def _identity(event: Event) -> list[str | None]:
    """The parts that make an event itself, led by the version of this list. As JSON no two lists look alike."""
    source = None if event.source is None else event.key.source
    return ["v1", source, event.id, event.type, event.subject, event.order_key.kind, event.order_key.value]
