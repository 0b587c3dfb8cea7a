"""The window `auto` beside fixed ones, over one trace of changing disorder: `python -m bench.window [--keep]`.

The trace is recorded by its seed: the same arrivals each time. The best fixed window is chosen afterwards, from the
trace itself: the shortest that keeps the target, which nobody could have known before. Exits 1 when `auto` misses the
target, or waits more than 1.5 times as long on average. `--keep` writes the tables into bench/WINDOW.md.
"""

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import NamedTuple

from worker.disorder import AutoWindow, Overtakers
from worker.events import Event, Message, OrderKey, OrderKind, PartitionId, Placed, Position, Schema, UnixSeconds
from worker.judge import Judge

SEED = 1
PER_SECOND = 30.0
LATE_TARGET = 0.001
MIN_SECONDS, MAX_SECONDS = 1.0, 60.0
"""As where worker.yaml says nothing else."""
MAY_WAIT = 1.5
"""Times the mean delay of the best fixed window."""
FIXED = (1.0, 2.0, 5.0, 10.0, 30.0)
_SUBJECTS = 40
_JITTER_SECONDS = 0.05
"""Every event is up to so long on its way."""
_HOURS_LATE = 1 / 20_000
"""Share of events that Event Grid could not deliver at first and tries again after half an hour to two hours."""
_DAY = 86_400.0
_KEPT = Path(__file__).parent / "WINDOW.md"
_HEAD = """\
# The window `auto`

Made by `python -m bench.window --keep`. What it is, and how it is judged: the docstring of bench/window.py."""


class Phase(NamedTuple):
    """A time of one kind of disorder."""

    name: str
    minutes: float
    share: float
    """Of its events, those that come behind."""
    seconds: float
    """By how much on average; exponential, so that a few come far behind."""


CALM = Phase("calm", 15, 0.005, 0.2)
PHASES = (
    CALM,
    Phase("burst", 5, 0.1, 2.0),
    CALM._replace(minutes=25),
    Phase("slow publisher", 20, 0.03, 1.0),
    CALM,
    Phase("outage", 3, 0.2, 4.0),
    CALM._replace(minutes=35),
    Phase("burst", 5, 0.1, 2.0),
    CALM,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a window did to a trace."""

    delays: Sequence[float]
    """Seconds from arrival to release, in the order of arrival; infinite for those that came late."""

    @property
    def late(self) -> int:
        """How many events came late."""
        return sum(delay == inf for delay in self.delays)

    @property
    def late_share(self) -> float:
        """Of all."""
        return self.late / len(self.delays)

    @property
    def mean_delay(self) -> float:
        """In seconds. A late event did not wait."""
        return sum(delay for delay in self.delays if delay != inf) / len(self.delays)


def recorded(phases: Sequence[Phase], *, per_second: float = PER_SECOND, seed: int = SEED) -> list[Placed]:
    """Events in the order of their arrival, which stands in their messages."""
    chance = random.Random(seed)  # noqa: S311 - the same arrivals each time
    arrivals = sorted(_arrivals(phases, per_second, chance))
    ends = sum(phase.minutes for phase in phases) * 60
    return [
        _placed(number, happened, round(at, 3), subject)
        for number, (at, happened, subject) in enumerate(arrivals)
        if at < ends
    ]


def _arrivals(phases: Sequence[Phase], per_second: float, chance: random.Random) -> Iterator[tuple[float, int, int]]:
    now, ends, happened = 0.0, 0.0, 0
    for phase in phases:
        ends += phase.minutes * 60
        while now < ends:
            now += chance.expovariate(per_second)
            happened += 1
            at = now + chance.uniform(0, _JITTER_SECONDS)
            if chance.random() < phase.share:
                at += chance.expovariate(1 / phase.seconds)
            if chance.random() < _HOURS_LATE:
                at += chance.uniform(1_800, 7_200)
            # Something happens to some subjects much more often than to others.
            yield at, happened, int(_SUBJECTS * chance.random() ** 2)


def _placed(number: int, happened: int, at: float, subject: int) -> Placed:
    key = OrderKey(OrderKind.TIME, f"{happened:09d}")
    event = Event(Schema.EVENT_GRID, str(number), "t", "source", f"runs/{subject}", None, None, {}, key)
    message = Message(PartitionId("0"), number, str(number), UnixSeconds(at), b"")
    return Placed(event, message, Position(number, 0))


def auto(late_target: float = LATE_TARGET) -> AutoWindow:
    """A window that has learnt nothing yet."""
    return AutoWindow(late_target=late_target, min_seconds=MIN_SECONDS, max_seconds=MAX_SECONDS)


def replayed(trace: Sequence[Placed], window: float | AutoWindow) -> Outcome:
    """The trace through the order stage; what is due is released at that moment, as by a worker's timer."""
    judge = Judge(window_seconds=window, memory_seconds=_DAY)
    delays = [inf] * len(trace)

    def release(until: float) -> None:
        while (due := judge.orderer.next_due()) is not None and due <= until:
            for each in judge.orderer.due(now=due, at_most=len(trace)):
                placed = each.placed
                delays[placed.position.sequence_number] = due - placed.message.enqueued_at

    for placed in trace:
        now = placed.message.enqueued_at
        release(now)
        judge.add(placed, now=now)
        judge.orderer.settled(placed.position)
    release(inf)
    return Outcome(delays)


def best_fixed(trace: Sequence[Placed], late_target: float = LATE_TARGET) -> float:
    """The shortest window, to a hundredth of a second, that would have kept the target."""
    overtakers = Overtakers(seconds=_DAY, at_most=len(trace))
    delays = sorted(
        (overtakers.delay(each.event.key, each.event.order_key, now=each.message.enqueued_at) for each in trace),
        reverse=True,
    )
    # The first that may not be late decides: it needs a window that is longer than its delay.
    return int(delays[int(late_target * len(trace))] * 100 + 1) / 100


def by_phase(trace: Sequence[Placed], outcome: Outcome) -> list[tuple[int, int, float]]:
    """For each phase the events that arrived in it, the late ones among them, and how long they waited on average."""
    rows, ends, first = [], 0.0, 0
    for phase in PHASES:
        ends += phase.minutes * 60
        last = next((n for n in range(first, len(trace)) if trace[n].message.enqueued_at >= ends), len(trace))
        part = Outcome(outcome.delays[first:last])
        rows.append((last - first, part.late, part.mean_delay))
        first = last
    return rows


def table(outcomes: dict[str, Outcome], best: Outcome) -> str:
    """One row for each window."""
    lines = [
        "| window | late | late share | mean delay | of the best fixed one's |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {name} | {each.late:,} | {each.late_share:.3%} | {each.mean_delay:.2f} s "
            f"| {each.mean_delay / best.mean_delay:.2f} |"
            for name, each in outcomes.items()
        ),
    ]
    return "\n".join(lines)


def phases_table(trace: Sequence[Placed], learnt: Outcome, best: Outcome) -> str:
    """One row for each phase: what `auto` did, beside the best fixed window."""
    lines = [
        (
            "| phase | minutes | come behind | by, on average | events | auto: late | auto: mean delay "
            "| best fixed: late | best fixed: mean delay |"
        ),
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for phase, one, other in zip(PHASES, by_phase(trace, learnt), by_phase(trace, best), strict=True):
        lines.append(
            f"| {phase.name} | {phase.minutes} | {phase.share:.1%} | {phase.seconds:g} s | {one[0]:,} "
            f"| {one[1]:,} | {one[2]:.2f} s | {other[1]:,} | {other[2]:.2f} s |"
        )
    return "\n".join(lines)


def _about(trace: Sequence[Placed], seed: int) -> str:
    minutes = sum(phase.minutes for phase in PHASES)
    return (
        f"{len(trace):,} events in {minutes:g} minutes, seed {seed}; target {LATE_TARGET:.1%} late, between "
        f"{MIN_SECONDS:g} and {MAX_SECONDS:g} s. Among them is one in 20,000 that comes half an hour to two hours "
        "late: no window waits for it, and it counts as late."
    )


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.window")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--keep", action="store_true", help="write bench/WINDOW.md")
    arguments = parser.parse_args()
    trace = recorded(PHASES, seed=arguments.seed)
    seconds = best_fixed(trace)
    learnt, best = replayed(trace, auto()), replayed(trace, seconds)
    fixed = {f"{each:g} s": replayed(trace, each) for each in FIXED}
    outcomes = {"**auto**": learnt, f"best fixed one, chosen afterwards: {seconds:g} s": best, **fixed}
    held = learnt.late_share <= LATE_TARGET and learnt.mean_delay <= MAY_WAIT * best.mean_delay
    text = "\n\n".join(
        [
            _about(trace, arguments.seed),
            table(outcomes, best),
            f"`auto` {'holds' if held else 'does NOT hold'} its target with at most {MAY_WAIT:g} times that delay.",
            "## By phase",
            phases_table(trace, learnt, best),
        ]
    )
    sys.stdout.write(f"{text}\n")
    if arguments.keep:
        _KEPT.write_text(f"{_HEAD}\n\n{text}\n", encoding="utf-8")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
