"""What a lane says in the log: errors when they change, and that something waits for long. Decides nothing."""

import structlog

from worker.breaker import Flow
from worker.errors import WorkerError

_log = structlog.get_logger()


class LaneLog:
    """The words of one lane."""

    def __init__(self, sink: str) -> None:
        self.last_error = ""
        """What its sink said last; empty: nothing is wrong."""
        self._sink = sink
        self._warned_of_age = False

    def ended(self, error: WorkerError | None) -> None:
        """An attempt has ended. An error is said when it changes, not each time it comes."""
        text = str(error) if error else ""
        if text != self.last_error:
            if error:
                _log.warning("delivery failed", sink=self._sink, outcome=type(error).__name__, error=text)
            elif self.last_error:
                _log.info("deliveries succeed again", sink=self._sink)
            self.last_error = text

    def age(self, oldest_seconds: float, *, flow: Flow, give_up_after_seconds: float) -> None:
        """The oldest delivery has waited for so long: said once, at half of the time after which it is given up."""
        old = oldest_seconds >= give_up_after_seconds / 2
        if old and not self._warned_of_age:
            _log.warning(
                "deliveries wait for long",
                sink=self._sink,
                lane=flow.value,
                oldest_seconds=round(oldest_seconds),
                given_up_after_seconds=None if flow is Flow.HELD else give_up_after_seconds,
                error=self.last_error,
            )
        self._warned_of_age = old
