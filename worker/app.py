"""The only place that builds things and closes them: one process, from its configuration to its exit code."""

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import uuid4

import structlog
import uvloop
from azure.identity.aio import DefaultAzureCredential

from worker import logs
from worker.config import BlobStoreSettings, Config
from worker.deliver import Lane
from worker.errors import ConfigError, WatchdogError, WorkerError
from worker.health import Health
from worker.http import Endpoints
from worker.hub import Hub
from worker.identity import Tokens
from worker.lease import Leases
from worker.ledger import Ledger
from worker.metrics import Metrics
from worker.process import Opened, Process
from worker.retry import until_available
from worker.settings import Secret, SinkSettings
from worker.sinks import Sink, TokenSource
from worker.sinks.installed import find_kind
from worker.sinks.log import LogSettings, LogSink
from worker.stores import HubScope, Store
from worker.stores.blob import BlobStore
from worker.stores.sqlite import SqliteStore

_log = structlog.get_logger()

_FAILED, _WRONG_INPUT, _WATCHDOG = 1, 2, 3
"""Exit codes; 0: stopped as asked."""
_COLLECTOR = (50_000, 20, 100)
"""Python's collector looks at all that is remembered each time it runs in full: with its own thresholds it held up the
loop for 0.3 to 0.9 s at 100,000 subjects, with these for 0.02 s (`python -m bench.state`)."""
_LOOP_LIMIT_SECONDS = 30.0
"""A loop that has not moved for so long is stuck: /livez says so, and the kubelet restarts the process."""


def run(config: Config) -> int:
    """Runs until SIGTERM or SIGINT, drains, and returns the exit code; a second signal ends the process at once."""
    logs.configure()
    gc.freeze()
    gc.set_threshold(*_COLLECTOR)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_until_signal(config))


async def _until_signal(config: Config) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _signalled, stop)
    code = 0
    try:
        await Worker(config).run(stop)
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
            for_sinks = any(each.needs_identity and not each.dry_run for each in self._config.sinks)
            credential = await _open_credential(self._config, opened, for_sinks=for_sinks)
            tokens = Tokens(credential) if credential else None
            hub = Hub(settings.source, credential)
            store = _build_store(self._config, hub.scope, credential)
            opened.push_async_callback(store.aclose)
            leases = Leases(
                store,
                balance_seconds=settings.source.balance_interval_seconds,
                expiry_seconds=settings.source.ownership_expiry_seconds,
            )
            opened.push_async_callback(leases.release)
            if not await until_available(leases.open, stop):
                return
            lanes = {each.name: await self._open_lane(each, store, tokens, opened) for each in self._config.sinks}
            parts = Opened(self._name, hub, store, leases, lanes, self._metrics, self._health)
            await Process(self._config, parts).run(stop)

    async def _open_lane(
        self, settings: SinkSettings, store: Store, tokens: TokenSource | None, opened: AsyncExitStack
    ) -> Lane:
        log_instead = LogSettings(name=settings.name, dry_run=True)
        sink = find_kind(settings.kind).build(settings, tokens) if not settings.dry_run else LogSink(log_instead)
        opened.push_async_callback(sink.aclose)
        await sink.open()
        ledger = None
        if settings.uses_ledger and not settings.dry_run:
            ledger = Ledger(store, settings, sink, by=self._name, metrics=self._metrics)
        give_up_after_seconds = self._config.give_up_after_seconds(settings)
        return Lane(settings, sink, give_up_after_seconds=give_up_after_seconds, metrics=self._metrics, ledger=ledger)


@asynccontextmanager
async def opened_store(config: Config) -> AsyncIterator[Store]:
    """The store alone, for commands that look into it or write to it. Nothing is asked of the hub."""
    async with AsyncExitStack() as opened:
        credential = await _open_credential(config, opened)
        store = _build_store(config, Hub(config.worker.source, credential).scope, credential)
        opened.push_async_callback(store.aclose)
        await store.open()
        yield store


@asynccontextmanager
async def built_sink(settings: SinkSettings) -> AsyncIterator[Sink]:
    """One sink alone, not yet opened, with the identity it needs: for whoever tries it."""
    async with AsyncExitStack() as opened:
        tokens = None
        if settings.needs_identity:
            credential = DefaultAzureCredential()
            opened.push_async_callback(credential.close)
            tokens = Tokens(credential)
        yield find_kind(settings.kind).build(settings, tokens)


async def _open_credential(
    config: Config, opened: AsyncExitStack, *, for_sinks: bool = False
) -> DefaultAzureCredential | None:
    """The identity of the process, where hub, store or sinks need one."""
    settings = config.worker
    by_identity = isinstance(settings.store, BlobStoreSettings) and settings.store.account_url is not None
    if not by_identity and settings.source.namespace is None and not for_sinks:
        return None
    credential = DefaultAzureCredential()
    opened.push_async_callback(credential.close)
    return credential


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
