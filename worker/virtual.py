"""An event loop on a clock of its own: it never waits. When nothing is left to run it jumps to the next timer.

For `worker test`, where a case may take a night, and for the tests of the worker itself.
"""

import asyncio
import selectors


class _JumpingSelector(selectors.SelectSelector):
    """Instead of waiting for the next timer, moves the loop's clock to it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("everything waits and no timer is left: nothing would ever happen again")
        if timeout <= 0:
            return []  # something is ready to run: the system is asked when nothing is
        self.now += timeout
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Everything that is ready runs before time goes on, so that the same work takes the same turns each time."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds on the loop's own clock."""
        return self._jumping.now
