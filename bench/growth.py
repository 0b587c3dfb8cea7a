"""What grows: subjects, events held, a backlog, partitions of one process: `python -m bench growth`.

The first three on one partition's real pipeline in this process (`plumbing`), by processor time; the last with a real
worker on the local hub, by its peak of resident memory (/proc: Linux only).
"""

import asyncio
import gc
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.made import PER_SECOND, START, messages
from bench.plumbing import Plumbing, plumbing
from bench.report import Section, Table, Target, figure, turns
from bench.scene import hub, load, usage, worker
from worker.app import set_collector
from worker.decode import decode
from worker.duplicates import Verdict
from worker.events import Event, Message, OrderKey, OrderKind, Placed, Position, Subject, UnixSeconds
from worker.judge import Judge
from worker.keys import data_digest, duplicate_key
from worker.local.traffic import TrafficOptions, generate
from worker.memory import Rows
from worker.order import Remembered
from worker.progress import Progress

SUBJECTS = (1_000, 100_000, 1_000_000)
HELD = (100, 10_000, 100_000)
SLICE = 2_000
"""Events of one measurement."""
BACKLOG, PART = 1_000_000, 100_000
_TURN, _BESIDE = 10_000, 1_000
"""So many events of the backlog, then so many into a memory that was empty when the part began: machines drift."""
FEW_SUBJECTS, FEW_HELD = 1_000, 100
FLAT, LIMIT_BYTES = 1.5, 512 * 2**20
PARTITIONS, EVERYWHERE = 32, 42_000
"""More than the worker asks for ahead and has in flight in all partitions together."""
_REMEMBERED = 200_000
"""The most subjects that a partition remembers (worker/order.py)."""
_DAY_SECONDS = 86_400.0
_LIMIT_SECONDS = 240.0
_MIB = 2**20
_TOLD = f"""\
Subjects and held events: one partition's pipeline and lane in this process, without hub and store, with a sink that
accepts at once and sees that nothing is missing or out of order; processor time per event, of {SLICE:,} events in
turns, made before. Before that, so many subjects were remembered (a partition remembers {_REMEMBERED:,}; of more, the
oldest are forgotten), or so many events held. The backlog goes once, in parts of {PART:,}, through what a partition
remembers, without routes and lane, which have no memory of what is done: decoded, compared with copies, ordered with
{FEW_HELD} held, settled; the making of its messages is in the figure. Beside each part, in turns, a tenth as many go
through a memory that was empty: what is compared is how many times its time per event each part took. Bytes are those
by which resident memory grew, of events of 900 bytes. Partitions: a worker on the local hub owns all {PARTITIONS}
with a backlog of {EVERYWHERE:,} events and the limits as they are shipped, and writes to a file; the peak is the
kernel's, when half of them are through: what is read ahead and in flight is full long before. Larger messages take
more."""


class Grown(NamedTuple):
    """A pipeline with something in it."""

    name: str
    number: int
    pipe: Plumbing
    subjects: int
    held: int
    bytes_each: float


def measure(repetitions: int) -> Section:
    """All of it."""
    set_collector()
    rows, targets = asyncio.run(_in_process(repetitions))
    parts = _backlog()
    peak, seconds = _partitions()
    times = [each for _, each in parts]
    flat = max(times) / min(times)
    backlog = (f"backlog of {BACKLOG:,}", figure([each * 1e6 for each, _ in parts], 1), "")
    wide = Table(
        ("one process", "events", "half of them took", "peak of memory"),
        [(f"{PARTITIONS} partitions", f"{EVERYWHERE:,}", f"{seconds:.0f} s", f"{peak / _MIB:.0f} MiB")],
    )
    targets = [
        *targets,
        Target(f"time per event over a backlog of {BACKLOG:,}", f"within {FLAT} times", f"{flat:.2f}", flat <= FLAT),
        Target(f"{PARTITIONS} partitions", "< 512 MiB", f"{peak / _MIB:.0f} MiB", peak < LIMIT_BYTES),
    ]
    head = ("one partition", "µs of processor time per event", "bytes each")
    return Section("Growth", _TOLD, [Table(head, [*rows, backlog]), wide], targets)


# --- one partition


async def _in_process(repetitions: int) -> tuple[list[tuple[str, ...]], list[Target]]:
    async with AsyncExitStack() as opened:
        grown = [await _remembering(opened, number) for number in SUBJECTS]
        grown += [await _holding(opened, number) for number in HELD]
        samples: dict[str, list[float]] = {each.name: [] for each in grown}
        for each in turns(grown, repetitions):
            samples[each.name].append(await _slice(each))
    rows = [
        (
            each.name,
            figure([one * 1e6 for one in samples[each.name]], 1),
            f"{each.bytes_each:,.0f}" if _tells(each) else "",
        )
        for each in grown
    ]
    return rows, [_flat(what, samples, grown) for what in ("subjects", "held")]


def _tells(each: Grown) -> bool:
    """Whether there are enough of them to say what one takes."""
    return each.number >= 10_000


def _flat(what: str, samples: dict[str, list[float]], grown: Sequence[Grown]) -> Target:
    medians = [median(samples[each.name]) for each in grown if what in each.name]
    times = max(medians) / min(medians)
    return Target(f"time per event over {what}", f"within {FLAT} times", f"{times:.2f}", times <= FLAT)


async def _remembering(opened: AsyncExitStack, number: int) -> Grown:
    """So many subjects have had their events."""
    pipe = await opened.enter_async_context(plumbing(window_seconds=FEW_HELD / PER_SECOND, held=2 * HELD[-1]))
    before = _resident()
    for first in range(0, number, 1_000):
        pipe.pipeline.judge.remember(Rows(subjects=[_remembered(each) for each in range(first, first + 1_000)]))
    bytes_each = (_resident() - before) / min(number, _REMEMBERED)
    await _put(pipe, FEW_HELD, subjects=number)
    return Grown(f"{number:,} subjects", number, pipe, number, FEW_HELD, bytes_each)


def _remembered(number: int) -> Remembered:
    """As it comes from an earlier life; that the names are not those of the events costs an entry as new ones do."""
    key = OrderKey(OrderKind.TIME, f"2025-12-31T00:00:00.{number:07d}Z")
    return Remembered(Subject("/source", f"experiments/runs/run_{number:08d}"), key, UnixSeconds(START - 1))


async def _holding(opened: AsyncExitStack, number: int) -> Grown:
    """So many events wait for their turn."""
    pipe = await opened.enter_async_context(plumbing(window_seconds=number / PER_SECOND, held=2 * number))
    before = _resident()
    await _put(pipe, number, subjects=FEW_SUBJECTS)
    while pipe.pipeline.judge.orderer.held < number:  # noqa: ASYNC110 - nobody announces it
        await asyncio.sleep(0.01)
    return Grown(f"{number:,} held", number, pipe, FEW_SUBJECTS, number, (_resident() - before) / number)


async def _put(pipe: Plumbing, count: int, *, subjects: int) -> None:
    await pipe.put(messages(pipe.taken, count, subjects=subjects))


async def _slice(grown: Grown) -> float:
    """Processor seconds per event: as many go in as come out."""
    pipe = grown.pipe
    coming = list(messages(pipe.taken, SLICE, subjects=grown.subjects))
    gc.collect()
    began = time.process_time()
    await pipe.put(coming)
    await pipe.sink.has(pipe.taken - grown.held)
    return (time.process_time() - began) / SLICE


class _Memory:
    """What a partition remembers, and what goes through it, with what is due settled at once."""

    def __init__(self) -> None:
        self._judge = Judge(window_seconds=FEW_HELD / PER_SECOND, memory_seconds=_DAY_SECONDS)
        self._progress = Progress()
        self._taken = 0

    def take(self, count: int) -> float:
        """So many messages come; returns the processor seconds that they took."""
        first, self._taken, before = self._taken, self._taken + count, self._progress.unsettled
        began = time.process_time()
        out = sum(self._one(message) for message in messages(first, count, subjects=FEW_SUBJECTS))
        seconds = time.process_time() - began
        assert out == count + before - FEW_HELD, "an event is missing"
        assert self._progress.unsettled == self._judge.orderer.held == FEW_HELD
        return seconds

    def _one(self, message: Message) -> int:
        """One comes; how many went."""
        judge, now = self._judge, message.enqueued_at
        released = judge.orderer.due(now=now, at_most=PART)
        for each in released:
            placed = each.placed
            self._progress.settle(placed.position)
            judge.settled(placed.position, placed.duplicate_key, placed.digest)
        elements = decode(message)
        self._progress.begin(message.sequence_number, message.offset, len(elements))
        for index, event in enumerate(elements):
            assert isinstance(event, Event)
            position = Position(message.sequence_number, index)
            placed = Placed(event, message, position, duplicate_key(event), data_digest(event))
            assert judge.see(placed, now=now) is Verdict.NEW
            assert judge.add(placed, now=now) is None, "an event was late"
        return len(released)


def _backlog() -> list[tuple[float, float]]:
    """Of each part of it: processor seconds per event, and how many times those of an empty memory, in turns."""
    grown, parts = _Memory(), []
    for _ in range(0, BACKLOG, PART):
        empty, seconds, of_empty = _Memory(), 0.0, 0.0
        for _ in range(0, PART, _TURN):
            seconds += grown.take(_TURN)
            of_empty += empty.take(_BESIDE)
        parts.append((seconds / PART, (seconds / _TURN) / (of_empty / _BESIDE)))
    return parts


def _resident() -> int:
    """Of this process, in bytes."""
    gc.collect()
    return usage(os.getpid()).resident_bytes


# --- many partitions


def _partitions() -> tuple[int, float]:
    """The peak of a worker's memory that owns them all, and the seconds until half of what there is was through."""
    sent = generate(TrafficOptions(count=EVERYWHERE, started_at=datetime(2026, 1, 1, tzinfo=UTC), seed=1))
    routing = {
        "sinks": [{"name": "out", "kind": "file", "path": "out.jsonl"}],
        "routes": [{"name": "everything", "sinks": ["out"]}],
    }
    with tempfile.TemporaryDirectory() as name, hub(Path(name), PARTITIONS) as source:
        load(source, sent)
        with worker(Path(name), source, {}, routing) as one:
            began, wanted = time.monotonic(), sum(len(each.events) for each in sent) // 2
            lines = _lines(one.folder / "out.jsonl")
            one.process.until(lambda: next(lines) >= wanted, f"did not write {wanted:,} lines", _LIMIT_SECONDS)
            return usage(one.process.pid).peak_bytes, time.monotonic() - began


def _lines(path: Path) -> Iterator[int]:
    """How many there are, each time it is asked: of a file that another process makes, and appends to."""
    while not path.exists():
        yield 0
    number = 0
    with path.open("rb") as file:
        while True:
            number += file.read().count(b"\n")
            yield number
