"""From an event on the hub to what it starts: once, although it is sent three times and workers are killed."""

import asyncio
import os
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from tests.api_service import ApiService, served
from tests.apis.azureml import COMPONENT, AzureMl
from tests.apis.azureml import WORKSPACE as ML_WORKSPACE
from tests.apis.datafactory import FACTORY, DataFactory
from tests.apis.online_endpoints import ENDPOINT, OnlineEndpoints
from tests.apis.online_endpoints import WORKSPACE as DEPLOYING_WORKSPACE
from tests.contract.rigs.table import RIGS, Place
from tests.identity_service import identity_service
from tests.integration.scene import PARTITIONS, Scene, scene
from tests.support import eventually
from worker.events import PartitionId
from worker.local.traffic import EVENT_GRID_JSON, TrafficMessage

if TYPE_CHECKING:
    from worker.local.children import Child

DRIFT = "Microsoft.MachineLearningServices.DatasetDriftDetected"
REGISTERED = "Microsoft.MachineLearningServices.ModelRegistered"


def message(
    event_type: str, subject: str, data: dict[str, Any], *, topic: str = ML_WORKSPACE, minute: int = 0
) -> TrafficMessage:
    """An event as Azure ML raises it, in a message as Event Grid sends it."""
    event = {
        "id": f"id of {subject}",
        "topic": topic,
        "subject": subject,
        "eventType": event_type,
        "eventTime": f"2026-01-14T02:{minute:02}:05.1234567Z",
        "data": data,
        "dataVersion": "2",
        "metadataVersion": "1",
    }
    return TrafficMessage(orjson.dumps([event]), EVENT_GRID_JSON, subject, events=())


def drift() -> TrafficMessage:
    data = {
        "dataDriftId": "d-1",
        "dataDriftName": "demand",
        "runId": "run-1",
        "baseDatasetId": "base",
        "targetDatasetId": "target",
        "driftCoefficient": 0.83,
        "startTime": "2026-01-05T00:00:00+00:00",
        "endTime": "2026-01-12T00:00:00+00:00",
    }
    return message(DRIFT, "datadrift/d-1/run/run-1", data)


def registered(version: int, stage: str = "production") -> TrafficMessage:
    """A version of a model, registered so many minutes past two."""
    data = {"modelName": "churn", "modelVersion": str(version), "modelTags": {"stage": stage}, "modelProperties": {}}
    return message(REGISTERED, f"models/churn:{version}", data, topic=DEPLOYING_WORKSPACE, minute=version)


def sent_three_times(message: TrafficMessage) -> list[TrafficMessage]:
    """Twice under one partition key, and once under another: a copy that another partition's owner gets."""

    def partition(key: str) -> int:
        return zlib.crc32(key.encode()) % PARTITIONS  # the local hub's choice

    here = partition(message.partition_key)
    elsewhere = next(key for key in map(str, range(100)) if partition(key) != here)
    return [message, message, replace(message, partition_key=elsewhere)]


async def until_settled(stage: Scene, messages: int) -> None:
    """The checkpoints have passed everything that was sent: nothing is to come."""

    async def passed() -> bool:
        async with stage.store() as store:
            found = [await store.read_checkpoint(PartitionId(str(number))) for number in range(PARTITIONS)]
        return sum(each.sequence_number + 1 for each in found if each is not None) >= messages

    await eventually(passed, 60)


class Machines:
    """What a drift starts here."""

    def __init__(self) -> None:
        self.factory = DataFactory()
        self.workspace = AzureMl()

    def routing(self) -> dict[str, Any]:
        short = {"timeout_seconds": 2}
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


class Killer:
    """Kills the worker at the first request that meets it."""

    def __init__(self) -> None:
        self.victim: Child | None = None
        self.killed = asyncio.Event()

    async def strike(self) -> None:
        victim, self.victim = self.victim, None
        if victim is not None:
            victim.kill()
            self.killed.set()


# At each await between intent and outcome: test_datafactory_crashes.py, and for the job, which needs no ledger,
# test_azureml_job.py. Here whole processes die.
MOMENTS: dict[str, Callable[[Machines], tuple[ApiService, str]]] = {
    "the factory has acted and not answered": lambda machines: (machines.factory, "after"),
    "the workspace has the request and has not acted": lambda machines: (machines.workspace, "before"),
}


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_drift_that_is_sent_three_times_starts_one_run_and_one_job_though_the_worker_is_killed(
    machines, tmp_path, moment
):
    service, when = MOMENTS[moment](machines)
    killer = Killer()
    setattr(service, when, killer.strike)
    async with scene(tmp_path) as stage:
        stage.routing = machines.routing()
        killer.victim = await stage.start_worker("victim")
        await stage.until_shared("victim")
        await stage.send(sent_three_times(drift()))
        await asyncio.wait_for(killer.killed.wait(), 30)
        survivor = await stage.start_worker("survivor")
        await until_settled(stage, 3)
        await stage.family.stop([survivor])
        assert await stage.letters() == []
    [run], [job] = machines.factory.runs, machines.workspace.started
    assert machines.workspace.jobs[job]["tags"]["eventKey"] != run.parameters["eventKey"], "each sink has its own key"
    assert machines.workspace.jobs[job]["inputs"]["drift"]["value"] == "0.83"
    assert machines.workspace.jobs[job]["experimentName"] == "retrain-demand"


def deploying(endpoints: OnlineEndpoints) -> dict[str, Any]:
    sink = {
        "name": "serve",
        "kind": "azureml_deployment",
        "management_url": endpoints.url,
        "scope": endpoints.scope,
        "workspace": DEPLOYING_WORKSPACE,
        "endpoint": ENDPOINT,
        "instance_type": "Standard_DS3_v2",
        "shift_traffic": True,
    }
    tagged = {"operatorType": "StringIn", "key": "data.modelTags.stage", "values": ["production"]}
    route = {"includedEventTypes": [REGISTERED], "advancedFilters": [tagged]}
    return {"sinks": [sink], "routes": [{"name": "production-models", "filter": route, "sinks": ["serve"]}]}


async def test_a_model_tagged_for_production_is_deployed_and_an_older_version_that_comes_late_changes_nothing(
    monkeypatch, tmp_path
):
    endpoints = OnlineEndpoints(at_once=True)
    async with served(endpoints), identity_service(None, monkeypatch), scene(tmp_path) as stage:
        stage.routing = deploying(endpoints)
        worker = await stage.start_worker("one")
        await stage.until_shared("one")
        await stage.send([registered(7), registered(9, stage="staging")])
        await until_settled(stage, 2)
        [name] = endpoints.deployments
        assert endpoints.deployments[name]["properties"]["model"].endswith("/models/churn/versions/7")
        assert endpoints.traffic == {name: 100}
        changes = list(endpoints.changes_made)

        await stage.send([registered(6), registered(7)])
        await until_settled(stage, 4)
        await stage.family.stop([worker])
        assert await stage.letters() == []
    assert endpoints.changes_made == changes


OTHERS = ("azureml_batch", "azuredevops", "blob", "github", "webhook")


async def test_one_event_starts_each_of_the_other_machines_once(request, monkeypatch, tmp_path):
    place = Place(tmp_path, monkeypatch, [], lambda: request.getfixturevalue("azurite"))
    async with AsyncExitStack() as opened:
        await opened.enter_async_context(identity_service(None, monkeypatch))
        rigs = {kind: await opened.enter_async_context(RIGS[kind](place)) for kind in OTHERS}
        stage = await opened.enter_async_context(scene(tmp_path))
        sinks = [{"name": kind, "kind": kind, **rig.settings()} for kind, rig in rigs.items()]
        stage.routing = {"sinks": sinks, "routes": [{"name": "all", "sinks": list(OTHERS)}]}
        stage.environment = {name: value for name, value in os.environ.items() if name.startswith("CONTRACT_")}
        worker = await stage.start_worker("one")
        await stage.until_shared("one")
        await stage.send(sent_three_times(registered(1)))
        await until_settled(stage, 3)
        await stage.family.stop([worker])
        assert await stage.letters() == []
        assert len(await rigs["blob"].service.blobs()) == 1
        arrived = {kind: [each["id"] for each in rig.arrived()] for kind, rig in rigs.items()}
    once = ["id of models/churn:1"]
    # The copy of the other partition is known to the ledger; to the container, which is asked again, by its name.
    assert arrived == dict.fromkeys(OTHERS, once) | {"blob": once * 2}
