"""Dead letters from beginning to end: real workers, a destination that refuses and then accepts, and the commands."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from tests.integration.commands import command
from tests.integration.scene import Scene, scene, traffic
from tests.support import eventually

EVENTS = 200


class Destination:
    """Refuses everything until it is told otherwise; notes the keys under which it has accepted an event."""

    def __init__(self) -> None:
        self.accepts = False
        self.at_most = EVENTS
        """So many are accepted at once, later ones wait for `goes_on`."""
        self.goes_on = asyncio.Event()
        self.refused: dict[str, str] = {}
        self.accepted: dict[str, list[str]] = defaultdict(list)
        self.not_late: list[str] = []
        self._begun = 0

    async def receive(self, request: web.Request) -> web.Response:
        event, key = orjson.loads(await request.read()), request.headers["webhook-id"]
        if not self.accepts:
            self.refused[event["id"]] = key
            return web.Response(status=400, text="the field x is missing")
        self._begun += 1
        if self._begun > self.at_most:
            await self.goes_on.wait()
        self.accepted[event["id"]].append(key)
        if "lateby" not in event:
            self.not_late.append(event["id"])
        return web.Response(status=204)


@asynccontextmanager
async def destination(stage: Scene) -> AsyncIterator[Destination]:
    """Stands where the workers of the stage send to."""
    place = Destination()
    application = web.Application()
    application.router.add_post("/events", place.receive)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    stage.url = f"http://127.0.0.1:{runner.addresses[0][1]}/events"
    try:
        yield place
    finally:
        place.goes_on.set()
        await runner.cleanup()


async def until_given_up(stage: Scene, count: int) -> None:
    async def kept() -> bool:
        return len(await stage.letters()) >= count

    await eventually(kept, 60)


async def until_gone(stage: Scene) -> None:
    async def gone() -> bool:
        return not await stage.letters()

    await eventually(gone, 90)


@pytest.fixture(params=["sqlite", "blob"])
def azurite_or_none(request: pytest.FixtureRequest) -> str | None:
    return request.getfixturevalue("azurite") if request.param == "blob" else None


async def test_what_was_refused_is_replayed_under_its_key_and_leaves_the_list(
    tmp_path: Path, azurite_or_none: str | None
):
    messages = traffic(20, seed=3, duplicates=0, malformed=0)
    async with scene(tmp_path, azurite_or_none) as stage, destination(stage) as place:
        worker = await stage.start_worker("one")
        await stage.until_shared("one")
        await stage.send(messages)
        await until_given_up(stage, 20)

        listed = (await command(stage, "one", "deadletter", "list", "--json", azurite=azurite_or_none)).rows
        assert {row["event_id"] for row in listed} == set(place.refused)
        assert {(row["reason"], row["sink"], row["route"]) for row in listed} == {("rejected", "out", "everything")}
        assert all("the field x is missing" in row["detail"] for row in listed)

        place.accepts = True
        chosen = listed[7]
        asked = await command(stage, "one", "deadletter", "replay", chosen["id"][:12], azurite=azurite_or_none)
        assert (asked.code, "No worker" in asked.out) == (0, False)
        await eventually(lambda: place.accepted, 30)
        await command(stage, "one", "deadletter", "replay", "--sink", "out", azurite=azurite_or_none)
        await until_gone(stage)
        await stage.family.stop([worker])
    assert place.accepted == {event: [key] for event, key in place.refused.items()}
    assert place.not_late == []


async def test_a_worker_killed_in_the_middle_of_replays_leaves_the_rest_to_another(tmp_path: Path):
    messages = traffic(EVENTS, seed=4, duplicates=0, malformed=0)
    async with scene(tmp_path) as stage, destination(stage) as place:
        victim = await stage.start_worker("victim")
        await stage.until_shared("victim")
        await stage.send(messages)
        await until_given_up(stage, EVENTS)

        place.accepts, place.at_most = True, 60
        await command(stage, "victim", "deadletter", "replay", "--all")

        async def in_the_middle() -> bool:
            return len(place.accepted) == place.at_most and len(await stage.letters()) < EVENTS

        await eventually(in_the_middle, 30)
        victim.kill()
        assert await stage.letters()

        place.goes_on.set()
        survivor = await stage.start_worker("survivor")
        await until_gone(stage)
        async with stage.store() as store:
            assert await store.replays() == []
        await stage.family.stop([survivor])
    assert {event: {key} for event, key in place.refused.items()} == {
        event: set(keys) for event, keys in place.accepted.items()
    }
    assert place.not_late == []


async def test_dead_letters_are_handled_when_no_worker_runs(tmp_path: Path):
    messages = traffic(20, seed=5, duplicates=0, malformed=0)
    async with scene(tmp_path) as stage, destination(stage) as place:
        await stage.family.stop([await _after_giving_up(stage, messages)])
        place.accepts = True
        asked = await command(stage, "one", "deadletter", "replay", "--all", "--limit", "15")
        assert (asked.code, "No worker is running" in asked.out) == (0, True)
        kept = (await command(stage, "one", "deadletter", "list", "--json")).rows
        dropped = [row["id"] for row in kept[10:]]
        assert (
            await command(stage, "one", "deadletter", "drop", "--yes", *dropped)
        ).out == "10 dead letters dropped.\n"

        await stage.start_worker("next")
        await until_gone(stage)
    assert set(place.accepted) == {row["event_id"] for row in kept[:10]}


async def _after_giving_up(stage: Scene, messages: list[Any]) -> Any:
    worker = await stage.start_worker("one")
    await stage.until_shared("one")
    await stage.send(messages)
    await until_given_up(stage, 20)
    return worker
