"""The stages of an event's way, each by itself: `python -m bench stages`.

Pure stages are called in a loop, with what they need made before; the lane is a real one, with a sink that accepts at
once. Times are processor time. What order costs is held against a bare heap for each subject (`bare_heaps`), and a
thousand routes against ten. What the memory of a partition costs to write is in `state`.
"""

import asyncio
import gc
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from heapq import heappop, heappush
from statistics import median
from typing import Any, NamedTuple

from bench import state
from bench.made import PARTITION, PER_SECOND, START, TEAMS, TYPES, messages, team
from bench.plumbing import Counting
from bench.report import Section, Table, Target, figure, in_turns
from worker.app import set_collector
from worker.chains import Job, Turn
from worker.decode import decode
from worker.deliver import Lane
from worker.events import (
    BadEvent,
    Event,
    Message,
    OrderKey,
    OrderKind,
    Placed,
    Position,
    Released,
    Schema,
    UnixSeconds,
)
from worker.filters import compile_filter
from worker.judge import Judge
from worker.keys import data_digest, duplicate_key
from worker.metrics import Metrics
from worker.order import Orderer
from worker.progress import Progress
from worker.route import Routes, RouteSpec
from worker.settings import SinkSettings
from worker.sinks import Delivery

EVENTS = 5_000
ARRIVALS = 5_000
"""At the order stage: so few that their memory, which another stage has just used, is near."""
SUBJECTS = 1_000
WINDOW = 512
"""So many events are held: a window in events, divided by the rate."""
DISORDER = 20
"""Events arrive up to so many places late."""
DAY_SECONDS = 86_400.0
CHUNK = 100
"""Arrivals between two looks at what is due."""
ENOUGH_PER_SECOND, OF_BARE_HEAPS, OF_TEN_ROUTES = 500_000, 1.3, 2.0
BARE, BY_SUBJECT = "a bare heap per subject", ", by subject only"
_TOLD = f"""\
{EVENTS:,} events of 900 bytes and {SUBJECTS:,} subjects, one event a message; processor time of one core, in turns.
"Kept" is what there is more of after a stage than before, with all of its results still referred to: blocks by
sys.getallocatedblocks, bytes by tracemalloc; what was made and dropped again does not count. The collector is set
as the worker sets it. Order: {ARRIVALS:,} events without data, {WINDOW} of them held, up to {DISORDER} places late. A
bare heap for each subject, and one for what falls due, do the same without memory, lateness, kinds of keys, or a limit.
Routes: each event has one that matches, by its type and the beginning of its subject, or by the beginning only. Not
counted here: the hub's client, the pipeline between the stages, metrics, and caches that other work has filled."""


class Sample(NamedTuple):
    """One run of a stage, per event."""

    seconds: float
    blocks: float
    """Memory blocks more than before, with the results held."""


class Work(NamedTuple):
    """One run over so many events; what it returns is held until it is measured."""

    run: Callable[[], Any]
    events: int = EVENTS


def events_of(each: Sequence[Message]) -> list[Event]:
    """The one event of each of the messages."""
    found = [decode(one)[0] for one in each]
    assert not any(isinstance(one, BadEvent) for one in found)
    return [one for one in found if isinstance(one, Event)]


def placed_of(each: Sequence[Message]) -> list[Placed]:
    """Ready to be judged."""
    pairs = zip(each, events_of(each), strict=True)
    return [
        Placed(event, one, Position(one.sequence_number, 0), duplicate_key(event), data_digest(event))
        for one, event in pairs
    ]


def disordered(*, subjects: int = SUBJECTS, disorder: int = DISORDER) -> list[Placed]:
    """Arrivals, each up to `disorder` places late. Without data, which the order stage does not look at."""
    chance = random.Random(1)  # noqa: S311 - a bench wants the same numbers each time
    true = sorted(range(ARRIVALS), key=lambda number: number + chance.uniform(0, disorder))
    return [arrival(number, at, at % subjects) for number, at in enumerate(true)]


def arrival(number: int, at: int, subject: int) -> Placed:
    """The event that comes at this place and belongs at that one."""
    key = OrderKey(OrderKind.TIME, f"2026-01-01T00:00:00.{at:07d}Z/3")
    name = f"{team(subject % TEAMS)}runs/run_{subject:08d}"
    event = Event(Schema.EVENT_GRID, str(number), TYPES[0], state.SOURCE, name, None, None, {}, key)
    message = Message(PARTITION, number, str(number), UnixSeconds(START + number / PER_SECOND), b"")
    return Placed(event, message, Position(number, 0))


# --- the stages


def order(arrivals: Sequence[Placed]) -> list[Released]:
    """In and out of the worker's order stage."""
    orderer = Orderer(window_seconds=WINDOW / PER_SECOND, memory_seconds=DAY_SECONDS)
    out = list[Released]()
    for number, placed in enumerate(arrivals):
        now = placed.message.enqueued_at
        if number % CHUNK == 0:
            out += orderer.due(now=now, at_most=EVENTS)
        if late := orderer.add(placed, now=now):
            out.append(late)
    out += orderer.due(now=UnixSeconds(START + DAY_SECONDS), at_most=EVENTS)
    assert len(out) == len(arrivals), "an event is missing"
    return out


def bare_heaps(arrivals: Sequence[Placed]) -> list[Placed]:
    """In and out of a heap for each subject: what one would write who wants order and nothing else."""
    heaps: dict[tuple[str, str], list[tuple[str, int, Placed]]] = {}
    due: list[tuple[float, int, str, tuple[str, str]]] = []
    out = list[Placed]()

    def serve(until: float) -> None:
        while due and due[0][0] <= until:
            _, _, text, key = heappop(due)
            heap = heaps.get(key)
            while heap and heap[0][0] <= text:
                out.append(heappop(heap)[2])
            if heap is not None and not heap:
                del heaps[key]

    for number, placed in enumerate(arrivals):
        now = placed.message.enqueued_at
        if number % CHUNK == 0:
            serve(now)
        key, text = placed.event.key, placed.event.order_key.value
        assert text is not None
        heap = heaps.get(key)
        if heap is None:
            heaps[key] = heap = []
        heappush(heap, (text, number, placed))
        heappush(due, (now + WINDOW / PER_SECOND, number, text, key))
    serve(START + DAY_SECONDS)
    assert len(out) == len(arrivals), "an event is missing"
    return out


def judged(arrivals: Sequence[Placed]) -> Judge:
    """Seen, for copies; a window of nothing."""
    judge = Judge(window_seconds=0, memory_seconds=DAY_SECONDS)
    for placed in arrivals:
        judge.see(placed, now=placed.message.enqueued_at)
        judge.settled(placed.position, placed.duplicate_key, placed.digest)
    return judge


def progressed(each: Sequence[Message]) -> Progress:
    """Begun, and settled up to a window later, not in order."""
    progress, open_ones = Progress(), list[Position]()
    for one in each:
        progress.begin(one.sequence_number, one.offset, 1)
        open_ones.append(Position(one.sequence_number, 0))
        if len(open_ones) == CHUNK:
            for position in reversed(open_ones):
                assert not progress.already_settled(position)
                progress.settle(position)
            open_ones.clear()
    assert progress.watermark is not None
    assert progress.watermark.sequence_number == each[-1].sequence_number, "something is left unsettled"
    return progress


def a_filter() -> Callable[[Event], bool]:
    """What people write: types, the beginning of the subject, and two conditions on the data."""
    advanced = [
        {"operatorType": "StringIn", "key": "data.runStatus", "values": ["Failed", "Running"]},
        {"operatorType": "StringNotContains", "key": "data.runTags.stage", "values": ["test"]},
    ]
    return compile_filter(
        {"includedEventTypes": list(TYPES), "subjectBeginsWith": "/experiments/", "advancedFilters": advanced}
    ).matches


def routes(number: int) -> Routes:
    """10: one for each type; else one for each type and team. Each event has one that matches."""
    teams = ["experiments/"] if number == len(TYPES) else [team(each) for each in range(number // len(TYPES))]
    filters = [{"includedEventTypes": [kind], "subjectBeginsWith": each} for kind in TYPES for each in teams]
    return Routes(RouteSpec(f"r{each}", ("out",), compile_filter(raw)) for each, raw in enumerate(filters))


def routes_by_subject(number: int) -> Routes:
    """Routes for any type: by the beginning of the subject only, one for each team and last figure of a run."""
    teams = [team(each) for each in range(min(number, TEAMS))]
    filters = [
        {"subjectBeginsWith": f"{each}runs/{'run_' if not part else f'none-{part}'}"}
        for part in range(max(1, number // TEAMS))
        for each in teams
    ]
    return Routes(RouteSpec(f"r{each}", ("out",), compile_filter(raw)) for each, raw in enumerate(filters))


def matched(table: Routes, some: Sequence[Event]) -> list[Any]:
    """What the routes say."""
    return [table.match(event) for event in some]


# --- lanes


class Owner:
    """A partition that lets everything be tried, and counts."""

    closed = False

    def __init__(self) -> None:
        self.attempts: set[asyncio.Timeout] = set()
        self.left = 0
        self.done = asyncio.Event()

    def is_ours(self) -> bool:
        """Always."""
        return True

    def starts_at_once(self, _job: Job) -> bool:
        """Always, as nearly every delivery of a pipeline does."""
        return True

    async def may_start(self, _job: Job) -> bool:
        """Always."""
        return True

    def turn(self, _job: Job) -> Turn:
        """Each event as it comes."""
        return Turn.ALONE

    def accepted(self, _job: Job) -> None:
        """One less."""
        self.left -= 1
        if not self.left:
            self.done.set()

    def gave_up(self, job: Job, reason: str, detail: str) -> None:
        """Would spoil the figures."""
        raise AssertionError(job, reason, detail)

    def attempt_ended(self, _job: Job) -> None:
        """Nothing waits for that."""


def through_lane(some: Sequence[Placed]) -> Counting:
    """From a delivery that is made to one that is accepted."""
    return asyncio.run(_through_lane(some))


async def _through_lane(some: Sequence[Placed]) -> Counting:
    sink, owner = Counting(), Owner()
    lane = Lane(SinkSettings(name="out", kind="bench"), sink, give_up_after_seconds=3600, metrics=Metrics(), seed=1)
    running = asyncio.create_task(lane.run())
    for start in range(0, len(some), CHUNK):
        part = some[start : start + CHUNK]
        owner.left = len(part)
        owner.done.clear()
        for placed in part:
            lane.submit(Job(Delivery(Released(placed), "all", "out", "key"), owner))
        await owner.done.wait()
    running.cancel()
    await asyncio.wait([running])
    assert sink.accepted == len(some), "a delivery is missing"
    return sink


# --- the section


def works() -> dict[str, Work]:
    """Every stage, ready to be run."""
    plain = list(messages(0, EVENTS, subjects=SUBJECTS))
    some, placed, arrivals = events_of(plain), placed_of(plain), disordered()
    wanted = a_filter()
    assert all(map(wanted, some)), "the filter passes everything"
    found = {
        "decode": Work(lambda: [decode(each) for each in plain]),
        "keys (digests of event and data)": Work(lambda: [(duplicate_key(each), data_digest(each)) for each in some]),
        "copies recognised": Work(partial(judged, placed)),
        "order": Work(partial(order, arrivals), ARRIVALS),
        BARE: Work(partial(bare_heaps, arrivals), ARRIVALS),
        "one filter": Work(lambda: [wanted(each) for each in some]),
        "progress": Work(partial(progressed, plain)),
        "lane": Work(partial(through_lane, placed)),
    }
    for what, make in (("", routes), (BY_SUBJECT, routes_by_subject)):
        for number in (10, 1000):
            found[f"{number:,} routes{what}"] = Work(partial(matched, make(number), matching(make(10), some)))
    return found


def matching(few: Routes, some: Sequence[Event]) -> list[Event]:
    """As many events, of those that have a route among the few: the same for few routes and for many."""
    having = [one for one in some if few.match(one)]
    return [having[number % len(having)] for number in range(EVENTS)]


def sample(work: Work) -> Sample:
    """One run."""
    gc.collect()
    blocks, began = sys.getallocatedblocks(), time.process_time()
    held = work.run()
    seconds = time.process_time() - began
    gc.collect()
    blocks = sys.getallocatedblocks() - blocks
    del held
    return Sample(seconds / work.events, blocks / work.events)


def kept_bytes(work: Work) -> float:
    """What stays of an event, in bytes."""
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    held = work.run()
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del held
    return (after - before) / work.events


def mixes(repetitions: int) -> Table:
    """Order beside bare heaps, for other kinds of traffic."""
    rows = []
    for subjects, disorder in ((1, DISORDER), (10, 1_000), (100, DISORDER), (SUBJECTS, DISORDER), (ARRIVALS, DISORDER)):
        arrivals = disordered(subjects=subjects, disorder=disorder)
        both = {"order": Work(partial(order, arrivals), ARRIVALS), BARE: Work(partial(bare_heaps, arrivals), ARRIVALS)}
        samples = in_turns(tuple(both), lambda name, both=both: sample(both[name]).seconds, repetitions)
        rates = [figure([1 / each for each in samples[name]]) for name in both]
        times = figure(ratios(samples, "order", BARE), 2)
        rows.append((f"{subjects:,} subjects, {disorder:,} places late", *rates, times))
    return Table(("order, by traffic", "events/s", "of bare heaps", "times as long"), rows)


def ratios(samples: dict[str, list[float]], one: str, other: str) -> list[float]:
    """How many times as long one took as the other, turn by turn."""
    return [a / b for a, b in zip(samples[one], samples[other], strict=True)]


def measure(repetitions: int) -> Section:
    """All of it."""
    set_collector()
    stages = works()
    samples = in_turns(tuple(stages), lambda name: sample(stages[name]), repetitions)
    seconds = {name: [each.seconds for each in some] for name, some in samples.items()}
    rows = [
        (
            name,
            figure([1 / each for each in seconds[name]]),
            f"{median(seconds[name]) * 1e6:.2f}",
            f"{median(each.blocks for each in samples[name]):.1f}",
            f"{kept_bytes(work):,.0f}",
        )
        for name, work in stages.items()
    ]
    head = ("stage", "events/s", "µs per event", "blocks kept per event", "bytes kept per event")
    set_collector()  # what is left of the stages is nothing that a worker would have
    costs = Table(("100,000 subjects", "on SQLite"), asyncio.run(state.rows()))
    return Section("Stages", _TOLD, [Table(head, rows), mixes(repetitions), costs], targets(seconds))


def targets(seconds: dict[str, list[float]]) -> list[Target]:
    """What was wanted of them."""
    rate = 1 / median(seconds["order"])
    heaps = median(ratios(seconds, "order", BARE))
    found = [
        Target("order", f"≥ {ENOUGH_PER_SECOND:,} events/s", f"{rate:,.0f}", rate >= ENOUGH_PER_SECOND),
        Target("order beside bare heaps", f"≤ {OF_BARE_HEAPS} times", f"{heaps:.2f}", heaps <= OF_BARE_HEAPS),
    ]
    for what in ("", BY_SUBJECT):
        times = median(ratios(seconds, f"1,000 routes{what}", f"10 routes{what}"))
        name = f"1,000 routes beside 10{what}"
        found.append(Target(name, f"≤ {OF_TEN_ROUTES:g} times", f"{times:.2f}", times <= OF_TEN_ROUTES))
    return found
