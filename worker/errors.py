"""Errors, named by what is done about them. Anything else that is raised is a bug and stops the worker."""


class WorkerError(Exception):
    """The base of all: its text is one sentence for the operator and holds no secret."""


class ConfigError(WorkerError):
    """The user's input is wrong: every mistake is listed, nothing starts, exit code 2."""

    def __init__(self, mistakes: list[str]) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(mistakes))


class SinkUnavailable(WorkerError):
    """The destination did not take the event this time: try again, no sooner than `retry_after_seconds`."""

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class PartlyAccepted(SinkUnavailable):
    """Some recipients have it, by this attempt or earlier ones: try again, for the others only."""

    def __init__(self, message: str, *, served: frozenset[str]) -> None:
        self.served = served
        super().__init__(message)


class Throttled(SinkUnavailable):
    """The sink keeps a limit of its own and asked nobody: it is this delivery's turn again in `retry_after_seconds`.

    Says nothing about the destination, and is no attempt.
    """

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)


class InProgress(SinkUnavailable):
    """The destination has taken it and is at work: ask how it stands in `retry_after_seconds`.

    It works, and this is no failure of its; the delivery is not accepted before it is done.
    """

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)


class Rejected(WorkerError):
    """The destination will never take this event: it becomes a dead letter."""


class Gone(Rejected):
    """The destination says that it is gone for good: its lane ends, and what waits or comes becomes dead letters."""


class Misconfigured(WorkerError):
    """The destination refuses the worker itself (401, 403, 404): keep the events, pause the lane, say so."""


class OutcomeUnknown(WorkerError):
    """The request may have taken effect, or not: a sink with an idempotency key tries again.

    `of_before`: nothing was requested now; the destination was asked about an earlier attempt, and cannot tell.
    """

    def __init__(self, message: str, *, of_before: bool = False) -> None:
        self.of_before = of_before
        super().__init__(message)


class StoreUnavailable(WorkerError):
    """The store cannot be reached now: try again later, nothing is lost meanwhile."""


class Conflict(WorkerError):
    """A conditional write met another version: someone else wrote in between."""


class HubUnavailable(WorkerError):
    """The hub cannot be reached, does not exist or refuses the credentials; `run` tries again with back-off."""


class StateFormatUnknown(WorkerError):
    """Partition state or memory of a newer version, or of something else: never taken for an empty one."""


class WatchdogError(WorkerError):
    """Connecting anew has not helped: the process ends with exit code 3, and whoever runs it starts it again."""
