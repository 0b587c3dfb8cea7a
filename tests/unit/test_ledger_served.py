"""ledger.py and deliveries that some of several recipients have: who has it is never forgotten."""

import asyncio

import orjson
import pytest

from tests.memory_store import MemoryStore
from tests.unit.desk import DEADLINE_SECONDS, Desk, played
from worker.errors import OutcomeUnknown, PartlyAccepted, Rejected, SinkUnavailable, StoreUnavailable
from worker.ledger import Entry, EntryState, Skipped, decode, encode


def partly(*served: str) -> PartlyAccepted:
    return PartlyAccepted("450 for the rest", served=frozenset(served))


def test_who_has_it_is_in_the_store_and_known_to_anyone_before_the_next_attempt():
    async def scene(desk: Desk):
        with pytest.raises(PartlyAccepted):
            await desk.process("skip").attempt(partly("a", "b"))
        entry = await desk.entry()
        assert (entry.state, entry.served) == (EntryState.FAILED, ("a", "b"))
        other = desk.process("skip")
        assert await other.attempt() is True
        assert other.memo.served == {"a", "b"}

    played(scene)


@pytest.mark.parametrize("error", [SinkUnavailable("421"), Rejected("554"), partly("c")])
def test_what_happens_later_forgets_nobody(error):
    async def scene(desk: Desk):
        first, second, third = (desk.process() for _ in range(3))
        with pytest.raises(PartlyAccepted):
            await first.attempt(partly("a"))
        with pytest.raises(type(error)):
            await second.attempt(error)
        assert await third.attempt() is True
        assert third.memo.served == {"a"} | getattr(error, "served", set())

    played(scene)


@pytest.mark.parametrize("crash", [True, False])
def test_an_intent_whose_outcome_is_unknown_keeps_those_of_before(crash: bool):
    async def scene(desk: Desk):
        with pytest.raises(PartlyAccepted):
            await desk.process().attempt(partly("a"))
        unsure = asyncio.create_task(desk.process().attempt(OutcomeUnknown("lost"), seconds=10))
        await asyncio.sleep(1)
        if crash:
            unsure.cancel()
        await asyncio.gather(unsure, return_exceptions=True)
        await asyncio.sleep(DEADLINE_SECONDS)
        assert ((await desk.entry()).state, (await desk.entry()).served) == (EntryState.INTENT, ("a",))
        next_one = desk.process("resend")
        assert await next_one.attempt() is True
        assert next_one.memo.served == {"a"}

    played(scene)


def test_what_is_skipped_keeps_them_for_a_replay():
    async def scene(desk: Desk):
        with pytest.raises(PartlyAccepted):
            await desk.process("skip").attempt(partly("a"))
        with pytest.raises(Skipped):
            await desk.process("skip").attempt(OutcomeUnknown("lost"))
        replay = desk.process("skip")
        assert await replay.attempt(replayed=True) is True
        assert replay.memo.served == {"a"}

    played(scene)


def test_a_store_that_is_away_is_waited_for_since_nobody_else_knows():
    async def scene(desk: Desk):
        attempt = asyncio.create_task(desk.process().attempt(partly("a"), seconds=1))
        await asyncio.sleep(0.5)
        desk.store.down = True
        await asyncio.sleep(600)
        assert not attempt.done()
        desk.store.down = False
        with pytest.raises(PartlyAccepted):
            await attempt
        assert (await desk.entry()).served == ("a",)

    played(scene)


def test_an_answer_of_the_store_that_got_lost_changes_nothing():
    class LosesOneAnswer(MemoryStore):
        left = 0

        async def _answered(self, name: str) -> None:
            if name == "write_entry":
                self.left -= 1
                if self.left == 0:
                    raise StoreUnavailable("lost")

    async def scene(desk: Desk):
        desk.store = LosesOneAnswer(clock=desk.clock)
        desk.store.left = 2  # the intent's is the first
        with pytest.raises(PartlyAccepted):
            await desk.process().attempt(partly("a"))
        assert ((await desk.entry()).state, (await desk.entry()).served) == (EntryState.FAILED, ("a",))
        assert await desk.process().attempt() is True

    played(scene)


def test_somebody_who_took_us_for_dead_is_told_and_not_disturbed():
    async def scene(desk: Desk):
        thawed = asyncio.create_task(desk.process().attempt(partly("a"), seconds=60))
        await asyncio.sleep(1)
        key = desk.delivery.idempotency_key
        stored = await desk.store.read_entry(key)
        other = Entry(EntryState.INTENT, "process-x/1", desk.clock() + 1000, 1, ("b",))
        await desk.store.write_entry(key, encode(other), expected=stored.version)
        with pytest.raises(PartlyAccepted):
            await thawed
        assert await desk.entry() == other._replace(served=("a", "b"))

    played(scene)


def test_an_entry_of_before_there_was_such_a_thing_is_read_and_one_without_them_is_written_like_it():
    old = b'{"state":"failed","by":"p/1","deadline":1.0,"attempt":2}'
    entry = decode(old)
    assert entry == Entry(EntryState.FAILED, "p/1", 1.0, 2, ())
    assert orjson.loads(encode(entry)) == orjson.loads(old)
