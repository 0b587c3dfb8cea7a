"""Ownership and checkpoints as blobs, where the SDK's own store, KEDA and other tools look for them."""

from collections.abc import Iterable
from typing import Any

from azure.eventhub.extensions.checkpointstoreblobaio import BlobCheckpointStore

from worker.events import PartitionId
from worker.stores import HubScope, StateVersion, StoredCheckpoint
from worker.stores.container import Changed, Container, Metadata, read_metadata, together, write_metadata, write_once
from worker.stores.layout import scope_prefix, sdk_names, sdk_scope


class BlobCheckpoints(BlobCheckpointStore):
    """The SDK's store, in its layout, without three of its habits.

    It writes checkpoints unconditionally, returns a claim whose request failed as if it were won, and cannot list a
    checkpoint of another language's SDK that lacks an offset. Every method here raises StoreUnavailable: the SDK then
    leaves running what runs, reports the error, and tries again at its next round.
    """

    def __init__(self, container: Container) -> None:
        # One client, and so one connection pool and one set of limits, for everything in the container.
        super().__init__("", "", container_client=container.client)
        self._container = container
        self._known: dict[str, Metadata] = {}
        """The checkpoints as this process last wrote them, by blob name."""

    async def list_ownership(
        self, fully_qualified_namespace: str, eventhub_name: str, consumer_group: str, **_: Any
    ) -> list[dict[str, Any]]:
        """One list request."""
        async with self._container.reaching("list ownerships"):
            rows = await super().list_ownership(fully_qualified_namespace, eventhub_name, consumer_group)
        return [{**row, "owner_id": row["owner_id"] or ""} for row in rows]  # empty metadata may come as None

    async def claim_ownership(self, ownership_list: Iterable[dict[str, Any]], **_: Any) -> list[dict[str, Any]]:
        """The claims that were won; StoreUnavailable when it is not known of one."""
        async with self._container.reaching("claim partitions"):
            results = await together(self._claim(ownership) for ownership in ownership_list)
        return [won for won in results if won is not None]

    async def list_checkpoints(
        self, fully_qualified_namespace: str, eventhub_name: str, consumer_group: str, **_: Any
    ) -> list[dict[str, Any]]:
        """One list request."""
        scope = HubScope(fully_qualified_namespace, eventhub_name, consumer_group)
        return [
            {
                **sdk_names(scope, partition),
                "offset": blob.metadata.get("offset") or "",
                "sequence_number": _sequence_number(blob.metadata),
            }
            for partition, blob in await self._list_checkpoints(scope)
        ]

    async def update_checkpoint(self, checkpoint: dict[str, Any], *, force: bool = False, **_: Any) -> None:
        """Forward only, unless forced. One request as long as nobody else writes."""
        name = _blob_name(checkpoint, "checkpoint")
        blob = self._container.client.get_blob_client(name)
        sequence_number = int(checkpoint["sequence_number"])
        values = _values(checkpoint["offset"], sequence_number)

        def stands(at: Metadata) -> bool:
            return not force and at.etag is not None and _sequence_number(at.values) >= sequence_number

        async with self._container.reaching(f"write the checkpoint of partition {checkpoint['partition_id']}"):
            known = self._known.pop(name, None)
            if known is None or stands(known):  # another process may have moved back what is remembered
                known = await read_metadata(blob)
            while not stands(known):
                try:
                    written = await write_metadata(blob, values, expected=known.etag)
                except Changed:
                    known = await read_metadata(blob)
                else:
                    known = Metadata(written.etag, values)
                    break
            self._known[name] = known

    async def read(self, scope: HubScope, partition: PartitionId) -> StoredCheckpoint | None:
        """The checkpoint and its etag."""
        name = _blob_name(sdk_names(scope, partition), "checkpoint")
        async with self._container.reaching(f"read the checkpoint of partition {partition}"):
            found = await read_metadata(self._container.client.get_blob_client(name))
        if found.etag is None:
            return None
        offset = found.values.get("offset") or ""
        return StoredCheckpoint(offset, _sequence_number(found.values), StateVersion(found.etag))

    async def write(
        self, scope: HubScope, partition: PartitionId, *, offset: str, sequence_number: int, expected: str | None
    ) -> StateVersion:
        """One conditional request, in the same layout. To be called inside a `reaching`; raises Changed."""
        name = _blob_name(sdk_names(scope, partition), "checkpoint")
        blob, values = self._container.client.get_blob_client(name), _values(offset, sequence_number)
        self._known.pop(name, None)
        etag = await write_once(blob, None, values, expected=expected)
        self._known[name] = Metadata(etag, values)
        return StateVersion(etag)

    async def _list_checkpoints(self, scope: HubScope) -> list[tuple[str, Any]]:
        prefix = f"{scope_prefix(scope)}/checkpoint/"
        async with self._container.reaching("list checkpoints"):
            blobs = self._container.client.list_blobs(name_starts_with=prefix, include=["metadata"])
            return [(blob.name.removeprefix(prefix), blob) async for blob in blobs]

    async def _claim(self, ownership: dict[str, Any]) -> dict[str, Any] | None:
        blob = self._container.client.get_blob_client(_blob_name(ownership, "ownership"))
        values = {"ownerid": ownership["owner_id"]}
        try:
            # No retries: the one after a lost answer would meet the claim's own result and take it for a loss.
            written = await write_metadata(blob, values, expected=ownership.get("etag"), retry_total=0)
        except Changed:
            return None
        return {**ownership, "etag": written.etag, "last_modified_time": written.modified_at}


def _blob_name(names: dict[str, Any], kind: str) -> str:
    return f"{scope_prefix(sdk_scope(names))}/{kind}/{names['partition_id']}"


def _values(offset: object, sequence_number: int) -> dict[str, str]:
    return {"offset": "" if offset is None else str(offset), "sequencenumber": str(sequence_number)}


def _sequence_number(metadata: dict[str, str]) -> int:
    """Other SDKs may leave it out; then the checkpoint stands before everything."""
    return int(metadata.get("sequencenumber") or -1)
