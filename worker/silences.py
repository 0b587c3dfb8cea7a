"""Whether a source is silent: one row of the shared table for each rule and source, and what each partition last saw.

A partition keeps the last sign of life of each in its own state, and tells it when the row comes due: the newest of all
partitions counts. A silence is told once; a sign of life ends it, and the next one begins with that.

Pure: who writes the rows, and when all partitions are through, is decided elsewhere (`overdue`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import orjson

from worker.errors import StateFormatUnknown
from worker.events import PartitionId, UnixSeconds
from worker.marks import Mark, Say

FORMAT = 1
NOBODY = PartitionId("")
KIND = "silence"
"""What the name of such a row begins with."""


@dataclass(frozen=True, slots=True)
class Silence:
    """A row."""

    rule: str
    source: str
    """As the rule has it."""
    since: UnixSeconds
    """The last sign of life; before the first, when the rule was first seen."""
    seen: bool = False
    """Whether there ever was a sign of life."""
    told: bool = False
    """That it has been silent since then was told."""
    telling: bool = False
    """It is being told."""
    home: PartitionId = NOBODY
    """The partition that tells it."""
    due: float = 0.0
    """When life was due, of a silence that is being told."""
    every: str = ""
    """How long it was allowed to last, as it stood in the file."""
    made_at: float = 0.0
    """Wall clock, when it was found silent."""
    served: tuple[str, ...] = ()
    """The sinks that have been told."""
    attempts: tuple[tuple[str, int], ...] = ()
    """How often each of the others was tried."""


def row_name(rule: str, source: str) -> str:
    """What the row is called; `source` is folded."""
    digest = sha256(orjson.dumps([rule, source])).hexdigest()
    return f"{KIND}/{rule}.{digest[:32]}"


def hear(row: Silence, signs: Iterable[float]) -> Silence:
    """The row with what the partitions last saw: a newer sign of life ends a silence that was told."""
    newest = max(signs, default=row.since)
    if newest <= row.since or row.telling:
        return row  # while it is told, it stays what it is: its event must be the same in every life
    return replace(row, since=UnixSeconds(newest), seen=True, told=False)


def tell(
    row: Silence, *, every: float, written: str, through: float, home: PartitionId, now: float = 0.0
) -> Silence | None:
    """The row with its silence handed to `home`, when all are `through` the time in which life was due; else None."""
    due = row.since + every
    if row.told or row.telling or through <= due:
        return None
    return replace(row, telling=True, home=home, due=due, every=written, made_at=now)


def told(row: Silence) -> Silence:
    """The row once everybody knows of the silence."""
    return Silence(row.rule, row.source, row.since, seen=row.seen, told=True)


def mark_of(row: Silence, every: float) -> Mark:
    """What the list is to tell of a row."""
    if row.telling:
        return Mark(Say.TELLING, home=row.home)
    return Mark(Say.TOLD, row.since) if row.told else Mark(Say.DUE, row.since + every)


class Signs:
    """The last sign of life of each source that a partition has seen, by rule."""

    def __init__(self) -> None:
        self._signs: dict[str, float] = {}

    def see(self, row: str, at: float) -> bool:
        """An event of then; whether it is the newest. `row` is the name of the row that it is a sign of life for."""
        if at <= self._signs.get(row, float("-inf")):
            return False
        self._signs[row] = at
        return True

    def keep(self, is_wanted: Callable[[str], bool]) -> None:
        """Forgets those of rows that are not wanted any more."""
        self._signs = {row: at for row, at in self._signs.items() if is_wanted(row)}

    def restore(self, signs: Mapping[str, float]) -> None:
        """Takes over what `snapshot` gave in an earlier life."""
        self._signs = dict(signs)

    def snapshot(self) -> dict[str, float]:
        """All of them."""
        return dict(self._signs)


# --- to and from bytes


def encode(row: Silence) -> bytes:
    """The row as JSON."""
    return orjson.dumps(
        {
            "format": FORMAT,
            "rule": row.rule,
            "source": row.source,
            "since": row.since,
            "seen": row.seen,
            "told": row.told,
            "telling": row.telling,
            "home": row.home,
            "due": row.due,
            "every": row.every,
            "made_at": row.made_at,
            "served": row.served,
            "attempts": row.attempts,
        }
    )


def decode(payload: bytes) -> Silence:
    """The row in these bytes. Raises StateFormatUnknown: what cannot be read is never taken for an empty row."""
    try:
        content: dict[str, Any] = orjson.loads(payload)
        if content.pop("format") != FORMAT:
            raise StateFormatUnknown("A row of silences was written by another version: run the version that wrote it.")
        attempts = tuple((sink, count) for sink, count in content.pop("attempts"))
        return Silence(**content | {"served": tuple(content["served"]), "attempts": attempts})
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise StateFormatUnknown(
            f"A row of silences is not the worker's ({error!r}): is the store shared with something else?"
        ) from None
