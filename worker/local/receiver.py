"""The demo's destinations as they see it: an HTTP receiver and the audit file, each with its own record of what came.

Whether that is right, `verdict` judges.
"""

from pathlib import Path
from typing import IO

import orjson
from aiohttp import web

from worker.local.verdict import Arrival


class Record:
    """What came to one destination, in the order it came."""

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self._events: set[str] = set()

    @property
    def events(self) -> int:
        """How many different events came."""
        return len(self._events)

    def add(self, arrival: Arrival) -> None:
        """Notes one more."""
        self.arrivals.append(arrival)
        self._events.add(arrival.event_id)


class Receiver:
    """An HTTP server that accepts every event it can read, and keeps a file of them."""

    def __init__(self, record: Record, file: IO[bytes]) -> None:
        self._record = record
        self._file = file
        application = web.Application()
        application.router.add_post("/events", self._receive)
        # A keep-alive connection may stay open after the workers have gone; nothing is in flight then.
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)

    async def __aenter__(self) -> str:
        """Listens on a free port and gives the address to post to."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}/events"

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            event = orjson.loads(body)
            arrival = Arrival(event["id"], request.headers["webhook-id"], late="lateby" in event)
        except (orjson.JSONDecodeError, LookupError, TypeError) as error:
            return web.Response(status=400, text=f"no CloudEvent with a webhook-id: {error!r}")
        self._record.add(arrival)
        self._file.write(orjson.dumps({"webhook-id": arrival.key, "event": event}, option=orjson.OPT_APPEND_NEWLINE))
        return web.Response(status=204)


class AuditTail:
    """Follows the file that the file sinks of all workers write to."""

    def __init__(self, record: Record, path: Path) -> None:
        self._record = record
        self._path = path
        self._offset = 0

    def read(self) -> None:
        """Notes the whole lines that came since the last time."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            lines, _, _ = file.read().rpartition(b"\n")
        if not lines:
            return
        self._offset += len(lines) + 1
        for line in lines.split(b"\n"):
            self._note(line)

    def _note(self, line: bytes) -> None:
        try:
            event = orjson.loads(line)
        except orjson.JSONDecodeError:
            return  # what a killed process left of a line that it had not yet called delivered
        self._record.add(Arrival(event["id"], event["idempotencykey"], late="lateby" in event))
