"""Keeps what waits in a partition in the store, as rows that stand in the state, or in parts that the state names.

What waits: events that are told together (`groups`), and first events on which another must follow (`pending`). That an
event waits and that it is settled are of one moment, and stand in one write of the state: so a crash loses no row and
doubles none. What came since the last part stands in the state itself; when that grows, it becomes a part, which is
written before the state that names it. A part is dropped when none of its rows is live any more. What is live is
written anew as one part when more is gone than that, and what is in the smaller parts when parts are many: so a row is
written a few times, however many others are there.

A part's name begins with the generation and grows, as the memory's parts do (`recall`), and they lie beside those, in a
place of their own for each kind of rows. What is live, and what it means, is decided elsewhere.
"""

import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import compress
from typing import Any, Generic, Protocol, TypeVar

import orjson
import structlog

from worker.digests import Member, expanded, ranges
from worker.errors import StateFormatUnknown, StoreUnavailable
from worker.events import PartitionId
from worker.metrics import Metrics
from worker.pending import Pending
from worker.retry import patiently
from worker.state import PartitionState
from worker.stores import Store

_log = structlog.get_logger()

FORMAT = 1
"""Of a part; a higher one is refused with a sentence."""
_INLINE_BYTES = 16_000
"""What may stand in the state, which is written up to once a second."""
_MANY_PARTS = 64
_SMALLER_PARTS = 48
"""So many of them become one when they are many: the larger ones are not written again for each small one."""
_MANY_HOLES = 200


class Row(Protocol):
    """Something that waits."""

    @property
    def number(self) -> int:
        """Of this row alone, and higher than that of every earlier one, over all lives."""
        ...

    @property
    def size(self) -> int:
        """In bytes of JSON; about."""
        ...

    def to_row(self) -> list[Any]:
        """As it is stored."""
        ...


_Row = TypeVar("_Row", bound=Row)


class Waiting(Protocol[_Row]):
    """Who knows what waits, and what it means."""

    @property
    def live(self) -> Mapping[int, _Row]:
        """All rows that count, by number."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """What is not in the rows; empty where there is nothing to remember, and no row."""
        ...

    def restore(self, content: Mapping[str, Any], rows: Iterable[_Row]) -> None:
        """Takes over what an earlier life has left."""
        ...


@dataclass(frozen=True, slots=True)
class Kind(Generic[_Row]):
    """What is kept."""

    name: str
    """The field of the state, and the place of the parts."""
    read_row: Callable[[list[Any]], _Row]
    lost: str
    """What to say of a part that cannot be read."""
    at_random: bool = False
    """Its rows go one by one, in any order: then a bit for each says what is gone. Of those that go in groups, ranges
    of numbers do."""


DIGESTS = Kind("digests", Member.from_row, "events that waited for a digest are lost")
EXPECTATIONS = Kind("expectations", Pending.from_row, "pending expectations are lost", at_random=True)


@dataclass(frozen=True, slots=True)
class Taken(Generic[_Row]):
    """What waits at one moment."""

    content: dict[str, Any]
    """Empty: nothing at all."""
    new: list[_Row]
    """In no part yet."""
    parts: dict[str, list[int]]
    """Parts with live rows, and the numbers of all rows in them."""
    gone: dict[str, Any]
    """Of those in the parts, what is not live any more; fields of the state."""
    anew: list[_Row]
    """What is live in parts that are to be written anew as one: they are not in `parts`."""


class Shelf(Generic[_Row]):
    """What waits in one generation of a partition, in the store."""

    def __init__(
        self,
        partition: PartitionId,
        generation: int,
        kind: Kind[_Row],
        waiting: Waiting[_Row],
        store: Store,
        *,
        offload: Callable[..., Awaitable[Any]],
        metrics: Metrics,
    ) -> None:
        self._partition = partition
        self._place = PartitionId(f"{partition}.{kind.name}")
        self._generation = generation
        self._kind = kind
        self._waiting = waiting
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
        content = self._content(state)
        if not content:
            return
        self._untidy = True
        self._named = set(content["parts"])
        gone, holes = set(expanded(content["gone"])), content.get("holes", {})
        rows: list[_Row] = []
        for name in content["parts"]:
            part = await self._read(name)
            numbers = self._parts[name] = [row.number for row in part]
            gone.update(compress(numbers, _from_bits(holes.get(name))))
            rows += (row for row in part if row.number not in gone)
        self._in_parts = max((number for numbers in self._parts.values() for number in numbers), default=0)
        rows += map(self._kind.read_row, content["rows"])
        self._waiting.restore(content, rows)

    def _content(self, state: PartitionState) -> dict[str, Any]:
        content: dict[str, Any] = getattr(state, self._kind.name)
        return content

    async def _read(self, name: str) -> list[_Row]:
        say = partial(_log.warning, f"{self._kind.name} not read yet", partition=self._partition, part=name)
        payload = await patiently(lambda: self._store.read_memory(self._place, name), say)
        try:
            rows = await self._offload(_unpack, payload, self._kind.name)
        except ValueError as error:
            lost = {"digests": self._metrics.digest_parts_lost, "expectations": self._metrics.expectation_parts_lost}
            lost[self._kind.name].labels(self._partition).inc()
            _log.error(self._kind.lost, partition=self._partition, part=name, why=str(error))
            return []
        return [self._kind.read_row(row) for row in rows]

    # --- with each save

    def snapshot(self) -> Taken[_Row]:
        """What waits now; to be taken in the same moment as the progress that is saved with it."""
        content = self._waiting.snapshot()
        if not content:
            return Taken({}, [], {}, {"gone": []}, [])
        live = self._waiting.live
        parts = {name: numbers for name, numbers in self._parts.items() if not live.keys().isdisjoint(numbers)}
        worn = self._worn(parts, live)
        anew = [live[number] for name in worn for number in parts.pop(name) if number in live]
        new = [live[number] for number in sorted(live) if number > self._in_parts]
        return Taken(content, new, parts, self._gone(parts, live), anew)

    def _worn(self, parts: Mapping[str, list[int]], live: Mapping[int, _Row]) -> list[str]:
        """The parts that are to be written anew as one."""
        left = {name: sum(number in live for number in numbers) for name, numbers in parts.items()}
        gone = sum(map(len, parts.values())) - sum(left.values())
        if gone > max(_MANY_HOLES, sum(left.values())):
            return list(parts)
        if not self._kind.at_random and len(self._gone(parts, live)["gone"]) > _MANY_HOLES:
            return list(parts)
        return sorted(left, key=lambda name: left[name])[:_SMALLER_PARTS] if len(parts) > _MANY_PARTS else []

    def _gone(self, parts: Mapping[str, list[int]], live: Mapping[int, _Row]) -> dict[str, Any]:
        if not self._kind.at_random:
            return {"gone": ranges(each for numbers in parts.values() for each in numbers if each not in live)}
        bits = {name: _to_bits(number not in live for number in numbers) for name, numbers in parts.items()}
        return {"gone": [], "holes": {name: each for name, each in bits.items() if each}}

    async def write(self, taken: Taken[_Row]) -> dict[str, Any]:
        """Writes what must stand outside the state; returns fields of the state. One at a time."""
        await self._tidy()
        parts, new = taken.parts, taken.new
        if taken.anew or sum(row.size for row in new) > _INLINE_BYTES:
            parts, new = parts | await self._write([*taken.anew, *new]), []
        self._untidy |= parts.keys() != self._parts.keys()
        self._parts = parts
        self._named |= parts.keys()
        if not taken.content:
            return {self._kind.name: {}}
        inline = [row.to_row() for row in new]
        return {self._kind.name: {**taken.content, "parts": list(parts), **taken.gone, "rows": inline}}

    async def _write(self, rows: list[_Row]) -> dict[str, list[int]]:
        self._names += 1
        name = self._name(self._names)
        payload = await self._offload(_pack, [row.to_row() for row in rows])
        await self._store.write_memory(self._place, name, payload)
        self._metrics.memory_written.labels(self._partition, self._kind.name).inc(len(payload))
        numbers = [row.number for row in rows]
        self._in_parts = max(self._in_parts, *numbers)
        return {name: numbers}

    async def saved(self, state: PartitionState) -> None:
        """The state is stored: what it does not name, nobody will read."""
        named = set(self._content(state).get("parts", []))
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


def _to_bits(flags: Iterable[bool]) -> str:
    """Hex digits after a first 1, which keeps their number; empty where none is set."""
    text = "".join("01"[flag] for flag in flags)
    return f"{int('1' + text, 2):x}" if "1" in text else ""


def _from_bits(text: str | None) -> Iterator[bool]:
    return (digit == "1" for digit in f"{int(text or '1', 16):b}"[1:])


def _pack(rows: list[Any]) -> bytes:
    return zlib.compress(orjson.dumps({"format": FORMAT, "rows": rows}), 1)


def _unpack(payload: bytes | None, of: str) -> list[list[Any]]:
    if payload is None:
        raise ValueError("the part is missing")
    try:
        content = orjson.loads(zlib.decompress(payload))
        written_by, rows = content["format"], content["rows"]
    except (zlib.error, orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError("the part is damaged") from error
    if written_by > FORMAT:
        raise StateFormatUnknown(
            f"A part of the partition's {of} has format {written_by}, this version reads {FORMAT}: "
            "run the version that wrote it."
        )
    return list(rows)
