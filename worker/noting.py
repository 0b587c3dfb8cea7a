"""Writes down, in the shared table, the events that expectations across subjects are about.

It is a sink with a lane of its own, which no configuration can name: so an event is not settled before its row is
written, and retries, order, leases, draining and dead letters are those of every sink. What a row means is in
`correlations`; noting an event again changes nothing.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import orjson
import structlog

from worker import correlations
from worker.board import Board
from worker.correlations import First, Row, Then
from worker.errors import Conflict, Rejected, StateFormatUnknown
from worker.events import Event, Placed, UnixSeconds
from worker.expect import ExpectRule, NoKey, time_of
from worker.ledger import Later
from worker.metrics import Metrics
from worker.missed import shown_key
from worker.pending import kept, missed_from
from worker.route import folded_source
from worker.settings import SinkSettings
from worker.sinks import Delivery
from worker.stores import StoredRow

_log = structlog.get_logger()

NOTING = "(expectations)"
"""The name of its lane, in metrics and dead letters. No configured sink can have it."""
_MOST_ROWS = 10_000
"""Of one rule."""
_MOST_KEYS = 100
"""Of one event that may meet others: each is a row to be written."""
_TRIES = 5
"""How often in a row another process may write the same row first, before others have their turn."""


class _Note(NamedTuple):
    """What one event says under one rule and key."""

    rule: str
    seconds: float
    """Its `within`."""
    source: str
    key: str
    first: First | None
    then: Then | None


def settings() -> SinkSettings:
    """What its lane is like."""
    return SinkSettings.model_construct(name=NOTING, kind="expectations")


def concerns(rules: Iterable[ExpectRule], event: Event) -> bool:
    """Whether an event is to be noted; the rules are those across subjects."""
    return any(rule.begins_with(event) or rule.is_met_by(event) for rule in rules)


class Noting:
    """The sink."""

    def __init__(self, board: Board, rules: Callable[[], Iterable[ExpectRule]], metrics: Metrics) -> None:
        self._board = board
        self._rules = rules
        self._metrics = metrics
        self._full: set[str] = set()
        """The rules of which it was said that they have too many rows."""

    async def open(self) -> None:
        """Nothing to acquire: the store is open."""

    async def aclose(self) -> None:
        """Nothing to release."""

    async def deliver(self, delivery: Delivery) -> None:
        """Writes the rows of one event, one after the other. Raises StoreUnavailable, Later or Rejected."""
        placed, identity = delivery.released.placed, delivery.idempotency_key[:32]
        late = delivery.released.late_by_ms is not None
        for rule in self._rules():
            if rule.is_across_subjects:
                notes, not_watched = _notes(rule, placed, identity, late=late)
                for note in notes:
                    await self._write(note)
                if not_watched:
                    self._count(rule.name, not_watched)

    async def _write(self, note: _Note) -> None:
        name = correlations.row_name(note.rule, note.source, note.key)
        for _ in range(_TRIES):
            stored = await self._board.store.read_row(name)
            row = _row(note, stored)
            if stored is None and self._is_full(note):
                return
            changed, met = _noted(row, note)
            if changed == row:
                return
            try:
                payload, mark = correlations.encode(changed), str(correlations.mark_of(changed, note.seconds))
                await self._board.store.write_row(name, payload, mark=mark, expected=stored.version if stored else None)
            except Conflict:
                continue  # another event of this key was written meanwhile
            if stored is None:
                self._board.created(note.rule)
            self._metrics.expectations.labels(note.rule, "met").inc(met)
            return
        raise Later(f"others write the row {name} at the same time")

    def _is_full(self, note: _Note) -> bool:
        if self._board.count(note.rule) < _MOST_ROWS:
            self._full.discard(note.rule)
            return False
        if note.first is not None:
            self._count(note.rule, "not_watched_full")
        if note.rule not in self._full:
            self._full.add(note.rule)
            _log.error("expectations not watched: too many of one rule", rule=note.rule, rows=_MOST_ROWS)
        return True

    def _count(self, rule: str, outcome: str) -> None:
        self._metrics.expectations.labels(rule, outcome).inc()


def _notes(rule: ExpectRule, placed: Placed, identity: str, *, late: bool) -> tuple[list[_Note], str]:
    """What the event says under a rule; and why it is not watched, where it is not. One of both kinds is one note."""
    assert rule.correlation is not None, "`is_across_subjects` says so"
    event, arrived = placed.event, placed.message.enqueued_at
    at = time_of(event, arrived)
    source = "" if rule.correlation.any_source else folded_source(event.source or "")
    notes = {
        key: _Note(rule.name, rule.seconds, source, key, None, Then(at, identity, arrived))
        for key in _then_keys(rule, event)
    }
    not_watched = ""
    if rule.begins_with(event):
        key, not_watched = ("", "not_watched_late") if late else _after_key(rule, event)
        if not not_watched:
            note = notes.get(key, _Note(rule.name, rule.seconds, source, key, None, None))
            notes[key] = note._replace(first=_first(rule, event, at, arrived, identity))
    return list(notes.values()), not_watched


def _first(rule: ExpectRule, event: Event, at: UnixSeconds, arrived: UnixSeconds, identity: str) -> First:
    envelope, cut = kept(event)
    due, until = UnixSeconds(at + rule.seconds), missed_from(at, arrived, rule.seconds)
    return First(at, identity, due, until, rule.written, orjson.loads(envelope), cut)


def _after_key(rule: ExpectRule, event: Event) -> tuple[str, str]:
    assert rule.correlation is not None, "`is_across_subjects` says so"
    try:
        return rule.correlation.after_key(event), ""
    except NoKey as problem:
        _log.warning("expectation not watched", rule=rule.name, event_id=event.id, why=str(problem))
        return "", "not_watched_no_key"


def _then_keys(rule: ExpectRule, event: Event) -> tuple[str, ...]:
    if not rule.is_met_by(event):
        return ()
    assert rule.correlation is not None, "`is_across_subjects` says so"
    try:
        keys = rule.correlation.then_keys(event)
    except NoKey:
        return ()  # it meets nothing
    if len(keys) > _MOST_KEYS:
        _log.warning("too many keys in one event", rule=rule.name, event_id=event.id, keys=len(keys), used=_MOST_KEYS)
    return keys[:_MOST_KEYS]


def _row(note: _Note, stored: StoredRow | None) -> Row:
    if stored is None:
        return Row(note.rule, note.source, shown_key(note.key))
    try:
        return correlations.decode(stored.payload)
    except StateFormatUnknown as problem:
        raise Rejected(str(problem)) from None


def _noted(row: Row, note: _Note) -> tuple[Row, int]:
    """What meets is looked at before what begins."""
    met = by_first = 0
    if note.then is not None:
        row, met = correlations.note_then(row, note.then, note.seconds)
    if note.first is not None:
        row, by_first = correlations.note_first(row, note.first)
    return row, met + by_first
