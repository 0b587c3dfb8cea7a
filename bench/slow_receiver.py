"""A destination that takes 20 ms for each answer and watches the order: `python -m bench.slow_receiver`.

POST /NAME takes an event; GET /NAME says what has come to that name, GET /NAME?behind=N also how long everything behind
the first N took. It prints where it listens. Used by bench.fanout.
"""

import asyncio
import time
from collections import defaultdict
from typing import Any

import orjson
from aiohttp import web

ANSWER_SECONDS = 0.02


class Seen:
    """What came to one name."""

    def __init__(self) -> None:
        self._came: list[float] = []
        self._last: dict[str, int] = {}
        self._under_way: set[str] = set()
        self._at_once = 0
        self._overtakes = 0
        self._together = 0

    async def take(self, event: dict[str, Any]) -> None:
        """Notes an event, and takes its time over it."""
        subject, number = event["subject"], event["data"]["number"]
        self._came.append(time.monotonic())
        self._overtakes += number <= self._last.get(subject, -1)
        self._together += subject in self._under_way
        self._last[subject] = number
        self._under_way.add(subject)
        self._at_once = max(self._at_once, len(self._under_way))
        await asyncio.sleep(ANSWER_SECONDS)
        self._under_way.discard(subject)

    def told(self, behind: int | None) -> dict[str, Any]:
        """Numbers for the bench."""
        told: dict[str, Any] = {
            "count": len(self._came),
            "under_way": len(self._under_way),
            "overtakes": self._overtakes,
            "together": self._together,
            "at_once": self._at_once,
        }
        if behind is not None:
            told["seconds"] = self._came[-1] - self._came[behind - 1]
        return told


async def main() -> None:
    """Serves until it is killed."""
    names: defaultdict[str, Seen] = defaultdict(Seen)

    async def handle(request: web.BaseRequest) -> web.Response:
        seen = names[request.path]
        if request.method == "GET":
            behind = request.query.get("behind")
            return web.json_response(seen.told(None if behind is None else int(behind)))
        event = orjson.loads(await request.read())
        await seen.take(event)
        return web.Response(status=204)

    runner = web.ServerRunner(web.Server(handle, access_log=None))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
