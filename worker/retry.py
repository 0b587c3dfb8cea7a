"""Trying again at start-up until something outside answers. Attempts of deliveries are the lanes' business."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from worker.errors import HubUnavailable, StoreUnavailable

_log = structlog.get_logger()

_FIRST_SECONDS = 1.0
_LONGEST_SECONDS = 30.0


async def until_available(action: Callable[[], Awaitable[None]], stop: asyncio.Event) -> bool:
    """Repeats the action with back-off until it succeeds (True) or `stop` is set (False).

    Only what is unavailable is tried again. Says why when the reason changes, not each time.
    """
    delay = _FIRST_SECONDS
    said = ""
    while not stop.is_set():
        try:
            await action()
        except (HubUnavailable, StoreUnavailable) as error:
            if str(error) != said:
                said = str(error)
                _log.error("not ready yet, trying again", error=said)
        else:
            return True
        try:
            async with asyncio.timeout(delay):
                await stop.wait()
        except TimeoutError:
            delay = min(_LONGEST_SECONDS, delay * 2)
    return False
