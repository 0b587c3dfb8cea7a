"""What did not happen, noticed by real workers on the local hub: also when one of them dies while it waits."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from tests.integration.scene import scene
from tests.mailbox import HOST, Mailbox, mail_server
from tests.support import eventually
from worker.local.traffic import EVENT_GRID_JSON, TrafficMessage

ML = "Microsoft.MachineLearningServices"
WITHIN_SECONDS = 15
RUNS, HANGING = 12, 4


def run_event(run: int, status: str, at: datetime) -> TrafficMessage:
    subject = f"experiments/nightly/runs/run-{run}"
    event = {
        "id": f"{run}-{status}",
        "topic": "/subscriptions/s/workspaces/ws",
        "subject": subject,
        "eventType": f"{ML}.RunStatusChanged",
        "eventTime": at.isoformat(),
        "data": {"runId": f"run-{run}", "runStatus": status},
    }
    return TrafficMessage(orjson.dumps([event]), EVENT_GRID_JSON, subject, events=())


def state_is(*states: str) -> dict[str, Any]:
    condition = {"operatorType": "StringIn", "key": "data.runStatus", "values": list(states)}
    return {"includedEventTypes": [f"{ML}.RunStatusChanged"], "advancedFilters": [condition]}


def routing(port: int) -> dict[str, Any]:
    mail = {"host": HOST, "port": port, "security": "none", "from": "ml@example.org", "to": ["oncall@example.org"]}
    return {
        "sinks": [
            {"name": "oncall", "kind": "email", "timeout_seconds": 5, **mail},
            {"name": "audit", "kind": "file", "path": "../audit.jsonl"},
        ],
        "routes": [
            {"name": "missed", "filter": {"includedEventTypes": ["Worker.ExpectationMissed"]}, "sinks": ["oncall"]},
            {"name": "all", "sinks": ["audit"]},
        ],
        "expect": [
            {
                "name": "run-ends",
                "after": state_is("Running"),
                "then": state_is("Completed", "Failed"),
                "within": f"{WITHIN_SECONDS}s",
            }
        ],
    }


async def test_runs_that_hang_are_mailed_once_each_though_a_worker_dies_and_nothing_more_comes(tmp_path: Path):
    mailbox = Mailbox()
    async with mail_server(mailbox) as port, scene(tmp_path) as stage:
        stage.routing = routing(port)
        victim, survivor = [await stage.start_worker(name) for name in ("victim", "survivor")]
        await stage.until_shared("victim", "survivor")
        began = datetime.now(UTC)
        await stage.send([run_event(run, "Running", began) for run in range(RUNS)])
        audit = tmp_path / "audit.jsonl"
        await eventually(lambda: audit.exists() and len(audit.read_bytes().splitlines()) >= RUNS, 30)
        await asyncio.to_thread(victim.kill)
        ends = began + timedelta(seconds=1)
        await stage.send([run_event(run, "Completed", ends) for run in range(HANGING, RUNS)])
        await eventually(lambda: len(mailbox.messages) >= HANGING, 90)

        async def nothing_pending() -> bool:
            metrics = await stage.metrics("survivor")
            pending = [value for name, value in metrics.items() if name.startswith("worker_expectations_pending")]
            return len(pending) == 4 and not any(pending)

        await eventually(nothing_pending, 30)
        await stage.family.stop([survivor])
    subjects = sorted(mail["Subject"] for mail in mailbox.messages)
    hanging = [f"Expectation missed: run-ends, experiments/nightly/runs/run-{run}" for run in range(HANGING)]
    assert subjects == hanging
    text = mailbox.messages[0].get_body(("plain",)).get_content()
    assert f"{WITHIN_SECONDS}s" in text
    told = [event for event in map(orjson.loads, audit.read_bytes().splitlines()) if event["type"].startswith("Worker")]
    assert {event["data"]["after"]["data"]["runId"] for event in told} == {f"run-{run}" for run in range(HANGING)}
