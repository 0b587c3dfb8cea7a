"""What our sink sends, compared field by field with what the vendor's own client sends for the same deployment.

The vendor's side is written by hand in `tests/sdk`, not made by our code.
"""

import json
from pathlib import Path
from typing import Any

from tests.api_service import Asked, served
from tests.apis.online_endpoints import WORKSPACE, OnlineEndpoints
from tests.integration.deployments import deliver_to_the_end, registered, sink_at
from tests.sdk import run_sdk

DELIVERY = registered(4)
SETTINGS = {
    "shift_traffic": True,
    "environment": f"{WORKSPACE}/environments/sklearn/versions/1",
    "code": f"{WORKSPACE}/codes/score/versions/1",
    "scoring_script": "score.py",
    "instance_count": 2,
    "environment_variables": {"STAGE": "production"},
    "api_version": "2025-12-01",  # the only one that their client speaks
}

ONLY_THEIRS = {"connection"}
DIFFERENT = {
    "accept-encoding",  # an answer is read as it comes
    "content-length",  # of JSON with other white space
    "user-agent",
    "x-ms-client-request-id",  # theirs is random
}


async def ours() -> list[Asked]:
    service = OnlineEndpoints(at_once=True)
    async with served(service):
        sink = sink_at(service, settings=SETTINGS)
        await sink.open()
        await deliver_to_the_end(sink, DELIVERY, service)
        await sink.aclose()
    assert service.traffic == {"fraud-4": 100}
    return [*service.asked[:3], *(each for each in service.asked[3:] if each.method == "PUT")]


async def theirs(tags: dict[str, str], folder: Path) -> list[Asked]:
    service = OnlineEndpoints(at_once=True)
    async with served(service):
        await run_sdk("azureml_deployment.py", service.url, "fraud-4", json.dumps(tags), folder=folder)
    assert service.traffic == {"fraud-4": 100}
    return service.asked


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    return value


async def test_the_requests_are_those_that_the_vendors_client_makes(tmp_path):
    own = await ours()
    others = await theirs(own[2].body["tags"], tmp_path)
    assert [(each.method, each.path) for each in own] == [(each.method, each.path) for each in others]
    for mine, other in zip(own, others, strict=True):
        assert mine.query == other.query
        assert mine.headers.keys() ^ other.headers.keys() <= ONLY_THEIRS
        same = mine.headers.keys() & other.headers.keys() - DIFFERENT - {"host"}
        assert {name: mine.headers[name] for name in same} == {name: other.headers[name] for name in same}

    look, listing, deployment, traffic = own
    assert (look.body, listing.body) == (None, None)
    other = without_nulls(others[2].body)
    # They say what is so without being said.
    assert {name: other["properties"].pop(name) for name in ("appInsightsEnabled", "properties")} == {
        "appInsightsEnabled": False,
        "properties": {},
    }
    assert deployment.body == other

    mine, other = traffic.body, without_nulls(others[3].body)
    assert mine.pop("kind") == "Managed"  # which theirs does not know, and loses
    served_by = {name: mine["tags"].pop(name) for name in ("servedModel", "servedVersion", "servedEventTime")}
    assert served_by["servedVersion"] == "4"
    for name in ("createdAt", "lastModifiedAt"):  # which it takes for properties, and writes there
        del other["properties"]["properties"][name]
    assert mine == other
