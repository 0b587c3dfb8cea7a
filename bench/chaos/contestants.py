"""Who is put through a chaos run: three `worker run` processes, or three of the hand-written loop.

Each says what its processes are started with, and which of its destinations expect what.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.chaos.stores import StoreKind
from worker.local.traffic import TrafficEvent
from worker.local.workspace import RUN_STATUS_CHANGED

HUB = "chaos-events"
GROUP = "$Default"
CONNECTION_STRING_ENV = "EVENTHUB_CONNECTION_STRING"
PROCESSES = 3

AUDIT, PLAIN, ONCE, MAIL = "audit", "plain", "once", "mail"
WORKER, NAIVE = "worker", "hand-written loop"

BALANCE_SECONDS = 1.0
EXPIRY_SECONDS = 8.0
TIMEOUT_SECONDS = 3.0
"""Of a request, for both."""


@dataclass(frozen=True, slots=True)
class Command:
    """How one process is started."""

    name: str
    module: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]


def mail_expects(event: TrafficEvent) -> bool:
    """Told a second time, from the facts of the traffic and without the worker's filters."""
    return event.type == RUN_STATUS_CHANGED and event.data["runStatus"] in {"Failed", "Canceled"}


def worker_expects(event: TrafficEvent) -> list[str]:
    """Where an event has to arrive, with the worker."""
    return [AUDIT, PLAIN, ONCE, MAIL] if mail_expects(event) else [AUDIT, PLAIN, ONCE]


def naive_expects(_: TrafficEvent) -> list[str]:
    """Where an event has to arrive, with the hand-written loop."""
    return [PLAIN]


def workers(folder: Path, store: StoreKind, hub: str, http: str, smtp_port: int) -> list[Command]:
    """Writes the configuration and gives the commands."""
    routes = folder / "routes.yaml"
    routes.write_text(yaml.safe_dump(_routes(folder, http, smtp_port), sort_keys=False), encoding="utf-8")
    config = folder / "worker.yaml"
    config.write_text(yaml.safe_dump(_settings(store), sort_keys=False), encoding="utf-8")
    environment = {CONNECTION_STRING_ENV: hub, **store.environment}
    return [
        Command(f"worker-{number}", "worker", ("run", "--config", str(config)), environment)
        for number in range(1, PROCESSES + 1)
    ]


def loops(store: StoreKind, hub: str, http: str) -> list[Command]:
    """The commands of the hand-written loop."""
    environment = {
        CONNECTION_STRING_ENV: hub,
        "NAIVE_URL": f"{http}/{PLAIN}",
        "NAIVE_GROUP": GROUP,
        "NAIVE_BALANCE_SECONDS": str(BALANCE_SECONDS),
        "NAIVE_EXPIRY_SECONDS": str(EXPIRY_SECONDS),
        **store.environment,
    }
    return [Command(f"loop-{number}", "bench.naive", (), environment) for number in range(1, PROCESSES + 1)]


def _settings(store: StoreKind) -> dict[str, Any]:
    return {
        "source": {
            "connection_string_env": CONNECTION_STRING_ENV,
            "hub": HUB,
            "consumer_group": GROUP,
            "start": "earliest",
            "balance_interval_seconds": BALANCE_SECONDS,
            "ownership_expiry_seconds": EXPIRY_SECONDS,
            "idle_timeout_seconds": 15,
        },
        "store": {**store.settings, "state_interval_seconds": 0.2},
        # Events stand less than half a second from their place at the slowest rate of a run.
        "order": {"window_seconds": 2},
        "limits": {"drain_seconds": 10, "hand_over_seconds": 3},
        "http": {"host": "127.0.0.1", "port": 0},
        "routes_file": "routes.yaml",
    }


def _routes(folder: Path, http: str, smtp_port: int) -> dict[str, Any]:
    return {
        "sinks": [
            {"name": AUDIT, "kind": "file", "path": str((folder / "audit.jsonl").absolute())},
            {"name": PLAIN, "kind": "webhook", "url": f"{http}/{PLAIN}", "timeout_seconds": TIMEOUT_SECONDS},
            {"name": ONCE, "kind": "webhook", "url": f"{http}/{ONCE}", "timeout_seconds": TIMEOUT_SECONDS},
            {
                "name": MAIL,
                "kind": "email",
                "host": "127.0.0.1",
                "port": smtp_port,
                "security": "none",
                "from": "Chaos <chaos@example.org>",
                "to": ["oncall@example.org"],
                "timeout_seconds": TIMEOUT_SECONDS,
                "on_unknown": "skip",
            },
        ],
        "routes": [
            {"name": "everything", "sinks": [AUDIT, PLAIN, ONCE]},
            {
                "name": "runs-that-failed",
                "filter": {
                    "includedEventTypes": [RUN_STATUS_CHANGED],
                    "advancedFilters": [
                        {
                            "operatorType": "StringIn",
                            "key": "data.runStatus",
                            "values": ["Failed", "Canceled"],
                        }
                    ],
                },
                "sinks": [MAIL],
            },
        ],
    }
