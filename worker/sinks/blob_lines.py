"""The blob sink's JSON lines: appended to a blob per folder and process, several at a time, and each once.

A line is written only where its blob ends as this process knows it to end. When an answer is lost, what stands behind
that is read before anything is written again: the lines found there have landed, and are accepted when their
deliveries come again. A blob is written by one life of one process, so nobody else's lines stand there.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import NamedTuple, Protocol

import orjson

from worker.errors import Rejected, SinkUnavailable, Throttled
from worker.sinks.batching import Batcher

MOST_BLOCKS = 50_000
"""Of an append blob; each append is one."""
MOST_BYTES = 4 * 1024 * 1024
"""Of one append: what every version of the service takes."""
MOST_BLOBS = 64
"""Written to at one time. Further folders take the place of one that nothing waits for, and later get a new blob."""
_MOST_LINES = 1000
REMEMBERED = 10_000
"""Lines that are known to have landed, of each kind: ten times as many as can be under way."""
_BUSY_SECONDS = 0.1

CONTENT_TYPE = "application/x-ndjson"


class Line(NamedTuple):
    """One line, with its line break."""

    key: str
    body: bytes


class Elsewhere(Exception):
    """The blob ends at another position than was thought."""


class Gone(Exception):
    """There is no such blob."""


class Full(Exception):
    """The blob has as many blocks as a blob can have."""


class AppendBlobs(Protocol):
    """The blobs, as `blob_link` reaches them. Every method raises as a sink's `deliver` does, too."""

    async def create_empty(self, name: str, content_type: str) -> None:
        """Begins a blob, unless there is one of this name."""
        ...

    async def append(self, name: str, body: bytes, *, position: int) -> None:
        """Appends where the blob ends at `position`. Raises Elsewhere, Gone, Full."""
        ...

    async def read(self, name: str, *, offset: int) -> bytes:
        """What stands there from an offset on. Raises Gone."""
        ...


class Lines:
    """The blobs of one sink."""

    def __init__(self, link: AppendBlobs, *, sink: str, process: str, timeout_seconds: float) -> None:
        """`process` is part of every name: of this life of this process and of no other."""
        self._link = link
        self._sink = sink
        self._process = process
        self._timeout_seconds = timeout_seconds
        self._numbers = count(1)
        self._landed = _Landed()
        self._rolls: OrderedDict[str, _Roll] = OrderedDict()
        """By folder; the one that was used last comes last."""

    async def put(self, folder: str, line: Line) -> None:
        """Returns when the line stands in a blob of the folder. Raises as a sink's `deliver` does."""
        size = len(line.body)
        if size > MOST_BYTES:
            raise Rejected(
                f"sink {self._sink}: the event takes {size:,} bytes as a line; one append takes {MOST_BYTES:,}"
            )
        if line.key not in self._landed:
            await self._roll(folder).put(line)

    async def aclose(self) -> None:
        """Ends what is under way."""
        rolls, self._rolls = self._rolls, OrderedDict()
        await asyncio.gather(*(roll.aclose() for roll in rolls.values()))

    def _roll(self, folder: str) -> "_Roll":
        roll = self._rolls.get(folder)
        if roll is None:
            self._make_room()
            roll = self._rolls[folder] = _Roll(
                self._link,
                self._landed,
                lambda: f"{folder}/{self._process}-{next(self._numbers)}.jsonl",
                sink=self._sink,
                timeout_seconds=self._timeout_seconds,
            )
        self._rolls.move_to_end(folder)
        return roll

    def _make_room(self) -> None:
        if len(self._rolls) < MOST_BLOBS:
            return
        idle = [folder for folder, roll in self._rolls.items() if roll.idle]
        if not idle:
            raise Throttled(
                f"sink {self._sink}: events of {MOST_BLOBS} hours are being written", retry_after_seconds=_BUSY_SECONDS
            )
        # Of one whose last answer was lost, the lines are still to come again: those go last.
        del self._rolls[next((folder for folder in idle if self._rolls[folder].sure), idle[0])]


class _Roll:
    """The blob of one folder that is being written, and after it is full the next."""

    def __init__(
        self,
        link: AppendBlobs,
        landed: "_Landed",
        new_name: Callable[[], str],
        *,
        sink: str,
        timeout_seconds: float,
    ) -> None:
        self.sure = True
        """Whether it is known where the blob ends."""
        self._link = link
        self._landed = landed
        self._new_name = new_name
        self._sink = sink
        self._timeout_seconds = timeout_seconds
        self._name: str | None = None
        self._next = new_name()
        """The name of the blob to be begun when this one cannot be used (any more)."""
        self._position = 0
        self._blocks = 0
        self._batcher = Batcher(self._send, name=f"sink {sink}, lines", most=_MOST_LINES, cut=_as_many_as_fit)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return self._batcher.idle

    async def put(self, line: Line) -> None:
        await self._batcher.put(line)

    async def aclose(self) -> None:
        await self._batcher.aclose()

    async def _send(self, lines: Sequence[Line]) -> None:
        scope = asyncio.timeout(self._timeout_seconds)
        try:
            async with scope:
                await self._write(lines)
        except TimeoutError:
            if not scope.expired():
                raise  # a bug
            raise SinkUnavailable(f"sink {self._sink}: no answer within {self._timeout_seconds:g} s") from None

    async def _write(self, lines: Sequence[Line]) -> None:
        if not self.sure:
            await self._catch_up()
        missing = [line for line in lines if line.key not in self._landed]
        if not missing:
            return
        try:
            await self._append(b"".join(line.body for line in missing))
        except Elsewhere:
            if not await self._catch_up():
                self._name = None  # it is not the blob that it was
            if any(line.key not in self._landed for line in missing):
                raise SinkUnavailable(
                    f"sink {self._sink}: an earlier append came late", retry_after_seconds=0
                ) from None
        self._landed.add(line.key for line in missing)

    async def _append(self, body: bytes) -> None:
        """Raises Elsewhere as well."""
        if self._name is None or self._blocks >= MOST_BLOCKS:
            await self._begin()
        try:
            await self._append_here(body)
        except (Gone, Full):
            await self._begin()
            try:
                await self._append_here(body)
            except (Gone, Full):
                raise SinkUnavailable(
                    f"sink {self._sink}: the blob that was just begun cannot be appended to"
                ) from None

    async def _append_here(self, body: bytes) -> None:
        assert self._name is not None
        self.sure = False  # until the answer is there
        await self._link.append(self._name, body, position=self._position)
        self._position += len(body)
        self._blocks += 1
        self.sure = True

    async def _begin(self) -> None:
        await self._link.create_empty(self._next, CONTENT_TYPE)
        self._name, self._next = self._next, self._new_name()
        self._position, self._blocks, self.sure = 0, 0, True

    async def _catch_up(self) -> bool:
        """Learns what stands behind the last answer, and whether anything does."""
        assert self._name is not None
        try:
            tail = await self._link.read(self._name, offset=self._position)
        except Gone:
            self._name, tail = None, b""
        self._landed.add_found(key for line in tail.splitlines() if (key := _key_of(line)))
        self._position += len(tail)
        self._blocks += bool(tail)
        self.sure = True
        return bool(tail)


class _Landed:
    """The keys of lines that stand in a blob, the newest of them."""

    def __init__(self) -> None:
        self._written: dict[str, None] = {}
        self._found: dict[str, None] = {}
        """After their answer was lost: they come again, perhaps after many others have been written."""

    def __contains__(self, key: str) -> bool:
        return key in self._written or key in self._found

    def add(self, keys: Iterable[str]) -> None:
        _remember(self._written, keys)

    def add_found(self, keys: Iterable[str]) -> None:
        _remember(self._found, keys)


def _remember(known: dict[str, None], keys: Iterable[str]) -> None:
    known.update(dict.fromkeys(keys))
    while len(known) > REMEMBERED:
        del known[next(iter(known))]


def _key_of(line: bytes) -> str | None:
    try:
        found = orjson.loads(line)
    except ValueError:
        return None  # not ours: somebody wrote by hand
    return found.get("idempotencykey") if isinstance(found, dict) else None


def _as_many_as_fit(lines: Sequence[Line]) -> int:
    """How many of the first fit into one append; each fits alone."""
    size = 0
    for number, line in enumerate(lines):
        size += len(line.body)
        if size > MOST_BYTES:
            return number
    return len(lines)
