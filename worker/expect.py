"""Expectations, compiled: which events begin one, which meet it, and by what two events are known to belong together.

Compiled once from the configuration and then only asked, or asked why. What is pending, and when something is missed,
is decided elsewhere: in `pending` for expectations over one subject.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from worker.events import MISSED_TYPE, Event, UnixSeconds
from worker.expect_settings import CorrelateSettings, ExpectSettings, seconds_of
from worker.filters import Filter
from worker.keys import normal_time, unix_seconds
from worker.route import folded_source
from worker.sinks.patterns import EventPattern
from worker.sinks.templating import BrokenTemplate

_OURS = MISSED_TYPE.casefold()
_AHEAD_SECONDS = 300.0
"""An event cannot be in the hub before it happens; so far clocks may be apart, beyond it its time is not believed."""
_Part = Literal["after", "then", "events"]
_Keys = Callable[[Event], str]
"""Says in words what an event is correlated by. Raises NoKey."""
_SHOWN_KEYS = 5
_SHOWN_CHARACTERS = 80


class NoKey(Exception):
    """An event has nothing to correlate by; the text says why."""


class Aspect(NamedTuple):
    """What an event is to one part of a rule, in words."""

    rule: str
    part: _Part
    """The key of the rule whose filter was asked."""
    matched: bool
    """Whether the event begins an expectation (`after`), meets one (`then`), or is a sign of life (`events`)."""
    time: str
    """`within` or `every`, as it stands in the file."""
    reason: str


class Correlation:
    """By what a second event is known to belong to a first one of another subject."""

    def __init__(self, settings: CorrelateSettings) -> None:
        self.settings = settings
        """As they stand in the file."""
        self._after = EventPattern(settings.after)
        self._then = EventPattern(settings.then)
        self._split = settings.split
        self.any_source = settings.any_source

    def after_key(self, event: Event) -> str:
        """The key of a first event. Raises NoKey."""
        keys = self._keys(self._after, event)
        if len(keys) != 1:
            raise NoKey(f"correlate.after gives {len(keys)} keys, and a first event has one")
        return keys[0]

    def then_keys(self, event: Event) -> tuple[str, ...]:
        """The keys of the first events that this one follows. Raises NoKey."""
        keys = self._keys(self._then, event)
        if self._split:
            keys = [part.strip() for key in keys for part in key.split(self._split)]
        keys = list(dict.fromkeys(key for key in keys if key))
        if not keys:
            raise NoKey("correlate.then gives no key")
        return tuple(keys)

    def explain_after(self, event: Event) -> str:
        """The key of a first event, in words. Raises NoKey."""
        return f"its key is {_quoted(self.after_key(event))}"

    def explain_then(self, event: Event) -> str:
        """The keys of a second event, in words. Raises NoKey."""
        keys = self.then_keys(event)
        more = f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
        return f"it follows on {', '.join(map(_quoted, keys[:_SHOWN_KEYS]))}{more}"

    @staticmethod
    def _keys(pattern: EventPattern, event: Event) -> list[str]:
        try:
            value = pattern.fill(event)
        except BrokenTemplate as error:
            raise NoKey(str(error)) from None
        return [text for each in (value if isinstance(value, list) else [value]) if (text := _key_text(each))]


@dataclass(frozen=True, slots=True)
class ExpectRule:
    """One expectation of the configuration, ready to be asked often."""

    name: str
    written: str
    """The time of `within` or `every`, as it stands in the file."""
    seconds: float
    """The same."""
    listed: tuple[str, ...] | None
    """Its `sources` as they stand in the file."""
    sources: frozenset[str] | None
    """The same, folded; None: from anywhere."""
    after: Filter | None = None
    then: Filter | None = None
    correlation: Correlation | None = None
    """Of a rule across subjects."""
    events: Filter | None = None
    """Of a rule on silence: what counts as a sign of life; None: every event."""
    is_silence: bool = False
    """Whether it is on a source's silence (`every`)."""

    @property
    def is_of_one_subject(self) -> bool:
        """Whether both events have one subject: then what is pending lives in the partition state."""
        return not self.is_silence and self.correlation is None

    @property
    def is_across_subjects(self) -> bool:
        """Whether the two events may be of different subjects, and so on different partitions."""
        return self.correlation is not None

    def takes_from(self, event: Event) -> bool:
        """Whether it looks at events of this source at all, and at this one: never at what the worker itself made."""
        if event.type.casefold() == _OURS:
            return False
        return self.sources is None or (event.source is not None and folded_source(event.source) in self.sources)

    def begins_with(self, event: Event) -> bool:
        """Whether the event is a first one, on which another must follow."""
        return self.after is not None and self.takes_from(event) and self.after.matches(event)

    def is_met_by(self, event: Event) -> bool:
        """Whether the event is a second one."""
        return self.then is not None and self.takes_from(event) and self.then.matches(event)

    def is_sign_of_life(self, event: Event) -> bool:
        """Whether the event says that its source is alive."""
        return self.is_silence and self.takes_from(event) and (self.events is None or self.events.matches(event))

    def explain(self, event: Event) -> Iterator[Aspect]:
        """What the event is to this rule: to each of its parts, and why."""
        if self.is_silence:
            yield self._aspect(event, "events", self.events)
        else:
            keys = self.correlation
            yield self._aspect(event, "after", self.after, keys.explain_after if keys else None)
            yield self._aspect(event, "then", self.then, keys.explain_then if keys else None)

    def _aspect(self, event: Event, part: _Part, asked: Filter | None, keys: _Keys | None = None) -> Aspect:
        if not self.takes_from(event):
            matched, reason = False, self._why_not_from(event)
        else:
            matched, reason = (True, "every event is one") if asked is None else asked.explain(event)
        if matched and keys:
            try:
                reason = f"{reason}; {keys(event)}"
            except NoKey as error:
                matched, reason = False, f"{reason}; but {error}"
        return Aspect(self.name, part, matched, self.written, reason)

    def _why_not_from(self, event: Event) -> str:
        if event.type.casefold() == _OURS:
            return "the worker made the event itself, and expects nothing of its own"
        seen = "the event has no source" if event.source is None else f"the source {event.source} is not listed"
        return f"{seen}, and the rule looks only at events from its `sources`"


def compile_rule(
    settings: ExpectSettings, *, after: Filter | None, then: Filter | None, events: Filter | None
) -> ExpectRule:
    """The rule of a section without a mistake; its filters are compiled by the caller."""
    written = settings.within or settings.every
    assert written is not None, "crosschecks found no mistake"
    return ExpectRule(
        name=settings.name,
        written=written,
        seconds=seconds_of(written),
        listed=settings.sources,
        sources=None if settings.sources is None else frozenset(map(folded_source, settings.sources)),
        after=after,
        then=then,
        correlation=Correlation(settings.correlate) if settings.correlate else None,
        events=events,
        is_silence=settings.every is not None,
    )


def of_one_subject(rules: Iterable[ExpectRule]) -> tuple[ExpectRule, ...]:
    """Those whose two events have one subject."""
    return tuple(rule for rule in rules if rule.is_of_one_subject)


def time_of(event: Event, enqueued_at: UnixSeconds) -> UnixSeconds:
    """When the event happened: its own time where that can be read and believed, else when the hub had it."""
    own = normal_time(event.time) if event.time else None
    if own is None or (seconds := unix_seconds(own)) > enqueued_at + _AHEAD_SECONDS:
        return enqueued_at
    return UnixSeconds(seconds)


def _key_text(value: Any) -> str:
    """A key as a text; nothing stands for what is no key."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return str(value).strip()


def _quoted(key: str) -> str:
    return json.dumps(key if len(key) <= _SHOWN_CHARACTERS else f"{key[:_SHOWN_CHARACTERS]}…", ensure_ascii=False)
