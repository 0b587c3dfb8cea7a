"""Time moved by hand: whole tests on the loop that never waits."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from worker.virtual import VirtualTimeLoop

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
