"""What a message about a delivery says: title, facts, severity, link, and what the worker knows of its order.

For whoever tells people, about a single event or about a digest of several. Pure, and the same at every attempt. What
an event is about is in `about`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

import orjson

from worker.about import (
    SEVERITIES,
    TIME_CHARACTERS,
    TITLE_CHARACTERS,
    WORKSPACE,
    Link,
    Severity,
    expectation_of,
    experiment_of,
    line,
    link_of,
    model_of,
    moment,
    place_of,
    severity_of,
    state_of,
    tags_of,
    title_of,
    value_of,
    what,
    workspace_link,
)
from worker.events import DIGEST_TYPE, Event
from worker.sinks import Delivery

_KINDS_IN_TITLE = 3
_REPLAYED = "This is a replay: it could not be delivered at its time, and somebody asked for it again."


class Kind(NamedTuple):
    """What several events have in common, and how many they are."""

    type: str
    state: str
    number: int

    @property
    def words(self) -> str:
        """As in a title: `Run Failed`."""
        return what(self.type, self.state)


@dataclass(frozen=True, slots=True)
class Entry:
    """One event as a digest lists it: what is kept of an event that joined a group."""

    id: str
    type: str
    source: str
    subject: str
    time: str
    """As it came; empty where it came without."""
    state: str
    """Of a run: its status; else empty."""
    severity: Severity
    title: str
    url: str
    """Empty: there is nowhere to look."""
    key: str
    """The idempotency key under which the event alone would have been delivered."""
    late_by_ms: int | None = None
    superseded: bool = False
    """A later event of its subject is in the same digest, or was known when its turn came."""

    def to_json(self) -> dict[str, Any]:
        """As it stands in a digest's data; what says nothing is left out."""
        row: dict[str, Any] = {name: value for name in _ENTRY_TEXTS if (value := getattr(self, name))}
        row["severity"] = self.severity.value
        if self.late_by_ms is not None:
            row["lateby"] = self.late_by_ms
        if self.superseded:
            row["superseded"] = True
        return row

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Entry":
        """The entry again."""
        late_by_ms = row.get("lateby")
        return cls(
            **{name: line(str(row.get(name, ""))) for name in _ENTRY_TEXTS if name != "url"},
            url=url if isinstance(url := row.get("url"), str) and url.startswith("https://") else "",
            severity=SEVERITIES.get(str(row.get("severity")), Severity.INFO),
            late_by_ms=late_by_ms if isinstance(late_by_ms, int) else None,
            superseded=bool(row.get("superseded", False)),
        )


_ENTRY_TEXTS = ("id", "type", "source", "subject", "time", "state", "title", "url", "key")


@dataclass(frozen=True, slots=True)
class Notice:
    """What a message about a delivery says."""

    title: str
    severity: Severity
    sentence: str
    """What happened, where, and since when."""
    facts: tuple[tuple[str, str], ...]
    """Names and values, the most telling first."""
    remarks: tuple[str, ...]
    """What the worker knows about order: late, superseded, replayed."""
    link: Link | None
    thread: str
    """The same for messages that belong together: those about one subject, or digests of one group. Hex."""
    event_id: str
    kinds: tuple[Kind, ...] = ()
    entries: tuple[Entry, ...] = ()
    """What a digest stands for, in the order of the events; empty for a single event."""


def notice_of(delivery: Delivery) -> Notice:
    """What there is to say about a delivery."""
    event = delivery.released.placed.event
    return _digest_notice(delivery, event) if event.type == DIGEST_TYPE else _event_notice(delivery, event)


def entry_of(delivery: Delivery) -> Entry:
    """What a digest keeps of a delivery that joined it."""
    released = delivery.released
    event = released.placed.event
    link = link_of(event)
    return Entry(
        id=line(event.id),
        type=line(event.type),
        source=line(event.source or ""),
        subject=line(event.subject or ""),
        time=line(event.time or "", TIME_CHARACTERS),
        state=state_of(event),
        severity=severity_of(event),
        title=title_of(event),
        url=link.url if link else "",
        key=delivery.idempotency_key,
        late_by_ms=released.late_by_ms,
        superseded=released.superseded,
    )


def _event_notice(delivery: Delivery, event: Event) -> Notice:
    return Notice(
        title=title_of(event),
        severity=severity_of(event),
        sentence=_where_and_when(event),
        facts=tuple(_facts(delivery, event)),
        remarks=tuple(_remarks(delivery)),
        link=link_of(event),
        thread=_thread([event.key.source, event.key.subject]),
        event_id=line(event.id, TITLE_CHARACTERS),
    )


def _where_and_when(event: Event) -> str:
    where = place_of(event)
    when = moment(event.time) if event.time else "a time that it does not say"
    return f"It happened{f' in {where}' if where else ''}, at {when}."


def _facts(delivery: Delivery, event: Event) -> Iterable[tuple[str, str]]:
    workspace = WORKSPACE.fullmatch(event.source or "")
    facts = (
        *expectation_of(event),
        ("Status", state_of(event)),
        ("Experiment", experiment_of(event)),
        ("Run", value_of(event, "runId")),
        ("Run type", value_of(event, "runType")),
        ("Model", model_of(event)),
        ("Version", value_of(event, "modelVersion")),
        ("Endpoint", value_of(event, "serviceName")),
        ("Drift", value_of(event, "driftCoefficient")),
        ("Tags", tags_of(event)),
        ("Workspace", line(workspace[1]) if workspace else ""),
        ("Time", line(event.time or "", TIME_CHARACTERS)),
        ("Subject", line(event.subject or "")),
        ("Source", line(event.source or "")),
        ("Type", line(event.type)),
        ("Event", line(event.id)),
        ("Route", delivery.route),
    )
    return (fact for fact in facts if fact[1])


def _remarks(delivery: Delivery) -> Iterable[str]:
    late_by_ms = delivery.released.late_by_ms
    if delivery.replayed:
        yield _REPLAYED
    elif late_by_ms is not None:
        yield f"This is late: it came {late_by_ms / 1000:g} seconds after a later event of its subject was passed on."
    if delivery.released.superseded:
        yield "This is superseded: a later event of its subject was there already when it was passed on."


def _thread(parts: list[str]) -> str:
    return sha256(orjson.dumps(parts)).hexdigest()[:32]


# --- a digest


def kinds_of(entries: Iterable[Entry]) -> tuple[Kind, ...]:
    """What the entries are, the most frequent first."""
    counted = Counter((entry.type, entry.state) for entry in entries)
    return tuple(Kind(*kind, count) for kind, count in counted.most_common())


def _digest_notice(delivery: Delivery, event: Event) -> Notice:
    data = event.data if isinstance(event.data, dict) else {}
    entries, group = _entries(data.get("events")), _group(data.get("group"))
    kinds = kinds_of(entries)
    of_group = f" ({', '.join(f'{name} {value}' for name, value in group)})" if group else ""
    times = sorted(moment(entry.time) for entry in entries if entry.time)
    since = f"The first happened at {times[0]}, the last at {times[-1]}. " if times else ""
    span = [("First", times[0]), ("Last", times[-1])] if times else []
    return Notice(
        title=entries[0].title if len(entries) == 1 else _digest_title(len(entries), kinds, of_group),
        severity=max((entry.severity for entry in entries), key=lambda each: each.rank, default=Severity.INFO),
        sentence=f"{since}{_why(data.get('because'), [name for name, _ in group])}",
        facts=(*((kind.words, f"{kind.number:,}") for kind in kinds), *group, *span, ("Route", delivery.route)),
        remarks=tuple(_digest_remarks(delivery, entries)),
        link=_common_link(entries),
        thread=_thread([delivery.sink, *(f"{name}={value}" for name, value in group)]),
        event_id=line(event.id, TITLE_CHARACTERS),
        kinds=kinds,
        entries=entries,
    )


def _entries(rows: object) -> tuple[Entry, ...]:
    """What the rows say; somebody else may have made the event, so anything may stand there."""
    return tuple(Entry.from_json(row) for row in rows if isinstance(row, dict)) if isinstance(rows, list) else ()


def _group(values: object) -> tuple[tuple[str, str], ...]:
    named = values.items() if isinstance(values, dict) else ()
    return tuple((line(str(name)), line(str(value)) or "(none)") for name, value in named)


def _digest_title(count: int, kinds: tuple[Kind, ...], of_group: str) -> str:
    counts = ", ".join(f"{kind.number:,} {kind.words}" for kind in kinds[:_KINDS_IN_TITLE])
    rest = len(kinds) - _KINDS_IN_TITLE
    more = f" and {rest} other kind{'s' if rest > 1 else ''}" if rest > 0 else ""
    return line(f"{_events(count)}: {counts}{more}{of_group}", TITLE_CHARACTERS)


def _events(count: int) -> str:
    return f"{count:,} event{'' if count == 1 else 's'}"


def _why(because: object, names: list[str]) -> str:
    match because:
        case "limit":
            return "They came faster than this destination is told of single ones."
        case "order":
            return "An earlier event of the same subject had been held, so they are told in their order."
        case "mute":
            return "They came while this destination was muted."
        case _:
            return f"They are told together by {' and '.join(names)}." if names else "They are told together."


def _digest_remarks(delivery: Delivery, entries: tuple[Entry, ...]) -> Iterable[str]:
    if delivery.replayed:
        yield _REPLAYED
    if late := sum(entry.late_by_ms is not None for entry in entries):
        yield f"{late:,} of them came late: after a later event of the same subject had been passed on."
    if superseded := sum(entry.superseded for entry in entries):
        verb = "is" if superseded == 1 else "are"
        yield f"{superseded:,} of them {verb} superseded: a later event of the same subject is known."


def _common_link(entries: tuple[Entry, ...]) -> Link | None:
    """The event itself where there is one; else the workspace, where all come from the same."""
    sources = {entry.source for entry in entries}
    if len(entries) == 1 and entries[0].url:
        return Link("Open", entries[0].url)
    return workspace_link(sources.pop()) if len(sources) == 1 else None
