"""Templates in configuration: the sandbox they are filled in, and mistakes in words with their place.

Templates come from operators, never from events. The sandbox keeps them from Python's insides, not from taking long or
much memory: what comes out is bounded, what happens on the way is not. Nothing random is offered: the same delivery
gives the same bytes at each attempt.
"""

from collections.abc import Callable, Iterator, Mapping
from traceback import walk_tb
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, Undefined, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment

OUTPUT_CHARACTERS = 2_000_000
"""What a template may write at most. The built-in ones stay below it, whatever an event holds."""
_ERROR_CHARACTERS = 300
_ADDRESS: Any = object.__repr__
_TEXT_OF_REPR: Any = object.__str__


class _Missing(StrictUndefined):
    """A name that is not there, in the words of those who write templates: they know no classes of Python's."""

    @property
    def _undefined_message(self) -> str:
        called = getattr(type(self._undefined_obj), "_called", None)
        if self._undefined_hint is None and isinstance(called, str):
            return f"there is no {self._undefined_name} in {called}"
        return super()._undefined_message


class BrokenTemplate(Exception):
    """A template that cannot be read or filled in; the text says which line, why, and what to do."""


def sandbox(*, html: bool, filters: Mapping[str, Callable[..., Any]]) -> ImmutableSandboxedEnvironment:
    """Where templates are filled in, with these filters beside Jinja's own; html: values are escaped."""
    environment = ImmutableSandboxedEnvironment(
        undefined=_Missing,
        autoescape=html,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
        finalize=writable,
    )
    del environment.globals["lipsum"]
    del environment.filters["random"]
    environment.filters |= filters
    return environment


def writable(value: Any) -> Any:
    """The value. Raises TypeError for what has no text but its address, which is another one at each attempt."""
    if isinstance(value, Undefined):
        return value  # it says by itself what is missing
    if callable(value):
        name = getattr(value, "__name__", type(value).__name__)
        raise TypeError(f"{name} is a method here; write ['{name}'] for what the event has under that name")
    if isinstance(value, Iterator):
        raise TypeError(f"it is a {type(value).__name__}, and no value; write | list, or | join(', ')")
    if type(value).__repr__ is _ADDRESS and type(value).__str__ is _TEXT_OF_REPR:
        raise TypeError("it is an object, and no value; name one of its fields")
    return value


def parsed(environment: ImmutableSandboxedEnvironment, text: str) -> Template:
    """The template in this text. Raises BrokenTemplate."""
    try:
        return environment.from_string(text)
    except TemplateSyntaxError as error:
        raise unreadable(error) from None


def unreadable(error: TemplateSyntaxError) -> BrokenTemplate:
    """A mistake in a template's syntax, in words."""
    reason = _short(error.message or "it cannot be read")
    return BrokenTemplate(f"line {error.lineno}: {reason}; see Jinja's template syntax")


def unfillable(error: Exception) -> BrokenTemplate:
    """What went wrong when a template was filled in, in words."""
    if isinstance(error, UndefinedError):
        return BrokenTemplate(
            f"{_place(error)}{_short(error.message or 'something is undefined')}; "
            'correct the name, or say what stands for what is missing: {{ … | default("") }}'
        )
    return BrokenTemplate(f"{_place(error)}{_short(str(error)) or type(error).__name__}; correct it")


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
    except Exception as error:  # noqa: BLE001 - a template computes: it can fail in every way that Python can
        raise unfillable(error) from None
    if left < 0:
        raise BrokenTemplate(f"it writes more than {OUTPUT_CHARACTERS:,} characters; leave something out")
    return "".join(written)


def visible(text: str) -> str:
    """The text without control characters; right-to-left marks are some."""
    return "".join(c if c.isprintable() else " " for c in text)


def _place(error: Exception) -> str:
    """The line of the template in which it went wrong: the innermost frame that is one of the template."""
    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == "<template>"]
    return f"line {lines[-1]}: " if lines else ""


def _short(reason: str) -> str:
    return " ".join(visible(reason).split())[:_ERROR_CHARACTERS]
