"""The way of an event through a partition's pipeline: order, retries, dead letters, lateness, duplicates, bounds."""

import asyncio

import pytest

from tests.fakes import FakeSink
from tests.pipeline.stage import Stage, blob_event, message
from tests.virtual_time import run, settle_down
from worker.errors import Misconfigured, Rejected, SinkUnavailable
from worker.route import Late

WINDOW = 5


def test_events_of_a_subject_arrive_in_order_though_they_came_out_of_order():
    async def scene():
        async with Stage().open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 2)), message(1, blob_event("a", 1)))
            assert stage.sinks["out"].ids == []
            await asyncio.sleep(WINDOW + 1)
            assert stage.sinks["out"].ids == ["a-1", "a-2"]

    run(scene())


def test_a_backlog_is_ordered_at_full_speed_by_the_enqueued_time():
    async def scene():
        async with Stage().open() as stage:
            claim = await stage.begin()
            before = asyncio.get_running_loop().time()
            messages = [message(n, blob_event("a", n ^ 1), at=n * 0.5) for n in range(100)]
            await stage.play(claim, *messages, last=5_000)
            await settle_down(500)
            assert asyncio.get_running_loop().time() == before
            expected = [f"a-{n}" for n in range(100)]
            released = stage.sinks["out"].ids
            assert released == expected[: len(released)]
            assert len(released) > 80

    run(scene())


def test_time_stands_still_while_the_hub_has_more_and_nothing_comes():
    async def scene():
        async with Stage().open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 2)), last=10)
            await asyncio.sleep(3 * WINDOW)
            assert stage.sinks["out"].ids == []
            await stage.play(claim, message(1, blob_event("a", 1), at=1), last=10)
            await asyncio.sleep(90)  # a hub that promises more for ever must not hold events for ever
            assert stage.sinks["out"].ids == ["a-1", "a-2"]

    run(scene())


def test_a_later_event_never_overtakes_an_earlier_one_that_is_tried_again_and_other_subjects_go_on():
    async def scene():
        sink = FakeSink([SinkUnavailable("503"), SinkUnavailable("503")])
        async with Stage({"out": sink}, window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1), blob_event("a", 2)), message(1, blob_event("b", 1)))
            await asyncio.sleep(10)
            assert [each for each in sink.ids if each.startswith("a")] == ["a-1", "a-2"]
            assert sorted(sink.ids) == ["a-1", "a-2", "b-1"]
            keys = {each.released.placed.event.id: each.idempotency_key for each in sink.attempts}
            for attempt in sink.attempts:
                assert attempt.idempotency_key == keys[attempt.released.placed.event.id]

    run(scene())


def test_retry_after_is_respected():
    async def scene():
        sink = FakeSink([SinkUnavailable("429", retry_after_seconds=100)])
        async with Stage({"out": sink}, window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)))
            await asyncio.sleep(99)
            assert len(sink.attempts) == 1
            await asyncio.sleep(2)
            assert sink.ids == ["a-1"]

    run(scene())


def test_checkpoint_never_passes_an_unsettled_event():
    async def scene():
        sink = FakeSink(refuse=lambda each: SinkUnavailable("503") if each.released.placed.event.id == "a-1" else None)
        async with Stage({"out": sink}, window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("z", 1)))
            await stage.play(claim, message(1, blob_event("a", 1)))
            await stage.play(claim, *(message(n, blob_event("b", n)) for n in range(2, 50)))
            await asyncio.sleep(60)
            assert len(sink.ids) == 49
            assert await stage.checkpoint() == 0
            assert (await stage.state()).watermark == (0, "0")

    run(scene())


def test_a_rejected_event_becomes_a_dead_letter_with_its_bytes_and_the_next_goes_on():
    async def scene():
        sink = FakeSink([Rejected("out: 400 Bad Request")])
        async with Stage({"out": sink}, window=0).open() as stage:
            claim = await stage.begin()
            first = message(0, blob_event("a", 1))
            await stage.play(claim, first, message(1, blob_event("a", 2)))
            await asyncio.sleep(30)
            [letter] = await stage.dead_letters()
            assert (letter.reason, letter.sink, letter.route, letter.attempts) == ("rejected", "out", "to-out", 1)
            assert letter.body == first.body
            assert letter.detail == "out: 400 Bad Request"
            assert sink.ids == ["a-2"]
            assert await stage.checkpoint() == 1

    run(scene())


def test_an_event_that_is_given_up_after_its_time_becomes_a_dead_letter():
    async def scene():
        sink = FakeSink(refuse=lambda _: SinkUnavailable("503"))
        async with Stage({"out": sink}, window=0, lanes={"retry": {"give_up_after_seconds": 600}}).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)))
            await asyncio.sleep(500)
            assert await stage.dead_letters() == []
            await asyncio.sleep(120)
            [letter] = await stage.dead_letters()
            assert letter.reason == "retries_exhausted"
            assert letter.attempts == len(sink.attempts) > 10
            assert "503" in letter.detail

    run(scene())


@pytest.mark.parametrize(("late", "delivered", "letters"), [("deliver", 2, 0), ("drop", 1, 0), ("dead_letter", 1, 1)])
def test_a_late_event_is_flagged_dropped_or_kept_as_its_route_says(late: str, delivered: int, letters: int):
    async def scene():
        async with Stage(late=Late(late)).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 2)))
            await asyncio.sleep(WINDOW + 1)
            await stage.play(claim, message(1, blob_event("a", 1), at=WINDOW + 3))
            await asyncio.sleep(WINDOW + 1)
            sink = stage.sinks["out"]
            assert len(sink.accepted) == delivered
            if late == "deliver":
                assert sink.accepted[1].released.late_by_ms == pytest.approx(3000, abs=1100)
            found = await stage.dead_letters()
            assert [each.reason for each in found] == ["late"] * letters
            assert stage.count("worker_late_events_total", partition="0") == 1
            assert await stage.checkpoint() == 1

    run(scene())


def test_a_resent_event_is_delivered_once_and_settles():
    async def scene():
        async with Stage().open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)), message(1, blob_event("a", 1)))
            await asyncio.sleep(WINDOW + 1)
            await stage.play(claim, message(2, blob_event("a", 1), at=30))
            await asyncio.sleep(WINDOW + 6)
            assert stage.sinks["out"].ids == ["a-1"]
            assert stage.count("worker_duplicate_events_total", partition="0", kind="same") == 2
            assert await stage.checkpoint() == 2

    run(scene())


def test_an_equal_event_with_other_data_is_delivered_under_a_key_of_its_own():
    async def scene():
        async with Stage().open() as stage:
            claim = await stage.begin()
            twins = [blob_event("a", 1, data="x"), blob_event("a", 1, data="y")]
            await stage.play(claim, message(0, *twins), message(1, twins[1]))
            await asyncio.sleep(WINDOW + 1)
            assert len({each.idempotency_key for each in stage.sinks["out"].accepted}) == 2
            assert stage.count("worker_duplicate_events_total", partition="0", kind="other_data") == 1

    run(scene())


def test_bad_input_becomes_a_dead_letter_byte_for_byte_and_the_rest_goes_on():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            bad = message(0, body=b"\xff\xfe no json")
            half = message(1, {"no": "envelope"}, blob_event("a", 1))
            await stage.play(claim, bad, half, message(2, body=b"[]"))
            await asyncio.sleep(10)
            letters = await stage.dead_letters()
            assert [(each.sequence_number, each.index, each.body) for each in letters] == [
                (0, 0, bad.body),
                (1, 0, half.body),
            ]
            assert stage.sinks["out"].ids == ["a-1"]
            assert await stage.checkpoint() == 2

    run(scene())


def test_a_message_full_of_bad_elements_is_kept_a_bounded_number_of_times_and_settles():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, *[{"bad": n} for n in range(5000)], blob_event("a", 1)))
            await asyncio.sleep(10)
            letters = await stage.dead_letters()
            assert len(letters) == 100
            assert sum("4900 more" in letter.detail for letter in letters) == 1
            assert stage.count("worker_bad_events_total", partition="0", reason="no_envelope") == 5000
            assert stage.sinks["out"].ids == ["a-1"]
            assert await stage.checkpoint() == 0

    run(scene())


def test_full_means_that_reading_waits_and_nothing_is_thrown_away():
    async def scene():
        sink = FakeSink()
        sink.open_gate.clear()
        async with Stage({"out": sink}, window=0, limits={"in_flight": 10}).open() as stage:
            claim = await stage.begin()

            async def hand_over() -> None:
                for number in range(0, 100, 5):
                    batch = [message(n, blob_event(f"s{n}", 1)) for n in range(number, number + 5)]
                    await claim.feed.put(batch, 99)

            putting = asyncio.create_task(hand_over())
            await asyncio.sleep(60)
            assert not putting.done()
            in_flight = stage.count("worker_in_flight_events", partition="0")
            assert in_flight == 10
            sink.open_gate.set()
            await putting
            await asyncio.sleep(10)
            assert len(sink.ids) == len(set(sink.ids)) == 100

    run(scene())


def test_held_events_are_bounded_and_released_early_in_order_when_full():
    async def scene():
        async with Stage(limits={"held": 10}).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, *(message(n, blob_event("a", 50 - n)) for n in range(20)), last=99)
            assert stage.count("worker_held_events", partition="0") == 10
            assert len(stage.sinks["out"].ids) == 10
            assert stage.count("worker_released_early_events_total", partition="0") > 0

    run(scene())


def test_a_slow_sink_does_not_slow_the_others():
    async def scene():
        slow, quick = FakeSink(), FakeSink()
        slow.open_gate.clear()
        async with Stage({"slow": slow, "quick": quick}, window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, *(message(n, blob_event(f"s{n}", 1)) for n in range(100)))
            await asyncio.sleep(1)
            assert len(quick.ids) == 100
            assert slow.ids == []
            slow.open_gate.set()
            await settle_down(500)
            assert len(slow.ids) == 100

    run(scene())


def test_a_sink_that_overflows_to_dead_letters_does_not_stop_the_others():
    async def scene():
        stuck, fine = FakeSink(), FakeSink()
        stuck.open_gate.clear()
        overflow = {"stuck": {"overflow": "dead_letter", "concurrency": 2}}
        async with Stage(
            {"stuck": stuck, "fine": fine}, window=0, limits={"in_flight": 10}, lane=overflow
        ).open() as stage:
            claim = await stage.begin()
            for number in range(100):
                await claim.feed.put([message(number, blob_event(f"s{number}", 1))], 99)
            await asyncio.sleep(60)
            assert len(fine.ids) == 100
            letters = await stage.dead_letters()
            assert {each.reason for each in letters} == {"overflow"}
            assert {each.sink for each in letters} == {"stuck"}
            stuck.open_gate.set()
            await asyncio.sleep(10)
            assert len(stuck.ids) + len(letters) == 100
            assert await stage.checkpoint() == 99

    run(scene())


def test_a_sink_that_does_not_fill_the_partition_gives_nothing_up():
    async def scene():
        stuck, other = FakeSink(), FakeSink()
        stuck.open_gate.clear()
        other.open_gate.clear()
        overflow = {"other": {"overflow": "dead_letter", "concurrency": 100}}
        async with Stage(
            {"stuck": stuck, "other": other}, window=0, limits={"in_flight": 50}, lane=overflow
        ).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, *(message(n, blob_event(f"s{n}", 1)) for n in range(60)))
            await asyncio.sleep(60)
            assert await stage.dead_letters() == []
            assert other.under_way == 50

    run(scene())


def test_a_lane_tries_one_delivery_of_a_subject_and_no_more_than_its_concurrency_at_a_time():
    async def scene():
        sink = FakeSink()
        async with Stage({"out": sink}, window=0, lanes={"concurrency": 3}).open() as stage:
            claim = await stage.begin()
            sink.open_gate.clear()
            await stage.play(claim, *(message(n, blob_event("a", n)) for n in range(10)))
            assert sink.under_way == 1
            await stage.play(claim, *(message(n, blob_event(f"s{n}", 1)) for n in range(10, 20)))
            assert sink.under_way == 3
            sink.open_gate.set()
            await settle_down(500)
            assert len(sink.ids) == 20

    run(scene())


def test_a_rate_spreads_attempts():
    async def scene():
        async with Stage(window=0, lanes={"rate": 2}).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, *(message(n, blob_event(f"s{n}", 1)) for n in range(20)))
            await asyncio.sleep(5)
            assert 10 <= len(stage.sinks["out"].ids) <= 11

    run(scene())


def test_a_paused_sink_keeps_its_events_and_the_checkpoint_waits():
    async def scene():
        async with Stage(window=0, lanes={"paused": True}).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)))
            await asyncio.sleep(7200)
            assert stage.sinks["out"].attempts == []
            assert await stage.checkpoint() is None
            await stage.end(claim)

    run(scene())


def test_a_refused_worker_pauses_the_lane_after_three_subjects_keeps_the_events_and_probes():
    async def scene():
        refused = True
        sink = FakeSink(refuse=lambda _: Misconfigured("out: 401 Unauthorized") if refused else None)
        async with Stage({"out": sink}, window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, *(message(n, blob_event(f"s{n}", 1)) for n in range(30)))
            await asyncio.sleep(50)
            seen = len(sink.attempts)
            assert seen < 40
            assert stage.count("worker_lane_paused", sink="out") == 1
            await asyncio.sleep(300)
            assert seen + 3 <= len(sink.attempts) <= seen + 6
            refused = False
            await asyncio.sleep(180)
            assert len(sink.ids) == 30
            assert await stage.dead_letters() == []
            assert stage.count("worker_lane_paused", sink="out") == 0

    run(scene())
