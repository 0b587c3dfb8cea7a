"""How each partition stands, as the hub and the store say: who has it, how far it is, how much waits.

Behind `worker lag`, `worker seek` and `worker doctor`. It only looks: it opens no link to a partition and writes
nothing, so it disturbs no worker.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from worker import state as codec
from worker.events import PartitionId
from worker.hub import Hub
from worker.progress import Watermark
from worker.state import PartitionState
from worker.stores import Store, StoredCheckpoint
from worker.target import Span


@dataclass(frozen=True, slots=True)
class PartitionView:
    """One partition."""

    partition: PartitionId
    span: Span
    owned: bool
    """Whether somebody renewed its ownership recently enough to be alive."""
    checkpoint: StoredCheckpoint | None
    state: PartitionState | None

    @property
    def owner(self) -> str | None:
        """The process that works on it; None: nobody, or somebody who is just taking it."""
        state = self.state
        return state.owner.partition("/")[0] if self.owned and state is not None and not state.released else None

    @property
    def place(self) -> Watermark | None:
        """Behind which reading goes on: where the state or the checkpoint says, as an owner would decide it."""
        watermark = self.state.watermark if self.state else None
        if self.checkpoint is None or (self.state is not None and self.state.sought):
            return watermark
        stands = Watermark(self.checkpoint.sequence_number, self.checkpoint.offset)
        return stands if watermark is None else max(watermark, stands, key=lambda each: each.sequence_number)

    @property
    def lag_events(self) -> int:
        """How many messages wait; negative where the hub has fewer than were read: it is another one, or put back."""
        if self.place is None:
            return 0 if self.span.empty else self.span.last - self.span.first + 1
        if self.span.empty:
            return min(0, self.span.last - self.place.sequence_number)
        return self.span.last - max(self.place.sequence_number, self.span.first - 1)

    @property
    def lost_events(self) -> int:
        """How many the hub has forgotten before they were settled."""
        first = self.span.last + 1 if self.span.empty else self.span.first
        return 0 if self.place is None else max(0, first - 1 - self.place.sequence_number)

    def lag_seconds(self, now: float) -> tuple[float, bool]:
        """How long the oldest of them has waited, and whether that is exact: else it is no less than that."""
        if self.lag_events <= 0:
            return 0.0, True
        oldest_at = self.state.oldest_at if self.state else None
        if oldest_at is not None and self._is_read_through_state:
            return max(0.0, now - oldest_at), True
        return max(0.0, now - self.span.last_at), self.lag_events == 1

    @property
    def _is_read_through_state(self) -> bool:
        """Whether the oldest that waits is the one that the state tells of."""
        return self.state is not None and self.state.watermark == self.place


async def overview(hub: Hub, store: Store, *, expiry_seconds: float, now: float) -> list[PartitionView]:
    """All partitions of the hub, in their order. Raises HubUnavailable, StoreUnavailable, StateFormatUnknown."""
    spans = await hub.spans()
    fresh = _owned(await store.checkpoints.list_ownership(*hub.scope), since=now - expiry_seconds)
    return [await _view(store, partition, span, owned=partition in fresh) for partition, span in spans.items()]


async def _view(store: Store, partition: PartitionId, span: Span, *, owned: bool) -> PartitionView:
    stored = await store.read_state(partition)
    state = codec.decode(stored.payload) if stored else None
    return PartitionView(partition, span, owned, await store.read_checkpoint(partition), state)


def _owned(rows: Iterable[Mapping[str, Any]], *, since: float) -> set[PartitionId]:
    return {PartitionId(row["partition_id"]) for row in rows if row["owner_id"] and row["last_modified_time"] > since}
