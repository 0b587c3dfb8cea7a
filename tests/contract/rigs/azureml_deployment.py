"""An online endpoint for the contract suite: one model per event, ready at once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.api_service import served
from tests.apis.online_endpoints import ENDPOINT, SCOPE, WORKSPACE, OnlineEndpoints
from tests.contract.rigs import ApiRig, Mood
from worker.errors import SinkUnavailable

if TYPE_CHECKING:
    from tests.contract.rigs.table import Place


class CountingEndpoints(OnlineEndpoints):
    """Counts who was told that the deployment stands: the sink accepts a delivery when it sees that."""

    def __init__(self, *, at_once: bool) -> None:
        super().__init__(at_once=at_once)
        self.told: list[dict[str, Any]] = []
        self.loses_next = False

    def _tell(self, request: web.Request) -> None:
        for each in self.deployments.values():
            if each["tags"]["eventKey"] == request.headers["x-ms-client-request-id"]:
                self.told.append(each["tags"])

    async def _list(self, request: web.Request) -> web.Response:
        self._tell(request)
        return await super()._list(request)

    async def _put_deployment(self, request: web.Request) -> web.Response:
        answer = await super()._put_deployment(request)
        if self.loses_next:
            self._tell(request)  # it was done, and the answer said so, had it come
            self.loses_next = False
        return answer


class AzureMlDeploymentRig(ApiRig):
    kind = "azureml_deployment"
    lost = SinkUnavailable
    service: CountingEndpoints

    def settings(self) -> dict[str, Any]:
        return {
            "management_url": self.service.url,
            "scope": SCOPE,
            "workspace": WORKSPACE,
            "endpoint": ENDPOINT,
            "model": "{{ event.id }}",
            "version": "1",
            "instance_type": "Standard_DS3_v2",
            "tags": {"fullKey": "{{ delivery.idempotency_key }}"},
        }

    def next_time(self, mood: Mood) -> None:
        self.service.loses_next = mood is Mood.LOSES_THE_ANSWER
        super().next_time(mood)

    def arrived(self) -> list[dict[str, Any]]:
        """Of all deliveries that saw their deployment stand: the endpoint has one for each event."""
        return [{"id": each["model"], "key": each["fullKey"]} for each in self.service.told]


@asynccontextmanager
async def azureml_deployment(_place: "Place") -> AsyncIterator[AzureMlDeploymentRig]:
    service = CountingEndpoints(at_once=True)
    async with served(service):
        yield AzureMlDeploymentRig(service)
