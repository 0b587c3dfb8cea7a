"""One container of Azure Blob storage: bounded calls, conditional writes, and errors in words.

Knows nothing of what the blobs mean. An etag is without its quotes everywhere here, because list requests give them
so and all others do not.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import StorageErrorCode
from azure.storage.blob.aio import BlobClient, ContainerClient, LinearRetry

from worker.counted import Count
from worker.errors import ConfigError, StoreUnavailable
from worker.stores.transport import CountingTransport

_CONNECT_SECONDS = 3
_READ_SECONDS = 5
_RETRIES = 2
_AT_ONCE = 16
"""Requests in flight while many blobs are read, written or deleted; also bounds memory: a letter has up to 1.4 MB."""
_WRITE_ID = "writeid"

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Changed(Exception):
    """A conditional write met another version of the blob, or a blob where none was expected, or none."""


class Metadata(NamedTuple):
    """What a blob says without its body; no etag and no values where there is no blob."""

    etag: str | None
    values: dict[str, str]


class Written(NamedTuple):
    """How a blob stands after a write."""

    etag: str
    modified_at: float
    """By the service's clock, seconds since 1970."""


class Container:
    """The client, how long a call may take, and what an error says: the container and its host, never a key."""

    def __init__(
        self,
        name: str,
        *,
        connection_string: str | None,
        account_url: str | None,
        credential: Any,
        timeout_seconds: float,
        count: Count,
    ) -> None:
        self.client = _client(name, connection_string, account_url, credential, count)
        self.where = f"the blob container {name} at {self.client.primary_hostname}"
        self._timeout_seconds = timeout_seconds

    @asynccontextmanager
    async def reaching(self, purpose: str) -> AsyncIterator[None]:
        """Bounds what happens inside, and turns the client's errors into StoreUnavailable."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                yield
        except TimeoutError:
            raise StoreUnavailable(
                f"Could not {purpose}: {self.where} did not answer within {self._timeout_seconds:g} s."
            ) from None
        except AzureError as error:
            # Not chained: the client's own texts may quote request headers.
            raise StoreUnavailable(f"Could not {purpose}: {self.where}: {_reason(error)}") from None

    async def pages(self, prefix: str, purpose: str, **options: Any) -> AsyncIterator[list[Any]]:
        """What stands below a prefix, in the order of the names; each page is one request and one bounded call."""
        pages = self.client.list_blobs(name_starts_with=prefix, **options).by_page()
        while True:
            async with self.reaching(purpose):
                try:
                    page = [blob async for blob in await anext(pages)]
                except StopAsyncIteration:
                    return
            yield page

    async def clock(self) -> float:
        """When the service has dated an answer, just now; seconds since 1970."""
        dates: list[str] = []

        def note(response: Any) -> None:
            dates.append(response.http_response.headers["Date"])

        # Not its properties: a signature for the container alone gives no right to those.
        async for _ in self.client.list_blob_names(results_per_page=1, raw_response_hook=note):
            break
        return parsedate_to_datetime(dates[-1]).timestamp()

    async def create(self) -> None:
        """Makes sure that the container is there; the right to create it is not needed when it is."""
        try:
            async for _ in self.client.list_blob_names(results_per_page=1):
                return
        except ResourceNotFoundError:
            await self._create()

    async def _create(self) -> None:
        try:
            await self.client.create_container()
        except ResourceExistsError as error:
            if _code(error) != StorageErrorCode.CONTAINER_ALREADY_EXISTS:  # being deleted, for instance
                raise


async def read(blob: BlobClient) -> tuple[bytes, str] | None:
    """Body and etag, or None where there is no blob."""
    try:
        download = await blob.download_blob()
        body: bytes = await download.readall()
    except ResourceNotFoundError as error:
        if _is_blob(error):
            return None
        raise
    return body, unquoted(download.properties.etag)


async def read_metadata(blob: BlobClient) -> Metadata:
    """Metadata and etag, in a request without body."""
    try:
        properties = await blob.get_blob_properties()
    except ResourceNotFoundError as error:
        if _is_blob(error):
            return Metadata(None, {})
        raise
    return Metadata(unquoted(properties.etag), properties.metadata)


async def write(
    blob: BlobClient, body: bytes, metadata: dict[str, str], *, expected: str | None, **options: Any
) -> Written:
    """Writes the whole blob when its etag is `expected` (None: only if absent). Raises Changed."""
    condition = _only_if(expected) if expected else {}
    try:
        answer = await blob.upload_blob(body, metadata=metadata, overwrite=bool(expected), **condition, **options)
    except (ResourceModifiedError, ResourceExistsError) as error:
        raise Changed from error
    return _written(answer)


async def write_metadata(blob: BlobClient, values: dict[str, str], *, expected: str | None, **options: Any) -> Written:
    """The same for a blob without body.

    One that exists gets new metadata only: under soft delete or versioning a new body would leave a copy behind. One
    that is absent is created with Put Blob, because Azurite ignores "If-None-Match: *" on Set Blob Metadata.
    """
    if not expected:
        return await write(blob, b"", values, expected=None, **options)
    try:
        answer = await blob.set_blob_metadata(values, **_only_if(expected), **options)
    except ResourceModifiedError as error:
        raise Changed from error
    except ResourceNotFoundError as error:
        if _is_blob(error):
            raise Changed from error
        raise
    return _written(answer)


async def write_once(blob: BlobClient, body: bytes | None, metadata: dict[str, str], *, expected: str | None) -> str:
    """`write`, or `write_metadata` where there is no body; returns the etag.

    Changed means that someone else wrote: what the client's second try meets of its first, whose answer got lost, is
    told by an id in the metadata.
    """
    marked = {**metadata, _WRITE_ID: uuid4().hex}
    try:
        if body is None:
            return (await write_metadata(blob, marked, expected=expected)).etag
        return (await write(blob, body, marked, expected=expected)).etag
    except Changed:
        found = await read_metadata(blob)
        if found.etag is None or found.values.get(_WRITE_ID) != marked[_WRITE_ID]:
            raise
        return found.etag


async def overwrite(blob: BlobClient, body: bytes) -> None:
    """Writes the whole blob, whatever stood there."""
    await blob.upload_blob(body, overwrite=True)


async def delete(blob: BlobClient, *, expected: str | None) -> None:
    """Deletes the blob when its etag is still `expected` (None: whatever it is). Raises Changed when it is gone too."""
    try:
        await blob.delete_blob(**(_only_if(expected) if expected else {}))
    except ResourceModifiedError as error:
        raise Changed from error
    except ResourceNotFoundError as error:
        if _is_blob(error):
            raise Changed from error
        raise


async def together(works: Iterable[Coroutine[Any, Any, _Result]]) -> list[_Result]:
    """All at once and all to their end: one partition that cannot be written must not stop the others' renewal."""
    results = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


def batches(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    """Of a size that may go together."""
    return (items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE))


def unquoted(etag: str) -> str:
    """The etag as list requests give it."""
    return etag.strip('"')


def _only_if(etag: str) -> dict[str, Any]:
    return {"etag": f'"{unquoted(etag)}"', "match_condition": MatchConditions.IfNotModified}


def _written(answer: dict[str, Any]) -> Written:
    return Written(unquoted(answer["etag"]), answer["last_modified"].timestamp())


def _is_blob(error: ResourceNotFoundError) -> bool:
    """Whether the blob is what was not found, and not the container."""
    return _code(error) == StorageErrorCode.BLOB_NOT_FOUND


def _code(error: AzureError) -> str:
    """The service's own word for it, where there is one."""
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or type(error).__name__)


def _reason(error: AzureError) -> str:
    code = _code(error)
    match error:
        case HttpResponseError(status_code=401 | 403):
            return (
                f"access is refused ({code}). Check the connection string, or give this identity the role "
                "Storage Blob Data Contributor on the container; a firewall of the account says the same."
            )
        case HttpResponseError(status_code=404):
            return f"it is missing ({code}). The worker creates it when it starts."
        case HttpResponseError(status_code=int(status)):
            return f"HTTP {status} ({code})."
        case _:
            return f"{error.message}."


def _client(
    name: str, connection_string: str | None, account_url: str | None, credential: Any, count: Count
) -> ContainerClient:
    timeouts = {"connection_timeout": _CONNECT_SECONDS, "read_timeout": _READ_SECONDS}
    options: dict[str, Any] = {
        "transport": CountingTransport(count, **timeouts),
        **timeouts,
        "retry_policy": LinearRetry(backoff=1, retry_total=_RETRIES, random_jitter_range=1),
    }
    try:
        if connection_string is not None:
            return ContainerClient.from_connection_string(connection_string, name, **options)
        return ContainerClient(account_url or "", name, credential=credential, **options)
    except ValueError:  # its text may quote the input
        key = "store.connection_string" if connection_string is not None else "store.account_url"
        mistake = (
            f"{key}: this is no usable address of a storage account with the container {name!r}. A connection "
            "string is copied from 'Access keys' of the account; an account_url is https://ACCOUNT.blob.core.windows.net"
        )
        raise ConfigError([mistake]) from None
