"""Digests of one partition: joining settles, nothing is lost or doubled by a crash, and a sink is told in order."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from tests.fakes import FakeSink
from tests.memory_store import Contents, MemoryStore
from tests.pipeline.digests import AT_ONCE, GROUPED, all_told, begin, run_of, told
from tests.pipeline.stage import START, Stage, blob_event, message
from tests.virtual_time import run, settle_down
from worker.errors import Misconfigured, Rejected, SinkUnavailable
from worker.sinks import Delivery
from worker.stores import ReplayRequest
from worker.stores.layout import letter_name


def test_joining_settles_and_the_digest_comes_when_its_group_is_due():
    async def scene():
        async with Stage(window=0, quiet=GROUPED).open() as stage:
            claim = await begin(stage, "first", *run_of(3))
            await asyncio.sleep(6)
            assert await stage.checkpoint() == 2
            assert stage.count("worker_settled_events_total", partition="0", outcome="grouped") == 3
            assert stage.sinks["out"].attempts == []
            await asyncio.sleep(6)
            [delivery] = stage.sinks["out"].accepted
            assert told(delivery) == ["s0-1", "s1-1", "s2-1"]
            assert (delivery.route, delivery.sink) == ("to-out", "out")
            await stage.end(claim)
            assert (await stage.state()).digests["sinks"]["out"]["unsent"] == []

    run(scene())


def test_the_digest_is_an_event_of_its_own_that_every_sink_can_tell_of():
    async def scene():
        async with Stage(window=0, quiet=GROUPED).open() as stage:
            await begin(stage, "first", *run_of(2))
            await asyncio.sleep(12)
            event = stage.sinks["out"].accepted[0].released.placed.event
            assert (event.type, event.subject, event.source) == (
                "Worker.Digest",
                "digests/out",
                "/worker/events/$Default/0",
            )
            assert (event.data["count"], event.data["because"], event.data["group"]) == (2, "group", {})

    run(scene())


@pytest.mark.parametrize("stop_after", [0.1, 5, 11.5])
def test_a_planned_hand_over_neither_loses_nor_doubles(stop_after: float):
    async def scene():
        store = MemoryStore()
        async with Stage(window=0, quiet=GROUPED, store=store).open() as first:
            claim = await begin(first, "first", *run_of(3))
            await asyncio.sleep(stop_after)
            await first.end(claim)
        async with Stage(window=0, quiet=GROUPED, store=store).open() as second:
            await begin(second, "second", *run_of(2, first=3))
            await asyncio.sleep(100)
            assert all_told(first) + all_told(second) == [f"s{number}-1" for number in range(5)]

    run(scene())


class Dying(MemoryStore):
    """Counts the moments before and after each effect; at one of them its process dies: nothing comes back."""

    def __init__(self, contents: Contents, dies_at: int | None) -> None:
        super().__init__(contents, clock=lambda: START + asyncio.get_running_loop().time())
        self.steps = 0
        self.dead = asyncio.Event()
        self._dies_at = dies_at

    async def _reach(self, name: str) -> None:
        await self._step()

    async def _answered(self, name: str) -> None:
        await self._step()

    async def _step(self) -> None:
        if self.steps == self._dies_at:
            self.dead.set()
        if self.dead.is_set():
            await asyncio.Event().wait()
        self.steps += 1
        await asyncio.sleep(0.01)


class MortalSink(FakeSink):
    """Takes a moment, and takes effect only while its process lives."""

    def __init__(self, store: Dying) -> None:
        super().__init__()
        self._store = store

    async def deliver(self, delivery: Delivery) -> None:
        await self._store._step()
        await super().deliver(delivery)
        await self._store._step()


async def life(contents: Contents, name: str, dies_at: int | None, **given: Any) -> tuple[Stage, int]:
    """A process that reads what is there from its checkpoint on, until it dies or all is told."""
    store = Dying(contents, dies_at)
    stage = Stage({"out": MortalSink(store)}, window=0, store=store, **given)
    async with stage.open():
        claim = await stage.begin(name, taken=False)
        waiting = asyncio.create_task(store.dead.wait())
        while claim.tenure is None and not store.dead.is_set():
            await asyncio.sleep(0.05)
        if not store.dead.is_set():
            await stage.play(claim, *run_of(4))
            await asyncio.wait({waiting}, timeout=40)
        if not store.dead.is_set():
            await stage.end(claim)
        waiting.cancel()
    return stage, store.steps


def test_dying_at_any_await_loses_none_and_with_a_ledger_tells_of_none_twice_whose_outcome_was_recorded():
    async def lives(dies_at: int | None) -> int:
        contents = Contents()
        section = {"out": {"group_by": [], "group_wait_seconds": 1}}
        first, steps = await life(contents, "first", dies_at, quiet=section, ledger=True)
        before = {key for key, entry in contents.entries.items() if b'"accepted"' in entry.payload}
        await asyncio.sleep(200)  # the first one's intent has ended
        second, _ = await life(contents, "second", None, quiet=section, ledger=True)
        digests = first.sinks["out"].accepted + second.sinks["out"].accepted
        assert {each for digest in digests for each in told(digest)} == {f"s{number}-1" for number in range(4)}
        for digest in second.sinks["out"].accepted:
            assert digest.idempotency_key not in before
        # Whatever was told twice is the same digest under the same key, by `on_unknown: resend`.
        members = {digest.idempotency_key: told(digest) for digest in digests}
        times = Counter(each for ids in members.values() for each in ids)
        assert set(times.values()) == {1}
        return steps

    async def scene():
        steps = await lives(None)
        assert steps > 20
        for dies_at in range(steps):
            await lives(dies_at)

    run(scene())


def test_a_former_owner_cannot_add_to_a_digest():
    async def scene():
        store = MemoryStore()
        async with (
            Stage(window=0, quiet=GROUPED, store=store).open() as first,
            Stage(window=0, quiet=GROUPED, store=store).open() as second,
        ):
            old = await begin(first, "first", *run_of(2))
            await asyncio.sleep(2)
            store.down = True
            await first.play(old, *run_of(1, first=2))  # joins in memory only
            await settle_down()
            store.down = False
            contents = store.contents.states["0"]
            new = await second.begin("second", taken=False)
            while new.tenure is None:
                await asyncio.sleep(0.1)
            assert store.contents.states["0"] != contents
            await second.play(new, *run_of(1, first=2))
            await asyncio.sleep(100)
            counted = Counter(all_told(first) + all_told(second))
            assert counted == dict.fromkeys(("s0-1", "s1-1", "s2-1"), 1)

    run(scene())


def test_a_digest_that_is_given_up_is_a_dead_letter_that_names_its_events_and_can_be_replayed():
    async def scene():
        refusing = FakeSink([Rejected("422")])
        async with Stage({"out": refusing}, window=0, quiet=GROUPED).open() as stage:
            claim = await begin(stage, "first", *run_of(3))
            await asyncio.sleep(15)
            [letter] = await stage.dead_letters()
            assert (letter.reason, letter.type, letter.sink, letter.index) == ("rejected", "Worker.Digest", "out", None)
            assert [row["id"] for row in orjson.loads(letter.body)["data"]["events"]] == ["s0-1", "s1-1", "s2-1"]
            assert letter.idempotency_key == refusing.attempts[0].idempotency_key
            claim.replays.look([ReplayRequest(letter.partition, letter_name(letter))])
            await asyncio.sleep(2)
            [again] = refusing.accepted
            assert again.replayed
            assert told(again) == ["s0-1", "s1-1", "s2-1"]
            assert again.idempotency_key == letter.idempotency_key
            assert await stage.dead_letters() == []

    run(scene())


def test_a_digest_for_a_sink_that_is_gone_becomes_a_dead_letter():
    async def scene():
        store = MemoryStore()
        sinks = {"out": FakeSink(), "gone": FakeSink()}
        quiet = GROUPED | {"gone": GROUPED["out"]}
        async with Stage(sinks, window=0, quiet=quiet, store=store).open() as first:
            claim = await begin(first, "first", *run_of(2))
            await asyncio.sleep(2)
            await first.end(claim)
        async with Stage(window=0, quiet=GROUPED, store=store).open() as second:
            await second.begin("second")
            await asyncio.sleep(5)
            [letter] = await second.dead_letters()
            assert (letter.reason, letter.sink) == ("no_sink", "gone")

    run(scene())


def test_the_events_of_other_sinks_do_not_wait_for_a_group():
    async def scene():
        sinks = {"out": FakeSink(), "plain": FakeSink()}
        async with Stage(sinks, window=0, quiet=GROUPED).open() as stage:
            await begin(stage, "first", *run_of(2))
            assert sinks["plain"].ids == ["s0-1", "s1-1"]
            assert sinks["out"].attempts == []

    run(scene())


def test_while_a_destination_is_down_its_events_still_join_and_reading_goes_on():
    async def scene():
        down = FakeSink(refuse=lambda _: SinkUnavailable("503"))
        limits = {"in_flight": 10}
        quiet = {"out": {"group_by": [], "group_wait_seconds": 0, "group_interval_seconds": 1}}
        async with Stage({"out": down}, window=0, quiet=quiet, limits=limits).open() as stage:
            claim = await stage.begin()
            for number in range(40):
                await stage.play(claim, *run_of(5, first=5 * number))
                await asyncio.sleep(1)
            await asyncio.sleep(6)
            assert await stage.checkpoint() == 199
            down._refuse = None
            await asyncio.sleep(120)
            assert Counter(all_told(stage)) == Counter(f"s{number}-1" for number in range(200))
            assert len(down.accepted) <= 3

    run(scene())


@pytest.mark.parametrize(
    ("error", "gauge"), [(Misconfigured("535"), "worker_lane_paused"), (SinkUnavailable("503"), "worker_lane_down")]
)
def test_a_destination_that_refuses_or_is_down_stops_a_lane_that_sends_one_digest_after_the_other(error, gauge: str):
    async def scene():
        problems: list[Exception | None] = [error]
        stuck = FakeSink(refuse=lambda _: problems[-1])
        lanes = {"retry": {"max_attempts": 6}} if isinstance(error, Misconfigured) else None
        async with Stage({"out": stuck}, window=0, quiet=AT_ONCE, lanes=lanes).open() as stage:
            await begin(stage, "first", *run_of(3))
            await asyncio.sleep(600)
            assert stage.count(gauge, sink="out") == 1
            problems.append(None)
            await asyncio.sleep(120)
            assert await stage.dead_letters() == []
            assert sorted(all_told(stage)) == ["s0-1", "s1-1", "s2-1"]
            assert stage.count(gauge, sink="out") == 0

    run(scene())


def test_a_muted_event_is_dropped_and_counted_or_kept_as_a_dead_letter():
    async def scene():
        quiet = {"drop": {"mute": [{"then": "drop"}]}, "keep": {"mute": [{"then": "dead_letter"}]}}
        sinks = {"drop": FakeSink(), "keep": FakeSink()}
        async with Stage(sinks, window=0, quiet=quiet).open() as stage:
            await begin(stage, "first", *run_of(1))
            await asyncio.sleep(6)
            assert [(letter.reason, letter.sink) for letter in await stage.dead_letters()] == [("muted", "keep")]
            assert sinks["drop"].attempts == sinks["keep"].attempts == []
            assert stage.count("worker_muted_events_total", sink="drop") == 1
            assert await stage.checkpoint() == 0

    run(scene())


def test_a_full_mute_window_holds_up_neither_reading_nor_the_other_sinks(monkeypatch):
    monkeypatch.setattr("worker.groups.HELD_EVENTS", 5)
    minute = datetime.fromtimestamp(START + 3600, UTC)
    window = {"from": f"{minute - timedelta(hours=2):%H:%M}", "to": f"{minute:%H:%M}"}

    async def scene():
        sinks = {"out": FakeSink(), "plain": FakeSink()}
        quiet = {"out": {"group_by": [], "mute": [window]}}
        async with Stage(sinks, window=0, quiet=quiet, limits={"in_flight": 3}).open() as stage:
            claim = await stage.begin()
            for each in run_of(20):
                await stage.play(claim, each)
                await asyncio.sleep(2)
            assert len(sinks["plain"].ids) == 20
            await asyncio.sleep(60)
            assert await stage.checkpoint() == 19
            await asyncio.sleep(2 * 3600)
            assert all_told(stage) == [f"s{number}-1" for number in range(5)]
            letters = await stage.dead_letters()
            assert {letter.reason for letter in letters} == {"muted"}
            assert len(letters) == 15

    run(scene())


def test_the_subject_that_is_being_retried_alone_does_not_let_a_later_event_join_before_it():
    async def scene():
        sink = FakeSink([SinkUnavailable("503")] * 3)
        quiet = {"out": {"limit": {"messages": 1, "per_seconds": 3600}, "group_interval_seconds": 1}}
        async with Stage({"out": sink}, window=0, quiet=quiet).open() as stage:
            messages = [message(number, blob_event("same", number + 1)) for number in range(3)]
            await begin(stage, "first", *messages)
            await asyncio.sleep(30)
            assert all_told(stage) == ["same-1"]
            await asyncio.sleep(3600)
            assert all_told(stage) == ["same-1", "same-2", "same-3"]

    run(scene())
