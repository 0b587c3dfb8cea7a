"""The only place that builds things and closes them: one process, from its configuration to its exit code."""

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog
import uvloop

from worker import logs
from worker.config import BlobStoreSettings, Config
from worker.counted import Count, uncounted
from worker.deliver import Lane
from worker.errors import ConfigError, WatchdogError, WorkerError
from worker.health import Health
from worker.http import Endpoints
from worker.hub import Hub
from worker.identity import Tokens
from worker.lanes import close_sink
from worker.lease import Leases
from worker.ledger import Ledger
from worker.metrics import Metrics
from worker.otel_environment import is_disabled
from worker.process import Opened, Process
from worker.reload import Reloads
from worker.retry import until_available
from worker.settings import Secret, SinkSettings
from worker.shown import Overview
from worker.sinks import Sink
from worker.sinks.installed import find_kind
from worker.sinks.log import LogSettings, LogSink
from worker.stores import HubScope, Store
from worker.stores.sqlite import SqliteStore
from worker.tracing import Tracing
from worker.way import Way

if TYPE_CHECKING:
    from azure.identity.aio import DefaultAzureCredential

_log = structlog.get_logger()

_FAILED, _WRONG_INPUT, _WATCHDOG = 1, 2, 3
"""Exit codes; 0: stopped as asked."""
COLLECTOR = (5_000, 5, 4_000)
"""Python's collector looks at all that is remembered each time it runs in full: with its own thresholds it held up the
loop for 0.7 to 0.9 s at 100,000 subjects. So it does that seldom, and looks at the young ones, which may all be there
to stay, 25,000 at a time: 0.03 s (a million at a time took 0.5 s). See `python -m bench stages`."""
_LOOP_LIMIT_SECONDS = 30.0
"""A loop that has not moved for so long is stuck: /livez says so, and the kubelet restarts the process."""


def run(config: Config) -> int:
    """Runs until SIGTERM or SIGINT, drains, and returns the exit code; a second signal ends the process at once.

    SIGHUP reads the rules again.
    """
    logs.configure(traced=config.worker.tracing.enabled)
    set_collector()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_until_signal(config))


def set_collector() -> None:
    """Python's collector as the worker has it: what was there at the start is never looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR)


async def _until_signal(config: Config) -> int:
    stop, reload_asked = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _signalled, stop)
    loop.add_signal_handler(signal.SIGHUP, reload_asked.set)
    code = 0
    try:
        await Worker(config).run(stop, reload_asked)
    except* WorkerError as group:
        code = _say(group)
    _log.info("stopped", exit_code=code)
    return code


def _signalled(stop: asyncio.Event) -> None:
    if not stop.is_set():
        stop.set()
        return
    _log.warning("stopped at once by a second signal; what was under way may be delivered again")
    sys.stderr.flush()
    os._exit(_FAILED)  # whatever waits, and whoever would clean up: nothing here must be able to hold it up


def _say(group: BaseExceptionGroup[WorkerError]) -> int:
    """Says each error, and returns the highest exit code: the one that says most."""
    codes = [_say(error) if isinstance(error, BaseExceptionGroup) else _say_one(error) for error in group.exceptions]
    return max(codes)


def _say_one(error: WorkerError) -> int:
    _log.error("the worker failed", error=str(error))
    match error:
        case ConfigError():
            return _WRONG_INPUT
        case WatchdogError():
            return _WATCHDOG
    return _FAILED


class Worker:
    """One process: all the parts of the configuration, wired."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        self._metrics = Metrics()
        self._health = Health(limit_seconds=_LOOP_LIMIT_SECONDS)
        self._overview = Overview(config, self._name, metrics=self._metrics, health=self._health)
        self._tracing: Tracing | None = None

    async def run(self, stop: asyncio.Event, reload_asked: asyncio.Event) -> None:
        """Works until `stop` is set. What was opened is closed in reverse, whatever happens.

        When `reload_asked` is set the rules are read again, as they are when they change.
        """
        settings = self._config.worker
        async with AsyncExitStack() as opened:
            self._health.set_ready("starting", ok=False, detail="not reading yet")
            await self._serve(opened)
            credential = await _open_credential(self._config, opened)
            self._metrics.describe(settings)
            hub = Hub(settings.source, credential, count=self._metrics.hub_request)
            self._tracing = self._trace(hub.scope, opened)
            store = _build_store(self._config, hub.scope, credential, count=self._metrics.store_request)
            opened.push_async_callback(store.aclose)
            leases = Leases(
                store,
                balance_seconds=settings.source.balance_interval_seconds,
                expiry_seconds=settings.source.ownership_expiry_seconds,
                hand_over_seconds=settings.limits.hand_over_seconds,
            )
            opened.push_async_callback(leases.release)
            if not await until_available(leases.open, stop):
                return
            sinks = _Sinks(self._name, store, self._metrics, credential)
            opened.push_async_callback(sinks.aclose)
            reloads = Reloads(
                self._config,
                sinks,
                asked=reload_asked,
                metrics=self._metrics,
                health=self._health,
            )
            await reloads.begin()
            lanes = {each.name: self._lane(await sinks.build(each)) for each in self._config.sinks}
            parts = Opened(
                self._name,
                hub,
                store,
                leases,
                lanes,
                self._metrics,
                self._health,
                close_sink=sinks.close,
                reloads=reloads.run,
                shows=self._overview.run,
                tracing=self._tracing,
            )
            await Process(self._config, parts).run(stop)

    async def _serve(self, opened: AsyncExitStack) -> None:
        http = self._config.worker.http
        endpoints = Endpoints(
            host=http.host,
            port=http.port,
            registry=self._metrics.registry,
            health=self._health,
            page=self._overview.page if http.status_page else None,
            page_port=http.status_port,
            page_host=http.status_host,
        )
        port = await endpoints.start()
        opened.push_async_callback(endpoints.aclose)
        page_host = http.status_host or http.host
        page = {"status": f"http://{page_host}:{endpoints.page_port}/"} if http.status_page else {}
        _log.info("started", worker=self._name, metrics=f"http://{http.host}:{port}/metrics", **page)

    def _lane(self, way: Way) -> Lane:
        give_up_after_seconds = self._config.give_up_after_seconds(way.settings)
        return Lane(
            way.settings,
            way.sink,
            give_up_after_seconds=give_up_after_seconds,
            metrics=self._metrics,
            ledger=way.ledger,
            tracing=self._tracing,
        )

    def _trace(self, scope: HubScope, opened: AsyncExitStack) -> Tracing | None:
        settings = self._config.worker.tracing
        if not settings.enabled or is_disabled(os.environ):
            return None
        # Not before it is asked for: what it brings with it need not be installed, and takes its time to import.
        from worker.otlp import Exporting  # noqa: PLC0415

        try:
            exporting = Exporting(settings, scope, self._name)
        except Exception as error:  # noqa: BLE001 - a variable that is not in `otel_environment`; the text may quote it
            reason = type(error).__name__
            raise ConfigError(
                [f"tracing: OpenTelemetry does not start with these OTEL_* variables: {reason}"]
            ) from None
        exporting.serve_libraries()
        opened.push_async_callback(exporting.aclose)
        return exporting.spans


class _Sinks:
    """The sinks of a process: built and opened one by one, also while it runs, and closed when they are not needed."""

    def __init__(self, name: str, store: Store, metrics: Metrics, credential: "DefaultAzureCredential | None") -> None:
        self._name = name
        self._store = store
        self._metrics = metrics
        self._tokens = Tokens(credential) if credential else None
        self._credential: DefaultAzureCredential | None = None
        self._numbers = count(1)
        self._open: list[Sink] = []

    async def build(self, settings: SinkSettings) -> Way:
        """Builds a sink and opens it. Raises what its kind does."""
        if settings.dry_run:
            sink: Sink = LogSink(LogSettings(name=settings.name, dry_run=True))
        else:
            tokens = self._identity() if settings.needs_identity else self._tokens
            sink = find_kind(settings.kind).build(settings, tokens)
        self._open.append(sink)
        try:
            await sink.open()
        except BaseException:
            await self.close(sink)
            raise
        ledger = None
        if settings.uses_ledger and not settings.dry_run:
            # Another name each time: two ledgers of one process must not take each other's intents for their own.
            by = f"{self._name}/{next(self._numbers)}"
            ledger = Ledger(self._store, settings, sink, by=by, metrics=self._metrics)
        return Way(settings, sink, ledger)

    def _identity(self) -> Tokens:
        """The identity of the process, which the first sink that logs in with it may need first."""
        if self._tokens is None:
            self._credential = _default_credential()
            self._tokens = Tokens(self._credential)
        return self._tokens

    async def close(self, sink: Sink) -> None:
        """Closes one that nobody uses any more."""
        self._open.remove(sink)
        await close_sink(sink)

    async def aclose(self) -> None:
        """Closes all that are open."""
        while self._open:
            await close_sink(self._open.pop())
        if self._credential is not None:
            await self._credential.close()


@asynccontextmanager
async def opened_store(config: Config) -> AsyncIterator[Store]:
    """The store alone, for commands that look into it or write to it. Nothing is asked of the hub."""
    async with hub_and_store(config) as (_, store):
        await store.open()
        yield store


@asynccontextmanager
async def hub_and_store(config: Config) -> AsyncIterator[tuple[Hub, Store]]:
    """Both, for commands that look at either; the store is not opened yet, and nothing is asked of the hub."""
    async with AsyncExitStack() as opened:
        credential = await _open_credential(config, opened)
        hub = Hub(config.worker.source, credential)
        store = _build_store(config, hub.scope, credential)
        opened.push_async_callback(store.aclose)
        yield hub, store


@asynccontextmanager
async def built_sink(settings: SinkSettings) -> AsyncIterator[Sink]:
    """One sink alone, not yet opened, with the identity it needs: for whoever tries it."""
    async with AsyncExitStack() as opened:
        tokens = None
        if settings.needs_identity:
            credential = _default_credential()
            opened.push_async_callback(credential.close)
            tokens = Tokens(credential)
        yield find_kind(settings.kind).build(settings, tokens)


def _default_credential() -> "DefaultAzureCredential":
    # Of the 1.6 s of processor time that a start took, 0.4 were this import, and 0.5 that of the SDK in `_build_store`.
    from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415 - see above

    return DefaultAzureCredential()


async def _open_credential(config: Config, opened: AsyncExitStack) -> "DefaultAzureCredential | None":
    """The identity of the process, where hub or store need one."""
    settings = config.worker
    by_identity = isinstance(settings.store, BlobStoreSettings) and settings.store.account_url is not None
    if not by_identity and settings.source.namespace is None:
        return None
    credential = _default_credential()
    opened.push_async_callback(credential.close)
    return credential


def _build_store(
    config: Config, scope: HubScope, credential: "DefaultAzureCredential | None", *, count: Count = uncounted
) -> Store:
    settings = config.worker.store
    if isinstance(settings, BlobStoreSettings):
        from worker.stores.blob import BlobStore  # noqa: PLC0415 - the SDK of the Blob service, only where it is used

        secret = Secret.of(settings, "connection_string")
        return BlobStore(
            settings.container,
            scope,
            connection_string=secret.read() if secret else None,
            account_url=settings.account_url,
            credential=credential,
            count=count,
        )
    return SqliteStore(settings.path, scope, count=count)
