"""Recognises events that were sent again, for as long as a bounded memory reaches back.

Two events with one duplicate key are the same event when their data are the same too; with other data the later one is
an event of its own (publishers do reuse ids), delivered under a key of its own.

Only what is settled may be written to the partition state. An event that was seen but not settled is read again after
a crash; if the state already knew it, it would be taken for its own duplicate, settled without a delivery, and lost.
So `settled_keys` gives out nothing else, and whoever stands at the position of the first sighting is never a copy.

Pure: what the key and the digest are made of, and what happens to a copy, is decided elsewhere.
"""

from collections import OrderedDict
from collections.abc import Iterable
from enum import Enum
from itertools import islice
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

    __slots__ = ("digest", "position", "seen_at", "settled", "variant")

    def __init__(self, digest: str, position: Position, seen_at: UnixSeconds, *, variant: bool) -> None:
        self.digest = digest
        self.position = position
        self.seen_at = seen_at
        self.variant = variant
        self.settled = False


class Duplicates:
    """The events of one partition seen within `memory_seconds`, at most `limit` of them, the oldest forgotten first.

    `key` is the same length for all events of a partition. `now` may be any clock that goes forward.
    """

    def __init__(self, *, memory_seconds: float, limit: int) -> None:
        self._memory_seconds = memory_seconds
        self._limit = limit
        # By key, and for a variant by key and digest. The last seen stand last, so forgetting is taking from the front.
        self._seen: OrderedDict[bytes, _Sighting] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def see(self, key: bytes, digest: str, position: Position, *, now: UnixSeconds) -> Verdict:
        """Judges an event and remembers it."""
        self._forget(older_than=now - self._memory_seconds)
        name, variant = self._place(key, digest)
        sighting = self._seen.get(name)
        if sighting is None:
            self._seen[name] = _Sighting(digest, position, now, variant=variant)
            self._forget(older_than=-inf)
            copy = False
        else:
            self._refresh(name, now)
            copy = sighting.position != position
        if variant:
            # Kept as long as its variants come: were it forgotten first, the next variant would get its plain key.
            self._refresh(key, now)
        if copy:
            return Verdict.COPY
        return Verdict.VARIANT if variant else Verdict.NEW

    def settled(self, key: bytes, digest: str) -> None:
        """The event is settled, and may be written from now on. No matter if it is forgotten by now."""
        sighting = self._seen.get(self._place(key, digest)[0])
        if sighting is not None:
            sighting.settled = True

    def settled_keys(self, at_most: int) -> list[SettledKey]:
        """The settled ones seen last, newest last: what a later life needs to know."""
        settled = ((name, sighting) for name, sighting in reversed(self._seen.items()) if sighting.settled)
        newest_first = [
            SettledKey(_plain(name, sighting), sighting.digest, sighting.position, sighting.seen_at, sighting.variant)
            for name, sighting in islice(settled, max(0, at_most))
        ]
        return newest_first[::-1]

    def restore(self, keys: Iterable[SettledKey]) -> None:
        """Takes over what `settled_keys` gave in an earlier life, before the first event is seen."""
        for key, digest, position, seen_at, variant in keys:
            sighting = _Sighting(digest, position, seen_at, variant=variant)
            sighting.settled = True
            self._seen[key + _suffix(digest) if variant else key] = sighting
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

    def _forget(self, *, older_than: float) -> None:
        seen = self._seen
        while seen and (len(seen) > self._limit or next(iter(seen.values())).seen_at < older_than):
            seen.popitem(last=False)


def _suffix(digest: str) -> bytes:
    return b"/" + digest.encode()


def _plain(name: bytes, sighting: _Sighting) -> bytes:
    return name.removesuffix(_suffix(sighting.digest)) if sighting.variant else name
