"""The hub: how it is reached, whether it answers, and where each partition begins. Receives nothing; `source` does."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import structlog
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import AzureError, ClientAuthenticationError
from azure.eventhub.aio import CheckpointStore, EventHubConsumerClient
from azure.eventhub.exceptions import AuthenticationError, ConnectError, EventHubError

from worker.config import OnInvalidOffset, SourceSettings
from worker.connections import hub_address
from worker.counted import Count, counted, uncounted
from worker.errors import Conflict, HubUnavailable
from worker.events import PartitionId, UnixSeconds
from worker.progress import Watermark
from worker.settings import Secret
from worker.state import HubIdentity
from worker.stores import HubScope, Store
from worker.target import Span

_log = structlog.get_logger()

_T = TypeVar("_T")

_ANSWER_SECONDS = 10.0
"""How long the hub may take for one answer."""
_RETRIES = 10_000
"""The SDK never resets its count of errors while it owns a partition: a small number ends every partition in time."""


class End(NamedTuple):
    """How far a partition is."""

    sequence_number: int
    """Of the last message; -1 where there never was one."""
    enqueued_at: datetime
    empty: bool
    """Whether there is nothing to read: nothing was sent, or all of it is forgotten."""


class Hub:
    """One hub and consumer group, as the configuration names it."""

    def __init__(
        self, settings: SourceSettings, credential: AsyncTokenCredential | None, *, count: Count = uncounted
    ) -> None:
        self._settings = settings
        self._count = count
        self._credential = credential
        self._secret = Secret.of(settings, "connection_string")
        namespace = hub_address(self._secret.read()).namespace if self._secret else settings.namespace
        assert namespace is not None  # the configuration has one of the two
        self.scope = HubScope(namespace, settings.hub, settings.consumer_group)
        self._identity: HubIdentity | None = None
        self.partitions: tuple[PartitionId, ...] = ()
        """All that it has, as it said when it was last asked; none before."""

    @property
    def identity(self) -> HubIdentity | None:
        """Which hub it is, as it said when it was last asked; None before."""
        return self._identity

    def connect(self, checkpoints: CheckpointStore | None = None, *, retries: int = _RETRIES) -> EventHubConsumerClient:
        """A new client; with a store it shares the partitions with the others that use it."""
        settings = self._settings
        options: dict[str, Any] = {
            "checkpoint_store": checkpoints,
            "load_balancing_interval": settings.balance_interval_seconds,
            "partition_ownership_expiration_interval": settings.ownership_expiry_seconds,
            "retry_total": retries,
            # Without it the service sends no heartbeats: a half-open connection is noticed after a quarter of an hour.
            "idle_timeout": settings.idle_timeout_seconds,
        }
        if self._secret:
            return EventHubConsumerClient.from_connection_string(
                self._secret.read(), self.scope.consumer_group, eventhub_name=self.scope.hub, **options
            )
        assert self._credential is not None
        return EventHubConsumerClient(
            self.scope.namespace, self.scope.hub, self.scope.consumer_group, self._credential, **options
        )

    async def prepare(self, store: Store) -> None:
        """Asks the hub, and fixes where every partition begins. Raises HubUnavailable, StoreUnavailable."""
        async with self._asking() as client:
            partitions = await self._identify(client)
            _log.info("hub reached", hub=self.scope.hub, namespace=self.scope.namespace, partitions=len(partitions))
            await self._write_first_checkpoints(client, partitions, store)

    async def identify(self) -> HubIdentity:
        """Asks which hub it is. Raises HubUnavailable."""
        async with self._asking() as client:
            await self._identify(client)
        assert self._identity is not None
        return self._identity

    async def ends(self, partitions: Iterable[PartitionId]) -> dict[PartitionId, End]:
        """Asks how far partitions are. Raises HubUnavailable."""
        async with self._asking() as client:
            return {each: _end(await self._partition(client, each)) for each in partitions}

    async def edge(self, partition: PartitionId, which: OnInvalidOffset) -> Watermark:
        """Where a partition is read from to have all of it (earliest), or what comes from now on. HubUnavailable."""
        async with self._asking() as client:
            span = _span(await self._partition(client, partition))
        return span.latest if which == "latest" else span.earliest

    async def spans(self) -> dict[PartitionId, Span]:
        """Asks what its partitions hold, in their order; and which hub it is. Raises HubUnavailable."""
        async with self._asking() as client:
            partitions = await self._identify(client)
            # All at once: each opens a connection of its own, and there may be many.
            seen = await asyncio.gather(*(self._partition(client, each) for each in partitions))
        found = {PartitionId(each["id"]): _span(each) for each in seen}
        return {each: found[each] for each in sorted(found, key=by_number)}

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[EventHubConsumerClient]:
        """A client for questions, which does not try again."""
        client = self.connect(retries=0)
        try:
            yield client
        except (EventHubError, AzureError, TimeoutError, OSError) as error:
            raise HubUnavailable(explain(error, self.scope)) from None
        finally:
            await client.close()

    async def _identify(self, client: EventHubConsumerClient) -> list[str]:
        with counted(self._count, "hub_properties"):
            seen = await _answer(client.get_eventhub_properties())
        self._identity = HubIdentity(seen["created_at"].isoformat(), epoch=-1)
        partitions: list[str] = seen["partition_ids"]
        self.partitions = tuple(map(PartitionId, partitions))
        return partitions

    async def _partition(self, client: EventHubConsumerClient, partition: str) -> dict[str, Any]:
        with counted(self._count, "partition_properties"):
            return await _answer(client.get_partition_properties(partition))

    async def _write_first_checkpoints(
        self, client: EventHubConsumerClient, partitions: list[str], store: Store
    ) -> None:
        """Fixes where a partition begins that has no checkpoint yet.

        Scalers count a partition without one as wholly unread, and "latest" must not mean something else at each try.
        """
        if not isinstance(self._settings.start, str):
            return  # the offset of a time is not known before something of that time was read
        known = {each["partition_id"] for each in await store.checkpoints.list_checkpoints(*self.scope)}
        for partition in partitions:
            if partition not in known:
                span = _span(await self._partition(client, partition))
                number, offset = span.latest if self._settings.start == "latest" else span.earliest
                with suppress(Conflict):  # another process was quicker
                    await store.write_checkpoint(
                        PartitionId(partition), offset=offset, sequence_number=number, expected=None
                    )


def by_number(partition: PartitionId) -> tuple[int, str]:
    """Puts partitions in the order that people expect."""
    return len(partition), partition


def _span(seen: dict[str, Any]) -> Span:
    return Span(
        seen["beginning_sequence_number"],
        seen["last_enqueued_sequence_number"],
        str(seen["last_enqueued_offset"]),
        UnixSeconds(seen["last_enqueued_time_utc"].timestamp()),
        empty=seen["is_empty"],
    )


def _end(seen: dict[str, Any]) -> End:
    return End(seen["last_enqueued_sequence_number"], seen["last_enqueued_time_utc"], empty=seen["is_empty"])


async def _answer(question: Coroutine[Any, Any, _T]) -> _T:
    """Bounded: each question opens a connection of its own, and the SDK waits for ever when nobody answers there."""
    async with asyncio.timeout(_ANSWER_SECONDS):
        return await question


def explain(error: Exception, scope: HubScope) -> str:
    """What is wrong and what to do, in one sentence."""
    where = f"hub {scope.hub!r} at {scope.namespace}"
    match error:
        case EventHubError() if "not-found" in str(error) or "could not be found" in str(error):
            return (
                f"{where} does not exist, or has no consumer group {scope.consumer_group!r}: check source.hub, "
                "source.consumer_group, and EntityPath in the connection string"
            )
        case AuthenticationError():
            # The SDK does not pass on which of the two it is.
            return (
                f"{where} refuses the credentials, or does not exist: check source.hub, the key, "
                "or the role (Azure Event Hubs Data Receiver)"
            )
        case ClientAuthenticationError():
            return f"{where}: this process has no identity to show: check the workload or managed identity"
        case TimeoutError():
            return f"{where} does not answer within {_ANSWER_SECONDS:g} s: check the network and the port"
        case ConnectError():
            return f"{where} cannot be reached: check the namespace, the port and the network ({one_line(error)})"
    return f"{where} cannot be read: {one_line(error)}"


def one_line(error: Exception) -> str:
    """The error's text on one line, shortened."""
    return " ".join(str(error).split())[:300] or type(error).__name__
