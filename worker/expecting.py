"""The expectations of one partition, as its pipeline sees them: asked about each event, counted, and told the rules.

What is pending is in `pending`; here is what that costs an operator: numbers, and a word when something is not watched.
"""

import structlog

from worker.events import PartitionId, Released
from worker.expect import time_of
from worker.parts import Parts
from worker.pending import LIMIT, Expectations, Outcome

_log = structlog.get_logger()


class Expecting:
    """Asks the expectations of a partition, and counts what they say."""

    def __init__(self, partition: PartitionId, parts: Parts, expectations: Expectations) -> None:
        self._partition = partition
        self._parts = parts
        self._expectations = expectations
        self._rules: object = None
        self._shown: set[str] = set()
        self._full = False

    def keep_rules(self) -> bool:
        """Goes over to the rules as they are now: what is pending of one that is gone is dropped; returns whether."""
        rules = self._parts.rules.expect
        if rules is self._rules:
            return False
        self._rules = rules
        dropped = self._expectations.exchange(rules)
        for rule, count in dropped.items():
            self._count(rule, Outcome.DROPPED, count)
            _log.warning(
                "pending expectations dropped: their rule is gone", partition=self._partition, rule=rule, count=count
            )
        return bool(dropped)

    def look(self, released: Released) -> bool:
        """An event's turn has come, for the first time; returns whether it matters that it is not looked at again."""
        self.keep_rules()
        placed = released.placed
        if not self._expectations.concerns(placed.event):
            return False
        at = time_of(placed.event, placed.message.enqueued_at)
        look = self._expectations.see(placed, at=at, late=released.late_by_ms is not None)
        for rule, outcome in look.outcomes:
            self._count(rule, outcome)
            if outcome is Outcome.NOT_WATCHED_FULL and not self._full:
                self._full = True
                _log.error(
                    "as many expectations are pending as may be: more are not watched",
                    partition=self._partition,
                    limit=LIMIT,
                    help="shorten `within`, or narrow `after`",
                )
        return look.matched

    def _count(self, rule: str, outcome: Outcome, count: int = 1) -> None:
        self._parts.metrics.expectations.labels(rule, outcome).inc(count)

    def show(self) -> None:
        """How many are pending, for an operator."""
        counts = self._expectations.counts
        gauge = self._parts.metrics.expectations_pending
        for rule in self._shown - counts.keys():
            gauge.remove(self._partition, rule)
        for rule, count in counts.items():
            gauge.labels(self._partition, rule).set(count)
        self._shown = set(counts)
        self._parts.metrics.expectations_untold.labels(self._partition).set(len(self._expectations.unsettled))
        self._full = self._full and sum(counts.values()) > LIMIT / 2
