"""Each alert fires when it should and not otherwise, says what to do, and names metrics that there are."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram

from tests.deploy.promtool import checks, completed, needs_promtool, promtool
from tests.deploy.rules import ALERTS, ROOT, RULES, renderer
from worker.metrics import Metrics

TESTS = Path(__file__).parent / "alerts"
RUNBOOK = ROOT / "docs" / "runbook.md"
PROMETHEUS_RULE = ROOT / "deploy" / "k8s" / "monitoring" / "prometheus-rule.yaml"
_NAME = re.compile(r"\b(?:worker|process)_[a-z_]+\b")
_SELECTOR = re.compile(r"\b(worker_[a-z_]+)\{([^}]*)\}")
_SCRAPED = {"job", "instance", "pod", "namespace"}
"""What Prometheus adds itself."""


def known_metrics() -> dict[str, set[str]]:
    """Every sample that rules may name, and its labels."""
    known = {"process_start_time_seconds": set[str]()}
    for each in vars(Metrics()).values():
        if isinstance(each, Counter | Gauge | Histogram):
            (family,) = each.describe()
            for suffix in {"counter": ["_total", "_created"], "histogram": ["_bucket", "_sum", "_count"]}.get(
                family.type, [""]
            ):
                known[family.name + suffix] = {*each._labelnames, *(["le"] if suffix == "_bucket" else [])}
    return known


def sections(page: Path) -> dict[str, str]:
    """The page's second-level sections by their anchors."""
    parts = re.split(r"^## (.+)$", page.read_text(), flags=re.MULTILINE)[1:]
    return {anchor(title): text for title, text in zip(parts[::2], parts[1::2], strict=True)}


def anchor(title: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_prometheus_accepts_the_rules():
    needs_promtool()
    promtool("check", "rules", str(RULES))


@pytest.mark.parametrize("alert", ALERTS)
def test_it_fires_when_it_should_and_not_otherwise(alert: str, tmp_path: Path):
    needs_promtool()
    test_file = tmp_path / f"{alert}.yaml"
    test_file.write_text(yaml.safe_dump(completed(TESTS / f"{alert}.yaml")))
    promtool("test", "rules", str(test_file))


def test_a_rule_that_says_something_else_fails_its_unit_tests(tmp_path: Path):
    needs_promtool()
    content = completed(TESTS / "WorkerSinkGone.yaml")
    other = tmp_path / "rules.yaml"
    other.write_text(RULES.read_text().replace("(worker_lane_gone) == 1", "(worker_lane_gone) == 0"))
    test_file = tmp_path / "test.yaml"
    test_file.write_text(yaml.safe_dump({**content, "rule_files": [str(other)]}))
    with pytest.raises(AssertionError, match="WorkerSinkGone"):
        promtool("test", "rules", str(test_file))


def test_every_alert_is_tested_to_fire_and_not_to_fire():
    for alert in ALERTS:
        cases = checks(yaml.safe_load((TESTS / f"{alert}.yaml").read_text()))
        assert {each["alertname"] for each in cases} == {alert}
        assert {bool(each["exp_alerts"]) for each in cases} == {True, False}, alert
    assert {each.stem for each in TESTS.iterdir()} == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_it_names_metrics_that_there_are_with_their_labels(alert: str):
    rule, known = ALERTS[alert], known_metrics()
    names = set(_NAME.findall(rule["expr"]))
    assert names
    assert names <= known.keys()
    for name, matchers in _SELECTOR.findall(rule["expr"]):
        assert {each.split("=")[0].strip() for each in matchers.split(",")} <= known[name]
    labels = set().union(*(known[name] for name in names)) | _SCRAPED
    for said in rule["annotations"].values():
        assert set(re.findall(r"\$labels\.(\w+)", said)) <= labels
    for group in re.findall(r"\b(?:ignoring|without|by|on) \(([^)]*)\)", rule["expr"]):
        assert {each.strip() for each in group.split(",")} <= labels


@pytest.mark.parametrize("alert", ALERTS)
def test_it_says_how_grave_it_is_what_it_is_and_what_to_do(alert: str):
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{anchor(alert)}"
    assert "$value" not in str(rule["annotations"]), "it would make each evaluation another alert text"


@pytest.mark.parametrize("alert", ALERTS)
def test_the_runbook_says_what_it_means_the_first_three_commands_and_how_it_ends(alert: str):
    text = sections(RUNBOOK)[anchor(alert)]
    assert len(text.strip().splitlines()[0]) > 40, "what it means comes first"
    (commands,) = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    assert len(commands.strip().splitlines()) == 3
    assert "**Ends:**" in text
    links = re.findall(r"\]\((\w+\.md)#([\w-]+)\)", text)
    assert links, "the rest is in operations.md, or where it belongs"
    for page, place in links:
        assert place in sections(ROOT / "docs" / page), f"{page}#{place}"


def test_what_the_runbook_looks_for_in_the_log_is_what_the_worker_says():
    source = "\n".join(each.read_text() for each in (ROOT / "worker").rglob("*.py"))
    wanted = [text for found in re.findall(r"grep (?:-E )?'([^']+)'", RUNBOOK.read_text()) for text in found.split("|")]
    changes = {"partition taken", "partition given up", "partition lost"}  # f"partition {change}"
    assert len(wanted) > 20
    assert [text for text in wanted if text not in source and text not in changes] == []


def test_the_runbook_asks_prometheus_for_metrics_that_there_are():
    names = set(re.findall(r"\bworker_[a-z_]+\b", " ".join(re.findall(r"ask '([^']+)'", RUNBOOK.read_text()))))
    assert len(names) > 15
    assert names <= known_metrics().keys()


def test_the_runbook_has_no_section_of_an_alert_that_is_gone():
    assert [title for title in sections(RUNBOOK) if title.startswith("worker")] == [anchor(each) for each in ALERTS]


def test_the_prometheus_rule_is_what_the_rules_file_says():
    render = renderer()
    text = render.text(render.prometheus_rule(render.rules()))
    if os.environ.get("UPDATE_DOCS"):
        PROMETHEUS_RULE.parent.mkdir(parents=True, exist_ok=True)
        PROMETHEUS_RULE.write_text(text)
    assert PROMETHEUS_RULE.read_text() == text, "UPDATE_DOCS=1 writes it anew"
    document: dict[str, Any] = yaml.safe_load(text)
    assert document["spec"] == yaml.safe_load(RULES.read_text())


def test_links_lead_to_where_the_reader_has_the_documentation():
    render = renderer()
    (first, *_) = render.rules("https://docs.example.org/worker/")["groups"][0]["rules"]
    assert first["annotations"]["runbook_url"] == "https://docs.example.org/worker/docs/runbook.md#workerabsent"
