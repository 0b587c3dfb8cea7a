"""Time moved by hand: an event loop that never waits. When nothing is left to run it jumps to the next timer."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar


class _JumpingSelector(selectors.SelectSelector):
    """Instead of waiting for the next timer, moves the loop's clock to it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("everything waits and no timer is left: the test would hang")
        self.now += max(0.0, timeout)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs the coroutine to its end in virtual time, and fails when a task is left over."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:

        async def watched() -> T:
            result = await main
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"tasks left behind: {left}"
            return result

        return runner.run(watched())


async def settle_down(rounds: int = 50) -> None:
    """Lets everything run that can run without time passing."""
    for _ in range(rounds):
        await asyncio.sleep(0)
