"""How many events a second a webhook sink gets through when every answer takes 20 ms, by the lane's concurrency."""

import asyncio
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count, pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import orjson

from bench.report import Section, Table, Target, figure, in_turns
from bench.scene import PARTITIONS, BenchFailed, Hub, Process, running, worker
from bench.slow_receiver import ANSWER_SECONDS
from bench.stamped import envelope
from worker.local.send import send
from worker.local.traffic import EVENT_GRID_JSON, TrafficMessage

LANES = (1, 4, 16, 64, 256)
SUBJECTS = 1000
RATIO = 20
WORKER, NAIVE = "worker", "hand-written loop"
HUBS = {WORKER: "for-worker", NAIVE: "for-loop"}
_MOST = 1200
_RUN_SECONDS = 1.2
"""How long a lane would need for its events if nothing but the answers took time."""
_WARM = 0.2
"""What share of a run goes by before it counts."""
_FULL = 0.9
"""From so much of a core on, it is the processor that limits an interpreter."""
_PATIENCE_SECONDS = 120.0
_TOLD = f"""\
A local server in its own process answers each POST after {ANSWER_SECONDS * 1000:.0f} ms. One worker process with one
webhook lane for each concurrency, and the hand-written loop of bench/naive.py, which awaits each POST before the next;
the hub has {PARTITIONS} partitions, so the SDK runs that loop {PARTITIONS} times at once. In turns, a backlog of
events of 900 bytes about {SUBJECTS} subjects is put into the hub and measured at the server, without its first fifth.
The server finds that no event overtook an earlier one of its subject, and that a subject never had two under way; else
the run fails. No order window: it is the lanes that are measured. Hub, server and worker share the cores."""


class Run(NamedTuple):
    """One lane, once."""

    rate: float
    """Events per second."""
    cores: float
    """Of processor time, while it ran."""
    at_once: int
    """Requests under way, at most."""


def measure(repetitions: int) -> Section:
    """All lanes and the loop, in turns."""
    with tempfile.TemporaryDirectory() as folder, _scene(Path(folder)) as scene:
        names: tuple[int | str, ...] = (NAIVE, *LANES)
        for name in names:
            scene.run(name)  # connections are made, and what is imported late
        runs = in_turns(names, scene.run, repetitions)
    return Section("Fan-out", _TOLD, [_table(runs)], _targets(runs))


def events(lane: int | str) -> int:
    """How many a run has."""
    at_once = PARTITIONS if lane == NAIVE else int(lane)
    return min(_MOST, round(at_once * _RUN_SECONDS / ANSWER_SECONDS))


class _Scene:
    def __init__(self, url: str, hubs: dict[str, Hub], processes: dict[str, Process]) -> None:
        self._url = url
        self._hubs = hubs
        self._processes = processes
        self._numbers = count()

    def run(self, lane: int | str) -> Run:
        """A backlog for one lane, until all of it has come."""
        whose = NAIVE if lane == NAIVE else WORKER
        process, before, number = self._processes[whose], self._seen(lane)["count"], events(lane)
        messages = [_message(lane, next(self._numbers)) for _ in range(number)]
        asyncio.run(send(messages, connection_string=self._hubs[whose].connection_string, hub=HUBS[whose]))
        self._until(lane, first := before + max(1, round(number * _WARM)))
        cpu, began = process.cpu_seconds, time.monotonic()
        self._until(lane, before + number)
        cores = (process.cpu_seconds - cpu) / (time.monotonic() - began)
        seen = self._seen(lane, behind=first)
        if seen["overtakes"] or seen["together"] or seen["count"] != before + number:
            raise BenchFailed(f"{lane}: the order was not kept, or events came twice: {seen}")
        return Run((before + number - first) / seen["seconds"], cores, seen["at_once"])

    def _until(self, lane: int | str, wanted: int) -> None:
        ends = time.monotonic() + _PATIENCE_SECONDS
        while self._seen(lane)["count"] < wanted:
            if time.monotonic() > ends:
                raise BenchFailed(f"{lane}: {wanted} events were wanted: {self._seen(lane)}")
            time.sleep(0.02)

    def _seen(self, lane: int | str, behind: int | None = None) -> dict[str, Any]:
        query = "" if behind is None else f"?behind={behind}"
        with urllib.request.urlopen(f"{self._url}/{_path(lane)}{query}") as answer:  # noqa: S310 - our own server
            seen: dict[str, Any] = orjson.loads(answer.read())
            return seen


@contextmanager
def _scene(folder: Path) -> Iterator[_Scene]:
    with ExitStack() as opened:
        server = opened.enter_context(running("server", folder, (sys.executable, "-m", "bench.slow_receiver")))
        url = server.wait_for(r"http://\S+\d\n")[0].strip()
        options = [word for hub in HUBS.values() for word in ("--hub", hub)]
        command = (sys.executable, "-m", "worker", "local", "broker", "--port", "0", "--partitions", str(PARTITIONS))
        broker = opened.enter_context(running("hub", folder, (*command, *options)))
        line = broker.wait_for(rf"Endpoint=.*EntityPath={HUBS[NAIVE]}")[0]
        of_worker, of_loop = (Hub(broker, connection_string) for connection_string in line.split())
        settings: dict[str, dict[str, Any]] = {
            "source": {"hub": HUBS[WORKER], "balance_interval_seconds": 1, "ownership_expiry_seconds": 6},
            "order": {"window_seconds": 0},
        }
        one = opened.enter_context(worker(folder, of_worker, settings, _routing(url)))
        loop = opened.enter_context(_naive(folder, of_loop, f"{url}/{_path(NAIVE)}"))
        yield _Scene(url, {WORKER: of_worker, NAIVE: of_loop}, {WORKER: one.process, NAIVE: loop})


@contextmanager
def _naive(folder: Path, hub: Hub, url: str) -> Iterator[Process]:
    environment = {
        **hub.environment,
        "NAIVE_URL": url,
        "NAIVE_SQLITE": str(folder / "naive.db"),
        "NAIVE_BALANCE_SECONDS": "1",
        "NAIVE_EXPIRY_SECONDS": "6",
    }
    with running("naive", folder, (sys.executable, "-m", "bench.naive"), environment) as process:
        yield process


def _routing(url: str) -> dict[str, Any]:
    return {
        "sinks": [
            {"name": _path(lane), "kind": "webhook", "url": f"{url}/{_path(lane)}", "concurrency": lane}
            for lane in LANES
        ],
        "routes": [
            {"name": _path(lane), "filter": {"includedEventTypes": [_type(lane)]}, "sinks": [_path(lane)]}
            for lane in LANES
        ],
    }


def _path(lane: int | str) -> str:
    return "naive" if lane == NAIVE else f"lane-{lane}"


def _type(lane: int | str) -> str:
    return f"Bench.{_path(lane)}"


def _message(lane: int | str, number: int) -> TrafficMessage:
    event = envelope(number, subject=f"runs/{number % SUBJECTS}", kind=_type(lane))
    return TrafficMessage(event, EVENT_GRID_JSON, f"runs/{number % SUBJECTS}", ())


# --- what is told


Runs = dict[int | str, list[Run]]


def _rate(runs: Runs, lane: int | str) -> float:
    return median(run.rate for run in runs[lane])


def _table(runs: Runs) -> Table:
    rows = []
    for lane, those in runs.items():
        name = f"{NAIVE}, {PARTITIONS} at once" if lane == NAIVE else f"worker, concurrency {lane}"
        against = [
            f"{_rate(runs, lane) / _rate(runs, NAIVE):.1f}",
            f"{_rate(runs, lane) / _rate(runs, 1):.1f}",
        ]
        figures = [
            figure([run.rate for run in those]),
            figure([run.cores for run in those], 2),
            figure([run.cores / run.rate * 1e6 for run in those]),
        ]
        rows.append((name, *figures, str(max(run.at_once for run in those)), *against))
    return Table(
        ("", "events/s", "cores", "CPU µs per event", "most under way", "times the loop", "times one at a time"), rows
    )


def _targets(runs: Runs) -> list[Target]:
    best = max(LANES, key=lambda lane: _rate(runs, lane))
    slower = [wide for narrow, wide in pairwise(LANES) if not _grows(runs, narrow, wide)]
    at_loop, at_one = (_rate(runs, best) / _rate(runs, other) for other in (NAIVE, 1))
    return [
        Target(
            "throughput grows with concurrency until the processor is full",
            "each step, or a full core",
            "it does" if not slower else f"not at {', '.join(map(str, slower))}",
            not slower,
        ),
        Target("times one POST after the other", f"≥ {RATIO}", f"{at_one:.1f} at {best}", at_one >= RATIO),
        Target(
            f"times the loop, which runs {PARTITIONS} times at once",
            f"≥ {RATIO}",
            f"{at_loop:.1f} at {best}",
            at_loop >= RATIO,
        ),
    ]


def _grows(runs: Runs, narrow: int, wide: int) -> bool:
    full = median(run.cores for run in runs[wide]) >= _FULL
    return full or _rate(runs, wide) > 1.5 * _rate(runs, narrow)
