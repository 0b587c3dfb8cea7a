"""Azure DevOps, for a sink that runs a pipeline and logs in with the identity of the process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from tests.apis.azuredevops import PROJECT, AzureDevOpsService, azuredevops_service
from tests.contract.rigs import ApiRig

if TYPE_CHECKING:
    from tests.contract.rigs.table import Place


class AzureDevOpsRig(ApiRig):
    kind = "azuredevops"
    service: AzureDevOpsService

    def settings(self) -> dict[str, Any]:
        return {
            "organization": self.service.organization,
            "project": PROJECT,
            "pipeline": 7,
            "parameters": {"eventId": "{{ event.id }}", "key": "{{ delivery.idempotency_key }}"},
        }

    def arrived(self) -> list[dict[str, Any]]:
        for run in self.service.runs:
            assert run.parameters["eventKey"] == f"evt-{run.parameters['key'][:32]}"
        return [{"id": run.parameters["eventId"], "key": run.parameters["key"]} for run in self.service.runs]


@asynccontextmanager
async def azuredevops(_: "Place") -> AsyncIterator[AzureDevOpsRig]:
    async with azuredevops_service() as service:
        yield AzureDevOpsRig(service)
