"""The cases of `worker test`, as they stand in YAML: what is given, and what is expected to come of it.

Here is what such a file may say, and every mistake in it with its line. What comes of the given, `rehearsal` finds out;
whether that is what was expected, `expected`.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from worker.decode import decode
from worker.documents import Document, read_document
from worker.events import BadEvent, Message, PartitionId, UnixSeconds
from worker.mistakes import (
    Finding,
    Location,
    Mistake,
    Mistakes,
    did_you_mean,
    dotted,
    finding,
    shown,
    without_echoes,
)
from worker.settings import FilePath, one_of
from worker.strict import Settings

_LONGEST_WAIT_SECONDS = 8 * 86_400
_A_MONDAY_AT_NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def _time(value: object) -> datetime:
    try:
        time = datetime.fromisoformat(str(value))
    except ValueError:
        raise ValueError("is no time; write one such as 2026-01-31T22:30:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


class StepSettings(Settings):
    """One thing that happens: a message comes, or time goes by."""

    event: dict[str, Any] | None = None
    """An event in either schema. Without `id` it gets one of its own; a CloudEvent may leave out `specversion`."""
    file: FilePath | None = None
    """One event, an array of events or a whole message body, as for `worker explain`."""
    body: str | None = None
    """A message body as it is, for what is no event."""
    wait_seconds: float | None = Field(default=None, gt=0, le=_LONGEST_WAIT_SECONDS)

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        one_of(dict(self), "event", "file", "body", "wait_seconds")
        return self


class Expectation(Settings):
    """One delivery, or one dead letter; what is left out is not looked at, except `late`."""

    sink: str | None = None
    dead_letter: str | None = Field(default=None, min_length=1)
    """The reason, such as late, not_json or rejected; None: it is delivered."""
    route: str | None = None
    """The first route that named the sink."""
    event: dict[str, Any] | None = None
    """The part of the event that matters, with the names that it came with."""
    digest: tuple[dict[str, Any], ...] | None = Field(default=None, min_length=1)
    """The events that are told together, in order: of each the part that matters."""
    late: bool = False
    """Whether it is delivered as late."""

    @model_validator(mode="after")
    def _something_to_look_for(self) -> Self:
        if self.sink is None and self.dead_letter is None:
            raise ValueError("names no sink; add the line `sink: …`, or `dead_letter: …` with the reason")
        return self


class CaseSettings(Settings):
    """One case."""

    name: str = Field(min_length=1, max_length=200)
    starts_at: Annotated[datetime, BeforeValidator(_time)] = _A_MONDAY_AT_NOON
    """What time it is when the first thing happens: mute windows go by it."""
    given: tuple[StepSettings, ...] = Field(min_length=1)
    expect: tuple[Expectation, ...] = Field(max_length=500)
    """Everything that comes, but for the sinks that the file ignores; []: nothing does."""


class CasebookSettings(Settings):
    """A file of cases."""

    ignore: tuple[str, ...] = ()
    """Sinks that are not looked at, except in cases that name them."""
    cases: tuple[CaseSettings, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Case:
    """A case without a mistake."""

    file: Path
    line: int
    name: str
    starts_at: UnixSeconds
    given: tuple[bytes | float, ...]
    """Bodies of messages, and between them seconds that go by."""
    expect: tuple[Expectation, ...]
    lines: tuple[int, ...]
    """Where each expectation stands."""
    ignore: frozenset[str]


def read_cases(files: Iterable[Path], *, sinks: Sequence[str], routes: Sequence[str]) -> list[Case]:
    """The cases of all files. Raises Mistakes with all that is wrong, unknown sinks and routes included."""
    cases: list[Case] = []
    found: list[Mistake] = []
    for file in files:
        try:
            cases += _Reading(read_document(file), sinks, routes).cases()
        except Mistakes as mistakes:
            found += mistakes.found
    if found:
        raise Mistakes(found)
    return cases


class _Reading:
    """One pass over one file."""

    def __init__(self, document: Document, sinks: Sequence[str], routes: Sequence[str]) -> None:
        self._document = document
        self._sinks = sinks
        self._routes = routes
        self._found: list[Finding] = []

    def cases(self) -> list[Case]:
        book = self._book()
        self._check_names(("ignore",), "sink", book.ignore, self._sinks)
        self._check_case_names(book)
        cases = [self._case(("cases", index), case, book.ignore) for index, case in enumerate(book.cases)]
        self._stop_if_wrong()
        return cases

    def _book(self) -> CasebookSettings:
        values = self._document.values
        if not isinstance(values, dict):
            wrong = "is empty" if values is None else "is no list of sections (`key: value`)"
            raise Mistakes([Mistake(self._document.file, None, f"{wrong}; begin with `cases:`")])
        try:
            # By way of JSON, as the configuration is: strict then means what it means in YAML.
            context = {"folder": self._document.file.parent}
            book = CasebookSettings.model_validate_json(json.dumps(values), strict=True, context=context)
        except ValidationError as error:
            details = without_echoes(error.errors(include_url=False))
            self._found += (finding(CasebookSettings, values, detail) for detail in details)
            raise self._mistakes() from None
        if self._document.mistakes:
            raise self._mistakes()
        return book

    def _mistakes(self) -> Mistakes:
        own = [self._document.mistake(place, f"{dotted(place)}: {message}") for place, message in self._found]
        return Mistakes(sorted([*self._document.mistakes, *own], key=lambda each: each.line or 0))

    def _stop_if_wrong(self) -> None:
        if self._found:
            raise self._mistakes()

    def _check_case_names(self, book: CasebookSettings) -> None:
        first: dict[str, int] = {}
        for index, case in enumerate(book.cases):
            place: Location = ("cases", index, "name")
            line = self._document.line(place)
            if first.setdefault(case.name, line) != line:
                message = f"stands here again (first on line {first[case.name]}); give each case a name of its own"
                self._found.append(Finding(place, message))

    def _check_names(self, place: Location, what: str, given: Iterable[str], known: Sequence[str]) -> None:
        for index, name in enumerate(given):
            if name not in known:
                message = f"there is no {what} {shown(name)}; {did_you_mean(name, known)}"
                self._found.append(Finding((*place, index), message))

    def _case(self, place: Location, case: CaseSettings, ignore: tuple[str, ...]) -> Case:
        places = [(*place, "expect", index) for index in range(len(case.expect))]
        for at, expectation in zip(places, case.expect, strict=True):
            self._check_name((*at, "sink"), "sink", expectation.sink, self._sinks)
            self._check_name((*at, "route"), "route", expectation.route, self._routes)
        return Case(
            file=self._document.file,
            line=self._document.line(place),
            name=case.name,
            starts_at=UnixSeconds(case.starts_at.timestamp()),
            given=tuple(self._given((*place, "given"), case.given)),
            expect=case.expect,
            lines=tuple(map(self._document.line, places)),
            ignore=frozenset(ignore),
        )

    def _check_name(self, place: Location, what: str, name: str | None, known: Sequence[str]) -> None:
        if name is not None and name not in known:
            self._found.append(Finding(place, f"there is no {what} {shown(name)}; {did_you_mean(name, known)}"))

    def _given(self, place: Location, steps: Iterable[StepSettings]) -> Iterator[bytes | float]:
        for index, step in enumerate(steps):
            at = (*place, index)
            if step.wait_seconds is not None:
                yield step.wait_seconds
            elif step.body is not None:
                yield step.body.encode()
            elif step.file is not None:
                yield self._content((*at, "file"), step.file)
            elif step.event is not None:
                yield self._event((*at, "event"), step.event, index)

    def _content(self, place: Location, file: Path) -> bytes:
        try:
            return file.read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "its name is no path"
            self._found.append(Finding(place, f"{file} cannot be read: {reason}; name a file of events"))
            return b""

    def _event(self, place: Location, event: dict[str, Any], index: int) -> bytes:
        if "id" not in event:
            event = {"id": f"given-{index + 1}", **event}
        if "type" in event and "eventType" not in event and not {"specversion", "specVersion"} & event.keys():
            event = {"specversion": "1.0", **event}
        body = json.dumps(event, ensure_ascii=False).encode()
        for element in decode(Message(PartitionId("0"), 0, "0", UnixSeconds(0.0), body)):
            if isinstance(element, BadEvent):
                message = f"is no event: {element.detail} Correct it, or give what is broken on purpose as `body`"
                self._found.append(Finding(place, message))
        return body
