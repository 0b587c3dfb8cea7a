"""The acs_email sink against a service that holds it to the contract: what is sent, and what answers mean."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson
import pytest
from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError
from structlog.testing import capture_logs

from tests.acs_service import AcsService, Credential, Fault, Operation, Received, acs_service
from tests.deliveries import ELEMENT, delivery_of
from tests.support import free_port
from worker.errors import Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable
from worker.events import DIGEST_TYPE
from worker.identity import Tokens
from worker.sinks.acs_body import operation_id
from worker.sinks.acs_email import AcsEmailSettings, AcsEmailSink
from worker.sinks.mail_text import render

DEFINITE = (SinkUnavailable, OutcomeUnknown, Rejected, Misconfigured)
OTHER = ELEMENT | {"id": "e2"}


@pytest.fixture
async def service() -> AsyncIterator[AcsService]:
    async with acs_service() as service:
        yield service


OpenSink = Callable[..., Awaitable[AcsEmailSink]]


@pytest.fixture
async def sink_to(monkeypatch) -> AsyncIterator[OpenSink]:
    """Opens a sink to this service, by its connection string unless told otherwise."""
    opened = []

    async def open_sink(
        service: AcsService, credential: Credential | None = None, *, slow_by: float = 0, **settings: Any
    ) -> AcsEmailSink:
        monkeypatch.setenv("ACS", service.connection_string)
        monkeypatch.setenv("ACS_KEY", service.key)
        given = {"name": "out", "from": "ml@example.org", "to": ["oncall@example.org"]}
        if credential is not None:
            given |= {"auth": "identity", "endpoint": service.url}
        elif "access_key_env" not in settings:
            given |= {"connection_string_env": "ACS"}
        tokens = Tokens(credential) if credential is not None else None
        sink = AcsEmailSink(
            AcsEmailSettings.model_validate(given | settings), tokens, clock=lambda: time.time() - slow_by
        )
        await sink.open()
        opened.append(sink)
        return sink

    yield open_sink
    for sink in opened:
        await sink.aclose()


async def refusal(sink: AcsEmailSink, delivery=None) -> Exception:
    with pytest.raises(DEFINITE) as raised:
        await sink.deliver(delivery or delivery_of())
    error = raised.value
    assert str(error).startswith("sink out: ")
    assert str(error).isprintable()
    assert error.__cause__ is None
    return error


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


async def test_a_refusal_because_an_earlier_request_sent_the_mail_counts_as_accepted(service, sink_to):
    sink = await sink_to(service)
    await sink.deliver(delivery_of())
    await (await sink_to(service, reply_to=["new@example.org"])).deliver(delivery_of())  # the same mail, said otherwise

    assert len(service.sent) == 1
    assert [request.path for request in service.questions] == [f"/emails/operations/{operation_id(delivery_of())}"]


@pytest.mark.parametrize("status", ["NotStarted", "Running", "Succeeded"])
async def test_a_409_of_a_request_in_flight_counts_as_accepted(service, sink_to, status):
    service.operations[str(operation_id(delivery_of()))] = Operation({}, status)
    service.faults = [Fault(status=409, text="in flight")]
    await (await sink_to(service)).deliver(delivery_of())
    assert len(service.questions) == 1


@pytest.mark.parametrize("code", [400, 409])
@pytest.mark.parametrize("status", ["Failed", "Canceled"])
async def test_a_repetition_of_what_the_service_gave_up_is_rejected(service, sink_to, code, status):
    service.operations[str(operation_id(delivery_of()))] = Operation({}, status)
    service.faults = [Fault(status=code, text="was used")]
    error = await refusal(await sink_to(service))

    assert type(error) is Rejected
    assert str(error).endswith(f"was used; of an earlier request for this mail it says: {status}")


async def test_a_202_that_says_that_the_mail_will_not_go_out_is_rejected(service, sink_to):
    sink = await sink_to(service)
    await sink.deliver(delivery_of())
    service.operations[str(operation_id(delivery_of()))].status = "Failed"
    assert type(await refusal(sink)) is Rejected


@pytest.mark.parametrize("code", [400, 409])
@pytest.mark.parametrize(
    "trouble", [Fault(status=429), Fault(status=503), Fault(status=500), Fault(before="drop"), Fault(status=403)]
)
async def test_a_refusal_whose_reason_cannot_be_found_out_is_an_unknown_outcome(service, sink_to, code, trouble):
    service.faults = [Fault(status=code, text="no")]
    service.status_faults = [trouble, trouble]  # a dropped question is asked once more by the client itself
    error = await refusal(await sink_to(service))

    assert type(error) is OutcomeUnknown
    assert f"answered {code}: no; asked whether it knows the mail: " in str(error)


# --- what answers mean


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, SinkUnavailable) for status in (408, 425, 429, 503)),
        *((status, OutcomeUnknown) for status in (500, 501, 502, 504, 599)),
        *((status, Misconfigured) for status in (401, 403, 404)),
        *((status, Rejected) for status in (301, 302, 307, 308, 400, 402, 405, 409, 410, 413, 415, 422)),
    ],
)
async def test_every_status_has_its_class_and_is_tried_once(service, sink_to, status, outcome):
    service.faults = [Fault(status=status, text="because", headers={"Location": "/elsewhere"})]
    error = await refusal(await sink_to(service))

    assert type(error) is outcome
    assert str(error).startswith(f"sink out: 127.0.0.1 answered {status}: because")
    assert [request.path for request in service.sends] == ["/emails:send"]
    assert service.sent == []


@pytest.mark.parametrize(("status", "code"), [(400, "InvalidSenderUserName"), (404, "DomainNotLinked")])
async def test_a_sender_that_the_service_does_not_know_is_no_fault_of_the_event(service, sink_to, status, code):
    text = orjson.dumps({"error": {"code": code, "message": "no such sender"}}).decode()
    service.faults = [Fault(status=status, text=text)]
    assert type(await refusal(await sink_to(service))) is Misconfigured
    assert service.questions == []


async def test_the_quota_is_kept_to_and_says_when_to_come_again(service, sink_to):
    service.sends_per_minute = 1
    sink = await sink_to(service)
    await sink.deliver(delivery_of())
    error = await refusal(sink, delivery_of(OTHER))

    assert type(error) is SinkUnavailable
    assert error.retry_after_seconds == 60
    assert len(service.sent) == 1


async def test_a_clock_that_is_wrong_is_told_as_a_mistake_of_the_setup(service, sink_to):
    error = await refusal(await sink_to(service, slow_by=3600))

    assert type(error) is Misconfigured
    assert "time drift" in str(error)


async def test_nobody_listening_is_tried_again_later(service, sink_to):
    service.url = f"http://127.0.0.1:{free_port()}"
    error = await refusal(await sink_to(service))
    assert type(error) is SinkUnavailable
    assert "cannot be connected to: " in str(error)


async def test_an_identity_that_gets_no_token_sends_nothing(service, sink_to):
    credential = Credential()
    sink = await sink_to(service, credential)
    credential.error = ClientAuthenticationError("AADSTS700016: hidden-tenant")
    error = await refusal(sink)
    assert type(error) is Misconfigured
    assert "AADSTS700016" in str(error)
    assert "hidden" not in str(error)
    credential.error = ServiceRequestError("away")
    assert type(await refusal(sink)) is SinkUnavailable
    assert service.received == []


@pytest.mark.parametrize("text", ["hidden", "endpoint=https://10.0.0.1/;accesskey=aGlkZGVu", ""])
async def test_a_connection_string_that_cannot_be_used_pauses_the_lane(service, sink_to, monkeypatch, text):
    sink = await sink_to(service)
    monkeypatch.setenv("ACS", text)
    error = await refusal(sink)
    assert type(error) is Misconfigured
    assert "connection" in str(error)
    assert "hidden" not in str(error)
    assert service.received == []


@pytest.mark.parametrize("status", [400, 401, 429, 500])
@pytest.mark.parametrize("by", ["connection string", "identity"])
async def test_no_secret_shows_though_the_service_echoes_what_it_got(service, sink_to, status, by):
    sink = await sink_to(service, Credential() if by == "identity" else None)
    lasting = [service.connection_string, service.key] if by != "identity" else []
    secrets = [*lasting]

    def echo(request: Received) -> Fault:
        proof = request.headers["authorization"]
        fresh = [proof, proof.rpartition("Signature=")[2], proof.rpartition("Bearer ")[2]]
        secrets.extend(fresh)
        return Fault(status=status, text=" ".join(["echo:", *fresh, *lasting]))

    service.fault_for = echo
    with capture_logs() as logged:
        error = await refusal(sink)

    shown = f"{error!r} {error.__context__!r} {sink!r} {vars(sink)!r} {vars(sink._access)!r} {logged!r}"
    assert "echo:" in shown
    assert len(secrets) >= 3
    assert [secret for secret in secrets if secret in shown] == []


# --- what arrived


async def test_what_arrived_is_known_and_what_did_not_is_missing(service, sink_to):
    sink = await sink_to(service)
    await sink.deliver(delivery_of())

    assert await sink.verify(delivery_of()) is True
    assert await sink.verify(delivery_of(OTHER)) is False
    for status in ("Failed", "Canceled"):
        service.operations[str(operation_id(delivery_of()))].status = status
        assert await sink.verify(delivery_of()) is False


@pytest.mark.parametrize("trouble", [Fault(status=500), Fault(status=504), Fault(before="drop"), Fault(status=400)])
async def test_a_question_without_an_answer_settles_nothing(service, sink_to, trouble):
    service.status_faults = [trouble, trouble]
    assert await (await sink_to(service)).verify(delivery_of()) is None


@pytest.mark.parametrize(("status", "outcome"), [(429, SinkUnavailable), (503, SinkUnavailable), (403, Misconfigured)])
async def test_a_question_that_is_refused_is_asked_again_later(service, sink_to, status, outcome):
    service.status_faults = [Fault(status=status, headers={"Retry-After": "7"})]
    with pytest.raises(outcome) as raised:
        await (await sink_to(service)).verify(delivery_of())
    assert outcome is Misconfigured or raised.value.retry_after_seconds == 7
