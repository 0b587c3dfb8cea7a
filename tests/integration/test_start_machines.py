"""From an event on the hub to what it starts: once, although it is sent three times and workers are killed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from tests.api_service import ApiService, served
from tests.apis.azureml import COMPONENT, AzureMl
from tests.apis.azureml import WORKSPACE as ML_WORKSPACE
from tests.apis.datafactory import FACTORY, DataFactory
from tests.identity_service import identity_service
from tests.integration.scene import Scene, scene
from worker.local.children import Child
from worker.local.traffic import EVENT_GRID_JSON, TrafficMessage

DRIFT = "Microsoft.MachineLearningServices.DatasetDriftDetected"


def drift(event_id: str) -> TrafficMessage:
    """A drift as Azure ML reports it."""
    event = {
        "id": event_id,
        "topic": ML_WORKSPACE,
        "subject": "datadrift/d-1/run/run-1",
        "eventType": DRIFT,
        "eventTime": "2026-01-14T02:17:05.1234567Z",
        "data": {
            "dataDriftId": "d-1",
            "dataDriftName": "demand",
            "runId": "run-1",
            "baseDatasetId": "base",
            "targetDatasetId": "target",
            "driftCoefficient": 0.83,
            "startTime": "2026-01-05T00:00:00+00:00",
            "endTime": "2026-01-12T00:00:00+00:00",
        },
        "dataVersion": "2",
        "metadataVersion": "1",
    }
    return TrafficMessage(orjson.dumps([event]), EVENT_GRID_JSON, "datadrift/d-1", events=())


def sent_three_times(message: TrafficMessage) -> list[TrafficMessage]:
    """Twice under one partition key, and once under another: a copy that another partition's owner gets."""
    return [message, message, replace(message, key="elsewhere")]


class Machines:
    """What a drift starts here."""

    def __init__(self) -> None:
        self.factory = DataFactory()
        self.workspace = AzureMl()
        self.factory.pipelines["retrain"] |= {}

    def routing(self) -> dict[str, Any]:
        short = {"timeout_seconds": 2, "allow_private": True}
        sinks = [
            {
                "name": "factory",
                "kind": "datafactory",
                "management_url": self.factory.url,
                "scope": "https://management.azure.com/.default",
                "factory": FACTORY,
                "pipeline": "retrain",
                "settles_seconds": 1,
                **short,
            },
            {
                "name": "job",
                "kind": "azureml_job",
                "management_url": self.workspace.url,
                "scope": "https://management.azure.com/.default",
                "workspace": ML_WORKSPACE,
                "component": COMPONENT,
                "experiment": "retrain-{{ event.data.dataDriftName }}",
                "inputs": {"drift": "{{ event.data.driftCoefficient }}"},
                **short,
            },
        ]
        above = {"operatorType": "NumberGreaterThan", "key": "data.driftCoefficient", "value": 0.4}
        route = {"includedEventTypes": [DRIFT], "advancedFilters": [above]}
        return {"sinks": sinks, "routes": [{"name": "drift", "filter": route, "sinks": ["factory", "job"]}]}


@pytest.fixture
async def machines(monkeypatch) -> AsyncIterator[Machines]:
    machines = Machines()
    async with served(machines.factory), served(machines.workspace), identity_service(None, monkeypatch):
        yield machines


async def start_worker(stage: Scene, name: str) -> Child:
    worker = await stage.start_worker(name)
    await stage.until_shared(name)
    return worker


class Killer:
    """Kills the worker when a service is at a moment for the first time; later it lets pass."""

    def __init__(self) -> None:
        self.victim: Child | None = None
        self.killed = asyncio.Event()

    async def strike(self) -> None:
        if self.victim is None:
            return
        victim, self.victim = self.victim, None
        victim.kill()
        await victim.ended()
        self.killed.set()


MOMENTS: dict[str, Callable[[Machines], tuple[ApiService, str]]] = {
    "the factory has the request and has not acted": lambda machines: (machines.factory, "before"),
    "the factory has acted and not answered": lambda machines: (machines.factory, "after"),
    "the workspace has the request and has not acted": lambda machines: (machines.workspace, "before"),
    "the workspace has acted and not answered": lambda machines: (machines.workspace, "after"),
}


@pytest.mark.timeout(180)
async def test_a_drift_that_is_sent_three_times_starts_one_run_and_one_job_whenever_the_worker_is_killed(
    machines, tmp_path
):
    async with scene(tmp_path) as stage:
        stage.routing = machines.routing()
        killer = Killer()
        victim = await start_worker(stage, "life-0")
        await stage.send(sent_three_times(drift("drift-1")))
        for number, moment in enumerate(MOMENTS.values(), start=1):
            service, when = moment(machines)
            killer.victim = victim
            setattr(service, when, killer.strike)
            await asyncio.wait_for(killer.killed.wait(), 60)
            killer.killed.clear()
            victim = await start_worker(stage, f"life-{number}")
