"""The reorder job on Bytewax and on the worker's order stage, each in a process of its own: what an event costs."""

import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from statistics import median

from bench.reorder import PER_SECOND, Job
from bench.report import Section, Table, figure, in_turns
from bench.scene import ROOT, BenchFailed

TITLE = "Peers"
JOBS = (Job(50_000, 100, 100), Job(50_000, 5_000, 100))
OURS = "order stage"
OPERATORS = ("stateful_flat_map", "stateful_batch")
_ENVIRONMENT = ROOT / ".venv-bench"
_LIMIT_SECONDS = 120
_SKIPPED = f"""\
Skipped: Bytewax is not in {_ENVIRONMENT.name}, which `make bench` makes. It is built for Python up to 3.12, and this is
{sys.version_info.major}.{sys.version_info.minor}."""
_TOLD = f"""\
The same events, decoded before, each up to {JOBS[0].places} places late, come out in order for every subject: on
Bytewax {{version}}, with a heap per subject in `stateful_flat_map` and in `stateful_batch`, its lowest operator, given
300 events at once; and on `worker.order`, called as the pipeline calls it, once per event. One process each,
{PER_SECOND:,} events per second by the events' own time, a window of twice the displacement; processor time from the
first event in to the last one out. What came out is checked: each event once, and in order. There is no target.

What the figures do not say is what differs in meaning:

- **Time.** In `stateful_flat_map` an event is released when a later one of its own subject comes, and the last ones of
  a subject only because the job sends an end for each: it has no timer. `stateful_batch` can ask to be woken by the
  machine's clock, but does not know how far the source is. The order stage goes by its partition's enqueued time, the
  same for all subjects, and so also in a backlog and after the last event of a subject.
- **Lateness.** The heap gives a late event out behind its successors and says nothing. The order stage remembers the
  newest of each subject for hours and says by how much an event is late; what is held and remembered is bounded. That
  is part of what it costs.
- **State and recovery.** Bytewax can keep snapshots of every heap, events included, as of each epoch (10 s unless told)
  in a folder of recovery partitions, and goes on from the last one with a source that can seek; that was off here. The
  worker writes no events: its checkpoint stays behind what is not settled, and they are read again; its state has
  positions, copies and lateness.
- **Back-pressure and delivery.** A sink of Bytewax is a call that is given a batch, and while it waits, its dataflow
  does; attempts, their pace, idempotency and dead letters are the author's. The worker has a lane per sink, and reading
  waits when a partition has too much in flight.
- **Scale.** Bytewax spreads subjects over threads and processes, as many as it was started with. Workers spread
  partitions, and take them over from each other while they run."""


def measure(repetitions: int) -> Section:
    """All jobs, all contestants, in turns."""
    if (version := _installed()) is None:
        return Section(TITLE, _SKIPPED, [])
    contestants = [(job, who) for job in JOBS for who in (OURS, *OPERATORS)]
    seconds = in_turns(contestants, _run, repetitions)
    return Section(TITLE, _TOLD.format(version=version), [_table(seconds)])


def _installed() -> str | None:
    """The peer's version."""
    folders = [str(folder) for folder in _ENVIRONMENT.glob("lib/python*/site-packages")]
    return next((each.version for each in distributions(name="bytewax", path=folders)), None)


def _run(contestant: tuple[Job, str]) -> float:
    job, who = contestant
    if who == OURS:
        return _seconds(Path(sys.executable), "bench.orderer_reorder", job)
    return _seconds(_ENVIRONMENT / "bin" / "python", "bench.bytewax_reorder", job, who)


def _seconds(python: Path, module: str, job: Job, *options: str) -> float:
    command = (str(python), "-m", module, *options, *map(str, job))
    done = subprocess.run(  # noqa: S603 - our own programs
        command, cwd=ROOT, capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=False
    )
    if done.returncode:
        raise BenchFailed(f"{module} ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    return float(done.stdout)


Seconds = dict[tuple[Job, str], list[float]]


def _table(seconds: Seconds) -> Table:
    rows = []
    for (job, who), those in seconds.items():
        what = f"{who}, {job.subjects:,} subjects" if who == OURS else f"Bytewax, {who}, {job.subjects:,} subjects"
        against = median(seconds[job, OURS]) / median(those)
        cost = figure([each / job.events * 1e6 for each in those], 2)
        rows.append((what, cost, f"{job.events / median(those):,.0f}", f"{against:.2f}"))
    return Table(("", "CPU µs per event", "events/s of a core", "times the order stage"), rows)
