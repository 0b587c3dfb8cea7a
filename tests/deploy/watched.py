"""Two real workers at a real hub, to whom all happens that the dashboard has a panel for, under load.

A destination is down for seconds, one rejects, one does not answer until the worker that asked it is dead; events come
late, twice, several at once, and damaged; people are told in digests, or not at all; what should follow does not; rules
change; partitions move.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import yaml
from aiohttp import web

from tests.deploy.prometheus import Prometheus
from tests.integration.scene import Scene, scene, traffic
from tests.support import eventually
from worker.local.children import Child
from worker.local.traffic import EVENT_GRID_JSON, TrafficMessage

ML = "Microsoft.MachineLearningServices"
EVENTS, PER_SECOND = 1000, 80
VICTIM, SURVIVOR = "one", "two"
DRIFTS = 8
"""Enough that some are on partitions of each."""
SILENT_SECONDS = 2
"""For how long one is waited for that does not answer. The ledger waits some seconds more before it says unknown."""


class Destinations:
    """Three that are not as they should be, on one port."""

    def __init__(self) -> None:
        self.is_up = asyncio.Event()
        """Whether the first takes anything."""
        self.answers = asyncio.Event()
        """Whether the third says anything; it has what it was sent all the same."""
        self.unanswered = 0
        """What it was sent."""

    async def down(self, request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=204 if self.is_up.is_set() else 503)

    async def picky(self, request: web.Request) -> web.Response:
        return web.Response(status=204 if b'"Failed"' not in await request.read() else 422)

    async def silent(self, request: web.Request) -> web.Response:
        await request.read()
        self.unanswered += 1
        await self.answers.wait()
        return web.Response(status=204)


@asynccontextmanager
async def destinations() -> AsyncIterator[tuple[Destinations, str]]:
    """They, and the address before their names."""
    these = Destinations()
    application = web.Application()
    for name in ("down", "picky", "silent"):
        application.router.add_post(f"/{name}", getattr(these, name))
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield these, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        these.answers.set()
        await runner.cleanup()


def types(*names: str) -> dict[str, Any]:
    return {"includedEventTypes": [f"{ML}.{name}" for name in names]}


def state_is(*states: str) -> dict[str, Any]:
    condition = {"operatorType": "StringIn", "key": "data.runStatus", "values": list(states)}
    return {**types("RunStatusChanged"), "advancedFilters": [condition]}


def routing(good: str, bad: str) -> dict[str, Any]:
    """Rules that make each metric move."""
    digests = {"group_by": ["type"], "group_wait_seconds": 1, "group_interval_seconds": 2}
    silent = {"name": "retraining", "kind": "webhook", "url": f"{bad}/silent", "timeout_seconds": SILENT_SECONDS}
    return {
        "sinks": [
            {"name": "audit", "kind": "file", "path": "../audit.jsonl"},
            {"name": "team", "kind": "webhook", "url": good, "concurrency": 32},
            {"name": "on-call", "kind": "webhook", "url": f"{bad}/down"},
            {"name": "registry", "kind": "webhook", "url": f"{bad}/picky"},
            {**silent, "on_unknown": "resend"},
            {"name": "people", "kind": "log", "quiet": digests},
            {"name": "night", "kind": "log", "quiet": {"group_by": [], "mute": [{"then": "drop"}]}},
            {"name": "newest", "kind": "log"},
            {"name": "changes", "kind": "log"},
        ],
        "routes": [
            {"name": "everything", "sinks": ["audit", "team"]},
            {"name": "models", "filter": types("ModelRegistered", "ModelDeployed"), "sinks": ["on-call", "people"]},
            {"name": "runs", "filter": types("RunStatusChanged"), "sinks": ["registry", "night"]},
            {"name": "drift", "filter": types("Drifted"), "sinks": ["retraining"]},
            {"name": "newest", "filter": types("RunStatusChanged"), "only": "latest", "sinks": ["newest"]},
            {"name": "changes", "filter": types("RunStatusChanged"), "changed": "data.runId", "sinks": ["changes"]},
        ],
        "expect": [
            {"name": "run-ends", "after": state_is("Running"), "then": types("RunCompleted"), "within": "2s"},
            {
                "name": "model-is-deployed",
                "after": types("ModelRegistered"),
                "then": types("ModelDeployed"),
                "correlate": {"after": "{{ event.data.modelName }}", "then": "{{ event.data.modelIds }}"},
                "within": "2s",
            },
        ],
    }


def drifts() -> list[TrafficMessage]:
    """Of which the destination takes long."""
    return [
        TrafficMessage(orjson.dumps([_drift(f"monitors/{number}")]), EVENT_GRID_JSON, f"monitors/{number}", events=())
        for number in range(DRIFTS)
    ]


def _drift(subject: str) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat()
    about = {"topic": "/subscriptions/s/workspaces/ws", "subject": subject, "data": {}}
    return {**about, "id": subject, "eventType": f"{ML}.Drifted", "eventTime": now}


class Watched:
    """What goes on while Prometheus looks."""

    def __init__(self, stage: Scene, bad: Destinations, watcher: Prometheus) -> None:
        self._stage = stage
        self._bad = bad
        self._watcher = watcher

    async def _start(self, name: str) -> Child:
        order = {"window_seconds": "auto", "min_seconds": 0.2, "max_seconds": 2}
        return await self._stage.start_worker(name, order=order)

    def _watch(self, *names: str) -> None:
        ports = {name: self._stage.address(name, "").removeprefix("http://") for name in names}
        self._watcher.watch({f"event-grid-worker-{name}": port for name, port in ports.items()})

    async def happen(self) -> None:
        """All of it, until the hub has everything. One worker is left."""
        victim, _ = [await self._start(name) for name in (VICTIM, SURVIVOR)]
        self._watch(VICTIM, SURVIVOR)
        await self._stage.until_shared(VICTIM, SURVIVOR)
        messages = traffic(EVENTS, seed=11, duplicates=5, malformed=2, arrays=30)
        some = len(messages) // 3
        await self._stage.send(drifts())
        await self._stage.send(messages[:some], rate=PER_SECOND)
        await eventually(self._all_asked, 20)
        victim.kill()  # it has asked, and not heard: nobody knows the outcome
        self._watch(SURVIVOR)
        self._bad.answers.set()
        self._change_rules()
        await self._stage.send(messages[some:], rate=PER_SECOND)
        self._bad.is_up.set()

    async def _all_asked(self) -> bool:
        metrics = await self._stage.metrics(VICTIM)
        return self._bad.unanswered >= DRIFTS and metrics["worker_lane_queued_events['retraining']"] > 0

    def _change_rules(self) -> None:
        assert self._stage.routing
        self._stage.exchange_rules(SURVIVOR, "# as it was\n" + yaml.safe_dump(self._stage.routing))


@asynccontextmanager
async def watched(folder: Path, watcher: Prometheus) -> AsyncIterator[None]:
    """All has been sent, and one worker and the hub go on until the block ends."""
    async with destinations() as (bad, address), scene(folder) as stage:
        stage.routing = routing(stage.url, address)
        await Watched(stage, bad, watcher).happen()
        yield
