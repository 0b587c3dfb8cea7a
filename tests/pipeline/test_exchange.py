"""Rules exchanged while events are on their way: which rules count, what becomes of the lanes, what is never lost."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.fakes import FakeSink
from tests.pipeline.exchanges import exchange, exchanged, to
from tests.pipeline.stage import PARTITION, Stage, blob_event, message
from tests.virtual_time import run, settle_down
from worker.errors import Gone, Misconfigured, OutcomeUnknown, SinkUnavailable
from worker.sinks import Delivery

DRAIN = 20.0


def closed_gate(**given: Any) -> FakeSink:
    sink = FakeSink(**given)
    sink.open_gate.clear()
    return sink


def stage_of(**sinks: FakeSink) -> Stage:
    return Stage(sinks, window=0)


# --- which rules count


def test_an_event_goes_by_the_rules_that_hold_when_its_turn_comes():
    async def scene():
        one, other = FakeSink(), FakeSink()
        stage = Stage({"one": one}, window=5)
        async with stage.open():
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1), at=0), message(1, blob_event("a", 2), at=6))
            assert one.ids == ["a-1"]
            await exchanged(stage, {"one": {}, "other": {}}, {"other": other}, specs=[to("other")])
            await stage.play(claim, message(2, blob_event("a", 3), at=30))
            assert (one.ids, other.ids) == (["a-1"], ["a-2"])  # held before, and released after
            await stage.end(claim)

    run(scene())


def test_what_is_under_way_ends_where_it_was_routed():
    async def scene():
        one, other = closed_gate(), FakeSink()
        async with stage_of(one=one).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)), message(1, blob_event("a", 2)))
            await exchanged(stage, {"one": {}, "other": {}}, {"other": other}, specs=[to("other")])
            await stage.play(claim, message(2, blob_event("a", 3)))
            one.open_gate.set()
            await settle_down()
            assert (one.ids, other.ids) == (["a-1", "a-2"], ["a-3"])
            await stage.end(claim)
            assert await stage.checkpoint() == 2

    run(scene())


def test_a_sink_with_the_same_settings_goes_on_as_if_nothing_had_been():
    async def scene():
        sink = FakeSink([SinkUnavailable("503")] * 5)
        async with stage_of(out=sink).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, *(message(each, blob_event(f"s{each}", 1)) for each in range(5)))
            assert stage.count("worker_lane_down", sink="out") == 1
            await exchanged(stage, {"out": {}})
            assert stage.count("worker_lane_down", sink="out") == 1  # what is known of the destination is known still
            await asyncio.sleep(30)
            assert (len(sink.ids), sink.closed) == (5, 0)
            await stage.end(claim)

    run(scene())


# --- a sink with other settings


def test_what_starts_after_the_exchange_goes_through_the_new_sink_and_a_subject_stays_in_order():
    async def scene():
        before, after = closed_gate(), FakeSink()
        async with stage_of(out=before).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)), message(1, blob_event("a", 2)))
            await exchanged(stage, {"out": {"concurrency": 4}}, {"out": after})
            await stage.play(claim, message(2, blob_event("b", 1)), message(3, blob_event("a", 3)))
            assert after.ids == ["b-1"]  # the first of subject a is still with the old one
            assert before.closed == 0
            before.open_gate.set()
            await settle_down()
            assert (before.ids, after.ids) == (["a-1"], ["b-1", "a-2", "a-3"])
            assert (before.closed, after.closed) == (1, 0)
            await stage.end(claim)

    run(scene())


def test_what_failed_before_is_tried_again_through_the_new_sink():
    async def scene():
        before, after = FakeSink([SinkUnavailable("503")] * 100), FakeSink()
        async with stage_of(out=before).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)))
            await exchanged(stage, {"out": {"rate": 1000}}, {"out": after})
            await asyncio.sleep(5)
            assert (len(before.attempts), after.ids, before.closed) == (1, ["a-1"], 1)
            await stage.end(claim)

    run(scene())


@pytest.mark.parametrize("error", [SinkUnavailable("503"), Misconfigured("401"), Gone("410")])
def test_a_lane_that_was_stopped_is_free_for_the_new_sink_whatever_the_old_one_still_says(error: Exception):
    async def scene():
        before, after = closed_gate(refuse=lambda _: error), FakeSink()
        async with stage_of(out=before).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, *(message(each, blob_event(f"s{each}", 1)) for each in range(10)))
            before.open_gate.set()
            await settle_down()
            before.open_gate.clear()
            await stage.play(claim, *(message(each, blob_event(f"s{each}", 1)) for each in range(10, 15)))
            await exchanged(stage, {"out": {"concurrency": 2}}, {"out": after})
            before.open_gate.set()
            await settle_down()
            flows = [stage.count(f"worker_lane_{flow}", sink="out") for flow in ("down", "paused", "gone")]
            assert flows == [0, 0, 0]
            await stage.play(claim, message(15, blob_event("new", 1)))
            await asyncio.sleep(120)
            letters = await stage.dead_letters()
            assert "new-1" in after.ids
            assert len(after.ids) + len(letters) == 16
            assert {letter.reason for letter in letters} <= {"gone"}
            await stage.end(claim)

    run(scene())


@pytest.mark.parametrize("error", [SinkUnavailable("503"), Misconfigured("401"), Gone("410")])
def test_what_the_old_sink_says_after_the_exchange_is_not_held_against_the_new_one(error: Exception):
    async def scene():
        before, after = closed_gate(refuse=lambda _: error), FakeSink()
        async with stage_of(out=before).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, *(message(each, blob_event(f"s{each}", 1)) for each in range(10)))
            await exchanged(stage, {"out": {"concurrency": 12}}, {"out": after})
            before.open_gate.set()
            await settle_down()
            flows = [stage.count(f"worker_lane_{flow}", sink="out") for flow in ("down", "paused", "gone")]
            assert (flows, len(before.attempts)) == ([0, 0, 0], 10)
            await stage.play(claim, message(10, blob_event("new", 1)))
            assert "new-1" in after.ids  # and what the old one failed with, at once
            await asyncio.sleep(2)
            assert len(after.ids) + len(await stage.dead_letters()) == 11
            await stage.end(claim)

    run(scene())


def test_fewer_workers_at_once_and_more_again():
    async def scene():
        sinks = [closed_gate() for _ in range(3)]
        stage = Stage({"out": sinks[0]}, window=0, lanes={"concurrency": 8})
        async with stage.open():
            claim = await stage.begin()
            await stage.play(claim, *(message(each, blob_event(f"s{each}", 1)) for each in range(40)))
            assert sinks[0].under_way == 8
            await exchanged(stage, {"out": {"concurrency": 2}}, {"out": sinks[1]})
            sinks[0].open_gate.set()
            await settle_down()
            assert (len(sinks[0].ids), sinks[1].under_way) == (8, 2)
            await exchanged(stage, {"out": {"concurrency": 20}}, {"out": sinks[2]})
            await settle_down()
            assert sinks[2].under_way == 18  # and the two that are with the second
            for sink in sinks:
                sink.open_gate.set()
            await settle_down(200)
            assert [len(sink.ids) for sink in sinks] == [8, 2, 30]
            assert [sink.closed for sink in sinks] == [1, 1, 0]
            assert stage.count("worker_lane_queued_events", sink="out") == 0
            await stage.end(claim)

    run(scene())


def test_idle_workers_that_are_too_many_do_not_all_start_once_more():
    async def scene():
        sink = closed_gate()
        stage = Stage({"out": FakeSink()}, window=0, lanes={"concurrency": 16})
        async with stage.open():
            claim = await stage.begin()
            await exchanged(stage, {"out": {"concurrency": 1}}, {"out": sink})
            await stage.play(claim, *(message(each, blob_event(f"s{each}", 1)) for each in range(40)))
            assert sink.under_way == 1
            sink.open_gate.set()
            await settle_down(500)
            assert (len(sink.ids), sink.most_under_way) == (40, 1)
            await stage.end(claim)

    run(scene())


def test_another_rate_holds_at_once_also_for_who_waits_for_the_old_one():
    async def scene():
        before, after = FakeSink(), FakeSink()
        stage = Stage({"out": before}, window=0, lanes={"rate": 0.001})
        async with stage.open():
            claim = await stage.begin()
            await stage.play(claim, *(message(each, blob_event(f"s{each}", 1)) for each in range(6)))
            assert len(before.ids) == 1
            await exchanged(stage, {"out": {"rate": 1}}, {"out": after})
            for seconds in range(1, 6):
                await asyncio.sleep(1)
                assert seconds - 1 <= len(after.ids) <= seconds + 1
            await stage.end(claim)

    run(scene())


def test_a_sink_may_be_paused_and_go_on():
    async def scene():
        sinks = [FakeSink() for _ in range(3)]
        async with stage_of(out=sinks[0]).open() as stage:
            claim = await stage.begin()
            await exchanged(stage, {"out": {"paused": True}}, {"out": sinks[1]})
            await stage.play(claim, message(0, blob_event("a", 1)))
            await asyncio.sleep(100)
            assert (sinks[1].attempts, stage.count("worker_lane_paused", sink="out")) == ([], 1)
            await exchanged(stage, {"out": {}}, {"out": sinks[2]})
            assert (sinks[2].ids, stage.count("worker_lane_paused", sink="out")) == (["a-1"], 0)
            await stage.end(claim)

    run(scene())


def test_retries_and_overflow_follow():
    async def scene():
        before, after = FakeSink([SinkUnavailable("503")] * 100), FakeSink([SinkUnavailable("503")] * 100)
        async with stage_of(out=before).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)))
            await exchanged(stage, {"out": {"retry": {"max_attempts": 3}}}, {"out": after})
            await asyncio.sleep(60)
            [letter] = await stage.dead_letters()
            assert (letter.reason, letter.attempts) == ("retries_exhausted", 3)
            await stage.end(claim)

    run(scene())


# --- a sink that is removed


def test_a_removed_sink_gets_what_waits_and_nothing_new():
    async def scene():
        gone, stays = closed_gate(), FakeSink()
        async with stage_of(gone=gone, stays=stays).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)), message(1, blob_event("a", 2)))
            await exchanged(stage, {"stays": {}})
            await stage.play(claim, message(2, blob_event("a", 3)))
            gone.open_gate.set()
            await settle_down()
            assert (gone.ids, stays.ids) == (["a-1", "a-2"], ["a-1", "a-2", "a-3"])
            assert gone.closed == 0
            await asyncio.sleep(DRAIN + 1)
            assert gone.closed == 1
            assert await stage.dead_letters() == []
            for name in ("paused", "down", "gone", "oldest_seconds", "queued_events"):
                assert stage.metrics.registry.get_sample_value(f"worker_lane_{name}", {"sink": "gone"}) is None
            await stage.end(claim)
            assert await stage.checkpoint() == 2

    run(scene())


def test_after_its_drain_what_is_left_becomes_dead_letters_also_what_is_being_tried():
    async def scene():
        gone = closed_gate()
        async with stage_of(gone=gone, stays=FakeSink()).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)), message(1, blob_event("a", 2)))
            with capture_logs() as lines:
                await exchanged(stage, {"stays": {}})
                await asyncio.sleep(DRAIN - 0.1)
                assert (await stage.dead_letters(), gone.under_way) == ([], 1)
                await asyncio.sleep(0.2)
            letters = {each.event_id: each for each in await stage.dead_letters()}
            assert {name: (each.reason, each.attempts) for name, each in letters.items()} == {
                "a-1": ("sink_removed", 1),
                "a-2": ("sink_removed", 0),
            }
            assert "taken out of the configuration 20 s ago" in letters["a-2"].detail
            assert (gone.under_way, gone.closed, gone.ids) == (0, 1, [])
            assert [line["event"] for line in lines if "lane ended" in line["event"]]
            await stage.end(claim)
            assert await stage.checkpoint() == 1

    run(scene())


@pytest.mark.parametrize("error", [SinkUnavailable("503"), Misconfigured("401"), OutcomeUnknown("lost")])
def test_a_removed_sink_that_is_down_or_refuses_does_not_wait_for_longer(error: Exception):
    async def scene():
        gone = FakeSink(refuse=lambda _: error)
        async with stage_of(gone=gone, stays=FakeSink()).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, *(message(each, blob_event(f"s{each}", 1)) for each in range(30)))
            await exchanged(stage, {"stays": {}})
            await asyncio.sleep(DRAIN + 0.1)
            await settle_down(100)
            letters = await stage.dead_letters()
            assert (len(letters), {each.reason for each in letters}) == (30, {"sink_removed"})
            assert gone.closed == 1
            await stage.end(claim)

    run(scene())


def test_a_removed_sink_that_is_paused_gives_up_what_it_holds():
    async def scene():
        gone = FakeSink()
        stage = Stage({"gone": gone, "stays": FakeSink()}, window=0, lane={"gone": {"paused": True}})
        async with stage.open():
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)))
            await exchanged(stage, {"stays": {}})
            await asyncio.sleep(DRAIN + 1)
            assert [each.reason for each in await stage.dead_letters()] == ["sink_removed"]
            await stage.end(claim)
            assert await stage.checkpoint() == 0

    run(scene())


def test_what_a_ledger_does_not_know_the_end_of_is_said_to_be_unknown():
    async def scene():
        gone = closed_gate()
        stage = Stage({"gone": gone, "stays": FakeSink()}, window=0, ledger=True)
        async with stage.open():
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)), message(1, blob_event("a", 2)))
            await exchanged(stage, {"stays": {}})
            await asyncio.sleep(DRAIN + 1)
            reasons = {each.event_id: each.reason for each in await stage.dead_letters()}
            assert reasons == {"a-1": "unknown_outcome", "a-2": "sink_removed"}
            await stage.end(claim)

    run(scene())


def test_a_partition_that_is_left_while_a_removed_sink_drains_leaves_its_deliveries_to_the_next_owner():
    async def scene():
        gone = closed_gate()
        async with stage_of(gone=gone).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)), message(1, blob_event("a", 2)))
            await exchanged(stage, {"stays": {}}, {"stays": FakeSink()})
            await asyncio.sleep(DRAIN - 5)
            claim.close()
            await asyncio.sleep(10)  # beyond the sink's drain, and within the partition's
            assert claim.done.is_set()
            assert await stage.dead_letters() == []
            assert await stage.checkpoint() != 1
            assert gone.closed == 1

    run(scene())


def test_a_partition_that_is_left_takes_what_waits_out_of_a_lane_that_drains():
    async def scene():
        gone = FakeSink([SinkUnavailable("503")] * 1000)
        stage = Stage({"gone": gone, "stays": FakeSink()}, window=0)
        async with stage.open():
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)), message(1, blob_event("a", 2)))
            await exchanged(stage, {"stays": {}})
            assert stage.count("worker_lane_queued_events", sink="gone") == 2
            await stage.end(claim)
            assert stage.count("worker_lane_queued_events", sink="gone") == 0

    run(scene())


def test_while_the_partition_is_not_surely_ours_nothing_is_given_up_for_it():
    async def scene():
        gone = FakeSink([SinkUnavailable("503")] * 1000)
        async with stage_of(gone=gone, stays=FakeSink()).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)))
            await exchanged(stage, {"stays": {}})
            stage.lease = False
            await asyncio.sleep(DRAIN + 5)
            assert (await stage.dead_letters(), gone.closed) == ([], 0)
            stage.lease = True
            await asyncio.sleep(1)
            assert [each.reason for each in await stage.dead_letters()] == ["sink_removed"]
            assert gone.closed == 1
            await stage.end(claim)

    run(scene())


# --- a sink that comes back


@pytest.mark.parametrize("away_seconds", [0.0, 5.0, DRAIN - 0.01])
def test_a_sink_that_comes_back_while_it_drains_has_its_lane_again_and_its_order(away_seconds: float):
    async def scene():
        before, after, stays = closed_gate(), FakeSink(), FakeSink()
        async with stage_of(out=before, stays=stays).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)), message(1, blob_event("a", 2)))
            await exchanged(stage, {"stays": {}})
            await stage.play(claim, message(2, blob_event("a", 3)))
            await asyncio.sleep(away_seconds)
            await exchanged(stage, {"stays": {}, "out": {}}, {"out": after})
            await stage.play(claim, message(3, blob_event("a", 4)))
            assert after.ids == []  # a-1 is under way
            await asyncio.sleep(2 * DRAIN)
            assert await stage.dead_letters() == []  # no drain goes on
            before.open_gate.set()
            await settle_down()
            assert (before.ids, after.ids) == (["a-1"], ["a-2", "a-4"])
            assert (before.closed, after.closed) == (1, 0)
            await stage.end(claim)
            assert await stage.checkpoint() == 3

    run(scene())


def test_a_sink_that_comes_back_in_the_moment_in_which_the_rest_is_given_up_works_and_nothing_is_lost():
    async def scene():
        before, after = closed_gate(), FakeSink()
        async with stage_of(out=before, stays=FakeSink()).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, *(message(each, blob_event(f"s{each % 7}", each)) for each in range(50)))
            await exchanged(stage, {"stays": {}})
            while not (before.under_way == 0 or await stage.dead_letters()):
                await asyncio.sleep(0.01)
            exchange(stage, {"stays": {}, "out": {}}, {"out": after})
            await stage.play(claim, message(50, blob_event("new", 1)))
            await settle_down(300)
            letters = await stage.dead_letters()
            assert len(letters) + len(after.ids) + len(before.ids) == 51
            assert "new-1" in after.ids
            await stage.end(claim)
            assert await stage.checkpoint() == 50

    run(scene())


def test_a_sink_that_comes_back_when_it_is_gone_is_a_new_one_and_may_go_again():
    async def scene():
        sinks = [FakeSink() for _ in range(3)]
        async with stage_of(out=sinks[0], stays=FakeSink()).open() as stage:
            claim = await stage.begin()
            for number in (1, 2):
                await exchanged(stage, {"stays": {}})
                await asyncio.sleep(DRAIN + 1)
                assert sinks[number - 1].closed == 1
                await exchanged(stage, {"stays": {}, "out": {}}, {"out": sinks[number]})
                await stage.play(claim, message(number, blob_event("a", number)))
                assert sinks[number].ids == [f"a-{number}"]
            await exchanged(stage, {"stays": {}})
            await exchanged(stage, {"stays": {}, "out": {}}, {"out": FakeSink()})
            await exchanged(stage, {"stays": {}})
            await asyncio.sleep(DRAIN - 1)
            assert stage.rules.lane_of("out") is not None  # each drain has its full time
            await asyncio.sleep(2)
            assert stage.rules.lane_of("out") is None
            await stage.end(claim)

    run(scene())


def test_a_sink_under_another_name_is_another_sink():
    async def scene():
        old, new = closed_gate(), FakeSink()
        async with stage_of(old=old).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)))
            await exchanged(stage, {"new": {}}, {"new": new})
            await stage.play(claim, message(1, blob_event("a", 2)))
            old.open_gate.set()
            await asyncio.sleep(DRAIN + 1)
            assert (old.ids, new.ids, old.closed) == (["a-1"], ["a-2"], 1)
            await stage.end(claim)

    run(scene())


# --- partitions


def test_a_partition_that_stopped_because_too_much_could_not_be_decoded_reads_on_under_other_rules():
    async def scene():
        stage = stage_of(out=FakeSink())
        async with stage.open():
            claim = await stage.begin()
            await stage.play(claim, *(message(each, body=b"rubbish") for each in range(200)))
            await settle_down()
            assert (await stage.state()).stopped is not None
            await claim.look((await stage.store.state_versions())[PARTITION])
            assert not claim.closed
            await exchanged(stage, {"out": {}}, digest="digest")  # the same rules, read again
            await claim.look((await stage.store.state_versions())[PARTITION])
            assert not claim.closed
            await exchanged(stage, {"out": {}}, digest="other")
            await claim.look((await stage.store.state_versions())[PARTITION])
            await claim.done.wait()
            again = await stage.begin("second")
            assert (await stage.state()).stopped is None
            await stage.play(again, message(200, blob_event("a", 1)), last=200)
            await stage.end(again)

    run(scene())


def test_a_partition_that_is_being_taken_or_left_during_an_exchange_follows_all_the_same():
    async def scene():
        sinks = [FakeSink() for _ in range(2)]
        stage = stage_of(out=sinks[0])
        async with stage.open():
            claim = await stage.begin(taken=False)
            exchange(stage, {"new": {}}, {"new": sinks[1]})
            while claim.tenure is None:
                await asyncio.sleep(0.01)
            await stage.play(claim, message(0, blob_event("a", 1)))
            assert (sinks[0].ids, sinks[1].ids) == ([], ["a-1"])
            claim.close()
            exchange(stage, {"out": {}}, {"out": FakeSink()})
            await claim.done.wait()
            assert await stage.checkpoint() == 0
            exchange(stage, {"new": {}}, {"new": FakeSink()})  # nobody follows any more

    run(scene())


# --- whatever comes


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("event"), st.integers(0, 3)),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.3, 5.0, DRAIN + 1])),
        st.tuples(st.just("rules"), st.sets(st.sampled_from("xyz"))),
        st.tuples(st.just("change"), st.sampled_from("xyz")),
    ),
    max_size=40,
)


@given(steps=STEPS)
@hypothesis_settings(max_examples=60, deadline=None)
def test_nothing_is_lost_doubled_or_overtaken_whatever_rules_come_when(steps: list[tuple[str, Any]]):
    """Every event is delivered, or is a dead letter, at exactly the sinks of the rules under which its turn came."""
    run(_Course().play(steps))


class _Course:
    """One run of events and exchanges, and what is to come of it."""

    def __init__(self) -> None:
        self.came: dict[str, list[str]] = {name: [] for name in "xyz"}
        self.expected: dict[str, list[str]] = {name: [] for name in "xyz"}
        self.made: list[FakeSink] = []
        self.rules = {"x"}
        self.versions = dict.fromkeys("xyz", 0)
        self.sent = 0
        self.stage = Stage({"x": self._sink("x")}, window=0)

    def _sink(self, name: str) -> FakeSink:
        self.made.append(_SlowSink(self.came[name]))
        return self.made[-1]

    async def play(self, steps: list[tuple[str, Any]]) -> None:
        async with self.stage.open():
            self.claim = await self.stage.begin()
            for what, value in steps:
                await getattr(self, f"_{what}")(value)
            await asyncio.sleep(1000)
            await self._judge()
            await self.stage.end(self.claim)
            assert await self.stage.checkpoint() == (self.sent - 1 if self.sent else None)

    async def _event(self, subject: int) -> None:
        event = blob_event(f"s{subject}", self.sent + 1)
        for name in self.rules:
            self.expected[name].append(event["id"])
        self.sent += 1
        await self.stage.play(self.claim, message(self.sent - 1, event))

    async def _wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _rules(self, names: set[str]) -> None:
        self._exchange(names - self.rules, names)

    async def _change(self, name: str) -> None:
        if name in self.rules:
            self.versions[name] += 1
            self._exchange({name}, self.rules)

    def _exchange(self, fresh: set[str], names: set[str]) -> None:
        self.rules = set(names)
        sections = {name: {"concurrency": 1 + self.versions[name] % 3} for name in sorted(names)}
        exchange(self.stage, sections, {name: self._sink(name) for name in sorted(fresh)})

    async def _judge(self) -> None:
        letters = [(each.sink, each.event_id) for each in await self.stage.dead_letters()]
        for name, expected in self.expected.items():
            came = self.came[name]
            assert sorted(came + [event for sink, event in letters if sink == name]) == sorted(expected)
            for subject in range(4):
                prefix = f"s{subject}-"
                order = [each for each in came if each.startswith(prefix)]
                assert order == [each for each in expected if each in order]
        in_use = {self.stage.rules.lanes[name].way.sink for name in self.rules}
        assert [each for each in self.made if not each.closed and each not in in_use] == []


class _SlowSink(FakeSink):
    """Takes a while for each, and notes it in a place that outlives it."""

    def __init__(self, came: list[str]) -> None:
        super().__init__()
        self._came = came

    async def deliver(self, delivery: Delivery) -> None:
        self.under_way += 1
        try:
            await asyncio.sleep(3.0)
            self._came.append(delivery.released.placed.event.id)
        finally:
            self.under_way -= 1
