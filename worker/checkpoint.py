"""One partition's checkpoint, as one generation may move it: forward only, and on condition that nobody else did.

A new generation writes the checkpoint once before anything else, unchanged if need be. Its version is another one
then, so that a former owner, frozen between its state and its checkpoint, fails when it thaws. When it is moved is
decided elsewhere (`keep`).
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import structlog

from worker import state as codec
from worker.errors import Conflict
from worker.metrics import Metrics
from worker.ownership import Tenure
from worker.progress import Watermark
from worker.stores import HubScope, StateVersion, Store, StoredCheckpoint

_log = structlog.get_logger()

_BEGINNING = "-1"
"""The offset before the first message, as the SDK has it: written before a partition is first claimed."""


async def bring_back(store: Store, scope: HubScope) -> None:
    """Writes the checkpoints that are missing beside a state. Raises StoreUnavailable.

    Before anybody reads: where there is none, `source.start` says where a partition begins, and that may be later.
    """
    known = {each["partition_id"] for each in await store.checkpoints.list_checkpoints(*scope)}
    for partition in (await store.state_versions()).keys() - known:
        stored = await store.read_state(partition)
        watermark = codec.decode(stored.payload).watermark if stored else None
        if watermark is not None:
            _log.warning("no checkpoint, it is written again from the state", partition=partition)
            number, offset = watermark
            with suppress(Conflict):  # another process was quicker
                await store.write_checkpoint(partition, offset=offset, sequence_number=number, expected=None)


async def rewrite(
    tenure: Tenure, store: Store, choose: Callable[[StoredCheckpoint | None], Watermark | None]
) -> tuple[Watermark | None, StateVersion | None]:
    """Writes what is chosen in view of what stands there, as nobody but the present owner can; None: nothing.

    Returns what stands there now, and its version. Raises Fenced, StoreUnavailable.
    """
    while True:
        stored = await store.read_checkpoint(tenure.partition)
        # In this order: were we fenced before we looked, it may be a successor's checkpoint that we saw; and whoever
        # takes over after we have looked rewrites it, so that our write fails.
        await tenure.confirm()
        chosen = choose(stored)
        version = stored.version if stored else None
        if chosen is None:
            return None, version
        number, offset = chosen
        with suppress(Conflict):
            return chosen, await store.write_checkpoint(
                tenure.partition, offset=offset, sequence_number=number, expected=version
            )


class Checkpoint:
    """The checkpoint of the partition of which this is a generation."""

    def __init__(self, tenure: Tenure, store: Store, metrics: Metrics) -> None:
        self.at: Watermark | None = None
        """Where it stands, as far as this generation has moved or found it."""
        self._tenure = tenure
        self._store = store
        self._metrics = metrics
        self._version: StateVersion | None = None

    async def begin(self) -> Watermark | None:
        """Makes it ours; returns where the partition goes on, None at the start. Raises Fenced, StoreUnavailable.

        That is where the state or the checkpoint says, whichever is further: each of them may be missing. Where an
        operator has put the partition, the checkpoint follows: he may have died in between (`seek`).
        """
        start, self._version = await rewrite(self._tenure, self._store, self._start)
        self._tenure.state = replace(self._tenure.state, sought=False)
        if start is not None:
            self._stands(start)
        return start

    async def move(self, watermark: Watermark) -> None:
        """Writes it. Where it is further on already, because somebody moved it by hand, it stays there.

        Raises Fenced, StoreUnavailable. After the state, never before: whoever takes over finds no less there.
        """
        while True:
            try:
                await self._write(watermark)
            except Conflict:
                # In this order: who begins after we looked writes the checkpoint after that too, and what we read
                # before is outdated. It may also be a write of our own, whose answer was lost.
                stored = await self._read()
                await self._tenure.confirm()
                if stored is not None and stored.sequence_number >= watermark.sequence_number:
                    self.at = watermark
                    return
            else:
                return

    async def _read(self) -> StoredCheckpoint | None:
        stored = await self._store.read_checkpoint(self._tenure.partition)
        self._version = stored.version if stored else None
        return stored

    async def _write(self, watermark: Watermark) -> None:
        partition, (number, offset) = self._tenure.partition, watermark
        self._version = await self._store.write_checkpoint(
            partition, offset=offset, sequence_number=number, expected=self._version
        )
        self._stands(watermark)

    def _stands(self, watermark: Watermark) -> None:
        self.at = watermark
        self._metrics.checkpoint_sequence.labels(self._tenure.partition).set(watermark.sequence_number)

    def _start(self, stored: StoredCheckpoint | None) -> Watermark | None:
        watermark = self._tenure.state.watermark
        if self._tenure.state.sought:
            return watermark
        if stored is None:
            if watermark is not None:
                _log.warning("no checkpoint, going on from the state", partition=self._tenure.partition)
            return watermark
        if watermark is not None and watermark.sequence_number >= stored.sequence_number:
            return watermark
        if watermark is not None:
            _log.warning("the state is behind, going on from the checkpoint", partition=self._tenure.partition)
        elif self._tenure.state.generation == 1 and stored.offset != _BEGINNING:
            # Also what the first start with `source.start: latest` looks like.
            _log.info("no state, going on from the checkpoint", partition=self._tenure.partition)
        return Watermark(stored.sequence_number, stored.offset)
