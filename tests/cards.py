"""Cards in tests: against the published schema, and as the published renderer shows them in a real browser."""

import json
import os
import shutil
import subprocess
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft6Validator

from tests.deliveries import delivery_of
from worker.events import DIGEST_TYPE
from worker.notice import Entry, entry_of
from worker.sinks import Delivery

_HERE = Path(__file__).parent
_SCHEMA = _HERE / "schemas" / "adaptive-card-1.4.json"
_RENDERER = _HERE / "node" / "node_modules" / "adaptivecards" / "dist" / "adaptivecards.min.js"
_BROWSER_SECONDS = 60

WORKSPACE = (
    "/subscriptions/5f08d643-1910-4a38-a7c7-84a39d4f42e0/resourceGroups/ml-prod/providers/"
    "Microsoft.MachineLearningServices/workspaces/forecasting"
)


def card_in(message: bytes) -> dict[str, Any]:
    """The card of a message."""
    card: dict[str, Any] = orjson.loads(message)["attachments"][0]["content"]
    return card


@cache
def _validator(kind: str) -> Draft6Validator:
    schema = json.loads(_SCHEMA.read_text())
    return Draft6Validator({"definitions": schema["definitions"], "$ref": f"#/definitions/{kind}"})


def schema_errors(card: dict[str, Any]) -> list[str]:
    """What the schema finds wrong. `msteams` belongs to Teams, the schema does not know it.

    Each element is looked at by itself, as what it says it is: the schema's own way, to try all kinds on each, is slow
    and tells nothing.
    """
    errors = []
    waiting = [{name: value for name, value in card.items() if name != "msteams"}]
    while waiting:
        element = waiting.pop()
        parts = {name: element[name] for name in ("body", "items", "actions") if name in element}
        waiting += [part for inner in parts.values() for part in inner]
        hollow = element | {name: [] for name in parts}
        kind = element.get("type", "")
        errors += [f"{kind}{error.json_path}: {error.message[:200]}" for error in _validator(kind).iter_errors(hollow)]
    return errors


def run_event(number: int, status: str, **more: Any) -> dict[str, Any]:
    """An element about a run as Azure ML sends it."""
    run = f"forecast_{number:04d}"
    return {
        "id": f"5f{number:06x}-0000-4000-8000-000000000000",
        "topic": WORKSPACE,
        "subject": f"experiments/daily-forecast/runs/{run}",
        "eventType": "Microsoft.MachineLearningServices.RunStatusChanged",
        "eventTime": f"2026-11-22T{6 + number // 60 % 18:02d}:{number % 60:02d}:12.9584103Z",
        "data": {
            "experimentName": "daily-forecast",
            "runId": run,
            "runType": "azureml.PipelineRun",
            "runStatus": status,
            "runTags": {"owner": "ml-platform", "region": "westeurope"},
        },
    } | more


def digest_of(entries: list[Entry], *, because: str = "group", group: dict[str, str] | None = None) -> Delivery:
    """The delivery of a digest of these."""
    return delivery_of(
        {
            "specversion": "1.0",
            "id": "digest-0815",
            "source": "worker",
            "subject": "digests/ml",
            "type": DIGEST_TYPE,
            "time": "2026-11-22T08:00:00Z",
            "data": {
                "count": len(entries),
                "because": because,
                "group": group or {},
                "events": [entry.to_json() for entry in entries],
            },
        }
    )


def entries_of(statuses: list[str]) -> list[Entry]:
    """Entries about runs, one for each status."""
    return [entry_of(delivery_of(run_event(number, status))) for number, status in enumerate(statuses, 1)]


# --- in a browser

_PAGE = _HERE / "card.html"


def browser() -> str:
    """The browser; skips where there is none, unless this is CI, where there has to be."""
    found = shutil.which("chromium")
    if found is None or not _RENDERER.exists():
        missing = "no chromium here" if found is None else "the node packages are not installed"
        if os.environ.get("CI"):
            pytest.fail(f"{missing}, and CI must not go without")
        pytest.skip(missing)
    return found


def shown(card: dict[str, Any], folder: Path, *, width: int = 500) -> dict[str, Any]:
    """What a browser of this width makes of a card."""
    page = _page(card, folder)
    html = _run(folder, f"--window-size={width},900", "--dump-dom", page.as_uri())
    assert "<title>card</title>" in html, html[-500:]
    report = _Report()
    report.feed(html)
    result: dict[str, Any] = json.loads(report.found)
    return result


def picture(card: dict[str, Any], folder: Path, file: Path, *, width: int = 600) -> None:
    """Writes what the card looks like, twice as fine as a screen."""
    height = shown(card, folder, width=width)["height"]
    _run(
        folder,
        f"--window-size={width},{height}",
        "--force-device-scale-factor=2",
        "--hide-scrollbars",
        f"--screenshot={file}",
        _page(card, folder).as_uri(),
    )


def _page(card: dict[str, Any], folder: Path) -> Path:
    text = json.dumps(card).replace("<", "\\u003c")  # inside a script element
    page = folder / "card.html"
    html = _PAGE.read_text().replace("RENDERER", _RENDERER.as_uri()).replace("CARD,", f"{text},")
    page.write_text(html, encoding="utf-8")
    return page


def _run(folder: Path, *arguments: str) -> str:
    command = [
        browser(),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
        "--allow-file-access-from-files",
        f"--user-data-dir={folder / 'profile'}",
        *arguments,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_BROWSER_SECONDS, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    return done.stdout


class _Report(HTMLParser):
    """Finds what the page says about itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found = ""
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "script" and ("id", "report") in attrs

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found += data
