"""The SDK's view of the store, watched: how long each partition is surely ours, also while the store is away.

A renewal counts from when it was asked for, on the monotonic clock: a process that was frozen sees at once, when it
thaws, that its leases are over, before it knows that others have taken its partitions.

While the store cannot be reached nothing is renewed, and the link stands for the lease: who takes a partition attaches
to the hub, and the hub then ends our link. So a lease lasts as long as the link that was there at its last renewal is
heard, provided that an attempt to renew was made just now and the store did not answer it.

And others cannot renew then either. What they did not renew while the store was away for us counts as renewed when it
came back; else the first to list would take everything. So an owner that dies meanwhile is noticed an expiry later.

A process that stops offers what it has: its ownership is given up in the store, where others find it with their next
look, and the SDK is shown it as ours still, so that it goes on reading until somebody asks for the partition.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from azure.eventhub.aio import CheckpointStore

from worker.errors import StoreUnavailable
from worker.events import PartitionId
from worker.link import Link, Links
from worker.stores import Store

_log = structlog.get_logger()

_RELEASE_SECONDS = 0.5
"""A stop must not wait for a store that does not answer."""
_BEGINNING = "-1"
"""The offset before the first message, as the SDK has it."""
_ANSWER_SECONDS = 10.0
"""The longest that a store takes to say that it is away."""
_JITTER = 1.2
"""The SDK looks after an interval, or up to so many times as late as that; 1.1 on average."""
_ASKED_SECONDS = 1.0
"""From the look of another until its request for the partition is seen here."""


class Leases(CheckpointStore):
    """Wraps the store's ownership for one process."""

    def __init__(
        self,
        store: Store,
        *,
        balance_seconds: float,
        expiry_seconds: float,
        hand_over_seconds: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`hand_over_seconds`: of silence, after which whoever has asked for a partition takes it."""
        self._store = store
        self._balance_seconds = balance_seconds
        self._expiry_seconds = expiry_seconds
        # Two intervals before others may take over.
        self._lease_seconds = expiry_seconds - 2 * balance_seconds
        self.offer_seconds = min(_JITTER * balance_seconds + _ASKED_SECONDS, hand_over_seconds)
        """How long an offer stands: by then whoever is there has looked, and has asked; and nobody has taken yet what
        was not let go: who offers may be frozen, and its lease must be over when it thaws."""
        # An attempt is followed by the next one an interval later, and by its failure an answer later.
        self._attempt_seconds = 2 * (_ANSWER_SECONDS + balance_seconds)
        self._clock = clock
        self._wall = wall
        self._renewed_at: dict[PartitionId, float] = {}
        self._carried_by: dict[PartitionId, object | None] = {}
        """The link that was there when the lease was renewed."""
        self._links = Links(lambda _: None, clock)
        self._failed_at: float | None = None
        """When the last attempt to renew was made, if it failed."""
        self._pending: set[float] = set()
        """When the attempts were made that the store has not answered yet."""
        self._answered_at: float | None = None
        """When the store last let us renew, or showed nothing to renew; by the wall clock: ownership has no other."""
        self._outage: tuple[float, float] | None = None
        """When the store was last away, from and to, by the wall clock; from ever when we never saw it work."""
        self._checkpoints: dict[PartitionId, int] = {}
        self._claiming = True
        self._offered_at: float | None = None
        self._scope: tuple[str, str, str] | None = None
        """Whose ownership it is: namespace, hub and group, as the SDK calls them."""
        self._owner_ids: set[str] = set()
        """The names under which the SDK has claimed for this process: each client takes a new one."""
        self._owner_id = ""
        """The newest of them."""
        self._former_ids: set[str] = set()

    def valid(self, partition: PartitionId) -> bool:
        """Whether nobody else can have the partition yet."""
        renewed_at = self._renewed_at.get(partition)
        if renewed_at is None or self._offer_is_over:
            return False
        if self._clock() - renewed_at < self._lease_seconds:
            return True
        return self._away and self._carried(partition)

    @property
    def _away(self) -> bool:
        """Whether the store did not answer the last attempt to renew, which was made just now."""
        now = self._clock()
        if self._failed_at is not None and now - self._failed_at < self._attempt_seconds:
            return True
        return any(self._balance_seconds <= now - asked_at < self._attempt_seconds for asked_at in self._pending)

    def _note_outage(self) -> None:
        """Whether others could renew as little as we, for so long that their ownership looks expired."""
        now, answered_at = self._wall(), self._answered_at
        overdue = answered_at is not None and now - answered_at > self._lease_seconds
        if self._away or overdue:
            self._outage = (-math.inf if answered_at is None else answered_at, now)

    def _carried(self, partition: PartitionId) -> bool:
        """Whether the link that was there at the renewal is there still, and heard as recently as a lease lasts."""
        link = self._links.attached(partition)
        same = link is not None and link is self._carried_by.get(partition)
        return same and self._links.silent_seconds(partition) < self._lease_seconds

    def heard(self, partition: PartitionId) -> object | None:
        """Looks at a partition's link, as often as there is occasion; another object each time it is another link."""
        return self._links.attached(partition)

    def reads_from(self, partition: PartitionId) -> int | None:
        """The sequence number behind which the SDK begins to read, as it was last told."""
        return self._checkpoints.get(partition)

    def stop_claiming(self) -> None:
        """From now on the SDK can give up partitions and not take any: its client is about to close."""
        self._claiming = False
        if self._offered_at is not None:
            self._offered_at = None
            self._renewed_at.clear()  # what was on offer may be another's, however short ago it was renewed

    async def offer(self) -> bool:
        """Gives up all ownership in the store, while the SDK is shown it as ours until another has it.

        It ends with `stop_claiming`; after `offer_seconds` no lease is valid. False, and nothing is given up, when
        nobody is there to take it, or the store does not say.
        """
        if not await self.others():
            return False
        self._claiming = False
        self._offered_at = self._clock()
        await self.release()
        return True

    async def others(self) -> bool:
        """Whether another process owns a partition, as far as the store says it now."""
        if self._scope is None:
            return False
        try:
            async with asyncio.timeout(_RELEASE_SECONDS):
                rows = await self._store.checkpoints.list_ownership(*self._scope)
        except (StoreUnavailable, TimeoutError):
            return False
        alive_since = self._wall() - self._expiry_seconds
        theirs = {row["owner_id"] for row in rows if row["last_modified_time"] >= alive_since}
        return bool(theirs - self._owner_ids - {""})

    @property
    def _offer_is_over(self) -> bool:
        return self._offered_at is not None and self._clock() - self._offered_at >= self.offer_seconds

    def connected(self, look: Callable[[PartitionId], Link | None]) -> None:
        """A new client may claim; how to look at its links."""
        self._links = Links(look, self._clock)
        self._former_ids |= self._owner_ids
        self._claiming = True

    async def open(self) -> None:
        """Opens the store. Raises StoreUnavailable: an outage that was there before us is one all the same."""
        with self._attempt():
            await self._store.open()

    async def release(self) -> None:
        """Gives up in the store what the SDK may have left behind; others need not wait for the expiry."""
        try:
            async with asyncio.timeout(_RELEASE_SECONDS):
                for owner in self._owner_ids:
                    await self._store.release_ownership(owner)
        except (StoreUnavailable, TimeoutError) as error:
            _log.warning("ownership not released, it will expire", error=str(error) or "the store does not answer")

    async def list_ownership(
        self, fully_qualified_namespace: str, eventhub_name: str, consumer_group: str, **kwargs: Any
    ) -> Iterable[dict[str, Any]]:
        """As the store says, but for the time when it was away; what our own closed clients still own is free."""
        self._scope = fully_qualified_namespace, eventhub_name, consumer_group
        with self._attempt():
            rows = list(await self._store.checkpoints.list_ownership(*self._scope, **kwargs))
        self._note_outage()
        if not any(row["owner_id"] in self._owner_ids for row in rows):
            self._answered_at = self._wall()
        return [self._seen(dict(row)) for row in rows]

    def _seen(self, row: dict[str, Any]) -> dict[str, Any]:
        if not row["owner_id"] and self._is_on_offer(row):
            return {**row, "owner_id": self._owner_id, "last_modified_time": self._wall()}
        if row["owner_id"] not in self._owner_ids:
            self._renewed_at.pop(row["partition_id"], None)  # another's, or nobody's
        if row["owner_id"] in self._former_ids:
            row["owner_id"] = ""
        if self._outage is not None:
            began, ended = self._outage
            if row["last_modified_time"] + self._expiry_seconds >= began:  # its owner was alive then
                row["last_modified_time"] = max(row["last_modified_time"], ended)
        return row

    def _is_on_offer(self, row: dict[str, Any]) -> bool:
        """Whether it was ours when we offered it, and no other was seen to have it since."""
        return self._offered_at is not None and row["partition_id"] in self._renewed_at

    async def claim_ownership(
        self, ownership_list: Iterable[dict[str, Any]], **kwargs: Any
    ) -> Iterable[dict[str, Any]]:
        """As the store grants; an empty owner is a release. What is on offer is granted, and not written.

        What is released is not on offer any more: the SDK would begin to read it again here.
        """
        asked_at = self._clock()
        asked = list(ownership_list)
        wanted = [each for each in asked if self._claiming or not each["owner_id"]]
        for each in wanted:
            if each["owner_id"]:
                self._owner_id = each["owner_id"]
                self._owner_ids.add(self._owner_id)
            elif self._offered_at is not None:
                self._renewed_at.pop(each["partition_id"], None)
        if not wanted:
            return [each for each in asked if self._is_on_offer(each)]
        with self._attempt():
            granted = list(await self._store.checkpoints.claim_ownership(wanted, **kwargs))
        self._answered(granted, asked_at)
        return granted

    def _answered(self, granted: list[dict[str, Any]], asked_at: float) -> None:
        self._note_outage()
        self._failed_at, self._answered_at = None, self._wall()
        for each in granted:
            if each["owner_id"]:
                partition = each["partition_id"]
                self._renewed_at[partition] = asked_at
                self._carried_by[partition] = self._links.attached(partition)

    @contextmanager
    def _attempt(self) -> Iterator[None]:
        """An attempt to renew, or the list before it: remembered when the store is away."""
        asked_at = self._clock()
        self._pending.add(asked_at)
        try:
            yield
        except StoreUnavailable:
            self._failed_at = asked_at
            raise
        finally:
            self._pending.discard(asked_at)

    async def update_checkpoint(self, checkpoint: dict[str, Any], **kwargs: Any) -> None:
        """As the store does: forward only."""
        await self._store.checkpoints.update_checkpoint(checkpoint, **kwargs)

    async def list_checkpoints(
        self, fully_qualified_namespace: str, eventhub_name: str, consumer_group: str, **kwargs: Any
    ) -> Iterable[dict[str, Any]]:
        """As the store says; where it knows no offset the SDK is given the number, else it begins at the beginning."""
        rows = list(
            await self._store.checkpoints.list_checkpoints(
                fully_qualified_namespace, eventhub_name, consumer_group, **kwargs
            )
        )
        self._checkpoints = {each["partition_id"]: each["sequence_number"] for each in rows}
        return [each if each["offset"] else {**each, "offset": _by_number(each["sequence_number"])} for each in rows]


def _by_number(sequence_number: int) -> int | str:
    """What the SDK takes for a position: a text is an offset, a number a sequence number, and 0 is nothing at all.

    Before number 1 it begins at the beginning: what is settled is passed over.
    """
    return sequence_number if sequence_number > 0 else _BEGINNING
