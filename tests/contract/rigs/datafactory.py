"""Data Factory in the contract suite."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.api_service import served
from tests.apis.datafactory import FACTORY, DataFactory, Parameter
from tests.contract.rigs import ApiRig


class DataFactoryRig(ApiRig):
    kind = "datafactory"

    def __init__(self, service: DataFactory) -> None:
        super().__init__(service)
        service.pipelines = {"retrain": {"eventKey": Parameter(), "event": Parameter()}}
        self._runs = service.runs

    def settings(self) -> dict[str, Any]:
        return {
            "factory": FACTORY,
            "pipeline": "retrain",
            "parameters": {"event": "{{ event.id }}"},
            "management_url": self.service.url,
            "scope": self.service.scope,
        }

    def arrived(self) -> list[dict[str, Any]]:
        return [{"id": run.parameters["event"], "key": run.parameters["eventKey"]} for run in self._runs]


@asynccontextmanager
async def datafactory(_place: object) -> AsyncIterator[DataFactoryRig]:
    service = DataFactory()
    async with served(service):
        yield DataFactoryRig(service)
