"""What was given up becomes a dead letter: made from a message or an event, written durably, and only then settled.

Never gives up itself: while the store cannot be reached, letters wait here and their events stay unsettled, so that
the in-flight bound of their partition makes reading wait. Letters that became too old are deleted here too.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import replace

import orjson
import structlog

from worker.errors import StoreUnavailable
from worker.events import BadEvent, Message, Placed, UnixSeconds
from worker.metrics import Metrics
from worker.stores import DeadLetter, Store

_log = structlog.get_logger()

_BATCH = 100
_FIRST_RETRY_SECONDS = 0.5
_LONGEST_RETRY_SECONDS = 15.0
_EXPIRY_FIRST_SECONDS = 60.0
"""Not at once: at the start the store is busy with partitions that change hands."""
_EXPIRY_SECONDS = 3600.0
_DAY_SECONDS = 86_400.0


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
        properties=message.properties or {},
        enqueued_at=message.enqueued_at,
    )


def from_event(placed: Placed, *, reason: str, detail: str, route: str, sink: str, attempts: int) -> DeadLetter:
    """The letter of an event that one sink did not get."""
    message, event, index = placed.message, placed.event, placed.position.element
    return replace(
        from_bad_event(message, index, BadEvent(reason, detail)),
        id=_stable_id(message, index, sink),
        route=route,
        sink=sink,
        attempts=attempts,
        event_id=event.id,
        type=event.type,
        subject=event.subject,
        source=event.source,
    )


def _stable_id(message: Message, index: int | None, sink: str | None) -> str:
    # The time the hub took it in is part of the place: a hub that was recreated counts from 0 again.
    place = [message.partition, message.sequence_number, message.enqueued_at, index, sink]
    return hashlib.sha256(orjson.dumps(place)).hexdigest()[:32]


class DeadLetterWriter:
    """Writes letters in batches, one write at a time."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._waiting: asyncio.Queue[tuple[DeadLetter, Callable[[], None]]] = asyncio.Queue()

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
                settled()

    async def _write(self, letters: list[DeadLetter]) -> None:
        delay = _FIRST_RETRY_SECONDS
        while True:
            try:
                await self._store.put_dead_letters(letters)
            except StoreUnavailable as error:
                if delay == _FIRST_RETRY_SECONDS:
                    _log.error("dead letters wait for the store", count=len(letters), error=str(error))
                await asyncio.sleep(delay)
                delay = min(_LONGEST_RETRY_SECONDS, delay * 2)
            else:
                return


class Expiry:
    """Deletes the letters that became older than `keep_days`: soon after the start, then every hour.

    Every process does, whatever partitions it has; that a letter is deleted by another one is fine.
    """

    def __init__(
        self, store: Store, metrics: Metrics, *, keep_days: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._keep_days = keep_days
        self._clock = clock
        self._said = ""

    async def run(self) -> None:
        """Works until it is cancelled. While the store cannot be reached, letters are merely kept for longer."""
        await asyncio.sleep(_EXPIRY_FIRST_SECONDS)
        while True:
            await self._expire()
            await asyncio.sleep(_EXPIRY_SECONDS)

    async def _expire(self) -> None:
        # Not before 1970, whatever the days: no message is that old, and a calendar has a first year.
        before = max(0.0, self._clock() - self._keep_days * _DAY_SECONDS)
        try:
            expired = await self._store.expire_dead_letters(UnixSeconds(before))
        except StoreUnavailable as error:
            if str(error) != self._said:
                self._said = str(error)
                _log.warning("old dead letters not deleted, trying again in an hour", error=self._said)
            return
        self._said = ""
        if expired:
            self._metrics.dead_letters_expired.inc(expired)
            _log.info("old dead letters deleted", count=expired, keep_days=self._keep_days)
