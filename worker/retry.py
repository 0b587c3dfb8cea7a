"""Trying again at start-up until something outside answers. Attempts of deliveries are the lanes' business."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Literal

import structlog

from worker.errors import HubUnavailable, StoreUnavailable

_log = structlog.get_logger()

_FIRST_SECONDS = 1.0
_LONGEST_SECONDS = 30.0


async def until_available(action: Callable[[], Coroutine[Any, Any, None]], stop: asyncio.Event) -> bool:
    """Repeats the action with back-off until it succeeds (True) or `stop` is set (False).

    Only what is unavailable is tried again. Says why when the reason changes, not each time.
    """
    delay = _FIRST_SECONDS
    said = ""
    stopping = asyncio.create_task(stop.wait(), name="waiting for the stop")
    try:
        while not stop.is_set():
            try:
                if await _unless(stopping, action()):
                    return True
            except (HubUnavailable, StoreUnavailable) as error:
                if str(error) != said:
                    said = str(error)
                    _log.error("not ready yet, trying again", error=said)
            await asyncio.wait({stopping}, timeout=delay)
            delay = min(_LONGEST_SECONDS, delay * 2)
        return False
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
