"""The whole way of an event, side by side: the worker, the SDK's loop that does nothing, a loop written by hand.

Each contestant reads the same backlog from the start, alone, with a consumer group and a store of its own.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.contestants import PREFETCH, WINDOW_SECONDS, Place, Sample, fill, fresh, javascript, sdk, whole_worker
from bench.interpreters import Interpreter, interpreters
from bench.report import Section, Table, Target, figure, in_turns
from bench.scene import BLOB_ENV, PARTITIONS, azurite, hub

EVENTS = 8_000
_FEW = 600
"""For the loop whose defaults give some hundred a second."""
SUBJECTS = 2_000
_SENT_PER_SECOND = 2_000.0
"""So slow that the enqueued times span several windows: else everything would be held until the hub is empty."""
_TOLD = """\
{events:,} events of 900 bytes about {subjects:,} subjects on {partitions} partitions of a local hub, which is a
process of its own; each contestant reads them alone, from the start. *bare*: `receive_batch` with prefetch
{prefetch:,} on uvloop, as the worker has it, and a handler that does nothing. *by hand*: orjson, one checkpoint for
each batch, the SDK's defaults. *worker*: `worker run`, complete: decode, order with a window of {window} s, ten routes
with filters, a sink that accepts at once (`discard`), state and checkpoints; prefetch {prefetch:,}. *JavaScript*: the
bare loop of `@azure/event-hubs` on Node.js, with its defaults of {few:,} events only; with the large prefetch it
leaves bodies as bytes, as Python does. Both figures, events and the processor time of the contestant's process, are
from when it has its first partition until its last event is through: with a large prefetch most of the work is done
before a handler is called. The hub took {hub:.0f} µs of processor time for each event: {limit}
The SDK pauses 50 ms after each prefetched batch, so a small prefetch bounds events/s and not the processor time. That
the worker delivered each event once and none late is checked in every run; order itself is not seen here, nor what a
real destination costs, nor the network to Azure. Interpreters ({origins}) may be built with different options, so two
of them compare builds as well as versions.{one_only}"""


class Contestant(NamedTuple):
    """One row."""

    what: str
    on: str
    """The interpreter."""


def measure(repetitions: int) -> Section:
    """All contestants in turns."""
    pythons, one_only = interpreters()
    folder = Path(tempfile.mkdtemp(prefix="bench-way-"))
    try:
        with hub(folder) as source, azurite(folder) as blob:
            count = fill(source, EVENTS, subjects=SUBJECTS, rate=_SENT_PER_SECOND)
            runs = _contestants(Place(folder, source, blob, count), pythons)
            samples = in_turns(list(runs), lambda name: runs[name](), repetitions)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return section(samples, pythons, one_only)


def _contestants(place: Place, pythons: Sequence[Interpreter]) -> dict[Contestant, Callable[[], Sample]]:
    runs: dict[Contestant, Callable[[], Sample]] = {}
    for each in pythons:
        runs |= {Contestant(what, each.version): run for what, run in _of_python(place, each.python).items()}
    if shutil.which("node"):
        runs[Contestant("JavaScript", "its default")] = lambda: javascript(place._replace(events=_FEW), {})
        runs[Contestant("JavaScript", f"prefetch {PREFETCH:,}")] = lambda: javascript(
            place, {"BENCH_PREFETCH": str(PREFETCH)}
        )
    return runs


def _of_python(place: Place, python: str) -> Mapping[str, Callable[[], Sample]]:
    def sqlite() -> dict[str, str]:
        return {"BENCH_SQLITE": str(place.folder / f"{fresh('by-hand')}.db")}

    def blob() -> dict[str, str]:
        return {BLOB_ENV: place.blob, "BENCH_CONTAINER": fresh("by-hand")}

    def container() -> dict[str, str]:
        return {"kind": "blob", "connection_string_env": BLOB_ENV, "container": fresh("worker")}

    return {
        "bare": lambda: sdk(place, python, "bare", {}),
        "by hand, SQLite": lambda: sdk(place, python, "handwritten", sqlite()),
        "by hand, Azurite": lambda: sdk(place, python, "handwritten", blob()),
        "worker, SQLite": lambda: whole_worker(place, python, {"kind": "sqlite", "path": "worker.db"}),
        "worker, Azurite": lambda: whole_worker(place, python, container()),
    }


Samples = Mapping[Contestant, Sequence[Sample]]


def section(samples: Samples, pythons: Sequence[Interpreter], one_only: str) -> Section:
    """What came out."""
    rows = [
        (
            f"{name.what}, {name.on}",
            figure([each.per_second for each in seen]),
            figure([each.cpu_micros for each in seen]),
            f"{share:.0%}",
        )
        for name, seen in samples.items()
        if (share := _hub_share(seen)) is not None
    ]
    told = _TOLD.format(
        events=EVENTS,
        subjects=SUBJECTS,
        few=_FEW,
        partitions=PARTITIONS,
        prefetch=PREFETCH,
        window=WINDOW_SECONDS,
        hub=median(each.hub_micros for seen in samples.values() for each in seen),
        limit=_limit(max(map(_hub_share, samples.values()))),
        origins="; ".join(f"{each.version}: {each.origin}" for each in pythons),
        one_only=f" {one_only}" if one_only else "",
    )
    head = ("contestant", "events/s", "µs per event", "a core's share for the hub")
    targets = [target for each in pythons for target in _against_python(samples, each.version)]
    return Section("Way through", told, [Table(head, rows)], [*targets, *_against_javascript(samples, pythons)])


def _hub_share(seen: Sequence[Sample]) -> float:
    """Of one core, while the contestant read."""
    return median(each.hub_micros * each.per_second / 1e6 for each in seen)


def _limit(most: float) -> str:
    if most < 0.7:
        return f"at most {most:.0%} of a core, so it is not what limits."
    return (
        f"up to {most:.0%} of a core, so it limits the quickest, and their µs per event say more than their events/s."
    )


def _against_python(samples: Samples, version: str) -> list[Target]:
    def seen(what: str) -> Sequence[Sample]:
        return samples[Contestant(what, version)]

    targets = [_target(f"worker to bare, {version}", seen("worker, SQLite"), seen("bare"), 0.85)]
    for store in ("SQLite", "Azurite"):
        ours, theirs = seen(f"worker, {store}"), seen(f"by hand, {store}")
        targets.append(_target(f"worker to by hand, {store}, {version}", ours, theirs, 1.3))
    return targets


def _against_javascript(samples: Samples, pythons: Sequence[Interpreter]) -> list[Target]:
    theirs = [seen for name, seen in samples.items() if name.what == "JavaScript"]
    if not theirs:
        return []
    ours = [samples[Contestant("worker, SQLite", each.version)] for each in pythons]
    return [
        _target("worker on the faster interpreter to JavaScript", max(ours, key=_speed), max(theirs, key=_speed), 0.6)
    ]


def _target(what: str, ours: Sequence[Sample], theirs: Sequence[Sample], wanted: float) -> Target:
    """Of events a second, which decide; beside it the ratio of events for each second of processor time."""
    ratio = _speed(ours) / _speed(theirs)
    of_cpu = median(each.cpu_micros for each in theirs) / median(each.cpu_micros for each in ours)
    return Target(what, f"≥ {wanted:g} times", f"{ratio:.2f} times (by processor time {of_cpu:.2f})", ratio >= wanted)


def _speed(seen: Sequence[Sample]) -> float:
    return median(each.per_second for each in seen)
