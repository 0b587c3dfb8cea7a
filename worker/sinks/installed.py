"""The kinds of sinks that there are: the built-in ones, and those that installed distributions bring.

A distribution brings a kind by an entry point of the group `event_grid_worker.sinks`: its name is the word in `kind:`,
its value a SinkKind. It is imported when the kind is used and not before, so that one that is broken harms only those
who want it. How a kind is written says docs/sinks/third-party.md; which built-in ones there are, `table`.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.metadata import Distribution, EntryPoint, distributions
from inspect import isclass, signature
from types import MappingProxyType
from typing import Any, NamedTuple, get_args

from worker.errors import ConfigError
from worker.logs import redact
from worker.settings import SinkSettings
from worker.sinks.table import KINDS, SinkKind

GROUP = "event_grid_worker.sinks"

_EXCERPT_CHARACTERS = 200
_ODD_IN_NAMES = re.compile(r"[-_.]+")


class UnusableKind(ConfigError):
    """A distribution brings the kind, and it cannot be used: which one, why, and what to do."""

    def __init__(self, sentence: str) -> None:
        super().__init__([sentence])


class _Brought(NamedTuple):
    """A kind as a distribution brings it."""

    by: str
    """The distribution and its version."""
    entry_point: EntryPoint


def kind_names() -> list[str]:
    """Every kind that can be written, whether or not it can be used: the built-in ones first."""
    return [*KINDS, *sorted(_installed().keys() - KINDS.keys())]


def find_kind(name: str) -> SinkKind:
    """What the kind is made of. Raises UnusableKind; KeyError where there is none of this name."""
    brought = _installed().get(name, ())
    if name in KINDS:
        if brought:
            raise UnusableKind(
                f"{name} is a kind of the worker itself, and {brought[0].by} brings another one; uninstall it, or let "
                "it give its kind another name"
            )
        return KINDS[name]
    if not brought:
        raise KeyError(name)
    if len(brought) > 1:
        both = " and ".join(each.by for each in brought)
        raise UnusableKind(f"{name} is brought by {both}, and there is no telling which is meant; uninstall one")
    return _usable(name, brought[0])


def origin_of(name: str) -> str | None:
    """The distribution that brings the kind, with its version; None where that is the worker itself."""
    brought = () if name in KINDS else _installed().get(name, ())
    return brought[0].by if brought else None


def _installed() -> Mapping[str, tuple[_Brought, ...]]:
    return _found_on(tuple(sys.path))


@lru_cache(maxsize=1)
def _found_on(_path: tuple[str, ...]) -> Mapping[str, tuple[_Brought, ...]]:
    """By kind. Looked for once: what is installed while a process runs counts from its next start."""
    found: defaultdict[str, list[_Brought]] = defaultdict(list)
    seen = set()
    for distribution in distributions():
        for entry_point in _entry_points(distribution):
            name = _ODD_IN_NAMES.sub("-", distribution.name or "").lower()
            place = (name, entry_point.name)
            if place not in seen:  # else it stands on the path twice: the first is the one that is imported
                seen.add(place)
                by = f"{distribution.name or 'a distribution without a name'} {distribution.version or ''}".strip()
                found[entry_point.name].append(_Brought(by, entry_point))
    return MappingProxyType({kind: tuple(brought) for kind, brought in found.items()})


def _entry_points(distribution: Distribution) -> Iterator[EntryPoint]:
    try:
        yield from distribution.entry_points.select(group=GROUP)
    except Exception:  # noqa: BLE001 - any distribution of the machine may have written anything there
        return


def _usable(name: str, brought: _Brought) -> SinkKind:
    value = brought.entry_point.value
    try:
        kind = brought.entry_point.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - somebody else's code may raise anything
        module = value.partition(":")[0].strip()
        raise UnusableKind(
            f"{name} is brought by {brought.by}, and {value} cannot be imported ({_in_words(error)}); repair or "
            f'uninstall it (python -c "import {module}" says more)'
        ) from None
    if problem := _problem(name, kind):
        raise UnusableKind(
            f"{name} is brought by {brought.by}, and {value} {problem}; ask its author (docs/sinks/third-party.md), or "
            "uninstall it"
        )
    assert isinstance(kind, SinkKind)
    return kind


def _in_words(error: BaseException) -> str:
    """One short line: texts of errors may hold anything."""
    text = " ".join(redact(f"{type(error).__name__}: {error}").split())
    visible = "".join(character for character in text if character.isprintable())
    return visible if len(visible) <= _EXCERPT_CHARACTERS else f"{visible[:_EXCERPT_CHARACTERS]}…"


def _problem(name: str, kind: object) -> str | None:
    """What is wrong with what an entry point leads to."""
    if not isinstance(kind, SinkKind):
        return f"is no SinkKind but {_what(kind)}"
    settings: Any = kind.settings  # an author's code need not have passed a type checker
    build: Any = kind.build
    if not (isclass(settings) and issubclass(settings, SinkSettings)):
        return f"has {_what(settings)} for its settings, not a class derived from SinkSettings"
    if not callable(build):
        return f"has {_what(build)} where it should have what builds the sink"
    if not _takes_two(build):
        return "builds its sink from something else than (settings, tokens)"
    field = settings.model_fields["kind"]
    allowed = get_args(field.annotation)
    if field.default != name or (allowed and name not in allowed):
        return f'has settings that do not know their kind (`kind: Literal["{name}"] = "{name}"` is missing)'
    return None


def _takes_two(build: Any) -> bool:
    try:
        signature(build).bind(None, None)
    except TypeError:
        return False
    except ValueError:
        return True  # written in C: nothing is known of it
    return True


def _what(value: object) -> str:
    return f"the class {value.__name__}" if isclass(value) else f"a {type(value).__name__}"
