"""Event Grid's filter of an event subscription: compiled once, with every mistake named, and asked for every event.

Names and meaning are Event Grid's own, so that the `filter` which `az eventgrid event-subscription show` prints works
here as it is. A filter sees one event: no routes, no sinks, no memory. What each operator means is in `operators`.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple

from worker.errors import WorkerError
from worker.events import Event
from worker.keys import look_up
from worker.operators import OPERATORS, Operator, WrongOperand

FieldPath = tuple[str | int, ...]
"""Where in the filter: names of fields and indexes in lists."""


class Mistake(NamedTuple):
    """One thing the user has to change."""

    path: FieldPath
    message: str


class FilterMistakes(WorkerError):
    """The filter cannot be used: all that is wrong with it, not only the first."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(f"{_path_text(path)}: {message}" for path, message in mistakes))


# ---- What a compiled filter does


class Claim(NamedTuple):
    """What a condition demands, for those who compare conditions instead of asking them."""

    names: tuple[str, ...]
    """The way to the value."""
    operator: str
    """As in `operators`, or the field of the filter that stands for one: subjectBeginsWith, subjectEndsWith."""
    operand: Any = None
    """As the operator reads it; of a filter of the subject (text, whether its case counts)."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One demand on one value of the event."""

    key: str
    demand: str
    """The operator and its operand, as the user wrote them."""
    find: Callable[[Event], Any]
    """The value, None where it is missing or null."""
    test: Callable[[Any], bool]
    claim: Claim
    in_arrays: bool = True
    """Whether it looks into arrays; said where it would surprise."""

    def holds(self, event: Event) -> bool:
        """Whether the event meets the demand."""
        return self.test(self.find(event))

    def explain(self, event: Event) -> tuple[bool, str]:
        """Whether it holds, and what was seen."""
        value = self.find(event)
        holds = self.test(value)
        seen = "missing or null" if value is None else _shown(value)
        outcome = "holds" if holds else "does not hold"
        hint = "" if self.in_arrays or not isinstance(value, list) else " (enableAdvancedFilteringOnArrays is not set)"
        return holds, f"{self.key} is {seen}: {self.demand} {outcome}{hint}"


@dataclass(frozen=True, slots=True)
class Filter:
    """What an event must be: of a type, and every condition, and (where there are groups) all of at least one group."""

    event_types: frozenset[str] | None
    """With their case folded; None for every type."""
    conditions: tuple[Condition, ...]
    groups: tuple[tuple[Condition, ...], ...]

    @property
    def subject_beginning(self) -> str:
        """What every subject that passes begins with when it is `rooted` and its case is folded; empty: any passes."""
        claims = (condition.claim for condition in self.conditions)
        return next((claim.operand[0].casefold() for claim in claims if claim.operator == "subjectBeginsWith"), "")

    def matches(self, event: Event) -> bool:
        """Whether the event passes."""
        if self.event_types is not None and event.type.casefold() not in self.event_types:
            return False
        for condition in self.conditions:
            if not condition.test(condition.find(event)):  # `holds`, without the call: most of the work is asking here
                return False
        return not self.groups or any(all(condition.holds(event) for condition in group) for group in self.groups)

    def explain(self, event: Event) -> tuple[bool, str]:
        """Whether the event passes, and in words: the condition that stopped it, or all that it met."""
        met = []
        if self.event_types is not None:
            if event.type.casefold() not in self.event_types:
                return False, f"the type is {_shown(event.type)}, which includedEventTypes does not name"
            met.append("includedEventTypes names the type")
        holds, reasons = _explain_all(self.conditions, event)
        if not holds:
            return False, reasons[-1]
        met += reasons
        if self.groups:
            holds, reason = self._explain_groups(event)
            if not holds:
                return False, reason
            met.append(reason)
        return True, "; ".join(met) or "the filter accepts every event"

    def _explain_groups(self, event: Event) -> tuple[bool, str]:
        failures = []
        for index, group in enumerate(self.groups):
            holds, reasons = _explain_all(group, event)
            if holds:
                return True, f"any_of[{index}]: {'; '.join(reasons)}"
            failures.append(f"any_of[{index}]: {reasons[-1]}")
        return False, f"no group of any_of holds ({'; '.join(failures)})"


def _explain_all(conditions: Iterable[Condition], event: Event) -> tuple[bool, list[str]]:
    """The reasons up to the first condition that does not hold."""
    reasons = []
    for condition in conditions:
        holds, reason = condition.explain(event)
        reasons.append(reason)
        if not holds:
            return False, reasons
    return True, reasons


_SHOWN_CHARACTERS = 80


def _shown(value: object) -> str:
    """As JSON, cut to a length that leaves a line readable."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


# ---- From what the user wrote to a filter


def compile_filter(raw: Mapping[str, object]) -> Filter:
    """The filter; raises FilterMistakes with everything that is wrong."""
    compiler = _Compiler()
    compiled = compiler.filter(raw)
    if compiler.mistakes:
        raise FilterMistakes(compiler.mistakes)
    return compiled


class _Compiler:
    """Reads on after a mistake, so that one look shows them all; what it returns is of use only if there were none."""

    in_arrays: bool

    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []

    def filter(self, raw: object) -> Filter:
        fields = self._fields(raw, _FILTER_FIELDS, ())
        self.in_arrays = self._flag(fields, "enableAdvancedFilteringOnArrays")
        return Filter(
            event_types=self._event_types(fields),
            conditions=(*self._subject_conditions(fields), *self._advanced_filters(fields, ())),
            groups=self._groups(fields),
        )

    def _fields(self, raw: object, known: tuple[str, ...], path: FieldPath) -> dict[str, object]:
        """The fields that say something: null is how Azure prints one that was left out."""
        if not isinstance(raw, Mapping):
            self._mistake(path, f"must be an object with the fields {', '.join(known)}")
            return {}
        for name in raw:
            if name not in known:
                self._mistake((*path, str(name)), f"is not a field here; {_suggestion(str(name), known)}")
        return {name: raw[name] for name in known if raw.get(name) is not None}

    def _mistake(self, path: FieldPath, message: str) -> None:
        self.mistakes.append(Mistake(path, message))

    def _flag(self, fields: Mapping[str, object], name: str) -> bool:
        value = fields.get(name, False)
        if not isinstance(value, bool):
            self._mistake((name,), "must be true or false, without quotes")
            return False
        return value

    def _list(self, fields: Mapping[str, object], name: str, path: FieldPath) -> list[object]:
        value = fields.get(name, [])
        if not isinstance(value, list):
            self._mistake((*path, name), "must be a list")
            return []
        return value

    def _event_types(self, fields: Mapping[str, object]) -> frozenset[str] | None:
        types: set[str] = set()
        for index, event_type in enumerate(self._list(fields, "includedEventTypes", ())):
            if isinstance(event_type, str) and event_type:
                types.add(event_type.casefold())
            else:
                self._mistake(("includedEventTypes", index), "must be the name of an event type")
        return None if not types or "all" in types else frozenset(types)

    def _subject_conditions(self, fields: Mapping[str, object]) -> list[Condition]:
        case_sensitive = self._flag(fields, "isSubjectCaseSensitive")
        conditions = []
        for name, matches in (("subjectBeginsWith", str.startswith), ("subjectEndsWith", str.endswith)):
            text = fields.get(name, "")
            if not isinstance(text, str):
                self._mistake((name,), "must be a string")
            elif text:
                wanted = rooted(text) if name == "subjectBeginsWith" else text
                test = _subject_test(matches, wanted, case_sensitive=case_sensitive)
                claim = Claim(("subject",), name, (wanted if case_sensitive else wanted.casefold(), case_sensitive))
                conditions.append(Condition("subject", f"{name} {_shown(text)}", _subject, test, claim))
        return conditions

    def _groups(self, fields: Mapping[str, object]) -> tuple[tuple[Condition, ...], ...]:
        if fields.get("any_of") == []:
            self._mistake(("any_of",), "must have at least one group: any_of: [{advancedFilters: […]}, …]")
        groups = []
        for index, raw in enumerate(self._list(fields, "any_of", ())):
            path = ("any_of", index)
            group = self._fields(raw, ("advancedFilters",), path)
            if isinstance(raw, Mapping) and group.get("advancedFilters", []) == []:
                self._mistake(path, "must have at least one condition in `advancedFilters`")
            groups.append(tuple(self._advanced_filters(group, path)))
        return tuple(groups)

    def _advanced_filters(self, fields: Mapping[str, object], path: FieldPath) -> list[Condition]:
        raws = enumerate(self._list(fields, "advancedFilters", path))
        conditions = [self._condition(raw, (*path, "advancedFilters", index)) for index, raw in raws]
        return [condition for condition in conditions if condition is not None]

    def _condition(self, raw: object, path: FieldPath) -> Condition | None:
        fields = self._fields(raw, _CONDITION_FIELDS, path)
        if not isinstance(raw, Mapping):
            return None
        names = self._key(fields.get("key"), path)
        name = fields.get("operatorType")
        operator = OPERATORS.get(name) if isinstance(name, str) else None
        if operator is None:
            unknown = f"{_shown(name)} is no operator; {_suggestion(str(name), OPERATORS)}"
            self._mistake((*path, "operatorType"), "must name an operator" if name is None else unknown)
            return None
        operand = self._operand(operator, fields, path)
        if self.mistakes:
            return None
        shown = "" if operator.operand_field is None else f" {_shown(fields.get(operator.operand_field))}"
        test = operator.test(operand, in_arrays=self.in_arrays)
        claim = Claim(names, str(name), operand)
        return Condition(str(fields["key"]), f"{name}{shown}", partial(find, names), test, claim, self.in_arrays)

    def _key(self, key: object, path: FieldPath) -> tuple[str, ...]:
        if not isinstance(key, str) or not key:
            self._mistake((*path, "key"), "must name what to look at, for instance subject or data.runStatus")
            return ()
        try:
            return parse_key(key)
        except ValueError as error:
            self._mistake((*path, "key"), str(error))
            return ()

    def _operand(self, operator: Operator, fields: Mapping[str, object], path: FieldPath) -> object:
        """What the operator's `hit` compares with; None after a mistake."""
        wanted = operator.operand_field
        name = fields["operatorType"]
        form = f"`{wanted}`, for instance `{wanted}: {operator.example}`"
        unwanted = [field for field in ("value", "values") if field in fields and field != wanted]
        for field in unwanted:
            self._mistake((*path, field), f"{name} takes {form if wanted else 'no operand'}; remove `{field}`")
        if unwanted or wanted is None:
            return None
        if wanted not in fields:
            self._mistake(path, f"{name} needs {form}")
            return None
        if wanted == "value":
            return self._read(operator, fields["value"], (*path, "value"))
        items = fields["values"]
        if not isinstance(items, list) or not items:
            self._mistake((*path, "values"), f"must be a list with at least one value: {operator.example}")
            return None
        return tuple(self._read(operator, item, (*path, "values", index)) for index, item in enumerate(items))

    def _read(self, operator: Operator, raw: object, path: FieldPath) -> object:
        try:
            return operator.read(raw)
        except WrongOperand as wrong:
            self._mistake(path, str(wrong))
            return None


_FILTER_FIELDS = (
    "includedEventTypes",
    "subjectBeginsWith",
    "subjectEndsWith",
    "isSubjectCaseSensitive",
    "enableAdvancedFilteringOnArrays",
    "advancedFilters",
    "any_of",
)
_CONDITION_FIELDS = ("operatorType", "key", "value", "values")


def _suggestion(name: str, known: Iterable[str]) -> str:
    """What the user may have meant, or else all there is."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = get_close_matches(name.casefold(), by_folded, n=1)
    if close:
        return f"did you mean {by_folded[close[0]]}?"
    return f"there are {', '.join(by_folded.values())}"


def _path_text(path: FieldPath) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".") or "filter"


_next_name = re.compile(
    r"(?:^|(?!^)\.)([^.\[]+)"  # a name, after a dot unless it is the first
    r"""|\[(?:'((?:[^']|'')*)'|"((?:[^"]|"")*)")\]"""  # in brackets and quotes; a quote is doubled
).match


def parse_key(key: str) -> tuple[str, ...]:
    """`data.runTags['azureml.pipelineid']` -> the three names. Event Grid itself cannot say a name that has a dot."""
    names = []
    position = 0
    while position < len(key):
        found = _next_name(key, position)
        if found is None:
            raise ValueError(
                f"cannot be read from {_shown(key[position:])} on: join names by dots, "
                "and put a name that has a dot itself in brackets and quotes: data.runTags['azureml.pipelineid']"
            )
        plain, single, double = found.groups()
        if plain is not None:
            names.append(plain)
        else:
            names.append(double.replace('""', '"') if single is None else single.replace("''", "'"))
        position = found.end()
    return tuple(names)


def find(names: tuple[str, ...], event: Event) -> Any:
    """The value that the names lead to; None where one is missing, is null, or leads into something without names."""
    value: Any = event.envelope
    for name in names:
        if not isinstance(value, dict):  # what JSON is read into
            return None
        found = value.get(name)
        value = look_up(value, name) if found is None else found
    return value


def _subject(event: Event) -> str:
    return event.subject or ""


def rooted(subject: str) -> str:
    """With one leading slash: Event Grid's two schemas spell the same subject with and without."""
    return subject if subject.startswith("/") else f"/{subject}"


def _subject_test(matches: Callable[[str, str], bool], wanted: str, *, case_sensitive: bool) -> Callable[[str], bool]:
    if case_sensitive:
        return lambda subject: matches(rooted(subject), wanted)
    folded = wanted.casefold()
    return lambda subject: matches(rooted(subject).casefold(), folded)
