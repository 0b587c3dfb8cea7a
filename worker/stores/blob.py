"""The store for production: one container of Azure Blob storage that all pods share.

Ownership and checkpoints stand where the SDK's own store, KEDA and other tools look for them; all else
stands beside them:

    <namespace>/<hub>/<group>/ownership/<partition>     metadata ownerid
    <namespace>/<hub>/<group>/checkpoint/<partition>    metadata offset, sequencenumber, writeid
    <namespace>/<hub>/<group>/state/<partition>         the state object, metadata writeid
    <namespace>/<hub>/<group>/memory/<partition>/<part>
    <namespace>/<hub>/<group>/ledger/<xx>/<key>         an entry under an idempotency key that begins with xx,
                                                        metadata writeid
    <namespace>/<hub>/<group>/rows/<name>               a row of the shared table, metadata mark, writeid
    <namespace>/<hub>/<group>/deadletters/<name>        one letter as JSON; the names sort by enqueued time;
                                                        metadata letter: the same without body, for lists
    <namespace>/<hub>/<group>/replays/<name>            a request to replay that letter, metadata partition

Every write that must not undo another's is conditional on the blob's etag. Nothing is retried here for longer than one
call may take: who calls, calls again.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from urllib.parse import quote

from azure.eventhub.aio import CheckpointStore
from azure.storage.blob.aio import BlobClient

from worker.counted import Count, uncounted
from worker.errors import Conflict
from worker.events import PartitionId, UnixSeconds
from worker.stores import HubScope, ListedRow, StateVersion, StoredCheckpoint, StoredEntry, StoredRow, StoredState
from worker.stores.blob_checkpoints import BlobCheckpoints
from worker.stores.blob_letters import BlobLetters
from worker.stores.container import (
    Changed,
    Container,
    batches,
    delete,
    overwrite,
    read,
    together,
    unquoted,
    write_once,
)
from worker.stores.layout import forgettable, scope_prefix

_ENTRIES_PER_PAGE = _ROWS_PER_PAGE = 250
"""Small, because a page of thousands would hold up the event loop while it is parsed."""


class BlobStore(BlobLetters):
    """The Store protocol on one container.

    After a StoreUnavailable a write may have happened all the same: the state is then to be read before a Conflict is
    believed, and the rest may simply be written again.
    """

    def __init__(
        self,
        container: str,
        scope: HubScope,
        *,
        connection_string: str | None,
        account_url: str | None,
        credential: object | None,
        timeout_seconds: float = 10.0,
        count: Count = uncounted,
    ) -> None:
        place = Container(
            container,
            connection_string=connection_string,
            account_url=account_url,
            credential=credential,
            timeout_seconds=timeout_seconds,
            count=count,
        )
        super().__init__(place, scope_prefix(scope))
        self._scope = scope
        self._prefix = scope_prefix(scope)
        self._checkpoints = BlobCheckpoints(place)

    @property
    def checkpoints(self) -> CheckpointStore:
        """For the SDK."""
        return self._checkpoints

    async def open(self) -> None:
        """Creates the container when it is missing."""
        async with self._container.reaching("open the store"):
            await self._container.create()

    async def clock(self) -> UnixSeconds:
        """The service's, as its answer is dated."""
        async with self._container.reaching("ask what time it is"):
            return UnixSeconds(await self._container.clock())

    async def aclose(self) -> None:
        """Closes the connections; the credential is the caller's."""
        await self._container.client.close()

    async def release_ownership(self, owner_id: str) -> None:
        """Gives up each row that is ours; a row renewed in between is looked at again, once."""
        for _ in range(2):
            rows = await self._checkpoints.list_ownership(*self._scope)
            ours = [{**row, "owner_id": ""} for row in rows if row["owner_id"] == owner_id]
            if not ours or len(await self._checkpoints.claim_ownership(ours)) == len(ours):
                return

    async def state_versions(self) -> dict[PartitionId, StateVersion]:
        """One list request."""
        prefix = f"{self._prefix}/state/"
        async with self._container.reaching("list the partitions' states"):
            blobs = self._container.client.list_blobs(name_starts_with=prefix)
            return {
                PartitionId(blob.name.removeprefix(prefix)): StateVersion(unquoted(blob.etag)) async for blob in blobs
            }

    async def read_state(self, partition: PartitionId) -> StoredState | None:
        """Payload and version of one moment."""
        async with self._container.reaching(f"read the state of partition {partition}"):
            found = await read(self._blob("state", partition))
        return StoredState(found[0], StateVersion(found[1])) if found else None

    async def write_state(
        self, partition: PartitionId, payload: bytes, *, expected: StateVersion | None
    ) -> StateVersion:
        """One conditional request. Conflict means that someone else wrote, not that an answer got lost on the way."""
        blob, what = self._blob("state", partition), f"state of partition {partition}"
        async with self._writing(what, expected):
            return StateVersion(await write_once(blob, payload, {}, expected=expected))

    async def read_checkpoint(self, partition: PartitionId) -> StoredCheckpoint | None:
        """One request without body."""
        return await self._checkpoints.read(self._scope, partition)

    async def write_checkpoint(
        self, partition: PartitionId, *, offset: str, sequence_number: int, expected: StateVersion | None
    ) -> StateVersion:
        """One conditional request; Conflict as with `write_state`."""
        async with self._writing(f"checkpoint of partition {partition}", expected):
            return await self._checkpoints.write(
                self._scope, partition, offset=offset, sequence_number=sequence_number, expected=expected
            )

    async def read_memory(self, partition: PartitionId, part: str) -> bytes | None:
        """One request."""
        async with self._container.reaching(f"read the memory of partition {partition}"):
            found = await read(self._blob("memory", f"{partition}/{part}"))
        return found[0] if found else None

    async def write_memory(self, partition: PartitionId, part: str, payload: bytes) -> None:
        """One request."""
        async with self._container.reaching(f"write the memory of partition {partition}"):
            await overwrite(self._blob("memory", f"{partition}/{part}"), payload)

    async def forget_memory(self, partition: PartitionId, *, keep: Collection[str]) -> None:
        """A list request, and one for each part that goes, some at a time. Needs the right to delete."""
        prefix, purpose = f"{self._prefix}/memory/{partition}/", f"forget memory of partition {partition}"
        async for page in self._container.pages(prefix, purpose):
            parts = forgettable((blob.name.removeprefix(prefix) for blob in page), keep)
            for some in batches([f"{prefix}{part}" for part in parts]):
                await together(self._delete_if(name, None, purpose) for name in some)

    async def read_entry(self, key: str) -> StoredEntry | None:
        """One request."""
        async with self._container.reaching("read an entry of the ledger"):
            found = await read(self._entry_blob(key))
        return StoredEntry(found[0], StateVersion(found[1])) if found else None

    async def write_entry(self, key: str, payload: bytes, *, expected: StateVersion | None) -> StateVersion:
        """One conditional request; Conflict as with `write_state`."""
        async with self._writing(f"ledger's entry {key}", expected):
            return StateVersion(await write_once(self._entry_blob(key), payload, {}, expected=expected))

    async def expire_entries(self, before: UnixSeconds) -> int:
        """A list request for each 250 entries, whatever their age, and one for each that goes.

        A life-cycle rule of the storage account on the prefix `<container>/<namespace>/<hub>/<group>/ledger/` ("days
        since last modification") does the same without requests. Needs the right to delete.
        """
        expired, purpose = 0, "expire entries of the ledger"
        async for page in self._container.pages(f"{self._prefix}/ledger/", purpose, results_per_page=_ENTRIES_PER_PAGE):
            # The service tells whole seconds: one more, so that none goes too early.
            old = [blob for blob in page if blob.last_modified.timestamp() + 1 <= before]
            for some in batches(old):
                expired += sum(await together(self._delete_if(blob.name, blob.etag, purpose) for blob in some))
        return expired

    async def list_rows(self) -> dict[str, ListedRow]:
        """A list request for each 250 rows."""
        prefix, options = f"{self._prefix}/rows/", {"include": ["metadata"], "results_per_page": _ROWS_PER_PAGE}
        found: dict[str, ListedRow] = {}
        async for page in self._container.pages(prefix, "list the shared rows", **options):
            for blob in page:
                mark = (blob.metadata or {}).get("mark", "")
                found[blob.name.removeprefix(prefix)] = ListedRow(StateVersion(unquoted(blob.etag)), mark)
        return found

    async def read_row(self, name: str) -> StoredRow | None:
        """One request."""
        async with self._container.reaching(f"read the shared row {name}"):
            found = await read(self._blob("rows", name))
        return StoredRow(found[0], StateVersion(found[1])) if found else None

    async def write_row(self, name: str, payload: bytes, *, mark: str, expected: StateVersion | None) -> StateVersion:
        """One conditional request; Conflict as with `write_state`."""
        metadata = {"mark": mark} if mark else {}  # the service takes no empty value
        async with self._writing(f"shared row {name}", expected):
            return StateVersion(await write_once(self._blob("rows", name), payload, metadata, expected=expected))

    async def delete_row(self, name: str, *, expected: StateVersion) -> None:
        """One conditional request. Needs the right to delete. Conflict also when an answer got lost on the way."""
        async with self._container.reaching(f"delete the shared row {name}"):
            try:
                await delete(self._blob("rows", name), expected=expected)
            except Changed:
                raise Conflict(f"The shared row {name} is no longer of version {expected}.") from None

    def _blob(self, kind: str, name: str) -> BlobClient:
        return self._container.client.get_blob_client(f"{self._prefix}/{kind}/{name}")

    def _entry_blob(self, key: str) -> BlobClient:
        return self._blob("ledger", f"{key[:2]}/{quote(key, safe='')}")

    async def _delete_if(self, name: str, etag: str | None, purpose: str) -> bool:
        """Whether it was there, and as it was listed, and is deleted now."""
        async with self._container.reaching(purpose):
            try:
                await delete(self._container.client.get_blob_client(name), expected=etag)
            except Changed:
                return False
        return True

    @asynccontextmanager
    async def _writing(self, what: str, expected: StateVersion | None) -> AsyncIterator[None]:
        async with self._container.reaching(f"write the {what}"):
            try:
                yield
            except Changed:
                raise Conflict(
                    f"The {what} in {self._container.where} is no longer of version {expected}: someone else wrote it."
                ) from None
