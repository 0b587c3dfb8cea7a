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
from worker.pending import kept, missed_from
from worker.route import folded_source
from worker.settings import SinkSettings
from worker.sinks import Delivery

_log = structlog.get_logger()

NOTING = "(expectations)"
"""The name of its lane, in metrics and dead letters. No configured sink can have it."""
_MOST_ROWS = 10_000
"""Of one rule."""
_TRIES = 5
"""How often in a row another process may write the same row first, before others have their turn."""


class _Note(NamedTuple):
    """What one event says under one rule and key."""

    rule: str
    source: str
    key: str
    first: First | None
    then: Then | None


def settings() -> SinkSettings:
    """What its lane is like."""
    return SinkSettings.model_construct(name=NOTING, kind="expectations")


def concerns(rules: Iterable[ExpectRule], event: Event) -> bool:
    """Whether an event is to be noted."""
    return any(rule.is_across_subjects and (rule.begins_with(event) or rule.is_met_by(event)) for rule in rules)


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
        for note in self._notes(delivery):
            await self._write(note)

    def _notes(self, delivery: Delivery) -> list[_Note]:
        placed, identity = delivery.released.placed, delivery.idempotency_key[:32]
        event = placed.event
        late = delivery.released.late_by_ms is not None
        notes: list[_Note] = []
        for rule in self._rules():
            if not rule.is_across_subjects:
                continue
            first = self._first(rule, placed, identity, late=late)
            at = time_of(event, placed.message.enqueued_at)
            keys = _then_keys(rule, event)
            notes += (_note(rule, event, key, None, Then(at, identity)) for key in keys if not first or key != first[0])
            if first is not None:  # one that is of both kinds, with one key, is one note
                key, begins = first
                notes.append(_note(rule, event, key, begins, Then(at, identity) if key in keys else None))
        return notes

    def _first(self, rule: ExpectRule, placed: Placed, identity: str, *, late: bool) -> tuple[str, First] | None:
        event, arrived = placed.event, placed.message.enqueued_at
        if not rule.begins_with(event):
            return None
        assert rule.correlation is not None, "`is_across_subjects` says so"
        if late:
            self._count(rule.name, "not_watched_late")
            return None
        try:
            key = rule.correlation.after_key(event)
        except NoKey as problem:
            self._count(rule.name, "not_watched_no_key")
            _log.warning("expectation not watched", rule=rule.name, event_id=event.id, why=str(problem))
            return None
        at = time_of(event, arrived)
        first, cut = kept(event)
        until = missed_from(at, arrived, rule.seconds)
        due = UnixSeconds(at + rule.seconds)
        return key, First(at, identity, due, until, rule.written, orjson.loads(first), cut)

    async def _write(self, note: _Note) -> None:
        name = correlations.row_name(note.rule, note.source, note.key)
        for _ in range(_TRIES):
            stored = await self._board.store.read_row(name)
            try:
                row = correlations.decode(stored.payload) if stored else Row(note.rule, note.source, note.key)
            except StateFormatUnknown as problem:
                raise Rejected(str(problem)) from None
            if stored is None and self._is_full(note):
                return
            changed, met = _noted(row, note)
            if changed == row:
                return
            try:
                payload, mark = correlations.encode(changed), str(correlations.mark_of(changed))
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


def _then_keys(rule: ExpectRule, event: Event) -> tuple[str, ...]:
    if not rule.is_met_by(event):
        return ()
    assert rule.correlation is not None, "`is_across_subjects` says so"
    try:
        return rule.correlation.then_keys(event)
    except NoKey:
        return ()  # it meets nothing


def _note(rule: ExpectRule, event: Event, key: str, first: First | None, then: Then | None) -> _Note:
    assert rule.correlation is not None, "`is_across_subjects` says so"
    source = "" if rule.correlation.any_source else folded_source(event.source or "")
    return _Note(rule.name, source, key, first, then)


def _noted(row: Row, note: _Note) -> tuple[Row, int]:
    """What meets is looked at before what begins."""
    met = by_first = 0
    if note.then is not None:
        row, met = correlations.note_then(row, note.then)
    if note.first is not None:
        row, by_first = correlations.note_first(row, note.first)
    return row, met + by_first
