"""Mistakes in configuration: where each stands, and a plain sentence for what a model found.

The sentences never repeat a value, because a value in the wrong place may be a secret; only short names are repeated.
Reading files is `documents`' work, and what is a mistake is decided by the models and by `config`.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from worker.errors import ConfigError

Location = tuple[str | int, ...]
"""The way to a value: keys and indexes from the top of the file."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing to change, in the words `what is wrong; what to write instead`."""

    file: Path
    line: int | None
    """Counted from 1; None where the file as a whole is meant."""
    message: str
    column: int | None = None
    """Counted from 1, in characters; None where no line is known either."""

    @property
    def where(self) -> str:
        """Its place, as compilers write it and editors follow it: file:line:column."""
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class Finding(NamedTuple):
    """A mistake before its file and line are known."""

    place: Location
    message: str


class Mistakes(ConfigError):
    """Everything that is wrong with the configuration, in the order of the files and lines."""

    def __init__(self, found: Iterable[Mistake]) -> None:
        self.found = tuple(found)
        super().__init__([str(mistake) for mistake in self.found])


def dotted(location: Location) -> str:
    """The way to a value as people write it: sinks[0].retry.give_up_after_seconds."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{shown(part)}" for part in location)
    return text.removeprefix(".")


def shown(word: object) -> str:
    """A name as it stands in the file, or "…" where it is too long or too odd to be a name."""
    return word if isinstance(word, str) and re.fullmatch(r"[\w.$ -]{1,40}", word, re.ASCII) else "…"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What to write instead of a word that is none of the known ones: the nearest, or else all of them."""
    names = {name.casefold(): name for name in known if shown(name) == name}
    near = difflib.get_close_matches(word.casefold(), names, n=1)
    if near:
        return f"did you mean {names[near[0]]}?"
    if len(names) > 1:
        return f"write one of {', '.join(names.values())}"
    return f"write {next(iter(names.values()))}" if names else "remove it"


def _unknown_key(key: str, known: Iterable[str]) -> str:
    names = list(known)
    if f"{key}_env" in names:
        return f"secrets do not stand in this file; name an environment variable in {key}_env or a file in {key}_file"
    return f"there is no such key; {did_you_mean(key, names)}"


_SECTION = "must be a section: keys and values, indented below it"
_LIST = "must be a list: [first, second], or one line with '- ' for each"
_SENTENCES = {
    "missing": "is missing; add it",
    "bool_type": "must be true or false, without quotes",
    "string_type": "must be text; put it in quotes if it looks like a number or a word such as true",
    "model_type": _SECTION,
    "model_attributes_type": _SECTION,
    "dict_type": _SECTION,
    "tuple_type": _LIST,
    "list_type": _LIST,
    "path_type": "must be a path",
    "union_tag_not_found": "has no kind; add the line `kind: …`",
    "string_too_short": "is empty; write a value, or leave the key out",
    "string_too_long": "is too long; at most {max_length} characters are allowed",
    "string_pattern_mismatch": "has a character or a length that is not allowed; it must match {pattern}",
    "too_short": "has too few entries; write at least {min_length}",
    "too_long": "has too many entries; write at most {max_length}",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
}
"""What pydantic's kinds of errors mean here; in braces what it says about them."""


def without_echoes(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without lists that are only too short because an entry is wrong, which is said."""
    return [
        each
        for each in errors
        if each["type"] != "too_short" or not any(_is_within(other["loc"], each["loc"]) for other in errors)
    ]


def _is_within(place: Location, around: Location) -> bool:
    return len(place) > len(around) and place[: len(around)] == around


def finding(model: type[BaseModel], raw: Any, error: ErrorDetails) -> Finding:
    """What a model's error means: the place within the raw values, and a sentence."""
    place = _without_tags(error["loc"], raw)
    if error["type"] == "union_tag_invalid":
        place = (*place, "kind")
    return Finding(place, _sentence(error, value_at(raw, place), _keys_beside(model, place, raw), place))


def _sentence(error: ErrorDetails, value: object, known: Iterable[str], place: Location) -> str:
    details = error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            return _unknown_key(str(place[-1]), known)
        case "literal_error" | "enum":
            return _choice(value, str(details["expected"]))
        case "union_tag_invalid":
            return _choice(details["tag"], str(details["expected_tags"]))
        case kind if kind.startswith(("int_", "float_")):
            return _number(value, "whole number" if kind.startswith("int_") else "number")
        case kind:
            sentence = _SENTENCES.get(kind)
            return sentence.format_map(details) if sentence else error["msg"].removeprefix("Value error, ")


def _number(value: object, kind: str) -> str:
    found = re.fullmatch(r"\s*[-+]?[0-9.]+\s*([A-Za-z]*)\s*", value) if isinstance(value, str) else None
    if found is None:
        return f"must be a {kind}"
    return f"must be a {kind}, without {'a unit' if found[1] else 'quotes'}"


def _choice(value: object, expected: str) -> str:
    choices = re.findall(r"'([^']*)'", expected)
    return f"cannot be {shown(value)}; {did_you_mean(str(value), choices)}"


def value_at(values: Any, place: Location) -> Any:
    """The raw value at a place, or None."""
    for part in place:
        if isinstance(values, dict):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int) and part < len(values):
            values = values[part]
        else:
            return None
    return values


def section_at(values: Any, place: Location) -> Mapping[str, Any]:
    """The raw section at a place, empty where there is none."""
    section = value_at(values, place)
    return section if isinstance(section, dict) else {}


def _without_tags(location: Location, raw: Any) -> Location:
    """Pydantic names the chosen member of a union (`store.sqlite.path`), which does not stand in the file."""
    place: Location = ()
    for part in location:
        around = section_at(raw, place)
        if part in around or part != around.get("kind"):
            place = (*place, part)
    return place


def _keys_beside(model: type[BaseModel], place: Location, raw: Any) -> Iterable[str]:
    """The keys that the section around a place may have."""
    is_entry = False
    for depth, part in enumerate(place[:-1], start=1):
        if isinstance(part, int) or is_entry:  # an entry of a list or mapping is what that is of
            is_entry = False
            continue
        field = model.model_fields.get(str(part))
        models = list(_models(field.annotation)) if field else []
        if not models:
            return ()
        is_entry = field is not None and get_origin(field.annotation) is dict
        kind = section_at(raw, place[:depth]).get("kind")
        model = next((one for one in models if _is_of_kind(one, kind)), models[0])
    return [field.alias or name for name, field in model.model_fields.items()]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _is_of_kind(model: type[BaseModel], kind: object) -> bool:
    field = model.model_fields.get("kind")
    return field is not None and kind in get_args(field.annotation)
