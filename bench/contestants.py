"""Who reads a backlog in `way`, each as a process of its own: the SDK's bare loops, a hand-written one, the worker.

One run gives a `Sample`, or raises BenchFailed where not every event came exactly once.
"""

import json
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bench.backlog import afterwards, backlog, marks, routing
from bench.scene import BLOB_ENV, PARTITIONS, ROOT, BenchFailed, Hub, Metrics, Worker, load, running, worker

WINDOW_SECONDS = 2
PREFETCH = 3000
SINK = "out"
_RUN_SECONDS = 240.0
_SETTLE_SECONDS = 10.0
_CLOCK_SECONDS = 0.2
_MARKS = "marks.jsonl"


class Sample(NamedTuple):
    """One run of a contestant."""

    per_second: float
    """Events, from when it had its first partition until the last was through."""
    cpu_micros: float
    """Processor time of its process for each event, in µs, in the same time."""
    hub_micros: float
    """The same of the hub's."""


class Place(NamedTuple):
    """What all contestants share."""

    folder: Path
    hub: Hub
    blob: str
    """The connection string of a Blob service."""
    events: int
    """Messages in the hub, as `fill` counts them."""


def fill(source: Hub, events: int, *, subjects: int, rate: float | None = None) -> int:
    """Sends a backlog with its marks, then what shows that a window has passed: how many messages there are in all.

    Without that the last window of every partition would be waited for in real time, which says nothing of speed.
    """
    load(source, [*backlog(events, subjects=subjects), *marks(PARTITIONS)], rate=rate)
    time.sleep(WINDOW_SECONDS + _CLOCK_SECONDS)
    load(source, afterwards(PARTITIONS))
    return events + 2 * PARTITIONS


def sdk(place: Place, python: str, loop: str, environment: Mapping[str, str]) -> Sample:
    """A loop of bench/receivers.py."""
    return _told(place, (python, "-m", "bench.receivers", loop), environment)


def javascript(place: Place, environment: Mapping[str, str]) -> Sample:
    """The loop of bench/receive.mjs."""
    return _told(place, ("node", str(ROOT / "bench/receive.mjs")), environment)


def _told(place: Place, command: tuple[str, ...], environment: Mapping[str, str]) -> Sample:
    """What a contestant says of itself."""
    before = place.hub.process.cpu_seconds
    given = {"BENCH_EVENTS": str(place.events), "BENCH_GROUP": fresh("group")}
    with running("contestant", place.folder, command, {**place.hub.environment, **given, **environment}) as process:
        process.ended(_RUN_SECONDS)
        lines = [line for line in process.text().splitlines() if line.startswith("{")]
        if not lines:
            raise process.failure("said nothing of what it saw")
    seen: dict[str, Any] = json.loads(lines[-1])
    hub = place.hub.process.cpu_seconds - before
    return Sample(place.events / seen["seconds"], micros(seen["cpu_seconds"], place.events), micros(hub, place.events))


def whole_worker(place: Place, python: str, store: Mapping[str, Any]) -> Sample:
    """`worker run`, from the moment it has its first partition until the last event was delivered."""
    settings: dict[str, dict[str, Any]] = {
        "source": {"consumer_group": fresh("group"), "prefetch": PREFETCH},
        "store": dict(store),
        "order": {"window_seconds": WINDOW_SECONDS},
    }
    name, hub_before = fresh("worker"), place.hub.process.cpu_seconds
    environment = {BLOB_ENV: place.blob}
    with worker(
        place.folder, place.hub, settings, to_discard(), python=python, name=name, environment=environment
    ) as one:
        one.process.wait_for('"generation":')
        cpu_before, began = one.process.cpu_seconds, time.perf_counter()
        at_the_end(one, one.folder / _MARKS)
        seconds, cpu = time.perf_counter() - began, one.process.cpu_seconds - cpu_before
        hub = place.hub.process.cpu_seconds - hub_before
        check([one], place.events)
    return Sample(place.events / seconds, micros(cpu, place.events), micros(hub, place.events))


def to_discard(marks: str = _MARKS) -> dict[str, Any]:
    """Routes to a sink that accepts at once; the marks go to a file, which says when all is over."""
    sinks = [{"name": SINK, "kind": "discard"}, {"name": "marks", "kind": "file", "path": marks}]
    return routing(sinks, SINK, "marks")


def at_the_end(one: Worker, marks: Path) -> None:
    """Returns when the last event of each partition was delivered."""

    def over() -> bool:
        return marks.exists() and marks.read_bytes().count(b"\n") >= PARTITIONS

    one.process.until(over, "was not at the end", _RUN_SECONDS)


def check(workers: list[Worker], events: int) -> None:
    """Raises BenchFailed unless together they delivered each event once, and none of them late."""
    wanted, ends = events - 2 * PARTITIONS, time.monotonic() + _SETTLE_SECONDS
    while _sum(workers, _delivered) < wanted and time.monotonic() < ends:
        time.sleep(0.05)
    came = {
        "delivered": (_sum(workers, _delivered), wanted),
        "late": (_sum(workers, lambda seen: seen.total("worker_late_events_total")), 0),
        "dead letters": (_sum(workers, lambda seen: seen.total("worker_dead_letters_total")), 0),
        "released early": (_sum(workers, lambda seen: seen.total("worker_released_early_events_total")), 0),
    }
    wrong = [f"{seen:,.0f} {what}, not {right:,}" for what, (seen, right) in came.items() if seen != right]
    if wrong:
        raise BenchFailed(f"{workers[0].process.name}: {'; '.join(wrong)}")


def _delivered(seen: Metrics) -> float:
    return seen.total("worker_deliveries_total", sink=SINK, outcome="accepted")


def _sum(workers: list[Worker], what: Callable[[Metrics], float]) -> float:
    return sum(what(one.metrics()) for one in workers)


def fresh(what: str) -> str:
    """A name that nobody has used."""
    return f"{what}-{uuid.uuid4().hex[:12]}"


def micros(seconds: float, events: int) -> float:
    """Of each event."""
    return seconds * 1e6 / events
