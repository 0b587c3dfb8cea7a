"""The way of the `blob` sink to its container: the SDK's client, bounded, and the service's answers as a sink's errors.

One request where nothing is said: no retries, which are the lane's, and no redirects. The container is created when it
turns out to be missing. What the blobs are called and what is in them is the sink's decision. See `stores.container`
for the blobs that the worker keeps for itself.
"""

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, NamedTuple, TypeVar

from azure.core import MatchConditions
from azure.core.exceptions import AzureError, HttpResponseError, ResourceExistsError
from azure.storage.blob import ContentSettings
from azure.storage.blob.aio import ContainerClient

from worker.errors import Misconfigured, Rejected, SinkUnavailable, WorkerError
from worker.identity import AsCredential
from worker.sinks import TokenSource
from worker.sinks.answers import note_answer
from worker.sinks.blob_lines import Elsewhere, Full, Gone
from worker.sinks.posting import seconds_of

_CONNECT_SECONDS = 10

_Result = TypeVar("_Result")

_CODE = re.compile(r"[A-Za-z]{1,64}")
# The blob is there, whatever else is said about it: an archive may be immutable, or put away.
_EXISTS = frozenset({"BlobAlreadyExists", "BlobArchived", "BlobBeingRehydrated", "BlobImmutableDueToPolicy"})
# Somebody has to change something, or is about to.
_FOR_THE_OPERATOR = frozenset(
    {"AccountRequiresHttps", "BlobImmutableDueToPolicy", "ContainerDisabled", "InvalidAuthenticationInfo"}
)
# Of a blob that cannot be appended to any more: it has all the blocks that it may have, or somebody else holds it.
_FULL = frozenset({"BlockCountExceedsLimit", "LeaseIdMissing"})
_SOON_OVER = frozenset({"ContainerBeingDeleted"})


class Account(NamedTuple):
    """Which container, and how the client logs in: with a connection string, or else as the process."""

    sink: str
    container: str
    connection_string: Callable[[], str] | None
    """Read at each use. Raises Misconfigured when it cannot be right."""
    account_url: str | None
    tokens: TokenSource | None


class BlobLink:
    """The container. Every method is one attempt and raises SinkUnavailable, Misconfigured or Rejected."""

    def __init__(self, account: Account, *, read_seconds: float, clock: Callable[[], float] = time.time) -> None:
        self._account = account
        self._read_seconds = read_seconds
        self._clock = clock
        self._client: ContainerClient | None = None
        self._secret = ""
        """What the client was made with."""
        self._retired: list[ContainerClient] = []
        """Made with an earlier secret. They may be in use until the end."""

    async def aclose(self) -> None:
        """Closes the connections."""
        client, self._client = self._client, None
        retired, self._retired = self._retired, []
        for each in (*retired, client):
            if each is not None:
                with suppress(AzureError):
                    await each.close()

    async def create(self, name: str, body: bytes, content_type: str) -> None:
        """Writes a blob, unless there is one of this name: then all is well, too."""

        async def upload(client: ContainerClient) -> None:
            settings = ContentSettings(content_type=content_type)
            await client.get_blob_client(name).upload_blob(body, overwrite=False, content_settings=settings)

        try:
            await self._asked(upload)
        except HttpResponseError as error:
            if not _exists(error):
                raise self._problem(error) from None

    async def create_empty(self, name: str, content_type: str) -> None:
        """Begins a blob that is appended to, unless there is one of this name."""

        async def create(client: ContainerClient) -> None:
            settings = ContentSettings(content_type=content_type)
            await client.get_blob_client(name).create_append_blob(
                content_settings=settings, match_condition=MatchConditions.IfMissing
            )

        try:
            await self._asked(create)
        except HttpResponseError as error:
            if not _exists(error):
                raise self._problem(error) from None

    async def append(self, name: str, body: bytes, *, position: int) -> None:
        """Appends where the blob ends at `position`. Raises Elsewhere, Gone and Full as well."""

        async def append(client: ContainerClient) -> None:
            await client.get_blob_client(name).append_block(body, appendpos_condition=position)

        try:
            await self._asked(append)
        except HttpResponseError as error:
            match _code(error):
                case "AppendPositionConditionNotMet":
                    raise Elsewhere from None
                case "BlobNotFound":
                    raise Gone from None
                case code if code in _FULL:
                    raise Full from None
            raise self._problem(error) from None

    async def read(self, name: str, *, offset: int) -> bytes:
        """What stands in the blob from there on. Raises Gone as well."""

        async def read(client: ContainerClient) -> bytes:
            download = await client.get_blob_client(name).download_blob(offset=offset)
            content: bytes = await download.readall()
            return content

        try:
            return await self._asked(read)
        except HttpResponseError as error:
            if error.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return b""
            if _code(error) == "BlobNotFound":
                raise Gone from None
            raise self._problem(error) from None

    async def _asked(self, ask: Callable[[ContainerClient], Awaitable[_Result]]) -> _Result:
        """Asks, and once more if the container was missing. Raises HttpResponseError for what the service refuses."""
        client = self._connected()
        try:
            try:
                result = await ask(client)
            except HttpResponseError as error:
                if _code(error) != "ContainerNotFound":
                    raise
                with suppress(ResourceExistsError):  # another one was quicker; or it is being deleted: asked again
                    await client.create_container()
                result = await ask(client)
        except HttpResponseError as error:
            note_answer(error.status_code or 0, _code(error).encode())
            raise
        except WorkerError:
            raise  # of the identity
        except Exception as error:  # noqa: BLE001 - the SDK lets out what parses an answer: ValueError, zlib.error
            raise self._problem(error) from None
        note_answer("accepted")
        return result

    def _connected(self) -> ContainerClient:
        account = self._account
        secret = account.connection_string() if account.connection_string else ""
        if self._client is None or secret != self._secret:
            if self._client is not None:
                self._retired.append(self._client)
            self._client, self._secret = self._new_client(secret), secret
        return self._client

    def _new_client(self, secret: str) -> ContainerClient:
        account = self._account
        options: dict[str, Any] = {
            "connection_timeout": _CONNECT_SECONDS,
            "read_timeout": self._read_seconds,
            "retry_total": 0,
            "permit_redirects": False,
        }
        try:
            if secret:
                return ContainerClient.from_connection_string(secret, account.container, **options)
            assert account.account_url is not None
            assert account.tokens is not None, "whoever delivers has tokens; without, there is only something to see"
            return ContainerClient(
                account.account_url, account.container, credential=AsCredential(account.tokens), **options
            )
        except ValueError:  # its text may quote the input
            raise Misconfigured(
                f"sink {account.sink}: this is no usable address of a storage account: check the connection string, or "
                "account_url, which has to begin with https:// where the identity of the process is used"
            ) from None

    def _problem(self, error: Exception) -> WorkerError:
        """What is to be done about an answer, or about none. Never an unknown outcome: a blob's name tells."""
        where = f"sink {self._account.sink}: container {self._account.container}"
        if not isinstance(error, HttpResponseError) or error.status_code is None:
            return SinkUnavailable(f"{where} was not reached, or did not answer ({type(error).__name__})")
        status, code = error.status_code, _code(error)
        said = f"{where} answered {status}{f' ({code})' if code else ''}"
        if status in {408, 425, 429} or status >= 500 or code in _SOON_OVER:
            retry_after = seconds_of(_headers(error).get("Retry-After"), now=self._clock())
            return SinkUnavailable(said, retry_after_seconds=retry_after)
        if status in {401, 403, 404} or code in _FOR_THE_OPERATOR:
            return Misconfigured(
                f"{said}: check the connection string, or the role Storage Blob Data Contributor; a firewall of the "
                "account, or a policy of the container, says the same"
            )
        return Rejected(said)


def _headers(error: HttpResponseError) -> Mapping[str, str]:
    return getattr(error.response, "headers", None) or {}


def _exists(error: HttpResponseError) -> bool:
    return _code(error) in _EXISTS or error.status_code == HTTPStatus.PRECONDITION_FAILED


def _code(error: HttpResponseError) -> str:
    """The service's own word for it; empty where there is none, or what stands there is no word."""
    code = getattr(error, "error_code", None)
    word = str(getattr(code, "value", code) or "")
    return word if _CODE.fullmatch(word) else ""
