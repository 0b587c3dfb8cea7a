"""Debian's promtool, run on the alerts: unit tests of Prometheus's own kind, one file for each alert.

The files leave out what can be derived: where the rules are, and the annotations of an alert that fires, which are
those of the rule with its labels put in.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.rules import ALERTS, RULES

_TOOL = "promtool"
_LABEL = re.compile(r"\{\{ \$labels\.(\w+) \}\}")


def needs_promtool() -> None:
    """Skips the test where there is no promtool to be had; not in CI."""
    if shutil.which(_TOOL) is None and os.environ.get("CI") != "true":
        pytest.skip("promtool is not installed here (Debian: apt-get install prometheus)")


def promtool(*arguments: str) -> None:
    """Runs it; what it says is the failure."""
    done = subprocess.run([_TOOL, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def completed(test_file: Path) -> dict[str, Any]:
    """The unit tests of a file with all that promtool wants to be told."""
    content: dict[str, Any] = yaml.safe_load(test_file.read_text())
    for case in checks(content):
        for fires in case["exp_alerts"]:
            annotations = ALERTS[case["alertname"]]["annotations"]
            fires["exp_annotations"] = {
                name: _LABEL.sub(lambda found, of=fires: of["exp_labels"][found[1]], said)
                for name, said in annotations.items()
            }
    return {"rule_files": [str(RULES)], **content}


def checks(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Each time at which a test looks whether an alert fires."""
    return [case for test in content["tests"] for case in test["alert_rule_test"]]
