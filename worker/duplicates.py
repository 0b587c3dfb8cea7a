"""Recognises events that were sent again, for as long as a bounded memory reaches back.

Two events with one duplicate key are the same event when their data are the same too; with other data the later one is
an event of its own (publishers do reuse ids), delivered under a key of its own.

Only what is settled may be written to the partition state. An event that was seen but not settled is read again after
a crash; if the state already knew it, it would be taken for its own duplicate, settled without a delivery, and lost.
So `settled_keys` gives out nothing else, and whoever stands at the position of the first sighting is never a copy.
For the same reason a verdict of an earlier life stands: whoever was to be delivered then is no copy now.

Pure: what the key and the digest are made of, and what happens to a copy, is decided elsewhere.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from enum import Enum
from math import inf
from typing import NamedTuple

from worker.events import Position, UnixSeconds


class Verdict(Enum):
    """What an event is to those seen before it."""

    NEW = "new"
    """Not seen before, or the very one that was, read again at its own position."""
    COPY = "copy"
    """Seen before at another position: to be settled, not delivered."""
    VARIANT = "variant"
    """Its key was seen with other data only: another event, delivered under a key with the digest appended."""


class SettledKey(NamedTuple):
    """What must be remembered of a settled event to recognise its copies in a later life."""

    key: bytes
    digest: str
    position: Position
    seen_at: UnixSeconds
    variant: bool


class _Sighting:
    """The first time an event was seen."""

    __slots__ = ("change", "digest", "position", "seen_at", "variant")

    def __init__(self, digest: str, position: Position, seen_at: UnixSeconds, *, variant: bool) -> None:
        self.digest = digest
        self.position = position
        self.seen_at = seen_at
        self.variant = variant
        self.change = 0
        """When the row that is to be remembered last changed; 0 while it is not settled."""


class Duplicates:
    """The events of one partition seen within `memory_seconds`, at most `limit` of them, the oldest forgotten first.

    `key` is the same length for all events of a partition. `now` may be any clock that goes forward.
    """

    def __init__(self, *, memory_seconds: float, limit: int) -> None:
        self._memory_seconds = memory_seconds
        self._limit = limit
        # By key, and for a variant by key and digest. The last seen stand last, so forgetting is taking from the front.
        self._seen: OrderedDict[bytes, _Sighting] = OrderedDict()
        # Those settled, in the order of their last change.
        self._settled: dict[bytes, _Sighting] = {}
        self.changes = 0
        """How many times what `settled_keys` gives has changed: the mark for it."""

    def __len__(self) -> int:
        return len(self._seen)

    def see(
        self, key: bytes, digest: str, position: Position, *, now: UnixSeconds, earlier: Verdict | None = None
    ) -> Verdict:
        """Judges an event and remembers it. `earlier` is the verdict of an earlier life, which stands."""
        self._forget(older_than=now - self._memory_seconds)
        name, variant = self._place(key, digest)
        if earlier is Verdict.VARIANT:
            name, variant = key + _suffix(digest), True
        sighting = self._seen.get(name)
        if sighting is None:
            self._seen[name] = _Sighting(digest, position, now, variant=variant)
            if len(self._seen) > self._limit:
                self._forget(older_than=-inf)
            copy = False
        else:
            self._refresh(name, now)
            copy = sighting.position != position
        if variant:
            # Kept as long as its variants come: were it forgotten first, the next variant would get its plain key.
            self._refresh(key, now)
        if earlier is not None:
            return earlier
        if copy:
            return Verdict.COPY
        return Verdict.VARIANT if variant else Verdict.NEW

    def settled(self, key: bytes, digest: str) -> None:
        """The event is settled, and may be written from now on. No matter if it is forgotten by now."""
        name, _ = self._place(key, digest)
        sighting = self._seen.get(name)
        if sighting is not None:
            self._note(name, sighting)

    def settled_keys(self, *, since: int = 0) -> list[SettledKey]:
        """What a later life needs to know, newest last; with `since`, only what changed after that `changes`."""
        found = []
        for name, sighting in reversed(self._settled.items()):
            if sighting.change <= since:
                break
            found.append(_row(name, sighting))
        found.reverse()
        return found

    def walk(self) -> Iterator[SettledKey]:
        """All of `settled_keys`, while events go on: what changes meanwhile is given as it was or as it is."""
        for name in list(self._settled):
            sighting = self._settled.get(name)
            if sighting is not None:
                yield _row(name, sighting)

    def restore(self, keys: Iterable[SettledKey]) -> None:
        """Takes over what `settled_keys` gave in an earlier life, before the first event is seen."""
        for key, digest, position, seen_at, variant in keys:
            name = key + _suffix(digest) if variant else key
            self._seen[name] = sighting = _Sighting(digest, position, seen_at, variant=variant)
            self._seen.move_to_end(name)
            self._note(name, sighting)
            self._forget(older_than=-inf)

    def _place(self, key: bytes, digest: str) -> tuple[bytes, bool]:
        """The name under which this event is remembered, or will be, and whether it is a variant."""
        first = self._seen.get(key)
        if first is not None and first.digest == digest:
            return key, False
        name = key + _suffix(digest)
        if first is None and name not in self._seen:
            return key, False
        return name, True

    def _refresh(self, name: bytes, now: UnixSeconds) -> None:
        sighting = self._seen.get(name)
        if sighting is not None:
            sighting.seen_at = now
            self._seen.move_to_end(name)
            if sighting.change:
                self._note(name, sighting)

    def _note(self, name: bytes, sighting: _Sighting) -> None:
        """Its row is new, or another one than before."""
        self.changes = sighting.change = self.changes + 1
        self._settled.pop(name, None)
        self._settled[name] = sighting

    def _forget(self, *, older_than: float) -> None:
        seen = self._seen
        while seen and (len(seen) > self._limit or next(iter(seen.values())).seen_at < older_than):
            name, _ = seen.popitem(last=False)
            self._settled.pop(name, None)


def _suffix(digest: str) -> bytes:
    return b"/" + digest.encode()


def _row(name: bytes, sighting: _Sighting) -> SettledKey:
    key = name.removesuffix(_suffix(sighting.digest)) if sighting.variant else name
    return SettledKey(key, sighting.digest, sighting.position, sighting.seen_at, sighting.variant)
