"""cli.py: what each command prints where, and the exit codes; also that the example configuration is a good one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.unit.configurations import CONNECTION, ENVIRON, ROUTES, WORKER, write
from worker import app as worker_app
from worker.cli import main
from worker.config import WorkerSettings
from worker.errors import HubUnavailable
from worker.loading import load

PROJECT = Path(__file__).parents[2]
SAMPLES = sorted((PROJECT / "tests" / "samples").rglob("*.json"))
EXAMPLE_ENVIRON = {
    "EVENTHUB_CONNECTION_STRING": f"{CONNECTION};EntityPath=ml-events",
    "TEAM_WEBHOOK_URL": "https://hooks.example.org/x",
    "TEAM_WEBHOOK_SECRET": "whsec_aHVudGVyMmh1bnRlcjJodW50ZXIy",
}


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def worker(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)

    def worker(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["worker", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return Outcome(stopped.value.code or 0, *capsys.readouterr())  # type: ignore[arg-type]  # never a text

    return worker


def process(*arguments: object, environ: dict[str, str] | None = None, stdin: bytes = b"") -> Outcome:
    done = subprocess.run(
        [sys.executable, "-m", "worker", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env={"PATH": os.environ["PATH"], "NO_COLOR": "1", "PYTHONPATH": str(PROJECT), **(environ or {})},
        timeout=60,
        check=False,
    )
    return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())


# ---- Around the commands


def test_the_command_line_loads_nothing_heavy_before_a_command_runs():
    heavy = "{'aiohttp', 'azure', 'proton', 'pydantic', 'yaml', 'uvloop'}"
    code = f"import sys, worker.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=True)
    assert done.stdout.strip() == "[]"


def test_a_worker_imports_neither_the_identity_nor_the_blob_service_before_it_uses_them():
    code = "import sys, worker.cli, worker.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=True)
    imported = set(done.stdout.split())
    assert "worker.app" in imported
    assert imported.isdisjoint({"azure.identity", "azure.storage.blob", "msal", "requests"})


def test_help_and_version_are_fine_and_a_misspelt_command_or_option_is_the_users_mistake(worker):
    assert worker("--help").code == 0
    version = worker("--version")
    assert (version.code, version.out.split()[0]) == (0, "worker")
    assert worker("rum").code == 2
    assert worker("check", "--confg", "x").code == 2
    assert worker("demo", "--workers", "0").code == 2
    assert worker("local", "broker", "--port", "70000", "--hub", "h", "--partitions", "1").code == 2


# ---- check


def test_check_sums_up_good_files(worker, tmp_path):
    outcome = worker("check", "--config", write(tmp_path))
    assert (outcome.code, outcome.err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in outcome.out.splitlines())
    assert lines["hub"] == "ml-events"
    assert lines["store"] == f"sqlite, {tmp_path}/data/worker.db"
    assert lines["sinks"] == "out (webhook), audit (file)"
    assert lines["routes"] == "failed, all"


def test_check_warns_where_mistakes_are_told_and_the_files_are_good_all_the_same(worker, tmp_path):
    write(tmp_path, routes=ROUTES.replace("sinks:\n", "sinks:\n  - {name: archive, kind: log}\n", 1))
    outcome = worker("check", "--config", "worker.yaml")
    warning = "sinks[0]: no route names archive: it gets nothing; name it in a route, or remove it"
    assert (outcome.code, outcome.err) == (0, f"routes.yaml:2:5: warning: {warning}\n")
    assert "archive (log), out (webhook)" in outcome.out
    first, summary = map(json.loads, worker("check", "--json", "--config", "worker.yaml").out.splitlines())
    assert first == {"file": "routes.yaml", "line": 2, "column": 5, "warning": warning}
    assert summary["routes"] == ["failed", "all"]


def test_check_prints_one_object_for_good_files_when_asked_for_json(worker, tmp_path):
    outcome = worker("check", "--json", "--config", write(tmp_path))
    assert outcome.code == 0
    assert json.loads(outcome.out)["routes"] == ["failed", "all"]
    assert json.loads(outcome.out)["expect"] == []


def test_check_names_the_expectations_where_there_are_any(worker, tmp_path):
    assert worker("check", "--config", write(tmp_path)).out.splitlines()[-1].split()[0] == "routes"
    expect = "expect:\n  - {name: ends, after: {}, then: {}, within: 6h}\n"
    outcome = worker("check", "--config", write(tmp_path, routes=f"{ROUTES}{expect}"))
    assert (outcome.code, outcome.out.splitlines()[-1].split()) == (0, ["expect", "ends"])


def test_check_prints_every_mistake_of_both_files_and_exits_2(worker, tmp_path):
    write(tmp_path, WORKER.replace("hub:", "hob:"), ROUTES.replace("[out]", "[oud]"))
    outcome = worker("check", "--config", "worker.yaml")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.splitlines() == [
        "worker.yaml:1:1: source.hub: is missing; add it",
        "worker.yaml:3:3: source.hob: there is no such key; did you mean hub?",
        "routes.yaml:12:13: routes[0].sinks[0]: there is no sink oud; did you mean out?",
    ]


def test_check_prints_one_object_per_mistake_when_asked_for_json(worker, tmp_path):
    write(tmp_path, WORKER, ROUTES.replace("[out]", "[oud]").replace("late: drop", "late: x"))
    outcome = worker("check", "--json", "--config", "worker.yaml")
    assert outcome.code == 2
    assert [json.loads(line) for line in outcome.out.splitlines()] == [
        {
            "file": "routes.yaml",
            "line": 12,
            "column": 13,
            "mistake": "routes[0].sinks[0]: there is no sink oud; did you mean out?",
        },
        {
            "file": "routes.yaml",
            "line": 15,
            "column": 5,
            "mistake": "routes[1].late: cannot be x; write one of deliver, drop, dead_letter",
        },
    ]


def test_the_configuration_is_looked_for_in_the_config_folder(worker):
    assert worker("check").err == "config/worker.yaml: there is no such file; name another, or create it\n"


def test_the_installed_program_exits_2_with_every_mistake_and_no_traceback(tmp_path):
    outcome = process("run", "--config", write(tmp_path, "source: {}\n"))
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert all(line.startswith(f"{tmp_path}/") for line in outcome.err.splitlines())
    assert f"{tmp_path}/worker.yaml:1:1: source.hub: is missing; add it" in outcome.err.splitlines()


# ---- run


@pytest.mark.parametrize("code", [0, 1, 3])
def test_run_hands_the_configuration_to_the_worker_and_its_exit_code_back(worker, tmp_path, monkeypatch, code):
    given = []
    monkeypatch.setattr(worker_app, "run", lambda config: given.append(config) or code)
    assert worker("run", "--config", write(tmp_path)).code == code
    assert [config.worker.source.hub for config in given] == ["ml-events"]


def test_a_failure_is_one_sentence_and_exit_code_1(worker, tmp_path, monkeypatch):
    def fail(_):
        raise HubUnavailable("the hub ml-events cannot be reached")

    monkeypatch.setattr(worker_app, "run", fail)
    outcome = worker("run", "--config", write(tmp_path))
    assert outcome == Outcome(1, "", "worker: the hub ml-events cannot be reached\n")


def test_a_bug_keeps_its_traceback(tmp_path, monkeypatch):
    def fail(_):
        raise RuntimeError("a bug")

    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(worker_app, "run", fail)
    monkeypatch.setattr(sys, "argv", ["worker", "run", "--config", str(write(tmp_path))])
    with pytest.raises(RuntimeError, match="a bug"):
        main()


# ---- explain


def test_explain_prints_one_object_per_element_with_the_documented_keys(worker, tmp_path, monkeypatch):
    monkeypatch.delenv("HUB")  # it needs no secrets
    monkeypatch.delenv("OUT")
    outcome = worker("explain", "--json", "--config", write(tmp_path), *SAMPLES)
    assert (outcome.code, outcome.err) == (0, "")
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    assert {row["file"] for row in rows} == {str(sample) for sample in SAMPLES}
    for row in rows:
        assert " ".join(row) == "file index schema id type source subject order_key routes expect"
        assert [verdict["route"] for verdict in row["routes"]] == ["failed", "all"]
        assert [verdict["matched"] for verdict in row["routes"]] == [False, True]


def test_explain_is_readable_without_json(worker, tmp_path):
    outcome = worker("explain", "--config", write(tmp_path), SAMPLES[0])
    assert outcome.code == 0
    assert "failed" in outcome.out
    assert "sequencer" in outcome.out or "time" in outcome.out or "arrival" in outcome.out


def test_explain_exits_1_when_an_element_is_no_event(worker, tmp_path):
    (tmp_path / "bad.json").write_text('[{"id": "1"}]')
    outcome = worker("explain", "--json", "--config", write(tmp_path), "bad.json", SAMPLES[0])
    assert outcome.code == 1
    bad, good = (json.loads(line) for line in outcome.out.splitlines())
    assert set(bad) == {"file", "index", "error"}
    assert good["index"] == 0


def test_explain_reads_stdin_for_a_dash_and_without_files(tmp_path):
    event = b'{"id": "1", "eventType": "Some.Type", "subject": "s", "topic": "t"}'
    for arguments in (["-"], []):
        outcome = process("explain", "--json", "--config", write(tmp_path), *arguments, stdin=event)
        assert outcome.code == 0
        row = json.loads(outcome.out)
        assert (row["file"], row["id"], row["routes"][0]["matched"]) == ("-", "1", True)


def test_explain_names_every_file_that_cannot_be_read_and_exits_2(worker, tmp_path):
    outcome = worker("explain", "--config", write(tmp_path), "none.json", SAMPLES[0], tmp_path)
    assert (outcome.code, outcome.out) == (2, "")
    assert [line.split(": ")[0] for line in outcome.err.splitlines()] == ["none.json", str(tmp_path)]


# ---- local


def test_a_key_that_is_not_given_as_name_and_key_is_refused_and_not_repeated(worker):
    outcome = worker("local", "broker", "--port", "0", "--hub", "h", "--partitions", "1", "--key", "hunter2hunter2")
    assert outcome.code == 2
    assert "NAME=KEY" in outcome.err
    assert "hunter2" not in outcome.err


def test_a_hub_that_makes_no_sense_is_one_sentence_and_exit_code_2(worker):
    outcome = worker("local", "broker", "--port", "0", "--hub", "", "--partitions", "1")
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1


def test_without_the_local_extra_the_hub_says_what_to_install():
    code = (
        "import sys; sys.modules['proton'] = sys.modules['cproton'] = None; from worker.cli import main;"
        "sys.argv = ['worker', 'local', 'broker', '--port', '0', '--hub', 'h', '--partitions', '1']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "pip install 'event-grid-worker[local]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_sending_without_a_connection_string_says_which_variable_to_set(worker):
    outcome = worker("local", "send", "--count", "1", "--connection-string-env", "NO_SUCH_HUB")
    assert outcome.code == 2
    assert "NO_SUCH_HUB" in outcome.err


# ---- The example


def test_the_example_configuration_is_without_a_mistake():
    config = load(PROJECT / "config" / "worker.yaml", environ=EXAMPLE_ENVIRON)
    assert {sink.kind for sink in config.sinks} == {"webhook", "file", "log"}
    used = {sink for spec in config.routing.specs for sink in spec.sinks}
    assert used == {sink.name for sink in config.sinks}


def test_the_example_shows_every_key_with_its_default():
    text = (PROJECT / "config" / "worker.yaml").read_text()
    shown = yaml.safe_load(text)
    # Keys that count only with another value of window_seconds than the one that stands there.
    in_comments = dict(re.findall(r"^  #   (late_target|min_seconds|max_seconds): (\S+) ", text, re.MULTILINE))
    shown["order"] |= {key: float(value) for key, value in in_comments.items()}
    needed = {"source": {"hub": "h", "connection_string_env": "X"}, "store": {"kind": "sqlite", "path": "x"}}
    defaults = json.loads(WorkerSettings.model_validate(needed).model_dump_json())
    alternatives = {"connection_string_file", "namespace"}
    assert shown.keys() == defaults.keys()
    for name, section in defaults.items():
        if isinstance(section, dict):
            assert shown[name].keys() == section.keys() - alternatives
            given = needed.get(name, {})
            assert {key: shown[name][key] for key in section if key in shown[name] and key not in given} == {
                key: value for key, value in section.items() if key not in given and key not in alternatives
            }
