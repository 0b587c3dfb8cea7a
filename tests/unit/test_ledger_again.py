"""ledger.py and an operator's wish to have effects a second time: once for each wish, whoever dies meanwhile."""

import asyncio
from dataclasses import replace

import orjson
import pytest

from tests.unit.desk import DEADLINE_SECONDS, Desk, played
from worker.errors import PartlyAccepted
from worker.ledger import Entry, EntryState, Later, Skipped, decode, encode


def wish(desk: Desk, name: str) -> None:
    desk.delivery = replace(desk.delivery, again=name)


def test_what_was_accepted_is_done_again_once_for_each_wish():
    async def scene(desk: Desk):
        assert await desk.process().attempt() is True
        for number, name in enumerate(["first", "second"], start=2):
            wish(desk, name)
            assert await desk.process().attempt() is True
            assert await desk.process().attempt() is False, "another process, the same wish"
            assert desk.destination.effects == number
        wish(desk, "")
        assert await desk.process().attempt() is False

    played(scene)


def test_somebody_who_may_be_at_it_is_waited_for():
    async def scene(desk: Desk):
        busy = asyncio.create_task(desk.process().attempt(seconds=50))
        await asyncio.sleep(1)
        wish(desk, "wish")
        with pytest.raises(Later):
            await desk.process().attempt()
        await busy
        assert await desk.process().attempt() is True
        assert desk.destination.effects == 2

    played(scene)


def test_an_unknown_outcome_of_before_is_no_reason_to_skip_but_one_of_the_wish_itself_is():
    async def scene(desk: Desk):
        async def dies() -> None:
            dying = asyncio.create_task(desk.process("skip").attempt(seconds=10))
            await asyncio.sleep(1)
            dying.cancel()
            await asyncio.gather(dying, return_exceptions=True)
            await asyncio.sleep(DEADLINE_SECONDS)

        await dies()
        wish(desk, "wish")
        await dies()
        assert (await desk.entry()).again == "wish"
        with pytest.raises(Skipped):
            await desk.process("skip").attempt()
        wish(desk, "another")
        assert await desk.process("skip").attempt() is True

    played(scene)


def test_recipients_of_before_get_it_again_and_those_of_the_wish_do_not():
    async def scene(desk: Desk):
        with pytest.raises(PartlyAccepted):
            await desk.process().attempt(PartlyAccepted("450", served=frozenset({"a"})))
        wish(desk, "wish")
        first = desk.process()
        with pytest.raises(PartlyAccepted):
            await first.attempt(PartlyAccepted("450", served=frozenset({"b"})))
        second = desk.process()
        await second.attempt()
        assert second.memo.served == {"b"}

    played(scene)


def test_an_entry_without_a_wish_is_written_as_before_there_were_any():
    entry = Entry(EntryState.ACCEPTED, "me", 1.0, 1)
    assert set(orjson.loads(encode(entry))) == {"state", "by", "deadline", "attempt"}
    wished = entry._replace(again="wish")
    assert decode(encode(wished)) == wished
