"""`order.window_seconds: auto` in a partition: what it learns is shown, acted upon, and handed over."""

import asyncio

import pytest

from tests.pipeline.stage import Stage, blob_event, message
from tests.virtual_time import run
from worker import state as codec
from worker.events import Message


def displaced(pairs: int, *, first: int = 0, by: float = 8.0) -> list[Message]:
    """Of each pair the later event comes first, and the earlier one so much behind."""
    found = []
    for pair in range(pairs):
        for at, key in ((pair * 10, 2), (pair * 10 + by, 1)):
            number = first + len(found)
            found.append(message(number, blob_event(f"{first}-{pair}", key), at=first * 10 + at))
    return found


def window(stage: Stage) -> float:
    return stage.count("worker_order_window_seconds", partition="0")


def test_a_partition_learns_to_wait_as_long_as_its_events_come_behind():
    async def scene():
        async with Stage(window="auto").open() as stage:
            claim = await stage.begin()
            await stage.play(claim, *displaced(2))
            await asyncio.sleep(1)
            assert 8 < window(stage) < 12
            assert stage.count("worker_order_late_share", partition="0") == pytest.approx(2 / 4)

            await stage.play(claim, *displaced(3, first=10))
            await asyncio.sleep(20)
            accepted = [each.released for each in stage.sinks["out"].accepted]
            told = [each.placed.event.id for each in accepted if each.placed.message.sequence_number >= 10]
            assert sorted(told) == sorted(told, key=lambda one: (one[:-2], told.index(one))), "in order, each subject"
            assert len(told) == 6
            assert sum(each.late_by_ms is not None for each in accepted) == 2

    run(scene())


def test_the_next_owner_goes_on_with_what_was_learnt_and_counts_nothing_twice():
    async def scene():
        async with Stage(window="auto").open() as stage:
            claim = await stage.begin()
            await stage.play(claim, *displaced(3))
            await asyncio.sleep(1)
            learnt = window(stage)
            await stage.end(claim)
        state = await stage.state()
        assert state.disorder["events"] == 6
        async with Stage(store=stage.store, window="auto").open() as second:
            claim = await second.begin("second")
            await second.play(claim, *displaced(3)[-1:])
            await asyncio.sleep(1)
            assert window(second) == pytest.approx(learnt, rel=0.01)
            await second.end(claim)
        assert (await second.state()).disorder["events"] == 6

    run(scene())


def test_a_fixed_window_is_shown_and_leaves_no_trace_in_the_state():
    async def scene():
        async with Stage(window=3).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)))
            await asyncio.sleep(5)
            assert window(stage) == 3
            await stage.end(claim)
            assert b"disorder" not in codec.encode(await stage.state())

    run(scene())
