"""How much a partition may have released and not settled, and what happens when it is that much: reading waits.

Nothing is thrown away for want of room. After a while, sinks that say so give up what waits for them, with a reason.
"""

import asyncio
from collections.abc import Callable

_LOOK_SECONDS = 5.0
_PATIENCE_SECONDS = 5.0
"""How long a partition is full before a sink with `overflow: dead_letter` gives up: a burst is no overflow."""
_IN_FULL = 8
"""Of so many partitions each has its whole limit: of a hub with more, one process may have to hold what all of them
have, and its memory is not bounded by their number otherwise."""
_FILLS_IT = 10
"""A sink fills a partition when at least this part (a tenth) of the limit waits for it."""


def share(limit: int, partitions: int, *, least: int) -> int:
    """What a partition has of a limit that is given for each: less where a hub has many, but not below `least`."""
    return min(limit, max(least, _IN_FULL * limit // max(1, partitions)))


class Room:
    """The room of one partition. `used` says how many events are unsettled."""

    def __init__(self, limit: int, used: Callable[[], int], shed: Callable[[int], None]) -> None:
        """`shed` is told how many deliveries must wait for a sink that fills the partition."""
        self._limit = limit
        self._used = used
        self._shed = shed
        self._again = asyncio.Event()
        self._crowded_since: float | None = None
        """Since when the partition has been full, and never half empty."""

    @property
    def left(self) -> int:
        """For so many more there is room."""
        return self._limit - self._used()

    async def wait(self, look: Callable[[], None]) -> None:
        """Waits until there is room; `look` is called now and then meanwhile."""
        if self._crowded_since is None:
            self._crowded_since = asyncio.get_running_loop().time()
        while self.left <= 0:
            look()
            self._again.clear()
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._again.wait()
            except TimeoutError:
                look()
            self._shed_when_crowded()

    def freed(self) -> None:
        """Something was settled."""
        self._again.set()
        if self._used() < self._limit // 2:
            self._crowded_since = None

    def _shed_when_crowded(self) -> None:
        since = self._crowded_since
        if since is not None and asyncio.get_running_loop().time() - since >= _PATIENCE_SECONDS:
            self._shed(max(1, self._limit // _FILLS_IT))
