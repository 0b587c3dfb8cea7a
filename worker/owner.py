"""What the pipeline and the replays of a claim have in common: deliveries of theirs are in the lanes (`chains.Owner`).

When one of them may start, when none starts any more, and how those under way end. What their ends mean is decided by
each of the two.
"""

import asyncio
from abc import ABC, abstractmethod

from worker.chains import Job, Turn
from worker.events import PartitionId
from worker.parts import Parts


class PartitionOwner(ABC):
    """Owner of deliveries of one partition, as long as the partition is ours."""

    def __init__(self, partition: PartitionId, parts: Parts) -> None:
        self.partition = partition
        self.closed = False
        self.attempts: set[asyncio.Timeout] = set()
        self._parts = parts
        self._quiet = asyncio.Event()
        """Set when something that a drain may wait for has ended."""

    def is_ours(self) -> bool:
        """Not closed, not fenced, and its ownership renewed in time."""
        return not self.closed and self._parts.lease_valid(self.partition)

    def stop_starting(self) -> None:
        """From now on no delivery starts; those that have not started are left to the next owner."""
        self.closed = True
        for lane in self._parts.rules.every_lane:
            lane.withdraw(self)

    async def drain(self, seconds: float) -> bool:
        """Lets what is under way end, and be written down; False when it did not in time: attempts are aborted then."""
        try:
            async with asyncio.timeout(seconds):
                while self._busy:
                    self._quiet.clear()
                    await self._quiet.wait()
        except TimeoutError:
            for attempt in self.attempts:
                attempt.reschedule(asyncio.get_running_loop().time())
            return False
        return True

    @property
    @abstractmethod
    def _busy(self) -> bool:
        """Whether something is under way, or not yet written down."""

    # --- what the lanes say (chains.Owner)

    def starts_at_once(self, _job: Job, /) -> bool:
        """Nothing, where nobody knows better than `may_start`."""
        return False

    @abstractmethod
    async def may_start(self, job: Job, /) -> bool:
        """Whether this may be tried now: the partition is surely still ours. True is followed by an attempt."""

    def turn(self, _job: Job, /) -> Turn:
        """Whether it is tried alone, which is what becomes of all where nobody decides otherwise."""
        return Turn.ALONE

    @abstractmethod
    def accepted(self, job: Job, /) -> None:
        """The destination took it."""

    @abstractmethod
    def gave_up(self, job: Job, /, reason: str, detail: str) -> None:
        """It becomes a dead letter."""

    @abstractmethod
    def attempt_ended(self, job: Job, /) -> None:
        """Called after each attempt, also an aborted one."""
