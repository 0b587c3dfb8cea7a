"""Expectations across subjects with real processes: the hub, a shared store, workers that are killed, and a mailbox."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.integration.scene import Scene, scene
from tests.mailbox import HOST, Mailbox, mail_server
from tests.support import eventually
from worker.local.traffic import EVENT_GRID_JSON, TrafficMessage
from worker.marks import Say, parse

WORKSPACE = "/subscriptions/60582a10/resourceGroups/ml/providers/Microsoft.MachineLearningServices/workspaces/forecasts"
MODELS = 12
"""Of each kind; enough that the rows of each have homes at both workers."""


def model_event(kind: str, model: str) -> TrafficMessage:
    """As it happens now, on a subject of its own."""
    subject = f"{kind}/{model}"
    event = {
        "id": f"{kind}-{model}",
        "topic": WORKSPACE,
        "subject": subject,
        "eventType": f"Microsoft.MachineLearningServices.{kind}",
        "eventTime": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "data": {"modelName": model} if kind == "ModelRegistered" else {"modelIds": f"other, {model}"},
        "dataVersion": "2",
        "metadataVersion": "1",
    }
    return TrafficMessage(orjson.dumps([event]), EVENT_GRID_JSON, subject, events=())


def routing(port: int) -> dict[str, Any]:
    mail = {"host": HOST, "port": port, "security": "none", "from": "ML <ml@example.org>", "to": ["ml@example.org"]}
    return {
        "sinks": [{"name": "oncall", "kind": "email", **mail, "timeout_seconds": 5}],
        "routes": [
            {
                "name": "missed",
                "filter": {"includedEventTypes": ["Worker.ExpectationMissed"]},
                "sinks": ["oncall"],
            }
        ],
        "expect": [
            {
                "name": "model-is-deployed",
                "after": {"includedEventTypes": ["Microsoft.MachineLearningServices.ModelRegistered"]},
                "then": {"includedEventTypes": ["Microsoft.MachineLearningServices.ModelDeployed"]},
                "correlate": {
                    "after": "{{ event.data.modelName }}",
                    "then": "{{ event.data.modelIds }}",
                    "split": ",",
                },
                "within": "8s",
            }
        ],
    }


async def _telling(stage: Scene) -> int:
    """How many rows are being told."""
    async with stage.store() as store:
        marks = [parse(row.mark) for row in (await store.list_rows()).values()]
    return sum(mark is not None and mark.says is Say.TELLING for mark in marks)


@pytest.mark.timeout(180)
async def test_what_was_missed_is_mailed_once_though_its_teller_is_killed_between_finding_and_telling(tmp_path: Path):
    mailbox = Mailbox()
    mailbox.to_data = "451 later"
    missed, met = [[f"{kind}-{number:02}" for number in range(MODELS)] for kind in ("missed", "met")]
    async with mail_server(mailbox) as port, scene(tmp_path) as stage:
        stage.routing = routing(port)
        victim, survivor = [await stage.start_worker(name) for name in ("victim", "survivor")]
        await stage.until_shared("victim", "survivor")
        await stage.send([model_event("ModelRegistered", model) for model in missed + met])
        await stage.send([model_event("ModelDeployed", model) for model in met])

        async def all_found() -> bool:
            return await _telling(stage) == MODELS

        await eventually(all_found, 60)
        await victim.crash()
        mailbox.to_data = "250 OK"

        async def all_told() -> bool:
            return len(mailbox.messages) >= MODELS and await _telling(stage) == 0

        await eventually(all_told, 60)
        await stage.family.stop([survivor])
        letters = await stage.letters()
    subjects = Counter(str(mail["X-Event-Subject"] or mail["Subject"]) for mail in mailbox.messages)
    assert len(mailbox.messages) == MODELS
    assert set(subjects.values()) == {1}
    assert all(sum(model in subject for subject in subjects) == 1 for model in missed)
    assert letters == []
