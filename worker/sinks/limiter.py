"""How fast a destination may be asked, where it allows only so much: token buckets, shared by all who name it.

Pure: the clock is passed in. It waits for nobody, and what it counts ends with the process: each process has its own.
"""

from collections.abc import Callable, Collection
from hashlib import sha256
from typing import NamedTuple
from weakref import WeakValueDictionary

_ROUNDING_SECONDS = 1e-6
"""Whoever waited as long as told is let in, though sums of fractions are never exact."""


class Rate(NamedTuple):
    """At most `number` at once, and no more than so many again in `seconds`, evenly."""

    number: float
    seconds: float

    @property
    def burst(self) -> float:
        """What a full bucket holds: one at least, or nothing would ever be let through."""
        return max(1.0, self.number)

    @property
    def per_second(self) -> float:
        """How fast the bucket fills."""
        return self.number / self.seconds


class TokenBuckets:
    """The buckets of one destination, one for each length of time. They are full at first."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._spent: dict[float, tuple[float, float]] = {}
        """By a rate's seconds: the tokens that are missing, and when that was so."""

    def wait_seconds(self, rates: Collection[Rate]) -> float:
        """How long until each bucket has a token; 0: now."""
        now = self._clock()
        return max((self._wait(rate, now) for rate in rates), default=0.0)

    def take(self, rates: Collection[Rate]) -> float:
        """Takes a token from each bucket, and gives 0; or takes none, and gives the seconds to wait."""
        now = self._clock()
        wait_seconds = max((self._wait(rate, now) for rate in rates), default=0.0)
        if not wait_seconds:
            for rate in rates:
                self._spent[rate.seconds] = (self._missing(rate, now) + 1.0, now)
        return wait_seconds

    def _wait(self, rate: Rate, now: float) -> float:
        wait_seconds = (self._missing(rate, now) + 1.0 - rate.burst) / rate.per_second
        return wait_seconds if wait_seconds > _ROUNDING_SECONDS else 0.0

    def _missing(self, rate: Rate, now: float) -> float:
        spent, since = self._spent.get(rate.seconds, (0.0, now))
        return max(0.0, spent - (now - since) * rate.per_second)


class SharedBuckets:
    """The same buckets for all who name the same destination, for as long as one of them keeps them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: WeakValueDictionary[bytes, TokenBuckets] = WeakValueDictionary()

    def of(self, destination: str) -> TokenBuckets:
        """The buckets of a destination, whose name may be secret: only its digest is kept."""
        digest = sha256(destination.encode()).digest()
        buckets = self._buckets.get(digest)
        if buckets is None:
            buckets = self._buckets[digest] = TokenBuckets(self._clock)
        return buckets
