"""A lane with a ledger that sends through the service, and processes that end at every step of a delivery."""

import pytest

from tests.acs_service import AcsService, Fault, acs_service
from tests.lanes import FakeOwner
from tests.turns import HOUR, MOST_TURNS, Lives
from worker.ledger import EntryState
from worker.settings import OnUnknown
from worker.sinks.acs_email import AcsEmailSettings, AcsEmailSink


def lives(policy: OnUnknown) -> Lives:
    settings = AcsEmailSettings.model_validate(
        {
            "name": "out",
            "connection_string_env": "ACS",
            "from": "ml@example.org",
            "to": ["oncall@example.org"],
            "on_unknown": policy,
        }
    )
    return Lives(settings, lambda: AcsEmailSink(settings))


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
            world = lives(policy)
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
        world = lives(policy)
        owner = await world.live("only")

        assert owner.accepted_ids == ["a1"]
        assert len(service.sent) == 1
        assert world.recorded is EntryState.ACCEPTED
