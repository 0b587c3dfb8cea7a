"""What was given up becomes a dead letter: made from a message or an event, written durably, and only then settled.

Never gives up itself: while the store cannot be reached, letters wait here and their events stay unsettled, so that
the in-flight bound of their partition makes reading wait. Letters that became too old are deleted here too.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import orjson
import structlog

from worker.errors import StoreUnavailable
from worker.events import MADE_HERE, BadEvent, Message, Position, UnixSeconds
from worker.lately import LETTERS, KeptLetter, Letters, clip
from worker.metrics import Metrics
from worker.retry import patiently
from worker.sinks import Delivery
from worker.stores import DeadLetter, Store

_log = structlog.get_logger()

_LETTERS_PER_MESSAGE = 100
"""Each holds the whole message: a megabyte of bad elements must not become a terabyte of dead letters."""
_BATCH = 100
_ID_DIGITS = 32
_FIRST_RETRY_SECONDS = 0.5
_LONGEST_RETRY_SECONDS = 15.0
_EXPIRY_FIRST_SECONDS = 60.0
"""Not at once: at the start the store is busy with partitions that change hands."""
_EXPIRY_SECONDS = 3600.0
_DAY_SECONDS = 86_400.0
_NAMED = 10
"""So many recipients a letter names."""


def from_bad_event(message: Message, index: int | None, bad: BadEvent) -> DeadLetter:
    """The letter of a message (index None), or of one element of it, that could not be decoded."""
    return DeadLetter(
        id=_stable_id(message, index, None),
        time=UnixSeconds(time.time()),
        reason=bad.reason,
        detail=bad.detail,
        route=None,
        sink=None,
        attempts=0,
        partition=message.partition,
        sequence_number=message.sequence_number,
        index=index,
        event_id=None,
        type=None,
        subject=None,
        source=None,
        body=message.body,
        content_type=message.content_type,
        properties={_text(name): value for name, value in (message.properties or {}).items()},
        enqueued_at=message.enqueued_at,
    )


def from_delivery(delivery: Delivery, *, reason: str, detail: str, attempts: int) -> DeadLetter:
    """The letter of an event that one sink did not get."""
    placed = delivery.released.placed
    message, event = placed.message, placed.event
    made_here = placed.position.element == MADE_HERE
    index = None if made_here else placed.position.element
    if delivery.served:
        detail = f"{detail} ({len(delivery.served)} have it already: {_names(delivery.served)})"
    return replace(
        from_bad_event(message, index, BadEvent(reason, detail)),
        id=delivery.idempotency_key[:_ID_DIGITS] if made_here else _stable_id(message, index, delivery.sink),
        route=delivery.route,
        sink=delivery.sink,
        attempts=attempts,
        event_id=event.id,
        type=event.type,
        subject=event.subject,
        source=event.source,
        idempotency_key=delivery.idempotency_key,
    )


def _names(served: frozenset[str]) -> str:
    shown = sorted(served)[:_NAMED]
    return ", ".join(shown) + (f" and {len(served) - _NAMED} more" if len(served) > _NAMED else "")


def from_bad_elements(
    message: Message, bad: list[tuple[Position, BadEvent]]
) -> Iterator[tuple[DeadLetter, list[Position]]]:
    """A letter for each bad element, up to a limit, and whom it stands for; the last stands for the rest too."""
    *told, (position, last) = bad[:_LETTERS_PER_MESSAGE]
    rest = [other for other, _ in bad[_LETTERS_PER_MESSAGE:]]
    if rest:
        last = replace(last, detail=f"{last.detail} (and {len(rest)} more elements of this message)")
    for each, element in told:
        yield from_bad_event(message, _index(each, element), element), [each]
    yield from_bad_event(message, _index(position, last), last), [position, *rest]


def _index(position: Position, bad: BadEvent) -> int | None:
    return None if bad.whole_message else position.element


def _stable_id(message: Message, index: int | None, sink: str | None) -> str:
    # The time the hub took it in is part of the place: a hub that was recreated counts from 0 again.
    place = [message.partition, message.sequence_number, message.enqueued_at, index, sink]
    return hashlib.sha256(orjson.dumps(place)).hexdigest()[:_ID_DIGITS]


class DeadLetterWriter:
    """Writes letters in batches, one write at a time."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._waiting: asyncio.Queue[tuple[DeadLetter, Callable[[], None]]] = asyncio.Queue()
        self.recent = Letters(maxlen=LETTERS)
        """The last that were written, for people who look."""

    def put(self, letter: DeadLetter, settled: Callable[[], None]) -> None:
        """Takes a letter; `settled` is called once it is kept."""
        self._waiting.put_nowait((letter, settled))

    async def run(self) -> None:
        """Works until it is cancelled."""
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < _BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            await self._write([letter for letter, _ in batch])
            for letter, settled in batch:
                self._metrics.dead_letters.labels(letter.reason, letter.sink or "").inc()
                self.recent.append(_kept(letter))
                settled()

    async def _write(self, letters: list[DeadLetter]) -> None:
        await patiently(
            lambda: self._store.put_dead_letters(letters),
            partial(_log.error, "dead letters wait for the store", count=len(letters)),
            first_seconds=_FIRST_RETRY_SECONDS,
            longest_seconds=_LONGEST_RETRY_SECONDS,
        )


def _kept(letter: DeadLetter) -> KeptLetter:
    """What is remembered of it: nothing of its body."""
    return KeptLetter(
        at=letter.time,
        reason=letter.reason,
        detail=clip(letter.detail),
        sink=letter.sink or "",
        partition=letter.partition,
        sequence_number=letter.sequence_number,
        subject=clip(letter.subject),
        event_id=clip(letter.event_id),
    )


class Expiry:
    """Deletes dead letters and entries of the ledger that became too old: soon after the start, then every hour.

    Every process does, whatever partitions it has; that one is deleted by another process is fine.
    """

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        *,
        keep_days: float,
        ledger_keep_days: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._keep_days = keep_days
        self._ledger_keep_days = ledger_keep_days
        self._clock = clock
        self._said = ""

    async def run(self) -> None:
        """Works until it is cancelled. While the store cannot be reached, what is old is merely kept for longer."""
        await asyncio.sleep(_EXPIRY_FIRST_SECONDS)
        while True:
            try:
                await self._expire()
            except StoreUnavailable as error:
                self._say(str(error))
            else:
                self._said = ""
            await asyncio.sleep(_EXPIRY_SECONDS)

    async def _expire(self) -> None:
        letters = await self._store.expire_dead_letters(self._before(self._keep_days))
        if letters:
            self._metrics.dead_letters_expired.inc(letters)
            _log.info("old dead letters deleted", count=letters, keep_days=self._keep_days)
        entries = await self._store.expire_entries(self._before(self._ledger_keep_days))
        self._metrics.ledger_expired.inc(entries)

    def _before(self, keep_days: float) -> UnixSeconds:
        # Not before 1970, whatever the days: no message is that old, and a calendar has a first year.
        return UnixSeconds(max(0.0, self._clock() - keep_days * _DAY_SECONDS))

    def _say(self, error: str) -> None:
        if error != self._said:
            self._said = error
            _log.warning("old dead letters not deleted, trying again in an hour", error=error)


def _text(name: str | bytes) -> str:
    """The SDK gives names as bytes, whatever the sender wrote."""
    return name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
