"""The only place that builds things, starts tasks, and stops them in order."""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from uuid import uuid4

import structlog
import uvloop
from azure.identity.aio import DefaultAzureCredential

from worker import logs
from worker.claim import Claim
from worker.config import BlobStoreSettings, Config
from worker.deadletters import DeadLetterWriter, Expiry
from worker.deliver import Lane
from worker.errors import ConfigError, StoreUnavailable, WorkerError
from worker.events import PartitionId
from worker.health import Health
from worker.http import Endpoints
from worker.hub import Hub
from worker.lease import Leases
from worker.metrics import Metrics
from worker.pipeline import Parts
from worker.retry import until_available
from worker.settings import Secret, SinkSettings
from worker.sinks.log import LogSettings, LogSink
from worker.sinks.table import KINDS
from worker.source import Source
from worker.stores import HubScope, Store
from worker.stores.blob import BlobStore
from worker.stores.sqlite import SqliteStore

_log = structlog.get_logger()

_LOOP_LIMIT_SECONDS = 30.0
"""A loop that has not moved for so long is stuck: /livez says so, and the kubelet restarts the process."""
_REQUESTS_SECONDS = 0.5
"""How often the worker looks whether somebody asks for one of its partitions."""
_MARGIN_SECONDS = 2.5
"""What the last writes and closing the client may take beyond the drain."""


class EndedEarly(WorkerError):
    """A task that works as long as the process returned: a bug, which must not go unnoticed."""


def run(config: Config) -> int:
    """Runs until SIGTERM or SIGINT, drains, and returns the exit code."""
    logs.configure()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_until_signal(config))


async def _until_signal(config: Config) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    code = 0
    try:
        await Worker(config).run(stop)
    except* ConfigError as group:
        code = _say(group, 2)
    except* WorkerError as group:
        code = _say(group, 1)
    _log.info("stopped")
    return code


def _say(group: BaseExceptionGroup[WorkerError], code: int) -> int:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            _say(error, code)
        else:
            _log.error("the worker failed", error=str(error))
    return code


class Worker:
    """One process: all the parts of the configuration, wired."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        self._metrics = Metrics()
        self._health = Health(limit_seconds=_LOOP_LIMIT_SECONDS)
        self._claims = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Works until `stop` is set. What was opened is closed in reverse, whatever happens."""
        settings = self._config.worker
        async with AsyncExitStack() as opened:
            self._health.set_ready("starting", ok=False, detail="not reading yet")
            endpoints = Endpoints(
                host=settings.http.host, port=settings.http.port, registry=self._metrics.registry, health=self._health
            )
            port = await endpoints.start()
            opened.push_async_callback(endpoints.aclose)
            _log.info("started", worker=self._name, metrics=f"http://{settings.http.host}:{port}/metrics")
            credential = DefaultAzureCredential() if self._needs_identity() else None
            if credential is not None:
                opened.push_async_callback(credential.close)
            hub = Hub(settings.source, credential)
            store = _build_store(self._config, hub.scope, credential)
            opened.push_async_callback(store.aclose)
            leases = Leases(store, lease_seconds=self._lease_seconds())
            opened.push_async_callback(leases.release)
            if not await until_available(store.open, stop):
                return
            lanes = {each.name: await self._open_lane(each, opened) for each in self._config.sinks}
            await self._work(hub, store, leases, lanes, stop)

    async def _work(self, hub: Hub, store: Store, leases: Leases, lanes: dict[str, Lane], stop: asyncio.Event) -> None:
        letters = DeadLetterWriter(store, self._metrics)
        parts = self._parts(hub, store, leases, lanes, letters)
        async with asyncio.TaskGroup() as tasks:

            def open_claim(partition: PartitionId) -> Claim:
                self._claims += 1
                claim = Claim(partition, f"{self._name}/{self._claims}", parts)
                tasks.create_task(claim.run(), name=f"partition {partition}")
                return claim

            async def reachable() -> bool:
                self._health.set_ready("hub", ok=False, detail="not reached")
                found = await until_available(lambda: hub.prepare(leases), stop)
                self._health.set_ready("hub", ok=found, detail="not reached")
                return found

            settings = self._config.worker
            close_seconds = settings.limits.drain_seconds + _MARGIN_SECONDS
            source = Source(hub, settings.source, leases, open_claim, self._metrics, close_seconds=close_seconds)
            expiry = Expiry(store, self._metrics, keep_days=settings.dead_letters.keep_days)
            lifelong = {
                "dead letters": letters.run(),
                "expiry of dead letters": expiry.run(),
                "requests": self._watch(source, store),
                **{f"lane {name}": lane.run() for name, lane in lanes.items()},
            }
            working = [tasks.create_task(_forever(work, name), name=name) for name, work in lifelong.items()]
            working.append(tasks.create_task(source.run(reachable), name="source"))
            self._health.set_ready("starting", ok=True)
            await stop.wait()
            _log.info("stopping", partitions=len(source.claims))
            self._health.set_ready("stopping", ok=False, detail="draining")
            source.begin_stop()
            await source.stop()
            for task in working:
                task.cancel()

    def _parts(
        self, hub: Hub, store: Store, leases: Leases, lanes: dict[str, Lane], letters: DeadLetterWriter
    ) -> Parts:
        settings = self._config.worker
        return Parts(
            store=store,
            scope=hub.scope,
            routes=self._config.routes,
            lanes=lanes,
            dead_letters=letters,
            order=settings.order,
            limits=settings.limits,
            spoiled=settings.dead_letters,
            intervals=settings.store,
            metrics=self._metrics,
            health=self._health,
            lease_valid=leases.valid,
        )

    async def _watch(self, source: Source, store: Store) -> None:
        """Looks for requests in the states of all partitions held here, with one query; and shows what is held."""
        while True:
            self._health.beat("requests")
            held = [each for each in source.claims.values() if each.held]
            self._metrics.owned.set(len(held))
            if held:
                try:
                    versions = await store.state_versions()
                    for claim in held:
                        await claim.look(versions.get(claim.partition))
                except StoreUnavailable as error:
                    _log.debug("requests not seen", error=str(error))  # the keeper says that the store is away
            await asyncio.sleep(_REQUESTS_SECONDS)

    async def _open_lane(self, settings: SinkSettings, opened: AsyncExitStack) -> Lane:
        log_instead = LogSettings(name=settings.name, dry_run=True)
        sink = KINDS[settings.kind].build(settings) if not settings.dry_run else LogSink(log_instead)
        opened.push_async_callback(sink.aclose)
        await sink.open()
        give_up_after_seconds = self._config.give_up_after_seconds(settings)
        return Lane(settings, sink, give_up_after_seconds=give_up_after_seconds, metrics=self._metrics)

    def _lease_seconds(self) -> float:
        """No attempt starts later than this after the last renewal: two intervals before others may take over."""
        source = self._config.worker.source
        return source.ownership_expiry_seconds - 2 * source.balance_interval_seconds

    def _needs_identity(self) -> bool:
        settings = self._config.worker
        by_identity = isinstance(settings.store, BlobStoreSettings) and settings.store.account_url is not None
        return by_identity or settings.source.namespace is not None


def _build_store(config: Config, scope: HubScope, credential: DefaultAzureCredential | None) -> Store:
    settings = config.worker.store
    if isinstance(settings, BlobStoreSettings):
        secret = Secret.of(settings, "connection_string")
        return BlobStore(
            settings.container,
            scope,
            connection_string=secret.read() if secret else None,
            account_url=settings.account_url,
            credential=credential,
        )
    return SqliteStore(settings.path, scope)


async def _forever(work: Awaitable[None], name: str) -> None:
    await work
    raise EndedEarly(f"{name} ended by itself")
