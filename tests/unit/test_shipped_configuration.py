"""config/: what is shipped can be used as it stands, and so can the examples in its comments."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from worker.cli import main
from worker.loading import load

CONFIG = Path(__file__).parents[2] / "config"
ENVIRON = {
    "EVENTHUB_CONNECTION_STRING": (
        "Endpoint=sb://127.0.0.1:5672;SharedAccessKeyName=k;SharedAccessKey=a2V5;UseDevelopmentEmulator=true;"
    ),
    "TEAM_WEBHOOK_URL": "https://hooks.example.org/team",
    "TEAM_WEBHOOK_SECRET": "made-up",
    "TEAMS_URL": "https://prod-01.westeurope.logic.azure.com:443/workflows/made-up/triggers/manual/paths/invoke?sig=made-up",
}


def with_examples(text: str) -> tuple[str, list[str]]:
    """The routes with the sinks that stand in comments, each named by the last route; and their names."""
    names = re.findall(r"^  # - name: (\S+)$", text, re.MULTILINE)
    text = re.sub(r"^  # - name: .*\n(?:  #   .*\n)+", _uncommented, text, flags=re.MULTILINE)
    return text.replace("sinks: [audit]", f"sinks: [audit, {', '.join(names)}]"), names


def _uncommented(block: re.Match[str]) -> str:
    return re.sub(r"^  # ", "  ", block[0], flags=re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(CONFIG, tmp_path / "config")
    return tmp_path / "config"


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
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["worker", "check", "--config", str(folder / "worker.yaml")])
    with pytest.raises(SystemExit) as stopped:
        main()
    out, err = capsys.readouterr()
    assert (stopped.value.code or 0, err) == (0, "")
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


def test_an_example_with_a_mistake_would_be_noticed(folder: Path):
    text, _ = with_examples((folder / "routes.yaml").read_text())
    (folder / "routes.yaml").write_text(text.replace("group_by: [experiment]", "group_by: [experimnt]"))
    with pytest.raises(Exception, match="nothing to group by"):
        load(folder / "worker.yaml", environ=ENVIRON, secrets=False)
