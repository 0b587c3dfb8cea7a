"""Which subjects were seen on a partition, and whether one was seen on several: a sample, because memory is bounded.

The partitions of a hub have different owners, none of which sees all of a subject that is spread over them. So of each
partition those subjects are kept that have the smallest hashes. The hash is the same everywhere: a subject that is in
the sample of one partition is, as a rule, in that of every other it comes on; samples need only be laid side by side.

A subject changes its partition also when a hub gets more of them: once, and all subjects at one moment. So what one
moment explains is not held against anybody. A sample that knows less than was the case only makes more explicable.

Pure: who writes and reads samples, and what is said, is decided in `spread`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from typing import NamedTuple

import orjson

from worker.events import PartitionId, Subject, UnixSeconds

_SIZE = 256
"""Subjects per partition: ten kilobytes when they are stored."""
_MEMORY_SECONDS = 6 * 3600.0
"""How long a subject is remembered after its last event."""
_RECENT_SECONDS = 3600.0
"""How long a subject counts after it was seen on another partition than before: then the cause may be repaired."""
_SKEW_SECONDS = 2.0
"""How far the clocks of two partitions may be apart."""
_TEXT_LENGTH = 200
_FORMAT = 1


class Sighting(NamedTuple):
    """From when to when a subject was seen on one partition, by its enqueued times."""

    first: UnixSeconds
    last: UnixSeconds


Sample = Mapping[str, Sighting]
"""By the hash of the subject."""


class Sightings:
    """The sample of one partition."""

    def __init__(self, *, size: int = _SIZE) -> None:
        self._size = size
        self._sample: dict[str, Sighting] = {}
        self._texts: dict[str, tuple[str, bool]] = {}
        self._largest = ""
        self._newest = UnixSeconds(0.0)

    def saw(self, subject: Subject, *, at: UnixSeconds, keyed: bool) -> None:
        """An event of this subject stood on the partition; `keyed`: its message had a partition key.

        Events without a subject are passed over: no key can hold them together.
        """
        if not subject.subject:
            return
        self._newest = max(self._newest, at)
        digest = _digest(subject)
        known = self._sample.get(digest)
        if known is None and len(self._sample) >= self._size and digest > self._largest:
            return
        self._sample[digest] = Sighting(min(known.first, at), max(known.last, at)) if known else Sighting(at, at)
        self._texts[digest] = subject.subject[:_TEXT_LENGTH], keyed
        if known is None:
            self._keep_smallest()

    def sample(self) -> dict[str, Sighting]:
        """What is remembered now."""
        oldest = self._newest - _MEMORY_SECONDS
        for digest in [digest for digest, seen in self._sample.items() if seen.last < oldest]:
            self._forget(digest)
        return dict(self._sample)

    def about(self, digest: str) -> tuple[str, bool] | None:
        """The subject's text, shortened, and whether its last message had a partition key; None: it is not here."""
        return self._texts.get(digest)

    def _keep_smallest(self) -> None:
        if len(self._sample) > self._size:
            self._forget(self._largest)
        if len(self._sample) == self._size:
            self._largest = max(self._sample)

    def _forget(self, digest: str) -> None:
        del self._sample[digest], self._texts[digest]


class Split(NamedTuple):
    """A subject that was on one partition, and then on another one."""

    digest: str
    partitions: tuple[PartitionId, PartitionId]


class _Change(NamedTuple):
    """When a subject changed its partition, at the earliest and at the latest; the other way round it was on both."""

    split: Split
    earliest: float
    latest: float
    seen_at: float
    """When that showed last."""


def splits(samples: Mapping[PartitionId, Sample]) -> list[Split]:
    """The subjects that were lately seen on several partitions; none where all may have moved at one moment."""
    newest = max((seen.last for sample in samples.values() for seen in sample.values()), default=0.0)
    changes = [change for change in _changes(samples, newest) if newest - change.seen_at <= _RECENT_SECONDS]
    if not changes or _are_one_move(changes):
        return []
    return list({change.split.digest: change.split for change in changes}.values())


def _changes(samples: Mapping[PartitionId, Sample], newest: float) -> Iterable[_Change]:
    places: dict[str, list[tuple[Sighting, PartitionId]]] = defaultdict(list)
    for partition, sample in samples.items():
        for digest, seen in sample.items():
            if newest - seen.last <= _MEMORY_SECONDS:  # a sample without an owner does not forget
                places[digest].append((seen, partition))
    for digest, seen_there in places.items():
        for (before, there), (after, here) in pairwise(sorted(seen_there)):
            seen_at = max(after.first, min(before.last, after.last))
            yield _Change(Split(digest, (there, here)), before.last, after.first, seen_at)


def _are_one_move(changes: list[_Change]) -> bool:
    """Whether there is a moment before which all subjects were on one partition, and after which on the other."""
    if len({change.split.digest for change in changes}) < len(changes):
        return False  # one has changed twice
    return max(change.earliest for change in changes) <= min(change.latest for change in changes) + _SKEW_SECONDS


@lru_cache(maxsize=4096)  # as a rule a subject comes several times within a short while
def _digest(subject: Subject) -> str:
    text = "\0".join(subject).encode("utf-8", "surrogatepass")
    return blake2b(text, digest_size=8).hexdigest()


def encode(sample: Sample) -> bytes:
    """The sample as it is stored. It holds no subject's text."""
    return orjson.dumps({"format": _FORMAT, "seen": {digest: list(seen) for digest, seen in sample.items()}})


def decode(payload: bytes) -> dict[str, Sighting]:
    """The sample in these bytes; what another version has written, or is damaged, is an empty one."""
    try:
        content = orjson.loads(payload)
        if content["format"] != _FORMAT:
            return {}
        return {
            digest: Sighting(UnixSeconds(float(first)), UnixSeconds(float(last)))
            for digest, (first, last) in content["seen"].items()
        }
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return {}
