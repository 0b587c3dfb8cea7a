"""The SDK's view of the store, watched: when each ownership was last renewed, and no new claims once a client closes.

A renewal counts from when it was asked for, on the monotonic clock: a process that was frozen sees at once, when it
thaws, that its leases are over, before it knows that others have taken its partitions.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

import structlog
from azure.eventhub.aio import CheckpointStore

from worker.errors import StoreUnavailable
from worker.events import PartitionId
from worker.stores import Store

_log = structlog.get_logger()

_RELEASE_SECONDS = 0.5
"""A stop must not wait for a store that does not answer."""


class Leases(CheckpointStore):
    """Wraps the store's ownership for one process."""

    def __init__(self, store: Store, *, lease_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._renewed_at: dict[str, float] = {}
        self._claiming = True
        self._owner_ids: set[str] = set()
        """The names under which the SDK has claimed for this process: each client takes a new one."""

    def valid(self, partition: PartitionId) -> bool:
        """Whether nobody else can have the partition yet."""
        renewed_at = self._renewed_at.get(partition)
        return renewed_at is not None and self._clock() - renewed_at < self._lease_seconds

    def stop_claiming(self) -> None:
        """From now on the SDK can give up partitions and not take any: its client is about to close."""
        self._claiming = False

    def claim_again(self) -> None:
        """A new client may claim."""
        self._claiming = True

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
        """As the store says."""
        return await self._store.checkpoints.list_ownership(
            fully_qualified_namespace, eventhub_name, consumer_group, **kwargs
        )

    async def claim_ownership(
        self, ownership_list: Iterable[dict[str, Any]], **kwargs: Any
    ) -> Iterable[dict[str, Any]]:
        """As the store grants; an empty owner is a release."""
        asked_at = self._clock()
        wanted = [each for each in ownership_list if self._claiming or not each["owner_id"]]
        self._owner_ids.update(each["owner_id"] for each in wanted if each["owner_id"])
        granted = list(await self._store.checkpoints.claim_ownership(wanted, **kwargs)) if wanted else []
        for each in granted:
            if each["owner_id"]:
                self._renewed_at[each["partition_id"]] = asked_at
        return granted

    async def update_checkpoint(self, checkpoint: dict[str, Any], **kwargs: Any) -> None:
        """As the store does: forward only."""
        await self._store.checkpoints.update_checkpoint(checkpoint, **kwargs)

    async def list_checkpoints(
        self, fully_qualified_namespace: str, eventhub_name: str, consumer_group: str, **kwargs: Any
    ) -> Iterable[dict[str, Any]]:
        """As the store says."""
        return await self._store.checkpoints.list_checkpoints(
            fully_qualified_namespace, eventhub_name, consumer_group, **kwargs
        )
