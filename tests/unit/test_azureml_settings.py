"""The Azure ML sinks' settings: what is accepted, how mistakes are said, and what becomes of inputs."""

from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from tests.apis.azureml import COMPONENT, COMPUTE, WORKSPACE
from tests.deliveries import ELEMENT, delivery_of
from tests.unit.configurations import WORKER, mistakes
from worker.errors import Rejected
from worker.sinks.azureml_batch import AzureMlBatchSettings, AzureMlBatchSink
from worker.sinks.azureml_job import AzureMlJobSettings, AzureMlJobSink
from worker.sinks.rest import short_key
from worker.trial import destination

JOB = {"name": "out", "workspace": WORKSPACE, "component": COMPONENT}
BATCH = {"name": "out", "endpoint_url": "https://scoring.westeurope.inference.ml.azure.com/jobs"}
SOURCE = f"{WORKSPACE}/jobs/evt-1"
DATA = {"type": "uri_folder", "uri": "azureml://datastores/ds/paths/x/"}
DELIVERY = delivery_of(
    ELEMENT | {"data": {"rate": 0.5, "rounds": 3, "warm": True, "tables": ["a", {"b": 1}], "no": None}}
)


def job_of(**given: Any) -> dict[str, Any]:
    return body_of(AzureMlJobSink(AzureMlJobSettings.model_validate(JOB | given)))["properties"]


def batch_of(**given: Any) -> dict[str, Any]:
    return body_of(AzureMlBatchSink(AzureMlBatchSettings.model_validate(BATCH | given)))["properties"]


def body_of(sink: AzureMlJobSink | AzureMlBatchSink) -> dict[str, Any]:
    text = sink.preview(DELIVERY)
    return orjson.loads(text[text.index("\n{") :])


# --- settings


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"component": None, "source_job": SOURCE},
        {"component": "azureml://registries/azureml/components/retrain/versions/1.0.2"},
        {"workspace": WORKSPACE.replace("resourceGroups", "RESOURCEGROUPS").upper()},
        {"component": COMPONENT.replace("resourceGroups", "resourcegroups")},
        {"component": f"azureml:{COMPONENT}"},
        {"compute": COMPUTE},
        {
            "workspace": WORKSPACE.replace("/ml/", "/ml_(test).1-ä/"),
            "component": "azureml://registries/a/components/b/versions/1",
        },
        {"inputs": {"data": DATA | {"mode": "download"}, "rate": 0.1, "warm": True, "by": "{{ event.id }}"}},
        {"management_url": "https://management.usgovcloudapi.net", "api_version": "2024-04-01"},
    ],
)
def test_settings_of_jobs_that_make_sense_are_taken(change):
    settings = AzureMlJobSettings.model_validate(JOB | change)
    assert settings.needs_identity
    assert not settings.uses_ledger
    assert settings.attempt_seconds == 2 * 70


def test_an_id_as_the_cli_prints_it_is_the_same_without_its_prefix():
    settings = AzureMlJobSettings.model_validate(JOB | {"component": f"azureml:{COMPONENT}"})
    assert settings.component == COMPONENT


@pytest.mark.parametrize(
    ("change", "place", "reason"),
    [
        ({"workspace": "ws"}, ("workspace",), "no id of a workspace; write what `az ml workspace show --name NAME"),
        ({"workspace": f"{WORKSPACE}/"}, ("workspace",), "--query id"),
        ({"workspace": f"https://management.azure.com{WORKSPACE}"}, ("workspace",), "--query id"),
        ({"workspace": f"{WORKSPACE}?hidden"}, ("workspace",), "--query id"),
        ({"component": None}, (), "one of component, source_job is needed"),
        ({"source_job": SOURCE}, (), "component and source_job exclude each other"),
        (
            {"component": "azureml:retrain:3"},
            ("component",),
            "`az ml component show --name NAME --version VERSION --query id",
        ),
        ({"component": COMPONENT.replace("/versions/3", "")}, ("component",), "no id of a version of a component"),
        ({"component": COMPONENT.replace("/ws/", "/other/")}, (), "component stands in another workspace"),
        (
            {"component": None, "source_job": SOURCE.replace("/ml/", "/other/")},
            (),
            "source_job stands in another workspace",
        ),
        ({"component": None, "source_job": "evt-1"}, ("source_job",), "`az ml job show --name NAME --query id"),
        ({"compute": "cpu"}, ("compute",), "`az ml compute show --name NAME --query id"),
        ({"tags": {"eventkey": "x"}}, ("tags",), "eventKey is the worker's own tag"),
        ({"tags": {"a": "{{ evnt.id }}"}}, ("tags", "a"), "did you mean event?"),
        ({"inputs": {"a b": 1}}, ("inputs",), "letters, digits and _"),
        ({"inputs": {"1a": 1}}, ("inputs",), "letters, digits and _"),
        ({"inputs": {"a": "{{ event.id"}}, ("inputs", "a", "value"), "the template cannot be read"),
        ({"inputs": {"a": {"type": "uri_folder"}}}, ("inputs", "a"), "has a uri, and no value"),
        ({"inputs": {"a": DATA | {"value": 1}}}, ("inputs", "a"), "has a uri, and no value"),
        ({"inputs": {"a": {"type": "literal", "uri": "x"}}}, ("inputs", "a"), "a literal has a value, and no uri"),
        ({"inputs": {"a": {"type": "literal", "value": 1, "mode": "direct"}}}, ("inputs", "a"), "mode is for data"),
        ({"inputs": {"a": DATA | {"mode": "mount"}}}, ("inputs", "a", "mode"), "Input should be"),
        ({"inputs": {"a": DATA | {"type": "folder"}}}, ("inputs", "a", "type"), "Input should be"),
        ({"api_version": "latest"}, ("api_version",), "String should match"),
        ({"on_unknown": "resend"}, ("on_unknown",), "does without a ledger"),
    ],
)
def test_a_mistake_about_jobs_is_told_at_its_place(change, place, reason):
    with pytest.raises(ValidationError) as refused:
        AzureMlJobSettings.model_validate(JOB | change)
    _check(refused.value, place, reason)


def _check(refused: ValidationError, place: tuple[str, ...], reason: str) -> None:
    [error] = refused.errors(include_input=False, include_url=False, include_context=False)
    assert error["loc"] == place
    assert reason in error["msg"]
    assert "hidden" not in str(refused)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"endpoint_url": "http://127.0.0.1:8080/jobs"},
        {"deployment": "pipeline-2"},
        {"inputs": {"a": DATA, "b": 1}, "outputs": {"c": DATA}},
        {"on_unknown": "resend"},
    ],
)
def test_settings_of_batch_endpoints_that_make_sense_are_taken(change):
    settings = AzureMlBatchSettings.model_validate(BATCH | change)
    assert settings.uses_ledger
    assert settings.needs_identity
    assert settings.attempt_seconds == 70


def test_what_nobody_knows_is_not_done_again_unless_it_is_said():
    assert AzureMlBatchSettings.model_validate(BATCH).when_unknown == "skip"


@pytest.mark.parametrize(
    ("change", "place", "reason"),
    [
        ({"endpoint_url": "https://x.inference.ml.azure.com/score"}, ("endpoint_url",), "which ends with /jobs"),
        ({"endpoint_url": f"{BATCH['endpoint_url']}?hidden=1"}, ("endpoint_url",), "--query scoring_uri"),
        ({"endpoint_url": "http://x.inference.ml.azure.com/jobs"}, ("endpoint_url",), "without encryption"),
        ({"deployment": "a b"}, ("deployment",), "String should match"),
        ({"on_unknown": "verify"}, ("on_unknown",), "write resend or skip"),
        ({"inputs": {"a": DATA | {"mode": "direct"}}}, ("inputs", "a", "mode"), "Extra inputs"),
        ({"outputs": {"a": 1}}, ("outputs", "a"), "valid dictionary or instance"),
        ({"outputs": {"a": {"type": "literal", "uri": "x"}}}, ("outputs", "a", "type"), "Input should be"),
        ({"outputs": {"a-b": DATA}}, ("outputs",), "letters, digits and _"),
    ],
)
def test_a_mistake_about_batch_endpoints_is_told_at_its_place(change, place, reason):
    with pytest.raises(ValidationError) as refused:
        AzureMlBatchSettings.model_validate(BATCH | change)
    _check(refused.value, place, reason)


def test_check_says_what_to_write_instead_and_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    routes = """\
sinks:
  - name: out
    kind: azureml_job
    workspace: ws
    component: retrain
    inputs: {data: {type: uri_folder, url: x}}
routes:
  - {name: all, sinks: [out]}
"""
    said = mistakes(WORKER, routes)
    assert [line.partition(": ")[0].rpartition("/")[2] for line in said] == [
        "routes.yaml:4:5",
        "routes.yaml:5:5",
        "routes.yaml:6:39",
    ]
    assert "sinks[0].workspace: is no id of a workspace; write what `az ml workspace show" in said[0]
    assert "sinks[0].component: is no id of a version of a component" in said[1]
    assert "sinks[0].inputs.data.url: there is no such key; did you mean uri?" in said[2]


def test_where_they_go_can_be_said():
    assert destination(AzureMlJobSettings.model_validate(JOB)) == "management.azure.com"
    assert destination(AzureMlBatchSettings.model_validate(BATCH)) == "scoring.westeurope.inference.ml.azure.com"


# --- what is made of an event


def test_a_job_says_as_little_as_it_can():
    assert job_of() == {
        "jobType": "Pipeline",
        "componentId": COMPONENT,
        "tags": {"eventKey": DELIVERY.idempotency_key},
    }


def test_a_job_that_is_run_again_is_named_by_its_id():
    job = job_of(component=None, source_job=SOURCE)
    assert job["sourceJobId"] == SOURCE
    assert "componentId" not in job


def test_a_job_holds_all_that_is_set_filled_in():
    job = job_of(
        experiment="retrain-{{ event.data.rounds }}",
        display_name="After {{ event.id }}",
        inputs={"data": DATA | {"uri": "azureml://datastores/ds/paths/{{ event.id }}/", "mode": "eval_mount"}},
        tags={"source": "{{ event.source }}", "rounds": "{{ event.data.rounds }}"},
        properties={"type": "{{ event.type }}"},
        compute=COMPUTE,
    )
    assert job == {
        "jobType": "Pipeline",
        "componentId": COMPONENT,
        "experimentName": "retrain-3",
        "displayName": "After e1",
        "inputs": {
            "data": {"jobInputType": "uri_folder", "uri": "azureml://datastores/ds/paths/e1/", "mode": "EvalMount"}
        },
        "settings": {"default_compute": COMPUTE},
        "tags": {"source": ELEMENT["topic"], "rounds": "3", "eventKey": DELIVERY.idempotency_key},
        "properties": {"type": ELEMENT["eventType"]},
    }


LITERALS = {
    "rate": "{{ event.data.rate }}",
    "rounds": "{{ event.data.rounds }}",
    "warm": "{{ event.data.warm }}",
    "tables": "{{ event.data.tables }}",
    "text": "{{ event.id }} of {{ event.data.rounds }}",
    "none": "{{ event.data.no }}",
    "fixed": False,
    "empty": "",
    "long": {"type": "literal", "value": 7},
}


def test_literals_of_a_job_are_texts_as_the_vendors_client_writes_them_and_null_leaves_one_out():
    inputs = job_of(inputs=LITERALS)["inputs"]
    assert {each["jobInputType"] for each in inputs.values()} == {"literal"}
    assert {name: each["value"] for name, each in inputs.items()} == {
        "rate": "0.5",
        "rounds": "3",
        "warm": "True",
        "tables": '["a",{"b":1}]',
        "text": "e1 of 3",
        "fixed": "False",
        "empty": "",
        "long": "7",
    }


def test_literals_of_a_batch_endpoint_keep_their_types():
    inputs = batch_of(inputs=LITERALS)["InputData"]
    assert {each["JobInputType"] for each in inputs.values()} == {"Literal"}
    assert {name: each["Value"] for name, each in inputs.items()} == {
        "rate": 0.5,
        "rounds": 3,
        "warm": True,
        "tables": ["a", {"b": 1}],
        "text": "e1 of 3",
        "fixed": False,
        "empty": "",
        "long": 7,
    }


def test_a_batch_endpoint_is_sent_as_little_as_can_be():
    assert batch_of() == {}


def test_a_batch_endpoint_is_sent_all_that_is_set_filled_in():
    uri = "azureml://datastores/ds/paths/{{ event.id }}/"
    assert batch_of(
        inputs={"a": DATA | {"uri": uri}, "b": {"type": "mlflow_model", "uri": uri}},
        outputs={"c": {"type": "uri_file", "uri": uri + "out.csv"}},
        experiment="of {{ event.id }}",
    ) == {
        "InputData": {
            "a": {"JobInputType": "UriFolder", "Uri": "azureml://datastores/ds/paths/e1/"},
            "b": {"JobInputType": "MLFlowModel", "Uri": "azureml://datastores/ds/paths/e1/"},
        },
        "OutputData": {"c": {"JobOutputType": "UriFile", "Uri": "azureml://datastores/ds/paths/e1/out.csv"}},
        "properties": {"experimentName": "of e1"},
    }


@pytest.mark.parametrize("key", ["inputs", "tags", "properties"])
def test_what_cannot_be_filled_in_is_told_with_its_place(key):
    with pytest.raises(Rejected, match=rf"^sink out: {key}\.a: .*default\(") as raised:
        job_of(**{key: {"a": "{{ event.data.absent }}"}})
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("make", [job_of, batch_of])
def test_a_name_that_cannot_be_filled_in_is_told_with_its_key(make):
    with pytest.raises(Rejected, match=r"^sink out: experiment: "):
        make(experiment="{{ event.data.absent }}")


def test_a_preview_shows_where_the_job_will_be_and_for_which_deployment():
    assert (
        AzureMlJobSink(AzureMlJobSettings.model_validate(JOB))
        .preview(DELIVERY)
        .startswith(f"PUT {WORKSPACE}/jobs/{short_key(DELIVERY)}\n{{")
    )
    batch = AzureMlBatchSettings.model_validate(BATCH | {"deployment": "two"})
    assert AzureMlBatchSink(batch).preview(DELIVERY).startswith("POST /jobs\nazureml-model-deployment: two\n{")
