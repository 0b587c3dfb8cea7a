"""Seeded traffic as Event Grid would put it into a hub: events in envelopes, displaced, re-sent, and some damaged.

Pure: the same options give the same messages, byte for byte. Each message says what is true about it, so that a check
at the far end needs nothing of the worker. Sending is in `send`; what the events tell is in `workspace`.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from operator import itemgetter
from typing import Any

import orjson

from worker.errors import ConfigError
from worker.local.damage import damaged_bodies
from worker.local.workspace import Story, Workspace, guid

EVENT_GRID_JSON = "application/json; charset=utf-8"
CLOUD_EVENTS_JSON = "application/cloudevents+json; charset=utf-8"

_ACTIVE = 16
"""Subjects that something happens to at one time: few enough that displaced events pass others of their subject."""
_RESENT_WITHIN = 200
"""Messages after which a re-sent copy has come at the latest."""
_CLOUD_EVENTS_SHARE = 0.15
_OTHER_CASE_SHARE = 0.03
_SPACING_TICKS = 100_000
"""Mean time between two events: 10 ms in ticks of 100 ns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficOptions:
    """What to generate."""

    count: int
    """Different well-formed events. Copies and damaged messages come on top."""
    started_at: datetime
    """When the first event happened; with a time zone."""
    subjects: int | None = None
    """How many subjects the events are about; None: a fifth of `count`, so that runs mostly end."""
    disorder: int = 0
    """How many places a message may stand away from its true place, counted without copies and damaged messages."""
    duplicates_percent: float = 0.0
    """Share of the messages that are sent a second time, a little later."""
    malformed_percent: float = 0.0
    """Damaged messages per hundred events."""
    arrays_percent: float = 0.0
    """Share of the messages that hold several events of their subject, where there are that many."""
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuses what cannot be generated, all mistakes at once."""
        mistakes = [f"count: {self.count} is too few: use 0 or more"] if self.count < 0 else []
        if self.subjects is not None and self.subjects < 1:
            mistakes.append(f"subjects: {self.subjects} is too few: use 1 or more")
        if self.disorder < 0:
            mistakes.append(f"disorder: {self.disorder} is no distance: use 0 (true order) or more")
        shares = {
            "duplicates": self.duplicates_percent,
            "malformed": self.malformed_percent,
            "arrays": self.arrays_percent,
        }
        mistakes += [
            f"{name}: {percent} is no percentage: use 0 to 100"
            for name, percent in shares.items()
            if not 0 <= percent <= 100
        ]
        if mistakes:
            raise ConfigError(mistakes)


@dataclass(frozen=True, slots=True)
class TrafficEvent:
    """What is true about one well-formed event."""

    id: str
    type: str
    source: str
    """In one case of letters; on the wire a few events spell it in another, as Azure does."""
    subject: str
    index: int
    """Its true place among the events of its subject, from 0."""
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TrafficMessage:
    """One message for the hub, and what is true about it."""

    body: bytes
    content_type: str
    partition_key: str
    """The subject, as the event subscription is set up to send it."""
    events: tuple[TrafficEvent, ...]
    """In the order of the body; empty for a damaged message."""
    resent: bool = False
    """A copy of a message that went before."""
    damage: str | None = None
    """What is wrong with it; None for a well-formed message."""


def generate(options: TrafficOptions) -> list[TrafficMessage]:
    """All messages, in the order to send them."""
    rng = random.Random(options.seed)
    stories = _stories(options, rng)
    messages = _displace(_true_order(stories, options, rng), options.disorder, rng)
    additions = [*_copies(messages, options, rng), *_damaged(messages, options, rng)]
    placed = [*enumerate(messages), *additions]
    return [message for _, message in sorted(placed, key=itemgetter(0))]


def _displace(items: list[TrafficMessage], places: int, rng: random.Random) -> list[TrafficMessage]:
    """A permutation that moves no item by more than `places`.

    Item i is sorted by i plus 0 to `places`. So it comes after all of the first i - places, and only what is among
    the first i + places can come before it.
    """
    keyed = [(number + rng.randint(0, places), item) for number, item in enumerate(items)]
    return [item for _, item in sorted(keyed, key=itemgetter(0))]


def _stories(options: TrafficOptions, rng: random.Random) -> list[tuple[Story, int]]:
    """The subjects, each with how many of its events happen: `count` in all, at least one each."""
    workspace = Workspace(rng)
    subjects = min(options.subjects or max(1, options.count // 5), options.count)
    if not subjects:
        return []
    # The first is a blob, because a blob has as many events as are needed.
    stories = [workspace.blob(), *(workspace.story() for _ in range(subjects - 1))]
    rng.shuffle(stories)
    lengths = [1] * subjects
    spare = options.count - subjects
    for number in rng.sample(range(subjects), subjects):
        longest = stories[number].longest
        more = min(spare, rng.randint(0, 9) if longest is None else longest - 1)
        lengths[number] += more
        spare -= more
    endless = [number for number, story in enumerate(stories) if story.longest is None]
    for number in rng.choices(endless, k=spare):
        lengths[number] += 1
    return list(zip(stories, lengths, strict=True))


def _true_order(stories: list[tuple[Story, int]], options: TrafficOptions, rng: random.Random) -> list[TrafficMessage]:
    """Tells the stories, a few at a time; a later event has a later time, everywhere."""
    waiting = (_Teller(story, length, rng) for story, length in stories)
    active = list(islice(waiting, _ACTIVE))
    clock = _Clock(options.started_at, rng)
    messages = []
    while active:
        slot = rng.randrange(len(active))
        several = rng.random() * 100 < options.arrays_percent
        messages.append(active[slot].tell(rng.randint(2, 4) if several else 1, clock))
        if active[slot].is_over:
            active[slot : slot + 1] = islice(waiting, 1)
    return messages


class _Clock:
    """The publishers' clock: forward with every look, in ticks of 100 ns."""

    def __init__(self, started_at: datetime, rng: random.Random) -> None:
        self._started_at = started_at.astimezone(UTC)
        self._ticks = 0
        self._rng = rng

    def time(self) -> str:
        """The next time, with seven digits as Event Grid writes it."""
        self._ticks += self._rng.randint(1, 2 * _SPACING_TICKS)
        microseconds, tick = divmod(self._ticks, 10)
        moment = self._started_at + timedelta(microseconds=microseconds)
        return f"{moment:%Y-%m-%dT%H:%M:%S.%f}{tick}Z"


class _Teller:
    """Puts one story into messages, all in one of the two schemas."""

    def __init__(self, story: Story, length: int, rng: random.Random) -> None:
        self._story = story
        self._length = length
        self._told = 0
        self._rng = rng
        self._cloud_events = rng.random() < _CLOUD_EVENTS_SHARE

    @property
    def is_over(self) -> bool:
        return self._told == self._length

    def tell(self, count: int, clock: _Clock) -> TrafficMessage:
        """The next message, with up to `count` events."""
        count = min(count, self._length - self._told)
        told = [self._event(step.type, step.data, clock.time()) for step in islice(self._story.steps, count)]
        events, envelopes = zip(*told, strict=True)
        one_object = self._cloud_events and count == 1
        return TrafficMessage(
            body=orjson.dumps(envelopes[0] if one_object else envelopes),
            content_type=CLOUD_EVENTS_JSON if self._cloud_events else EVENT_GRID_JSON,
            partition_key=self._story.subject,
            events=events,
        )

    def _event(self, kind: str, data: Mapping[str, Any], time: str) -> tuple[TrafficEvent, dict[str, Any]]:
        story = self._story
        event = TrafficEvent(guid(self._rng), kind, story.source, story.subject, self._told, data)
        self._told += 1
        source = event.source
        if self._rng.random() < _OTHER_CASE_SHARE:
            source = source.replace("/resourceGroups/", "/resourcegroups/")
        envelope = _cloud_event if self._cloud_events else _event_grid_event
        return event, envelope(event, source, time)


def _event_grid_event(event: TrafficEvent, source: str, time: str) -> dict[str, Any]:
    return {
        "topic": source,
        "subject": event.subject,
        "eventType": event.type,
        "eventTime": time,
        "id": event.id,
        "data": event.data,
        "dataVersion": "2",
        "metadataVersion": "1",
    }


def _cloud_event(event: TrafficEvent, source: str, time: str) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "type": event.type,
        "source": source,
        "id": event.id,
        "time": time,
        "subject": event.subject,
        "data": event.data,
    }


def _copies(
    messages: list[TrafficMessage], options: TrafficOptions, rng: random.Random
) -> Iterator[tuple[float, TrafficMessage]]:
    """What is sent again, with its place between the others."""
    for number in rng.sample(range(len(messages)), round(len(messages) * options.duplicates_percent / 100)):
        yield number + rng.uniform(0.1, _RESENT_WITHIN), replace(messages[number], resent=True)


def _damaged(
    messages: list[TrafficMessage], options: TrafficOptions, rng: random.Random
) -> Iterator[tuple[float, TrafficMessage]]:
    """What no reader can understand, with its place between the others."""
    count = round(options.count * options.malformed_percent / 100)
    for damage, body in islice(damaged_bodies(rng), count):
        message = TrafficMessage(body, EVENT_GRID_JSON, f"damaged/{damage}", events=(), damage=damage)
        yield rng.uniform(0, len(messages)), message
