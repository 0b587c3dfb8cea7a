"""What an e-mail says, whatever carries it: subject, plain text, HTML, and of a digest the complete list as CSV.

Pure: the same at every attempt. Nothing that an event holds can become markup, a header, or a line of ours.
"""

from dataclasses import dataclass
from typing import Any

from jinja2 import Template

from worker.about import TITLE_CHARACTERS, line
from worker.errors import Rejected
from worker.notice import Notice, notice_of
from worker.sinks import Delivery
from worker.sinks.mail_csv import events_csv
from worker.sinks.mail_templates import Part, built_in
from worker.sinks.templating import BrokenTemplate, filled, visible

ENTRIES_SHOWN = 200
_KINDS_SHOWN = 20
_FACTS_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that goes with a mail."""

    name: str
    content_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Mail:
    """What a mail says."""

    subject: str
    """One line of at most 200 characters."""
    text: str
    html: str
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True, slots=True)
class MailTemplates:
    """An operator's own templates, compiled; None: the built-in one."""

    subject: Template | None = None
    text: Template | None = None
    html: Template | None = None


@dataclass(frozen=True, slots=True)
class _Event:
    """An event as templates see it: each text is one line of bounded length, empty where there is none."""

    id: str
    type: str
    source: str
    subject: str
    time: str
    data: Any
    """As it came."""


@dataclass(frozen=True, slots=True)
class _Delivery:
    """A delivery as templates see it."""

    route: str
    sink: str
    idempotency_key: str
    replayed: bool
    late_by_ms: int | None
    superseded: bool


def render(delivery: Delivery, templates: MailTemplates | None = None) -> Mail:
    """The mail about a delivery. Raises Rejected when a template of the operator's fails on it."""
    return render_notice(delivery, notice_of(delivery), templates)


def render_notice(delivery: Delivery, notice: Notice, templates: MailTemplates | None) -> Mail:
    """As `render`, for who has the notice already: of a large digest it takes a while to make."""
    own = templates or MailTemplates()
    variables = _variables(delivery, notice)

    def write(part: Part, template: Template) -> str:
        try:
            return filled(template, variables)
        except BrokenTemplate as error:
            raise Rejected(f"sink {delivery.sink}: {part}_template cannot be filled in, {error}") from None

    subject = notice.title if own.subject is None else write("subject", own.subject)
    return Mail(
        subject=line(subject, TITLE_CHARACTERS) or notice.title,
        text=_clean(write("text", own.text or built_in("text"))),
        html=_clean(write("html", own.html or built_in("html"))),
        attachments=_attachments(notice),
    )


def fill_in(template: Template, delivery: Delivery) -> str:
    """What one template writes about a delivery. Raises BrokenTemplate."""
    return filled(template, _variables(delivery, notice_of(delivery)))


def _variables(delivery: Delivery, notice: Notice) -> dict[str, Any]:
    released = delivery.released
    event = released.placed.event
    return {
        "notice": notice,
        "event": _Event(
            id=line(event.id),
            type=line(event.type),
            source=line(event.source or ""),
            subject=line(event.subject or ""),
            time=line(event.time or ""),
            data=event.data,
        ),
        "delivery": _Delivery(
            route=delivery.route,
            sink=delivery.sink,
            idempotency_key=delivery.idempotency_key,
            replayed=delivery.replayed,
            late_by_ms=released.late_by_ms,
            superseded=released.superseded,
        ),
        # A digest's facts begin with its kinds, which have a table of their own.
        "facts": notice.facts[len(notice.kinds) :][:_FACTS_SHOWN],
        "entries_shown": ENTRIES_SHOWN,
        "kinds_shown": _KINDS_SHOWN,
    }


def _attachments(notice: Notice) -> tuple[Attachment, ...]:
    if not notice.entries:
        return ()
    return (Attachment("events.csv", "text/csv", events_csv(notice.entries)),)


def _clean(text: str) -> str:
    """Line breaks stay; every other control character goes, also those that came with a template."""
    return "\n".join(visible(row).rstrip() for row in text.splitlines()) + "\n"
