"""`only: latest`: of what is released together a sink gets the newest; a crash loses none and brings none back."""

import asyncio

from tests.fakes import FakeSink
from tests.pipeline.stage import Stage, blob_event, message
from tests.virtual_time import run
from worker.errors import SinkUnavailable
from worker.filters import compile_filter
from worker.route import Late, RouteSpec

WINDOW = 5
NEWEST = RouteSpec("newest", ("out",), only="latest")
EVERY = RouteSpec("every", ("audit",))
SMALL = compile_filter({"advancedFilters": [{"operatorType": "StringIn", "key": "data.content", "values": ["small"]}]})


def stage(*routes: RouteSpec, **given) -> Stage:
    names = dict.fromkeys(sink for route in routes for sink in route.sinks)
    given.setdefault("sinks", {name: FakeSink() for name in names})
    return Stage(routes=routes, **given)


def settled(playing: Stage, outcome: str) -> float:
    return playing.count("worker_settled_events_total", partition="0", outcome=outcome)


def superseded(playing: Stage, route: str = "newest") -> float:
    return playing.count("worker_superseded_events_total", route=route, sink="out")


def test_of_a_subject_the_newest_is_delivered_and_the_others_are_settled():
    async def scene():
        async with stage(NEWEST).open() as playing:
            claim = await playing.begin()
            events = [blob_event("a", 3), blob_event("b", 1), blob_event("a", 1), blob_event("a", 2)]
            await playing.play(claim, message(0, *events))
            await asyncio.sleep(WINDOW + 1)
            assert sorted(playing.sinks["out"].ids) == ["a-3", "b-1"]
            assert (settled(playing, "superseded"), settled(playing, "delivered")) == (2, 2)
            assert superseded(playing) == 2
            await playing.end(claim)
            assert await playing.checkpoint() == 0

    run(scene())


def test_other_sinks_get_every_event_and_what_comes_at_another_time_is_delivered():
    async def scene():
        async with stage(NEWEST, EVERY).open() as playing:
            claim = await playing.begin()
            await playing.play(claim, message(0, blob_event("a", 1), blob_event("a", 2)))
            await playing.play(claim, message(1, blob_event("a", 3), at=WINDOW + 3))
            await asyncio.sleep(30)
            assert playing.sinks["out"].ids == ["a-2", "a-3"]
            assert playing.sinks["audit"].ids == ["a-1", "a-2", "a-3"]
            assert (settled(playing, "delivered"), superseded(playing)) == (3, 1)

    run(scene())


def test_only_a_newer_one_that_the_route_matches_supersedes():
    async def scene():
        route = RouteSpec("newest", ("out",), SMALL, only="latest")
        async with stage(route).open() as playing:
            claim = await playing.begin()
            contents = ("small", "small", "big")
            events = [blob_event("a", number, data=content) for number, content in enumerate(contents)]
            await playing.play(claim, message(0, *events))
            await asyncio.sleep(WINDOW + 1)
            assert playing.sinks["out"].ids == ["a-1"]
            assert (settled(playing, "superseded"), settled(playing, "no_route")) == (1, 1)

    run(scene())


def test_a_late_event_goes_by_the_late_policy():
    async def scene(late: Late, expected: list[str]) -> None:
        route = RouteSpec("newest", ("out",), only="latest", late=late)
        async with stage(route, window=0).open() as playing:
            claim = await playing.begin()
            await playing.play(claim, message(0, blob_event("a", 5)))
            await playing.play(claim, message(1, blob_event("a", 1), blob_event("a", 6), blob_event("a", 7), at=1))
            await asyncio.sleep(5)
            assert playing.sinks["out"].ids == expected

    run(scene(Late.DELIVER, ["a-5", "a-1", "a-7"]))
    run(scene(Late.DROP, ["a-5", "a-7"]))


def test_what_in_flight_cuts_in_two_is_two_groups():
    async def scene():
        async with stage(NEWEST, limits={"in_flight": 2}).open() as playing:
            claim = await playing.begin()
            await playing.play(claim, message(0, *(blob_event("a", number) for number in range(1, 6))))
            await asyncio.sleep(60)
            ids = playing.sinks["out"].ids
            assert ids[-1] == "a-5"
            assert ids == sorted(ids)
            assert len(ids) + superseded(playing) == 5
            assert 1 < len(ids) < 5

    run(scene())


def test_after_a_crash_the_newest_comes_again_and_the_superseded_does_not_come_after_it():
    """The superseded one is still at its other sink: what was decided at this one stands."""

    async def scene():
        down = FakeSink(refuse=lambda _: SinkUnavailable("503"))
        events = message(0, blob_event("a", 1), blob_event("a", 2))
        async with stage(NEWEST, EVERY, sinks={"out": FakeSink(), "audit": down}).open() as playing:
            claim = await playing.begin()
            await playing.play(claim, events)
            await asyncio.sleep(WINDOW + 5)
            assert playing.sinks["out"].ids == ["a-2"]
            store = playing.store
            assert claim.tenure is not None  # and now the process dies: nothing more is written
        async with stage(NEWEST, EVERY, store=store).open() as second:
            claim = await second.begin("second")
            await second.play(claim, events)
            await asyncio.sleep(60)
            assert second.sinks["out"].ids == []
            assert second.sinks["audit"].ids == ["a-1", "a-2"]
            await second.end(claim)
            assert await second.checkpoint() == 0

    run(scene())


def test_one_that_was_tried_in_an_earlier_life_and_is_superseded_now_leaves_nothing_in_the_state():
    async def scene():
        down = FakeSink(refuse=lambda _: SinkUnavailable("503"))
        events = [
            message(0, blob_event("a", 1)),
            message(1, blob_event("a", 2), at=1),
            message(2, blob_event("b", 1), at=20),
        ]
        async with stage(NEWEST, sinks={"out": down}).open() as playing:
            claim = await playing.begin()
            for each in events:
                await playing.play(claim, each)
                await asyncio.sleep(10)
            await playing.end(claim)
            assert superseded(playing) == 0
            assert [each.position.sequence_number for each in (await playing.state()).attempts] == [0, 2]
        async with stage(NEWEST, store=playing.store).open() as second:
            claim = await second.begin("second")
            await second.play(claim, *events)
            await asyncio.sleep(60)
            assert sorted(second.sinks["out"].ids) == ["a-2", "b-1"]
            await second.end(claim)
            assert (await second.state()).attempts == []

    run(scene())
