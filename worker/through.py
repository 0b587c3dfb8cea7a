"""How far a partition is: before which time all that the hub had has had its turn, and is noted where it is to be.

What is missed by then, and who tells it, is decided elsewhere (`pending`, `overdue`).
"""

from math import inf

from worker.across import Across
from worker.events import Message, PartitionId, UnixSeconds
from worker.feed import Feed
from worker.order import Orderer
from worker.parts import Parts
from worker.pending import Expectations

_NONE = -1
"""Below every sequence number."""
CLOCKS_SECONDS = 5.0
"""How far the hub's clock may be ahead of ours."""


class Through:
    """Of one partition's pipeline."""

    def __init__(
        self,
        partition: PartitionId,
        parts: Parts,
        feed: Feed,
        orderer: Orderer,
        *,
        expectations: Expectations,
        across: Across,
    ) -> None:
        self._partition = partition
        self._parts = parts
        self._feed = feed
        self._orderer = orderer
        self._expectations = expectations
        self._across = across
        self._taken = self._taken_before = _NONE
        """The last message taken in, and the last one an earlier life had taken in."""
        self._enqueued_at = UnixSeconds(0.0)
        """When the hub had the newest message taken in."""

    def resume(self, settled: int | None, read: int | None) -> None:
        """Goes on behind what an earlier life had settled; what it had read besides comes again."""
        self._taken = _NONE if settled is None else settled
        self._taken_before = _NONE if read is None else read

    def took(self, message: Message) -> None:
        """The message is taken in."""
        self._taken = message.sequence_number
        self._enqueued_at = max(self._enqueued_at, message.enqueued_at)

    @property
    def is_behind(self) -> bool:
        """Whether something that an earlier life had read is still to come again."""
        return self._taken < self._taken_before

    def seen(self) -> float:
        """All that the hub had before this time has had its turn. Minus infinity while that cannot be said."""
        end, behind = self._feed.end, self.is_behind
        # What an empty hub does not have any more may be here, and wait for room.
        if end is not None and (end.number <= self._taken or (end.empty and self._feed.newest <= self._taken)):
            known, behind = max(self._enqueued_at, end.asked_at - CLOCKS_SECONDS), False
        else:
            known = self._enqueued_at
        if behind:
            return -inf
        oldest = self._orderer.oldest_enqueued()
        return known if oldest is None else min(known, oldest)

    def noted(self) -> float:
        """All that the hub had before this time has had its turn, and is in the shared table where it is to be."""
        return min(self.seen(), self._across.through)

    @property
    def wants_hub_end(self) -> bool:
        """Whether something would be known to be missed, if only it were known that the hub has nothing more."""
        oldest, known = self._orderer.oldest_enqueued(), self.seen()
        before = min(self._parts.clock() - CLOCKS_SECONDS, inf if oldest is None else oldest)
        due, board = self._expectations.next_due(), self._parts.board
        asked = board.asks_for(max(known, board.through(self._partition)), min(before, self._across.through))
        return asked or (due is not None and known <= due < before)
