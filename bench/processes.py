"""Two workers that share the partitions of a hub, against one that has them all.

The workers are there first and have shared an empty hub; then they are frozen while the backlog comes, and thawed
together: neither starting, nor handing over, nor sending is in the figures.
"""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.contestants import PREFETCH, WINDOW_SECONDS, at_the_end, check, fill, fresh, micros, to_discard
from bench.report import Section, Table, Target, figure, in_turns
from bench.scene import PARTITIONS, Hub, Worker, hub, worker

EVENTS = 4_000
SUBJECTS = 2_000
WANTED = 1.6
_SHARE_SECONDS = 60.0
_EXPIRY_SECONDS = 120.0
"""Longer than they are frozen."""
_TOLD = """\
{events:,} events of 900 bytes on {partitions} partitions, whole workers as in *Way through* (SQLite, one file for both;
window {window} s). They have shared an empty hub and are frozen (SIGSTOP) while the backlog comes; measured is from the
thaw to the last delivery. The hub needs its share of the {cores} cores too: with one worker it has a core beside it,
with two it takes its {hub:.0f} µs for each event from theirs. The most that the cores allow is therefore their number
times the time that one worker took, over the processor time of hub and worker together: {most:.2f} times here, and the
two reached {reached:.0%} of that. For each event two took {dearer:.2f} times the processor time of one: with cores of
their own they would come to {own:.2f} times. That each event came once, over both workers, is checked in every run."""


class Sample(NamedTuple):
    """One run."""

    seconds: float
    cpu_seconds: float
    """Of the workers."""
    hub_seconds: float
    """Of processor time."""


def measure(repetitions: int) -> Section:
    """One and two in turns."""
    events = EVENTS + 2 * PARTITIONS

    def run(count: int) -> Sample:
        folder = Path(tempfile.mkdtemp(prefix="bench-processes-"))
        try:
            with hub(folder) as source, _sharing(count, folder, source) as workers:
                with _frozen(workers):
                    fill(source, EVENTS, subjects=SUBJECTS)
                    before, hub_before = _cpu(workers), source.process.cpu_seconds
                    began = time.perf_counter()
                at_the_end(workers[0], folder / "marks.jsonl")
                seconds = time.perf_counter() - began
                sample = Sample(seconds, _cpu(workers) - before, source.process.cpu_seconds - hub_before)
                check(workers, events)
            return sample
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return section(in_turns([1, 2], run, repetitions), events)


@contextmanager
def _sharing(count: int, folder: Path, source: Hub) -> Iterator[list[Worker]]:
    """So many workers, each with its share of the partitions."""
    settings = {
        "source": {
            "consumer_group": fresh("group"),
            "prefetch": PREFETCH,
            "balance_interval_seconds": 1,
            "ownership_expiry_seconds": _EXPIRY_SECONDS,
            "idle_timeout_seconds": _EXPIRY_SECONDS,
        },
        "store": {"kind": "sqlite", "path": str(folder / "worker.db")},
        "order": {"window_seconds": WINDOW_SECONDS},
    }
    routes = to_discard(str(folder / "marks.jsonl"))
    with ExitStack() as opened:
        workers = [
            opened.enter_context(worker(folder, source, settings, routes, name=f"worker-{number}"))
            for number in range(count)
        ]
        for each in workers:
            each.process.until(
                lambda each=each: each.metrics().total("worker_partitions_owned") == PARTITIONS / count,
                "did not get its share of the partitions",
                _SHARE_SECONDS,
            )
        yield workers


@contextmanager
def _frozen(workers: Sequence[Worker]) -> Iterator[None]:
    for each in workers:
        os.kill(each.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for each in workers:
            os.kill(each.process.pid, signal.SIGCONT)


def _cpu(workers: Sequence[Worker]) -> float:
    return sum(each.process.cpu_seconds for each in workers)


def section(samples: dict[int, list[Sample]], events: int) -> Section:
    """What came out."""
    rows = [
        (
            f"{count} worker{'s' * (count > 1)}",
            figure([events / each.seconds for each in seen]),
            figure([micros(each.cpu_seconds, events) for each in seen]),
            figure([micros(each.hub_seconds, events) for each in seen]),
        )
        for count, seen in samples.items()
    ]
    one, two = (Sample(*(median(column) for column in zip(*seen, strict=True))) for seen in samples.values())
    cores = os.cpu_count() or 1
    speedup, dearer = one.seconds / two.seconds, two.cpu_seconds / one.cpu_seconds
    most = min(2.0, cores * one.seconds / (two.cpu_seconds + two.hub_seconds))
    told = _TOLD.format(
        events=EVENTS,
        partitions=PARTITIONS,
        window=WINDOW_SECONDS,
        cores=cores,
        hub=micros(two.hub_seconds, events),
        most=most,
        reached=speedup / most,
        dearer=dearer,
        own=2 / dearer,
    )
    head = ("workers", "events/s", "µs of the workers per event", "µs of the hub per event")
    seen = f"{speedup:.2f} times (of {most:.2f} that the cores allow)"
    target = Target("two workers to one", f"≥ {WANTED:g} times", seen, speedup >= WANTED)
    return Section("Two processes", told, [Table(head, rows)], [target])
