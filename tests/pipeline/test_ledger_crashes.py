"""Lanes with a ledger: processes that die at every await there is, and sinks that cannot say how an attempt ended."""

import asyncio
from typing import Any

import pytest

from tests.fakes import FakeSink
from tests.fate import METRICS, START, Fate, FatefulStore
from tests.lanes import FakeOwner, LaneScene, ScriptedSink, id_of, job_of
from tests.memory_store import Contents, MemoryStore
from tests.pipeline.stage import Stage, blob_event, message
from tests.virtual_time import run
from worker.errors import OutcomeUnknown, PartlyAccepted, SinkUnavailable
from worker.ledger import Entry, EntryState, Ledger, decode, encode
from worker.metrics import Metrics
from worker.settings import OnUnknown, SinkSettings
from worker.sinks import Delivery

DAY = 86_400.0


class LedgerSettings(SinkSettings):
    ledger = "always"
    verifies = True


class World:
    """What outlives processes: the store's contents, and what the destination did."""

    def __init__(self) -> None:
        self.contents = Contents()
        self.effects: list[str] = []
        self.accepted_since: list[str] = []
        """Attempts that began though the ledger said already that the effect had happened."""

    def accepted(self, key: str) -> bool:
        stored = self.contents.entries.get(key)
        return stored is not None and decode(stored.payload).state is EntryState.ACCEPTED


class FatefulSink:
    """Has its effect, or not, and ends as the script says."""

    def __init__(self, world: World, fate: Fate, script: list[tuple[bool, Exception | None]]) -> None:
        self._world = world
        self._fate = fate
        self._script = list(script)

    async def open(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    async def deliver(self, delivery: Delivery) -> None:
        if self._world.accepted(delivery.idempotency_key):
            self._world.accepted_since.append(id_of(delivery))
        await self._fate.step()
        effect, error = self._script.pop(0) if self._script else (True, None)
        if effect:
            self._world.effects.append(id_of(delivery))
        await self._fate.step()
        if error is not None:
            raise error

    async def verify(self, delivery: Delivery) -> bool | None:
        await self._fate.step()
        return id_of(delivery) in self._world.effects


def wall_clock() -> float:
    return START + asyncio.get_running_loop().time()


async def live(
    world: World, name: str, policy: OnUnknown, fate: Fate, script: list[tuple[bool, Exception | None]]
) -> FakeOwner:
    """One process that is given the delivery and, unless it dies first, brings it to an end."""
    return await live_with(FatefulSink(world, fate, script), world, name, policy, fate)


async def live_with(sink: Any, world: World, name: str, policy: OnUnknown, fate: Fate) -> FakeOwner:
    owner = FakeOwner(name)
    settings = LedgerSettings(name="out", kind="fake", on_unknown=policy)
    store = FatefulStore(world.contents, fate, wall_clock)
    ledger = Ledger(store, settings, sink, by=name, metrics=METRICS, clock=wall_clock)
    scenery = LaneScene(sink, ledger=ledger, metrics=METRICS, give_up_after_seconds=DAY, concurrency=1)
    async with scenery.running() as stage:
        stage.lane.submit(job_of(owner, "a", "a1"))
        async with asyncio.timeout(3600):
            while not owner.ended and not fate.died.is_set():
                await asyncio.sleep(1)
    return owner


UNKNOWN, UNAVAILABLE = OutcomeUnknown("connection lost"), SinkUnavailable("503")
SCRIPTS: dict[str, list[tuple[bool, Exception | None]]] = {
    "accepted": [],
    "unknown with effect": [(True, UNKNOWN)],
    "unknown without effect": [(False, UNKNOWN)],
    "unavailable first": [(False, UNAVAILABLE)],
    "unavailable, then unknown": [(False, UNAVAILABLE), (True, UNKNOWN)],
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("policy", ["skip", "resend", "verify"])
def test_dying_at_any_await_skip_never_acts_twice_resend_acts_at_least_once_verify_exactly_once(
    policy: OnUnknown, script: str
):
    async def lives(first_death: int | None, second_death: int | None) -> Fate:
        world, fate = World(), Fate(first_death)
        first = await live(world, "first", policy, fate, SCRIPTS[script])
        second = await live(world, "second", policy, Fate(second_death), [])
        last = await live(world, "last", policy, Fate(), [])
        assert last.ended == 1
        assert world.accepted_since == []
        letters = [owner.letters["a1"][0] for owner in (first, second, last) if owner.letters]
        assert set(letters) <= {"unknown_outcome"}
        match policy:
            case "skip":
                assert len(world.effects) <= 1
                assert world.effects or letters
            case "resend":
                assert len(world.effects) >= 1
                assert letters == []
            case "verify":
                assert len(world.effects) == 1
                assert letters == []
        return fate

    async def scene():
        steps = (await lives(None, None)).taken
        assert steps >= 6
        for first_death in range(steps):
            for second_death in (None, *range(10)):
                await lives(first_death, second_death)

    run(scene())


def _count(stage: LaneScene, outcome: str) -> float:
    return stage.count("worker_deliveries_total", outcome=outcome)


class _Rig:
    """A lane with a ledger on a store in memory."""

    def __init__(self, sink: Any, policy: OnUnknown, **settings: Any) -> None:
        self.store = MemoryStore(clock=wall_clock)
        configured = LedgerSettings(name="out", kind="fake", on_unknown=policy)
        ledger = Ledger(self.store, configured, sink, by="p", metrics=Metrics(), clock=wall_clock)
        self.scenery = LaneScene(sink, ledger=ledger, **settings)


def _sink(script: list[tuple[bool, Exception | None]]) -> tuple[World, FatefulSink]:
    world = World()
    return world, FatefulSink(world, Fate(), script)


def test_a_store_that_is_away_before_the_act_costs_no_attempt_and_opens_no_breaker():
    async def scene():
        world, sink = _sink([])
        rig, owner = _Rig(sink, "skip", retry={"max_attempts": 1}, give_up_after_seconds=60), FakeOwner()
        rig.store.down = True
        async with rig.scenery.running() as stage:
            for number in range(20):
                stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
            await asyncio.sleep(3600)
            assert (world.effects, owner.ended) == ([], 0)
            assert stage.count("worker_lane_down") == 0
            rig.store.down = False
            await asyncio.sleep(120)
            assert sorted(world.effects) == sorted(owner.accepted_ids)
            assert len(owner.accepted_ids) == 20

    run(scene())


def test_an_unknown_outcome_that_is_skipped_is_a_dead_letter_at_once_and_the_next_of_its_subject_goes_on():
    async def scene():
        world, sink = _sink([(True, UNKNOWN)])
        rig, owner = _Rig(sink, "skip"), FakeOwner()
        async with rig.scenery.running() as stage:
            stage.lane.submit(job_of(owner, "a", "a1"))
            stage.lane.submit(job_of(owner, "a", "a2"))
            await asyncio.sleep(1)
            assert owner.letters["a1"][0] == "unknown_outcome"
            assert owner.accepted_ids == ["a2"]
            assert _count(stage, "skipped") == 1
            assert world.effects == ["a1", "a2"]

    run(scene())


def test_what_the_destination_can_never_verify_becomes_a_dead_letter_of_unknown_outcome():
    class Silent(FatefulSink):
        async def verify(self, delivery: Delivery) -> bool | None:
            return None

    async def scene():
        world = World()
        rig = _Rig(Silent(world, Fate(), [(True, UNKNOWN)]), "verify", give_up_after_seconds=600)
        owner = FakeOwner()
        async with rig.scenery.running() as stage:
            stage.lane.submit(job_of(owner, "a", "a1"))
            await asyncio.sleep(900)
            assert owner.letters["a1"][0] == "unknown_outcome"
            assert world.effects == ["a1"]

    run(scene())


def test_deliveries_that_the_destination_can_never_verify_do_not_hold_up_the_others():
    class Forgetful(FatefulSink):
        async def verify(self, delivery: Delivery) -> bool | None:
            return None

    async def scene():
        world = World()
        rig, owner = (
            _Rig(Forgetful(world, Fate(), [(True, UNKNOWN)] * 4), "verify", give_up_after_seconds=DAY),
            FakeOwner(),
        )
        async with rig.scenery.running() as stage:
            for number in range(4):
                stage.lane.submit(job_of(owner, f"lost-{number}", f"l{number}"))
            await asyncio.sleep(3600)
            assert stage.count("worker_lane_down") == 0
            for number in range(10):
                stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
                await asyncio.sleep(1)
            assert owner.accepted_ids == [f"e{number}" for number in range(10)]
            assert owner.letters == {}

    run(scene())


def test_a_drain_that_aborts_the_act_leaves_the_intent_to_the_next_owner():
    async def scene():
        world, sink = _sink([])
        sink._fate = Fate(1)  # hangs after the effect
        rig, owner, heir = _Rig(sink, "skip"), FakeOwner(), FakeOwner("heir")
        async with rig.scenery.running() as stage:
            stage.lane.submit(job_of(owner, "a", "a1"))
            await asyncio.sleep(1)
            owner.close(stage.lane)
            owner.abort()
            await asyncio.sleep(1)
            assert (owner.ended, world.effects) == (0, ["a1"])
            stage.lane.submit(job_of(heir, "a", "a1"))
            await asyncio.sleep(60)
            assert heir.ended == 0  # somebody might still be acting
            await asyncio.sleep(60)
            assert heir.letters["a1"][0] == "unknown_outcome"
            assert world.effects == ["a1"]

    run(scene())


def test_who_waits_for_somebody_elses_attempt_looks_every_few_seconds_until_its_deadline():
    async def scene():
        sink, owner = ScriptedSink(), FakeOwner()
        clock = asyncio.get_running_loop().time
        store, settings = MemoryStore(Contents()), SinkSettings(name="out", kind="fake")
        ledger = Ledger(store, settings, sink, by="p", metrics=Metrics(), clock=clock)
        job, deadline = job_of(owner, "a", "a1"), clock() + 75
        intent = encode(Entry(EntryState.INTENT, "somebody/1", deadline, 1))
        await store.write_entry(job.delivery.idempotency_key, intent, expected=None)
        async with LaneScene(sink, ledger=ledger).running() as stage:
            stage.lane.submit(job)
            await asyncio.sleep(120)
            [(began_at, _)] = sink.started
            assert deadline <= began_at <= deadline + 1
            assert _count(stage, "postponed") == 15
            assert job.failures == 0

    run(scene())


def test_a_delivery_that_the_ledger_knows_is_accepted_though_the_destination_is_down():
    async def scene():
        world, sink = _sink([(True, None)])
        rig, owner, heir = _Rig(sink, "skip"), FakeOwner(), FakeOwner("heir")
        async with rig.scenery.running() as stage:
            stage.lane.submit(job_of(owner, "a", "a1"))
            await asyncio.sleep(1)
            sink._script = [(False, UNAVAILABLE)] * 1000
            stage.lane.submit(job_of(heir, "a", "a1"))
            await asyncio.sleep(1)
            assert heir.accepted_ids == ["a1"]
            assert _count(stage, "known") == 1
            assert world.effects == ["a1"]

    run(scene())


class SlowStore(MemoryStore):
    """Takes its time for an intent."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = asyncio.Event()

    async def _answered(self, name: str) -> None:
        if name == "write_entry" and not self.kept.is_set():
            self.kept.set()
            await asyncio.sleep(3)


def test_nothing_is_sent_when_the_partition_was_lost_while_the_intent_was_written():
    async def scene():
        async with Stage({"out": FakeSink()}, store=SlowStore(), window=0, ledger=True).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(1, blob_event("a", 1)))
            await stage.store.kept.wait()
            stage.lease = False
            await asyncio.sleep(60)
            assert stage.sinks["out"].attempts == []
            stage.lease = True
            await asyncio.sleep(60)
            assert stage.sinks["out"].ids == ["a-1"]

    run(scene())


# --- a delivery to several recipients


class ListSink:
    """Serves three recipients; one of them is refused for now at the first attempt that anybody makes, then taken."""

    def __init__(self, world: World, fate: Fate) -> None:
        self._world = world
        self._fate = fate

    async def open(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    async def deliver(self, delivery: Delivery) -> None:
        await self._fate.step()
        to = sorted({"a", "b", "c"} - delivery.served)
        later = ["c"] if not self._world.effects else []
        self._world.effects += [each for each in to if each not in later]
        await self._fate.step()
        if later:
            raise PartlyAccepted("450 for c", served=delivery.served | {"a", "b"})


@pytest.mark.parametrize("policy", ["skip", "resend"])
def test_dying_at_any_await_no_recipient_is_served_twice_with_skip_and_none_is_left_out_with_resend(policy: OnUnknown):
    async def lives(death: int | None) -> tuple[Fate, World, list[FakeOwner]]:
        world, fate = World(), Fate(death)
        owners = [await live_with(ListSink(world, fate), world, "first", policy, fate)]
        fresh = Fate()
        owners.append(await live_with(ListSink(world, fresh), world, "last", policy, fresh))
        return fate, world, owners

    async def scene():
        fate, world, _ = await lives(None)
        assert sorted(world.effects) == ["a", "b", "c"]
        served_once = 0
        for death in range(fate.taken):
            _, world, owners = await lives(death)
            letters = [owner.letters["a1"][0] for owner in owners if owner.letters]
            if policy == "skip":
                assert len(world.effects) == len(set(world.effects))
                assert len(world.effects) == 3 or letters == ["unknown_outcome"]
            else:
                assert set(world.effects) == {"a", "b", "c"}
                assert letters == []
            served_once += sorted(world.effects) == ["a", "b", "c"]
        assert served_once >= fate.taken / 2  # only around an act does a death cost anything

    run(scene())
