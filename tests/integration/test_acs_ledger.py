"""A lane with a ledger that sends through the service, and processes that end at every step of a delivery.

A process that ends is one whose lane is cancelled and whose connections are closed, after any number of turns of the
event loop: so at each await between the submission and the end, those inside the HTTP client included.
"""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from tests.acs_service import AcsService, Fault, acs_service
from tests.lanes import FakeOwner, LaneScene, job_of
from tests.memory_store import Contents, MemoryStore
from worker.ledger import EntryState, Ledger, decode
from worker.metrics import Metrics
from worker.settings import OnUnknown
from worker.sinks.acs_email import AcsEmailSettings, AcsEmailSink

METRICS = Metrics()
"""One for all lives: making them takes longer than a life."""
MOST_TURNS = 1_000_000
HOUR = 3600.0


class SlowStore(MemoryStore):
    """Takes a turn of the event loop before and after each effect: moments at which its process may end."""

    async def _reach(self, name: str) -> None:
        await asyncio.sleep(0)

    async def _answered(self, name: str) -> None:
        await asyncio.sleep(0)


class World:
    """What outlives processes: the store's contents, and the service."""

    def __init__(self, service: AcsService, policy: OnUnknown) -> None:
        self.contents = Contents()
        self.service = service
        self.policy = policy

    @property
    def recorded(self) -> EntryState | None:
        """What the ledger says of the one delivery."""
        entries = [decode(entry.payload).state for entry in self.contents.entries.values()]
        return entries[0] if entries else None

    async def live(self, name: str, *, turns: int = MOST_TURNS, later_by: float = 0) -> FakeOwner:
        """One process that is given the delivery and ends after so many turns, or when it is done."""
        owner = FakeOwner(name)
        async with self._lane(name, later_by) as lane:
            lane.lane.submit(job_of(owner, "a", "a1"))
            for _ in range(turns):
                if owner.ended:
                    break
                await asyncio.sleep(0)
        return owner

    @asynccontextmanager
    async def _lane(self, name: str, later_by: float):
        settings = AcsEmailSettings.model_validate(
            {
                "name": "out",
                "connection_string_env": "ACS",
                "from": "ml@example.org",
                "to": ["oncall@example.org"],
                "on_unknown": self.policy,
            }
        )
        sink = AcsEmailSink(settings)
        await sink.open()

        def clock() -> float:
            """Long after the attempts of earlier lives: an intent without outcome is unknown then."""
            return time.time() + later_by

        ledger = Ledger(SlowStore(self.contents, clock=clock), settings, sink, by=name, metrics=METRICS, clock=clock)
        try:
            async with LaneScene(sink, ledger=ledger, metrics=METRICS, concurrency=1).running() as lane:
                yield lane
        finally:
            await sink.aclose()


@pytest.mark.parametrize("remembers", [True, False], ids=["remembered", "forgotten"])
@pytest.mark.parametrize("policy", ["resend", "verify", "skip"])
async def test_ending_at_any_turn_the_mail_goes_out_and_not_again_once_that_is_recorded(
    monkeypatch, policy: OnUnknown, remembers: bool
):
    async with acs_service() as service:
        monkeypatch.setenv("ACS", service.connection_string)
        outcomes = set()
        for turns in range(MOST_TURNS):
            service.start_anew()
            world = World(service, policy)
            first = await world.live("first", turns=turns)
            recorded, sends = world.recorded, len(service.sends)
            await service.idle()
            if not remembers:
                service.forget()
            last = await world.live("last", later_by=HOUR)
            assert last.ended == 1
            outcomes.add((recorded, len(service.sent)))
            _check(policy, service, last, remembers=remembers)
            if recorded is EntryState.ACCEPTED:
                assert len(service.sends) == sends, "sent again though it was recorded as accepted"
            if first.ended:  # by itself: every moment before has been tried
                break
        assert turns > 10
        # It did end before the intent, between intent and outcome, and after the outcome.
        assert {recorded for recorded, _ in outcomes} == {None, EntryState.INTENT, EntryState.ACCEPTED}


def _check(policy: OnUnknown, service: AcsService, last: FakeOwner, *, remembers: bool) -> None:
    if policy == "skip":
        assert len(service.sent) <= 1
        assert service.sent or last.letters["a1"][0] == "unknown_outcome"
    elif remembers:
        assert len(service.sent) == 1
        assert last.letters == {}
    else:
        assert len(service.sent) in {1, 2}
        assert last.letters == {}


@pytest.mark.parametrize("policy", ["resend", "verify"])
@pytest.mark.parametrize("lost", [Fault(after="drop"), Fault(after="error"), Fault(before="drop")])
async def test_an_answer_that_was_lost_is_made_up_for_by_the_same_lane_with_one_mail(monkeypatch, policy, lost):
    async with acs_service() as service:
        monkeypatch.setenv("ACS", service.connection_string)
        service.faults = [lost]
        world = World(service, policy)
        owner = await world.live("only")

        assert owner.accepted_ids == ["a1"]
        assert len(service.sent) == 1
        assert world.recorded is EntryState.ACCEPTED
