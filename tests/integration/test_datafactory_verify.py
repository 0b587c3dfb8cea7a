"""Whether the Data Factory sink finds the run of a delivery, and when it says that it cannot tell."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from tests.api_service import served
from tests.apis.datafactory import DataFactory, Parameter
from tests.deliveries import ELEMENT, delivery_of
from tests.integration.datafactory import Clock, opened, settings_for
from tests.tokens import HIDDEN_TOKEN
from worker.errors import Misconfigured, OutcomeUnknown, SinkUnavailable
from worker.events import UnixSeconds
from worker.sinks import Delivery
from worker.sinks.datafactory import DataFactorySettings

DELIVERY = delivery_of()
OURS, OTHERS = {"eventKey": DELIVERY.idempotency_key}, {"eventKey": "f" * 64}
DAY = 86_400.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def service(clock) -> AsyncIterator[DataFactory]:
    service = DataFactory(clock)
    async with served(service):
        yield service


async def verified(service: DataFactory, clock: Clock, delivery: Delivery = DELIVERY, **given: Any) -> bool | None:
    async with opened(settings_for(service, **given), clock) as sink:
        return await sink.verify(delivery)


def came_at(seconds: float, delivery: Delivery = DELIVERY) -> Delivery:
    released = delivery.released
    message = replace(released.placed.message, enqueued_at=UnixSeconds(seconds))
    return replace(delivery, released=replace(released, placed=replace(released.placed, message=message)))


# --- runs that tell


@pytest.mark.parametrize("status", ["Queued", "InProgress", "Succeeded", "Failed", "Canceling", "Cancelled"])
async def test_a_run_is_found_however_it_stands(service, clock, status):
    service.start("retrain", OTHERS)
    service.start("retrain", OURS).status = status
    assert await verified(service, clock) is True


async def test_none_is_found_among_those_of_others_and_of_other_pipelines(service, clock):
    service.pipelines["other"] = service.pipelines["retrain"]
    service.start("retrain", OTHERS)
    service.start("other", OURS)
    assert await verified(service, clock) is False


async def test_a_run_is_found_though_the_factory_writes_the_pipelines_name_in_another_case(service, clock):
    service.pipelines["other"] = service.pipelines["retrain"]
    async with opened(settings_for(service, pipeline="ReTrain"), clock) as sink:
        await sink.deliver(DELIVERY)
    service.page_size = 2
    for _ in range(3):
        clock.now += 1
        service.start("other", OTHERS)
    assert await verified(service, clock, pipeline="ReTrain") is True
    assert await verified(service, clock, delivery_of(ELEMENT | {"id": "another"}), pipeline="ReTrain") is False


@pytest.mark.parametrize("behind", [-3600, 600, 3600])
async def test_a_run_is_found_by_a_machine_whose_clock_is_wrong(service, clock, behind):
    clock.now = 2 * DAY
    delivery = came_at(clock())
    service.start("retrain", OURS)
    async with opened(settings_for(service), Clock(clock() - behind)) as sink:
        assert await sink.verify(delivery) is True


async def test_where_no_run_was_ever_started_ours_was_not_either(service, clock):
    assert await verified(service, clock) is False


async def test_a_run_is_found_that_an_earlier_copy_of_the_event_started_and_that_ended_before_this_one_came(
    service, clock
):
    copy = delivery_of(ELEMENT | {"eventTime": "1970-01-01T00:01:00Z"})
    run = service.start("retrain", {"eventKey": copy.idempotency_key})
    run.status, run.updated_at = "Succeeded", clock() + 60
    service.start("retrain", OTHERS)
    clock.now += 20 * 3600
    assert await verified(service, clock, came_at(clock(), copy)) is True


async def test_all_pages_are_looked_at_and_no_more_than_needed(service, clock):
    service.page_size = 2
    service.start("retrain", OURS)
    for _ in range(6):
        clock.now += 1
        service.start("retrain", OTHERS)
    assert await verified(service, clock) is True
    assert len(service.asked) == 4  # the newest come first, and ours is the oldest
    service.start("retrain", OURS)
    service.runs[-1].started_at += 10
    assert await verified(service, clock) is True
    assert len(service.asked) == 5
    assert [asked.body.get("continuationToken") is None for asked in service.asked] == [True, *[False] * 3, True]


async def test_a_run_that_goes_on_while_pages_are_read_is_not_missed(service, clock):
    service.page_size = 1
    first = service.start("retrain", OTHERS)
    clock.now += 1
    service.start("retrain", OURS)
    clock.now += 1
    service.start("retrain", OTHERS)

    async def ends() -> None:
        clock.now += 1
        first.updated_at = clock.now

    service.before_question = ends
    assert await verified(service, clock) is True


async def test_an_event_that_came_long_ago_is_looked_for_from_then_on(service, clock):
    clock.now = 20 * DAY
    service.start("retrain", OURS)
    clock.now = 40 * DAY
    assert await verified(service, clock, came_at(20 * DAY + 200)) is True  # clocks differ
    assert await verified(service, clock, came_at(20 * DAY + 800)) is False
    assert await verified(service, clock, came_at(10 * DAY)) is True


async def test_a_run_that_the_list_does_not_have_yet_is_missing_in_it(service, clock):
    service.index_lag_seconds = 60
    service.start("retrain", OURS)
    assert await verified(service, clock) is False  # therefore settles_seconds
    clock.now += 60
    assert await verified(service, clock) is True


# --- runs that do not tell


def _undeclared(service: DataFactory) -> None:
    service.pipelines["retrain"] = {}
    service.start("retrain", OURS)


def _secret(service: DataFactory) -> None:
    service.pipelines["retrain"] = {"eventKey": Parameter("SecureString")}
    service.start("retrain", OURS)


def _by_hand(service: DataFactory) -> None:
    service.pipelines["retrain"] = {"eventKey": Parameter(default="")}
    service.start("retrain", {})
    service.start("retrain", OTHERS)


def _only_triggers(service: DataFactory) -> None:
    service.pipelines["retrain"] = {}
    service.start("retrain", {}, invoked_by="ScheduleTrigger")


@pytest.mark.parametrize("setting", [_undeclared, _secret, _by_hand, _only_triggers])
async def test_runs_without_a_key_do_not_tell_and_that_is_said_once(service, clock, setting):
    setting(service)
    async with opened(settings_for(service), clock) as sink:
        with capture_logs() as logged:
            assert [await sink.verify(DELIVERY) for _ in range(3)] == [None] * 3

    [line] = logged
    assert (line["log_level"], line["sink"], line["pipeline"]) == ("warning", "adf", "retrain")
    assert "show no key in the parameter eventKey; declare it in the pipeline, as a String" in line["reason"]


async def test_runs_of_triggers_do_not_hide_that_ours_is_missing_once_the_pipeline_has_the_parameter(service, clock):
    service.pipelines["retrain"] = {"eventKey": Parameter(default="")}
    service.start("retrain", {}, invoked_by="ScheduleTrigger")
    assert await verified(service, clock) is False


async def test_what_data_factory_has_forgotten_does_not_tell(service, clock):
    clock.now = 50 * DAY
    assert await verified(service, clock, came_at(4 * DAY)) is None
    assert await verified(service, clock, came_at(6 * DAY)) is False
    service.start("retrain", OURS)
    assert await verified(service, clock, came_at(4 * DAY)) is True


async def test_more_pages_than_can_be_looked_at_do_not_tell(service, clock):
    service.page_size = 1
    for _ in range(51):
        service.start("retrain", OTHERS)
    assert await verified(service, clock) is None
    assert len(service.asked) == 50


# --- questions that go wrong


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, SinkUnavailable) for status in (408, 429, 500, 502, 503, 504)),
        *((status, Misconfigured) for status in (401, 403, 404)),
    ],
)
async def test_a_question_that_is_not_answered_is_asked_again(service, clock, status, outcome):
    service.answers_to_questions = [web.Response(status=status, text=HIDDEN_TOKEN, headers={"Retry-After": "7"})]
    with pytest.raises((SinkUnavailable, Misconfigured, OutcomeUnknown)) as raised:
        await verified(service, clock)
    assert type(raised.value) is outcome
    assert str(raised.value).startswith(f"sink adf: 127.0.0.1 answered {status}")


@pytest.mark.parametrize(
    "answer",
    [
        (400, '{"error": {"code": "BadRequest"}}'),
        (302, ""),
        (200, "nonsense"),
        (200, "[]"),
        (200, '{"value": {}}'),
        (200, '{"value": ["a run"]}'),
    ],
)
async def test_an_answer_that_makes_no_sense_does_not_tell(service, clock, answer):
    status, text = answer
    service.answers_to_questions = [web.Response(status=status, text=text)]
    with capture_logs() as logged:
        assert await verified(service, clock) is None
    assert [line["event"] for line in logged] == ["cannot tell whether a pipeline was started"]


async def never() -> None:
    await asyncio.Event().wait()


async def test_a_question_whose_answer_does_not_come_leaves_it_unknown(service, clock):
    service.before_question = never
    with pytest.raises(OutcomeUnknown, match=r"sink adf: 127\.0\.0\.1 did not answer within 0\.2 s"):
        await verified(service, clock, timeout_seconds=0.2)


async def test_all_questions_together_take_no_longer_than_an_attempt_may(service, clock):
    class Brief(DataFactorySettings):
        attempt_seconds = property(lambda _: 0.2)

    service.before_question = never
    with capture_logs() as logged:
        assert await verified(service, clock, kind=Brief) is None
    assert [line["reason"] for line in logged] == ["the list of its runs did not come in time"]
