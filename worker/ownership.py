"""One generation of one partition: asked for, taken, kept and handed over through the partition's state object.

The SDK hands a partition to a new owner without telling the old one. So the new owner asks first, in the state object,
and waits until the old one has let its deliveries end, or stays silent. Then it writes the next generation: from that
moment on every write of the former owner fails. That is the fence.
"""

import asyncio
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from typing import Any

import structlog

from worker import caution
from worker import state as codec
from worker.errors import Conflict, WorkerError
from worker.events import PartitionId
from worker.state import PartitionState
from worker.stores import StateVersion, Store, StoredState

_log = structlog.get_logger()

_ASK_AGAIN_SECONDS = 0.1
"""How often a claim looks whether its request was answered. Only while it waits for an owner that is alive."""


class Fenced(WorkerError):
    """Another generation of this partition has begun: nothing of this one may be written or started any more."""


class Taken(StrEnum):
    """How a generation came to its partition."""

    FREE = "free"
    """Nobody had it, or who had it had let it go."""
    HANDED_OVER = "handed_over"
    """Its owner let it go when it was asked: balancing."""
    SILENT = "silent"
    """Its owner did not answer."""


class Tenure:
    """A generation that this process holds, or held. One write at a time, on condition that nobody came between."""

    def __init__(
        self,
        store: Store,
        partition: PartitionId,
        state: PartitionState,
        version: StateVersion,
        *,
        taken: Taken,
        size_bytes: int,
    ) -> None:
        self.taken = taken
        self.size_bytes = size_bytes
        """Of the state as it was last written."""
        self._store = store
        self._version = version
        self._writing = asyncio.Lock()
        self.partition = partition
        self.state = state
        self.lost = False
        """Set for good when another generation was seen."""

    @property
    def requested(self) -> bool:
        """Whether somebody asks for the partition."""
        return self.state.request is not None

    async def save(self, **changes: Any) -> None:
        """Writes the state with these fields changed.

        Raises Fenced when another generation has begun, StoreUnavailable when the store cannot be reached; what was
        asked for meanwhile is kept, and shows in `requested`.
        """
        async with self._writing:
            while True:
                wanted = replace(self.state, **changes)
                payload = codec.encode(wanted)
                try:
                    self._version = await self._store.write_state(self.partition, payload, expected=self._version)
                except Conflict:
                    await self._reconcile()
                else:
                    self.state, self.size_bytes = wanted, len(payload)
                    return

    async def look(self, version: StateVersion | None) -> None:
        """Reads the state again unless `version`, as just listed, is the one last written. Raises Fenced as `save`."""
        if version == self._version or self._writing.locked():
            return
        async with self._writing:
            await self._reconcile()

    async def confirm(self) -> None:
        """Reads the state again, whatever was listed. Raises Fenced as `save`."""
        async with self._writing:
            await self._reconcile()

    async def _reconcile(self) -> None:
        """Someone wrote in between: what is asked for is adopted, another generation ends this one."""
        stored = await self._store.read_state(self.partition)
        theirs = codec.decode(stored.payload) if stored else None
        if stored is None or theirs is None or (theirs.generation, theirs.owner) != self._identity:
            self.lost = True
            raise Fenced(
                f"partition {self.partition}: generation {self.state.generation} has ended, "
                f"{theirs.owner if theirs else 'nobody'} owns the partition now"
            )
        self.state = replace(self.state, request=theirs.request, stopped=theirs.stopped)
        self._version = stored.version

    @property
    def _identity(self) -> tuple[int, str]:
        return self.state.generation, self.state.owner


async def take(
    store: Store, partition: PartitionId, *, claimant: str, hand_over_seconds: float, drain_seconds: float
) -> Tenure:
    """Begins the next generation, with what the last one left behind.

    Waits for an owner that is alive: until it has released the partition, or has written nothing for
    `hand_over_seconds`; an owner that has acknowledged may drain for `drain_seconds` before its silence counts.
    Raises StoreUnavailable, and StateFormatUnknown when the state is not understood.
    """
    loop = asyncio.get_running_loop()
    asked_at: float | None = None
    heard_at = loop.time()
    heard: PartitionState | None = None
    while True:
        stored = await store.read_state(partition)
        last = codec.decode(stored.payload) if stored else None
        with suppress(Conflict):  # somebody else wrote in between: read again
            if stored is None or last is None or last.released:
                how = Taken.FREE if asked_at is None else Taken.HANDED_OVER
                return await _begin(store, partition, claimant, stored, last, taken=how)
            if asked_at is None:
                asked_at = loop.time()
                _log.info("asking for the partition", partition=partition, owner=last.owner)
            said = replace(last, request=None)
            if said != heard:
                heard, heard_at = said, loop.time()
            patience = hand_over_seconds + (drain_seconds if last.acknowledged else 0)
            # The second limit is for an owner that writes and never answers: the fence stops it all the same.
            if loop.time() - heard_at >= patience or loop.time() - asked_at >= hand_over_seconds + drain_seconds:
                _log.warning("the former owner is silent, taking the partition", partition=partition, owner=last.owner)
                return await _begin(store, partition, claimant, stored, last, taken=Taken.SILENT)
            if last.request != claimant:
                asking = replace(last, request=claimant)
                await store.write_state(partition, codec.encode(asking), expected=stored.version)
        await asyncio.sleep(_ASK_AGAIN_SECONDS)


async def _begin(
    store: Store,
    partition: PartitionId,
    claimant: str,
    stored: StoredState | None,
    last: PartitionState | None,
    *,
    taken: Taken,
) -> Tenure:
    state = PartitionState(generation=1, owner=claimant)
    if last is not None:
        state = replace(
            last,
            generation=last.generation + 1,
            owner=claimant,
            request=None,
            acknowledged=None,
            released=False,
            **caution.after(last),
        )
    payload = codec.encode(state)
    version = await store.write_state(partition, payload, expected=stored.version if stored else None)
    return Tenure(store, partition, state, version, taken=taken, size_bytes=len(payload))
