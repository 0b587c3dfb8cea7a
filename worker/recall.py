"""Keeps a partition's memory in the store: in parts, of which the partition state names those that count.

What came since the last part stands in the state itself. When that grows, it becomes a part, which is written before
the state that names it: a crash between the two leaves a part that nobody reads. When the parts are many, the whole
memory is written anew, beside the saves, and takes their place.

The state and the memory it names are of one moment. Were the memory newer, an event that is read again could be late
to its own successor; were it older, a copy of what is settled would not be recognised. So the memory's snapshot is
taken with that of the progress, and a whole part counts only from the next snapshot on.

A part's name begins with the generation and grows: what a former owner writes is never named, and what it deletes is
older than anything that counts. What is remembered is decided elsewhere (`judge`).

A version from before `changed` carries parts on, and passes over the values in them while it delivers. So the state
says from which generation on they count, which such a version does not say: the next owner begins without any.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

import orjson
import structlog

from worker import memory
from worker.errors import StoreUnavailable
from worker.events import PartitionId
from worker.judge import Judge, Mark
from worker.memory import PartDamaged, Rows
from worker.metrics import Metrics
from worker.retry import patiently
from worker.state import PartitionState
from worker.stores import Store

_log = structlog.get_logger()

_INLINE_BYTES = 24_000
"""What may stand in the state, which is written up to once a second."""
_INLINE_ROWS = 600
"""More do not fit, so they are not encoded to find out."""
_MANY_PARTS = 64
"""A new owner reads them all before it begins."""
_WHOLE_EVERY_SECONDS = 60.0


class MemorySnapshot(NamedTuple):
    """The memory at one moment: the parts that count, and what came since."""

    parts: list[str]
    since: Rows
    mark: Mark


class Recall:
    """The memory of one generation of a partition, in the store."""

    def __init__(
        self,
        partition: PartitionId,
        generation: int,
        judge: Judge,
        store: Store,
        *,
        offload: Callable[..., Awaitable[Any]],
        metrics: Metrics,
    ) -> None:
        self.changed: Callable[[], None] = lambda: None
        """Called when there is something new to write into the state."""
        self._partition = partition
        self._generation = generation
        self._judge = judge
        self._store = store
        self._offload = offload
        self._metrics = metrics
        self._values_from = generation
        """Values that an earlier generation wrote do not count."""
        self._parts: dict[str, int] = {}
        """Those that count, oldest first, and their bytes."""
        self._mark = Mark()
        self._names = 0
        self._too_many = asyncio.Event()
        self._saved = asyncio.Event()
        self._named: list[str] = []
        """The parts that the stored state names."""

    async def restore(self, state: PartitionState) -> None:
        """Takes over what an earlier generation remembered.

        A part that is missing or damaged is gone: that is said, and the rest counts. Raises StateFormatUnknown.
        """
        async with asyncio.TaskGroup() as tasks:
            reading = {name: tasks.create_task(self._read(name)) for name in state.memory_parts}
        self._named = list(state.memory_parts)
        if state.values_from is not None:
            self._values_from = state.values_from
        for name, read in reading.items():
            payload = read.result()
            if payload is None:
                self._lost(name, "it is missing")
                continue
            try:
                slices = await self._offload(memory.unpack, payload)
                await self._remember(slices, values=name >= _first_name(self._values_from))
            except PartDamaged as error:
                self._lost(name, str(error))
            else:
                self._parts[name] = len(payload)
        self._mark = self._judge.mark
        try:
            slices = memory.sliced(memory.decode(state.memory_since))
            await self._remember(slices, values=state.values_from is not None)
        except PartDamaged as error:
            self._lost("in the state", str(error))
        if self._too_many.is_set():
            # A later value may have been in what is lost: the earlier one is no longer what the sink has.
            self._judge.values.clear()
            self._values_from = self._generation
        self._count_parts()

    async def _read(self, name: str) -> bytes | None:
        say = partial(_log.warning, "memory not read yet", partition=self._partition, part=name)
        return await patiently(lambda: self._store.read_memory(self._partition, name), say)

    async def _remember(self, slices: list[Rows], *, values: bool) -> None:
        for rows in slices:
            self._judge.remember(rows if values else rows._replace(values=()))
            await asyncio.sleep(0)

    def _lost(self, name: str, reason: str) -> None:
        self._metrics.memory_parts_lost.labels(self._partition).inc()
        _log.warning("part of the memory lost", partition=self._partition, part=name, reason=reason)
        self._too_many.set()  # what is left is written anew

    # --- with each save

    def snapshot(self) -> MemorySnapshot:
        """The memory as it is now; to be taken in the same moment as the progress that is saved with it."""
        return MemorySnapshot(list(self._parts), self._judge.since(self._mark), self._judge.mark)

    async def write(self, taken: MemorySnapshot) -> dict[str, Any]:
        """Writes what must stand outside the state; returns fields of the state. One at a time."""
        written = await self._write_since(taken)
        return {**written, "values_from": self._values_from if self._judge.values else None}

    async def _write_since(self, taken: MemorySnapshot) -> dict[str, Any]:
        if taken.since.number == 0:
            return {"memory_parts": taken.parts, "memory_since": {}}
        if taken.since.number <= _INLINE_ROWS:
            content = memory.encode(taken.since)
            if len(orjson.dumps(content)) <= _INLINE_BYTES:
                return {"memory_parts": taken.parts, "memory_since": content}
        name = self._new_name()
        size = await self._write(name, memory.sliced(taken.since), "part")
        self._parts[name] = size
        self._mark = max(self._mark, taken.mark)
        self._count_parts()
        return {"memory_parts": [*taken.parts, name], "memory_since": {}}

    async def saved(self, state: PartitionState) -> None:
        """The state is stored: what it does not name, nobody will read."""
        self._named = state.memory_parts
        self._saved.set()

    # --- beside the saves

    async def run(self) -> None:
        """Writes the memory anew whenever its parts have become many, until it is cancelled."""
        while True:
            await self._too_many.wait()
            self._too_many.clear()
            try:
                await self._renew()
            except StoreUnavailable as error:
                self._too_many.set()
                _log.warning("memory not written anew yet", partition=self._partition, error=str(error))
            await asyncio.sleep(_WHOLE_EVERY_SECONDS)

    async def _renew(self) -> None:
        covered, mark = list(self._parts), self._judge.mark
        name = self._new_name()  # before the others that are written meanwhile: names sort by age
        slices = []
        for rows in self._judge.walk():
            slices.append(rows)
            await asyncio.sleep(0)
        size = await self._write(name, slices, "whole")
        self._parts = {name: size} | {part: size for part, size in self._parts.items() if part not in covered}
        self._mark = max(self._mark, mark)
        self.changed()
        while name not in self._named:
            self._saved.clear()
            await self._saved.wait()
        # Not again when it fails: what is left over goes the next time.
        await self._store.forget_memory(self._partition, keep=self._named)

    async def _write(self, name: str, slices: list[Rows], kind: str) -> int:
        payload = await self._offload(memory.pack, slices)
        await self._store.write_memory(self._partition, name, payload)
        self._metrics.memory_written.labels(self._partition, kind).inc(len(payload))
        return len(payload)

    def _new_name(self) -> str:
        self._names += 1
        return f"{_first_name(self._generation)}{self._names:06d}"

    def _count_parts(self) -> None:
        sizes = list(self._parts.values())
        if len(sizes) > _MANY_PARTS or sum(sizes[1:]) > sum(sizes[:1]):
            self._too_many.set()


def _first_name(generation: int) -> str:
    """Before all names of parts that this generation writes, and after those of earlier ones."""
    return f"{generation:010d}-"
