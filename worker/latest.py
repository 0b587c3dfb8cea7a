"""Which events are superseded: of those that leave the order stage together, one with a newer one of its subject.

Together means in one call of `order`: what falls due at one moment, or is released early. That is less than what the
worker has read, and after a restart it may be more; so nothing is promised but that whoever is superseded has a newer
one that goes the same way. Events with keys of different kinds have no order: of each kind the newest stays. What is
late is out of order, so it supersedes nothing and is not superseded.

Pure: what becomes of whoever is superseded is decided elsewhere.
"""

from collections.abc import Collection, Sequence

from worker.events import OrderKind, Released, Subject
from worker.route import Target

_Way = tuple[Subject, OrderKind, str, str]
"""What one can be the newest of: a subject's keys of one kind, by one route to one sink."""


def superseded(together: Sequence[Released], matched: Sequence[Collection[Target]]) -> list[frozenset[str]]:
    """For each event the sinks that get a newer one instead. `together` is in order, `matched` says where each goes."""
    newest: set[_Way] = set()
    found = []
    for released, targets in zip(reversed(together), reversed(matched), strict=True):
        ways = {} if released.late_by_ms is not None else _ways(released, targets)
        found.append(frozenset(sink for way, sink in ways.items() if way in newest))
        newest.update(ways)
    found.reverse()
    return found


def _ways(released: Released, targets: Collection[Target]) -> dict[_Way, str]:
    event = released.placed.event
    return {
        (event.key, event.order_key.kind, target.route, target.sink): target.sink
        for target in targets
        if target.only_latest
    }
