"""What happened in one run, in order: the only thing the checker sees. Decides nothing.

Every entry has a place in one order over everything that happened (`at`), and the time on the virtual clock.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

SILENCE = "silence since "
"""What a missed expectation is about that has no first event begins so."""


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a message, as the producer meant it."""

    uid: str
    """Of the event: a re-sent copy has the same, other data under the same id another. Letters of bad input too."""
    subject: str
    kind: str
    """Keys of two kinds are not compared."""
    order: int
    """Its place among the events of its kind and subject."""
    sinks: tuple[str, ...]
    """Where it is to arrive; ("",) for what cannot be decoded: it is to become a dead letter."""
    copy: bool = False
    expects: str = ""
    """first: another event of its subject must follow; second: the one that follows."""
    pair: str = ""
    """What the two have in common, where their subjects are two."""
    happened: float = 0.0
    """Its own time, by the wall clock; only of these."""
    value: str = ""
    """What a route may compare it by."""


@dataclass(slots=True)
class Enqueued:
    """A message in the hub."""

    at: int
    time: float
    partition: str
    number: int
    elements: tuple[Element, ...]


@dataclass(slots=True, eq=False)
class Attempt:
    """A sink was asked to take an event."""

    at: int
    time: float
    life: str
    partition: str
    number: int
    index: int
    element: Element
    sink: str
    key: str
    late_by_ms: int | None
    members: tuple[tuple[str, bool], ...] = ()
    """Of a digest: the events that it tells of, in its order, and whether each is said to be late."""
    about: str = ""
    """Of a missed expectation: see `missed_about`."""
    landed_at: int | None = None
    """When it took effect; None: not."""
    landed_time: float | None = None
    acted: bool = False
    """Whether the effect was one: a sink that knows the key acts once."""
    ended_at: int | None = None
    """When the process heard how it ended; None: never."""
    ended_time: float | None = None
    outcome: str = ""


@dataclass(slots=True)
class StateWrite:
    """A partition's state was written."""

    at: int
    time: float
    called_at: int
    life: str
    partition: str
    generation: int
    owner: str
    request: str | None
    """Who asks for the partition."""
    released: bool
    read: int
    """The highest sequence number the state knows of; -1: none."""
    watermark: int
    late: frozenset[tuple[int, int]]
    """Positions that were found late."""


@dataclass(slots=True)
class StateSeen:
    """A process was told what a partition's state is."""

    at: int
    time: float
    life: str
    partition: str
    generation: int
    owner: str


@dataclass(slots=True)
class CheckpointWrite:
    at: int
    time: float
    life: str
    partition: str
    number: int


@dataclass(slots=True)
class LetterWrite:
    at: int
    time: float
    life: str
    partition: str
    number: int
    index: int | None
    sink: str
    reason: str
    attempts: int
    members: tuple[str, ...] = ()
    """Of a digest's letter: the events."""


@dataclass(slots=True)
class LedgerWrite:
    """What the ledger says of a key."""

    at: int
    time: float
    life: str
    key: str
    state: str


@dataclass(slots=True)
class Renewal:
    """An ownership was granted; `asked_time` is when it was asked for."""

    at: int
    time: float
    life: str
    partition: str
    asked_time: float


@dataclass(slots=True)
class Link:
    """A receiver of a partition was attached, or has lost its link."""

    at: int
    time: float
    life: str
    partition: str
    up: bool


SINK_REMOVED, SINK_BACK = "sink removed", "sink back"


@dataclass(slots=True)
class LifeEvent:
    """started, killed, frozen, thawed, stopping, stopped, failed, reloaded; a sink (detail) removed, back."""

    at: int
    time: float
    life: str
    what: str
    detail: str = ""


@dataclass(slots=True)
class Load:
    """A process counts more of something than ever before: in_flight, held, spread_subjects."""

    at: int
    time: float
    life: str
    what: str
    value: float


@dataclass
class History:
    """One run."""

    seed: int
    late_policy: dict[str, str]
    """Of each sink."""
    limits: dict[str, float]
    poison: str = field(default="", kw_only=True)
    """The event that ends every process that delivers it."""
    skips: tuple[str, ...]
    """The sinks at which an unknown outcome becomes a dead letter."""
    sheds: bool
    """Whether a sink that fills its partition gives up what waits for it."""
    lease_seconds: float
    latest: tuple[str, ...] = ()
    """The sinks of which a route says `only: latest`."""
    changed: tuple[str, ...] = ()
    """Those of which a route says `changed`."""
    entries: list[Any] = field(default_factory=list)
    """Of the kinds above, in order."""
    counts: Counter[str] = field(default_factory=Counter)
    """Faults, by kind; for the table."""
    settled: bool = False
    """Whether everything was done in time after the faults had ceased."""
    errors: list[str] = field(default_factory=list)
    """What nobody caught."""
    virtual_seconds: float = 0.0
    _clock: int = 0

    def tick(self) -> int:
        """The next place in the order of everything."""
        self._clock += 1
        return self._clock

    def of(self, kind: type[Any]) -> list[Any]:
        """All entries of a kind, in order."""
        return [entry for entry in self.entries if type(entry) is kind]

    def digest(self) -> str:
        """The same for two runs that were the same."""
        text = "\n".join(describe(entry) for entry in self.entries)
        return hashlib.sha256(f"{text}\n{self.settled} {self.errors}".encode()).hexdigest()


def missed_about(data: dict[str, Any]) -> str:
    """What the event of a missed expectation is about: the first event, or since when a source has been silent."""
    return str(data["after"]["id"]) if "after" in data else f"{SILENCE}{data['last_seen']}"


def describe(entry: Any) -> str:
    """An entry on one line, with everything in it."""
    parts = []
    for each in fields(entry):
        value = getattr(entry, each.name)
        parts.append(f"{each.name}={sorted(value) if isinstance(value, frozenset) else value}")
    return f"{type(entry).__name__} {' '.join(parts)}"
