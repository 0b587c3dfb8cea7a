"""How long an event takes from its sender to the callback of a bare SDK client, and to the worker's sink."""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from itertools import pairwise, product
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

from bench.report import Section, Table, Target, figure, turns
from bench.scene import PARTITIONS, BenchFailed, Hub, Process, running, worker
from bench.stamped import SUBJECTS, Paced, Stamp, bring, stamps

SECONDS = {100: 3.0, 1000: 2.0, 5000: 1.0}
"""How long each rate is sent, in each run: so many events that the last in a hundred is not the last of all."""
WINDOW_SECONDS = 1.0
WORKER_MS = 5.0
WINDOW_MS = 50.0
"""What the worker, and its window besides its length, may add at p99."""
_BARE, _WORKER, _WINDOW = CONTESTANTS = ("SDK alone", "worker, window 0", f"worker, window {WINDOW_SECONDS:g} s")
_PATIENCE_SECONDS = 60.0
_KEPT_UP = 0.95
"""A rate of which less came is not that rate."""
_TOLD = f"""\
The time from just before an event is handed to a producer of the SDK until the callback of a bare consumer has it, or
until `deliver` of a sink is called that does nothing but note the time. One hub in its own process with
{PARTITIONS} partitions, one consumer process each, all there the whole time and loaded in turns, for 1 to 3 s: 300
events at least, of 900 bytes, about {SUBJECTS} subjects, sent every 10 ms; the clock is the machine's steady one.
Same prefetch and batch size for all. Every event must have come once, and those of a subject in order. The median of
the repetitions, and the smallest and the largest. The SDK itself looks for what has come every 50 ms, in two steps, so
most of each figure is its pause, and the worker's share is the difference. A hub across a network has its own
latency, which comes on top for both."""


class Run(NamedTuple):
    """What one contestant did with one load."""

    p50_ms: float
    p99_ms: float
    rate: float
    """Events per second that were really sent."""
    cpu_us: float
    """Of the consumer, per event."""


def measure(repetitions: int) -> Section:
    """All rates, all contestants."""
    with tempfile.TemporaryDirectory() as folder:
        runs = asyncio.run(_measure(Path(folder), repetitions))
    return Section("Latency", _TOLD, [_table(runs)], [target for rate in SECONDS for target in _targets(runs, rate)])


class Contestant(NamedTuple):
    """A consumer, and how its hub is loaded."""

    process: Process
    noted: Path
    load: Paced


Runs = dict[tuple[str, int], list[Run]]


async def _measure(folder: Path, repetitions: int) -> Runs:
    runs: Runs = {each: [] for each in product(CONTESTANTS, SECONDS)}
    async with _scene(folder) as contestants:
        for contestant in contestants.values():
            await _one(contestant, rate=1000, seconds=1.0)  # the first batch of everything is slow
        for name, rate in turns(runs, repetitions):
            runs[name, rate].append(await _one(contestants[name], rate, SECONDS[rate]))
    return runs


async def _one(contestant: Contestant, rate: float, seconds: float) -> Run:
    begin, count = contestant.noted.stat().st_size, round(rate * seconds)
    cpu = contestant.process.cpu_seconds
    reached = await contestant.load.send(rate, seconds)
    came = await _came(contestant, begin, count)
    check(came, contestant.process.name)
    took = sorted(stamp.milliseconds for stamp in came)
    cpu_us = (contestant.process.cpu_seconds - cpu) / count * 1e6
    return Run(median(took), quantiles(took, n=100)[98], reached, cpu_us)


async def _came(contestant: Contestant, begin: int, count: int) -> list[Stamp]:
    ends = time.monotonic() + _PATIENCE_SECONDS
    while len(came := list(stamps(contestant.noted, begin))) < count:
        if time.monotonic() > ends:
            raise contestant.process.failure(f"has seen {len(came)} of {count} events")
        await asyncio.sleep(0.2)
    return came


def check(came: Sequence[Stamp], who: str) -> None:
    """Raises BenchFailed when an event came twice, or before an earlier one of its subject."""
    if len({stamp.number for stamp in came}) < len(came):
        raise BenchFailed(f"{who}: events came twice")
    by_subject: dict[int, list[int]] = {}
    for stamp in came:
        by_subject.setdefault(stamp.subject, []).append(stamp.number)
    if any(later < earlier for numbers in by_subject.values() for earlier, later in pairwise(numbers)):
        raise BenchFailed(f"{who}: a subject is out of order")


# --- the scene


@asynccontextmanager
async def _scene(folder: Path) -> AsyncIterator[dict[str, Contestant]]:
    """A hub for each contestant, in one process, and the contestants."""
    bring(folder / "brought")
    hubs = tuple(f"hub-{number}" for number in range(len(CONTESTANTS)))
    names = [word for hub in hubs for word in ("--hub", hub)]
    broker = (sys.executable, "-m", "worker", "local", "broker", "--port", "0", "--partitions", str(PARTITIONS), *names)
    async with AsyncExitStack() as opened:
        process = opened.enter_context(running("hub", folder, broker))
        line = process.wait_for(r"Endpoint=.*EntityPath=hub-2")[0]
        contestants = {}
        for name, hub, connection_string in zip(CONTESTANTS, hubs, line.split(), strict=True):
            noted = folder / f"{hub}.stamps"
            consumer = opened.enter_context(_consumer(name, hub, folder, Hub(process, connection_string), noted))
            load = await opened.enter_async_context(Paced(connection_string))
            contestants[name] = Contestant(consumer, noted, load)
        for contestant in contestants.values():
            await asyncio.to_thread(contestant.process.until, contestant.noted.exists, "was not ready", 60)
        yield contestants


@contextmanager
def _consumer(name: str, hub: str, folder: Path, source: Hub, noted: Path) -> Iterator[Process]:
    if name == _BARE:
        with running(hub, folder, (sys.executable, "-m", "bench.stamped", str(noted)), source.environment) as process:
            yield process
        return
    settings: dict[str, dict[str, Any]] = {
        # The intervals: so that it begins soon.
        "source": {"hub": hub, "balance_interval_seconds": 1, "ownership_expiry_seconds": 6},
        "order": {"window_seconds": 0 if name == _WORKER else WINDOW_SECONDS},
    }
    routing = {
        "sinks": [{"name": "stamps", "kind": "stamp", "path": str(noted)}],
        "routes": [{"name": "all", "sinks": ["stamps"]}],
    }
    environment = {"PYTHONPATH": str(folder / "brought")}
    with worker(folder, source, settings, routing, name=hub, environment=environment) as one:
        yield one.process


# --- what is told


def _table(runs: Runs) -> Table:
    head = ("", "events/s wanted", "sent", "p50 ms", "p99 ms", "CPU µs per event")
    rows = []
    for (name, rate), those in sorted(runs.items(), key=lambda each: each[0][1]):
        sent = median(run.rate for run in those)
        fell = "" if sent >= _KEPT_UP * rate else " (the machine sends no more)"
        figures = [
            figure([run.p50_ms for run in those], 1),
            figure([run.p99_ms for run in those], 1),
            figure([run.cpu_us for run in those]),
        ]
        rows.append((name, f"{rate:,}", f"{sent:,.0f}{fell}", *figures))
    return Table(head, rows)


def _targets(runs: Runs, rate: int) -> list[Target]:
    bare, worker, window = (median(run.p99_ms for run in runs[name, rate]) for name in CONTESTANTS)
    added, more = worker - bare, window - bare - WINDOW_SECONDS * 1000
    reached = min(median(run.rate for run in runs[name, rate]) for name in CONTESTANTS)
    kept_up = reached >= _KEPT_UP * rate  # else it is another load, and nothing is shown for this one
    at = "" if kept_up else f" at the {reached:,.0f} events/s that were sent"
    return [
        Target(
            f"what the worker adds at p99, {rate:,} events/s",
            f"≤ {WORKER_MS:g} ms",
            f"{added:.1f} ms{at}",
            kept_up and added <= WORKER_MS,
        ),
        Target(
            f"what a window of {WINDOW_SECONDS:g} s adds at p99 beside its length, {rate:,} events/s",
            f"≤ {WINDOW_MS:g} ms",
            f"{more:.1f} ms{at}",
            kept_up and more <= WINDOW_MS,
        ),
    ]
