"""The store for production: one container of Azure Blob storage that all pods share.

Ownership and checkpoints stand where the SDK's own store, KEDA and other tools look for them; state objects and dead
letters stand beside them:

    <namespace>/<hub>/<group>/ownership/<partition>     metadata ownerid
    <namespace>/<hub>/<group>/checkpoint/<partition>    metadata offset, sequencenumber
    <namespace>/<hub>/<group>/state/<partition>         the state object, metadata writeid
    <namespace>/<hub>/<group>/deadletters/<name>        one letter as JSON; the names sort by enqueued time;
                                                        metadata letter: the same without body, for lists

Every write that must not undo another's is conditional on the blob's etag. Nothing is retried here for longer than one
call may take: who calls, calls again.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

from azure.eventhub.aio import CheckpointStore
from azure.eventhub.extensions.checkpointstoreblobaio import BlobCheckpointStore
from azure.storage.blob.aio import BlobClient

from worker.errors import Conflict, StoreUnavailable
from worker.events import PartitionId, UnixSeconds
from worker.stores import DeadLetter, HubScope, StateVersion, StoredState
from worker.stores.container import (
    Changed,
    Container,
    Metadata,
    delete,
    read,
    read_metadata,
    unquoted,
    write,
    write_metadata,
)
from worker.stores.layout import (
    is_older,
    letter_from_json,
    letter_name,
    letter_to_json,
    name_after,
    scope_prefix,
    sdk_names,
    sdk_scope,
    without_body,
)

_LETTERS_AT_ONCE = 16
"""Requests in flight while letters are read, written or deleted; also bounds memory: a letter has up to 1.4 MB."""
_EXPIRING_PER_PAGE = 100
"""Small, because a page of thousands would hold up the event loop while it is parsed, and most often none is old."""

_SUMMARY = "letter"
_LONGEST_SUMMARY = 7_000
"""The service takes 8 KiB of metadata for a blob."""


class _Listed(NamedTuple):
    """A letter as a list request gives it; the summary only where it was asked for and is not too long."""

    name: str
    etag: str
    summary: bytes | None


_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class BlobStore:
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
    ) -> None:
        self._container = Container(
            container,
            connection_string=connection_string,
            account_url=account_url,
            credential=credential,
            timeout_seconds=timeout_seconds,
        )
        self._scope = scope
        self._prefix = scope_prefix(scope)
        self._deadletters = f"{self._prefix}/deadletters/"
        self._checkpoints = _Checkpoints(self._container)

    @property
    def checkpoints(self) -> CheckpointStore:
        """For the SDK."""
        return self._checkpoints

    async def open(self) -> None:
        """Creates the container when it is missing."""
        async with self._container.reaching("open the store"):
            await self._container.create()

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
        blob, write_id = self._blob("state", partition), uuid4().hex
        async with self._container.reaching(f"write the state of partition {partition}"):
            try:
                written = await write(blob, payload, {"writeid": write_id}, expected=expected)
                return StateVersion(written.etag)
            except Changed:
                found = await read_metadata(blob)
        if found.etag is not None and found.values.get("writeid") == write_id:
            return StateVersion(found.etag)  # the client's second try met what its first had written
        raise Conflict(
            f"The state of partition {partition} in {self._container.where} is no longer of version {expected}: "
            "someone else wrote it."
        )

    async def put_dead_letters(self, letters: list[DeadLetter]) -> None:
        """One blob each, some at a time. After an error those that were written stay, and are met again next time."""
        for some in _batches(letters, _LETTERS_AT_ONCE):
            await _together(self._put_dead_letter(letter) for letter in some)

    async def dead_letters(self, *, bodies: bool = True) -> AsyncIterator[DeadLetter]:
        """Oldest first, by when the hub took the message; on request without bodies and properties.

        Without, a list request brings thousands; with, each letter costs a request of its own.
        """
        async for page in self._pages(include=None if bodies else ["metadata"]):
            for some in _batches(page, _LETTERS_AT_ONCE):
                for letter in await _together(self._dead_letter(listed, bodies=bodies) for listed in some):
                    if letter is not None:
                        yield letter

    async def expire_dead_letters(self, before: UnixSeconds) -> int:
        """A list request for each hundred, and a request for each that is deleted. Needs the right to delete."""
        expired, end = 0, f"{self._deadletters}{name_after(before)}"
        async for page in self._pages(end, include=["metadata"], results_per_page=_EXPIRING_PER_PAGE):
            for some in _batches(page, _LETTERS_AT_ONCE):
                expired += sum(await _together(self._expire(listed, before) for listed in some))
        return expired

    def _blob(self, kind: str, name: str) -> BlobClient:
        return self._container.client.get_blob_client(f"{self._prefix}/{kind}/{name}")

    async def _put_dead_letter(self, letter: DeadLetter) -> None:
        blob = self._blob("deadletters", letter_name(letter))
        async with self._container.reaching("write a dead letter"):
            try:
                await write(blob, letter_to_json(letter), _summary(letter), expected=None)
            except Changed:
                return  # it is there already

    async def _pages(self, end: str | None = None, **options: Any) -> AsyncIterator[list[_Listed]]:
        """All letters in the order of their names, or only those before `end`."""
        pages = self._container.client.list_blobs(name_starts_with=self._deadletters, **options).by_page()
        while (page := await self._next_page(pages)) is not None:
            wanted = [listed for listed in page if end is None or listed.name < end]
            yield wanted
            if len(wanted) < len(page):
                return

    async def _next_page(self, pages: AsyncIterator[AsyncIterator[Any]]) -> list[_Listed] | None:
        async with self._container.reaching("list the dead letters"):
            try:
                return [_listed(blob) async for blob in await anext(pages)]
            except StopAsyncIteration:
                return None

    async def _dead_letter(self, listed: _Listed, *, bodies: bool) -> DeadLetter | None:
        row = await self._row(listed)
        if row is None:
            return None  # dropped since it was listed
        letter = self._parsed(listed.name, row)
        return letter if bodies else without_body(letter)

    async def _row(self, listed: _Listed) -> bytes | None:
        """What is known of the letter from the list, else the whole of it."""
        if listed.summary is not None:
            return listed.summary
        async with self._container.reaching("read a dead letter"):
            found = await read(self._container.client.get_blob_client(listed.name))
        return found[0] if found else None

    async def _expire(self, listed: _Listed, before: UnixSeconds) -> bool:
        row = await self._row(listed)
        if row is None or not is_older(row, before):
            return False
        async with self._container.reaching("delete a dead letter"):
            try:
                await delete(self._container.client.get_blob_client(listed.name), expected=listed.etag)
            except Changed:
                return False  # dropped since it was listed, or even written anew
        return True

    def _parsed(self, name: str, row: bytes) -> DeadLetter:
        try:
            return letter_from_json(row)
        except ValueError as error:
            raise StoreUnavailable(
                f"The dead letter {name} in {self._container.where} cannot be read: {error}"
            ) from error


def _listed(blob: Any) -> _Listed:
    summary = (blob.metadata or {}).get(_SUMMARY)
    return _Listed(blob.name, blob.etag, None if summary is None else base64.b64decode(summary))


def _summary(letter: DeadLetter) -> dict[str, str]:
    """The letter as a list shows it, in metadata; left out when it is too long for that."""
    encoded = base64.b64encode(letter_to_json(without_body(letter))).decode("ascii")
    return {_SUMMARY: encoded} if len(encoded) <= _LONGEST_SUMMARY else {}


class _Checkpoints(BlobCheckpointStore):
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
        async with self._container.reaching("list ownerships"):
            rows = await super().list_ownership(fully_qualified_namespace, eventhub_name, consumer_group)
        return [{**row, "owner_id": row["owner_id"] or ""} for row in rows]  # empty metadata may come as None

    async def claim_ownership(self, ownership_list: Iterable[dict[str, Any]], **_: Any) -> list[dict[str, Any]]:
        """The claims that were won; StoreUnavailable when it is not known of one."""
        async with self._container.reaching("claim partitions"):
            results = await _together(self._claim(ownership) for ownership in ownership_list)
        return [won for won in results if won is not None]

    async def list_checkpoints(
        self, fully_qualified_namespace: str, eventhub_name: str, consumer_group: str, **_: Any
    ) -> list[dict[str, Any]]:
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
        offset, sequence_number = checkpoint["offset"], int(checkpoint["sequence_number"])
        values = {"offset": "" if offset is None else str(offset), "sequencenumber": str(sequence_number)}

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


def _sequence_number(metadata: dict[str, str]) -> int:
    """Other SDKs may leave it out; then the checkpoint stands before everything."""
    return int(metadata.get("sequencenumber") or -1)


async def _together(works: Iterable[Coroutine[Any, Any, _Result]]) -> list[_Result]:
    """All at once and all to their end: one partition that cannot be written must not stop the others' renewal."""
    results = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


def _batches(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))
