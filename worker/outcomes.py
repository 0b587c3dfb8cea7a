"""How attempts end, in one word each: what a lane counts."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from worker.errors import Misconfigured, OutcomeUnknown, SinkUnavailable, WorkerError


class Outcome(StrEnum):
    """How an attempt ended; the label of worker_deliveries_total."""

    ACCEPTED = "accepted"
    KNOWN = "known"
    """The ledger says that it was accepted before."""
    UNAVAILABLE = "unavailable"
    UNKNOWN = "unknown"
    MISCONFIGURED = "misconfigured"
    REJECTED = "rejected"
    GONE = "gone"
    """The destination says that it is gone for good."""
    EXPIRED = "expired"
    SKIPPED = "skipped"
    """The ledger does not know whether it took effect, and the sink says skip."""
    IN_PROGRESS = "in_progress"
    """The destination has taken it, and is not done yet."""
    POSTPONED = "postponed"
    """The destination was not asked: the store is away, somebody else may be at this delivery, or the sink's own limit
    is reached."""
    ABORTED = "aborted"


_FAILURES: Mapping[type[WorkerError], Outcome] = MappingProxyType(
    {
        SinkUnavailable: Outcome.UNAVAILABLE,
        OutcomeUnknown: Outcome.UNKNOWN,
        Misconfigured: Outcome.MISCONFIGURED,
    }
)


def failure(error: WorkerError) -> Outcome:
    """Of an error after which a delivery is tried again; a sink may have derived one of its own."""
    return next(outcome for kind, outcome in _FAILURES.items() if isinstance(error, kind))
