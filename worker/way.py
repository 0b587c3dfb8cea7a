"""The way to one destination as it is configured at one time: the sink, its ledger, and who is under way on it.

A sink that is configured anew gets another way. What is under way ends on the way it began on; when nothing is any
more, the old sink can be closed. Decides nothing.
"""

import asyncio

from worker.ledger import Ledger
from worker.settings import SinkSettings
from worker.sinks import LimitedSink, Sink


class Way:
    """One sink, open, and what goes with it."""

    def __init__(self, settings: SinkSettings, sink: Sink, ledger: Ledger | None = None) -> None:
        self.settings = settings
        self.sink = sink
        self.ledger = ledger
        self.limited = sink if isinstance(sink, LimitedSink) else None
        quiet = settings.quiet
        self.looks_back = ledger is not None and quiet is not None and quiet.tells_some_alone
        """Where some go alone and others are told together, one life may do the one, and the next life the other."""
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    def enter(self) -> None:
        """Somebody is under way, until `leave`."""
        self._users += 1
        self._unused.clear()

    def leave(self) -> None:
        """Whoever entered is not under way any more."""
        self._users -= 1
        if not self._users:
            self._unused.set()

    async def until_unused(self) -> None:
        """Returns when nobody is under way. Whoever took another way meanwhile does not come back to this one."""
        await self._unused.wait()
