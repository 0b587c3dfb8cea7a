"""An e-mail about a delivery as the message that goes over the wire: headers, text, HTML, attachments.

Pure: the same bytes at every attempt. What the parts say is in `mail_text`; here is how mail carries it. Nothing that
an event holds can pass for a header or end a part.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import EmailPolicy
from email.utils import parseaddr

from worker.about import Severity
from worker.notice import notice_of
from worker.sinks import Delivery
from worker.sinks.mail_text import MailTemplates, render_notice

_LINE_CHARACTERS = 900
"""A line of a header may have 998."""
_WHOLE = ("Message-ID", "In-Reply-To", "References")


class _Policy(EmailPolicy):
    """Lines break at 78 and hold 7 bits, so that every server takes the message as it is; identifiers stay whole."""

    def fold_binary(self, name: str, value: str) -> bytes:
        line = f"{name}: {value}{self.linesep}"
        if name.startswith(("X-", *_WHOLE)) and line.isascii() and len(line) < _LINE_CHARACTERS:
            return line.encode()
        return super().fold_binary(name, value)


_POLICY = _Policy(linesep="\r\n", cte_type="7bit")
_ENCODING = "quoted-printable"


def compose(
    delivery: Delivery, *, sender: str, to: Sequence[str], templates: MailTemplates | None = None
) -> EmailMessage:
    """The message about a delivery. Raises Rejected when a template of the operator's fails on it."""
    notice = notice_of(delivery)
    mail = render_notice(delivery, notice, templates)
    name, address = parseaddr(sender)
    domain = address.rpartition("@")[2]
    message = EmailMessage(policy=_POLICY)
    message["From"] = Address(name, addr_spec=address)
    message["To"] = [Address(addr_spec=each) for each in to]
    message["Subject"] = mail.subject
    # When the hub took the event, because that is known of every one; when it happened stands in the text.
    message["Date"] = datetime.fromtimestamp(delivery.released.placed.message.enqueued_at, UTC)
    message["Message-ID"] = f"<{delivery.idempotency_key}@{domain}>"
    # A message that was never sent: what belongs together hangs from it, whichever of it came first or not at all.
    message["In-Reply-To"] = message["References"] = f"<thread-{notice.thread}@{domain}>"
    message["X-Idempotency-Key"] = delivery.idempotency_key
    message["X-Event-Id"] = notice.event_id
    # No out-of-office note in return.
    message["Auto-Submitted"] = "auto-generated"
    message["X-Auto-Response-Suppress"] = "All"
    if notice.severity is Severity.ERROR:
        message["X-Priority"] = "1"
        message["Importance"] = "high"
    message.set_content(mail.text, cte=_ENCODING)
    message.add_alternative(mail.html, subtype="html", cte=_ENCODING)
    for attachment in mail.attachments:
        maintype, subtype = attachment.content_type.split("/")
        charset = {"charset": "utf-8"} if maintype == "text" else None
        message.add_attachment(
            attachment.content, maintype=maintype, subtype=subtype, filename=attachment.name, params=charset
        )
    _bound(message, delivery.idempotency_key)
    return message


def _bound(message: EmailMessage, key: str) -> None:
    """Gives the parts their boundaries, which would be random else.

    Neither quoted-printable nor base64 can write "=_": no content can be taken for a boundary.
    """
    for number, part in enumerate(message.walk()):
        if part.is_multipart():
            part.set_boundary(f"=_{number}_{key[:32]}")
