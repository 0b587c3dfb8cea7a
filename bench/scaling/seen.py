"""What the receivers saw: each worker posts to one of its own, so that an arrival says who had its partition."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from worker.local.receiver import Record
from worker.local.verdict import Arrival


class Delivery(NamedTuple):
    """One delivery as it arrived."""

    at: float
    """Seconds, monotonic."""
    worker: str
    partition: int
    event_id: str


class Seen:
    """All deliveries of all workers, in the order they came."""

    def __init__(self, partition_of: Mapping[str, int]) -> None:
        self.deliveries: list[Delivery] = []
        self.arrivals: list[Arrival] = []
        self.events: set[str] = set()
        self.owners: dict[int, str] = {}
        """Who delivered last of each partition."""
        self.counts: Counter[int] = Counter()
        """How many deliveries each partition has had."""
        self._partition_of = partition_of

    def of(self, worker: str) -> Record:
        """The record of this worker's receiver."""
        return _Of(worker, self)

    def add(self, worker: str, arrival: Arrival) -> None:
        """Notes one more."""
        partition = self._partition_of[arrival.event_id]
        self.deliveries.append(Delivery(time.monotonic(), worker, partition, arrival.event_id))
        self.arrivals.append(arrival)
        self.events.add(arrival.event_id)
        self.owners[partition] = worker
        self.counts[partition] += 1

    def shares(self) -> Counter[str]:
        """How many partitions each worker has, by the last deliveries."""
        return Counter(self.owners.values())


class _Of(Record):
    def __init__(self, worker: str, seen: Seen) -> None:
        super().__init__()
        self._worker = worker
        self._seen = seen

    def add(self, arrival: Arrival) -> None:
        super().add(arrival)
        self._seen.add(self._worker, arrival)


def owners(deliveries: Iterable[Delivery], *, until: float) -> dict[int, str]:
    """Who had which partition at that moment."""
    return {each.partition: each.worker for each in deliveries if each.at <= until}


def had_its_share(deliveries: Iterable[Delivery], worker: str, share: int) -> float | None:
    """When the worker first had so many partitions."""
    mine: set[int] = set()
    for each in deliveries:
        if each.worker == worker:
            mine.add(each.partition)
        else:
            mine.discard(each.partition)
        if len(mine) >= share:
            return each.at
    return None


def delivered_again(deliveries: Iterable[Delivery], gone: Iterable[str], partitions: Iterable[int]) -> float | None:
    """When the last of these partitions had a delivery by somebody else than those who are gone."""
    waiting, away = set(partitions), set(gone)
    for each in deliveries:
        if each.worker not in away:
            waiting.discard(each.partition)
            if not waiting:
                return each.at
    return None


def pauses(deliveries: Iterable[Delivery], *, began: float, ended: float) -> dict[int, float]:
    """The longest time without a delivery of each partition that was over between these moments."""
    last: dict[int, float] = {}
    longest: dict[int, float] = {}
    for each in deliveries:
        before = last.get(each.partition)
        if before is not None and began <= each.at < ended:
            longest[each.partition] = max(longest.get(each.partition, 0.0), each.at - before)
        last[each.partition] = each.at
    return longest


def doubled(deliveries: Iterable[Delivery], *, began: float, ended: float) -> int:
    """Deliveries of events that had come before, which came between these moments."""
    seen: set[str] = set()
    twice = 0
    for each in deliveries:
        twice += each.event_id in seen and began <= each.at < ended
        seen.add(each.event_id)
    return twice
