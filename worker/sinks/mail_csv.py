"""The events of a digest as CSV: every one, a row each, for spreadsheets and scripts.

UTF-8 with a byte order mark, without which spreadsheets take it for something else. What events hold cannot become a
formula: such cells begin with an apostrophe.
"""

import csv
import io
from collections.abc import Iterable

from worker.notice import Entry

_COLUMNS = (
    "id",
    "type",
    "source",
    "subject",
    "time",
    "state",
    "severity",
    "title",
    "url",
    "lateby",
    "superseded",
    "key",
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def events_csv(entries: Iterable[Entry]) -> bytes:
    """A line of names, then one for each entry, in their order."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\r\n")
    rows.writerow(_COLUMNS)
    rows.writerows([_cell(value) for value in _row(entry)] for entry in entries)
    return out.getvalue().encode("utf-8-sig")


def _row(entry: Entry) -> tuple[str, ...]:
    return (
        entry.id,
        entry.type,
        entry.source,
        entry.subject,
        entry.time,
        entry.state,
        entry.severity.value,
        entry.title,
        entry.url,
        "" if entry.late_by_ms is None else str(entry.late_by_ms),
        "true" if entry.superseded else "",
        entry.key,
    )


def _cell(value: str) -> str:
    return f"'{value}" if value.startswith(_FORMULA) else value
