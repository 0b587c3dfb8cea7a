"""JSON values with templates in them: what an operator writes as inputs, parameters or tags, filled in from a delivery.

A text may hold Jinja templates; a text that is one `{{ … }}` and nothing else keeps the type of what stands in it: a
number stays a number. Names in an event's data are found in any case, the exact one first. Pure: the same delivery
gives the same value at each attempt. What cannot be filled in makes a dead letter.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from math import isfinite
from typing import Annotated, Any, ClassVar

import orjson
from jinja2 import TemplateSyntaxError, meta, nodes
from pydantic import AfterValidator

from worker.errors import Rejected
from worker.events import Event
from worker.notice import Notice, notice_of
from worker.sinks import Delivery
from worker.sinks.templating import BrokenTemplate, filled, parsed, sandbox, unfillable, unreadable, writable

_ENVIRONMENT = sandbox(html=False, filters={})
_NAMES = ("event", "delivery", "notice")
"""What templates are filled in from."""
_ONE_EXPRESSION = re.compile(r"\{\{[-+]?((?:(?!\{\{|\}\}).)+?)-?\}\}", re.DOTALL)
"""With Jinja's marks for white space: `{{- x }}` is no negative number."""
_MARK = re.compile(r"\{[{%#]")
"""What a text without it is no template: it stays as it is, line breaks and all."""
_PLAIN = (int, float, bool, type(None), dict, list)
"""What JSON has."""

_Fill = Callable[[Mapping[str, Any]], Any]


class Fields(dict[str, Any]):
    """An object of an event's data, whose names are found in any case."""

    _called = "the event's data"

    def __missing__(self, name: str) -> Any:
        folded = name.casefold()
        for key in self:
            if key.casefold() == folded:
                return self[key]
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and name.casefold() in map(str.casefold, self))

    def get(self, name: str, default: Any = None) -> Any:
        """See `dict`."""
        try:
            return self[name]
        except KeyError:
            return default


@dataclass(frozen=True, slots=True)
class _Event:
    """An event as these templates see it: as it came, absent attributes are empty."""

    _called: ClassVar = "event"
    id: str
    type: str
    source: str
    subject: str
    time: str
    data: Any


@dataclass(frozen=True, slots=True)
class _Delivery:
    """A delivery as templates see it."""

    _called: ClassVar = "delivery"
    route: str
    sink: str
    idempotency_key: str
    replayed: bool
    late_by_ms: int | None


_ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "event": tuple(each.name for each in fields(_Event)),
    "delivery": tuple(each.name for each in fields(_Delivery)),
}


class Pattern:
    """A value of JSON's types with templates in its texts, compiled."""

    def __init__(self, value: Any, where: str = "") -> None:
        """`where` is the key it stands under. Raises BrokenTemplate that says where in the value, and why."""
        self._fill = _compiled(value, where)
        self._where = where or "a template"

    def fill(self, delivery: Delivery) -> Any:
        """The value for this delivery, which JSON can hold. Raises Rejected."""
        try:
            value = self._fill(_SEEN.variables(delivery))
            orjson.dumps(value)
        except BrokenTemplate as error:
            raise Rejected(f"sink {delivery.sink}: {error}") from None
        except TypeError as error:  # a number beyond 64 bits, half a character, something that is no data
            raise Rejected(f"sink {delivery.sink}: {self._where}: JSON cannot hold the value: {error}") from None
        return value

    def text(self, delivery: Delivery) -> str:
        """The same where a text is needed; of a number its digits. Raises Rejected."""
        value = self.fill(delivery)
        if isinstance(value, str):
            return value
        return "" if value is None else str(value)


class EventPattern:
    """A text with templates over an event alone, compiled: for what is no delivery."""

    def __init__(self, text: str) -> None:
        """Raises BrokenTemplate that says why."""
        self._fill = _compiled_text(text, "", ("event",))

    def fill(self, event: Event) -> Any:
        """The value for this event. Raises BrokenTemplate."""
        return self._fill({"event": _event(event)})


def _check(value: Any) -> Any:
    try:
        Pattern(value)
    except BrokenTemplate as error:
        raise ValueError(f"the template cannot be read: {error}") from None
    return value


TemplateText = Annotated[str, AfterValidator(_check)]
"""A text of a sink's settings that may hold templates."""
TemplateValue = Annotated[Any, AfterValidator(_check)]
"""Any value of JSON's types whose texts may hold templates."""


def _compiled(value: Any, where: str) -> _Fill:
    match value:
        case str():
            return _compiled_text(value, where)
        case Mapping():
            fields = {name: _compiled(each, f"{where}.{name}" if where else str(name)) for name, each in value.items()}
            return lambda variables: {name: fill(variables) for name, fill in fields.items()}
        case list() | tuple():
            items = [_compiled(each, f"{where}[{number}]") for number, each in enumerate(value)]
            return lambda variables: [fill(variables) for fill in items]
        case _:
            return lambda _: value


def _compiled_text(text: str, where: str, names: tuple[str, ...] = _NAMES) -> _Fill:
    place = f"{where}: " if where else ""
    if not _MARK.search(text):
        return lambda _: text
    try:
        _check_names(text, names)
        one = _ONE_EXPRESSION.fullmatch(text.strip())
        fill = _expression(one[1]) if one else _text(text)
    except TemplateSyntaxError as error:
        raise BrokenTemplate(f"{place}{unreadable(error)}") from None
    except BrokenTemplate as error:
        raise BrokenTemplate(f"{place}{error}") from None

    def fill_in(variables: Mapping[str, Any]) -> Any:
        try:
            return fill(variables)
        except BrokenTemplate as error:
            raise BrokenTemplate(f"{place}{error}") from None

    return fill_in


def _check_names(text: str, names: tuple[str, ...]) -> None:
    template = _ENVIRONMENT.parse(text)
    for name in sorted(meta.find_undeclared_variables(template) - set(names)):
        raise BrokenTemplate(f"{name} is no name that templates know; {_instead(name, names)}")
    named_anew = {each.name for each in template.find_all(nodes.Name) if each.ctx == "store"}
    for each in template.find_all(nodes.Getattr):
        if isinstance(each.node, nodes.Name) and each.node.name not in named_anew:
            _check_attribute(each.node.name, each.attr)


def _check_attribute(of: str, name: str) -> None:
    """What no event has makes each of them a dead letter."""
    known = _ATTRIBUTES.get(of)
    if known and name not in known:
        what = f"{of}.data.{name}" if of == "event" else ""
        raise BrokenTemplate(f"there is no {name} in {of}; {_instead(name, known, what)}")


def _instead(name: str, known: tuple[str, ...], what: str = "") -> str:
    near = get_close_matches(name, known, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"write {what}, or one of {', '.join(known)}" if what else f"there are {', '.join(known)}"


def _text(text: str) -> _Fill:
    template = parsed(_ENVIRONMENT, text)
    return lambda variables: filled(template, variables)


def _expression(text: str) -> _Fill:
    expression = _ENVIRONMENT.compile_expression(text, undefined_to_none=False)

    def fill(variables: Mapping[str, Any]) -> Any:
        try:
            return _as_json(writable(expression(**variables)))
        except Exception as error:  # noqa: BLE001 - a template computes: it can fail in every way that Python can
            raise unfillable(error.with_traceback(None)) from None  # it has one line, and no other has a number here

    return fill


def _as_json(value: Any) -> Any:
    """A value of JSON's types. Raises for what is no number there, and, in words, for what is missing."""
    if isinstance(value, float) and not isfinite(value):
        raise ArithmeticError(f"{value} is no number in JSON")
    return value if isinstance(value, _PLAIN) else str(value)


def _variables(delivery: Delivery) -> dict[str, Any]:
    released = delivery.released
    event = released.placed.event
    return {
        "event": _event(event),
        "delivery": _Delivery(
            route=delivery.route,
            sink=delivery.sink,
            idempotency_key=delivery.idempotency_key,
            replayed=delivery.replayed,
            late_by_ms=released.late_by_ms,
        ),
        "notice": _LazyNotice(delivery),
    }


def _event(event: Event) -> _Event:
    return _Event(
        id=event.id,
        type=event.type,
        source=event.source or "",
        subject=event.subject or "",
        time=event.time or "",
        data=_fields(event.data),
    )


class _Seen:
    """The last delivery as templates see it: a sink fills in all its patterns in a row, and data may be large."""

    def __init__(self) -> None:
        self._delivery: Delivery | None = None
        self._variables: Mapping[str, Any] = {}

    def variables(self, delivery: Delivery) -> Mapping[str, Any]:
        """What templates are filled in from. Nobody changes it: the sandbox forbids it."""
        if self._delivery is not delivery:
            self._delivery, self._variables = delivery, _variables(delivery)
        return self._variables


_SEEN = _Seen()


class _LazyNotice:
    """The notice of a delivery, made when a template asks for it: few do."""

    _called = "notice"

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._notice: Notice | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self._notice = self._notice or notice_of(self._delivery)
        return getattr(self._notice, name)


def _fields(value: Any) -> Any:
    match value:
        case dict():
            return Fields({name: _fields(each) for name, each in value.items()})
        case list():
            return [_fields(each) for each in value]
        case _:
            return value
