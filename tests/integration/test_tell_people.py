"""From an event on the hub to the people it is told to: mail and cards, alone and in a storm, also when workers die."""

import asyncio
import csv
import io
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.acs_service import AcsService, acs_service
from tests.integration.scene import Scene, scene
from tests.mailbox import HOST, Mailbox, mail_server
from tests.support import eventually
from tests.workflows_service import Workflow, workflow_service
from worker.local.traffic import EVENT_GRID_JSON, TrafficMessage

WORKSPACE = (
    "/subscriptions/60582a10-b9fd-49f1-a546-c4194134bba8/resourceGroups/ml/providers/"
    "Microsoft.MachineLearningServices/workspaces/forecasts"
)
STORM = 5_000
PARTITIONS = 4


def run_event(run: str, status: str, *, experiment: str = "nightly-training", event_type: str = "RunStatusChanged"):
    """A run's event as Azure ML raises it, in a message as Event Grid sends it."""
    subject = f"experiments/{experiment}/runs/{run}"
    data = {"experimentName": experiment, "experimentId": "e-1", "runId": run, "runType": "azureml.PipelineRun"}
    event = {
        "id": f"id-{run}-{status}",
        "topic": WORKSPACE,
        "subject": subject,
        "eventType": f"Microsoft.MachineLearningServices.{event_type}",
        "eventTime": "2026-01-14T02:17:05.1234567Z",
        "data": data | ({"runStatus": status} if event_type == "RunStatusChanged" else {}),
        "dataVersion": "2",
        "metadataVersion": "1",
    }
    return TrafficMessage(orjson.dumps([event]), EVENT_GRID_JSON, subject, events=())


class People:
    """Who is told: a mailbox, a channel in Teams, and a mail service in the cloud."""

    def __init__(self, mailbox: Mailbox, port: int, channel: Workflow, cloud: AcsService) -> None:
        self.mailbox = mailbox
        self.channel = channel
        self.cloud = cloud
        self._port = port

    def routing(self, **quiet: Any) -> dict[str, Any]:
        """Failed runs are mailed; completed ones are cards and mails of the cloud; a storm goes to mail and cards."""
        # Short: for so long, and 15 s more, the next owner waits for an attempt of one that died.
        mail = {"host": HOST, "port": self._port, "security": "none", "from": "ML <ml@example.org>"}
        mail |= {"timeout_seconds": 5}
        cards = {"url_env": "TEAMS_URL", "limits": {"per_second": 100, "per_hour": 1000}, "timeout_seconds": 5}
        more = {"quiet": quiet} if quiet else {}
        sinks = [
            {"name": "oncall", "kind": "email", "to": ["oncall@example.org"], **mail, **more},
            {"name": "channel", "kind": "teams", **cards, **more},
            {
                "name": "cloud",
                "kind": "acs_email",
                "connection_string_env": "ACS",
                "from": "ml@example.org",
                "to": ["lead@example.org"],
            },
        ]
        failed = [{"operatorType": "StringIn", "key": "data.runStatus", "values": ["Failed"]}]
        completed = {"includedEventTypes": ["Microsoft.MachineLearningServices.RunCompleted"]}
        routes = [
            {
                "name": "failed",
                "filter": {"advancedFilters": failed},
                "sinks": ["oncall", "channel"] if quiet else ["oncall"],
            },
            {"name": "completed", "filter": completed, "sinks": ["channel", "cloud"]},
        ]
        return {"sinks": sinks, "routes": routes}

    def environment(self) -> dict[str, str]:
        return {"TEAMS_URL": self.channel.url, "ACS": self.cloud.connection_string}


@pytest.fixture
async def people() -> AsyncIterator[People]:
    mailbox, channel = Mailbox(), Workflow()
    async with (
        mail_server(mailbox) as port,
        workflow_service(channel) as serving,
        acs_service() as cloud,
    ):
        yield People(mailbox, port, serving, cloud)


async def test_a_failed_run_is_mailed_and_a_completed_one_is_a_card_and_a_mail_of_the_cloud(tmp_path, people):
    async with scene(tmp_path) as stage:
        stage.routing, stage.environment = people.routing(), people.environment()
        worker = await stage.start_worker("one")
        await stage.until_shared("one")
        await stage.send(
            [
                run_event("run-1", "Running"),
                run_event("run-1", "Failed"),
                run_event("run-2", "Completed", event_type="RunCompleted"),
            ]
        )
        await eventually(lambda: people.mailbox.messages and people.channel.messages and people.cloud.accepted, 30)
        await stage.family.stop([worker])
    [mail], [card], [cloud] = people.mailbox.messages, people.channel.cards, people.cloud.accepted
    assert mail["Subject"] == "Run Failed: nightly-training / run-1"
    html = mail.get_body(("html",)).get_content()
    assert f"https://ml.azure.com/runs/run-1?wsid={WORKSPACE}" in html
    assert "Run Completed: nightly-training / run-2" in orjson.dumps(card).decode()
    assert cloud.message["content"]["subject"] == "Run Completed: nightly-training / run-2"


def storm() -> list[TrafficMessage]:
    return [run_event(f"run-{number:04}", "Failed") for number in range(STORM)]


def mailed(mailbox: Mailbox) -> dict[str, list[str]]:
    """By idempotency key, the ids of the events that a mail tells of."""
    told = {}
    for mail in mailbox.messages:
        lists = [part for part in mail.iter_attachments() if part.get_filename() == "events.csv"]
        rows = (
            csv.DictReader(io.StringIO(lists[0].get_content().removeprefix("\ufeff")))
            if lists
            else [{"id": mail["X-Event-Id"]}]
        )
        told[mail["X-Idempotency-Key"]] = [row["id"] for row in rows]
    return told


def carded(channel: Workflow) -> Counter[str]:
    """By event key, how many events a card says that it stands for."""
    told: Counter[str] = Counter()
    for message, card in zip(channel.messages, channel.cards, strict=True):
        facts = [fact for block in card["body"] for fact in block.get("facts", [])]
        counts = [fact["value"] for fact in facts if fact["title"] == "Run Failed"]
        told[message["eventKey"]] = int(counts[0].replace(",", "")) if counts else 1
    return told


QUIET = {"group_by": ["experiment"], "group_wait_seconds": 2, "group_interval_seconds": 15}


async def _told_of_all(stage: Scene, people: People) -> None:
    expected = {f"id-run-{number:04}-Failed" for number in range(STORM)}

    def all_told() -> bool:
        mails = {each for ids in mailed(people.mailbox).values() for each in ids}
        return mails >= expected and carded(people.channel).total() >= STORM

    await eventually(all_told, 90)
    letters = await stage.letters()
    assert letters == []
    ids = [each for told in mailed(people.mailbox).values() for each in told]
    assert Counter(ids) == dict.fromkeys(expected, 1), "each stands in one mail, whoever sent it and however often"
    assert carded(people.channel).total() == STORM
    assert people.channel.refusals == []


def _a_handful(number: int) -> bool:
    """A digest stands for 1,000 events at most, and 1,250 come to each partition: two or more, not thousands."""
    return 2 * PARTITIONS <= number <= 6 * PARTITIONS


async def test_five_thousand_failed_runs_are_a_handful_of_mails_and_cards_that_account_for_every_one(tmp_path, people):
    async with scene(tmp_path) as stage:
        stage.routing, stage.environment = people.routing(**QUIET), people.environment()
        workers = [await stage.start_worker(name) for name in ("one", "two")]
        await stage.until_shared("one", "two")
        await stage.send(storm(), rate=1000)
        await _told_of_all(stage, people)
        await stage.family.stop(workers)
    assert _a_handful(len(people.mailbox.messages))
    assert _a_handful(len(people.channel.messages))


@pytest.mark.timeout(180)
async def test_a_storm_is_told_whole_and_once_when_a_worker_is_killed_in_the_middle(tmp_path: Path, people: People):
    async with scene(tmp_path) as stage:
        stage.routing, stage.environment = people.routing(**QUIET), people.environment()
        victim, survivor = [await stage.start_worker(name) for name in ("victim", "survivor")]
        await stage.until_shared("victim", "survivor")
        sending = asyncio.create_task(stage.send(storm(), rate=500))
        await eventually(lambda: people.mailbox.messages and people.channel.messages, 60)
        victim.kill()
        await sending
        await _told_of_all(stage, people)
        await stage.family.stop([survivor])
    assert _a_handful(len(mailed(people.mailbox)))
    assert _a_handful(len(carded(people.channel)))
