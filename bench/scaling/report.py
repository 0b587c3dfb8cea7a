"""The tables of all runs: what is promised beside what was measured. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median, quantiles
from typing import NamedTuple

from bench.scaling.run import JOIN, JOIN_TWO, KILL, STOP, Options, Outcome, Phase

PAUSE_SECONDS = 2.0
"""The longest that a partition may pause when it moves and nobody has died, beyond the traffic's own spacing."""


class Row(NamedTuple):
    """One line: seconds, of all runs."""

    what: str
    values: list[float]
    limit: float | None
    """What the worst may be; None: nothing is promised."""

    @property
    def is_kept(self) -> bool:
        """Whether the worst is within the limit."""
        return self.limit is None or max(self.values) <= self.limit

    def cells(self) -> tuple[str, ...]:
        """As they stand in the table."""
        limit = "-" if self.limit is None else f"≤ {self.limit:g} s"
        kept = "" if self.limit is None else "yes" if self.is_kept else "**no**"
        numbers = (median(self.values), p95(self.values), max(self.values))
        return self.what, *(f"{number:.2f} s" for number in numbers), limit, kept


def p95(values: Sequence[float]) -> float:
    """The value that nineteen in twenty do not exceed."""
    return quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else values[0]


def rows(outcomes: Iterable[Outcome]) -> list[Row]:
    """All lines, in the order of the phases."""
    runs = list(outcomes)

    def of(name: str, values: Callable[[Phase], Iterable[float]]) -> list[float]:
        return [value for run in runs for phase in run.phases if phase.name == name for value in values(phase)]

    def again(phase: Phase) -> list[float]:
        return [] if phase.again_seconds is None else [phase.again_seconds]

    planned = [phase for run in runs for phase in run.phases if phase.planned]
    return [
        Row("a second joins: from ready to its share of 8", of(JOIN, lambda phase: phase.share_from_ready), 20),
        Row("the same, from the start of its process", of(JOIN, lambda phase: phase.share_from_start), None),
        Row("two more join: from ready to their shares of 4", of(JOIN_TWO, lambda phase: phase.share_from_ready), 20),
        Row("the same, from the start of their processes", of(JOIN_TWO, lambda phase: phase.share_from_start), None),
        Row("two of four stop: from SIGTERM to exit", of(STOP, lambda phase: phase.exit_seconds), 5),
        Row("from SIGTERM until others deliver of all their partitions", of(STOP, again), 5),
        Row("one of two is killed: until the other delivers of all partitions", of(KILL, again), 30),
        Row("pause of a partition that moves to who joins", _pauses(runs, JOIN, JOIN_TWO), PAUSE_SECONDS),
        Row("pause of a partition that moves from who stops", _pauses(runs, STOP), PAUSE_SECONDS),
        Row("longest gap of a partition that stays", [each for phase in planned for each in phase.stayed], None),
    ]


def _pauses(runs: Iterable[Outcome], *names: str) -> list[float]:
    return [pause for run in runs for phase in run.phases if phase.name in names for pause in phase.moved]


def is_right(outcomes: Sequence[Outcome]) -> bool:
    """Whether everything promised was kept, limits of time included."""
    return not any(_faults(outcome) for outcome in outcomes) and all(row.is_kept for row in rows(outcomes))


def _faults(outcome: Outcome) -> int:
    [sink] = outcome.verdict.sinks
    faults = sink.missing + sink.unexpected + sink.out_of_order + sink.wrongly_late + sink.doubled_under_another_key
    return faults + _doubled(outcome, planned=True)


def _doubled(outcome: Outcome, *, planned: bool) -> int:
    return sum(phase.doubled for phase in outcome.phases if phase.planned is planned)


def markdown(outcomes: Sequence[Outcome], options: Options) -> str:
    """Both tables."""
    return "\n".join([*_times(outcomes), "", *_events(outcomes), "", *_requests(outcomes, options)])


def _times(outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield "| what | median | p95 | worst | promised | kept |"
    yield "|---|---:|---:|---:|---:|---|"
    yield from (f"| {' | '.join(row.cells())} |" for row in rows(outcomes))


def _events(outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield "| run | events | lost | overtaken in their subject | doubled by planned moves | doubled by the kill |"
    yield "|---|---:|---:|---:|---:|---:|"
    for number, outcome in enumerate(outcomes, 1):
        [sink] = outcome.verdict.sinks
        yield (
            f"| {number} | {sink.expected:,} | {sink.missing} | {sink.out_of_order} | "
            f"{_doubled(outcome, planned=True)} | {_doubled(outcome, planned=False)} |"
        )


def _requests(outcomes: Sequence[Outcome], options: Options) -> Iterator[str]:
    """To the store, between two changes, when all is calm: of the last run."""
    phases = outcomes[-1].phases
    kinds = sorted({kind for phase in phases for kind in phase.requests})
    head = f"requests to the store a second ({options.store}), under load"
    yield f"| {head} | {' | '.join(_calm(each) for each in phases)} |"
    yield f"|---|{'---:|' * len(phases)}"
    for kind in kinds:
        yield f"| {kind} | {' | '.join(f'{each.requests[kind] / each.calm_seconds:.1f}' for each in phases)} |"


def _calm(phase: Phase) -> str:
    workers = len(phase.shares)
    return f"{workers} worker{'s' if workers > 1 else ''}"
