"""Batches: who goes together, what each learns of it, and what becomes of those that wait; in virtual time."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lanes import FakeOwner, LaneScene, ScriptedSink, id_of, job_of
from tests.virtual_time import run, settle_down
from worker.errors import Gone, Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable, Throttled
from worker.sinks import Delivery
from worker.sinks.batching import Batcher

Refuse = Callable[[list[str]], Exception | None]


class Destination:
    """Takes a batch in a second, or as long as it is told, and may refuse it."""

    def __init__(self, refuse: Refuse = lambda _: None, *, seconds: float = 1.0) -> None:
        self.asked: list[list[str]] = []
        self.accepted: list[str] = []
        self.under_way = 0
        self.seconds = seconds
        self._refuse = refuse

    async def send(self, batch: Sequence[str]) -> None:
        assert not self.under_way, "one request after the other"
        self.under_way += 1
        self.asked.append(list(batch))
        try:
            await asyncio.sleep(self.seconds)
            if error := self._refuse(list(batch)):
                raise error
            self.accepted += batch
        finally:
            self.under_way -= 1


def batcher(destination: Destination, **given: Any) -> Batcher[str]:
    given.setdefault("most", 100)
    return Batcher(destination.send, name="out", clock=asyncio.get_running_loop().time, **given)


def begin(batches: Batcher[str], *items: str) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(batches.put(item), name=item) for item in items]


async def ends(tasks: list[asyncio.Task[None]]) -> list[BaseException | None]:
    return await asyncio.gather(*tasks, return_exceptions=True)


# --- who goes together


def test_the_first_goes_at_once_and_what_comes_meanwhile_goes_together_in_its_order():
    async def scene():
        destination = Destination(seconds=0.5)
        batches = batcher(destination)
        tasks = begin(batches, "a")
        await settle_down()
        for item in "bcd":
            tasks += begin(batches, item)
            await asyncio.sleep(0.1)
        assert destination.asked == [["a"]]
        assert await ends(tasks) == [None] * 4
        assert destination.asked == [["a"], ["b", "c", "d"]]
        assert batches.idle

    run(scene())


def test_a_request_holds_so_many_at_most_and_of_those_as_many_as_are_small_enough():
    async def scene():
        def cut(items: Sequence[str]) -> int:
            size = 0
            for number, item in enumerate(items):
                size += len(item)
                if size > 4:
                    return number  # none, where the first is too large by itself
            return len(items)

        destination = Destination(seconds=0.1)
        tasks = begin(batcher(destination, most=3, cut=cut), "a", "b", "c", "dd", "ee", "f", "too large", "g")
        assert await ends(tasks) == [None] * 8
        assert destination.asked == [["a", "b", "c"], ["dd", "ee"], ["f"], ["too large"], ["g"]]

    run(scene())


# --- how it ends


@pytest.mark.parametrize(
    "error", [SinkUnavailable("503", retry_after_seconds=7), OutcomeUnknown("lost"), Misconfigured("401"), Gone("410")]
)
def test_how_a_request_ended_is_told_to_all_that_were_in_it_and_the_next_one_goes(error):
    async def scene():
        destination = Destination(lambda batch: error if "a" in batch else None)
        tasks = begin(batcher(destination, most=2), "a", "b", "c")
        assert await ends(tasks) == [error, error, None]
        assert destination.asked == [["a", "b"], ["c"]]

    run(scene())


def test_a_batch_that_is_rejected_goes_in_halves_until_the_bad_ones_are_alone():
    async def scene():
        refused = Rejected("400")
        destination = Destination(lambda batch: refused if {"c", "h"} & set(batch) else None, seconds=0.01)
        tasks = begin(batcher(destination), *"abcdefgh")
        result = dict(zip("abcdefgh", await ends(tasks), strict=True))
        assert {item for item, error in result.items() if error} == {"c", "h"}
        assert result["c"] is refused
        assert destination.accepted == list("abdefg")
        assert destination.asked[:4] == [list("abcdefgh"), list("abcd"), list("ab"), list("cdef")]
        assert max(map(len, destination.asked[4:])) <= 4

    run(scene())


@settings(deadline=None, max_examples=60)
@given(st.lists(st.booleans(), max_size=60), st.integers(1, 20), st.sampled_from([0.01, 0.4, 1.5]))
def test_whatever_is_bad_each_learns_its_own_end(bad, most, seconds):
    """Also where a request takes longer than anybody may wait for it: they are put again, as a lane does."""

    async def scene():
        names = {f"{number}{'!' if each else ''}" for number, each in enumerate(bad)}
        wrong = {name for name in names if name.endswith("!")}
        destination = Destination(lambda batch: Rejected("400") if wrong & set(batch) else None, seconds=seconds)
        batches = batcher(destination, most=most)

        async def put(item: str) -> str:
            while True:
                try:
                    await batches.put(item)
                except Throttled:
                    await asyncio.sleep(0.01)
                except Rejected:
                    return "rejected"
                else:
                    return "accepted"

        tasks = {name: asyncio.create_task(put(name)) for name in sorted(names)}
        await asyncio.gather(*tasks.values())
        assert {name for name, task in tasks.items() if task.result() == "rejected"} == wrong
        assert sorted(destination.accepted) == sorted(names - wrong)
        assert len(destination.asked) <= 2 + 2 * len(names) + 12 * len(wrong)

    run(scene())


def test_a_destination_that_rejects_everything_is_asked_once_about_each():
    async def scene():
        destination = Destination(lambda _: Rejected("415"), seconds=0.001)
        await ends(begin(batcher(destination, most=16), *(str(number) for number in range(100))))
        assert len(destination.asked) == 4 + 100

    run(scene())


def test_a_bug_comes_out_in_those_that_were_in_the_request_and_stops_nobody_else():
    async def scene():
        bug = KeyError("a bug")
        tasks = begin(batcher(Destination(lambda batch: bug if "a" in batch else None), most=2), "a", "b", "c")
        assert await ends(tasks) == [bug, bug, None]

    run(scene())


# --- cancelled


def test_who_is_cancelled_while_waiting_is_not_sent():
    async def scene():
        destination = Destination(seconds=0.5)
        batches = batcher(destination)
        tasks = begin(batches, "a")
        await settle_down()
        tasks += begin(batches, "b", "c")
        await settle_down()
        tasks[1].cancel()
        await ends(tasks)
        assert destination.asked == [["a"], ["c"]]
        assert batches.idle

    run(scene())


def test_who_is_cancelled_on_the_wire_takes_nobody_along():
    async def scene():
        destination = Destination()
        batches = batcher(destination)
        tasks = begin(batches, "a", "b")
        await settle_down()
        tasks[0].cancel()
        first, second = await ends(tasks)
        assert isinstance(first, asyncio.CancelledError)
        assert second is None
        assert destination.asked == [["a", "b"]]
        assert batches.idle

    run(scene())


def test_when_all_that_wait_are_cancelled_nothing_is_sent():
    async def scene():
        destination = Destination(seconds=0.5)
        batches = batcher(destination)
        tasks = begin(batches, "a")
        await settle_down()
        tasks += begin(batches, "b", "c")
        await settle_down()
        for task in tasks[1:]:
            task.cancel()
        await ends(tasks)
        assert destination.asked == [["a"]]
        assert batches.idle

    run(scene())


# --- patience


def test_whose_turn_comes_too_late_is_not_sent_and_told_to_ask_again():
    async def scene():
        destination = Destination(seconds=1.5)
        batches = batcher(destination)
        tasks = begin(batches, "a")
        await settle_down()
        tasks += begin(batches, "late")
        await asyncio.sleep(1)
        tasks += begin(batches, "in time")
        first, late, in_time = await ends(tasks)
        assert (first, in_time) == (None, None)
        assert isinstance(late, Throttled)
        assert late.retry_after_seconds == 0
        assert destination.accepted == ["a", "in time"]

    run(scene())


def test_who_becomes_too_late_while_the_others_are_waited_for_is_not_sent_either():
    async def scene():
        destination = Destination(seconds=1.02)
        batches = batcher(destination)
        tasks = begin(batches, "a")
        await settle_down()
        tasks += begin(batches, "late")
        await asyncio.sleep(0.04)
        tasks += begin(batches, "too late by then")
        await asyncio.sleep(0.5)
        tasks += begin(batches, "in time")
        results = [type(end) for end in await ends(tasks)]
        assert results == [type(None), Throttled, Throttled, type(None)]
        assert destination.asked == [["a"], ["in time"]]

    run(scene())


def test_where_requests_take_longer_than_the_patience_those_that_return_go_together_all_the_same():
    async def scene():
        destination = Destination(seconds=3.0)
        owner, sink = FakeOwner(), BatchingSink(destination)
        async with LaneScene(sink, concurrency=20).running() as stage:
            for number in range(21):
                stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
            await asyncio.sleep(0.1)
            stage.lane.submit(job_of(owner, "later", "later"))
            await asyncio.sleep(10)
            assert len(owner.accepted_ids) == 22
            assert len(destination.asked) <= 3
        await sink.aclose()

    run(scene())


@pytest.mark.parametrize("given", [{}, {"rate": 40}])
@pytest.mark.parametrize("seconds", [1.5, 3.0])
def test_a_slow_answer_does_not_end_a_steady_stream(seconds, given):
    """Somebody has always just waited too long; who waits for no more of them to come sends nothing any more."""

    async def scene():
        destination = Destination(seconds=seconds)
        owner, sink = FakeOwner(), BatchingSink(destination)
        async with LaneScene(sink, concurrency=200, **given).running() as stage:
            for number in range(30 * 30):
                stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
                await asyncio.sleep(1 / 30)
            assert len(owner.accepted_ids) > 20 * 30
            destination.seconds = 0.05
            await asyncio.sleep(30)
            assert len(owner.accepted_ids) == 30 * 30
        await sink.aclose()

    run(scene())


def test_who_was_turned_away_comes_before_those_that_had_no_turn():
    async def scene():
        destination = Destination(seconds=3.0)
        owner, sink = FakeOwner(), BatchingSink(destination, most=10)
        async with LaneScene(sink, concurrency=20).running() as stage:
            for number in range(100):
                stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
            await asyncio.sleep(10)
            assert len(owner.accepted_ids) == 30
            assert max(int(each.removeprefix("e")) for each in owner.accepted_ids) < 40
        await sink.aclose()

    run(scene())


class BatchingSink(ScriptedSink):
    def __init__(self, destination: Destination, **given: Any) -> None:
        super().__init__()
        self._batches = batcher(destination, **given)

    async def deliver(self, delivery: Delivery) -> None:
        await self._batches.put(id_of(delivery))

    async def aclose(self) -> None:
        await self._batches.aclose()


def test_a_lane_whose_sink_says_that_it_is_at_once_their_turn_again_does_not_spin():
    async def scene():
        sink, owner = ScriptedSink(fail=lambda: Throttled("not now", retry_after_seconds=0)), FakeOwner()
        async with LaneScene(sink).running() as stage:
            stage.lane.submit(job_of(owner, "a", "a1"))
            await asyncio.sleep(1)
            assert 2 <= len(sink.started) <= 101
            assert stage.count("worker_lane_down") == 0

    run(scene())


# --- any history


ACTIONS = st.one_of(
    st.just(("put", 0.0)),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.3, 1.2])),
    st.tuples(st.sampled_from(["cancel", "close"]), st.floats(0, 0.999)),
)
ENDS: dict[str, Exception | None] = {
    "accepted": None,
    "rejected": Rejected("400"),
    "unavailable": SinkUnavailable("503"),
    "gone": Gone("410"),
    "a bug": KeyError("a bug"),
}


@settings(deadline=None, max_examples=150)
@given(
    st.lists(ACTIONS, max_size=60),
    st.lists(st.sampled_from(sorted(ENDS)), max_size=20),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.4, 1.5]),
)
def test_in_any_history_nobody_waits_for_ever_and_who_was_accepted_was_sent_once(actions, answers, most, seconds):
    async def scene():
        answers_left = list(answers)
        destination = Destination(lambda _: ENDS[answers_left.pop()] if answers_left else None, seconds=seconds)
        batches = batcher(destination, most=most)
        tasks: list[asyncio.Task[None]] = []
        for kind, value in actions:
            match kind:
                case "put":
                    tasks += begin(batches, str(len(tasks)))
                case "wait":
                    await asyncio.sleep(value)
                case "cancel" if tasks:
                    tasks[int(value * len(tasks))].cancel()
                case "close":
                    await batches.aclose()
        results = await ends(tasks)  # in virtual time, what would hang is an error
        await asyncio.sleep(5)  # what was cancelled on the wire is there still
        assert batches.idle
        told = [str(number) for number, result in enumerate(results) if result is None]
        assert len(destination.accepted) == len(set(destination.accepted))
        assert set(told) <= set(destination.accepted)
        cancelled = {str(number) for number, task in enumerate(tasks) if task.cancelled()}
        assert set(destination.accepted) <= {*told, *cancelled}

    run(scene())


# --- the end


def test_closing_ends_what_is_under_way_and_what_waits_and_may_be_done_twice():
    async def scene():
        destination = Destination()
        batches = batcher(destination, most=2)
        await batches.aclose()
        tasks = begin(batches, *"abcde")
        await settle_down()
        await batches.aclose()
        await batches.aclose()
        assert [type(end) for end in await ends(tasks)] == [asyncio.CancelledError] * 5
        assert (destination.asked, destination.accepted) == ([["a", "b"]], [])
        assert batches.idle

    run(scene())


def test_closing_ends_what_was_rejected_and_had_to_go_in_halves():
    async def scene():
        destination = Destination(lambda batch: Rejected("400") if len(batch) > 1 else None)
        batches = batcher(destination)
        tasks = begin(batches, *"abcd")
        await asyncio.sleep(0.9)
        destination.seconds = 5.0
        await asyncio.sleep(0.5)
        assert destination.asked == [list("abcd"), list("ab")]
        await batches.aclose()
        assert [type(end) for end in await ends(tasks)] == [asyncio.CancelledError] * 4

    run(scene())


def test_it_works_again_after_it_was_closed():
    async def scene():
        destination = Destination()
        batches = batcher(destination)
        tasks = begin(batches, "a")
        await settle_down()
        await batches.aclose()
        tasks += begin(batches, "b")
        first, second = await ends(tasks)
        assert isinstance(first, asyncio.CancelledError)
        assert second is None
        assert destination.accepted == ["b"]
        assert batches.idle

    run(scene())
