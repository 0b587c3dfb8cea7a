"""`worker send-test` with a sink that starts machines: what it is sent when nobody says, and what is said of it."""

import json
import os
from typing import Any

from tests.api_service import served
from tests.apis.online_endpoints import OnlineEndpoints
from tests.identity_service import identity_service
from tests.integration.deployments import PLAIN
from tests.integration.test_send_test import send_test


def sink(service: OnlineEndpoints, **more: Any) -> dict[str, Any]:
    plain = {key: value for key, value in PLAIN.items() if key != "name"}
    return {"kind": "azureml_deployment", "management_url": service.url, **plain, **more}


async def test_its_natural_sample_is_a_registered_model_of_its_workspace_and_the_deployment_is_really_made(
    tmp_path, monkeypatch
):
    service = OnlineEndpoints()
    async with served(service), identity_service(None, monkeypatch):
        names = ("IDENTITY_", "AZURE_TOKEN_")
        given = {name: value for name, value in os.environ.items() if name.startswith(names)}
        code, text = await send_test(tmp_path, sink(service), **given)
        assert code == 1
        lines = text.splitlines()
        assert f"destination {service.url.removeprefix('http://')}" in lines
        assert any(line.endswith("(model-registered)") for line in lines)
        assert any(line.startswith("in progress, after") for line in lines)
        assert lines[-1].startswith("It is at work there, and goes on without this command.")
        [name] = service.deployments
        assert name.startswith("worker-send-test-1-")
        service.finish(name)
        code, text = await send_test(tmp_path, sink(service), "--json", **given)
        assert (code, json.loads(text)["result"]) == (0, "accepted")
    assert service.count("deploy") == 1


async def test_a_dry_run_shows_the_request_and_makes_none(tmp_path):
    service = OnlineEndpoints()
    async with served(service):
        code, text = await send_test(tmp_path, sink(service, shift_traffic=True), "--dry-run")
    assert code == 0
    assert "  PUT /subscriptions/" in text
    assert "all traffic of the endpoint" in text
    assert service.asked == []
