"""What is expected under one rule and key, across subjects: a row of the shared table, whoever writes into it first.

An event that begins an expectation and the one that meets it may be of different partitions, and one partition may be
hours behind the other. So a row keeps both kinds, and what is pending is computed from what it holds: noting the same
events in another order, or again, gives the same. An event is concluded for good only when a missed expectation is
told, and that is asked for only when every partition is through its due time.

Pure: who writes the row, and when all are through, is decided elsewhere (`noting`, `overdue`).
"""

import math
from bisect import insort
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, NamedTuple

import orjson

from worker.errors import StateFormatUnknown
from worker.events import PartitionId, UnixSeconds
from worker.marks import Mark, Say

FORMAT = 1
NOBODY = PartitionId("")
KIND = "correlation"
"""What the name of such a row begins with."""

_FIRSTS = 8
"""So many events that may begin an expectation are kept in a row: the oldest, and the newest of all."""
_THENS = 64
"""So many times of events that meet one are kept in a row: see `_few`."""
_KEEP_SECONDS = 3600.0
"""How much longer than `within` a row stays after its last event."""
_LONGEST_KEEP_SECONDS = 86_400.0
"""Event Grid tries for a day to deliver an event."""
_ROUND_SECONDS = 3600.0
"""Rows end on whole hours: so partitions that have nothing else to tell need to say at most once an hour how far they
are."""


class First(NamedTuple):
    """An event on which another one must follow."""

    at: UnixSeconds
    id: str
    """What it is known by: `keys.event_identity`."""
    due: UnixSeconds
    until: float
    """When all partitions are through with what the hub had by then, it is missed. Seldom later than due."""
    within: str
    """As it stood in the file."""
    event: dict[str, Any]
    """Its envelope, or what is kept of it."""
    cut: bool = False
    """It was too large: its data is left out."""


class Then(NamedTuple):
    """An event that meets an expectation."""

    at: UnixSeconds
    id: str
    arrived: UnixSeconds
    """When the hub had it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row."""

    rule: str
    source: str
    """Within which the key counts, folded; empty where it counts everywhere."""
    key: str
    firsts: tuple[First, ...] = ()
    """Oldest first; without those that are met."""
    thens: tuple[Then, ...] = ()
    """Oldest first."""
    past: float = -math.inf
    """What was told missed was due then: events of that time or before change nothing any more."""
    telling: First | None = None
    """Missed, and being told."""
    home: PartitionId = NOBODY
    """The partition that tells it."""
    made_at: float = 0.0
    """Wall clock, when it was found missing."""
    served: tuple[str, ...] = ()
    """The sinks that have been told."""
    attempts: tuple[tuple[str, int], ...] = ()
    """How often each of the others was tried."""

    @property
    def pending(self) -> First | None:
        """After which event another one is expected now."""
        return self.firsts[0] if self.firsts else None

    def expires_at(self, within: float) -> float:
        """When nobody needs the row any more, unless something is pending or being told; `within` is its rule's.

        Of the two events the first may be the one that Event Grid brings late.
        """
        last = max([self.past, *(each.arrived for each in self.thens)])
        keep = min(within, _LONGEST_KEEP_SECONDS) + _KEEP_SECONDS
        return math.ceil((last + keep) / _ROUND_SECONDS) * _ROUND_SECONDS if last > -math.inf else -math.inf


def row_name(rule: str, source: str, key: str) -> str:
    """What the row is called: the rule can be read in it, the key cannot."""
    digest = sha256(orjson.dumps([rule, source, key])).hexdigest()
    return f"{KIND}/{rule}.{digest[:32]}"


def note_first(row: Row, first: First) -> tuple[Row, int]:
    """The row with an event that may begin an expectation; and how many expectations were found met by that."""
    if first.at <= row.past or any(each.id == first.id for each in row.firsts):
        return row, 0
    firsts = sorted((*row.firsts, first), key=lambda each: (each.at, each.id))
    # The newest rather than none: when one in between is met, the next is told late instead of never.
    kept = (*firsts[: _FIRSTS - 1], firsts[-1]) if len(firsts) > _FIRSTS else tuple(firsts)
    return _settled(replace(row, firsts=kept))


def note_then(row: Row, then: Then, within: float) -> tuple[Row, int]:
    """The row with an event that may meet an expectation; and how many it has met. `within` is its rule's."""
    if then.at <= row.past or then in row.thens:
        return row, 0
    thens = list(row.thens)
    insort(thens, then)
    return _settled(replace(row, thens=_few(thens, within)))


def _few(thens: list[Then], within: float) -> tuple[Then, ...]:
    """Without one of too many: one whose neighbours lie so close that a first event that it meets is met by the next.

    So a first event of a partition that is behind is met by what followed it, however many came since: for 32 times
    `within` at least. What lies further back is forgotten.
    """
    if len(thens) <= _THENS:
        return tuple(thens)
    between = (
        number
        for number, (before, each, after) in enumerate(zip(thens, thens[1:], thens[2:], strict=False), start=1)
        if before.at == after.at or each.at < after.at <= before.at + within
    )
    spare = next(between, 0)
    return (*thens[:spare], *thens[spare + 1 :])


def tell(row: Row, *, through: float, home: PartitionId, now: float = 0.0) -> Row | None:
    """The row with what is pending handed to `home`, when all are `through` its time; else None. `now`: wall clock."""
    pending = row.pending
    if row.telling is not None or pending is None or through <= pending.until:
        return None
    return replace(row, telling=pending, home=home, made_at=now)


def told(row: Row) -> Row:
    """The row once everybody knows that its expectation was missed."""
    assert row.telling is not None, "`tell` comes first"
    past = row.telling.due
    firsts = tuple(each for each in row.firsts if each.at > past)
    thens = tuple(each for each in row.thens if each.at > past)
    rest = Row(row.rule, row.source, row.key, firsts, thens, past)
    left, _ = _settled(rest)
    return left


def _settled(row: Row) -> tuple[Row, int]:
    """Without what is met. Also those go that came while the met one was pending, up to the event that met it."""
    firsts, met = row.firsts, 0
    while firsts and (then := _meets(row.thens, firsts[0])):
        if row.telling == firsts[0]:
            break  # it is missed: all were through its time
        firsts = tuple(each for each in firsts[1:] if each.at > then.at or each.id == then.id)
        met += 1
    return replace(row, firsts=firsts), met


def _meets(thens: tuple[Then, ...], first: First) -> Then | None:
    """The first that meets it. An event may be of both kinds, and does not meet itself."""
    return next((each for each in thens if first.at <= each.at <= first.due and each.id != first.id), None)


def mark_of(row: Row, within: float) -> Mark:
    """What the list is to tell of a row; `within` is its rule's."""
    if row.telling is not None:
        return Mark(Say.TELLING, home=row.home)
    if row.pending is not None:
        return Mark(Say.DUE, row.pending.until)
    return Mark(Say.OLD, row.expires_at(within))


# --- to and from bytes


def encode(row: Row) -> bytes:
    """The row as JSON."""
    return orjson.dumps(
        {
            "format": FORMAT,
            "rule": row.rule,
            "source": row.source,
            "key": row.key,
            "firsts": [list(each) for each in row.firsts],
            "thens": [list(each) for each in row.thens],
            "past": None if row.past == -math.inf else row.past,
            "telling": None if row.telling is None else list(row.telling),
            "home": row.home,
            "made_at": row.made_at,
            "served": row.served,
            "attempts": row.attempts,
        }
    )


def decode(payload: bytes) -> Row:
    """The row in these bytes. Raises StateFormatUnknown: what cannot be read is never taken for an empty row."""
    try:
        content = orjson.loads(payload)
        if content["format"] != FORMAT:
            raise StateFormatUnknown(
                f"A row of expectations has format {content['format']}, this version reads {FORMAT}: run the version "
                "that wrote it."
            )
        return Row(
            content["rule"],
            content["source"],
            content["key"],
            tuple(First(*each) for each in content["firsts"]),
            tuple(Then(*each) for each in content["thens"]),
            -math.inf if content["past"] is None else float(content["past"]),
            None if content["telling"] is None else First(*content["telling"]),
            PartitionId(content["home"]),
            float(content["made_at"]),
            tuple(content["served"]),
            tuple((sink, attempts) for sink, attempts in content["attempts"]),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise StateFormatUnknown(
            f"A row of expectations is not the worker's ({error!r}): is the store shared with something else?"
        ) from None
