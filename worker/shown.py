"""What a process knows of itself, read for the status page when somebody asks; and a sample of it now and then.

It reads what the parts keep anyway, and the metrics: page and metrics cannot disagree. It changes nothing, and costs
the events nothing. How it is shown is `status`'s and `plots`' work. Texts pass `redact`, as a log's do.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from prometheus_client import Counter, Gauge

from worker.breaker import Flow
from worker.claim import Claim
from worker.config import Config
from worker.deliver import Lane
from worker.expect import ExpectRule
from worker.health import Health
from worker.lately import KeptLetter
from worker.logs import redact
from worker.metrics import Metrics
from worker.noting import NOTING
from worker.outcomes import Outcome
from worker.plots import SAMPLE_SECONDS, SAMPLES, Sample, plots
from worker.rules import Rules
from worker.status import (
    AttemptView,
    ExpectationView,
    LaneView,
    LetterView,
    Level,
    PartitionView,
    Status,
    render,
)

_ATTEMPTS = 30
"""So many are shown, of all lanes."""

_FLOWS: dict[Flow, tuple[str, Level]] = {
    Flow.FREE: ("free", "good"),
    Flow.DOWN: ("breaker open: the destination is down", "bad"),
    Flow.REFUSED: ("paused: the destination refuses this worker", "bad"),
    Flow.HELD: ("held by its configuration", "note"),
    Flow.GONE: ("gone: what comes becomes dead letters", "bad"),
    Flow.REMOVED: ("removed: what is left becomes dead letters", "note"),
}
_OUTCOMES: dict[Outcome, Level] = {
    Outcome.ACCEPTED: "good",
    Outcome.KNOWN: "good",
    Outcome.IN_PROGRESS: "good",
    Outcome.ABORTED: "note",
    Outcome.UNAVAILABLE: "note",
    Outcome.UNKNOWN: "note",
}
"""Every other one is bad: a dead letter, or somebody has to change something."""


@dataclass(frozen=True, slots=True)
class Inside:
    """What a process lets be seen of itself."""

    claims: Callable[[], Iterable[Claim]]
    """The newest of each partition, also those that have ended."""
    rules: Rules
    letters: Sequence[KeptLetter]
    """The last dead letters, the newest at the end."""


class Overview:
    """Of one process. Asked from the event loop only."""

    def __init__(
        self, config: Config, name: str, *, metrics: Metrics, health: Health, clock: Callable[[], float] = time.time
    ) -> None:
        self._config = config
        self._name = name
        self._metrics = metrics
        self._health = health
        self._clock = clock
        self._started_at = clock()
        self._inside: Inside | None = None
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)

    async def run(self, inside: Inside) -> None:
        """Takes samples until it is cancelled; from now on there is something to be seen."""
        self._inside = inside
        while True:
            self._samples.append(self._sample())
            await asyncio.sleep(SAMPLE_SECONDS)

    def page(self, *, refreshing: bool) -> str:
        """The status page, as it is now."""
        return render(self.status(), refreshing=refreshing)

    def status(self) -> Status:
        """How it stands."""
        inside, health, source = self._inside, self._health, self._config.worker.source
        return Status(
            name=self._name,
            version=version("event-grid-worker"),
            hub=source.hub,
            consumer_group=source.consumer_group,
            digest=inside.rules.digest if inside else self._config.digest,
            now=self._clock(),
            started_at=self._started_at,
            not_ready=redact(health.not_ready()),
            stale=health.stale(),
            notes=redact(health.notes()),
            partitions=self._partitions(inside.claims()) if inside else (),
            lanes=self._lanes(inside.rules) if inside else (),
            expectations=self._expectations(inside.rules.expect) if inside else (),
            attempts=self._attempts(inside.rules) if inside else (),
            letters=[_letter(each) for each in reversed(inside.letters)] if inside else (),
            plots=plots(self._samples, self._loop_time),
        )

    @property
    def _loop_time(self) -> float:
        return asyncio.get_running_loop().time()

    def _sample(self) -> Sample:
        metrics = self._metrics
        return Sample(
            self._loop_time,
            lag_events=sum(lags) if (lags := _by(metrics.lag_events, "partition").values()) else None,
            lag_seconds=max(_by(metrics.lag_seconds, "partition").values(), default=None),
            delivered=sum(value for labels, value in _values(metrics.deliveries) if labels["outcome"] == "accepted"),
            oldest_seconds=max(_by(metrics.lane_oldest_seconds, "sink").values(), default=None),
        )

    def _partitions(self, claims: Iterable[Claim]) -> list[PartitionView]:
        metrics = self._metrics
        gauges = metrics.lag_events, metrics.lag_seconds, metrics.held, metrics.in_flight, metrics.order_window
        of_all = [_by(gauge, "partition") for gauge in gauges]
        views = []
        for claim in sorted(claims, key=lambda each: (len(each.partition), each.partition)):
            if claim.done.is_set():
                continue
            state, level = _state(claim)
            why = redact(claim.stopped or "")
            generation = claim.tenure.state.generation if claim.tenure else None
            numbers = [values.get(claim.partition) for values in of_all]
            views.append(PartitionView(claim.partition, state, level, why, generation, *numbers))
        return views

    def _lanes(self, rules: Rules) -> list[LaneView]:
        metrics = self._metrics
        queued, oldest = _by(metrics.lane_queued, "sink"), _by(metrics.lane_oldest_seconds, "sink")
        views = []
        for lane in rules.every_lane:
            if lane.name == NOTING and not rules.expect:
                continue  # the worker's own, and nobody needs it
            state, level = _flow(lane, leaving=lane.name in rules.leaving)
            kind = lane.way.settings.kind + (", dry run" if lane.way.settings.dry_run else "")
            error = redact(lane.last_error)
            views.append(LaneView(lane.name, kind, state, level, queued.get(lane.name), oldest.get(lane.name), error))
        return views

    def _expectations(self, rules: Iterable[ExpectRule]) -> list[ExpectationView]:
        rows = _by(self._metrics.expectations_rows, "rule")
        pending: dict[str, float] = {}
        for labels, value in _values(self._metrics.expectations_pending):
            pending[labels["rule"]] = pending.get(labels["rule"], 0.0) + value
        return [
            ExpectationView(rule.name, pending.get(rule.name, 0.0), None)
            if rule.is_of_one_subject
            else ExpectationView(rule.name, None, rows.get(rule.name, 0.0))
            for rule in rules
        ]

    def _attempts(self, rules: Rules) -> list[AttemptView]:
        offset = self._clock() - self._loop_time
        lanes = (lane for lane in rules.every_lane if lane.name != NOTING)
        newest = sorted((each for lane in lanes for each in reversed(lane.recent)), key=lambda each: -each.at)
        return [
            AttemptView(
                each.at + offset,
                each.sink,
                redact(each.subject),
                redact(each.event_id),
                each.outcome.replace("_", " "),
                _OUTCOMES.get(each.outcome, "bad"),
                redact(each.error),
            )
            for each in newest[:_ATTEMPTS]
        ]


def _state(claim: Claim) -> tuple[str, Level]:
    if claim.closed:
        return "being left", "note"
    if claim.tenure is None:
        return "being taken", "note"
    return ("stopped", "bad") if claim.stopped else ("reading", "good")


def _flow(lane: Lane, *, leaving: bool) -> tuple[str, Level]:
    if leaving and lane.flow is Flow.FREE:
        return "draining: its sink was taken out of the configuration", "note"
    return _FLOWS[lane.flow]


def _letter(letter: KeptLetter) -> LetterView:
    return LetterView(
        letter.at,
        letter.reason,
        letter.sink,
        f"{letter.partition}/{letter.sequence_number}",
        redact(letter.subject),
        redact(letter.event_id),
        redact(letter.detail),
    )


def _values(metric: Gauge | Counter) -> Iterator[tuple[dict[str, Any], float]]:
    """Labels and values of all children; not when they were created."""
    for family in metric.collect():
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                yield sample.labels, sample.value


def _by(metric: Gauge | Counter, label: str) -> dict[str, float]:
    return {labels[label]: value for labels, value in _values(metric)}
