"""Expectations as they stand in routes.yaml: what must follow on what, and within which time. Compiled in `expect`."""

import re
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field

from worker.sinks.patterns import EventPattern
from worker.sinks.templating import BrokenTemplate
from worker.strict import Settings

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = r"^0*[1-9][0-9]{0,8}[smhd]$"
_LONGEST_DAYS = 366


def seconds_of(text: str) -> int:
    """The length of a time as it is written: 30s, 15m, 2h, 7d."""
    return int(text[:-1]) * _UNITS[text[-1]]


def _duration(value: object) -> object:
    text = value if isinstance(value, str) else str(value)
    if not isinstance(value, bool) and re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise ValueError(f"has no unit; write {text}s, {text}m, {text}h or {text}d")
    if not isinstance(value, str) or not re.fullmatch(_DURATION, text):
        raise ValueError("is no length of time; write a whole number and its unit, such as 30s, 15m, 2h or 7d")
    if seconds_of(text) > _LONGEST_DAYS * _UNITS["d"]:
        raise ValueError(f"is too long; write at most {_LONGEST_DAYS}d")
    return text


Duration = Annotated[
    str, BeforeValidator(_duration, json_schema_input_type=Annotated[str, Field(pattern=_DURATION, max_length=10)])
]
"""A length of time with its unit, as it is written."""


def _key_template(text: str) -> str:
    try:
        EventPattern(text)
    except BrokenTemplate as error:
        raise ValueError(f"the template cannot be read: {error}") from None
    return text


KeyTemplate = Annotated[str, Field(min_length=1), AfterValidator(_key_template)]
"""A text with templates over the event alone."""


class CorrelateSettings(Settings):
    """By what a second event is known to belong to a first one, where their subjects differ."""

    after: KeyTemplate
    """The key of a first event: a text with templates over it, such as "{{ event.data.modelName }}"."""
    then: KeyTemplate
    """The key of a second event; of a list that stands there, each entry is one."""
    split: str | None = Field(default=None, min_length=1)
    """What stands between the keys in the text of `then`, where it holds several; left out: it is one key."""
    any_source: bool = False
    """Whether the two may come from different sources; else only events of one source belong together."""


def _one_for_both(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not value:
        raise ValueError("is empty; write a template, or leave the key out")
    _key_template(value)
    return {"after": value, "then": value}


Correlate = Annotated[CorrelateSettings, BeforeValidator(_one_for_both, json_schema_input_type=str | CorrelateSettings)]
"""One text for both events, or one for each."""


class ExpectSettings(Settings):
    """One expectation: `after` an event another must follow `within` a time; or a source must not be silent."""

    needs_one_of = (("within", "every"),)
    goes_with: ClassVar = {
        "within": ("after", "then"),
        "every": ("sources",),
        "after": ("within",),
        "then": ("within",),
        "correlate": ("within",),
        "events": ("every",),
    }

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")
    """What metrics, logs and the event of a missed expectation call it."""
    sources: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(default=None, min_length=1)
    """Topics whose events it looks at; left out: all. With `every` each of them is watched for itself."""
    after: dict[str, object] | None = None
    """Event Grid's own filter: the first events, each of which something must follow."""
    then: dict[str, object] | None = None
    """The filter of the events that must follow."""
    correlate: Correlate | None = None
    """By what two events belong together; one text for both, or one for each. Left out: they have one subject."""
    within: Duration | None = None
    """How long after the first event, by the events' own times, the second must have happened: 30s, 15m, 2h, 7d."""
    events: dict[str, object] | None = None
    """With `every`, the filter of what counts as a sign of life; left out: every event."""
    every: Duration | None = None
    """How long a listed source may be silent."""
