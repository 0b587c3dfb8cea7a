"""Digests and the store: what lies beside the state, lost and refused writes, and what a dead letter sets free."""

import asyncio
from collections import Counter

from tests.fakes import FakeSink
from tests.memory_store import Contents, MemoryStore
from tests.pipeline.digests import AT_ONCE, GROUPED, all_told, begin, run_of, told
from tests.pipeline.stage import Stage, blob_event, message
from tests.virtual_time import run
from worker.errors import SinkUnavailable, StoreUnavailable
from worker.sinks import Delivery
from worker.stores import DeadLetter


class FaultyStore(MemoryStore):
    """Refuses writes of the state, or makes them and loses the answers, when it is told to."""

    refuses = False
    loses = 0

    async def _reach(self, name: str) -> None:
        if name == "write_state" and self.refuses:
            raise StoreUnavailable("not written")

    async def _answered(self, name: str) -> None:
        if name == "write_state" and self.loses:
            self.loses -= 1
            raise StoreUnavailable("written, but the answer got lost")


def test_after_a_digest_was_given_up_the_next_of_its_subjects_waits_until_no_later_life_would_send_it_again():
    class Frozen(FaultyStore):
        """Takes no state any more once there is a dead letter: the process will die before its next write."""

        async def put_dead_letters(self, letters: list[DeadLetter]) -> None:
            self.refuses = True
            await super().put_dead_letters(letters)

    def no_digest(delivery: Delivery) -> Exception | None:
        return SinkUnavailable("503") if delivery.released.placed.event.type == "Worker.Digest" else None

    async def scene():
        contents = Contents()
        store, sink = Frozen(contents), FakeSink(refuse=no_digest)
        quiet = {"out": {"limit": {"messages": 1, "per_seconds": 1}, "group_interval_seconds": 5}}
        lanes = {"retry": {"max_attempts": 3}}
        async with Stage({"out": sink}, window=0, store=store, quiet=quiet, lanes=lanes).open() as first:
            claim = await begin(first, "first", message(0, blob_event("x", 1)), message(1, blob_event("a", 1)))
            while not store.refuses:
                await asyncio.sleep(0.1)
            await asyncio.sleep(1)
            await first.play(claim, message(2, blob_event("a", 2)))
            await asyncio.sleep(60)
            assert all_told(first) == ["x-1"]
            assert len(await first.dead_letters()) == 1
        async with Stage(window=0, store=MemoryStore(contents), quiet=quiet).open() as second:
            await begin(second, "second", message(2, blob_event("a", 2)))
            await asyncio.sleep(60)
            assert all_told(second) == ["a-1", "a-2"]

    run(scene())


def test_the_attempts_of_a_digest_count_over_all_lives():
    async def scene():
        store, attempts = MemoryStore(), 0
        for life in range(4):
            down = FakeSink(refuse=lambda _: SinkUnavailable("503"))
            async with Stage(
                {"out": down}, window=0, store=store, quiet=AT_ONCE, lanes={"retry": {"max_attempts": 3}}
            ).open() as stage:
                claim = await begin(stage, f"life {life}", *run_of(1))
                await asyncio.sleep(1.2)
                await stage.end(claim)
                attempts += len(down.attempts)
                letters = await stage.dead_letters()
        assert attempts == 3
        assert [letter.reason for letter in letters] == ["retries_exhausted"]

    run(scene())


def test_what_is_too_large_for_the_state_lies_beside_it_and_is_cleared_away():
    async def scene():
        store = MemoryStore()
        quiet = {"out": {"group_by": [], "group_wait_seconds": 3600}}
        async with Stage(window=0, quiet=quiet, store=store).open() as first:
            claim = await first.begin()
            for number in range(20):
                await first.play(claim, *run_of(100, first=100 * number))
                await asyncio.sleep(1.1)
            parts = [part for partition, part in store.contents.memory if partition == "0.digests"]
            assert parts
            assert max(len(each.payload) for each in store.contents.states.values()) < 50_000
            await first.end(claim)
        quiet["out"]["group_wait_seconds"] = 0
        async with Stage(window=0, quiet=quiet, store=store).open() as second:
            claim = await second.begin("second")
            await asyncio.sleep(4000)
            told_of = Counter(all_told(first) + all_told(second))
            assert told_of == Counter(f"s{number}-1" for number in range(2000))
            await second.play(claim, *run_of(1, first=2000))
            await asyncio.sleep(400)
            assert [part for partition, part in store.contents.memory if partition == "0.digests"] == []

    run(scene())


def test_a_part_that_a_lost_write_may_name_is_kept(monkeypatch):
    monkeypatch.setattr("worker.shelf._INLINE_BYTES", 0)
    monkeypatch.setattr("worker.shelf._MANY_PARTS", 1)

    async def scene():
        contents = Contents()
        store = FaultyStore(contents)
        async with Stage(window=0, quiet=GROUPED, store=store).open() as stage:
            claim = await begin(stage, "first", *run_of(2))
            await asyncio.sleep(2)
            store.loses = 1000
            await stage.play(claim, *run_of(2, first=2))
            await asyncio.sleep(2)
            store.refuses = True
            await stage.play(claim, *run_of(2, first=4))
            await asyncio.sleep(8)
        async with Stage(window=0, quiet=GROUPED, store=MemoryStore(contents)).open() as second:
            await begin(second, "second", *run_of(2, first=4))
            await asyncio.sleep(120)
            assert second.count("worker_digest_parts_lost_total", partition="0") == 0
            assert sorted(all_told(second)) == [f"s{number}-1" for number in range(6)]

    run(scene())


def test_a_part_that_is_missing_is_said():
    async def scene():
        store = MemoryStore()
        quiet = {"out": {"group_by": [], "group_wait_seconds": 3600}}
        async with Stage(window=0, quiet=quiet, store=store).open() as first:
            claim = await begin(first, "first", *run_of(100))
            await asyncio.sleep(3)
            await first.end(claim)
        for place in [place for place in store.contents.memory if place[0] == "0.digests"]:
            del store.contents.memory[place]
        async with Stage(window=0, quiet=quiet, store=store).open() as second:
            await second.begin("second")
            assert second.count("worker_digest_parts_lost_total", partition="0") == 1

    run(scene())


def test_a_store_that_is_away_holds_up_neither_joining_nor_the_members():
    async def scene():
        store = MemoryStore()
        async with Stage(window=0, quiet=GROUPED, store=store).open() as stage:
            claim = await begin(stage, "first", *run_of(2))
            await asyncio.sleep(2)
            store.down = True
            await stage.play(claim, *run_of(2, first=2))
            await asyncio.sleep(60)
            assert stage.sinks["out"].attempts == []  # a digest is in the state before it is sent
            store.down = False
            await asyncio.sleep(120)
            assert all_told(stage) == [f"s{number}-1" for number in range(4)]

    run(scene())


def test_an_outage_of_the_store_while_a_digest_is_closed_sends_it_later_and_once():
    async def scene():
        store = FaultyStore()
        async with Stage(window=0, quiet=GROUPED, store=store).open() as stage:
            await begin(stage, "first", *run_of(2))
            await asyncio.sleep(5)
            store.loses = 3
            await asyncio.sleep(60)
            assert [told(each) for each in stage.sinks["out"].accepted] == [["s0-1", "s1-1"]]

    run(scene())
