"""The dashboard is what its source says, and each panel has something to show of workers to whom all of it happened."""

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from deploy.dashboards.build import DASHBOARD, text
from tests.deploy.drawing import Drawn, named, page
from tests.deploy.manifests import K8S, ROOT, only, rendered
from tests.deploy.prometheus import Prometheus, Refused, needs_prometheus, prometheus
from tests.deploy.watched import watched
from tests.devtools import tab
from tests.support import eventually

FILE = K8S / "monitoring" / "dashboard.json"
PICTURE = ROOT / "docs" / "pictures" / "dashboard.png"
BOARD = DASHBOARD.json()
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
VARIABLES = [each for each in BOARD["templating"]["list"] if each["type"] == "query"]
MARKS = [each for each in BOARD["annotations"]["list"] if "expr" in each]
_VARIABLE = re.compile(r"\$(\w+)")
_OF_GRAFANA = {"__rate_interval", "__range"}
_MOST_BYTES = 200_000
"""`kubectl apply` keeps what it applied in an annotation, and these end at 256 KiB."""


def expressions(panel: Mapping[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def everything() -> list[str]:
    asked = [expression for panel in PANELS for expression in expressions(panel)]
    return [*asked, *(each["expr"] for each in MARKS), *(each["query"]["query"] for each in VARIABLES)]


def chosen(watcher: Prometheus, **choice: str) -> dict[str, str]:
    """What Grafana puts in for `$…`: all, but for what is chosen."""
    all_of = {each["name"]: each["allValue"] for each in VARIABLES}
    return {**all_of, "__rate_interval": "5s", "__range": f"{time.time() - watcher.began:.0f}s", **choice}


def filled(expression: str, values: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda found: values[found[1]], expression)


# --- as a file


def test_the_file_is_what_the_source_says():
    if os.environ.get("UPDATE_DOCS"):
        FILE.write_text(text())
    assert FILE.read_text() == text(), "UPDATE_DOCS=1 writes it anew"


def test_grafana_finds_it_in_a_config_map_that_kubectl_can_apply():
    found = only(rendered("production"), "ConfigMap", "event-grid-worker-dashboard")
    assert found["metadata"]["name"] == "event-grid-worker-dashboard"
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(found["data"]["event-grid-worker.json"]) == BOARD
    assert len(FILE.read_bytes()) < _MOST_BYTES


def test_the_rows_are_the_questions_in_the_order_in_which_they_are_asked():
    assert [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"] == [
        "Is anything stuck?",
        "Is anything late?",
        "Which sink?",
        "Which partition?",
        "What does it cost?",
    ]


def test_panels_have_a_place_of_their_own():
    for one, other in combinations([panel["gridPos"] for panel in BOARD["panels"]], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"], (one, other)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in BOARD["panels"])
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


def test_each_panel_says_what_it_shows():
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"]) or panel["type"] == "stat"


def test_each_variable_is_used_and_each_that_is_used_is_there():
    names = {each["name"] for each in VARIABLES}
    used = {name for expression in everything() for name in _VARIABLE.findall(expression)}
    assert used == names | _OF_GRAFANA


def test_whatever_is_asked_is_asked_of_the_pods_that_are_chosen():
    selectors = r"\b(?:worker|process)_[a-z_]+(?!\w)(\{[^}]*\})?"
    for expression in [each for panel in PANELS for each in expressions(panel)] + [each["expr"] for each in MARKS]:
        for selector in re.findall(selectors, expression):
            assert 'pod=~"$pod"' in selector, expression


# --- with a real worker and a real Prometheus


async def answers(watcher: Prometheus, values: Mapping[str, str]) -> tuple[dict[int, list[Drawn]], list[str]]:
    """The lines of each panel, and what has none: query by query."""
    lines: dict[int, list[Drawn]] = {}
    missing = []
    for panel in PANELS:
        for target in panel["targets"]:
            found = await watcher.lines(filled(target["expr"], values), instant=target["instant"])
            lines.setdefault(panel["id"], []).extend(named(target["legendFormat"], line) for line in found)
            if not found:
                missing.append(f"{panel['title']}: {target['expr']}")
    return lines, missing


async def moments(watcher: Prometheus) -> dict[str, list[float]]:
    """When the marks are, by their colour."""
    marks = {}
    for mark in MARKS:
        found = await watcher.lines(filled(mark["expr"], chosen(watcher)))
        whole = sorted({value / 1000 if mark["useValueForTime"] else at for line in found for at, value in line.points})
        # Moments one after the other are one mark, as in Grafana.
        marks[mark["iconColor"]] = [at for before, at in zip([0.0, *whole], whole, strict=False) if at - before > 1.5]
    return marks


async def take_picture(drawn: str, folder: Path) -> None:
    shown = folder / "dashboard.html"
    shown.write_text(drawn)
    async with tab(folder) as browser:
        await browser.show(shown.as_uri(), width=1200)
        await browser.picture(PICTURE, height=5000)


@pytest.mark.timeout(180)
async def test_every_panel_has_data_of_a_worker_under_load_and_a_picture_can_be_drawn_of_it(tmp_path: Path):
    """Written anew with UPDATE_PICTURES=1."""
    needs_prometheus()
    async with prometheus(tmp_path / "prometheus") as watcher, watched(tmp_path, watcher):
        missing: Sequence[str] = []

        async def all_have_data() -> bool:
            nonlocal missing
            _, missing = await answers(watcher, chosen(watcher))
            return not missing

        try:
            await eventually(all_have_data, 40, every_seconds=1)
        except AssertionError:
            assert missing == [], "what these panels ask for never had an answer"
        lines, _ = await answers(watcher, chosen(watcher))
        marks = await moments(watcher)
        assert [colour for colour, found in marks.items() if not found] == []

        choices = {
            each["name"]: await watcher.values(filled(each["query"]["query"], chosen(watcher))) for each in VARIABLES
        }
        assert choices["pod"] == ["event-grid-worker-one", "event-grid-worker-two"]
        assert choices["partition"] == ["0", "1", "2", "3"]
        assert {"team", "on-call", "(expectations)"} <= set(choices["sink"])
        await answers(watcher, chosen(watcher, pod="event-grid-worker-two", partition="1|2", sink="team"))

        assert await watcher.lines("worker_lag_second") == []
        with pytest.raises(Refused):
            await watcher.lines("sum by worker_lag_seconds")
        drawn = page(BOARD, lines, marks, (watcher.began, time.time()))
    assert drawn.count("<svg") == sum(panel["type"] != "stat" for panel in PANELS)
    if os.environ.get("UPDATE_PICTURES") == "1":
        await take_picture(drawn, tmp_path)
