"""Mistakes that show only when parts of the configuration are seen together: intervals, names, references.

They look at the raw values, so that they are found in the same pass as a misspelt key beside them. Pure.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel

from worker.config import (
    SECONDS_PER_DAY,
    SECONDS_PER_HOUR,
    LimitSettings,
    OrderSettings,
    SourceSettings,
    StoreIntervals,
)
from worker.documents import Document
from worker.expect_settings import ExpectSettings
from worker.mistakes import Finding, Location, did_you_mean, section_at, shown

_LOOK_SECONDS = 0.5
"""How often an owner looks whether somebody asks for its partition."""


class Numbers:
    """The numbers of worker.yaml, with defaults where one is absent or wrong in itself."""

    _MODELS: ClassVar[Mapping[str, type[BaseModel]]] = {
        "source": SourceSettings,
        "store": StoreIntervals,
        "order": OrderSettings,
        "limits": LimitSettings,
    }
    _MAY_BE_ZERO = "window_seconds"

    def __init__(self, values: Any) -> None:
        self._values = values

    def __call__(self, section: str, key: str) -> float:
        """The number behind a key."""
        value = section_at(self._values, (section,)).get(key)
        if isinstance(value, int | float) and (value > 0 or (value == 0 and key == self._MAY_BE_ZERO)):
            return float(value)
        return float(self._MODELS[section].model_fields[key].default)

    def given(self, section: str, key: str) -> float | None:
        """The number that stands in the file; None where none does."""
        value = section_at(self._values, (section,)).get(key)
        return float(value) if isinstance(value, int | float) else None

    @property
    def retention_seconds(self) -> float:
        """The hub's retention."""
        return self("source", "retention_hours") * SECONDS_PER_HOUR

    @property
    def longest_window(self) -> tuple[str, float]:
        """How long an event may wait for its turn, and the key of `order` that says so."""
        key = "max_seconds" if self.window_is_auto else "window_seconds"
        return key, self("order", key)

    @property
    def window_is_auto(self) -> bool:
        """Whether the window is learnt."""
        return section_at(self._values, ("order",)).get("window_seconds") == "auto"

    def first_given(self, *places: tuple[str, str]) -> Location:
        """The first of these places that stands in the file: a default cannot be what is wrong."""
        return next((place for place in places if place[1] in section_at(self._values, place[:1])), places[0])


def intervals_that_clash(number: Numbers) -> Iterator[Finding]:
    """Values that are fine alone and cannot work together."""
    least = 4 * number("source", "balance_interval_seconds")
    if number("source", "ownership_expiry_seconds") < least:
        yield Finding(
            number.first_given(("source", "ownership_expiry_seconds"), ("source", "balance_interval_seconds")),
            "ownership_expiry_seconds must be at least 4 times balance_interval_seconds, because attempts stop two "
            f"intervals before the ownership expires and a renewal may fail; write {least:g} or more, or a shorter "
            "interval",
        )
    answer_seconds = _LOOK_SECONDS + number("store", "state_interval_seconds")
    if number("limits", "hand_over_seconds") <= answer_seconds:
        yield Finding(
            number.first_given(("limits", "hand_over_seconds"), ("store", "state_interval_seconds")),
            f"limits.hand_over_seconds must be more than store.state_interval_seconds and half a second, because an "
            f"owner that is alive takes so long to answer; write more than {answer_seconds:g}, or a shorter interval",
        )
    yield from _windows_that_clash(number)


_ONLY_AUTO = ("late_target", "min_seconds", "max_seconds")


def _windows_that_clash(number: Numbers) -> Iterator[Finding]:
    for key in () if number.window_is_auto else _ONLY_AUTO:
        if number.given("order", key) is not None:
            yield Finding(
                ("order", key), "counts only with order.window_seconds: auto; write that too, or remove this key"
            )
    shortest = number("order", "min_seconds")
    key, window = number.longest_window
    if number.window_is_auto and shortest > window:
        yield Finding(
            number.first_given(("order", "min_seconds"), ("order", "max_seconds")),
            f"order.min_seconds must not be more than order.max_seconds ({window:g}); write a smaller min_seconds, "
            f"or a max_seconds of at least {shortest:g}",
        )
    if window >= number.retention_seconds / 2:
        yield Finding(
            number.first_given(("order", key), ("source", "retention_hours")),
            f"order.{key} must be less than half of source.retention_hours, because the hub would forget "
            f"events while they wait; write less than {number.retention_seconds / 2:g}",
        )
    memory = number("order", "memory_hours") * SECONDS_PER_HOUR
    if memory < window:
        yield Finding(
            number.first_given(("order", "memory_hours"), ("order", key)),
            f"memory_hours must not be shorter than {key}, because it could not be told what is late; "
            f"write at least {window / SECONDS_PER_HOUR:g} hours, or a shorter window",
        )


def forgets_too_early(number: Numbers) -> Iterator[Finding]:
    """A ledger that has forgotten what the hub can still give again."""
    keep_days = number.given("ledger", "keep_days")
    retention_days = number.retention_seconds / SECONDS_PER_DAY
    if keep_days is not None and keep_days <= retention_days:
        yield Finding(
            ("ledger", "keep_days"),
            f"must be more than {retention_days:g} (source.retention_hours), because the hub can give an event again "
            "for so long, and its effect would then be repeated; write a larger number, or leave it out",
        )


def gives_up_too_late(place: Location, sink: Mapping[str, Any], number: Numbers) -> Iterator[Finding]:
    """A sink that would still try when the hub has forgotten the event."""
    limit = section_at(sink, ("retry",)).get("give_up_after_seconds")
    key, window = number.longest_window
    most = number.retention_seconds - window
    if isinstance(limit, int | float) and limit >= most:
        yield Finding(
            (*place, "retry", "give_up_after_seconds"),
            f"must be less than {most:g} (source.retention_hours, less order.{key}), because the hub would "
            "forget the event before it becomes a dead letter; write a smaller number",
        )


def given_twice(document: Document, key: str) -> Iterator[Finding]:
    """Names that two sections of one list share."""
    first: dict[str, int] = {}
    for place, section in document.sections(key):
        name = section.get("name")
        if not isinstance(name, str):
            continue
        if name in first:
            message = f"{shown(name)} is used twice (first on line {first[name]}); choose another name"
            yield Finding((*place, "name"), message)
        first.setdefault(name, document.line((*place, "name")))


def unknown_sinks(place: Location, route: Mapping[str, Any], names: Iterable[str]) -> Iterator[Finding]:
    """References to sinks that do not exist."""
    sinks = route.get("sinks")
    for index, name in enumerate(sinks if isinstance(sinks, list) else []):
        if isinstance(name, str) and name not in names:
            yield Finding((*place, "sinks", index), f"there is no sink {shown(name)}; {did_you_mean(name, names)}")


def incomplete_expectation(place: Location, expectation: Mapping[str, Any]) -> Iterator[Finding]:
    """An expectation without a time, with two, or with keys that do not go with its time."""
    (times,) = ExpectSettings.needs_one_of
    given = [key for key in times if expectation.get(key) is not None]
    if not given:
        yield Finding(place, f"has no time; add {' or '.join(times)}, such as {times[0]}: 2h")
    if len(given) > 1:
        yield Finding((*place, given[-1]), f"{' and '.join(given)} exclude each other; keep one")
    for key in given if len(given) == 1 else ():
        for needed in ExpectSettings.goes_with[key]:
            if expectation.get(needed) is None:
                yield Finding(place, f"{key} needs {needed}; add it")
    for key in expectation.keys() & (ExpectSettings.goes_with.keys() - set(times)):
        (time,) = ExpectSettings.goes_with[key]
        if expectation[key] is not None and given and time not in given:
            hint = "; with every, `events` says what counts as a sign of life" if time == "within" else ""
            yield Finding(
                (*place, key), f"goes only with {time}; remove it, or write {time} in place of {given[0]}{hint}"
            )
