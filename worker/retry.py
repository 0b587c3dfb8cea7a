"""Trying again until something outside answers. Attempts of deliveries are the lanes' business."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

import structlog

from worker.errors import HubUnavailable, StoreUnavailable

_log = structlog.get_logger()

_T = TypeVar("_T")

_FIRST_SECONDS = 1.0
_LONGEST_SECONDS = 30.0


class Say(Protocol):
    """A method of a log with its words bound."""

    def __call__(self, *, error: str) -> object:
        """Writes the line."""
        ...


async def patiently(
    action: Callable[[], Awaitable[_T]],
    say: Say,
    *,
    first_seconds: float = _FIRST_SECONDS,
    longest_seconds: float = _FIRST_SECONDS,
) -> _T:
    """Repeats the action until it succeeds, with pauses that double from the first to the longest.

    Only what is unavailable is tried again. Says why when the reason changes, not each time.
    """
    delay = first_seconds
    said = ""
    while True:
        try:
            return await action()
        except (HubUnavailable, StoreUnavailable) as error:
            if str(error) != said:
                said = str(error)
                say(error=said)
        await asyncio.sleep(delay)
        delay = min(longest_seconds, delay * 2)


async def until_available(action: Callable[[], Coroutine[Any, Any, None]], stop: asyncio.Event) -> bool:
    """Repeats the action with back-off until it succeeds (True) or `stop` is set (False)."""
    if stop.is_set():
        return False
    say = partial(_log.error, "not ready yet, trying again")
    stopping = asyncio.create_task(stop.wait(), name="waiting for the stop")
    try:
        return await _unless(stopping, patiently(action, say, longest_seconds=_LONGEST_SECONDS))
    finally:
        stopping.cancel()


async def _unless(stopping: asyncio.Task[Literal[True]], attempt: Coroutine[Any, Any, None]) -> bool:
    """Whether the attempt came to its end before the stop did; what it raises is raised."""
    trying = asyncio.create_task(attempt, name="trying")
    try:
        await asyncio.wait({trying, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if trying.done():
            trying.result()
        return trying.done()
    finally:
        trying.cancel()
        await asyncio.wait({trying})
