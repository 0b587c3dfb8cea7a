"""config/: what is shipped can be used as it stands, and so can the examples in its comments."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from worker.advice import warnings
from worker.cli import main
from worker.events import Event, UnixSeconds
from worker.loading import load
from worker.rehearsal import Rehearsals

CONFIG = Path(__file__).parents[2] / "config"
SAMPLES = Path(__file__).parents[1] / "samples"
ENVIRON = {
    "EVENTHUB_CONNECTION_STRING": (
        "Endpoint=sb://127.0.0.1:5672;SharedAccessKeyName=k;SharedAccessKey=a2V5;UseDevelopmentEmulator=true;"
    ),
    "TEAM_WEBHOOK_URL": "https://hooks.example.org/team",
    "TEAM_WEBHOOK_SECRET": "made-up",
    "TEAMS_URL": "https://prod-01.westeurope.logic.azure.com:443/workflows/made-up/triggers/manual/paths/invoke?sig=made-up",
}


def with_examples(text: str) -> tuple[str, list[str]]:
    """With what stands in comments: sinks, all named by one more route, routes, and what must follow on what.

    And the names of these sinks.
    """
    names = re.findall(r"^  # - name: (\S+)$", text.partition("\nroutes:\n")[0], re.MULTILINE)
    text = re.sub(r"^  # - name: .*\n(?:  #   .*\n)+", _uncommented, text, flags=re.MULTILINE)
    routes, expect, rules = text.partition("\nexpect:\n")
    return f"{routes}\n  - name: examples\n    sinks: [audit, {', '.join(names)}]\n{expect}{rules}", names


def _uncommented(block: re.Match[str]) -> str:
    return re.sub(r"^  # ", "  ", block[0], flags=re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(CONFIG, tmp_path / "config")
    return tmp_path / "config"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["worker", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    code = stopped.value.code or 0
    assert isinstance(code, int)
    return code


def test_there_is_nothing_to_warn_of_in_the_shipped_files():
    assert warnings(load(CONFIG / "worker.yaml", environ=ENVIRON)) == []


def test_the_examples_in_comments_are_accepted_by_worker_check(folder: Path, monkeypatch, capsys):
    text, names = with_examples((folder / "routes.yaml").read_text())
    assert names == [
        "telemetry",
        "oncall-mail",
        "cloud-mail",
        "ml-channel",
        "retrain-on-drift",
        "score-new-data",
        "retrain-on-github",
        "retrain-on-azure",
        "data-pipeline",
        "ordered",
        "archive",
        "serve-fraud",
    ]
    for secret, value in (
        ("mail", "made-up"),
        ("function", "made-up"),
        ("github", "made-up"),
        ("azure-devops", "made-up"),
        ("communication-services", "endpoint=https://n.example.org/;accesskey=a2V5"),
    ):
        (folder / secret).write_text(value)
    (folder / "routes.yaml").write_text(text.replace("/run/secrets/", ""))
    code = run(monkeypatch, "check", "--config", str(folder / "worker.yaml"))
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    for kind in (
        "telemetry (webhook)",
        "oncall-mail (email)",
        "cloud-mail (acs_email)",
        "ml-channel (teams)",
        "retrain-on-drift (azureml_job)",
        "score-new-data (azureml_batch)",
        "retrain-on-github (github)",
        "retrain-on-azure (azuredevops)",
        "data-pipeline (datafactory)",
        "serve-fraud (azureml_deployment)",
        "ordered (eventhub)",
        "archive (blob)",
    ):
        assert kind in out


@pytest.mark.parametrize(
    ("sample", "sinks"),
    [
        ("Microsoft.MachineLearningServices.DatasetDriftDetected.sdk", {"data-pipeline", "retrain-on-drift"}),
        ("Microsoft.MachineLearningServices.RunCompleted.sdk", {"oncall-mail", "ml-channel"}),
        ("Microsoft.MachineLearningServices.ModelRegistered.sdk", set()),
        ("Microsoft.Storage.BlobCreated", set()),
    ],
)
def test_the_routes_in_comments_take_the_events_that_they_are_for(folder: Path, monkeypatch, capsys, sample, sinks):
    text, _ = with_examples((folder / "routes.yaml").read_text())
    (folder / "routes.yaml").write_text(re.sub(r"sinks: \[audit, .*\]", "sinks: [audit]", text))
    arguments = ("--json", "--config", str(folder / "worker.yaml"), str(SAMPLES / f"{sample}.eventgrid.json"))
    assert run(monkeypatch, "explain", *arguments) == 0
    routes = json.loads(capsys.readouterr().out.splitlines()[0])["routes"]
    taken = {sink for route in routes if route["matched"] for sink in route["sinks"]}
    assert taken == sinks | {"ordered", "archive", "audit"} | (taken & {"on-call", "retraining", "seen"})


@pytest.mark.parametrize(("stage", "deployed"), [("production", True), ("staging", False)])
def test_a_model_is_deployed_by_its_tag(folder: Path, monkeypatch, capsys, stage, deployed):
    text, _ = with_examples((folder / "routes.yaml").read_text())
    (folder / "routes.yaml").write_text(re.sub(r"sinks: \[audit, .*\]", "sinks: [audit]", text))
    event = {"id": "1", "eventType": "Microsoft.MachineLearningServices.ModelRegistered", "subject": "models/m:1"}
    (folder / "event.json").write_text(json.dumps(event | {"data": {"modelTags": {"stage": stage}}}))
    run(monkeypatch, "explain", "--json", "--config", str(folder / "worker.yaml"), str(folder / "event.json"))
    routes = json.loads(capsys.readouterr().out)["routes"]
    assert deployed == any("serve-fraud" in route["sinks"] for route in routes if route["matched"])


@pytest.mark.parametrize(("status", "told"), [("Running", False), ("Completed", False), ("Failed", True)])
def test_people_are_told_of_a_run_when_it_ends_and_once(folder: Path, monkeypatch, capsys, status, told):
    text, _ = with_examples((folder / "routes.yaml").read_text())
    (folder / "routes.yaml").write_text(re.sub(r"sinks: \[audit, .*\]", "sinks: [audit]", text))
    changed = {"id": "1", "eventType": "Microsoft.MachineLearningServices.RunStatusChanged"}
    event = changed | {"subject": "experiments/e/runs/r", "data": {"runStatus": status}}
    (folder / "event.json").write_text(json.dumps(event))
    run(monkeypatch, "explain", "--json", "--config", str(folder / "worker.yaml"), str(folder / "event.json"))
    routes = json.loads(capsys.readouterr().out)["routes"]
    assert told == any("oncall-mail" in route["sinks"] for route in routes if route["matched"])


def test_the_shipped_cases_pass_and_reach_every_route_without_a_secret(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["worker", "test", "--config", str(CONFIG / "worker.yaml"), "--require-coverage"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert (stopped.value.code or 0, capsys.readouterr().err) == (0, "")


def test_an_example_with_a_mistake_would_be_noticed(folder: Path):
    text, _ = with_examples((folder / "routes.yaml").read_text())
    (folder / "routes.yaml").write_text(text.replace("group_by: [experiment]", "group_by: [experimnt]"))
    with pytest.raises(Exception, match="nothing to group by"):
        load(folder / "worker.yaml", environ=ENVIRON, secrets=False)


RUN = {"topic": "/ws", "subject": "experiments/e/runs/r"}


@pytest.mark.parametrize("end", [None, "Failed", "Canceled", "Completed", "RunCompleted"])
def test_a_run_that_does_not_end_is_told_by_the_expectation_in_comments(folder: Path, end: str | None):
    text, _ = with_examples((folder / "routes.yaml").read_text())
    (folder / "routes.yaml").write_text(text)
    config = load(folder / "worker.yaml", environ=ENVIRON, secrets=False)
    ml = "Microsoft.MachineLearningServices"
    running = {"id": "1", "eventType": f"{ml}.RunStatusChanged", "data": {"runStatus": "Running"}, **RUN}
    state = {"eventType": f"{ml}.RunStatusChanged", "data": {"runStatus": end}}
    last = {"eventType": f"{ml}.RunCompleted", "data": {}} if end == "RunCompleted" else state
    given = [json.dumps(running).encode(), 3600.0, *([json.dumps({"id": "2", **last, **RUN}).encode()] if end else [])]
    came = Rehearsals(config).play([*given, 13 * 3600.0], starts_at=UnixSeconds(1_767_614_400.0)).came
    told = [(each.sink, entry) for each in came if each.event for entry in _types(each.event)]
    assert (("oncall-mail", "Worker.ExpectationMissed") in told) == (end is None)
    assert (("audit", "Worker.ExpectationMissed") in told) == (end is None)


@pytest.mark.parametrize("models", [None, "other:1", "other:1, fraud:7"])
def test_a_model_that_is_not_deployed_is_told_by_the_expectation_in_comments(folder: Path, models: str | None):
    text, _ = with_examples((folder / "routes.yaml").read_text())
    (folder / "routes.yaml").write_text(text)
    config = load(folder / "worker.yaml", environ=ENVIRON, secrets=False)
    ml = "Microsoft.MachineLearningServices"
    data = {"modelName": "fraud", "modelVersion": 7, "modelTags": {"stage": "production"}}
    registered = {
        "id": "1",
        "topic": "/ws",
        "subject": "models/fraud:7",
        "eventType": f"{ml}.ModelRegistered",
        "data": data,
    }
    deployed = {
        "topic": "/ws",
        "subject": "endpoints/e",
        "eventType": f"{ml}.ModelDeployed",
        "data": {"ModelIds": models},
    }
    given = [json.dumps(registered).encode(), 60.0, *([json.dumps({"id": "2", **deployed}).encode()] if models else [])]
    came = Rehearsals(config).play([*given, 3 * 3600.0], starts_at=UnixSeconds(1_767_614_400.0)).came
    told = [(each.sink, entry) for each in came if each.event for entry in _types(each.event)]
    assert (("oncall-mail", "Worker.ExpectationMissed") in told) == (models != "other:1, fraud:7")


def _types(event: Event) -> list[str]:
    """Of a digest, those of its events."""
    return [each["type"] for each in event.data["events"]] if event.type == "Worker.Digest" else [event.type]
