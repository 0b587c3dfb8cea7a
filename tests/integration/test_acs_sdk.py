"""What our sink sends, compared field by field with what the vendor's own client sends for the same message."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from azure.communication.email.aio import EmailClient
from azure.core.credentials import AzureKeyCredential

from tests.acs_service import AcsService, Credential, Fault, Received, acs_service
from tests.deliveries import delivery_of
from worker.identity import Tokens
from worker.sinks.acs_body import operation_id
from worker.sinks.acs_email import AcsEmailSettings, AcsEmailSink
from worker.sinks.mail_text import render

DELIVERY = delivery_of()
OPERATION = str(operation_id(DELIVERY))

ONLY_THEIRS = {
    "x-ms-return-client-request-id",  # asks for an echo that nothing here reads
}
DIFFERENT = {
    "accept-encoding",  # an answer is read as it comes
    "content-length",  # of JSON with other white space
    "user-agent",
    "x-ms-client-request-id",  # theirs is random
    "x-ms-content-sha256",  # of JSON with other white space
    "x-ms-date",
}


@pytest.fixture
async def service() -> AsyncIterator[AcsService]:
    async with acs_service() as service:
        yield service


@asynccontextmanager
async def our_sink(service: AcsService, monkeypatch, *, identity: bool) -> AsyncIterator[AcsEmailSink]:
    monkeypatch.setenv("ACS_KEY", service.key)
    settings = AcsEmailSettings.model_validate(
        {
            "name": "out",
            "endpoint": service.url,
            "from": "ml@example.org",
            "to": ["a@example.org", "b@example.org"],
            "cc": ["c@example.org"],
            "bcc": ["d@example.org"],
            "reply_to": ["team@example.org"],
            **({"auth": "identity"} if identity else {"access_key_env": "ACS_KEY"}),
        }
    )
    sink = AcsEmailSink(settings, Tokens(Credential()) if identity else None)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.aclose()


def their_message() -> dict[str, Any]:
    """Written as the vendor's documents say, by hand: not what our code makes."""
    mail = render(DELIVERY)
    return {
        "senderAddress": "ml@example.org",
        "recipients": {
            "to": [{"address": "a@example.org"}, {"address": "b@example.org"}],
            "cc": [{"address": "c@example.org"}],
            "bcc": [{"address": "d@example.org"}],
        },
        "content": {"subject": mail.subject, "plainText": mail.text, "html": mail.html},
        "replyTo": [{"address": "team@example.org"}],
        "headers": {
            "X-Event-Id": "e1",
            "X-Idempotency-Key": DELIVERY.idempotency_key,
            "X-Auto-Response-Suppress": "All",
        },
        "userEngagementTrackingDisabled": True,
    }


async def send_theirs(service: AcsService, *, identity: bool, **more: Any) -> None:
    if identity:
        credential: Any = Credential()
        more["enforce_https"] = False  # the loopback speaks http
    else:
        credential = AzureKeyCredential(service.key)
    async with EmailClient(service.url, credential, retry_total=0) as client:
        poller = await client.begin_send(their_message(), operation_id=OPERATION, **more)
        await poller.result()


@pytest.mark.parametrize("identity", [False, True], ids=["by key", "by identity"])
async def test_the_request_is_the_one_that_the_vendors_client_makes(service, monkeypatch, identity):
    async with our_sink(service, monkeypatch, identity=identity) as sink:
        await sink.deliver(DELIVERY)
    await send_theirs(service, identity=identity, polling=False)

    ours, theirs = service.sends
    assert (ours.method, ours.path, ours.query) == (theirs.method, theirs.path, theirs.query)
    assert ours.message == theirs.message
    _compare_headers(ours, theirs, identity=identity)
    # The service takes one for a repetition of the other.
    assert len(service.accepted) == 2
    assert len(service.sent) == 1


@pytest.mark.parametrize("identity", [False, True], ids=["by key", "by identity"])
async def test_the_question_is_the_one_that_the_vendors_client_asks(service, monkeypatch, identity):
    def succeed(request: Received) -> Fault:
        if request.method == "GET":
            service.operations[OPERATION].status = "Succeeded"
        return Fault()

    service.fault_for = succeed
    async with our_sink(service, monkeypatch, identity=identity) as sink:
        await sink.deliver(DELIVERY)
        assert await sink.verify(DELIVERY) is True
    service.forget()
    await send_theirs(service, identity=identity, polling_interval=0)

    ours, theirs, *_ = service.questions
    assert (ours.method, ours.path, ours.query, ours.body) == (theirs.method, theirs.path, theirs.query, theirs.body)
    assert (
        ours.headers["authorization"].partition("&")[0].partition("Bearer")[0]
        == (theirs.headers["authorization"].partition("&")[0].partition("Bearer")[0])
    )


def _compare_headers(ours: Received, theirs: Received, *, identity: bool) -> None:
    compared = DIFFERENT | (set() if identity else {"authorization"})

    def names(request: Received) -> set[str]:
        return {*request.headers} - {"connection"}

    assert names(theirs) - names(ours) <= ONLY_THEIRS
    assert names(ours) - names(theirs) == set()
    same = names(ours) - compared
    assert {name: ours.headers[name] for name in same} == {name: theirs.headers[name] for name in same}
    assert {"operation-id", "content-type", "accept", "host"} <= same
    if not identity:
        begin = "HMAC-SHA256 SignedHeaders=x-ms-date;host;x-ms-content-sha256&Signature="
        assert ours.headers["authorization"].startswith(begin)
        assert theirs.headers["authorization"].startswith(begin)
