"""Azure ML in the contract suite: jobs of a workspace, and of a batch endpoint."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from tests.apis.azureml import ARM_SCOPE, COMPONENT, WORKSPACE, AzureMl, azureml, told
from tests.contract.rigs import ApiRig
from worker.errors import SinkUnavailable

if TYPE_CHECKING:
    from tests.contract.rigs.table import Place

_LITERALS = {"event": "{{ event.id }}", "key": "{{ delivery.idempotency_key }}"}


class AzureMlJobRig(ApiRig):
    kind = "azureml_job"
    lost = SinkUnavailable
    service: AzureMl

    def settings(self) -> dict[str, Any]:
        return {
            "management_url": self.service.url,
            "scope": ARM_SCOPE,
            "workspace": WORKSPACE,
            "component": COMPONENT,
            "inputs": _LITERALS,
        }

    def arrived(self) -> list[dict[str, Any]]:
        """Of all requests that were accepted, repetitions too: the service starts one job."""
        return [{"id": told(job)["event"], "key": job["tags"]["eventKey"]} for job in self.service.accepted]


class AzureMlBatchRig(ApiRig):
    kind = "azureml_batch"
    service: AzureMl

    def settings(self) -> dict[str, Any]:
        return {"endpoint_url": self.service.endpoint_url, "inputs": _LITERALS}

    def arrived(self) -> list[dict[str, Any]]:
        literals = [told(job["properties"]) for job in self.service.batch_jobs]
        return [{"id": each["event"], "key": each["key"]} for each in literals]


@asynccontextmanager
async def azureml_job(_: "Place") -> AsyncIterator[AzureMlJobRig]:
    async with azureml() as service:
        yield AzureMlJobRig(service)


@asynccontextmanager
async def azureml_batch(_: "Place") -> AsyncIterator[AzureMlBatchRig]:
    async with azureml() as service:
        yield AzureMlBatchRig(service)
