"""What every kind of sink promises, whatever its destination."""

import asyncio
import os
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from tests.contract.rigs import HIDDEN_TEXTS, RETRY_AFTER_SECONDS, SECRETS, AnsweringRig, Identity, Mood, Rig
from tests.contract.rigs.table import RIGS, VARIANTS, Place
from tests.deliveries import ELEMENT, delivery_of
from tests.tokens import HIDDEN_TOKEN
from worker.errors import Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable, WorkerError
from worker.settings import SinkSettings
from worker.sinks import PreviewingSink, Sink, VerifyingSink
from worker.sinks.installed import find_kind
from worker.sinks.table import KINDS


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with capture_logs() as lines:
        yield lines


def test_every_kind_has_a_rig():
    assert RIGS.keys() == KINDS.keys()


@pytest.fixture
def place(request, tmp_path, monkeypatch, logged) -> Place:
    return Place(tmp_path, monkeypatch, logged, lambda: request.getfixturevalue("azurite"))


ALL = {**RIGS, **VARIANTS}


@pytest.fixture(params=sorted(ALL))
async def rig(request, place) -> AsyncIterator[Rig]:
    async with ALL[request.param](place) as rig:
        yield rig


@pytest.fixture(params=sorted(ALL.keys() - {"discard", "file", "log"}))
async def answering(request, place) -> AsyncIterator[AnsweringRig]:
    """A destination that can say no."""
    async with ALL[request.param](place) as rig:
        yield rig


def settings_of(rig: Rig) -> SinkSettings:
    return find_kind(rig.kind).settings.model_validate({"name": "out", "kind": rig.kind, **rig.settings()})


def build(rig: Rig) -> Sink:
    settings = settings_of(rig)
    return find_kind(rig.kind).build(settings, Identity() if settings.needs_identity else None)


@asynccontextmanager
async def opened(rig: Rig) -> AsyncIterator[Sink]:
    sink = build(rig)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.aclose()


CLASSES = {
    Mood.BUSY: SinkUnavailable,
    Mood.REJECTS: Rejected,
    Mood.REFUSES: Misconfigured,
}


@pytest.mark.parametrize("mood", Mood)
async def test_how_an_attempt_ended_is_the_errors_name_and_the_next_one_goes_under_the_same_key(answering, mood):
    delivery = delivery_of()
    async with opened(answering) as sink:
        answering.next_time(mood)
        with pytest.raises((*CLASSES.values(), OutcomeUnknown)) as raised:
            await sink.deliver(delivery)
        assert type(raised.value) is (answering.lost if mood is Mood.LOSES_THE_ANSWER else CLASSES[mood])
        answering.well_again()
        await sink.deliver(delivery)

    keys = [record["key"] for record in answering.arrived()]
    assert keys == [delivery.idempotency_key] * (2 if mood is Mood.LOSES_THE_ANSWER else 1)


@pytest.mark.parametrize("mood", Mood)
async def test_no_error_repeats_a_secret_that_the_destination_echoes(answering, mood):
    async with opened(answering) as sink:
        answering.next_time(mood)
        with pytest.raises(WorkerError) as raised:
            await sink.deliver(delivery_of())

    shown = "".join(traceback.format_exception(raised.value))
    assert not [secret for secret in _own_secrets(answering) if secret in shown]


def _own_secrets(rig: Rig) -> set[str]:
    """Those that this sink was given: another one's it cannot know."""
    given = [value for name, value in os.environ.items() if name in str(rig.settings())]
    own = {secret for secret in HIDDEN_TEXTS for value in given if secret in value}
    if settings_of(rig).needs_identity:
        own.add(HIDDEN_TOKEN)
    assert own, "there is something to hide"
    return own


async def test_when_to_come_again_is_told_to_the_lane(answering):
    async with opened(answering) as sink:
        answering.next_time(Mood.BUSY)
        with pytest.raises(SinkUnavailable) as raised:
            await sink.deliver(delivery_of())

    assert raised.value.retry_after_seconds == (RETRY_AFTER_SECONDS if answering.says_when else None)


async def test_what_was_accepted_has_arrived_under_its_idempotency_key(rig):
    delivery = delivery_of()

    async with opened(rig) as sink:
        await sink.deliver(delivery)
        assert rig.arrived() == [{"id": "e1", "key": delivery.idempotency_key}]


async def test_another_attempt_carries_the_same_idempotency_key(rig):
    async with opened(rig) as sink:
        await sink.deliver(delivery_of())
    async with opened(rig) as sink:
        await sink.deliver(delivery_of())

    first, second = rig.arrived()
    assert first == second


async def test_deliveries_at_one_time_all_arrive_once_and_whole(rig):
    deliveries = [delivery_of(ELEMENT | {"id": f"e{n}", "data": "x" * 10_000}) for n in range(40)]

    async with opened(rig) as sink, asyncio.TaskGroup() as group:
        for delivery in deliveries:
            group.create_task(sink.deliver(delivery))

    assert sorted(record["key"] for record in rig.arrived()) == sorted(each.idempotency_key for each in deliveries)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8, 13])
async def test_a_cancelled_attempt_does_not_harm_the_next(rig, steps):
    cancelled, next_one = delivery_of(), delivery_of(ELEMENT | {"id": "e2"})
    async with opened(rig) as sink:
        attempt = asyncio.create_task(sink.deliver(cancelled))
        for _ in range(steps):
            await asyncio.sleep(0)
        ended_before = attempt.done()
        attempt.cancel()
        await asyncio.gather(attempt, return_exceptions=True)
        assert attempt.cancelled() != ended_before

        await sink.deliver(next_one)

    arrived = [record["key"] for record in rig.arrived()]
    assert arrived[-1] == next_one.idempotency_key
    assert set(arrived) <= {cancelled.idempotency_key, next_one.idempotency_key}


async def test_it_closes_twice_and_without_having_been_opened(rig):
    sink = build(rig)
    await sink.aclose()
    await sink.open()
    await sink.deliver(delivery_of())
    await sink.aclose()
    await sink.aclose()


async def test_it_opens_again_after_it_was_closed(rig):
    sink = build(rig)
    for _ in range(2):
        await sink.open()
        await sink.deliver(delivery_of())
        await sink.aclose()

    assert len(rig.arrived()) == 2


async def test_no_secret_shows_in_its_settings_itself_or_the_log(rig, logged):
    async with opened(rig) as sink:
        await sink.deliver(delivery_of())
        shown = f"{sink!r} {vars(sink)!r} {logged!r}"

    assert not [secret for secret in HIDDEN_TEXTS if secret in shown]


def test_a_kind_says_that_it_verifies_when_its_sink_can(rig):
    assert isinstance(build(rig), VerifyingSink) == find_kind(rig.kind).settings.verifies


def test_a_preview_is_the_same_each_time_needs_no_open_and_reads_no_secret(rig, monkeypatch):
    sink = build(rig)
    if not isinstance(sink, PreviewingSink):
        return
    with_secrets = sink.preview(delivery_of())
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)
    assert sink.preview(delivery_of()) == with_secrets
    assert with_secrets.strip()
    assert not [secret for secret in SECRETS.values() if secret in with_secrets]


def test_its_settings_know_their_kind_and_refuse_an_unknown_key():
    for kind, row in KINDS.items():
        assert row.settings.model_fields["kind"].default == kind
        with pytest.raises(ValidationError) as refused:
            row.settings.model_validate({"name": "out", "kind": kind, "colour": "red"})
        assert ("colour",) in [error["loc"] for error in refused.value.errors()]
