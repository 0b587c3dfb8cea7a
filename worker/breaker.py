"""Whether a lane's attempts flow: all of them, none, or one probe now and then. Looks at how attempts end, makes none.

Two things stop the flow by themselves. The destination fails for several subjects in a row: then it is down, and one
probe at a time, with a growing pause, is all it gets. The destination refuses the worker (401, 403, 404) for several
subjects in a row: then somebody has to change something, and a probe a minute is enough. One subject alone never stops
the others: that may be the event's fault. (A *suspect* is a subject, or one attempt of a digest: `Job.suspect`.)

One answer ends the flow: the destination says that it is gone for good. Then nothing is tried any more, until the sink
is configured anew. A sink that was taken out of the configuration ends it too.
"""

import asyncio
import random
from collections.abc import Hashable
from contextlib import suppress
from enum import StrEnum

import structlog

from worker.errors import OutcomeUnknown, PartlyAccepted, SinkUnavailable
from worker.metrics import Metrics

_log = structlog.get_logger()

_SUSPECTS = 3
"""Different ones in a row before it is the sink's fault."""
_FAILURES = 5
"""Temporary failures in a row before the destination counts as down."""
_FIRST_PROBE_SECONDS = 1.0
_LONGEST_PROBE_SECONDS = 30.0
_REFUSED_PROBE_SECONDS = 60.0


class Flow(StrEnum):
    """What a lane lets through."""

    FREE = "free"
    DOWN = "down"
    """The destination is down: probes, with a growing pause."""
    REFUSED = "refused"
    """The destination refuses the worker: a probe a minute."""
    HELD = "held"
    """Paused by configuration: nothing."""
    GONE = "gone"
    """The destination is gone for good: nothing is tried, and nothing waits."""
    REMOVED = "removed"
    """The sink is not configured any more, and its time to drain is over: the same."""


OVER = (Flow.GONE, Flow.REMOVED)
"""Nothing flows any more, and nothing is waited for."""


class Breaker:
    """The gate of one lane."""

    def __init__(self, sink: str, *, held: bool, jitter: random.Random, metrics: Metrics) -> None:
        self.flow = Flow.HELD if held else Flow.FREE
        self._sink = sink
        self._jitter = jitter
        self._metrics = metrics
        self._failures = 0
        self._failing: set[Hashable] = set()
        self._told_to_wait: set[Hashable] = set()
        self._refused: set[Hashable] = set()
        self._pause_seconds = 0.0
        self._probe_due = False
        self._probe_timer: asyncio.TimerHandle | None = None
        self._woken = asyncio.Event()
        self._no_pause = asyncio.Event()
        """Set when whoever pauses is to look again."""
        self._show()

    @property
    def over(self) -> bool:
        """Whether nothing is to be sent any more, nor to wait."""
        return self.flow in OVER

    async def enter(self) -> bool:
        """Waits until an attempt may begin, or none ever will; True when it is the probe, whose end must be told."""
        while self.flow is not Flow.FREE and not self.over:
            if self._probe_due:
                self._probe_due = False
                return True
            self._woken.clear()
            await self._woken.wait()
        return False

    async def pause(self, seconds: float) -> None:
        """Sleeps, but no longer than until the destination is gone or the sink is configured anew."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._no_pause.wait()

    def begin_anew(self, *, held: bool) -> None:
        """The sink is configured anew: what its destination said before counts no more."""
        self._failures, self._pause_seconds = 0, 0.0
        for suspects in (self._failing, self._told_to_wait, self._refused):
            suspects.clear()
        self.flow = Flow.HELD if held else Flow.FREE
        self._forget_probe()
        self._wake()
        self._no_pause = asyncio.Event()
        self._show()

    def remove(self) -> None:
        """The sink's time is over."""
        self._end(Flow.REMOVED)

    def answered(self) -> None:
        """The destination accepted something, or gave a definite answer about an event: it works."""
        self._failures = 0
        self._failing.clear()
        self._told_to_wait.clear()
        self._refused.clear()
        if self.flow in (Flow.DOWN, Flow.REFUSED):
            self._set_free()

    def failed(self, suspect: Hashable, error: SinkUnavailable | OutcomeUnknown, *, probe: bool) -> None:
        """A temporary failure. Retry-After binds the whole lane once several subjects were told."""
        if isinstance(error, PartlyAccepted):
            self.answered()  # it works; one full mailbox must not hold up everybody's mail
            return
        if isinstance(error, OutcomeUnknown) and error.of_before and not probe:
            return  # what it cannot say about some must not hold up the others
        self._refused.clear()
        self._failures += 1
        _add(self._failing, suspect)
        wait_seconds = 0.0
        if isinstance(error, SinkUnavailable) and error.retry_after_seconds is not None:
            _add(self._told_to_wait, suspect)
            if len(self._told_to_wait) >= _SUSPECTS:
                wait_seconds = error.retry_after_seconds
        if probe:
            self._stop_flow(Flow.DOWN, self._longer_pause(), wait_seconds)
        elif self.flow is Flow.FREE and (wait_seconds or self._is_down):
            self._pause_seconds = 0.0
            self._stop_flow(Flow.DOWN, self._longer_pause(), wait_seconds, str(error))

    def refused(self, suspect: Hashable, error: Exception, *, probe: bool) -> None:
        """The destination refuses the worker."""
        self._failures = 0
        self._failing.clear()
        _add(self._refused, suspect)
        if probe and self.flow is Flow.DOWN:
            self._set_free()  # it answers again; what it answers is seen by the next ones
        if probe and self.flow is Flow.REFUSED:
            self._stop_flow(Flow.REFUSED, _REFUSED_PROBE_SECONDS, 0.0)
        elif self.flow is Flow.FREE and len(self._refused) >= _SUSPECTS:
            self._stop_flow(Flow.REFUSED, _REFUSED_PROBE_SECONDS, 0.0, str(error))

    def gone(self, error: Exception) -> None:
        """The destination says that it is gone for good."""
        if not self.over:
            _log.error("lane ended: the destination is gone", sink=self._sink, error=str(error))
            self._end(Flow.GONE)

    def _end(self, flow: Flow) -> None:
        self.flow = flow
        self._forget_probe()
        self._wake()
        self._show()

    def _wake(self) -> None:
        self._no_pause.set()
        self._woken.set()

    def probe_was_nothing(self, *, at_once: bool) -> None:
        """The probe ended without a word about the destination: the next one may try, at once or after the pause."""
        if self.flow in (Flow.DOWN, Flow.REFUSED):
            self._probe_after(0.0 if at_once else self._pause_seconds)

    @property
    def _is_down(self) -> bool:
        return self._failures >= _FAILURES and len(self._failing) >= _SUSPECTS

    def _longer_pause(self) -> float:
        self._pause_seconds = min(_LONGEST_PROBE_SECONDS, max(_FIRST_PROBE_SECONDS, self._pause_seconds * 2))
        return self._pause_seconds * self._jitter.uniform(0.5, 1.0)

    def _stop_flow(self, flow: Flow, pause_seconds: float, wait_seconds: float, why: str = "") -> None:
        if self.over:  # told meanwhile to another attempt
            return
        if self.flow is Flow.FREE:
            if flow is Flow.REFUSED:
                _log.error("lane paused: the destination refuses this worker", sink=self._sink, error=why)
            else:
                _log.warning("breaker open: the destination is down", sink=self._sink, error=why)
        self.flow = flow
        if flow is Flow.REFUSED:
            self._pause_seconds = pause_seconds
        self._probe_after(max(pause_seconds, wait_seconds))
        self._show()

    def _probe_after(self, seconds: float) -> None:
        if self._probe_timer is not None:
            self._probe_timer.cancel()
        self._probe_timer = asyncio.get_running_loop().call_later(seconds, self._let_probe)

    def _let_probe(self) -> None:
        self._probe_timer = None
        self._probe_due = True
        self._woken.set()

    def _set_free(self) -> None:
        _log.info("lane resumed", sink=self._sink)
        self.flow = Flow.FREE
        self._pause_seconds = 0.0
        self._forget_probe()
        self._woken.set()
        self._show()

    def _forget_probe(self) -> None:
        self._probe_due = False
        if self._probe_timer is not None:
            self._probe_timer.cancel()
            self._probe_timer = None

    def _show(self) -> None:
        self._metrics.lane_paused.labels(self._sink).set(self.flow in (Flow.REFUSED, Flow.HELD))
        self._metrics.lane_down.labels(self._sink).set(self.flow is Flow.DOWN)
        self._metrics.lane_gone.labels(self._sink).set(self.flow is Flow.GONE)


def _add(suspects: set[Hashable], suspect: Hashable) -> None:
    if len(suspects) < _SUSPECTS:  # more would say nothing, and take memory
        suspects.add(suspect)
