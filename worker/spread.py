"""Notices when events of one subject come on several partitions: among those nobody can make an order.

Now and then it lays the samples of this process's partitions beside those that the owners of the others have stored,
and says what it finds. It decides nothing, and what it stores is of no other use: a lost sample costs a warning, and
whoever writes one last is right. What samples tell is in `sightings`.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol

import structlog

from worker import sightings
from worker.errors import StoreUnavailable
from worker.events import PartitionId
from worker.health import Health
from worker.metrics import Metrics
from worker.sightings import Sighting, Sightings, Split
from worker.stores import Store

_log = structlog.get_logger()

_FIRST_SECONDS = 2.0
_GROWTH = 1.5
_LONGEST_SECONDS = 300.0
"""Pauses grow from the first to this while the partitions stay: a wrong subscription shows soon, a right one costs
little."""
_PART = "sample"
_NAME = "subjects"

_SUBSCRIPTION = "let the event subscription send the subject as partition key: `worker subscription` writes that"
_SECOND_HUB = "make a second hub whose partitions go by subject: docs/sinks/eventhub.md"


class Owned(Protocol):
    """A partition of this process."""

    @property
    def partition(self) -> PartitionId:
        """Which one."""
        ...

    @property
    def sightings(self) -> Sightings:
        """The subjects seen on it."""
        ...


class Spread:
    """Compares samples as long as the process works."""

    def __init__(
        self, store: Store, owned: Callable[[], Collection[Owned]], *, metrics: Metrics, health: Health
    ) -> None:
        self._store = store
        self._owned = owned
        self._metrics = metrics
        self._health = health
        self._written: dict[PartitionId, bytes] = {}
        self._said = False

    async def run(self) -> None:
        """Works until it is cancelled."""
        pause, before = _FIRST_SECONDS, dict[PartitionId, Sightings]()
        while True:
            await asyncio.sleep(pause)
            own = {each.partition: each.sightings for each in self._owned()}
            pause = min(_LONGEST_SECONDS, pause * _GROWTH) if own and own == before else _FIRST_SECONDS
            before = own
            try:
                await self._compare(own)
            except StoreUnavailable as error:
                _log.debug("samples not compared", error=str(error))  # the keeper says that the store is away

    async def _compare(self, own: dict[PartitionId, Sightings]) -> None:
        samples = {partition: each.sample() for partition, each in own.items()}
        partitions = await self._store.state_versions() if any(samples.values()) else {}
        if len(partitions) > 1:
            for partition, sample in samples.items():
                await self._write(partition, sightings.encode(sample))
            for partition in partitions.keys() - own.keys():
                samples[partition] = await stored_sample(self._store, partition)
        self._say([split for split in sightings.splits(samples) if _about(own, split)], own)

    async def _write(self, partition: PartitionId, payload: bytes) -> None:
        if self._written.get(partition) != payload:
            await self._store.write_memory(_place(partition), _PART, payload)
            self._written[partition] = payload

    def _say(self, splits: list[Split], own: dict[PartitionId, Sightings]) -> None:
        self._metrics.spread_subjects.set(len(splits))
        note = "" if not splits else "events of one subject come on several partitions: there is no order among them"
        self._health.note(_NAME, note)
        if splits and not self._said:
            split = splits[0]
            subject, keyed = _about(own, split) or ("", False)
            _log.warning(
                "events of one subject come on several partitions",
                subject=subject,
                partitions=list(split.partitions),
                subjects_in_sample=len(splits),
                partition_key="there is one" if keyed else "there is none",
                advice=_SECOND_HUB if keyed else f"{_SUBSCRIPTION}; or {_SECOND_HUB}",
            )
        self._said = bool(splits)


async def stored_sample(store: Store, partition: PartitionId) -> dict[str, Sighting]:
    """What the partition's owner, or the last one, has stored; empty where it is nothing."""
    payload = await store.read_memory(_place(partition), _PART)
    return sightings.decode(payload) if payload else {}


def _about(own: dict[PartitionId, Sightings], split: Split) -> tuple[str, bool] | None:
    """The subject's text and whether it came with a key, where it has been on a partition of ours at all."""
    return next((found for each in own.values() if (found := each.about(split.digest))), None)


def _place(partition: PartitionId) -> PartitionId:
    """Beside the partition's memory, where nobody forgets old parts."""
    return PartitionId(f"{partition}.subjects")
