"""What one Azure ML workspace and its storage account tell Event Grid: stories, one per subject, told in true order.

Made up, but shaped like captured events. Envelopes, disorder, duplicates and damage are the work of `traffic`.
"""

import itertools
import random
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

_ML = "Microsoft.MachineLearningServices."
RUN_STATUS_CHANGED = _ML + "RunStatusChanged"
RUN_COMPLETED = _ML + "RunCompleted"
MODEL_REGISTERED = _ML + "ModelRegistered"
MODEL_DEPLOYED = _ML + "ModelDeployed"
DRIFT_DETECTED = _ML + "DatasetDriftDetected"
BLOB_CREATED = "Microsoft.Storage.BlobCreated"
BLOB_DELETED = "Microsoft.Storage.BlobDeleted"

_GROUP = "/subscriptions/6f1c6c0e-2d0b-4c55-9a35-0c1b6b0f5d11/resourceGroups/ml-platform/providers/"
WORKSPACE = _GROUP + "Microsoft.MachineLearningServices/workspaces/forecasting"
STORAGE = _GROUP + "Microsoft.Storage/storageAccounts/forecastingdata"

_BEFORE_THE_END = ("NotStarted", "Queued", "Preparing", "Running", "Finalizing")
_ENDINGS = {"Completed": 70, "Failed": 20, "Canceled": 10}
_EXPERIMENTS = ("demand-forecast", "churn-automl", "vision-defects", "pricing-elasticity", "anomaly-sensors")
_STAGES = {"production": 25, "staging": 35, "development": 40}


class Step(NamedTuple):
    """One thing that happened to a subject."""

    type: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Story:
    """All that happens to one subject; `steps` makes each event when it is asked for, so ask in true order."""

    source: str
    subject: str
    longest: int | None
    """How many steps there are; None: as many as are asked for."""
    steps: Iterator[Step]


class Workspace:
    """Begins stories. The same random source begins the same ones."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._numbers = itertools.count(1)
        self._sequence = rng.randrange(2**20)

    def story(self) -> Story:
        """The next subject, of a kind as likely as in a busy workspace."""
        kinds = (self._run, self._model, self._drift, self._endpoint, self.blob)
        return self._rng.choices(kinds, weights=(45, 15, 10, 10, 20))[0]()

    def blob(self) -> Story:
        """A file that jobs keep overwriting, and sometimes delete: ordered by its sequencer."""
        path = f"features/day={next(self._numbers):05d}/part-{self._rng.randrange(100):05d}.parquet"
        return Story(
            source=STORAGE,
            subject=f"/blobServices/default/containers/training-data/blobs/{path}",
            longest=None,
            steps=self._blob_steps(f"https://forecastingdata.blob.core.windows.net/training-data/{path}"),
        )

    def _run(self) -> Story:
        experiment = self._rng.randrange(len(_EXPERIMENTS))
        experiment_id = str(uuid.UUID(int=0x4C1A_0000_0000_4000_8000_0000_0000_0000 + experiment))
        run_id = (
            f"{_EXPERIMENTS[experiment].replace('-', '_')}_{next(self._numbers):06d}_{self._rng.getrandbits(32):08x}"
        )
        ending = self._rng.choices(list(_ENDINGS), weights=list(_ENDINGS.values()))[0]
        statuses = (*_BEFORE_THE_END, ending)
        pipeline = self._guid()
        about = {
            "experimentId": experiment_id,
            "experimentName": experiment,
            "runId": run_id,
            "runType": "azureml.StepRun",
            "runTags": {"azureml.pipelineid": pipeline, "team": "forecasting", "priority": "normal"},
            "runProperties": {
                "azureml.runsource": "azureml.StepRun",
                "ContentSnapshotId": self._guid(),
                "azureml.parameters": '{"horizon":"14","learning_rate":"0.05"}',
                "azureml.pipelineid": pipeline,
            },
        }
        return Story(
            source=WORKSPACE,
            subject=f"experiments/{experiment_id}/runs/{run_id}",
            longest=len(statuses) + (ending == "Completed"),
            steps=_run_steps(about, statuses),
        )

    def _model(self) -> Story:
        name, version = f"{self._rng.choice(_EXPERIMENTS)}-model", next(self._numbers)
        stage = self._rng.choices(list(_STAGES), weights=list(_STAGES.values()))[0]
        data = {
            "modelName": name,
            "modelVersion": str(version),
            "modelTags": {"stage": stage, "framework": "lightgbm", "owner": "forecasting"},
            "modelProperties": {
                "datasetId": self._guid(),
                "runId": self._guid(),
                "rmse": f"{self._rng.uniform(0.1, 9):.4f}",
                "signature": '{"inputs":["store","item","day","price"],"outputs":["units"]}',
            },
        }
        return Story(WORKSPACE, f"models/{name}:{version}", 1, iter([Step(MODEL_REGISTERED, data)]))

    def _endpoint(self) -> Story:
        name = f"score-{next(self._numbers):05d}"
        return Story(WORKSPACE, f"endpoints/{name}", None, self._deployments(name))

    def _drift(self) -> Story:
        monitor, number = self._guid(), next(self._numbers)
        data = {
            "dataDriftId": monitor,
            "dataDriftName": f"weekly-drift-{number}",
            "runId": f"{monitor}_{number}",
            "baseDatasetId": self._guid(),
            "targetDatasetId": self._guid(),
            "driftCoefficient": round(self._rng.random(), 6),
            "startTime": "2024-03-04T00:00:00+00:00",
            "endTime": "2024-03-11T00:00:00+00:00",
        }
        return Story(WORKSPACE, f"datadrift/{monitor}/run/{monitor}_{number}", 1, iter([Step(DRIFT_DETECTED, data)]))

    def _deployments(self, name: str) -> Iterator[Step]:
        for version in itertools.count(self._rng.randint(1, 30)):
            yield Step(
                MODEL_DEPLOYED,
                {
                    "serviceName": name,
                    "serviceComputeType": self._rng.choice(("ACI", "AKS")),
                    "modelIds": f"{name}-model:{version},preprocessing:{version % 7 + 1}",
                    "serviceTags": {"slot": self._rng.choice(("blue", "green")), "costCenter": "4711"},
                    "serviceProperties": {
                        "deploymentId": self._guid(),
                        "image": f"registry.example.net/{name}:{self._rng.getrandbits(48):012x}",
                    },
                },
            )

    def _blob_steps(self, url: str) -> Iterator[Step]:
        for version in itertools.count(1):
            deleted = version > 1 and self._rng.random() < 0.1
            request = self._guid()
            data = {
                "api": "DeleteBlob" if deleted else "PutBlob",
                "clientRequestId": self._guid(),
                "requestId": request,
                "eTag": f"0x{self._rng.getrandbits(60):015X}",
                "contentType": "application/vnd.apache.parquet",
                "contentLength": self._rng.randint(10_000, 50_000_000),
                "blobType": "BlockBlob",
                "url": url,
                "sequencer": self._sequencer(),
                "storageDiagnostics": {"batchId": self._guid()},
            }
            yield Step(BLOB_DELETED if deleted else BLOB_CREATED, data)

    def _sequencer(self) -> str:
        """Grows with gaps, like the back end's log it comes from: three 64-bit words, their hex digits in mixed case.

        The last word starts again now and then, so that only a comparison of the whole number is right.
        """
        self._sequence += self._rng.randint(1, 4_000)
        high, low = divmod(self._sequence, 2**21)
        return f"{0:016x}{0x89A4 + high:016X}{low:016x}"

    def _guid(self) -> str:
        return guid(self._rng)


def guid(rng: random.Random) -> str:
    """A random UUID from a seeded source."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _run_steps(about: dict[str, Any], statuses: tuple[str, ...]) -> Iterator[Step]:
    for status in statuses:
        yield Step(RUN_STATUS_CHANGED, about | {"runStatus": status})
    if statuses[-1] == "Completed":
        yield Step(RUN_COMPLETED, about)
