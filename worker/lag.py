"""How far a partition is behind: how much the hub has that is not settled, and how old the oldest of it is. Pure.

What was read is known exactly. Of what was not read yet only what the hub has said: its last number, and when it had
that message. So the age of something unread is "at least": as long as a message that the hub had at noon is not read,
the oldest unread one is from noon or before.
"""

from collections import deque

from worker.events import UnixSeconds


class Lag:
    """What was read and is not below the watermark, and what the hub has besides."""

    def __init__(self) -> None:
        self._read: deque[tuple[int, UnixSeconds]] = deque()
        self._position: int | None = None
        """The last message read; None while it is not known behind which number reading begins."""
        self._last: int | None = None
        """The last number there is to read; None while the hub has said nothing."""
        self._empty = False
        """The hub itself has nothing to read: only what it had handed over is there."""
        self._unread: tuple[int, UnixSeconds] | None = None
        """The first message heard of that was not read when it was looked last, and when the hub had it."""
        self._newest: tuple[int, UnixSeconds] | None = None
        """The last message heard of with its time."""

    def begin(self, position: int) -> None:
        """Messages are read from behind this number. Where they are from a time on, the first one shows the number."""
        self._position = position

    def read(self, sequence_number: int, enqueued_at: UnixSeconds) -> None:
        """A message was read."""
        self._position = sequence_number
        self._read.append((sequence_number, enqueued_at))

    def hub_has(self, number: int, enqueued_at: UnixSeconds | None = None) -> None:
        """The hub's last number, and when it had that message, where that was said. Answers may come late."""
        self._empty = False
        self._last = number if self._last is None else max(self._last, number)
        if enqueued_at is not None:
            self._newest = number, enqueued_at
            self._unread = self._unread or self._newest

    def hub_has_nothing(self, handed_over: int) -> None:
        """Nothing was ever sent, or all of it is forgotten, but for what is here up to this number."""
        self._empty, self._last, self._unread, self._newest = True, handed_over, None, None

    def events(self, unsettled: int) -> int | None:
        """How many messages are not settled, with so many of those that were read; None while that is not known.

        Below 0: the hub's last number is before the position, so it is another hub's. Numbers may have gaps, which
        count as messages until they are passed.
        """
        if self._position is None or self._last is None:
            return None
        unread = self._last - self._position
        return unsettled + (max(0, unread) if self._empty else unread)

    def seconds(self, watermark: int | None, now: float) -> float | None:
        """Age of the oldest message that is not settled, at least; 0 when there is none; None while it is not known.

        `watermark`: with nothing unsettled at or before it.
        """
        if self._position is None:
            return None
        oldest_at = self.oldest_at(watermark)
        if oldest_at is not None:
            return now - oldest_at
        if self._unread is not None and self._unread[0] <= self._position:
            self._unread = self._newest if self._newest is not None and self._newest[0] > self._position else None
        if self._unread is not None:
            return now - self._unread[1]
        return None if self._last is None else 0.0

    def oldest_at(self, watermark: int | None) -> UnixSeconds | None:
        """When the hub took the oldest above the watermark that was read; None when there is none."""
        while self._read and watermark is not None and self._read[0][0] <= watermark:
            self._read.popleft()
        return self._read[0][1] if self._read else None
