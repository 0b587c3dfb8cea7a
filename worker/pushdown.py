"""The part of a route's filter that Event Grid can be asked to apply: what it is, and why the rest is not.

Event Grid must let through at least what the route takes. So only that is asked of it whose meaning its documentation
settles; whatever it leaves open (`docs/subscription.md` lists it) stays in the worker, and is sent too often, never
too rarely. One route at a time: what several need together is in `subscription`.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from worker.filters import parse_key

MOST_CHARACTERS = 512
"""Of a text that a condition compares with: Event Grid's limit."""


class Where(NamedTuple):
    """What a demand looks at and how; no two demands of a subscription have the same."""

    key: str
    operator: str


@dataclass(frozen=True, slots=True)
class Demands:
    """Conditions that must hold together."""

    values: Mapping[Where, tuple[Any, ...]] = field(default_factory=dict)
    """What each compares with; any of several will do."""
    in_arrays: bool = False
    """Whether they look into arrays."""


class Stay(NamedTuple):
    """What the worker decides, because Event Grid cannot be asked."""

    route: str
    what: str
    why: str


class Allowed(NamedTuple):
    """What the source, and the user, let us ask."""

    subject: bool = True
    data: bool = False


class Pushed(NamedTuple):
    """Of one route."""

    event_types: tuple[str, ...] | None
    """As they are written; None for every type."""
    demands: Demands
    stays: tuple[Stay, ...]


def pushed(route: str, raw: Mapping[str, Any] | None, allowed: Allowed) -> Pushed:
    """What Event Grid can be asked of a filter that `filters` has found to be right."""
    if not raw:
        return Pushed(None, Demands(), ())
    reading = _Reading(route, allowed)
    reading.subject_filter("subjectBeginsWith", raw.get("subjectBeginsWith") or "")
    reading.subject_filter("subjectEndsWith", raw.get("subjectEndsWith") or "")
    for condition in raw.get("advancedFilters") or ():
        reading.condition(condition)
    if raw.get("any_of"):
        reading.stay("any_of", "Event Grid has no OR between conditions")
    if raw.get("isSubjectCaseSensitive") and any(key == "subject" for key, _ in reading.demands):
        reading.stay("isSubjectCaseSensitive", "Event Grid's conditions ignore case, and let more through")
    in_arrays = bool(raw.get("enableAdvancedFilteringOnArrays")) and any(key != "subject" for key, _ in reading.demands)
    return Pushed(_event_types(raw), Demands(reading.demands, in_arrays), tuple(reading.stays))


def _event_types(raw: Mapping[str, Any]) -> tuple[str, ...] | None:
    types = raw.get("includedEventTypes") or ()
    return None if not types or "all" in {name.casefold() for name in types} else tuple(types)


class _Reading:
    """One filter, a condition at a time."""

    def __init__(self, route: str, allowed: Allowed) -> None:
        self._route = route
        self._allowed = allowed
        self.demands: dict[Where, tuple[Any, ...]] = {}
        self.stays: list[Stay] = []

    def stay(self, what: str, why: str) -> None:
        self.stays.append(Stay(self._route, what, why))

    def subject_filter(self, name: str, text: str) -> None:
        """The two plain subject filters, as conditions: these take several values, which the plain ones do not."""
        # One slash at the beginning of the subject is ignored here; of Event Grid that is not known.
        bare = text.removeprefix("/")
        if not bare:
            return  # every subject passes
        begins = name == "subjectBeginsWith"
        values = (bare, f"/{bare}") if begins else (bare,)
        self._demand(Where("subject", f"String{name.removeprefix('subject')}"), values, f"{name} {_json(text)}")

    def condition(self, raw: Mapping[str, Any]) -> None:
        """One of `advancedFilters`."""
        operator, values = raw["operatorType"], raw.get("values")
        if values is None:
            values = [] if raw.get("value") is None else [raw["value"]]
        what = " ".join((raw["key"], operator, ", ".join(map(_json, values)))).rstrip()
        key = _plain_key(raw["key"])
        if key is None:
            self.stay(what, "Event Grid cannot name a key in brackets")
        else:
            self._demand(Where(key, operator), tuple(_hashable(value) for value in values), what)

    def _demand(self, where: Where, values: tuple[Any, ...], what: str) -> None:
        problem = _key_problem(where, self._allowed) or _operator_problem(where.operator) or _values_problem(values)
        if problem is None and where in self.demands:
            problem = "there is one with the same key and operator already, and both must hold"
        if problem is None:
            self.demands[where] = reduced(where.operator, values)
        else:
            self.stay(what, problem)


def _plain_key(key: str) -> str | None:
    """With its first name as we write it; None where it cannot be said by names and dots."""
    names = parse_key(key)
    if ".".join(names) != key:
        return None
    return ".".join((names[0].casefold() if names[0].casefold() in ("subject", "data") else names[0], *names[1:]))


def _key_problem(where: Where, allowed: Allowed) -> str | None:
    if where.key == "subject":
        if not allowed.subject:
            return "for events of a custom topic Event Grid's documentation does not promise that subject can be named"
        return None if where.operator.startswith("String") else "a subject is text, or is not there"
    if not where.key.startswith("data."):
        return "beside data and subject the two schemas have names of their own"
    if not allowed.data:
        return (
            "here the case of a key in data is ignored, and whether Event Grid ignores it is not documented; "
            "--data-conditions asks it all the same"
        )
    return None


_POSITIVE = frozenset(
    {
        *("StringIn", "StringContains", "StringBeginsWith", "StringEndsWith", "NumberIn", "NumberInRange"),
        *("NumberLessThan", "NumberLessThanOrEquals", "NumberGreaterThan", "NumberGreaterThanOrEquals"),
        *("BoolEquals", "IsNotNull"),
    }
)


def _operator_problem(operator: str) -> str | None:
    if operator in _POSITIVE:
        return None
    return "what this operator means for null and for other types Event Grid's documentation leaves open"


_EXACT = 2**53
"""Below it a double is as exact as the worker's integers."""


def _values_problem(values: Iterable[Any]) -> str | None:
    for value in values:
        if isinstance(value, str):
            if not value:
                return "what an empty text means to Event Grid is not documented"
            if not value.isascii():
                return "how Event Grid ignores case beyond ASCII is not documented"
            if len(value) > MOST_CHARACTERS:
                return f"Event Grid takes at most {MOST_CHARACTERS} characters"
        elif any(abs(number) >= _EXACT for number in (value if isinstance(value, tuple) else (value,))):
            return "Event Grid's numbers are not exact from 2^53 on"
    return None


def reduced(operator: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same without what the other values cover: `a/b` beside the beginning `a`."""
    covers = _COVERS.get(operator)
    if covers is None:
        return tuple(dict.fromkeys(values))
    folded = [value.casefold() for value in values]
    return tuple(
        value
        for index, value in enumerate(values)
        if not any(
            covers(other, folded[index]) and (other != folded[index] or at < index) for at, other in enumerate(folded)
        )
    )


_COVERS: dict[str, Callable[[str, str], bool]] = {
    "StringIn": lambda one, other: one == other,
    "StringContains": lambda one, other: one in other,
    "StringBeginsWith": lambda one, other: other.startswith(one),
    "StringEndsWith": lambda one, other: other.endswith(one),
}


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
