"""Templates of e-mail: the built-in ones, and what an operator's own may use besides what all templates have."""

from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import orjson
from jinja2 import Template

from worker.about import Severity, moment
from worker.notice import Entry
from worker.sinks.templating import parsed, sandbox, visible

Part = Literal["subject", "text", "html"]
"""The parts of a mail that have a template each."""

DATA_CHARACTERS = 20_000
_URL_CHARACTERS = 1_000

_COLOURS = {"error": "#c50f1f", "warning": "#b85c00", "success": "#107c10", "info": "#0a66c2"}
"""White text is readable on each of them, and each stands out on white and on black."""


def compiled(part: Part, text: str) -> Template:
    """The template in this text. Raises BrokenTemplate."""
    return parsed(_ENVIRONMENTS[part == "html"], text)


@cache
def built_in(part: Literal["text", "html"]) -> Template:
    """The template that the worker brings along."""
    name = "message.html" if part == "html" else "message.txt"
    return compiled(part, files("worker.sinks").joinpath("mail", name).read_text(encoding="utf-8"))


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


_FILTERS: dict[str, Callable[..., Any]] = {
    "pretty": pretty,
    "moment": moment,
    "colour": _colour,
    "details": _details,
    "link": _link,
}
_ENVIRONMENTS = {html: sandbox(html=html, filters=_FILTERS) for html in (False, True)}

assert set(_COLOURS) == set(Severity)
