"""The demo's two workers as a user would deploy them: their configuration files, and what their metrics say.

What the routes mean is told a second time in `expected_sinks`, from the facts of the traffic and without the worker's
filters, so that the check at the end is independent of them.
"""

import asyncio
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import yaml
from prometheus_client.parser import text_string_to_metric_families

from worker.local import workspace
from worker.local.traffic import TrafficEvent
from worker.local.view import PartitionView

HUB = "ml-events"
CONNECTION_STRING_ENV = "EVENTHUB_CONNECTION_STRING"
AUDIT, TEAM = "audit", "team"
"""The sinks: a file that gets every event, and a webhook that gets what a team wants to hear of."""
OWNERSHIP_EXPIRY_SECONDS = 10

_TOLD_STATUSES = ("Running", "Completed", "Failed", "Canceled")
_STRONG_DRIFT = 0.3
_SCRAPE_SECONDS = 2.0


def expected_sinks(event: TrafficEvent) -> list[str]:
    """Where an event has to arrive."""
    return [AUDIT, TEAM] if _concerns_team(event) else [AUDIT]


def _concerns_team(event: TrafficEvent) -> bool:
    match event.type:
        case workspace.RUN_STATUS_CHANGED:
            wanted = event.data["runStatus"] in _TOLD_STATUSES
        case workspace.MODEL_REGISTERED:
            wanted = event.data["modelTags"]["stage"] == "production"
        case workspace.DRIFT_DETECTED:
            wanted = event.data["driftCoefficient"] > _STRONG_DRIFT
        case kind:
            wanted = kind != workspace.BLOB_DELETED
    return bool(wanted)


def _routes(receiver_url: str) -> dict[str, object]:
    return {
        "sinks": [
            {"name": AUDIT, "kind": "file", "path": "../audit.jsonl"},
            {"name": TEAM, "kind": "webhook", "url": receiver_url, "concurrency": 32},
        ],
        "routes": [
            {"name": "everything", "sinks": [AUDIT]},
            _route(
                "run-progress",
                workspace.RUN_STATUS_CHANGED,
                ("StringIn", "data.runStatus", "values", list(_TOLD_STATUSES)),
            ),
            _route("completed-runs", workspace.RUN_COMPLETED),
            _route(
                "production-models",
                workspace.MODEL_REGISTERED,
                ("StringIn", "data.modelTags.stage", "values", ["production"]),
            ),
            _route("deployments", workspace.MODEL_DEPLOYED),
            _route(
                "drift",
                workspace.DRIFT_DETECTED,
                ("NumberGreaterThan", "data.driftCoefficient", "value", _STRONG_DRIFT),
            ),
            _route("new-features", workspace.BLOB_CREATED, source=workspace.STORAGE),
        ],
    }


def _route(
    name: str,
    event_type: str,
    condition: tuple[str, str, str, object] | None = None,
    *,
    source: str = workspace.WORKSPACE,
) -> dict[str, object]:
    wanted: dict[str, object] = {"includedEventTypes": [event_type]}
    if condition:
        operator, key, operand, value = condition
        wanted["advancedFilters"] = [{"operatorType": operator, "key": key, operand: value}]
    return {"name": name, "sources": [source], "filter": wanted, "sinks": [TEAM]}


def _settings(port: int) -> dict[str, object]:
    return {
        "source": {
            "connection_string_env": CONNECTION_STRING_ENV,
            "hub": HUB,
            "start": "earliest",
            "balance_interval_seconds": 1,
            "ownership_expiry_seconds": OWNERSHIP_EXPIRY_SECONDS,
        },
        "store": {"kind": "sqlite", "path": "../worker.db"},
        # At the demo's rate, events stand at most a tenth of a second away from their place.
        "order": {"window_seconds": 2},
        "http": {"host": "127.0.0.1", "port": port},
        "routes_file": "routes.yaml",
    }


@dataclass(frozen=True, slots=True)
class Deployed:
    """One worker's files and address."""

    name: str
    config: Path
    metrics_url: str


def write_configuration(folder: Path, name: str, receiver_url: str) -> Deployed:
    """Writes worker.yaml and routes.yaml into a folder of their own."""
    port = _free_port()
    own = folder / name
    own.mkdir(parents=True)
    _write_yaml(own / "worker.yaml", _settings(port))
    _write_yaml(own / "routes.yaml", _routes(receiver_url))
    return Deployed(name, own / "worker.yaml", f"http://127.0.0.1:{port}/metrics")


def _write_yaml(path: Path, content: dict[str, object]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Scraper:
    """Reads the workers' metrics, for the view and to know when they have shared the partitions."""

    def __init__(self, session: aiohttp.ClientSession, deployed: Sequence[Deployed], partitions: int) -> None:
        self._session = session
        self._deployed = deployed
        self._partitions = partitions

    async def partitions(self) -> list[PartitionView]:
        """Each partition with its owner, as far as the workers answer."""
        owned: dict[str, PartitionView] = {}
        for worker, text in zip(self._deployed, await self._texts(), strict=True):
            owned |= {view.partition: view for view in _owned(worker.name, text)}
        names = [str(number) for number in range(self._partitions)]
        return [owned.get(name) or PartitionView(name, None, None) for name in names]

    async def all_answer(self) -> bool:
        """Whether every worker is up: one that has just started would not hear that it is to stop."""
        return all(await self._texts())

    async def _texts(self) -> list[str]:
        return await asyncio.gather(*(self._text(worker.metrics_url) for worker in self._deployed))

    async def _text(self, url: str) -> str:
        try:
            async with self._session.get(url, timeout=aiohttp.ClientTimeout(total=_SCRAPE_SECONDS)) as answer:
                return await answer.text() if answer.ok else ""
        except (aiohttp.ClientError, TimeoutError):
            return ""  # not listening yet, or busy: the view shows what the others say


def _owned(worker: str, text: str) -> Iterator[PartitionView]:
    families = {family.name: family.samples for family in text_string_to_metric_families(text)}
    lags = {sample.labels["partition"]: sample.value for sample in families.get("worker_lag_events", ())}
    for sample in families.get("worker_partition_generation", ()):
        if sample.value > 0:
            partition = sample.labels["partition"]
            lag = lags.get(partition)
            yield PartitionView(partition, worker, None if lag is None else int(lag))
