"""The value last delivered of each subject at each sink: whoever brings it again is unchanged (`changed` of a route).

What is kept of a subject and of a value is a digest: a row takes the same few bytes whatever they are. Bounded in
number and in time, the oldest forgotten first; whoever is forgotten counts as changed. So does a subject of which it is
not known what its sink has, because a delivery ended otherwise than by being accepted.

Pure: when something is delivered, and what happens to the unchanged, is decided in `settling`.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from hashlib import sha256
from typing import NamedTuple

import orjson

from worker.events import Event, Subject, UnixSeconds
from worker.filters import find, parse_key

ETAG = "etag"
"""The short word for the key by which Storage tells one content of a blob from another; it writes `eTag`."""
DIGEST_BYTES = 16
NOTHING = bytes(DIGEST_BYTES)
"""The digest of no value at all: it is never the same as another one."""

_ID_DIGITS = 16
"""Of a subject's digest, what a digest's member keeps of it."""

_Place = tuple[str, bytes]


class LastValue(NamedTuple):
    """What a sink has of a subject; a later row of the same place replaces it."""

    sink: str
    subject: bytes
    """The digest of it."""
    value: bytes
    """The digest of it; NOTHING: forget what an earlier row says."""
    at: UnixSeconds


def changed_key(text: str) -> tuple[str, ...]:
    """What `changed` says, as names on the way to the value. Raises ValueError with what to write instead."""
    if text == ETAG:
        return ("data", ETAG)
    if not text.startswith("data") or (names := parse_key(text))[0] != "data":
        near = text.casefold().startswith(ETAG[:2])
        hint = f"did you mean {ETAG}?" if near else f"write {ETAG}, or a key such as data.contentLength"
        raise ValueError(f"{text!r} is nothing to compare by; {hint}")
    return names


def value_digest(names: tuple[str, ...], event: Event) -> bytes:
    """The digest of the event's value, which is of this key only; NOTHING where it has none."""
    value = find(names, event)
    if value is None:
        return NOTHING
    return _digest([names, value])


def _digest(content: object) -> bytes:
    return sha256(orjson.dumps(content, default=str, option=orjson.OPT_SORT_KEYS)).digest()[:DIGEST_BYTES]


def _place(sink: str, subject: Subject) -> _Place:
    return sink, _digest([*subject])


class _Known:
    """What is known of one place."""

    __slots__ = ("at", "change", "value")

    def __init__(self, value: bytes, at: UnixSeconds, change: int) -> None:
        self.value = value
        self.at = at
        self.change = change


class LastValues:
    """Of one partition, for `memory_seconds`, at most `limit` of them. `now` may be any clock; it may step back."""

    def __init__(self, *, memory_seconds: float, limit: int) -> None:
        self.changes = 0
        """How many times a row has changed: the mark for `rows`."""
        self._memory_seconds = memory_seconds
        self._limit = limit
        # The last changed stand last, so forgetting is taking from the front.
        self._known: OrderedDict[_Place, _Known] = OrderedDict()
        self._sinks: set[str] = set()
        """Of which anything was ever known: all others cost nothing."""

    def __len__(self) -> int:
        return len(self._known)

    def has(self, sink: str, subject: Subject, value: bytes, *, now: UnixSeconds) -> bool:
        """Whether this value is what the sink has."""
        if value == NOTHING or sink not in self._sinks:
            return False
        known = self._known.get(_place(sink, subject))
        return known is not None and known.value == value and now - known.at <= self._memory_seconds

    def minds(self, sink: str, value: bytes) -> bool:
        """Whether it makes a difference that the sink has this value; with most sinks it makes none."""
        return value != NOTHING or sink in self._sinks

    def note(self, sink: str, subject: Subject, value: bytes, *, now: UnixSeconds) -> None:
        """The sink has this value from now on; NOTHING: it is not known what it has."""
        if not self.minds(sink, value):
            return
        place = _place(sink, subject)
        if value == NOTHING and place not in self._known:
            return
        self._put(place, value, now)
        self._forget(older_than=now - self._memory_seconds)

    def forget(self, sink: str, subjects: Collection[str], *, now: UnixSeconds) -> None:
        """It is not known any more what the sink has of these, of which the `digests.subject_id` is given."""
        if sink not in self._sinks:
            return
        for place in list(self._known):
            if place[0] == sink and place[1].hex()[:_ID_DIGITS] in subjects:
                self._put(place, NOTHING, now)

    def rows(self, *, since: int = 0) -> list[LastValue]:
        """What a later life needs to know, newest last; with `since`, only what changed after that `changes`."""
        found = []
        for place, known in reversed(self._known.items()):
            if known.change <= since:
                break
            found.append(LastValue(*place, known.value, known.at))
        found.reverse()
        return found

    def walk(self) -> Iterator[LastValue]:
        """All of `rows`, while events go on: what changes meanwhile is given as it was or as it is."""
        for place in list(self._known):
            known = self._known.get(place)
            if known is not None:
                yield LastValue(*place, known.value, known.at)

    def restore(self, rows: Iterable[LastValue]) -> None:
        """Takes over what `rows` gave in an earlier life; of one place the last counts."""
        for sink, subject, value, at in rows:
            self._put((sink, subject), value, at)
        self._forget()

    def clear(self) -> None:
        """It is not known any more what any sink has."""
        self._known.clear()

    def _put(self, place: _Place, value: bytes, at: UnixSeconds) -> None:
        self.changes += 1
        self._known[place] = _Known(value, at, self.changes)
        self._known.move_to_end(place)
        self._sinks.add(place[0])

    def _forget(self, *, older_than: float = float("-inf")) -> None:
        known = self._known
        while known and (len(known) > self._limit or next(iter(known.values())).at < older_than):
            known.popitem(last=False)
