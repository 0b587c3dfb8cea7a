"""docs/sinks/third-party.md, done as it says: written, installed, checked, tried, and run against a local hub."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.page import PAGE, files_of_the_page, install_from_the_page
from tests.support import eventually
from worker.local.children import children
from worker.local.send import send
from worker.local.traffic import TrafficMessage

PROJECT = Path(__file__).parents[2]
HUB = "ml-events"
TOKEN = "hidden-ntfy-token"  # a made-up one


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    return install_from_the_page(tmp_path_factory.mktemp("third-party"))


class Push(NamedTuple):
    topic: str
    title: str
    token: str


class Ntfy:
    """The destination: takes what comes, after it was down for as many requests as a test says."""

    def __init__(self, fails: int = 0) -> None:
        self.fails = fails
        self.refused = 0
        self.came: list[Push] = []

    async def handle(self, request: web.Request) -> web.Response:
        message = orjson.loads(await request.read())
        if self.refused < self.fails:
            self.refused += 1
            return web.Response(status=503)
        self.came.append(Push(message["topic"], message["title"], request.headers.get("Authorization", "")))
        return web.json_response({"id": "n1", "echo": request.headers.get("Authorization", "")})


@asynccontextmanager
async def serving(ntfy: Ntfy) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/", ntfy.handle)
    async with TestServer(app, host="127.0.0.1") as server:
        yield str(server.make_url("/"))


def write(folder: Path, url: str) -> Path:
    routes = files_of_the_page()["routes.yaml"]
    assert "https://ntfy.example.org" in routes
    (folder / "routes.yaml").write_text(routes.replace("https://ntfy.example.org", url))
    settings: dict[str, Any] = {
        "source": {
            "connection_string_env": "EVENTHUB_CONNECTION_STRING",
            "hub": HUB,
            "balance_interval_seconds": 1,
            "ownership_expiry_seconds": 6,
        },
        "store": {"kind": "sqlite", "path": "worker.db"},
        "order": {"window_seconds": 0.5},
        "http": {"port": 0},
    }
    (folder / "worker.yaml").write_text(yaml.safe_dump(settings))
    return folder / "worker.yaml"


def environment(packages: Path, **more: str) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join((str(packages), str(PROJECT))), "NTFY_TOKEN": TOKEN, **more}


def worker(packages: Path, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker", *map(str, arguments)],
        env={**os.environ, **environment(packages, **more)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def failed(run: str, attempt: int) -> TrafficMessage:
    """A run that failed, once more."""
    subject = f"experiments/exp/runs/{run}"
    event = {
        "id": f"{run}-{attempt}",
        "topic": "/subscriptions/s/workspaces/ws",
        "subject": subject,
        "eventType": "Microsoft.MachineLearningServices.RunStatusChanged",
        "eventTime": f"2026-01-01T00:00:{attempt:02}.0000000Z",
        "data": {"runStatus": "Failed", "experimentName": f"attempt {attempt}", "runId": run},
    }
    return TrafficMessage(orjson.dumps(event), "application/json", subject, ())


# --- what the page says of itself


def test_the_sink_of_the_page_has_at_most_40_lines():
    lines = files_of_the_page()["worker_ntfy.py"].splitlines()
    assert len([line for line in lines if line.strip()]) <= 40


def test_every_name_that_the_page_calls_stable_is_there():
    rows = [line.split("|")[1:3] for line in PAGE.read_text().splitlines() if line.startswith("| `worker.")]
    assert len(rows) > 5
    for module, names in rows:
        for name in [each.split("`")[1] for each in names.split(" (")[0].split(",")]:
            assert hasattr(import_module(module.strip(" `")), name), f"{module} has no {name}"


# --- what it says is so


def test_check_knows_the_kind_and_where_it_comes_from(packages, tmp_path):
    config = write(tmp_path, "http://127.0.0.1:9")
    hub = "Endpoint=sb://127.0.0.1:5672;SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true"
    done = worker(packages, "check", "--config", config, EVENTHUB_CONNECTION_STRING=hub)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sinks           phones (ntfy, from worker-ntfy 1.0)\n" in done.stdout


def test_check_knows_its_secrets_and_its_urls(packages, tmp_path):
    config = write(tmp_path, "http://ntfy.example.org")
    done = worker(packages, "check", "--config", config, EVENTHUB_CONNECTION_STRING="", NTFY_TOKEN="")
    assert done.returncode == 2
    said = [line.partition("routes.yaml:")[2] for line in done.stderr.splitlines()]
    assert any(
        line.startswith("6:5: sinks[0].token_env: the environment variable NTFY_TOKEN is not set") for line in said
    )
    assert any(line.startswith("4:5: sinks[0].url: the URL goes to ntfy.example.org over http://") for line in said)


async def test_a_sample_reaches_it_without_hub_and_store_and_its_secret_is_not_shown(packages, tmp_path):
    ntfy = Ntfy()
    async with serving(ntfy) as url:
        config = write(tmp_path, url)
        done = await asyncio.to_thread(worker, packages, "send-test", "-c", config, "--sink", "phones", "--json")
        row = json.loads(done.stdout)

    assert ntfy.came == [Push("ml-alerts", "Run Failed: worker send-test / worker-send-test-run", f"Bearer {TOKEN}")]
    assert (done.returncode, done.stderr) == (0, "")
    assert (row["result"], row["kind"], row["destination"]) == ("accepted", "ntfy", url.split("/")[2])
    assert '"type": "Microsoft.MachineLearningServices.RunStatusChanged"' in row["preview"]
    assert row["answers"] == ['200: {"id": "n1", "echo": "Bearer ***"}']
    assert not (tmp_path / "worker.db").exists()


async def test_events_of_the_hub_arrive_in_order_though_the_destination_was_down(packages, tmp_path):
    ntfy = Ntfy(fails=3)
    messages = [failed(run, attempt) for attempt in (1, 2, 3) for run in ("run-a", "run-b")]
    async with serving(ntfy) as url, children(tmp_path) as family:
        broker = ("local", "broker", "--port", "0", "--partitions", "2", "--hub", HUB)
        hub = await family.start("hub", *broker, speaks=True)
        line = await hub.first_line(timeout_seconds=30)
        connection_string = line[line.index("Endpoint=") :]
        await send(messages, connection_string=connection_string, hub=HUB)
        settings = environment(packages, EVENTHUB_CONNECTION_STRING=connection_string)
        run = await family.start("run", "run", "--config", str(write(tmp_path, url)), environment=settings)
        await eventually(lambda: len(ntfy.came) >= len(messages), 60)
        await family.stop([run])

    assert ntfy.refused == 3
    titles = [push.title for push in ntfy.came]
    for name in ("run-a", "run-b"):
        assert [title for title in titles if name in title] == [f"Run Failed: attempt {n} / {name}" for n in (1, 2, 3)]
    assert len(titles) == len(messages)
    assert {push.token for push in ntfy.came} == {f"Bearer {TOKEN}"}
    assert TOKEN not in (tmp_path / "run.log").read_text()
