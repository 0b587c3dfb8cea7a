"""How often a pipeline is started for one event, when processes die, answers are lost and lists lag behind."""

from collections.abc import AsyncIterator

import pytest

from tests.api_service import Scripted, no_step, served
from tests.apis.datafactory import DataFactory
from tests.deliveries import delivery_of
from tests.fate import BETWEEN_LIVES_SECONDS, Fate, Scene, die_at_every_step
from tests.integration.datafactory import Clock, opened, settings_for, sink_of
from tests.memory_store import MemoryStore
from tests.turns import HOUR, MOST_TURNS, Lives
from worker.errors import OutcomeUnknown
from worker.ledger import EntryState, Later, Ledger, Memo
from worker.metrics import Metrics
from worker.settings import OnUnknown
from worker.sinks.datafactory import DataFactorySettings


class Impatient(DataFactorySettings):
    """As the kind, for a factory that lists runs at once: a life in these tests is short."""

    settles_seconds: float = 0.01


class Hasty(DataFactorySettings):
    """As the kind would be if it did not wait until a run is surely listed."""

    settles_seconds: float = 0.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def service(clock) -> AsyncIterator[DataFactory]:
    service = DataFactory(clock)
    async with served(service):
        yield service


SCRIPTS = {
    "accepted": [],
    "a server error after the effect": [Scripted(500, takes_effect=True)],
    "a server error without effect": [Scripted(502)],
    "an answer that is lost after the effect": [Scripted(takes_effect=True, drops=True)],
    "an answer that is lost before it": [Scripted(drops=True)],
    "an answer without the id of the run": [Scripted(200, "{}", takes_effect=True)],
    "asked to wait": [Scripted(429, headers={"Retry-After": "0"})],
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("policy", ["verify", "resend", "skip"])
async def test_dying_at_any_step_verify_starts_one_run_resend_at_least_one_skip_at_most_one(
    service, clock, policy: OnUnknown, script: str
):
    def begin() -> None:
        service.script = list(SCRIPTS[script])
        service.runs.clear()

    def meet(fate: Fate) -> None:
        service.before = service.after = service.before_question = fate.step

    settings = settings_for(service, Impatient, on_unknown=policy)
    held = await die_at_every_step(
        Scene(
            settings,
            sink=lambda: sink_of(settings, clock),
            begin=begin,
            meet=meet,
            effects=lambda: len(service.runs),
        )
    )
    assert {frozenset(), frozenset({EntryState.INTENT})} <= held
    assert all(asked.body["eventKey"] for asked in service.asked if asked.path.endswith("/createRun"))
    service.before = service.after = service.before_question = no_step


def test_a_run_is_surely_listed_when_the_next_life_asks_for_it_in_these_tests():
    settings = DataFactorySettings.model_construct(name="adf")
    assert settings.attempt_seconds + settings.settles_seconds + 60 < BETWEEN_LIVES_SECONDS


async def test_ending_at_any_turn_one_run_is_started_though_the_event_is_sent_three_times(service, clock):
    settings, outcomes = settings_for(service), set()
    for turns in range(MOST_TURNS):
        service.runs.clear()
        lives = Lives(settings, lambda: sink_of(settings, clock))
        first = await lives.live("first", turns=turns)
        outcomes.add(lives.recorded)
        for copy in range(1, 4):  # the one that was cut off, and two that other partitions hold
            await lives.live(f"copy {copy}", later_by=copy * HOUR)
        assert len(service.runs) == 1, turns
        if first.ended:  # by itself: every moment before has been tried
            break
    assert turns > 10
    assert outcomes == {None, EntryState.INTENT, EntryState.ACCEPTED}


# --- a list that lags behind


class Desk:
    """One process with a ledger on the clock of the factory."""

    def __init__(self, settings: DataFactorySettings, store: MemoryStore, clock: Clock, by: str = "worker") -> None:
        self._settings = settings
        self._clock = clock
        self._store = store
        self._by = by
        self.memo = Memo()

    async def attempt(self) -> bool:
        async with opened(self._settings, self._clock) as sink:
            ledger = Ledger(self._store, self._settings, sink, by=self._by, metrics=Metrics(), clock=self._clock)
            return await ledger.once(delivery_of(), self.memo, lambda: sink.deliver(delivery_of()), attempt=1)

    async def attempt_until_it_ends(self) -> float:
        """Comes again when it is told to; returns how long that took."""
        began = self._clock()
        while True:
            try:
                await self.attempt()
            except Later as later:
                self._clock.now += later.retry_after_seconds
            else:
                return self._clock() - began


@pytest.mark.parametrize(("kind", "runs"), [(DataFactorySettings, 1), (Hasty, 2)])
async def test_a_list_that_lags_behind_starts_no_second_run_because_the_ledger_waits_for_it(service, clock, kind, runs):
    service.index_lag_seconds = 60
    service.script = [Scripted(504, takes_effect=True)]
    desk = Desk(settings_for(service, kind), MemoryStore(clock=clock), clock)
    with pytest.raises(OutcomeUnknown):
        await desk.attempt()

    waited = await desk.attempt_until_it_ends()

    assert len(service.runs) == runs
    assert waited == kind.model_fields["settles_seconds"].default


@pytest.mark.parametrize(("kind", "runs"), [(DataFactorySettings, 1), (Hasty, 2)])
async def test_neither_does_it_when_another_process_finds_what_the_first_one_left(service, clock, kind, runs):
    """The first one's request came through late: when its time was over already."""
    service.script = [Scripted(504)]
    settings, store = settings_for(service, kind), MemoryStore(clock=clock)
    with pytest.raises(OutcomeUnknown):
        await Desk(settings, store, clock, "first").attempt()
    clock.now += settings.attempt_seconds
    service.index_lag_seconds = 60
    service.start("retrain", {"eventKey": delivery_of().idempotency_key})

    await Desk(settings, store, clock, "second").attempt_until_it_ends()

    assert len(service.runs) == runs
