"""What a digest is made of: the events that have joined a group, and what is told of them together.

Values only, no decisions: who joins what, and when it is told, is in `groups`; how it is told, in `outbox`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from hashlib import sha256
from typing import Any, NamedTuple, Self

import orjson

from worker.events import Subject
from worker.notice import Entry, entry_of
from worker.quiet import Values
from worker.sinks import Delivery


class Because(StrEnum):
    """Why events are told together."""

    GROUP = "group"
    LIMIT = "limit"
    MUTE = "mute"
    ORDER = "order"
    """An earlier event of the subject was held, and must not come later."""


class Member(NamedTuple):
    """An event that has joined a group."""

    number: int
    """In the order of joining, over all sinks of the partition."""
    group: int
    subject: str
    """A digest of it: to tell whether two are the same."""
    route: str
    entry: Entry
    size: int
    """Of the row, in bytes of JSON; about."""
    trace: str = ""
    """The trace that it belongs to, as a traceparent; empty: none, or nobody asked."""

    @classmethod
    def of(cls, delivery: Delivery, *, number: int, group: int, trace: str = "") -> Self:
        """A delivery joins a group."""
        entry = entry_of(delivery)
        size = len(orjson.dumps(entry.to_json()))
        subject = subject_id(delivery.released.placed.event.key)
        return cls(number, group, subject, delivery.route, entry, size, trace)

    def to_row(self) -> list[Any]:
        """As it is stored."""
        entry = self.entry.to_json()
        if self.trace:
            entry["traceparent"] = self.trace  # in here, where older workers pass over it
        return [self.number, self.group, self.subject, self.route, entry]

    @classmethod
    def from_row(cls, row: list[Any]) -> Self:
        """The member again."""
        number, group, subject, route, entry = row
        trace = str(entry.get("traceparent", ""))
        return cls(number, group, subject, route, Entry.from_json(entry), len(orjson.dumps(entry)), trace)


@dataclass(eq=False)
class Digest:
    """A closed group."""

    sink: str
    because: Because
    values: Values
    closed_at: float
    members: tuple[Member, ...]
    """In the order of joining."""
    attempts: int = 0
    """So far, over all lives."""

    @cached_property
    def id(self) -> str:
        """The same for the same members: whoever sends it, and whenever. Hex."""
        return sha256(orjson.dumps([self.sink, [member.entry.key for member in self.members]])).hexdigest()[:32]

    @property
    def entries(self) -> list[Entry]:
        """What it says of its members; an event with a later one of its subject in here is superseded."""
        later: set[str] = set()
        entries = []
        for member in reversed(self.members):
            entries.append(replace(member.entry, superseded=True) if member.subject in later else member.entry)
            later.add(member.subject)
        entries.reverse()
        return entries


def kind_of(entry: Entry) -> str:
    """What is news in a group, and what is a repetition."""
    return f"{entry.type[:100]} {entry.state[:40]}"


def ranges(numbers: Iterable[int]) -> list[list[int]]:
    """[1, 2, 3, 7] -> [[1, 3], [7, 7]]."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def expanded(found: Iterable[Iterable[int]]) -> Iterator[int]:
    """The numbers again."""
    for first, last in found:
        yield from range(first, last + 1)


def subject_id(subject: Subject) -> str:
    """Short, and the same for the same subject only."""
    return sha256(orjson.dumps([*subject])).hexdigest()[:16]
