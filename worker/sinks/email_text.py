"""What an e-mail says about an event. Pure: the same at every attempt.

One fixed text, in which nothing that an event holds can pass for a header or for words of the worker.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import EmailPolicy
from email.utils import parseaddr

import orjson

from worker.events import Event
from worker.sinks import Delivery

_SUBJECT_CHARACTERS = 200
_DATA_CHARACTERS = 20_000

_LINE_CHARACTERS = 900
"""A line of a header may have 998."""


class _Policy(EmailPolicy):
    """Lines break at 78 and hold 7 bits, so that every server takes the message as it is; identifiers stay whole."""

    def fold_binary(self, name: str, value: str) -> bytes:
        line = f"{name}: {value}{self.linesep}"
        if name.startswith("X-") and line.isascii() and len(line) < _LINE_CHARACTERS:
            return line.encode()
        return super().fold_binary(name, value)


_POLICY = _Policy(linesep="\r\n", cte_type="7bit")


def compose(delivery: Delivery, *, sender: str, to: Sequence[str]) -> EmailMessage:
    """The message about a delivery: the same at every attempt."""
    released = delivery.released
    event = released.placed.event
    name, address = parseaddr(sender)
    message = EmailMessage(policy=_POLICY)
    message["From"] = Address(name, addr_spec=address)
    message["To"] = [Address(addr_spec=each) for each in to]
    message["Subject"] = _one_line(
        f"{event.type.rpartition('.')[2]}{_status(event)}: {event.subject or '(no subject)'}"
    )
    # When the hub took the event, because that is known of every one; when it happened stands in the text.
    message["Date"] = datetime.fromtimestamp(released.placed.message.enqueued_at, UTC)
    message["Message-ID"] = f"<{delivery.idempotency_key}@{address.rpartition('@')[2]}>"
    message["X-Idempotency-Key"] = delivery.idempotency_key
    message["X-Event-Id"] = _one_line(event.id)
    # No out-of-office note in return.
    message["Auto-Submitted"] = "auto-generated"
    message["X-Auto-Response-Suppress"] = "All"
    message.set_content(_text(delivery))
    return message


def _status(event: Event) -> str:
    """Of a run, how it stands: what one looks for first."""
    status = event.data.get("runStatus") if isinstance(event.data, dict) else None
    return f" {status}" if isinstance(status, str) else ""


def _text(delivery: Delivery) -> str:
    event = delivery.released.placed.event
    facts = {
        "Time": event.time,
        "Source": event.source,
        "Event": event.id,
        "Route": delivery.route,
        "Sink": delivery.sink,
        "Idempotency key": delivery.idempotency_key,
    }
    return "\n".join(
        [
            f"{visible(event.type)} happened to {visible(event.subject or 'something without a subject')}.",
            "",
            *_remarks(delivery),
            *(f"{name + ':':<17}{visible(value)}" for name, value in facts.items() if value),
            "",
            "Data:",
            # Set in, so that an event cannot write lines that look like ours.
            *(f"  {visible(line)}" for line in _data(event.data).splitlines()),
            "",
        ]
    )


def _remarks(delivery: Delivery) -> list[str]:
    remarks = []
    if delivery.replayed:
        remarks += ["This is a replay: it could not be delivered at its time, and somebody asked for it again.", ""]
    late_by_ms = delivery.released.late_by_ms
    if late_by_ms is not None:
        seconds = late_by_ms / 1000
        remarks += [f"This is late: it came {seconds:g} seconds after a later event of its subject was passed on.", ""]
    return remarks


def _data(data: object) -> str:
    if data is None:
        return "none"
    if isinstance(data, bytes):
        return f"{len(data):,} bytes that are not text"
    text = data if isinstance(data, str) else orjson.dumps(data, option=orjson.OPT_INDENT_2).decode()
    if len(text) > _DATA_CHARACTERS:
        text = f"{text[:_DATA_CHARACTERS]}\n… cut here, after {_DATA_CHARACTERS:,} of {len(text):,} characters"
    return text


def visible(text: str) -> str:
    """The text without control characters."""
    return "".join(c if c.isprintable() else " " for c in text)


def _one_line(text: str) -> str:
    """As a header can hold it. Not only against line breaks: other control characters confuse readers too."""
    line = " ".join(visible(text[: 4 * _SUBJECT_CHARACTERS]).split())
    return line if len(line) <= _SUBJECT_CHARACTERS else f"{line[: _SUBJECT_CHARACTERS - 1]}…"
