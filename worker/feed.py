"""The bounded way from the SDK's callback to a partition's pipeline. Drops what the SDK hands over twice."""

import asyncio
from typing import NamedTuple

from worker.events import Message, UnixSeconds
from worker.lag import Lag

_BATCHES = 2
"""Bounded: when the pipeline is full, the callback waits here, and then the SDK stops reading from the hub."""


class HubEnd(NamedTuple):
    """How far the hub was, when it was asked."""

    number: int
    """Of the last message."""
    empty: bool
    """It had nothing to read."""
    asked_at: UnixSeconds
    """By our own clock."""


class Feed:
    """One partition's messages, in growing sequence numbers."""

    def __init__(self) -> None:
        self._batches: asyncio.Queue[list[Message]] = asyncio.Queue(maxsize=_BATCHES)
        self._last_put = -1
        self.last_enqueued: int | None = None
        """The hub's highest sequence number, as it came with the newest message; None where the hub does not say."""
        self.end: HubEnd | None = None
        """What the hub has answered last; None where it was not asked."""
        self.lag = Lag()
        self._closed = False

    async def put(self, batch: list[Message], last_enqueued: int | None) -> int:
        """Waits while the pipeline is full; returns how many of the messages had not come before.

        After a reconnect inside one receive() the SDK hands over again what it still had buffered: sequence numbers
        repeat and step back, even within a batch. What is at or below the last one is dropped.
        """
        fresh = []
        for message in batch:
            if message.sequence_number > self._last_put:
                self._last_put = message.sequence_number
                fresh.append(message)
        if last_enqueued is not None:
            self.last_enqueued = max(last_enqueued, self._last_put)
        self.lag.hub_has(self._last_put if last_enqueued is None else max(last_enqueued, self._last_put))
        if fresh and not self._closed:
            await self._batches.put(fresh)
        return len(fresh)

    @property
    def newest(self) -> int:
        """The highest number that has come; -1 before there is one."""
        return self._last_put

    def close(self) -> None:
        """Nobody takes anything any more: whoever waits in `put` goes on, and what was put is forgotten."""
        self._closed = True
        while not self._batches.empty():
            self._batches.get_nowait()

    async def get(self, timeout_seconds: float) -> list[Message]:
        """The next batch, or none when the time is over."""
        if not self._batches.empty():
            return self._batches.get_nowait()
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._batches.get()
        except TimeoutError:
            return []

    @property
    def drained(self) -> bool:
        """Whether everything that is known to be in the hub has been taken: then time goes on without messages."""
        return self._batches.empty() and (self.last_enqueued is None or self.last_enqueued <= self._last_put)
