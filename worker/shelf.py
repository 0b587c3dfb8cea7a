"""Keeps what waits in a partition's groups in the store: who has joined stands in the state, or in parts that it names.

That an event has joined and that it is settled are of one moment, and stand in one write of the state: so a crash loses
no member and doubles none. What came since the last part stands in the state itself; when that grows, it becomes a
part, which is written before the state that names it. A part is dropped when none of its members is held any more; when
parts are many, what is held is written anew as one.

A part's name begins with the generation and grows, as the memory's parts do (`recall`), and they lie beside those, in a
place of their own. Who is in which group is decided elsewhere (`groups`).
"""

import zlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

import orjson
import structlog

from worker.digests import Member, expanded, ranges
from worker.errors import StateFormatUnknown, StoreUnavailable
from worker.events import PartitionId
from worker.groups import Groups
from worker.metrics import Metrics
from worker.retry import patiently
from worker.state import PartitionState
from worker.stores import Store

_log = structlog.get_logger()

FORMAT = 1
"""Of a part; a higher one is refused with a sentence."""
_INLINE_BYTES = 16_000
"""What may stand in the state, which is written up to once a second."""
_MANY_PARTS = 64
_MANY_HOLES = 200


class Taken(NamedTuple):
    """What waits in the groups at one moment."""

    groups: dict[str, Any]
    """Empty: nothing at all."""
    new: list[Member]
    """In no part yet."""
    parts: dict[str, list[int]]
    """Parts with members that are held, and the numbers of all in them."""
    gone: list[list[int]]
    """Of those in the parts, who is not held any more."""
    all: list[Member] | None
    """Where the parts are to be written anew: all that is held."""


class Shelf:
    """What waits in the groups of one generation of a partition, in the store."""

    def __init__(
        self,
        partition: PartitionId,
        generation: int,
        groups: Groups,
        store: Store,
        *,
        offload: Callable[..., Awaitable[Any]],
        metrics: Metrics,
    ) -> None:
        self._partition = partition
        self._place = PartitionId(f"{partition}.digests")
        self._generation = generation
        self._groups = groups
        self._store = store
        self._offload = offload
        self._metrics = metrics
        self._parts: dict[str, list[int]] = {}
        self._in_parts = 0
        """The highest number in them."""
        self._names = 0
        self._named: set[str] = set()
        """The parts that the stored state names, or may name: a write whose answer was lost may have happened."""
        self._untidy = False
        """Whether there may be parts that nobody names."""

    async def restore(self, state: PartitionState) -> None:
        """Takes over what an earlier generation left. Raises StateFormatUnknown."""
        content = state.digests
        if not content:
            return
        self._untidy = True
        self._named = set(content["parts"])
        gone = set(expanded(content["gone"]))
        rows: list[Member] = []
        for name in content["parts"]:
            members = await self._read(name)
            self._parts[name] = [member.number for member in members]
            rows += (member for member in members if member.number not in gone)
        self._in_parts = max((number for numbers in self._parts.values() for number in numbers), default=0)
        rows += map(Member.from_row, content["rows"])
        self._groups.restore(content, rows)

    async def _read(self, name: str) -> list[Member]:
        say = partial(_log.warning, "digests not read yet", partition=self._partition, part=name)
        payload = await patiently(lambda: self._store.read_memory(self._place, name), say)
        try:
            return await self._offload(_unpack, payload)  # type: ignore[no-any-return]  # what the function gives
        except ValueError as error:
            self._metrics.digest_parts_lost.labels(self._partition).inc()
            _log.error("events that waited for a digest are lost", partition=self._partition, part=name, why=str(error))
            return []

    # --- with each save

    def snapshot(self) -> Taken:
        """What waits now; to be taken in the same moment as the progress that is saved with it."""
        groups = self._groups.snapshot()
        if not groups:
            return Taken({}, [], {}, [], None)
        live = self._groups.live
        parts = {name: numbers for name, numbers in self._parts.items() if not live.keys().isdisjoint(numbers)}
        gone = ranges(number for numbers in parts.values() for number in numbers if number not in live)
        anew = len(parts) > _MANY_PARTS or len(gone) > _MANY_HOLES
        new = [member for number, member in sorted(live.items()) if number > self._in_parts]
        return Taken(groups, new, parts, gone, list(live.values()) if anew else None)

    async def write(self, taken: Taken) -> dict[str, Any]:
        """Writes what must stand outside the state; returns fields of the state. One at a time."""
        await self._tidy()
        parts, gone, new = taken.parts, taken.gone, taken.new
        if taken.all is not None:
            parts, gone, new = await self._write(taken.all), [], []
        elif sum(member.size for member in new) > _INLINE_BYTES:
            parts, new = parts | await self._write(new), []
        self._untidy |= parts.keys() != self._parts.keys()
        self._parts = parts
        self._named |= parts.keys()
        if not taken.groups:
            return {"digests": {}}
        rows = [member.to_row() for member in new]
        return {"digests": {**taken.groups, "parts": list(parts), "gone": gone, "rows": rows}}

    async def _write(self, members: list[Member]) -> dict[str, list[int]]:
        self._names += 1
        name = self._name(self._names)
        payload = await self._offload(_pack, [member.to_row() for member in members])
        await self._store.write_memory(self._place, name, payload)
        self._metrics.memory_written.labels(self._partition, "digests").inc(len(payload))
        numbers = [member.number for member in members]
        self._in_parts = max(self._in_parts, *numbers)
        return {name: numbers}

    def saved(self, state: PartitionState) -> None:
        """The state is stored: what it does not name, nobody will read."""
        named = set(state.digests.get("parts", []))
        self._untidy |= named != self._named
        self._named = named

    async def _tidy(self) -> None:
        """Deletes what neither the stored state nor the next one names. When it fails, it goes the next time."""
        if self._untidy:
            self._untidy = False
            newest = self._name(self._names + 1)  # not there: what sorts after it is a later owner's
            try:
                await self._store.forget_memory(self._place, keep=[*self._named, newest])
            except StoreUnavailable:
                self._untidy = True

    def _name(self, number: int) -> str:
        return f"{self._generation:010d}-{number:06d}"


def _pack(rows: list[Any]) -> bytes:
    return zlib.compress(orjson.dumps({"format": FORMAT, "rows": rows}), 1)


def _unpack(payload: bytes | None) -> list[Member]:
    if payload is None:
        raise ValueError("the part is missing")
    try:
        content = orjson.loads(zlib.decompress(payload))
        written_by, rows = content["format"], content["rows"]
    except (zlib.error, orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError("the part is damaged") from error
    if written_by > FORMAT:
        raise StateFormatUnknown(
            f"A part of the partition's digests has format {written_by}, this version reads {FORMAT}: "
            "run the version that wrote it."
        )
    return [Member.from_row(row) for row in rows]
