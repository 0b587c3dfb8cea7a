"""A partition's clock: the enqueued time of its newest message. Pure; `at` is any clock that goes forward, in seconds.

So a backlog is ordered at full speed, whatever time it is. Once there is nothing more to read, it goes on by itself.
"""

from worker.events import UnixSeconds

STALL_SECONDS = 60.0
"""When the hub says that there is more and nothing comes for so long, time goes on without it."""


class PartitionClock:
    """What time it is for the events of a partition."""

    def __init__(self) -> None:
        self.now = UnixSeconds(0.0)
        self.read_at = 0.0

    def read(self, enqueued_at: UnixSeconds, *, at: float) -> None:
        """A message was read."""
        self.now = max(self.now, enqueued_at)
        self.read_at = at

    def idle(self, *, at: float, drained: bool) -> UnixSeconds:
        """What time it is while nothing is read; `drained`: nothing more is there."""
        idle_seconds = at - self.read_at
        if drained or idle_seconds >= STALL_SECONDS:
            self.now = UnixSeconds(max(self.now, self.now + idle_seconds))
            self.read_at = at
        return self.now
