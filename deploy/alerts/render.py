"""Writes rules.yaml as a PrometheusRule, or as it is, with the address of your documentation.

    python deploy/alerts/render.py [--runbook-base https://…/] [--plain] > FILE

`--runbook-base` is put before `docs/runbook.md#…` in every alert; without it the links stay relative to this project.
deploy/k8s/monitoring/prometheus-rule.yaml is what it writes without options; a test keeps it so.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

RULES = Path(__file__).with_name("rules.yaml")
_LINK = "runbook_url"
_HEAD = "# Written by deploy/alerts/render.py from deploy/alerts/rules.yaml: change it there.\n"


def rules(runbook_base: str = "") -> dict[str, Any]:
    """The rules, their links with this before them."""
    content: dict[str, Any] = yaml.safe_load(RULES.read_text())
    for group in content["groups"]:
        for rule in group["rules"]:
            rule["annotations"][_LINK] = runbook_base + rule["annotations"][_LINK]
    return content


def prometheus_rule(content: dict[str, Any]) -> dict[str, Any]:
    """The same as the operator wants it."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "event-grid-worker", "labels": {"app.kubernetes.io/name": "event-grid-worker"}},
        "spec": content,
    }


def text(document: dict[str, Any]) -> str:
    """As YAML, in the order in which it is written."""
    return _HEAD + yaml.safe_dump(document, sort_keys=False, width=1000, allow_unicode=True)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description="Alerts of the Event Grid worker, for Prometheus or its operator.")
    parser.add_argument("--runbook-base", default="", help="put before docs/runbook.md in every link")
    parser.add_argument("--plain", action="store_true", help="a rules file, no PrometheusRule")
    asked = parser.parse_args()
    content = rules(asked.runbook_base)
    sys.stdout.write(text(content if asked.plain else prometheus_rule(content)))


if __name__ == "__main__":
    main()
