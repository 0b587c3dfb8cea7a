"""ledger.py: what an entry means for the next attempt, whoever makes it; on a store in memory and a clock by hand."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.memory_store import MemoryStore
from tests.unit.desk import DEADLINE_SECONDS, POLICIES, START, Desk, played
from worker.errors import Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable, StoreUnavailable
from worker.ledger import Entry, EntryState, Later, Skipped, decode, encode


def test_the_first_attempt_acts_and_leaves_its_outcome():
    async def scene(desk: Desk):
        assert await desk.process().attempt() is True
        assert (await desk.entry()).state is EntryState.ACCEPTED
        assert desk.store.calls == ["write_entry", "write_entry", "read_entry"]  # nothing is read before it is needed

    played(scene)


def test_what_was_accepted_is_accepted_for_everyone_without_acting():
    async def scene(desk: Desk):
        await desk.process().attempt()
        for replayed in (False, True):
            assert await desk.process("skip").attempt(replayed=replayed) is False
        assert desk.destination.effects == 1
        assert desk.count("already_accepted") == 2

    played(scene)


@pytest.mark.parametrize("error", [SinkUnavailable("503"), Rejected("400"), Misconfigured("401")])
def test_a_definite_failure_is_recorded_and_anyone_may_act_at_once(error):
    async def scene(desk: Desk):
        with pytest.raises(type(error)):
            await desk.process("skip").attempt(error)
        assert (await desk.entry()).state is EntryState.FAILED
        assert await desk.process("skip").attempt() is True

    played(scene)


def test_an_intent_without_outcome_is_left_alone_until_its_deadline():
    async def scene(desk: Desk):
        frozen = asyncio.create_task(desk.process().attempt(seconds=50))
        for second in (1, 49):
            await asyncio.sleep(second - desk.clock() + START)
            with pytest.raises(Later) as later:
                await desk.process().attempt()
            assert later.value.retry_after_seconds == 5, "it may end long before its deadline"
        assert await frozen is True
        assert await desk.process().attempt() is False
        assert desk.destination.effects == 1

    played(scene)


async def _die_while_acting(desk: Desk, *, effect: bool) -> None:
    dying = asyncio.create_task(desk.process().attempt(seconds=10))
    await asyncio.sleep(1)
    dying.cancel()
    await asyncio.wait({dying})
    desk.destination.effects += effect


@pytest.mark.parametrize("effect", [True, False])
def test_after_a_crash_while_acting_resend_acts_again(effect):
    async def scene(desk: Desk):
        await _die_while_acting(desk, effect=effect)
        await asyncio.sleep(DEADLINE_SECONDS)
        assert await desk.process("resend").attempt() is True
        assert desk.destination.effects == 1 + effect
        assert desk.count("resent") == 1

    played(scene)


@pytest.mark.parametrize("effect", [True, False])
def test_after_a_crash_while_acting_skip_never_acts_again_until_an_operator_replays(effect):
    async def scene(desk: Desk):
        await _die_while_acting(desk, effect=effect)
        await asyncio.sleep(DEADLINE_SECONDS)
        for _ in range(2):  # also when the process died before the dead letter was kept
            with pytest.raises(Skipped):
                await desk.process("skip").attempt()
        assert desk.destination.effects == effect
        assert (await desk.entry()).state is EntryState.SKIPPED
        assert await desk.process("skip").attempt(replayed=True) is True
        assert await desk.process("skip").attempt(replayed=True) is False

    played(scene)


def test_after_a_crash_while_acting_verify_asks_the_destination():
    async def scene(desk: Desk):
        await _die_while_acting(desk, effect=True)
        await asyncio.sleep(DEADLINE_SECONDS)
        second = desk.process("verify")
        desk.destination.found = None
        with pytest.raises(OutcomeUnknown):
            await second.attempt()
        desk.destination.found = SinkUnavailable("503")
        with pytest.raises(SinkUnavailable):
            await second.attempt()
        desk.destination.found = True
        assert await second.attempt() is False
        assert desk.destination.effects == 1
        assert (await desk.entry()).state is EntryState.ACCEPTED

    played(scene)


def test_what_the_destination_does_not_have_is_delivered():
    async def scene(desk: Desk):
        await _die_while_acting(desk, effect=False)
        await asyncio.sleep(DEADLINE_SECONDS)
        assert await desk.process("verify").attempt() is True
        assert (desk.destination.effects, desk.destination.asked) == (1, 1)

    played(scene)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_process_that_saw_an_unknown_outcome_need_not_wait(policy):
    async def scene(desk: Desk):
        process = desk.process(policy)
        ends = Skipped if policy == "skip" else OutcomeUnknown
        with pytest.raises(ends):
            await process.attempt(OutcomeUnknown("connection lost"), effect=True)
        desk.destination.found = True
        match policy:
            case "resend":
                assert await process.attempt() is True
            case "verify":
                assert await process.attempt() is False
            case "skip":
                with pytest.raises(Skipped):
                    await process.attempt()
        assert desk.destination.effects == (2 if policy == "resend" else 1)

    played(scene)


def test_an_attempt_that_overruns_its_bound_is_ended_and_unknown():
    async def scene(desk: Desk):
        with pytest.raises(OutcomeUnknown, match="no end after 65 s"):
            await desk.process().attempt(seconds=1000)
        assert (await desk.entry()).state is EntryState.INTENT

    played(scene)


def test_without_the_store_nothing_is_done():
    async def scene(desk: Desk):
        desk.store.down = True
        with pytest.raises(StoreUnavailable):
            await desk.process().attempt()
        assert desk.destination.effects == 0

    played(scene)


def test_an_outcome_waits_for_the_store_and_the_delivery_for_the_outcome():
    async def scene(desk: Desk):
        attempt = asyncio.create_task(desk.process().attempt(seconds=1))
        await asyncio.sleep(0.5)
        desk.store.down = True
        await asyncio.sleep(600)
        assert (desk.destination.effects, attempt.done()) == (1, False)
        desk.store.down = False
        assert await attempt is True
        assert (await desk.entry()).state is EntryState.ACCEPTED

    played(scene)


class _LosesAnswers(MemoryStore):
    """Writes an entry, and then the answer does not come."""

    lost = 0

    async def _answered(self, name: str) -> None:
        if name == "write_entry" and self.lost:
            self.lost -= 1
            raise StoreUnavailable("no answer")


@pytest.mark.parametrize("policy", POLICIES)
def test_an_intent_whose_writing_was_not_answered_is_recognised_as_our_own_and_not_yet_acted_on(policy):
    async def scene(desk: Desk):
        desk.store = _LosesAnswers(clock=desk.clock)
        process = desk.process(policy)
        desk.store.lost = 1
        with pytest.raises(StoreUnavailable):
            await process.attempt()
        assert (await desk.entry()).state is EntryState.INTENT
        assert await process.attempt() is True
        assert (desk.destination.effects, desk.destination.asked) == (1, 0)

    played(scene)


@pytest.mark.parametrize("lost", [1, 2, 5])
def test_an_outcome_whose_writing_was_not_answered_is_found(lost):
    async def scene(desk: Desk):
        desk.store = _LosesAnswers(clock=desk.clock)
        attempt = asyncio.create_task(desk.process().attempt(seconds=1))
        await asyncio.sleep(0.5)
        desk.store.lost = lost
        assert await attempt is True
        assert desk.destination.effects == 1

    played(scene)


def test_a_failure_that_could_not_be_recorded_is_known_to_the_process_that_saw_it():
    async def scene(desk: Desk):
        process = desk.process("skip")
        attempt = asyncio.create_task(process.attempt(SinkUnavailable("503"), seconds=1))
        await asyncio.sleep(0.5)
        desk.store.down = True
        with pytest.raises(SinkUnavailable):
            await attempt
        desk.store.down = False
        with pytest.raises(Later):
            await desk.process("skip").attempt()
        assert await process.attempt() is True

    played(scene)


def test_of_two_that_find_an_unknown_outcome_one_acts():
    async def scene(desk: Desk):
        await _die_while_acting(desk, effect=False)
        await asyncio.sleep(DEADLINE_SECONDS)
        ends = await asyncio.gather(
            *(desk.process("resend").attempt(seconds=1) for _ in range(5)), return_exceptions=True
        )
        assert [end for end in ends if end is True] == [True]
        assert all(isinstance(end, Later) for end in ends if end is not True)
        assert desk.destination.effects == 1

    played(scene)


def test_what_was_accepted_by_someone_taken_for_dead_is_recorded_all_the_same():
    async def scene(desk: Desk):
        thawed = asyncio.create_task(desk.process().attempt(seconds=60))
        await asyncio.sleep(1)
        # Its deadline passes for a process whose clock is ahead.
        key = desk.delivery.idempotency_key
        stored = await desk.store.read_entry(key)
        other = encode(Entry(EntryState.INTENT, "process-x/1", desk.clock() + 1000, 1))
        await desk.store.write_entry(key, other, expected=stored.version)
        assert await thawed is True
        assert (await desk.entry()).state is EntryState.ACCEPTED

    played(scene)


def test_an_intent_that_took_the_store_too_long_is_not_acted_on():
    class Slow(MemoryStore):
        seconds = 30.0

        async def _reach(self, name: str) -> None:
            await asyncio.sleep(self.seconds)

    async def scene(desk: Desk):
        desk.store = Slow(clock=desk.clock)
        process = desk.process()
        with pytest.raises(Later):
            await process.attempt()
        desk.store.seconds = 1.0
        assert await process.attempt() is True

    played(scene)


ENTRIES = st.builds(
    Entry,
    st.sampled_from(EntryState),
    st.text(max_size=20),
    st.floats(0, 4e9),
    st.integers(0, 10**6),
    st.lists(st.text(max_size=20), max_size=3).map(tuple),
)


@given(ENTRIES)
def test_an_entry_survives_its_bytes(entry):
    assert decode(encode(entry)) == entry


@given(st.binary(max_size=100) | st.sampled_from([b"{}", b"[]", b"null", b'{"state":"new","by":"x"}']))
def test_an_entry_that_cannot_be_read_is_an_unknown_outcome(payload):
    entry = decode(payload)
    assert (entry.state, entry.deadline) == (EntryState.INTENT, 0.0)
