"""The e-mail sink against a real mail server: what arrives, and what each way of failing means."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs

from tests.deliveries import ELEMENT, delivery_of
from tests.mailbox import HOST, Mailbox, mail_server
from tests.support import free_port
from worker.errors import Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable
from worker.sinks.email import EmailSettings, EmailSink

PASSWORD = "hidden-password"
ONCALL, LEAD = "oncall@example.org", "lead@example.org"


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """The server's context, and the file of what a client must trust to believe it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail.test")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    trusted, private = folder / "trusted.pem", folder / "key.pem"
    trusted.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, private)
    return context, trusted


@asynccontextmanager
async def sink_on(port: int, *, trusted=None, **more) -> AsyncIterator[EmailSink]:
    given = {"name": "oncall", "host": HOST, "port": port, "security": "none", "from": "ML <ml@example.org>"}
    settings = EmailSettings.model_validate(given | {"to": [ONCALL]} | more)
    sink = EmailSink(settings, tls=lambda: ssl.create_default_context(cafile=trusted))
    await sink.open()
    try:
        yield sink
    finally:
        await sink.aclose()


# --- what arrives


async def test_the_message_says_what_happened_to_whom_and_in_headers_which_event_it_is(mailbox):
    delivery = delivery_of()
    async with mail_server(mailbox) as port, sink_on(port, to=[ONCALL, LEAD]) as sink:
        await sink.deliver(delivery)

    [mail] = mailbox.messages
    assert mail["Subject"] == "RunStatusChanged Failed: experiments/exp/runs/run-1"
    assert (mail["From"], mail["To"]) == ("ML <ml@example.org>", f"{ONCALL}, {LEAD}")
    assert mail["Message-ID"] == f"<{delivery.idempotency_key}@example.org>"
    assert (mail["X-Idempotency-Key"], mail["X-Event-Id"]) == (delivery.idempotency_key, "e1")
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mailbox.recipients == [[ONCALL, LEAD]]
    text = mail.get_content()
    for said in ("2017-06-26T18:41:00.9584103Z", "/subscriptions/s/workspaces/ws", '"note": "naïve ☃"'):
        assert said in text
    assert "late" not in text
    assert "replay" not in text


async def test_every_attempt_sends_the_same_bytes(mailbox):
    async with mail_server(mailbox) as port, sink_on(port) as sink:
        await sink.deliver(delivery_of())
        await sink.deliver(delivery_of())

    first, second = mailbox.messages
    assert first.as_bytes() == second.as_bytes()


async def test_a_late_event_and_a_replayed_one_say_so_in_the_text(mailbox):
    async with mail_server(mailbox) as port, sink_on(port) as sink:
        await sink.deliver(replace(delivery_of(late_by_ms=5300), replayed=True))

    text = mailbox.messages[0].get_content()
    assert "late: it came 5.3 seconds after" in text
    assert "a replay" in text


async def test_an_event_cannot_write_headers_or_lines_that_look_like_the_workers(mailbox):
    hostile = "x\r\nBcc: thief@example.org\r\n\r\nRoute: none\u2028\x00\u202e.\r\n.\r\nQUIT"
    element = ELEMENT | {"subject": hostile, "id": hostile, "topic": hostile, "data": hostile}
    async with mail_server(mailbox) as port, sink_on(port) as sink:
        await sink.deliver(delivery_of(element | {"eventType": hostile}))

    [mail] = mailbox.messages
    assert mail["Bcc"] is None
    assert mailbox.recipients == [[ONCALL]]
    assert [line for line in mail.get_content().splitlines() if line.startswith(("Bcc:", "Route:"))] == [
        "Route:           all"
    ]
    assert mail.get_content().rstrip().endswith("QUIT")


@pytest.mark.parametrize("subject", ["ü" * 500, "x" * 3000, "naïve ☃ " * 20, None])
async def test_any_subject_arrives_readable_and_short(mailbox, subject):
    async with mail_server(mailbox) as port, sink_on(port) as sink:
        await sink.deliver(delivery_of(ELEMENT | {"subject": subject}))

    line = mailbox.messages[0]["Subject"]
    assert line.startswith(f"RunStatusChanged Failed: {(subject or '(no subject)')[:12]}")
    assert len(line) <= 200


async def test_large_data_is_cut_and_the_message_says_so(mailbox):
    async with mail_server(mailbox) as port, sink_on(port) as sink:
        await sink.deliver(delivery_of(ELEMENT | {"data": {"log": "y" * 2_000_000}}))

    text = mailbox.messages[0].get_content()
    assert len(text) < 25_000
    assert "cut here, after 20,000 of 2,000," in text


# --- encryption and login


async def test_starttls_encrypts_before_anything_is_said(mailbox, certificate):
    context, trusted = certificate
    async with (
        mail_server(mailbox, starttls=context) as port,
        sink_on(port, trusted=trusted, security="starttls") as sink,
    ):
        await sink.deliver(delivery_of())

    assert mailbox.encrypted == [False, True]
    assert mailbox.greeted_as == [f"[{HOST}]"] * 2
    assert len(mailbox.messages) == 1


async def test_tls_encrypts_from_the_first_byte(mailbox, certificate):
    context, trusted = certificate
    async with mail_server(mailbox, tls=context) as port, sink_on(port, trusted=trusted, security="tls") as sink:
        await sink.deliver(delivery_of())

    assert len(mailbox.messages) == 1


async def test_a_server_that_offers_no_encryption_gets_no_message_in_the_open(mailbox):
    async with mail_server(mailbox) as port, sink_on(port, security="starttls") as sink:
        with pytest.raises(Misconfigured, match="STARTTLS"):
            await sink.deliver(delivery_of())

    assert mailbox.messages == []


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_a_certificate_that_is_not_trusted_gets_no_message(mailbox, certificate, security):
    context, _ = certificate
    async with (
        mail_server(mailbox, **{security: context}) as port,
        sink_on(port, security=security) as sink,
    ):
        with pytest.raises(SinkUnavailable, match="certificate that is not trusted"):
            await sink.deliver(delivery_of())

    assert mailbox.messages == []


async def test_the_wrong_kind_of_security_for_the_port_is_said(mailbox):
    async with mail_server(mailbox) as port, sink_on(port, security="tls") as sink:
        with pytest.raises(SinkUnavailable, match="is it the right port"):
            await sink.deliver(delivery_of())


async def test_it_logs_in_with_the_password_as_it_stands_at_that_moment(mailbox, tmp_path):
    file = tmp_path / "password"
    file.write_text("wrong\n")
    async with (
        mail_server(mailbox, password="pässword") as port,
        sink_on(port, username="ml", password_file=str(file)) as sink,
    ):
        with pytest.raises(Misconfigured, match="535"):
            await sink.deliver(delivery_of())
        file.write_text("pässword\n")
        await sink.deliver(delivery_of())

    assert len(mailbox.messages) == 1


async def test_a_password_that_is_missing_or_refused_or_wanted_pauses_and_is_never_shown(mailbox, monkeypatch):
    async with mail_server(mailbox, password="another") as port:
        async with sink_on(port) as sink:
            with pytest.raises(Misconfigured, match="530"):
                await sink.deliver(delivery_of())
        async with sink_on(port, username="ml", password_env="MAIL_PASSWORD") as sink:
            with pytest.raises(Misconfigured, match="MAIL_PASSWORD is not set"):
                await sink.deliver(delivery_of())
            monkeypatch.setenv("MAIL_PASSWORD", PASSWORD)
            with pytest.raises(Misconfigured) as refused:
                await sink.deliver(delivery_of())

    assert PASSWORD not in f"{refused.value!s}{refused.value!r}{refused.value.__cause__!r}"


async def test_what_a_server_echoes_of_the_password_is_masked(mailbox, monkeypatch):
    monkeypatch.setenv("MAIL_PASSWORD", PASSWORD)
    mailbox.to_sender = f"550 not with {PASSWORD}"
    async with (
        mail_server(mailbox, password=PASSWORD) as port,
        sink_on(port, username="ml", password_env="MAIL_PASSWORD") as sink,
    ):
        with pytest.raises(Misconfigured, match=r"550: not with \*\*\*"):
            await sink.deliver(delivery_of())


# --- what each failure means


@pytest.mark.parametrize(
    ("part", "answer", "error"),
    [
        ("to_sender", "451 4.3.0 later", SinkUnavailable),
        ("to_sender", "550 5.7.1 not your address", Misconfigured),
        ("to_data", "452 4.3.1 no room", SinkUnavailable),
        ("to_data", "554 5.6.0 spam", Rejected),
        ("to_data", "530 5.7.0 log in first", Misconfigured),
    ],
)
async def test_an_answer_is_understood_by_its_code(mailbox, part, answer, error):
    setattr(mailbox, part, answer)
    async with mail_server(mailbox) as port, sink_on(port) as sink:
        with pytest.raises(error, match=answer[4:]):
            await sink.deliver(delivery_of())

    assert mailbox.messages == []


@pytest.mark.parametrize(("answer", "error"), [("450 4.2.0 greylisted", SinkUnavailable), ("550 5.1.1 who", Rejected)])
async def test_when_no_recipient_is_taken_the_code_says_whether_to_try_again(mailbox, answer, error):
    mailbox.to_recipient = {ONCALL: answer}
    async with mail_server(mailbox) as port, sink_on(port) as sink:
        with pytest.raises(error, match=answer[4:]):
            await sink.deliver(delivery_of())

    assert mailbox.messages == []


async def test_a_recipient_that_does_not_exist_does_not_keep_the_mail_from_the_others_and_is_said_once(mailbox):
    mailbox.to_recipient = {LEAD: "550 5.1.1 unknown"}
    with capture_logs() as logged:
        async with mail_server(mailbox) as port, sink_on(port, to=[LEAD, ONCALL]) as sink:
            await sink.deliver(delivery_of())
            await sink.deliver(delivery_of())

    assert mailbox.recipients == [[ONCALL]] * 2
    assert [line["to"] for line in logged if line["log_level"] == "warning"] == [LEAD]


async def test_a_recipient_refused_for_now_holds_the_message_for_all_so_that_none_gets_it_twice(mailbox):
    mailbox.to_recipient = {LEAD: "450 4.2.0 later"}
    async with mail_server(mailbox) as port, sink_on(port, to=[ONCALL, LEAD]) as sink:
        with pytest.raises(SinkUnavailable, match="later"):
            await sink.deliver(delivery_of())
        assert mailbox.messages == []
        mailbox.to_recipient = {}
        await sink.deliver(delivery_of())

    assert mailbox.recipients == [[ONCALL, LEAD]]


async def test_a_connection_lost_before_the_message_is_tried_again(mailbox):
    mailbox.vanishes = "before"
    async with mail_server(mailbox) as port, sink_on(port) as sink:
        with pytest.raises(SinkUnavailable, match="closed the connection"):
            await sink.deliver(delivery_of())


async def test_a_connection_lost_after_the_message_leaves_the_outcome_unknown(mailbox):
    mailbox.vanishes = "after"
    async with mail_server(mailbox) as port, sink_on(port) as sink:
        with pytest.raises(OutcomeUnknown, match="after the message was handed over"):
            await sink.deliver(delivery_of())

    assert len(mailbox.messages) == 1


async def test_no_last_word_in_time_leaves_the_outcome_unknown(mailbox):
    mailbox.silent = True
    async with mail_server(mailbox) as port, sink_on(port, timeout_seconds=0.2) as sink:
        with pytest.raises(OutcomeUnknown, match="within"):
            await sink.deliver(delivery_of())

    assert len(mailbox.messages) == 1


async def test_a_server_that_never_greets_is_tried_again():
    async def mute(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(mute, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    async with server, sink_on(port, timeout_seconds=0.2) as sink:
        with pytest.raises(SinkUnavailable, match="within"):
            await sink.deliver(delivery_of())
    for writer in writers:
        writer.close()


async def test_a_server_that_is_not_there_is_tried_again():
    async with sink_on(free_port()) as sink:
        with pytest.raises(SinkUnavailable, match="cannot be connected to"):
            await sink.deliver(delivery_of())


async def test_a_greeting_that_refuses_us_pauses_the_sink():
    async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"554 no service for you\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, HOST, 0)
    async with server, sink_on(server.sockets[0].getsockname()[1]) as sink:
        with pytest.raises(Misconfigured, match="no service for you"):
            await sink.deliver(delivery_of())
