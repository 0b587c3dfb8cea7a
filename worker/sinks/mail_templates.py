"""Templates of e-mail: the sandbox they are filled in, what they may use, and mistakes in words with their line.

Templates come from operators, never from events. The sandbox keeps them from Python's insides, not from taking long or
much memory: what comes out is bounded, what happens on the way is not. Nothing random is offered: the same delivery
gives the same bytes at each attempt.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from traceback import walk_tb
from typing import Any, Literal

import orjson
from jinja2 import StrictUndefined, Template, TemplateSyntaxError, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from worker.about import Severity, moment
from worker.notice import Entry

Part = Literal["subject", "text", "html"]
"""The parts of a mail that have a template each."""

OUTPUT_CHARACTERS = 2_000_000
"""What a template may write at most. The built-in ones stay below it, whatever an event holds."""
DATA_CHARACTERS = 20_000
_URL_CHARACTERS = 1_000
_ERROR_CHARACTERS = 300

_COLOURS = {"error": "#c50f1f", "warning": "#b85c00", "success": "#107c10", "info": "#0a66c2"}
"""White text is readable on each of them, and each stands out on white and on black."""


class BrokenTemplate(Exception):
    """A template that cannot be read or filled in; the text says which line, why, and what to do."""


def compiled(part: Part, text: str) -> Template:
    """The template in this text. Raises BrokenTemplate."""
    try:
        return _ENVIRONMENTS[part == "html"].from_string(text)
    except TemplateSyntaxError as error:
        reason = _short(error.message or "it cannot be read")
        raise BrokenTemplate(f"line {error.lineno}: {reason}; see Jinja's template syntax") from None


def filled(template: Template, variables: Mapping[str, Any]) -> str:
    """What the template writes. Raises BrokenTemplate, also when that is too much."""
    written: list[str] = []
    left = OUTPUT_CHARACTERS
    try:
        for piece in template.generate(variables):
            written.append(piece)
            left -= len(piece)
            if left < 0:
                break
    except UndefinedError as error:
        raise BrokenTemplate(
            f"{_place(error)}{_short(error.message or 'something is undefined')}; "
            'correct the name, or say what stands for what is missing: {{ … | default("") }}'
        ) from None
    except Exception as error:  # noqa: BLE001 - a template computes: it can fail in every way that Python can
        raise BrokenTemplate(f"{_place(error)}{_short(str(error)) or type(error).__name__}; correct it") from None
    if left < 0:
        raise BrokenTemplate(f"it writes more than {OUTPUT_CHARACTERS:,} characters; leave something out")
    return "".join(written)


@cache
def built_in(part: Literal["text", "html"]) -> Template:
    """The template that the worker brings along."""
    name = "message.html" if part == "html" else "message.txt"
    return compiled(part, files("worker.sinks").joinpath("mail", name).read_text(encoding="utf-8"))


def visible(text: str) -> str:
    """The text without control characters; right-to-left marks are some."""
    return "".join(c if c.isprintable() else " " for c in text)


def _place(error: Exception) -> str:
    """The line of the template in which it went wrong: the innermost frame that is one of the template."""
    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == "<template>"]
    return f"line {lines[-1]}: " if lines else ""


def _short(reason: str) -> str:
    return " ".join(visible(reason).split())[:_ERROR_CHARACTERS]


# --- what templates may use beside Jinja's own


def pretty(data: object) -> str:
    """An event's data for people; cut where it is long, and then it says so."""
    if data is None:
        return "none"
    if isinstance(data, bytes):
        return f"{len(data):,} bytes that are not text"
    text = data if isinstance(data, str) else orjson.dumps(data, option=orjson.OPT_INDENT_2).decode()
    if len(text) > DATA_CHARACTERS:
        text = f"{text[:DATA_CHARACTERS]}\n… cut here, after {DATA_CHARACTERS:,} of {len(text):,} characters"
    return "\n".join(visible(row) for row in text.splitlines())


def _colour(severity: str) -> str:
    return _COLOURS.get(severity, _COLOURS["info"])


def _details(entry: Entry) -> list[str]:
    """What a digest says of an entry beside its title."""
    return list(_details_of(entry))


def _details_of(entry: Entry) -> Iterator[str]:
    yield entry.state or entry.severity.value.capitalize()
    if entry.time:
        yield moment(entry.time)
    if entry.late_by_ms is not None:
        yield f"late by {entry.late_by_ms / 1000:g} s"
    if entry.superseded:
        yield "superseded"


def _link(entry: Entry) -> str:
    """Where an entry leads; empty where it has nothing that can be followed."""
    url = entry.url
    ordinary = url.isascii() and url.isprintable() and " " not in url and len(url) <= _URL_CHARACTERS
    return url if ordinary else ""


def _environment(*, html: bool) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, autoescape=html, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False
    )
    del environment.globals["lipsum"]
    del environment.filters["random"]
    environment.filters |= {
        "pretty": pretty,
        "moment": moment,
        "colour": _colour,
        "details": _details,
        "link": _link,
    }
    return environment


_ENVIRONMENTS = {html: _environment(html=html) for html in (False, True)}

assert set(_COLOURS) == set(Severity)
