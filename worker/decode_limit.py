"""Says when so much cannot be decoded that going on would empty the hub into the dead-letter store.

A wrong hub or a broken producer is one mistake, not a million dead letters. Counts only; who stops is the pipeline.
"""

from collections import deque

_BUCKETS = 60
"""How finely the time is cut: what is older than the span is forgotten a sixtieth of it at a time."""


class DecodeLimit:
    """The messages of one partition in a span of time, and how many of them could not be decoded."""

    def __init__(self, *, stop_ratio: float, of_at_least: int, per_seconds: float) -> None:
        self._stop_ratio = stop_ratio
        self._of_at_least = of_at_least
        self._per_seconds = per_seconds
        self._buckets: deque[tuple[float, list[int]]] = deque()
        self.messages = 0
        """In the span that ends with the last message."""
        self.bad = 0
        """Of these, those of which nothing could be decoded."""

    def saw(self, *, decoded: bool, now: float) -> None:
        """Counts a message; `now` is any clock that goes forward, in seconds."""
        while self._buckets and self._buckets[0][0] <= now - self._per_seconds:
            _, (messages, bad) = self._buckets.popleft()
            self.messages -= messages
            self.bad -= bad
        if not self._buckets or now - self._buckets[-1][0] >= self._per_seconds / _BUCKETS:
            self._buckets.append((now, [0, 0]))
        counts = self._buckets[-1][1]
        counts[0] += 1
        counts[1] += not decoded
        self.messages += 1
        self.bad += not decoded

    @property
    def exceeded(self) -> bool:
        """Whether more than the stated share of enough messages could not be decoded."""
        return self.messages >= self._of_at_least and self.bad > self._stop_ratio * self.messages
