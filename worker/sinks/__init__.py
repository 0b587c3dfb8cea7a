"""The destinations: what a sink promises, and the table from a kind to what builds it.

A sink makes one attempt and says how it ended; it never retries, sleeps or counts: that is the lane's work.
"""

from typing import Protocol, runtime_checkable

from worker.events import Released, value


@value
class Delivery:
    """One event for one sink."""

    released: Released
    route: str
    """The first route that named the sink: its options count."""
    sink: str
    idempotency_key: str
    """SHA-256, hex: the same for re-sent copies, attempts, pods and restarts."""
    replayed: bool = False
    """It was a dead letter, and an operator asked for it again."""
    served: frozenset[str] = frozenset()
    """Of a sink with several recipients: those who have it already, from earlier attempts (errors.PartlyAccepted)."""
    again: str = ""
    """Name of an operator's wish to have its effects a second time, whatever the ledger says of the first; "": none."""


class Sink(Protocol):
    """One destination. Instances are shared by all partitions of the process and used concurrently."""

    async def open(self) -> None:
        """Acquires what needs a running event loop (sessions, files)."""
        ...

    async def deliver(self, delivery: Delivery) -> None:
        """Makes one attempt, bounded in time by the sink. Returning means that the destination accepted.

        Raises SinkUnavailable (try again), InProgress (it is at work: ask again), Rejected (dead letter), Gone (all
        are: the lane ends), Misconfigured (the lane pauses) or OutcomeUnknown.
        Cancellation may come at any await and must leave nothing behind that harms the next attempt.
        """
        ...

    async def aclose(self) -> None:
        """Releases what `open` acquired. Safe to call twice, and without `open`."""
        ...


class TokenSource(Protocol):
    """Where a sink gets access tokens of the process's identity; `identity.Tokens` is one."""

    async def token(self, scope: str) -> str:
        """A token for this scope, asked for at each use. Never logged, never part of an error.

        Raises Misconfigured when no token can be had, SinkUnavailable when the identity service cannot be reached.
        """
        ...


@runtime_checkable
class VerifyingSink(Sink, Protocol):
    """A sink that can ask its destination what arrived: for `on_unknown: verify`. Its settings say `verifies`."""

    async def verify(self, delivery: Delivery) -> bool | None:
        """Whether the delivery took effect. False: surely not, so that it is made again; None: that cannot be told now.

        Bounded in time by the sink. Raises SinkUnavailable, Misconfigured or OutcomeUnknown where it cannot be asked.
        """
        ...


@runtime_checkable
class LimitedSink(Sink, Protocol):
    """A sink that sends no faster than a limit, which it may share with others: beyond it, `deliver` is Throttled."""

    def wait_seconds(self) -> float:
        """How long there is nothing to be had from the limit; 0: an attempt may begin. Takes nothing from it."""
        ...


@runtime_checkable
class PreviewingSink(Sink, Protocol):
    """A sink that can show what it would send, to a person who tries it out: `worker send-test`."""

    def preview(self, delivery: Delivery) -> str:
        """What `deliver` would send, as text of several lines. Reads no secret, asks nobody, needs no `open`."""
        ...
