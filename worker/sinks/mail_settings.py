"""The keys with which an operator brings templates of their own, for all kinds of sinks that send mail.

A template is tried as soon as the configuration is read, over a sample event and a sample digest: what is wrong with it
is told by `worker check`, not by the first mail at night.
"""

from pathlib import Path
from typing import Self, cast

from pydantic import ValidationInfo, field_validator, model_validator

from worker.errors import ConfigError
from worker.events import UnixSeconds
from worker.samples import Sample, sample_delivery
from worker.settings import FilePath, SinkSettings, one_of
from worker.sinks.mail_templates import Part, compiled
from worker.sinks.mail_text import MailTemplates, fill_in
from worker.sinks.templating import BrokenTemplate

_PARTS: tuple[Part, ...] = ("subject", "text", "html")
_SOME_TIME = UnixSeconds(1_769_839_200.0)


class MailSettings(SinkSettings):
    """What every kind of sink has that sends mail: templates, as text or in a file; left out: the built-in ones."""

    subject_template: str | None = None
    """Jinja2. What it writes becomes one line of at most 200 characters."""
    subject_template_file: FilePath | None = None
    """The same, in a file."""
    text_template: str | None = None
    """Jinja2. The plain text of the mail."""
    text_template_file: FilePath | None = None
    """The same, in a file."""
    html_template: str | None = None
    """Jinja2. The HTML of the mail: the whole document. Values are escaped."""
    html_template_file: FilePath | None = None
    """The same, in a file."""

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

    @property
    def read_once(self) -> tuple[Path, ...]:
        """The files of templates."""
        given = (getattr(self, f"{part}_template_file") for part in _PARTS)
        return tuple(file for file in given if file is not None)

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
        raise ValueError(f"{file} is not UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or type(error).__name__}") from None


def _try_out(part: str, text: str) -> None:
    """Raises ValueError that says where the template fails, and over what."""
    try:
        template = compiled(cast("Part", part), text)
    except BrokenTemplate as error:
        raise ValueError(f"the template cannot be read: {error}") from None
    for sample, what in ((Sample.FAILED_RUN, "a sample event"), (Sample.DIGEST, "a sample digest")):
        try:
            fill_in(template, sample_delivery(sample, "sample", now=_SOME_TIME))
        except BrokenTemplate as error:
            raise ValueError(f"the template cannot be filled in with {what}: {error}") from None
