"""Looks at everything that a worker needs, from where it is started, and says what is wrong and what to do.

Behind `worker doctor`. It sends nothing to a destination, takes no partition, and leaves nothing behind. A check that
cannot be made says so, and hinders no other.
"""

import asyncio
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

from worker import recent
from worker.advice import warnings
from worker.config import Config
from worker.errors import ConfigError, HubUnavailable, StateFormatUnknown, StoreUnavailable, WorkerError
from worker.events import PartitionId
from worker.finding import Finding, State, clocks
from worker.hub import Hub
from worker.overview import PartitionView, overview
from worker.reachable import hindrance
from worker.settings import SinkSettings
from worker.stores import Store
from worker.trial import destination

_LETTERS_SHOWN = 10
_SECONDS = 60.0
"""How long a check may take: a store may hold very many dead letters."""
_TO_DO: dict[type[WorkerError], str] = {
    HubUnavailable: "without it nothing is read; what is needed is in docs/operations.md under Rights",
    StoreUnavailable: "without it no worker takes a partition; what is needed is in docs/operations.md under Rights",
    StateFormatUnknown: "docs/operations.md, `The partition state has format`",
    ConfigError: "put that right in worker.yaml: `worker run` would end here",
}


class Examination:
    """One look at everything. `clock` is the wall clock."""

    def __init__(self, config: Config, hub: Hub, store: Store, *, clock: Callable[[], float]) -> None:
        self._config = config
        self._hub = hub
        self._store = store
        self._clock = clock
        self._store_works = False
        self._hub_works = False
        self._views: list[PartitionView] = []

    async def findings(self) -> AsyncIterator[Finding]:
        """What the checks found, one after the other."""
        checks: dict[str, Callable[[], Awaitable[list[Finding]]]] = {
            "configuration": self._look_at_configuration,
            "store": self._look_at_store,
            "hub": self._look_at_hub,
            "partitions": self._look_at_partitions,
            "partition key": self._look_at_messages,
            "sinks": self._look_at_sinks,
            "dead letters": self._look_at_letters,
        }
        for name, check in checks.items():
            try:
                async with asyncio.timeout(_SECONDS):
                    found = await check()
            except TimeoutError:
                found = [Finding(name, "", State.UNKNOWN, f"not known after {_SECONDS:g} s, so it was left")]
            except (HubUnavailable, StoreUnavailable, StateFormatUnknown, ConfigError) as error:
                found = [Finding(name, "", State.WRONG, str(error), _TO_DO[type(error)])]
            for finding in found:
                yield finding

    async def _look_at_configuration(self) -> list[Finding]:
        config = self._config
        found = [
            Finding("configuration", each.where, State.LOOK, each.message, "see `worker check`")
            for each in warnings(config)
        ]
        said = f"{len(config.sinks)} sinks and {len(config.routing.specs)} routes, of which nothing looks wrong"
        return found or [Finding("configuration", "", State.OK, said)]

    async def _look_at_store(self) -> list[Finding]:
        store = self._store
        await store.open()
        rights = await _rights(store)
        self._store_works = all(each.state is State.OK for each in rights)
        return [*rights, await self._store_clock()]

    async def _store_clock(self) -> Finding:
        asked_at = self._clock()
        try:
            theirs = await self._store.clock()
        except StoreUnavailable as error:  # what it may do, and may not, is said beside it
            return Finding("clock", "the store's", State.UNKNOWN, str(error))
        return clocks("the store's", theirs - (asked_at + self._clock()) / 2)

    async def _look_at_hub(self) -> list[Finding]:
        partitions = len(await self._hub.spans())
        self._hub_works = True
        return [Finding("hub", "", State.OK, f"{self._hub.scope.hub} reached, with {partitions} partitions")]

    async def _look_at_partitions(self) -> list[Finding]:
        if not (self._hub_works and self._store_works):
            return [Finding("partitions", "", State.UNKNOWN, "store and hub are needed to look at them")]
        expiry_seconds = self._config.worker.source.ownership_expiry_seconds
        self._views = await overview(self._hub, self._store, expiry_seconds=expiry_seconds, now=self._clock())
        found = [finding for view in self._views for finding in _partition(view)]
        return [*found, _ownership(self._views, now=self._clock())]

    async def _look_at_messages(self) -> list[Finding]:
        views = self._views
        if not views:
            return []
        newest = await recent.newest(self._hub, views)
        now = self._clock()
        return [recent.clock(views, newest, now=now), recent.keys(newest, await recent.splits(self._store, views))]

    async def _look_at_sinks(self) -> list[Finding]:
        return list(await asyncio.gather(*(_sink(settings) for settings in self._config.sinks)))

    async def _look_at_letters(self) -> list[Finding]:
        if not self._store_works:
            return []
        kept = Counter([(each.sink or "", each.reason) async for each in self._store.dead_letters(bodies=False)])
        return [_letters(*each, count) for each, count in kept.most_common(_LETTERS_SHOWN)] or [
            Finding("dead letters", "", State.OK, "none")
        ]


async def _rights(store: Store) -> list[Finding]:
    """Writes, reads, lists and deletes an object of its own; each, whatever became of the others."""
    place = PartitionId(f"doctor-{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}")
    steps: dict[str, Callable[[], Awaitable[Any]]] = {
        "write": lambda: store.write_memory(place, "probe", b"worker doctor"),
        "read": lambda: store.read_memory(place, "probe"),
        "list and delete": lambda: store.forget_memory(place, keep=()),
    }
    found = []
    for right, step in steps.items():
        try:
            await step()
        except StoreUnavailable as error:
            to_do = (
                f"it must be possible to {right} there: Storage Blob Data Contributor, or a file that may be written"
            )
            found.append(Finding("store", right, State.WRONG, str(error), to_do))
    return found or [Finding("store", "", State.OK, "reached: it may be written, read, listed and deleted from")]


def _partition(view: PartitionView) -> list[Finding]:
    found, about = [], view.partition
    if view.state is not None and view.state.stopped:
        to_do = "docs/operations.md, `partition stopped`; then `worker resume` or `worker seek`"
        found.append(Finding("partition", about, State.WRONG, f"stands still: {view.state.stopped}", to_do))
    if view.lost_events:
        said = f"{view.lost_events:,} events left the hub before they were settled"
        to_do = "give the hub more retention, and find what holds it up: docs/operations.md, `Lag grows`"
        found.append(Finding("partition", about, State.WRONG, said, to_do))
    if view.lag_events < 0:
        said = f"more was read than the hub has (its last number is {view.span.last}): was it created anew?"
        to_do = "`worker seek --to earliest`, or source.on_invalid_offset"
        found.append(Finding("partition", about, State.WRONG, said, to_do))
    return found


def _ownership(views: list[PartitionView], *, now: float) -> Finding:
    unowned = [view.partition for view in views if not view.owned]
    waiting = f"{sum(view.lag_events for view in views):,} events wait"
    if len(unowned) == len(views):
        to_do = "start `worker run`; or does it say another consumer group, or another store?"
        return Finding("partitions", "", State.LOOK, f"no worker has any; {waiting}", to_do)
    if unowned:
        to_do = "look again in a minute; if it stays so, the workers' logs say why"
        return Finding("partitions", ", ".join(unowned), State.LOOK, f"no worker has them; {waiting}", to_do)
    owners = len({view.owner for view in views if view.owner})
    seconds = max(view.lag_seconds(now)[0] for view in views)
    said = f"all {len(views)} are owned, by {owners} workers; {waiting}, for {seconds:,.0f} s"
    return Finding("partitions", "", State.OK, said)


async def _sink(settings: SinkSettings) -> Finding:
    name = settings.name
    if settings.dry_run:
        return Finding("sink", name, State.LOOK, "dry_run: its events are only logged", "take it out when they count")
    reason = await hindrance(settings)
    if reason is not None:
        to_do = "check the address, the names' server, and what a network policy lets out"
        return Finding("sink", name, State.WRONG, reason, to_do)
    if settings.paused:
        return Finding("sink", name, State.LOOK, "paused: its events are held", "take `paused` out to let them go")
    place = destination(settings)
    if place is None:
        return Finding("sink", name, State.UNKNOWN, f"of kind {settings.kind}, which says no address to look at")
    return Finding("sink", name, State.OK, f"{place} can be reached (`worker send-test` tells what it says)")


def _letters(sink: str, reason: str, count: int) -> Finding:
    to_do = f"`worker deadletter list --reason {reason}`; repair the cause, then replay or drop"
    return Finding("dead letters", sink, State.LOOK, f"{count:,} with reason {reason}", to_do)
