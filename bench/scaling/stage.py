"""The hub, the store, and workers with the settings that the manifests ship, each with a receiver of its own."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from prometheus_client.parser import text_string_to_metric_families

from bench.azurite import free_port
from bench.chaos.stores import StoreKind, store_of
from bench.scaling.load import Load
from bench.scaling.seen import Seen
from worker.errors import WorkerError
from worker.local.children import Child, Children, children
from worker.local.receiver import Receiver
from worker.local.send import send

SHIPPED = Path(__file__).parents[2] / "deploy/k8s/base/config/worker.yaml"
HUB = "ml-events"
_CONNECTION_STRING_ENV = "EVENTHUB_CONNECTION_STRING"
_LISTEN_SECONDS = 30.0
_LOOK_SECONDS = 0.02

Changes = dict[str, dict[str, Any]]
"""Keys of sections of worker.yaml that replace what is shipped."""


class NotInTime(WorkerError):
    """Something that was waited for did not come."""


class _Enough(Exception):
    """No more is to be sent."""


@dataclass(frozen=True, slots=True)
class Member:
    """One worker; moments are monotonic seconds."""

    name: str
    child: Child
    started_at: float
    ready_at: float
    """When it said for the first time that it is ready: it has reached the hub."""
    address: str
    """Of its HTTP port."""

    async def counted(self, metric: str, label: str) -> Counter[str]:
        """A counter as it stands, by this label."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.address}/metrics") as answer:
            families = text_string_to_metric_families(await answer.text())
        found: Counter[str] = Counter()
        for sample in (each for family in families for each in family.samples if each.name == metric):
            found[sample.labels[label]] += round(sample.value)
        return found


class Stage:
    """Where workers come and go."""

    def __init__(self, opened: AsyncExitStack, folder: Path, family: Children, store: StoreKind, load: Load) -> None:
        self.seen = Seen(load.partition_of)
        self.sent = 0
        """Messages that the hub has accepted."""
        self.enough = False
        """Set to end the load."""
        self.family = family
        self._connection_string = ""
        self._opened = opened
        self._folder = folder
        self._store = store
        self._load = load

    async def start_hub(self, partitions: int) -> None:
        """In a process of its own."""
        arguments = ("--port", "0", "--hub", HUB, "--partitions", str(partitions))
        hub = await self.family.start("hub", "local", "broker", *arguments, speaks=True)
        line = await hub.first_line(timeout_seconds=_LISTEN_SECONDS)
        self._connection_string = line[line.index("Endpoint=") :]

    async def start_worker(self, name: str, changes: Changes) -> Member:
        """Returns when it is ready."""
        own = self._folder / name
        own.mkdir()
        received = self._opened.enter_context((own / "received.jsonl").open("wb"))
        url = await self._opened.enter_async_context(Receiver(self.seen.of(name), received))
        port = free_port()
        (own / "worker.yaml").write_text(yaml.safe_dump(self._settings(port, changes)))
        (own / "routes.yaml").write_text(yaml.safe_dump(_routes(url)))
        environment = {_CONNECTION_STRING_ENV: self._connection_string, **self._store.environment}
        address = f"http://127.0.0.1:{port}"
        started_at = time.monotonic()
        child = await self.family.start(name, "run", "--config", str(own / "worker.yaml"), environment=environment)
        async with aiohttp.ClientSession() as session:
            await until(lambda: _is_ready(session, address), f"{name} is ready")
        return Member(name, child, started_at, time.monotonic(), address)

    def _settings(self, port: int, changes: Changes) -> dict[str, Any]:
        """What is shipped, but for names and places."""
        settings: dict[str, dict[str, Any]] = yaml.safe_load(SHIPPED.read_text())
        settings["source"] = {
            **{key: value for key, value in settings["source"].items() if key != "namespace"},
            "connection_string_env": _CONNECTION_STRING_ENV,
            "hub": HUB,
        }
        settings["store"] = self._store.settings
        settings["http"] = {"port": port}
        return {
            **settings,
            **{section: {**settings.get(section, {}), **keys} for section, keys in changes.items()},
        }

    async def send(self, rate: float) -> None:
        """Sends the load at so many events a second until it is enough, from where it ended before."""
        try:
            await send(
                self._load.messages[self.sent :],
                connection_string=self._connection_string,
                hub=HUB,
                rate=rate,
                on_sent=self._note_sent,
            )
        except _Enough:
            return
        raise NotInTime("the load was sent before the phases were over")

    def _note_sent(self, count: int) -> None:
        self.sent += count
        if self.enough:
            raise _Enough


async def until(condition: Callable[[], Any], what: str, *, seconds: float = 60.0) -> None:
    """Waits for a condition, plain or a coroutine function. Raises NotInTime."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return
        if time.monotonic() > deadline:
            raise NotInTime(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(_LOOK_SECONDS)


async def _is_ready(session: aiohttp.ClientSession, address: str) -> bool:
    try:
        async with session.get(f"{address}/readyz") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


@asynccontextmanager
async def stage(folder: Path, store: str, partitions: int, load: Load) -> AsyncIterator[Stage]:
    """However the block ends, no process is left."""
    async with AsyncExitStack() as opened:
        kept = await opened.enter_async_context(store_of(store, folder))
        family = await opened.enter_async_context(children(folder))
        built = Stage(opened, folder, family, kept, load)
        await built.start_hub(partitions)
        yield built


def _routes(url: str) -> dict[str, Any]:
    return {
        "sinks": [{"name": "out", "kind": "webhook", "url": url}],
        "routes": [{"name": "everything", "sinks": ["out"]}],
    }


async def ended(members: Iterable[Member]) -> dict[str, float]:
    """Waits until each has exited with 0, after it was asked to; by name, when."""

    async def one(member: Member) -> tuple[str, float]:
        code = await member.child.ended()
        at = time.monotonic()
        if code:
            raise member.child.failure(f"was asked to stop and ended with exit code {code}")
        return member.name, at

    return dict(await asyncio.gather(*(one(member) for member in members)))
