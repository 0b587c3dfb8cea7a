"""The azureml_deployment sink against a local endpoint: what it asks, what answers mean, what it leaves alone."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from tests.api_service import Scripted, served
from tests.apis.online_endpoints import ENDPOINT, SCOPE, WORKSPACE, OnlineEndpoints
from tests.integration.deployments import deliver_to_the_end, registered, sink_at
from tests.tokens import token_for
from worker.errors import InProgress, Misconfigured, Rejected, SinkUnavailable, WorkerError
from worker.sinks.azureml_deployment import AzureMlDeploymentSink

ENDPOINT_PATH = f"{WORKSPACE}/onlineEndpoints/{ENDPOINT}"


@pytest.fixture
async def service() -> AsyncIterator[OnlineEndpoints]:
    service = OnlineEndpoints()
    async with served(service):
        yield service


@asynccontextmanager
async def opened(service: OnlineEndpoints, **settings: Any) -> AsyncIterator[AzureMlDeploymentSink]:
    sink = sink_at(service, settings=settings)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.aclose()


async def refusal(sink: AzureMlDeploymentSink, delivery: Any) -> WorkerError:
    with pytest.raises(WorkerError) as raised:
        await sink.deliver(delivery)
    return raised.value


# --- how it goes


async def test_a_registered_model_is_deployed_waited_for_and_given_the_traffic(service):
    async with opened(service, shift_traffic=True) as sink:
        begun = await refusal(sink, registered(20))
        assert (type(begun), begun.retry_after_seconds) == (InProgress, 20.0)
        waiting = await refusal(sink, registered(20))
        assert (type(waiting), waiting.retry_after_seconds) == (InProgress, 30.0)
        assert service.traffic == {}
        service.finish("fraud-20")
        shifted = await refusal(sink, registered(20))
        assert "scoring is Updating" in str(shifted)
        service.finish()
        await sink.deliver(registered(20))
    assert service.traffic == {"fraud-20": 100}
    assert service.changes_made == [
        ("deploy", "fraud-20"),
        ("finish", "fraud-20"),
        ("traffic", "fraud-20"),
        ("finish", ENDPOINT),
    ]
    assert service.refusals == []


async def test_what_it_asks_is_what_is_documented(service):
    delivery = registered(20)
    settings = {
        "environment": "azureml://registries/azureml/environments/sklearn/versions/1",
        "code": f"{WORKSPACE}/codes/score/versions/1",
        "scoring_script": "score.py",
        "instance_count": 3,
        "environment_variables": {
            "STAGE": "{{ event.data.modelTags.stage }}",
            "VERSION": "{{ event.data.modelVersion }}",
        },
        "tags": {"event": "{{ event.id }}"},
    }
    async with opened(service, **settings) as sink:
        await refusal(sink, delivery)
    [look, listing, put] = service.asked
    assert [each.method for each in (look, listing, put)] == ["GET", "GET", "PUT"]
    assert (look.path, listing.path) == (ENDPOINT_PATH, f"{ENDPOINT_PATH}/deployments")
    assert put.path == f"{ENDPOINT_PATH}/deployments/fraud-20"
    for each in service.asked:
        assert each.query == {"api-version": "2024-04-01"}
        assert each.headers["authorization"] == f"Bearer {token_for(SCOPE)}"
        assert each.headers["x-ms-client-request-id"] == f"evt-{delivery.idempotency_key[:32]}"
    spec = put.body["tags"].pop("spec")
    assert len(spec) == 16
    assert put.body == {
        "location": "westeurope",
        "tags": {
            "event": "fraud-20-1",
            "model": "fraud",
            "version": "20",
            "eventTime": "2026-01-01T00:00:01.0000000Z",
            "eventKey": f"evt-{delivery.idempotency_key[:32]}",
        },
        "sku": {"name": "Default", "capacity": 3},
        "properties": {
            "endpointComputeType": "Managed",
            "model": f"{WORKSPACE}/models/fraud/versions/20",
            "instanceType": "Standard_DS3_v2",
            "environmentId": settings["environment"],
            "codeConfiguration": {"codeId": settings["code"], "scoringScript": "score.py"},
            "environmentVariables": {"STAGE": "production", "VERSION": "20"},
        },
    }


async def test_the_rest_of_the_endpoint_stays_as_it_was(service):
    service.put_there("fraud-4", "fraud", "4")
    before = service.endpoint
    async with opened(service, shift_traffic=True) as sink:
        await deliver_to_the_end(sink, registered(4), service)
    after = service.endpoint
    assert service.traffic == {"fraud-4": 100}
    assert after["tags"] == {"team": "ml", "servedModel": "fraud", "servedVersion": "4"}
    for name in ("authMode", "description", "properties", "publicNetworkAccess", "mirrorTraffic", "scoringUri"):
        assert after["properties"][name] == before["properties"][name]
    assert after["identity"]["type"] == before["identity"]["type"]
    assert (after["kind"], after["location"]) == (before["kind"], before["location"])


async def test_an_endpoint_that_stands_as_it_should_is_only_looked_at(service):
    async with opened(service, shift_traffic=True) as sink:
        await deliver_to_the_end(sink, registered(4), service)
        changes, service.asked[:] = list(service.changes_made), []
        for _ in range(3):
            await sink.deliver(registered(4))
    assert service.changes_made == changes
    assert [each.method for each in service.asked] == ["GET"] * 6


async def test_a_late_event_does_not_bring_an_older_version_back_though_its_deployment_is_gone(service):
    async with opened(service, shift_traffic=True) as sink:
        for version in (3, 4):
            await deliver_to_the_end(sink, registered(version, second=version), service)
        del service.deployments["fraud-3"]
        changes = list(service.changes_made)
        with capture_logs() as lines:
            await sink.deliver(registered(3, second=3))
    assert service.changes_made == changes
    assert service.traffic == {"fraud-4": 100}
    [line] = [line for line in lines if line["event"] == "deployment left as it is"]
    assert line["why"] == "overtaken by version 4 (fraud-4)"


async def test_traffic_that_an_operator_moved_back_stays_there_though_the_event_comes_again(service):
    async with opened(service, shift_traffic=True) as sink:
        for version in (3, 4):
            await deliver_to_the_end(sink, registered(version, second=version), service)
        service.endpoint["properties"]["traffic"] = {"fraud-3": 100}
        await sink.deliver(registered(4, second=4))
        assert service.traffic == {"fraud-3": 100}
        await deliver_to_the_end(sink, registered(5, second=5), service)
    assert service.traffic == {"fraud-5": 100}


async def test_an_endpoint_of_another_model_keeps_its_traffic_and_gets_no_deployment(service):
    service.put_there("blue", "churn", "1")
    service.endpoint["properties"]["traffic"] = {"blue": 100}
    async with opened(service, shift_traffic=True) as sink:
        error = await refusal(sink, registered(4))
    assert type(error) is Rejected
    assert "blue, a deployment of model churn, version 1" in str(error)
    assert service.changes_made == []


async def test_many_deployments_come_in_pages_and_all_are_looked_at(service):
    for version in range(1, 8):
        service.put_there(f"hand-{version}", "fraud", str(version))
    service.page_size = 3
    async with opened(service) as sink:
        await sink.deliver(registered(6))
        await sink.deliver(registered(5))
        assert service.changes_made == []
        service.page_size = 1
        await sink.deliver(registered(5))
        for version in range(8, 20):
            service.put_there(f"hand-{version}", "fraud", str(version))
        error = await refusal(sink, registered(5))
    assert "more requests than one attempt may make" in str(error)
    assert len(service.asked) <= 4 + 4 + 8 + 16


async def test_the_rest_of_a_list_is_never_asked_of_another_host(service):
    service.put_there("a-1", "fraud", "1")
    service.put_there("b-1", "fraud", "2")
    service.page_size = 1
    other = OnlineEndpoints()
    async with served(other), opened(service) as sink:
        service.next_host = other.url
        error = await refusal(sink, registered(1))
    assert type(error) is SinkUnavailable
    assert "another host" in str(error)
    assert other.asked == []


# --- what it refuses before it asks


@pytest.mark.parametrize(
    ("element", "said"),
    [
        ({"topic": WORKSPACE.replace("team-ml", "other")}, "of another workspace"),
        ({"data": {}}, "modelName"),
        ({"data": {"modelName": "", "modelVersion": 1}}, "model is ''"),
        ({"data": {"modelName": "a/../b", "modelVersion": 1}}, "names none in the workspace"),
        ({"data": {"modelName": "a", "modelVersion": "1?x=y"}}, "version is '1?x=y'"),
        ({"data": {"modelName": "a", "modelVersion": ".."}}, "version is '..'"),
    ],
)
async def test_an_event_that_names_no_model_of_this_workspace_is_a_dead_letter_and_nothing_is_asked(
    service, element, said
):
    async with opened(service) as sink:
        error = await refusal(sink, registered(1, **element))
    assert type(error) is Rejected
    assert said in str(error)
    assert service.asked == []


async def test_a_workspace_is_the_same_in_any_case(service):
    async with opened(service) as sink:
        await deliver_to_the_end(
            sink, registered(1, topic=WORKSPACE.upper().replace("SUBSCRIPTIONS", "subscriptions")), service
        )
    assert list(service.deployments) == ["fraud-1"]


# --- what goes wrong


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (Scripted(409, headers={"Retry-After": "9"}), InProgress, "answered 409"),
        (Scripted(409, '{"error": {"code": "ScopeLocked", "message": "locked"}}'), Misconfigured, "locked"),
        (Scripted(400, "no such model"), Rejected, "no such model"),
        (Scripted(413), Rejected, "413"),
        (Scripted(307, headers={"Location": "/elsewhere"}), Rejected, "307"),
        (Scripted(401), Misconfigured, "401"),
        (Scripted(403), Misconfigured, "403"),
        (Scripted(404), Misconfigured, "404"),
        (Scripted(429, headers={"Retry-After": "9"}), SinkUnavailable, "429"),
        (Scripted(500, takes_effect=True), SinkUnavailable, "500"),
        (Scripted(502), SinkUnavailable, "502"),
        (Scripted(503, headers={"Retry-After": "9"}), SinkUnavailable, "503"),
        (Scripted(drops=True), SinkUnavailable, "closed the connection"),
        (Scripted(drops=True, takes_effect=True), SinkUnavailable, "closed the connection"),
        (Scripted(stalls=True, takes_effect=True), SinkUnavailable, "did not answer within"),
    ],
)
@pytest.mark.parametrize("change", ["deployment", "traffic"])
async def test_what_an_answer_to_a_change_means_and_that_the_next_attempt_brings_it_to_the_end(
    service, answer, error, said, change
):
    async with opened(service, shift_traffic=True, timeout_seconds=0.5) as sink:
        if change == "traffic":
            service.put_there("fraud-4", "fraud", "4")
        service.script.append(replace(answer))
        raised = await refusal(sink, registered(4))
        assert type(raised) is error
        assert said in str(raised)
        if answer.headers.get("Retry-After"):
            assert raised.retry_after_seconds == 9.0
        await deliver_to_the_end(sink, registered(4), service)
    assert service.traffic == {"fraud-4": 100}
    assert service.count("deploy", "fraud-4") == (change == "deployment")
    assert service.count("traffic") == 1


@pytest.mark.parametrize(
    ("status", "error"), [(403, Misconfigured), (404, Misconfigured), (429, SinkUnavailable), (500, SinkUnavailable)]
)
@pytest.mark.parametrize("which", [0, 1])
async def test_when_it_cannot_look_it_changes_nothing(service, status, error, which):
    service.changes = lambda _: True  # type: ignore[method-assign]
    service.script = [Scripted(takes_effect=True)] * which + [Scripted(status)]
    async with opened(service) as sink:
        assert type(await refusal(sink, registered(4))) is error
    assert service.changes_made == []


async def test_an_answer_that_is_no_resource_is_not_taken_for_an_empty_endpoint(service):
    service.changes = lambda _: True  # type: ignore[method-assign]
    service.script = [Scripted(takes_effect=True), Scripted(200, "<html>")]
    async with opened(service) as sink:
        assert type(await refusal(sink, registered(4))) is SinkUnavailable
    assert service.changes_made == []


async def test_a_change_that_is_refused_because_the_endpoint_became_busy_is_waited_for_whatever_the_code(service):
    async def becomes_busy() -> None:
        service.endpoint_state = "Updating"

    service.before = becomes_busy
    service.script = [Scripted(400, "Cannot create a deployment because it is in Updating provisioning state")]
    async with opened(service) as sink:
        error = await refusal(sink, registered(4))
        assert type(error) is InProgress
        service.finish()
        service.before = type(service)().before
        await deliver_to_the_end(sink, registered(4), service)
    assert service.states() == {"fraud-4": "Succeeded"}


async def test_a_busy_endpoint_is_not_even_asked_for_a_change(service):
    service.endpoint_state = "Updating"
    async with opened(service) as sink:
        assert type(await refusal(sink, registered(4))) is InProgress
    service.endpoint_state = "Failed"
    async with opened(service) as sink:
        error = await refusal(sink, registered(4))
    assert type(error) is Misconfigured
    assert "scoring is Failed: repair it" in str(error)
    assert {each.method for each in service.asked} == {"GET"}


async def test_an_endpoint_that_does_not_exist_is_a_matter_for_people(service):
    async with opened(service, endpoint="missing") as sink:
        assert type(await refusal(sink, registered(4))) is Misconfigured


# --- deployments that fail


async def test_a_deployment_that_fails_is_a_dead_letter_with_the_reason_and_a_replay_tries_it_again(service):
    delivery = registered(4)
    async with opened(service, shift_traffic=True) as sink:
        await refusal(sink, delivery)
        service.finish("fraud-4", "Failed")
        error = await refusal(sink, delivery)
        assert type(error) is Rejected
        assert "fraud-4 is Failed: OutOfQuota: not enough machines of this size" in str(error)
        assert service.count("deploy") == 1
        again = replace(delivery, replayed=True)
        for times in (2, 3):  # replayed, and replayed once more
            assert type(await refusal(sink, again)) is InProgress
            service.finish("fraud-4", "Failed")
            assert type(await refusal(sink, again)) is Rejected
            assert service.count("deploy") == times
        await deliver_to_the_end(sink, again, service)
    assert service.traffic == {"fraud-4": 100}


async def test_a_failure_that_another_process_began_is_final_too_and_names_where_to_look(service):
    async with opened(service) as first:
        await refusal(first, registered(4))
    service.finish("fraud-4", "Failed")
    async with opened(service) as second:
        error = await refusal(second, registered(4))
    assert type(error) is Rejected
    assert "az ml online-deployment get-logs --endpoint-name scoring --name fraud-4" in str(error)


async def test_a_newer_version_that_failed_leaves_the_traffic_to_the_older_one(service):
    async with opened(service, shift_traffic=True) as sink:
        assert type(await refusal(sink, registered(3))) is InProgress
        assert type(await refusal(sink, registered(4))) is InProgress
        service.finish("fraud-4", "Failed")
        assert type(await refusal(sink, registered(4))) is Rejected
        await deliver_to_the_end(sink, registered(3), service)
    assert service.traffic == {"fraud-3": 100}


async def test_two_sinks_that_disagree_about_one_version_do_not_undo_each_others_work(service):
    async with opened(service) as one, opened(service, name="other", instance_type="Standard_F4s_v2") as other:
        deliveries = [registered(4), replace(registered(4), sink="other", idempotency_key="f" * 64)]
        assert type(await refusal(one, deliveries[0])) is InProgress
        assert type(await refusal(other, deliveries[1])) is InProgress
        service.finish("fraud-4")
        for _ in range(3):
            await one.deliver(deliveries[0])
            await other.deliver(deliveries[1])
    assert service.count("deploy") == 1


async def test_settings_that_changed_before_the_delivery_ended_are_applied_to_its_own_deployment(service):
    async with opened(service) as sink:
        await refusal(sink, registered(4))
    service.finish("fraud-4")
    async with opened(service, instance_count=2) as sink:
        await deliver_to_the_end(sink, registered(4), service)
    assert service.deployments["fraud-4"]["sku"]["capacity"] == 2


# --- the local endpoint refuses what the real one refuses


async def test_the_local_endpoint_refuses_what_is_not_documented(service):
    service.put_there("ready", "fraud", "1")
    service.put_there("busy", "fraud", "2", state="Creating")
    url, version = f"{service.url}{ENDPOINT_PATH}", {"api-version": "2024-04-01"}
    properties = {"endpointComputeType": "Managed", "model": "m", "instanceType": "t"}
    deployment = {"location": "westeurope", "sku": {"name": "Default", "capacity": 1}, "properties": properties}
    endpoint = {"location": "westeurope", "properties": {"authMode": "Key"}}

    def traffic(**shares: int) -> dict[str, Any]:
        return {**endpoint, "properties": {"authMode": "Key", "traffic": shares}}

    refused: list[tuple[int, str, str, Any]] = [
        (400, "PUT", "/deployments/x", deployment),
        (400, "PUT", "/deployments/new", {**deployment, "location": "elsewhere"}),
        (400, "PUT", "/deployments/new", {**deployment, "sku": {}}),
        (400, "PUT", "/deployments/new", {**deployment, "tags": {"n": 1}}),
        (400, "PUT", "/deployments/new", {**deployment, "properties": {**properties, "colour": "red"}}),
        (400, "PUT", "/deployments/ready", deployment),
        (409, "PUT", "/deployments/busy", deployment),
        (400, "PUT", "", {"location": "westeurope", "properties": {}}),
        (400, "PUT", "", traffic(ready=50)),
        (400, "PUT", "", traffic(busy=100)),
        (400, "PUT", "", traffic(absent=100)),
        (400, "PATCH", "", {"properties": {"traffic": {"ready": 100}}}),
        (404, "GET", "/deployments/absent", None),
    ]
    headers = {"Authorization": f"Bearer {token_for(SCOPE)}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for status, method, path, body in refused:
            async with session.request(method, url + path, params=version, json=body) as response:
                assert response.status == status, (method, path, body)
        async with session.get(url, params={"api-version": "2015-01-01"}) as response:
            assert response.status == 400
        async with session.get(url, params=version, headers={"Authorization": "Bearer other"}) as response:
            assert response.status == 401
        async with session.put(url, params=version, json=traffic(ready=100)) as response:
            assert response.status == 200
        async with session.put(url, params=version, json=traffic(ready=100)) as response:
            assert response.status == 409
    assert service.changes_made == [("traffic", "ready")]
