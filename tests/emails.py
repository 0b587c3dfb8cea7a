"""What tests of mail need: a sink to a server of this machine, and deliveries that try everything."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from email.message import EmailMessage
from typing import Any

from tests.deliveries import ELEMENT, delivery_of
from tests.mailbox import HOST
from worker.events import DIGEST_TYPE
from worker.notice import entry_of
from worker.sinks import Delivery, TokenSource
from worker.sinks.email import EmailSink
from worker.sinks.email_settings import EmailSettings

ONCALL, LEAD, TEAM = "oncall@example.org", "lead@example.org", "team@example.org"

WORKSPACE = (
    "/subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590/resourceGroups/ml-prod"
    "/providers/Microsoft.MachineLearningServices/workspaces/fraud"
)
RUN: dict[str, Any] = {
    "id": "4f26a5f0-8b1e-4c7a-9a53-1c2f5f1f2a10",
    "topic": WORKSPACE,
    "subject": "experiments/churn-nightly/runs/churn-nightly_1718_0042",
    "eventType": "Microsoft.MachineLearningServices.RunStatusChanged",
    "eventTime": "2026-11-27T03:12:44.9584103Z",
    "data": {
        "experimentId": "0fa9dfaa-cba3-4fa7-b590-23e48548f5c1",
        "experimentName": "churn-nightly",
        "runId": "churn-nightly_1718_0042",
        "runType": "azureml.PipelineRun",
        "runTags": {"team": "growth", "priority": "high"},
        "runProperties": {"azureml.git.branch": "main", "azureml.git.commit": "2e1a7c0"},
        "runStatus": "Failed",
    },
}
HOSTILE = (
    "x\r\nBcc: thief@example.org\r\n\r\nRoute: none\u2028\x00\u202e.\r\n.\r\nQUIT"
    '"><script>document.title="owned"</script><img src=x onerror=this.alt=1>{{ 7*7 }}'
)


def settings_on(port: int, **more: Any) -> EmailSettings:
    given = {"name": "oncall", "host": HOST, "port": port, "security": "none", "from": "ML <ml@example.org>"}
    return EmailSettings.model_validate(given | {"to": [ONCALL]} | more)


@asynccontextmanager
async def sink_on(port: int, *, trusted=None, tokens: TokenSource | None = None, **more) -> AsyncIterator[EmailSink]:
    sink = EmailSink(settings_on(port, **more), tokens, tls=lambda: ssl.create_default_context(cafile=trusted))
    await sink.open()
    try:
        yield sink
    finally:
        await sink.aclose()


def hostile_delivery() -> Delivery:
    """An event that writes what it can where it can."""
    element = ELEMENT | {"subject": HOSTILE, "id": HOSTILE, "topic": HOSTILE, "eventType": HOSTILE, "data": HOSTILE}
    return delivery_of(element)


def digest_of(deliveries: list[Delivery], **data: Any) -> Delivery:
    """One delivery that stands for several, as the worker makes it."""
    first = deliveries[0]
    rows = [entry_of(each).to_json() for each in deliveries]
    data = {"count": len(rows), "because": "group", "group": {"workspace": "fraud"}, "events": rows} | data
    placed = first.released.placed
    event = replace(placed.event, id="digest-1", type=DIGEST_TYPE, source="/worker", subject="group", data=data)
    return replace(first, released=replace(first.released, placed=replace(placed, event=event), late_by_ms=None))


def digest(count: int) -> Delivery:
    """So many events of a night: most runs failed, some came late, some are superseded."""
    states = ("Failed", "Failed", "Canceled", "Completed")
    deliveries = []
    for number in range(count):
        run = f"churn-nightly_1718_{number:04}"
        data = RUN["data"] | {"runId": run, "runStatus": states[number % len(states)]}
        element = RUN | {
            "id": f"event-{number}",
            "subject": f"experiments/churn-nightly/runs/{run}",
            "eventTime": f"2026-11-27T03:{number // 60 % 60:02}:{number % 60:02}.0000000Z",
            "data": data,
        }
        one = delivery_of(element, late_by_ms=5300 if number % 7 == 3 else None)
        deliveries.append(replace(one, released=replace(one.released, superseded=number % 5 == 2)))
    return digest_of(deliveries)


def text_of(mail: EmailMessage) -> str:
    return _part(mail, "plain")


def html_of(mail: EmailMessage) -> str:
    return _part(mail, "html")


def _part(mail: EmailMessage, kind: str) -> str:
    body = mail.get_body((kind,))
    assert body is not None
    return str(body.get_content())
