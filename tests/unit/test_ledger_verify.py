"""ledger.py and `verify`: when the destination is asked what it has done, and what its answers decide."""

import asyncio
from collections.abc import Callable

import pytest

from tests.memory_store import MemoryStore
from tests.unit.desk import DEADLINE_SECONDS, Desk, Destination, LedgerSettings, Process, SettlingSettings, played
from worker.errors import InProgress, Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable, StoreUnavailable
from worker.ledger import EntryState, Later, Skipped
from worker.sinks import Delivery

SETTLES_SECONDS = SettlingSettings.model_fields["settles_seconds"].default


async def _die_while_acting(desk: Desk, *, effect: bool) -> None:
    dying = asyncio.create_task(desk.process().attempt(seconds=10))
    await asyncio.sleep(1)
    dying.cancel()
    await asyncio.wait({dying})
    if effect:
        desk.act()


async def _attempt_until_it_ends(process: Process) -> list[float]:
    """Comes again when it is told to; returns how long it was told to wait."""
    waits: list[float] = []
    while True:
        try:
            await process.attempt()
        except Later as later:
            waits.append(later.retry_after_seconds)
            await asyncio.sleep(later.retry_after_seconds)
        else:
            return waits


class _LosesAnswers(MemoryStore):
    """Writes an entry, and then the answer does not come."""

    lost = 0

    async def _answered(self, name: str) -> None:
        if name == "write_entry" and self.lost:
            self.lost -= 1
            raise StoreUnavailable("no answer")


# --- a destination that does not know at once what it has done


class _KnowsLater(Destination):
    """Says that it has nothing for half a minute after it has done something."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock

    async def verify(self, delivery: Delivery) -> bool | None:
        self.asked += 1
        return any(acted_at + SETTLES_SECONDS <= self._clock() for acted_at in self.acted_at)


@pytest.mark.parametrize(("kind", "effects"), [(SettlingSettings, 1), (LedgerSettings, 2)])
def test_a_destination_that_knows_late_is_not_asked_before_else_it_would_act_twice(kind, effects):
    async def scene(desk: Desk):
        desk.destination = _KnowsLater(desk.clock)
        process = desk.process("verify", kind)
        with pytest.raises(OutcomeUnknown):
            await process.attempt(OutcomeUnknown("lost"), effect=True)
        await asyncio.sleep(1)
        assert await _attempt_until_it_ends(process) == ([SETTLES_SECONDS - 1] if effects == 1 else [])
        assert (desk.destination.effects, desk.destination.asked) == (effects, 1)
        assert (await desk.entry()).state is EntryState.ACCEPTED

    played(scene)


def test_what_somebody_else_may_have_done_settles_from_the_deadline_of_the_intent():
    async def scene(desk: Desk):
        desk.destination = _KnowsLater(desk.clock)
        began = desk.clock()
        await _die_while_acting(desk, effect=True)
        waits = await _attempt_until_it_ends(desk.process("verify", SettlingSettings))
        assert sum(waits) == pytest.approx(DEADLINE_SECONDS - 1 + SETTLES_SECONDS)
        assert waits[-1] == SETTLES_SECONDS, "it has waited for the deadline, before"
        assert desk.clock() == pytest.approx(began + DEADLINE_SECONDS + SETTLES_SECONDS)
        assert (desk.destination.effects, desk.destination.asked) == (1, 1)

    played(scene)


@pytest.mark.parametrize("policy", ["resend", "skip"])
def test_who_does_not_ask_does_not_wait_either(policy):
    async def scene(desk: Desk):
        await _die_while_acting(desk, effect=True)
        await asyncio.sleep(DEADLINE_SECONDS)
        second = desk.process(policy, SettlingSettings)
        if policy == "skip":
            with pytest.raises(Skipped):
                await second.attempt()
        else:
            assert await second.attempt() is True

    played(scene)


@pytest.mark.parametrize("error", [SinkUnavailable("503"), Misconfigured("403")])
def test_a_definite_failure_need_not_settle(error):
    async def scene(desk: Desk):
        process = desk.process("verify", SettlingSettings)
        with pytest.raises(type(error)):
            await process.attempt(error)
        assert await process.attempt() is True
        assert desk.destination.asked == 0

    played(scene)


def test_an_attempt_that_was_cancelled_settles_from_then_and_not_from_an_earlier_one():
    async def scene(desk: Desk):
        desk.destination = _KnowsLater(desk.clock)
        process = desk.process("verify", SettlingSettings)
        with pytest.raises(OutcomeUnknown):
            await process.attempt(OutcomeUnknown("lost"), effect=False)
        await asyncio.sleep(SETTLES_SECONDS)
        second = asyncio.create_task(process.attempt(seconds=20))
        await asyncio.sleep(10)
        second.cancel()
        await asyncio.wait({second})
        desk.act()
        with pytest.raises(Later) as later:
            await process.attempt()
        assert later.value.retry_after_seconds == SETTLES_SECONDS
        await asyncio.sleep(SETTLES_SECONDS)
        assert await process.attempt() is False
        assert desk.destination.effects == 1

    played(scene)


def test_a_clock_that_was_set_back_makes_it_look_again_in_time():
    async def scene(desk: Desk):
        process = desk.process("verify", SettlingSettings)
        desk.ahead_seconds = 3600.0
        with pytest.raises(OutcomeUnknown):
            await process.attempt(OutcomeUnknown("lost"))
        desk.ahead_seconds = 0.0
        with pytest.raises(Later) as later:
            await process.attempt()
        assert later.value.retry_after_seconds == SETTLES_SECONDS

    played(scene)


# --- questions that go wrong


@pytest.mark.parametrize(
    ("problem", "raised"),
    [
        (None, OutcomeUnknown),
        (OutcomeUnknown("no answer"), OutcomeUnknown),
        (SinkUnavailable("503"), SinkUnavailable),
        (Misconfigured("403"), Misconfigured),
        (Rejected("400 to the question"), OutcomeUnknown),
        (InProgress("at work", retry_after_seconds=1), OutcomeUnknown),  # or the lane takes it for the attempt's end
    ],
)
def test_a_question_that_goes_wrong_decides_nothing_about_the_delivery(problem, raised):
    async def scene(desk: Desk):
        await _die_while_acting(desk, effect=True)
        await asyncio.sleep(DEADLINE_SECONDS)
        second = desk.process("verify")
        desk.destination.found = problem
        for _ in range(2):
            with pytest.raises(raised):
                await second.attempt()
        assert (await desk.entry()).state is EntryState.INTENT
        assert desk.destination.effects == 1
        assert second.memo.unknown  # so that giving up is an unknown outcome
        desk.destination.found = True
        assert await second.attempt() is False

    played(scene)


def test_a_question_that_is_never_answered_ends():
    class Silent(Destination):
        async def verify(self, delivery: Delivery) -> bool | None:
            await asyncio.sleep(10_000)
            return False

    async def scene(desk: Desk):
        desk.destination = Silent()
        await _die_while_acting(desk, effect=True)
        await asyncio.sleep(DEADLINE_SECONDS)
        with pytest.raises(OutcomeUnknown, match="no end after 65 s"):
            await desk.process("verify").attempt()
        assert desk.destination.effects == 1

    played(scene)


def test_an_answer_of_the_store_that_is_lost_after_the_question_makes_it_ask_again():
    async def scene(desk: Desk):
        await _die_while_acting(desk, effect=False)
        await asyncio.sleep(DEADLINE_SECONDS)
        desk.store = _LosesAnswers(desk.store.contents, clock=desk.clock)
        second = desk.process("verify")
        desk.destination.found = None
        with pytest.raises(OutcomeUnknown):
            await second.attempt()
        desk.destination.found, desk.store.lost = False, 1
        with pytest.raises(StoreUnavailable):
            await second.attempt()
        assert await second.attempt() is True
        assert (desk.destination.effects, desk.destination.asked) == (1, 3)

    played(scene)


def test_on_unknown_left_out_is_what_the_kind_says():
    class Asks(LedgerSettings):
        unknown_by_default = "verify"

    async def scene(desk: Desk):
        await _die_while_acting(desk, effect=True)
        await asyncio.sleep(DEADLINE_SECONDS)
        desk.destination.found = True
        assert await desk.process(None, Asks).attempt() is False
        assert (desk.destination.effects, desk.destination.asked) == (1, 1)

    played(scene)
