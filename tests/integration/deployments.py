"""Sinks of kind azureml_deployment at a local endpoint: how they are built, and events about registered models."""

from typing import Any

from tests.apis.online_endpoints import ENDPOINT, SCOPE, WORKSPACE, OnlineEndpoints
from tests.deliveries import delivery_of
from tests.tokens import FakeCredential
from worker.errors import InProgress
from worker.identity import Tokens
from worker.sinks import Delivery
from worker.sinks.azureml_deployment import AzureMlDeploymentSink
from worker.sinks.deployment_settings import AzureMlDeploymentSettings

PLAIN: dict[str, Any] = {
    "name": "out",
    "scope": SCOPE,
    "workspace": WORKSPACE,
    "endpoint": ENDPOINT,
    "instance_type": "Standard_DS3_v2",
}


def registered(version: object, *, model: str = "fraud", second: int = 1, **more: Any) -> Delivery:
    """The delivery of an event that says that the model was registered."""
    return delivery_of(
        {
            "id": f"{model}-{version}-{second}",
            "topic": WORKSPACE,
            "subject": f"models/{model}:{version}",
            "eventType": "Microsoft.MachineLearningServices.ModelRegistered",
            "eventTime": f"2026-01-01T00:00:{second:02}Z",
            "data": {"ModelName": model, "ModelVersion": version, "ModelTags": {"stage": "production"}},
            **more,
        }
    )


def sink_at(service: OnlineEndpoints, *, settings: dict[str, Any] | None = None, **given: Any) -> AzureMlDeploymentSink:
    """Not yet opened."""
    merged = {**PLAIN, "management_url": service.url, **(settings or {})}
    return AzureMlDeploymentSink(AzureMlDeploymentSettings.model_validate(merged), Tokens(FakeCredential()), **given)


async def deliver_to_the_end(sink: AzureMlDeploymentSink, delivery: Delivery, service: OnlineEndpoints) -> int:
    """Asks as a lane would, while the service ends one thing after the other; returns how often it was at work."""
    for asked in range(20):
        try:
            await sink.deliver(delivery)
        except InProgress:
            for name in service.unfinished()[:1]:
                service.finish(name)
        else:
            return asked
    raise AssertionError("it does not come to an end")
