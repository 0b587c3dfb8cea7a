"""The e-mail sink against a real mail server: what arrives, and what each way of failing means."""

import asyncio
import csv
import io
import re
from dataclasses import replace

import pytest

from tests.deliveries import ELEMENT, delivery_of
from tests.emails import LEAD, ONCALL, RUN, digest, hostile_delivery, html_of, sink_on, text_of
from tests.mailbox import HOST, Mailbox, mail_server
from tests.support import free_port
from worker.errors import Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


# --- what arrives


async def test_the_message_says_what_happened_to_whom_and_in_headers_which_event_it_is(mailbox):
    delivery = delivery_of()
    async with mail_server(mailbox) as port, sink_on(port, to=[ONCALL, LEAD]) as sink:
        await sink.deliver(delivery)

    [mail] = mailbox.messages
    assert mail["Subject"] == "Run Failed: exp"
    assert (mail["From"], mail["To"]) == ("ML <ml@example.org>", f"{ONCALL}, {LEAD}")
    assert mail["Message-ID"] == f"<{delivery.idempotency_key}@example.org>"
    assert (mail["X-Idempotency-Key"], mail["X-Event-Id"]) == (delivery.idempotency_key, "e1")
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mailbox.recipients == [[ONCALL, LEAD]]
    assert [part.get_content_type() for part in mail.walk()] == ["multipart/alternative", "text/plain", "text/html"]
    for text in (text_of(mail), html_of(mail).replace("&#34;", '"')):
        for said in ("2017-06-26T18:41:00.9584103Z", "/subscriptions/s/workspaces/ws", '"note": "naïve ☃"'):
            assert said in text
        assert "This is" not in text


async def test_every_attempt_sends_the_same_bytes(mailbox):
    async with mail_server(mailbox) as port, sink_on(port) as sink:
        await sink.deliver(delivery_of())
        await sink.deliver(delivery_of())

        await sink.deliver(digest(3))
        await sink.deliver(digest(3))

    first, second, third, fourth = mailbox.raw
    assert first == second
    assert third == fourth


async def test_a_late_event_and_a_replayed_one_say_so_in_the_text(mailbox):
    async with mail_server(mailbox) as port, sink_on(port) as sink:
        await sink.deliver(replace(delivery_of(late_by_ms=5300), replayed=True))

        await sink.deliver(delivery_of(late_by_ms=5300))

    replayed, late = ((text_of(mail), html_of(mail)) for mail in mailbox.messages)
    assert all("a replay" in text for text in replayed)
    assert all("late: it came 5.3 seconds after" in text for text in late)


async def test_an_event_cannot_write_headers_or_lines_that_look_like_the_workers(mailbox):
    async with mail_server(mailbox) as port, sink_on(port) as sink:
        await sink.deliver(hostile_delivery())

    [mail] = mailbox.messages
    assert mail["Bcc"] is None
    assert mailbox.recipients == [[ONCALL]]
    assert len(list(mail.walk())) == 3
    text = text_of(mail)
    assert [line for line in text.splitlines() if line.startswith(("Bcc:", "Route:", "QUIT"))] == [
        "Route:           all"
    ]
    assert "  Bcc: thief@example.org" in text.splitlines()
    assert "<script" not in html_of(mail)
    assert "<img" not in html_of(mail)
    assert "{{ 7*7 }}" in text
    assert "{{ 7*7 }}" in html_of(mail)


async def test_no_line_on_the_wire_is_long_or_holds_more_than_7_bits(mailbox):
    hard = {"subject": "naïve ☃ " * 1000, "id": "é" * 3000, "data": {"log": "ü" * 10_000, "x" * 5000: ["=_0_" * 5000]}}
    async with mail_server(mailbox) as port, sink_on(port) as sink:
        for delivery in (delivery_of(ELEMENT | hard), hostile_delivery(), digest(300)):
            await sink.deliver(delivery)

    for raw in mailbox.raw:
        assert raw.isascii()
        assert max(len(line) for line in raw.split(b"\r\n")) <= 998
        assert b"\n" not in raw.replace(b"\r\n", b"")


async def test_identifiers_stay_whole_however_long_the_domain_is(mailbox):
    domain = f"{'x' * 60}.{'y' * 60}.example.org"
    async with mail_server(mailbox) as port, sink_on(port, **{"from": f"ml@{domain}"}) as sink:
        await sink.deliver(delivery_of())

    for name in ("Message-ID", "In-Reply-To", "References"):
        assert re.search(rf"\r\n{name}: <[0-9a-z-]+@{domain}>\r\n".encode(), mailbox.raw[0])


async def test_mails_about_one_subject_hang_together_and_others_do_not(mailbox):
    async with mail_server(mailbox) as port, sink_on(port) as sink:
        for change in ({}, {"id": "e2"}, {"subject": "experiments/exp/runs/run-2"}):
            await sink.deliver(delivery_of(ELEMENT | change))

    threads = [mail["References"] for mail in mailbox.messages]
    assert threads[0] == threads[1] != threads[2]
    assert [mail["In-Reply-To"] for mail in mailbox.messages] == threads
    assert threads[0].startswith("<thread-")
    assert threads[0].endswith("@example.org>")
    assert len({mail["Message-ID"] for mail in mailbox.messages}) == 3


@pytest.mark.parametrize(("status", "importance"), [("Failed", "high"), ("Completed", None)])
async def test_only_an_error_is_marked_important(mailbox, status, importance):
    async with mail_server(mailbox) as port, sink_on(port) as sink:
        await sink.deliver(delivery_of(RUN | {"data": {"runStatus": status}}))

    [mail] = mailbox.messages
    assert (mail["Importance"], mail["X-Priority"]) == (importance, importance and "1")


async def test_a_digest_counts_lists_what_fits_and_attaches_all(mailbox):
    async with mail_server(mailbox) as port, sink_on(port) as sink:
        await sink.deliver(digest(230))

    [mail] = mailbox.messages
    assert mail["Subject"].startswith("230 events: 116 Run Failed")
    assert "and 30 more, all in the attachment" in text_of(mail)
    assert "and 30 more, all in the attachment" in html_of(mail)
    assert html_of(mail).count("<a href=") == 200
    [attached] = mail.iter_attachments()
    assert (attached.get_filename(), attached.get_content_type()) == ("events.csv", "text/csv")
    rows = list(csv.DictReader(io.StringIO(attached.get_payload(decode=True).decode("utf-8-sig"))))
    assert [row["id"] for row in rows] == [f"event-{number}" for number in range(230)]
    assert (rows[3]["lateby"], rows[2]["superseded"], rows[0]["state"]) == ("5300", "true", "Failed")


async def test_an_operators_templates_write_the_mail(mailbox, tmp_path):
    (tmp_path / "mail.html").write_text("<p>{{ event.subject }} & {{ notice.severity }}</p>")
    own = {
        "subject_template": "[ML]\n{{ notice.title }}",
        "text_template": "{{ delivery.route }}: {{ event.data.note | default('nothing') }}",
        "html_template_file": str(tmp_path / "mail.html"),
    }
    async with mail_server(mailbox) as port, sink_on(port, **own) as sink:
        await sink.deliver(delivery_of(ELEMENT | {"subject": "<b>"}))

    [mail] = mailbox.messages
    assert mail["Subject"] == "[ML] Run Failed: <b>"
    assert text_of(mail).strip() == "all: naïve ☃"
    assert html_of(mail).strip() == "<p>&lt;b&gt; & error</p>"


async def test_a_template_that_fails_on_an_event_makes_it_a_dead_letter_with_the_line(mailbox):
    own = "\n{% if notice.entries %}{% else %}{{ 1 / (event.data.number | default(1)) }}{% endif %}"
    async with mail_server(mailbox) as port, sink_on(port, text_template=own) as sink:
        with pytest.raises(Rejected, match=r"text_template cannot be filled in, line 2: division by zero"):
            await sink.deliver(delivery_of(ELEMENT | {"data": {"number": 0}}))

    assert mailbox.messages == []


@pytest.mark.parametrize("subject", ["ü" * 500, "x" * 3000, "naïve ☃ " * 20, None])
async def test_any_subject_arrives_readable_and_short(mailbox, subject):
    async with mail_server(mailbox) as port, sink_on(port) as sink:
        await sink.deliver(delivery_of(ELEMENT | {"subject": subject, "eventType": "Shop.Happened", "data": None}))

    line = mailbox.messages[0]["Subject"]
    assert line.startswith(f"Happened: {(subject or '(no subject)')[:12]}")
    assert len(line) <= 200


async def test_large_data_is_cut_and_the_message_says_so(mailbox):
    async with mail_server(mailbox) as port, sink_on(port) as sink:
        await sink.deliver(delivery_of(ELEMENT | {"data": {"log": "y" * 2_000_000}}))

    for text in (text_of(mailbox.messages[0]), html_of(mailbox.messages[0])):
        assert len(text) < 30_000
        assert "cut here, after 20,000 of 2,000," in text


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
        with pytest.raises(SinkUnavailable, match="cannot be connected to: Connection refused"):
            await sink.deliver(delivery_of())


async def test_a_greeting_that_refuses_us_pauses_the_sink():
    async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"554 no service for you\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, HOST, 0)
    async with server, sink_on(server.sockets[0].getsockname()[1]) as sink:
        with pytest.raises(Misconfigured, match="no service for you"):
            await sink.deliver(delivery_of())
