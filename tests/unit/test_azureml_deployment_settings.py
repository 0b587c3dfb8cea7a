import pytest
from pydantic import ValidationError

from tests.deliveries import delivery_of
from worker.errors import Rejected
from worker.samples import Sample
from worker.sinks.azureml_deployment import AzureMlDeploymentSink
from worker.sinks.deployment_settings import AzureMlDeploymentSettings, DeploymentRequest

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
WORKSPACE = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/ml-rg/providers/Microsoft.MachineLearningServices/workspaces/team-ml"
)
GOOD = {
    "name": "serve",
    "kind": "azureml_deployment",
    "workspace": WORKSPACE,
    "endpoint": "fraud-scoring",
    "instance_type": "Standard_DS3_v2",
}
ENVIRONMENT = f"{WORKSPACE}/environments/sklearn/versions/3"
CODE = f"{WORKSPACE}/codes/score/versions/1"
SCRIPT = {"environment": ENVIRONMENT, "code": CODE, "scoring_script": "src/score.py"}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"workspace": f"{WORKSPACE}/"},
        {"workspace": WORKSPACE.replace("resourceGroups", "resourcegroups")},
        {"endpoint": "abc"},
        {"endpoint": "a" * 32},
        {"instance_count": 20},
        {"model": "fraud", "version": "{{ event.data.build }}"},
        {"environment": "azureml://registries/azureml/environments/sklearn/versions/1"},
        SCRIPT,
        {"environment_variables": {"STAGE": "{{ event.data.modelTags.stage }}"}},
        {"tags": {"team": "ml", "event": "{{ event.id }}"}},
        {"shift_traffic": True, "retry": {"give_up_after_seconds": 7200}},
        {"management_url": "https://management.usgovcloudapi.net"},
        {"api_version": "2025-12-01"},
    ],
)
def test_settings_that_make_sense_are_taken(change):
    settings = AzureMlDeploymentSettings.model_validate(GOOD | change)
    assert settings.needs_identity
    assert not settings.uses_ledger
    assert not settings.workspace.endswith("/")


def test_what_is_left_out_has_a_careful_value():
    settings = AzureMlDeploymentSettings.model_validate(GOOD)
    assert (settings.shift_traffic, settings.instance_count, settings.concurrency) == (False, 1, 4)
    assert settings.token_scope == "https://management.azure.com/.default"
    assert settings.attempt_seconds == 16 * (10 + 30)
    assert Sample(settings.natural_sample) is Sample.MODEL_REGISTERED
    assert settings.sample_source == WORKSPACE


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"workspace": "team-ml"}, "is no id of a workspace; write what `az ml workspace show"),
        ({"workspace": f"{WORKSPACE}/models/m"}, "is no id of a workspace"),
        ({"workspace": f"{WORKSPACE}?x=y"}, "is no id of a workspace"),
        ({"workspace": WORKSPACE.replace(SUBSCRIPTION, "ID")}, "is no id of a workspace"),
        ({"workspace": None}, "valid string"),
        ({"endpoint": "https://fraud.westeurope.inference.ml.azure.com/score"}, "write the name alone"),
        ({"endpoint": "4ever"}, "match pattern"),
        ({"endpoint": "double--dash"}, "match pattern"),
        ({"endpoint": "dash-at-the-end-"}, "match pattern"),
        ({"endpoint": "a" * 33}, "at most 32"),
        ({"instance_type": "{{ event.id }}"}, "match pattern"),
        ({"instance_count": 0}, "greater than or equal to 1"),
        ({"model": "{{ evnt.id }}"}, "did you mean event?"),
        ({"tags": {"a": "{{"}}, "the template cannot be read"),
        ({"tags": {"eventKey": "x"}}, "eventKey is written by the sink itself"),
        ({"tags": {"Model": "x"}}, "Model is written by the sink itself"),
        ({"tags": {"a/b": "x"}}, "cannot be the name of a tag"),
        ({"tags": {f"t{n}": "x" for n in range(41)}}, "there is room for 40"),
        ({"environment": "sklearn:1"}, "is no id of an asset"),
        ({"environment": "azureml:sklearn:1"}, "is no id of an asset"),
        ({"code": CODE}, "code and scoring_script belong together"),
        ({"scoring_script": "score.py"}, "code and scoring_script belong together"),
        ({"code": CODE, "scoring_script": "score.py"}, "needs an environment"),
        ({"api_version": "latest"}, "match pattern"),
        ({"management_url": "http://management.example.org"}, "http"),
        ({"management_url": "https://management.azure.com/x"}, "holds a path"),
        ({"on_unknown": "resend"}, "does without a ledger"),
        ({"quiet": {"group_by": ["type"], "group_wait_seconds": 1, "group_interval_seconds": 60}}, "remove it"),
    ],
)
def test_a_mistake_is_refused_with_what_to_write_instead(change, said):
    with pytest.raises(ValidationError) as refused:
        AzureMlDeploymentSettings.model_validate(GOOD | change)
    assert said in str(refused.value)


def request_of(**data: object) -> DeploymentRequest:
    return DeploymentRequest(AzureMlDeploymentSettings.model_validate(GOOD | data))


MODEL = {"modelName": "fraud", "modelVersion": 4}


def test_the_digest_of_what_is_asked_for_tells_settings_apart_and_not_events():
    first = delivery_of({"id": "a", "eventType": "t", "subject": "s", "topic": "x", "data": MODEL})
    other = delivery_of({"id": "b", "eventType": "t", "subject": "s", "topic": "x", "data": MODEL})
    specs = {request_of(**change).of(first)[0].spec for change in ({}, {"tags": {"a": "b"}})}
    assert specs == {request_of().of(other)[0].spec}
    for change in ({"instance_count": 2}, {"instance_type": "Standard_F4s_v2"}, SCRIPT):
        assert request_of(**change).of(first)[0].spec not in specs


def test_an_event_without_a_time_makes_a_deployment_without_one():
    wanted, body = request_of().of(
        delivery_of({"id": "a", "eventType": "t", "subject": "s", "topic": "x", "data": MODEL})
    )
    assert wanted.version.time == ""
    assert set(body["tags"]) == {"model", "version", "eventKey", "spec"}


def test_what_a_template_cannot_find_is_a_dead_letter():
    with pytest.raises(Rejected, match=r"environment_variables\.STAGE"):
        request_of(environment_variables={"STAGE": "{{ event.data.modelTags.stage }}"}).of(
            delivery_of({"id": "a", "eventType": "t", "subject": "s", "topic": "x", "data": MODEL})
        )


@pytest.mark.parametrize(("shift", "after"), [(True, "all traffic of the endpoint"), (False, "stays as it is")])
def test_a_preview_shows_the_request_and_says_what_becomes_of_the_traffic(shift, after):
    sink = AzureMlDeploymentSink(AzureMlDeploymentSettings.model_validate(GOOD | {"shift_traffic": shift}))
    shown = sink.preview(delivery_of({"id": "a", "eventType": "t", "subject": "s", "topic": "x", "data": MODEL}))
    assert shown.startswith(f"PUT {WORKSPACE}/onlineEndpoints/fraud-scoring/deployments/fraud-4?api-version=2024-04-01")
    assert f'"model": "{WORKSPACE}/models/fraud/versions/4"' in shown
    assert after in shown.splitlines()[-1]
