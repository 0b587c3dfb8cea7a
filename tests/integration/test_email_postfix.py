"""The e-mail sink and a real Postfix, over STARTTLS: it hands on what was sent, and is understood."""

import pytest

from tests.certificates import make_certificate
from tests.deliveries import ELEMENT, delivery_of
from tests.emails import LEAD, ONCALL, TEAM, digest, hostile_delivery, html_of, sink_on, text_of
from tests.mailbox import Mailbox, mail_server
from tests.postfix import needs_postfix, postfix
from tests.support import eventually
from worker.errors import PartlyAccepted, Rejected, SinkUnavailable
from worker.sinks.email_text import compose

LATER, NEVER = "later@example.org", "never@example.org"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def relayed(certificate):
    """The port of a Postfix, and the mailbox that it hands on to."""
    needs_postfix()
    mailbox = Mailbox()
    refused = {LATER: "450 4.2.0 greylisted, come again", NEVER: "550 5.1.1 no such user"}
    async with mail_server(mailbox) as next_port:
        with postfix(certificate, next_port=next_port, refused=refused) as port:
            yield port, mailbox


def relay_sink(port: int, certificate, **more):
    return sink_on(port, trusted=certificate.trusted, security="starttls", **more)


async def test_postfix_hands_on_every_byte(relayed, certificate):
    port, mailbox = relayed
    sent = [delivery_of(late_by_ms=5300), hostile_delivery(), digest(230)]
    async with relay_sink(port, certificate, to=[ONCALL, LEAD]) as sink:
        for number, delivery in enumerate(sent, start=1):
            await sink.deliver(delivery)
            await eventually(lambda number=number: len(mailbox.messages) == number)

    for delivery, raw in zip(sent, mailbox.raw, strict=True):
        ours = compose(delivery, sender="ML <ml@example.org>", to=[ONCALL, LEAD]).as_bytes()
        received, kept = raw[: -len(ours)], raw[-len(ours) :]
        assert kept == ours
        assert received.startswith(b"Received: from ")
        assert b"ESMTPS" in received
    assert [sorted(each) for each in mailbox.recipients] == [[LEAD, ONCALL]] * 3
    mail = mailbox.messages[2]
    assert mail["X-Idempotency-Key"] == sent[2].idempotency_key
    assert mail["References"].startswith("<thread-")
    assert "and 30 more, all in the attachment" in text_of(mail)
    assert html_of(mail).rstrip().endswith("</html>")
    [attached] = mail.iter_attachments()
    assert len(attached.get_payload(decode=True).splitlines()) == 231


async def test_those_it_refuses_for_now_are_told_from_those_it_never_takes(relayed, certificate):
    port, mailbox = relayed
    async with relay_sink(port, certificate, to=[ONCALL, LATER, NEVER, TEAM]) as sink:
        with pytest.raises(PartlyAccepted, match=r"450.*greylisted, come again") as partly:
            await sink.deliver(delivery_of())
        await eventually(lambda: mailbox.messages)
    assert partly.value.served == {ONCALL, TEAM}
    assert [sorted(each) for each in mailbox.recipients] == [[ONCALL, TEAM]]

    async with relay_sink(port, certificate, to=[LATER]) as sink:
        with pytest.raises(SinkUnavailable, match="450"):
            await sink.deliver(delivery_of())
    async with relay_sink(port, certificate, to=[NEVER]) as sink:
        with pytest.raises(Rejected, match=r"550.*no such user"):
            await sink.deliver(delivery_of())


async def test_a_message_that_is_too_large_for_it_is_rejected(relayed, certificate):
    port, mailbox = relayed
    large = "{{ 'x' * 600000 }}"
    async with relay_sink(port, certificate, text_template=large) as sink:
        with pytest.raises(Rejected, match="552"):
            await sink.deliver(delivery_of(ELEMENT))
    assert mailbox.messages == []
