"""The keys with which an operator brings templates of their own, for all kinds of sinks that send mail.

A template is tried as soon as the configuration is read, over a sample event and a sample digest: what is wrong with it
is told by `worker check`, not by the first mail at night.
"""

from dataclasses import replace
from pathlib import Path
from typing import Self, cast

import orjson
from pydantic import ValidationInfo, field_validator, model_validator

from worker.decode import decode
from worker.errors import ConfigError
from worker.events import DIGEST_TYPE, Event, Message, PartitionId, Placed, Position, Released, UnixSeconds
from worker.notice import entry_of
from worker.settings import FilePath, SinkSettings, one_of
from worker.sinks import Delivery
from worker.sinks.mail_templates import BrokenTemplate, Part, compiled
from worker.sinks.mail_text import MailTemplates, fill_in

_PARTS: tuple[Part, ...] = ("subject", "text", "html")


class MailSettings(SinkSettings):
    """What every kind of sink has that sends mail: templates, each as text or in a file. None: the built-in ones."""

    subject_template: str | None = None
    """Jinja2. What it writes becomes one line of at most 200 characters."""
    subject_template_file: FilePath | None = None
    text_template: str | None = None
    """Jinja2. The plain text of the mail."""
    text_template_file: FilePath | None = None
    html_template: str | None = None
    """Jinja2. The HTML of the mail: the whole document. Values are escaped."""
    html_template_file: FilePath | None = None

    @field_validator("subject_template", "text_template", "html_template")
    @classmethod
    def _works(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is not None:
            _try_out(str(info.field_name).removesuffix("_template"), text)
        return text

    @field_validator("subject_template_file", "text_template_file", "html_template_file")
    @classmethod
    def _file_works(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        if file is not None:
            _try_out(str(info.field_name).removesuffix("_template_file"), _read(file))
        return file

    @model_validator(mode="after")
    def _one_template_each(self) -> Self:
        for part in _PARTS:
            one_of(dict(self), f"{part}_template", f"{part}_template_file", required=False)
        return self

    def templates(self) -> MailTemplates:
        """The operator's templates, as they stand now. Raises ConfigError where a file has changed for the worse."""
        try:
            found = {part: text for part in _PARTS if (text := self._text(part)) is not None}
            return MailTemplates(**{part: compiled(part, text) for part, text in found.items()})
        except (ValueError, BrokenTemplate) as error:
            raise ConfigError([f"sink {self.name}: a template: {error}"]) from None

    def _text(self, part: Part) -> str | None:
        file: Path | None = getattr(self, f"{part}_template_file")
        text: str | None = getattr(self, f"{part}_template")
        return _read(file) if file is not None else text


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError("the file is not UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"the file cannot be read: {error.strerror or type(error).__name__}") from None


def _try_out(part: str, text: str) -> None:
    """Raises ValueError that says where the template fails, and over what."""
    try:
        template = compiled(cast("Part", part), text)
    except BrokenTemplate as error:
        raise ValueError(f"the template cannot be read: {error}") from None
    event = _sample_event()
    for sample, what in ((event, "a sample event"), (_sample_digest(event), "a sample digest")):
        try:
            fill_in(template, sample)
        except BrokenTemplate as error:
            raise ValueError(f"the template cannot be filled in with {what}: {error}") from None


# --- samples

_WORKSPACE = (
    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/ml"
    "/providers/Microsoft.MachineLearningServices/workspaces/sample"
)


def _sample_event() -> Delivery:
    element = {
        "id": "sample-1",
        "topic": _WORKSPACE,
        "subject": "experiments/sample/runs/run-1",
        "eventType": "Microsoft.MachineLearningServices.RunStatusChanged",
        "eventTime": "2026-01-31T06:00:00.0000000Z",
        "data": {"experimentName": "sample", "runId": "run-1", "runStatus": "Failed", "runTags": {"team": "sample"}},
    }
    message = Message(PartitionId("0"), 1, "1", UnixSeconds(1_769_839_200.0), orjson.dumps(element))
    [event] = decode(message)
    assert isinstance(event, Event)
    released = Released(Placed(event, message, Position(1, 0)), late_by_ms=5300)
    return Delivery(released, route="sample", sink="sample", idempotency_key="0" * 64)


def _sample_digest(single: Delivery) -> Delivery:
    placed = single.released.placed
    entries = [replace(entry_of(single), id=f"sample-{number}", superseded=number < 3) for number in (1, 2, 3)]
    data = {
        "count": len(entries),
        "because": "group",
        "group": {"experiment": "sample"},
        "events": [entry.to_json() for entry in entries],
    }
    event = replace(
        placed.event, id="sample-digest", type=DIGEST_TYPE, source="/worker", subject="sample", data=data, envelope={}
    )
    return replace(single, released=Released(replace(placed, event=event)))
