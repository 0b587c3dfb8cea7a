"""What the acs_email sink sends, and that a mail goes out once however often it is sent."""

import asyncio
import base64
from dataclasses import replace
from uuid import UUID

import pytest

from tests.acs_service import Credential, Fault
from tests.deliveries import ELEMENT, delivery_of
from tests.integration.acs import OTHER, refusal, service, sink_to
from worker.errors import Misconfigured, OutcomeUnknown
from worker.events import DIGEST_TYPE
from worker.sinks.acs_body import operation_id
from worker.sinks.mail_text import render

__all__ = ["service", "sink_to"]  # fixtures


# --- what is sent


async def test_the_mail_says_what_happened_to_whom_and_which_event_it_is(service, sink_to):
    delivery = delivery_of(ELEMENT | {"id": "naïve 100%"})
    await (await sink_to(service)).deliver(delivery)

    [(operation, message)] = service.sent
    mail = render(delivery)
    assert operation == str(operation_id(delivery))
    assert message == {
        "senderAddress": "ml@example.org",
        "recipients": {"to": [{"address": "oncall@example.org"}]},
        "content": {"subject": mail.subject, "plainText": mail.text, "html": mail.html},
        "headers": {
            "X-Event-Id": "na%C3%AFve 100%25",
            "X-Idempotency-Key": delivery.idempotency_key,
            "X-Auto-Response-Suppress": "All",
        },
        "userEngagementTrackingDisabled": True,
    }
    assert "Run Failed" in mail.subject


async def test_a_digest_goes_out_as_one_mail_with_its_list_attached(service, sink_to):
    rows = [{"id": f"e{n}", "title": f"Run Failed: exp / run-{n}", "severity": "error"} for n in range(300)]
    element = {
        "specversion": "1.0",
        "id": "d1",
        "type": DIGEST_TYPE,
        "source": "/worker",
        "subject": "exp",
        "data": {"count": 300, "because": "group", "group": {"experiment": "exp"}, "events": rows},
    }
    await (await sink_to(service)).deliver(delivery_of(element))

    [(_, message)] = service.sent
    [attached] = message["attachments"]
    assert (attached["name"], attached["contentType"]) == ("events.csv", "text/csv")
    listed = base64.b64decode(attached["contentInBase64"]).decode()
    assert all(f"Run Failed: exp / run-{n}" in listed for n in range(300))
    assert message["content"]["subject"].startswith("300 events")


async def test_the_operators_own_templates_are_filled_in(service, sink_to):
    templates = {"subject_template": "{{ event.id }} happened", "text_template": "See {{ event.subject }}."}
    await (await sink_to(service, **templates)).deliver(delivery_of())

    [(_, message)] = service.sent
    assert message["content"]["subject"] == "e1 happened"
    assert message["content"]["plainText"] == "See experiments/exp/runs/run-1.\n"


async def test_copies_answers_and_tracking_go_out_as_configured(service, sink_to):
    more = {"cc": ["b@example.org"], "bcc": ["c@example.org", "d@example.org"], "reply_to": ["team@example.org"]}
    await (await sink_to(service, **more, user_engagement_tracking_disabled=False)).deliver(delivery_of())

    [(_, message)] = service.sent
    assert message["recipients"]["cc"] == [{"address": "b@example.org"}]
    assert message["recipients"]["bcc"] == [{"address": "c@example.org"}, {"address": "d@example.org"}]
    assert message["replyTo"] == [{"address": "team@example.org"}]
    assert message["userEngagementTrackingDisabled"] is False


async def test_the_operation_is_a_uuid_from_the_idempotency_key_and_the_request_id_is_the_same(service, sink_to):
    delivery = delivery_of()
    await (await sink_to(service)).deliver(delivery)

    [request] = service.sends
    operation = request.headers["operation-id"]
    assert request.headers["x-ms-client-request-id"] == operation
    assert UUID(operation).version == 5
    # All of the key's digits but those that say version and variant.
    same = [a == b for a, b in zip(operation.replace("-", ""), delivery.idempotency_key, strict=False)]
    assert [place for place, equal in enumerate(same) if not equal and place not in {12, 16}] == []


@pytest.mark.parametrize("by", ["connection string", "access key", "identity"])
async def test_every_way_to_prove_who_asks_is_accepted_for_sending_and_for_asking(service, sink_to, by):
    match by:
        case "connection string":
            sink = await sink_to(service)
        case "access key":
            sink = await sink_to(service, access_key_env="ACS_KEY", endpoint=service.url)
        case _:
            credential = Credential()
            sink = await sink_to(service, credential)

    await sink.deliver(delivery_of())
    assert await sink.verify(delivery_of()) is True
    assert len(service.sent) == 1


async def test_an_identity_asks_for_the_configured_scope(service, sink_to):
    credential = Credential()
    await (await sink_to(service, credential)).deliver(delivery_of())
    assert credential.asked == ["https://communication.azure.com//.default"]

    wrong = Credential()
    sink = await sink_to(service, wrong, scope="https://management.azure.com/.default")
    assert type(await refusal(sink)) is Misconfigured
    assert wrong.asked == ["https://management.azure.com/.default"]


async def test_a_rotated_key_is_read_from_its_file_without_a_restart(service, sink_to, tmp_path):
    file = tmp_path / "connection"
    file.write_text(service.connection_string + "\n")
    sink = await sink_to(service, connection_string_env=None, connection_string_file=str(file))
    await sink.deliver(delivery_of())

    service.key = base64.b64encode(b"another key").decode()
    assert type(await refusal(sink, delivery_of(OTHER))) is Misconfigured
    file.write_text(service.connection_string)
    await sink.deliver(delivery_of(OTHER))
    assert len(service.sent) == 2


# --- idempotency


async def test_every_attempt_sends_the_same_request_and_the_service_sends_one_mail(service, sink_to):
    for _ in range(3):  # as after restarts: each with a sink of its own
        await (await sink_to(service)).deliver(delivery_of())

    first, second, third = service.sends
    assert first.body == second.body == third.body
    assert first.headers["operation-id"] == second.headers["operation-id"] == third.headers["operation-id"]
    assert len(service.sent) == 1


async def test_a_replay_of_what_went_out_makes_no_second_mail_though_its_text_is_another(service, sink_to):
    sink = await sink_to(service)
    await sink.deliver(delivery_of())
    await sink.deliver(replace(delivery_of(), replayed=True))

    first, second = service.sends
    assert first.body != second.body
    assert len(service.sent) == 1


async def test_deliveries_of_other_events_and_of_other_sinks_are_other_operations():
    deliveries = [delivery_of(), delivery_of(OTHER), delivery_of(sink="other")]
    assert len({operation_id(each) for each in deliveries}) == 3


@pytest.mark.parametrize(
    ("lost", "sent"),
    [
        (Fault(before="drop"), 0),
        (Fault(after="drop"), 1),
        (Fault(after="error"), 1),
        (Fault(status=500), 0),
        (Fault(status=502), 0),
        (Fault(status=504), 0),
    ],
)
async def test_an_end_that_leaves_open_what_happened_is_unknown_and_sent_again_makes_one_mail(
    service, sink_to, lost, sent
):
    service.faults = [lost]
    sink = await sink_to(service)
    assert type(await refusal(sink)) is OutcomeUnknown
    assert len(service.sent) == sent

    await sink.deliver(delivery_of())
    assert len(service.sent) == 1


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_service_that_stalls_ends_the_attempt_at_its_limit_with_an_unknown_outcome(service, sink_to, when):
    service.faults = [Fault(**{when: "stall"})]
    error = await refusal(await sink_to(service, timeout_seconds=0.2))

    assert type(error) is OutcomeUnknown
    assert str(error) == "sink out: 127.0.0.1 did not answer within 0.2 s"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_attempt_that_is_stopped_in_the_middle_harms_neither_the_next_nor_the_same_again(
    service, sink_to, when
):
    service.faults = [Fault(**{when: "stall"})]
    sink = await sink_to(service)
    attempt = asyncio.create_task(sink.deliver(delivery_of()))
    await service.stalled.wait()
    attempt.cancel()
    await asyncio.gather(attempt, return_exceptions=True)
    assert attempt.cancelled()

    await sink.deliver(delivery_of(OTHER))
    await sink.deliver(delivery_of())
    assert len(service.sent) == 2
