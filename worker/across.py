"""What a partition's pipeline does for expectations in which other partitions have a part.

It says which events are to be noted in the shared table, and before when all of them are; and it keeps the last signs
of life of the sources that must not be silent. What then becomes of it is in `noting` and `overdue`.
"""

from math import inf

from worker.events import Placed, Position, UnixSeconds
from worker.expect import ExpectRule, time_of
from worker.noting import concerns
from worker.parts import Parts
from worker.route import folded_source
from worker.silences import Signs, row_name


class Across:
    """Of one partition."""

    def __init__(self, parts: Parts) -> None:
        self.signs = Signs()
        self._parts = parts
        self._rules: object = None
        self._silences: list[ExpectRule] = []
        self._correlations: list[ExpectRule] = []
        self._unnoted: dict[Position, UnixSeconds] = {}
        """Events whose rows are not written yet, and when the hub had them."""

    def see_life(self, placed: Placed) -> None:
        """An event's turn has come: it may be a sign of life of its source. Never one of the future."""
        self._sort_rules()
        for rule in self._silences:
            if rule.is_sign_of_life(placed.event):
                arrived = placed.message.enqueued_at
                row = row_name(rule.name, folded_source(placed.event.source or ""))
                self.signs.see(row, min(arrived, time_of(placed.event, arrived)))

    def is_to_be_noted(self, placed: Placed) -> bool:
        """Whether the event is one of the two of an expectation across subjects."""
        self._sort_rules()
        return bool(self._correlations) and concerns(self._correlations, placed.event)

    def _sort_rules(self) -> None:
        """As they are now: few events concern any of them, and most configurations have none."""
        rules = self._parts.rules.expect
        if rules is not self._rules:
            self._rules = rules
            self._silences = [rule for rule in rules if rule.is_silence]
            self._correlations = [rule for rule in rules if rule.is_across_subjects]

    def begin(self, placed: Placed) -> None:
        """The event is on its way into the table."""
        self._unnoted[placed.position] = placed.message.enqueued_at

    def done(self, position: Position) -> None:
        """It is in the table, or is given up."""
        self._unnoted.pop(position, None)

    @property
    def through(self) -> float:
        """Before when all events are noted that were to be."""
        return min(self._unnoted.values(), default=inf)
