"""How far a partition is behind: how old the oldest message is that was read and is not settled. Pure."""

from collections import deque

from worker.events import UnixSeconds


class Lag:
    """The enqueued times of what was read and is not below the watermark yet."""

    def __init__(self) -> None:
        self._read: deque[tuple[int, UnixSeconds]] = deque()

    def read(self, sequence_number: int, enqueued_at: UnixSeconds) -> None:
        """A message was read."""
        self._read.append((sequence_number, enqueued_at))

    def seconds(self, watermark: int | None, now: float) -> float:
        """Age of the oldest above the watermark; 0 when there is none."""
        oldest_at = self.oldest_at(watermark)
        return 0.0 if oldest_at is None else now - oldest_at

    def oldest_at(self, watermark: int | None) -> UnixSeconds | None:
        """When the hub took the oldest above the watermark; None when there is none."""
        while self._read and watermark is not None and self._read[0][0] <= watermark:
            self._read.popleft()
        return self._read[0][1] if self._read else None
