"""What the acs_email sink makes of answers: statuses, refusals of what was sent before, and questions what arrived."""

import orjson
import pytest
from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError
from structlog.testing import capture_logs

from tests.acs_service import Credential, Fault, Operation, Received
from tests.deliveries import delivery_of
from tests.integration.acs import OTHER, refusal, service, sink_to
from tests.support import free_port
from worker.errors import Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable
from worker.sinks.acs_body import operation_id

__all__ = ["service", "sink_to"]  # fixtures


# --- what answers mean


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, SinkUnavailable) for status in (408, 425, 429)),
        *((status, OutcomeUnknown) for status in (500, 501, 502, 503, 504, 599)),
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


# --- refusals of what may have been sent before


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
