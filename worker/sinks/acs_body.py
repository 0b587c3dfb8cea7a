"""The body of a request that sends a mail through Azure Communication Services, and the operation's id. Pure.

The same delivery gives the same bytes at every attempt, because the service takes a second request under the same id
for a repetition only when it says the same.
"""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any
from urllib.parse import quote
from uuid import UUID

import orjson

from worker.about import line
from worker.sinks import Delivery
from worker.sinks.mail_text import Attachment, Mail

MOST_BYTES = 10_000_000
"""Of a request. The documents say 10 MB, with all attachments; this is the smaller of the two things that can mean."""

_TEXT_CHARACTERS = 1_000_000
"""Of a text that must be cut: in JSON a character takes six bytes at most."""
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


@dataclass(frozen=True, slots=True)
class Envelope:
    """What of a mail does not depend on the event."""

    sender: str
    to: tuple[str, ...]
    cc: tuple[str, ...]
    bcc: tuple[str, ...]
    reply_to: tuple[str, ...]
    tracking_disabled: bool


def operation_id(delivery: Delivery) -> UUID:
    """The idempotency key's first 128 bits as a UUID: the same for re-sent copies, attempts, pods and restarts.

    Six bits of them give way to what RFC 4122 wants: version 5, a name's digest (though this digest is SHA-256), and
    the variant. The newer version 8 says it better, but a receiver that checks may know only those up to 5.
    """
    return UUID(hex=delivery.idempotency_key[:32], version=5)


def request_body(delivery: Delivery, mail: Mail, envelope: Envelope) -> bytes:
    """The request as JSON. What makes it too large is left out, and the mail says so."""
    body = _encoded(delivery, mail, envelope)
    smaller = _smaller(mail)
    while len(body) > MOST_BYTES:
        body = _encoded(delivery, next(smaller), envelope)
    return body


def _encoded(delivery: Delivery, mail: Mail, envelope: Envelope) -> bytes:
    recipients = {"to": envelope.to, "cc": envelope.cc, "bcc": envelope.bcc}
    message: dict[str, Any] = {
        "senderAddress": envelope.sender,
        "content": {"subject": mail.subject, "plainText": mail.text} | ({"html": mail.html} if mail.html else {}),
        "recipients": {kind: _addresses(each) for kind, each in recipients.items() if each},
        "headers": _headers(delivery),
        "userEngagementTrackingDisabled": envelope.tracking_disabled,
    }
    if envelope.reply_to:
        message["replyTo"] = _addresses(envelope.reply_to)
    if mail.attachments:
        message["attachments"] = [_attachment(each) for each in mail.attachments]
    return orjson.dumps(message)


def _addresses(addresses: Sequence[str]) -> list[dict[str, str]]:
    return [{"address": each} for each in addresses]


def _headers(delivery: Delivery) -> dict[str, str]:
    """Of the mail. Only such that begin with X-: the service writes the others, or may refuse them."""
    event_id = line(delivery.released.placed.event.id)
    return {
        # In ASCII, as CloudEvents writes attributes into headers.
        "X-Event-Id": quote(event_id, safe=_PRINTABLE),
        "X-Idempotency-Key": delivery.idempotency_key,
        # No out-of-office note in return.
        "X-Auto-Response-Suppress": "All",
    }


def _attachment(attachment: Attachment) -> dict[str, str]:
    return {
        "name": attachment.name,
        "contentType": attachment.content_type,
        "contentInBase64": base64.b64encode(attachment.content).decode(),
    }


def _smaller(mail: Mail) -> Iterator[Mail]:
    """The mail with less and less in it: the largest attachments go first, then the HTML, then the end of the text."""
    by_size = sorted(mail.attachments, key=lambda each: len(each.content), reverse=True)
    for number in range(1, len(by_size) + 1):
        left_out = by_size[:number]
        note = f"Left out, because the mail would be too large: {', '.join(each.name for each in left_out)}."
        kept = tuple(each for each in mail.attachments if each not in left_out)
        yield replace(mail, attachments=kept, text=f"{mail.text}\n{note}\n", html=_with_note(mail.html, note))
    names = ", ".join(["the version in HTML", *(each.name for each in by_size)])
    note = f"Left out, because the mail would be too large: {names}."
    yield replace(mail, attachments=(), html="", text=f"{mail.text}\n{note}\n")
    text = f"{mail.text[:_TEXT_CHARACTERS]}\n… cut here, after {_TEXT_CHARACTERS:,} of {len(mail.text):,} characters"
    yield replace(mail, attachments=(), html="", text=f"{text}\n\n{note}\n")


def _with_note(html: str, note: str) -> str:
    paragraph = f"<p>{escape(note)}</p>"
    before, end, after = html.rpartition("</body>")
    return f"{before}{paragraph}{end}{after}" if end else f"{html}{paragraph}"
