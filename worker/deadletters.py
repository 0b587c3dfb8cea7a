"""What was given up becomes a dead letter: made from a message or an event, written durably, and only then settled.

Never gives up itself: while the store cannot be reached, letters wait here and their events stay unsettled, so that
the in-flight bound of their partition makes reading wait.
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
