"""The whole worker as a user runs it: hub, workers and receiver on this machine, each worker a process of its own."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support import eventually, free_port
from worker.connections import hub_address
from worker.local.children import Child, Children, children
from worker.local.receiver import AuditTail, Receiver, Record
from worker.local.send import send
from worker.local.traffic import TrafficEvent, TrafficMessage, TrafficOptions, generate
from worker.local.verdict import Letter, Verdict, judge
from worker.stores import HubScope, Store
from worker.stores.blob import BlobStore
from worker.stores.sqlite import SqliteStore

HUB = "ml-events"
CONTAINER = "worker"
PARTITIONS = 4
DRAIN_SECONDS = 5


def traffic(
    count: int, *, seed: int, duplicates: float = 2, malformed: float = 0.5, arrays: float = 5
) -> list[TrafficMessage]:
    """Events of an ML workspace, displaced by up to 50 places."""
    return generate(
        TrafficOptions(
            count=count,
            started_at=datetime(2026, 1, 1, tzinfo=UTC),
            disorder=50,
            duplicates_percent=duplicates,
            malformed_percent=malformed,
            arrays_percent=arrays,
            seed=seed,
        )
    )


class Scene:
    """One hub, one receiver, one store, and the workers that a test starts."""

    def __init__(self, folder: Path, family: Children, url: str, records: dict[str, Record], azurite: str | None):
        self.folder = folder
        self.family = family
        self.records = records
        self.connection_string = ""
        self.url = url
        self.routing: dict[str, Any] | None = None
        """What routes.yaml says; None: everything goes to the receiver and into a file."""
        self.environment: dict[str, str] = {}
        self.config_map = False
        """Whether files are mounted as the kubelet does: links into a folder that is exchanged behind them."""
        self._azurite = azurite
        self._ports: dict[str, int] = {}
        self._audit = AuditTail(records["audit"], folder / "audit.jsonl")

    async def start_hub(self, *more: str) -> None:
        """One broker with the usual hub, and more of these names."""
        hubs = [argument for name in (HUB, *more) for argument in ("--hub", name)]
        arguments = ("local", "broker", "--port", "0", *hubs, "--partitions", str(PARTITIONS))
        hub = await self.family.start("hub", *arguments, speaks=True)
        line = await hub.first_line(timeout_seconds=30)
        self.connection_string = line[line.index("Endpoint=") :]

    async def start_worker(self, name: str, **settings: dict[str, Any]) -> Child:
        """`worker run` with files of its own; the sections given replace keys of the usual ones."""
        own = self.folder / name
        own.mkdir()
        self._ports[name] = free_port()
        files = {
            "worker.yaml": yaml.safe_dump(self._settings(name, settings)),
            "routes.yaml": yaml.safe_dump(self.routing or self._routes()),
        }
        self._put(own, files)
        environment = {
            "EVENTHUB_CONNECTION_STRING": self.connection_string,
            "STORE": self._azurite or "",
            **self.environment,
        }
        return await self.family.start(name, "run", "--config", str(own / "worker.yaml"), environment=environment)

    def _put(self, own: Path, files: dict[str, str]) -> None:
        if not self.config_map:
            for file, text in files.items():
                (own / file).write_text(text)
            return
        version = own / f"..version{len(list(own.glob('..version*')))}"
        version.mkdir()
        for file, text in files.items():
            (version / file).write_text(text)
        (own / "..data_tmp").symlink_to(version.name)
        (own / "..data_tmp").replace(own / "..data")
        for file in files:
            if not (own / file).is_symlink():
                (own / file).symlink_to(Path("..data") / file)

    def exchange_rules(self, name: str, text: str) -> None:
        """Another routes.yaml for this worker."""
        own = self.folder / name
        self._put(own, {"worker.yaml": (own / "worker.yaml").read_text(), "routes.yaml": text})

    def _settings(self, name: str, changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
        store = {"kind": "sqlite", "path": "../worker.db"}
        if self._azurite:
            store = {"kind": "blob", "connection_string_env": "STORE", "container": CONTAINER}
        settings: dict[str, dict[str, Any]] = {
            "source": {
                "connection_string_env": "EVENTHUB_CONNECTION_STRING",
                "hub": HUB,
                "balance_interval_seconds": 1,
                "ownership_expiry_seconds": 6,
            },
            "store": store,
            "order": {"window_seconds": 1.5},
            "limits": {"drain_seconds": DRAIN_SECONDS, "hand_over_seconds": 2},
            "http": {"port": self._ports[name]},
        }
        sections = {**settings, **changes}
        return {section: {**settings.get(section, {}), **changes.get(section, {})} for section in sections}

    def _routes(self) -> dict[str, Any]:
        return {
            "sinks": [
                {"name": "audit", "kind": "file", "path": "../audit.jsonl"},
                {"name": "out", "kind": "webhook", "url": self.url, "concurrency": 32},
            ],
            "routes": [{"name": "everything", "sinks": ["audit", "out"]}],
        }

    async def metrics(self, name: str) -> dict[str, float]:
        """The samples of one worker, `name{label}` -> value; empty while it does not answer."""
        address = f"http://127.0.0.1:{self._ports[name]}/metrics"
        try:
            async with aiohttp.ClientSession() as session, session.get(address) as answer:
                text = await answer.text()
        except aiohttp.ClientError:
            return {}
        samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
        return {f"{each.name}{sorted(each.labels.values())}": each.value for each in samples}

    async def status(self, name: str, path: str) -> int:
        """What the worker's HTTP port answers."""
        async with aiohttp.ClientSession() as session, session.get(self.address(name, path)) as answer:
            return answer.status

    def address(self, name: str, path: str) -> str:
        """Where the worker's HTTP port has this."""
        return f"http://127.0.0.1:{self._ports[name]}{path}"

    async def readiness(self, name: str) -> dict[str, Any]:
        """What the worker says of itself; empty while it does not answer."""
        address = f"http://127.0.0.1:{self._ports[name]}/readyz"
        try:
            async with aiohttp.ClientSession() as session, session.get(address) as answer:
                return dict(await answer.json())
        except aiohttp.ClientError:
            return {}

    async def owned(self, name: str) -> float:
        """How many partitions the worker holds."""
        return (await self.metrics(name)).get("worker_partitions_owned[]", 0)

    async def until_shared(self, *names: str) -> None:
        """Every worker has its share of the partitions."""
        share = PARTITIONS // len(names)

        async def shared() -> bool:
            return [await self.owned(name) for name in names] == [share] * len(names)

        await eventually(shared, 40)

    async def send(self, messages: Sequence[TrafficMessage], *, rate: float | None = None) -> None:
        await send(messages, connection_string=self.connection_string, hub=HUB, rate=rate)

    async def until_delivered(self, messages: Sequence[TrafficMessage], timeout_seconds: float = 60) -> None:
        """Every event has come to both sinks, and every damaged message is a dead letter."""
        events = len({event.id for message in messages for event in message.events})
        damaged = sum(message.damage is not None for message in messages)

        async def delivered() -> bool:
            self._audit.read()
            came = all(record.events >= events for record in self.records.values())
            return came and len(await self.letters()) >= damaged

        await eventually(delivered, timeout_seconds)

    @asynccontextmanager
    async def store(self) -> AsyncIterator[Store]:
        """The store that the workers use, seen from outside."""
        scope = HubScope(hub_address(self.connection_string).namespace, HUB, "$Default")
        store: Store = SqliteStore(self.folder / "worker.db", scope)
        if self._azurite:
            store = BlobStore(CONTAINER, scope, connection_string=self._azurite, account_url=None, credential=None)
        await store.open()
        try:
            yield store
        finally:
            await store.aclose()

    async def letters(self) -> list[Letter]:
        async with self.store() as store:
            return [Letter(letter.body, letter.sink) async for letter in store.dead_letters()]

    async def verdict(self, messages: Sequence[TrafficMessage]) -> Verdict:
        """What became of these messages, by the receivers' own records."""
        self._audit.read()
        arrivals = {name: record.arrivals for name, record in self.records.items()}
        return judge(messages, _both, arrivals, await self.letters())


def _both(_: TrafficEvent) -> list[str]:
    return ["audit", "out"]


@asynccontextmanager
async def scene(folder: Path, azurite: str | None = None, *, hubs: Sequence[str] = ()) -> AsyncIterator[Scene]:
    """A hub, or more of these names, and a receiver; whatever a test starts in it is gone afterwards."""
    records = {"audit": Record(), "out": Record()}
    with (folder / "received.jsonl").open("wb") as received:
        async with Receiver(records["out"], received) as url, children(folder) as family:
            stage = Scene(folder, family, url, records, azurite)
            await stage.start_hub(*hubs)
            yield stage
