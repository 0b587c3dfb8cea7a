"""The Data Factory sink and a factory: what it asks for, what each answer means, what is kept secret."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest
from structlog.testing import capture_logs

from tests.api_service import Scripted, served
from tests.apis.datafactory import FACTORY, DataFactory, Parameter
from tests.deliveries import ELEMENT, delivery_of
from tests.integration.datafactory import Clock, opened, settings_for
from tests.support import free_port
from tests.tokens import HIDDEN_TOKEN, token_for
from worker.errors import Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable, WorkerError
from worker.sinks.datafactory import DataFactorySink

CREATE_RUN = f"{FACTORY}/pipelines/retrain/createRun"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def service(clock) -> AsyncIterator[DataFactory]:
    service = DataFactory(clock)
    async with served(service):
        yield service


@pytest.fixture
def sink_to(service, clock):
    @asynccontextmanager
    async def sink_to(**given: Any) -> AsyncIterator[DataFactorySink]:
        async with opened(settings_for(service, **given), clock) as sink:
            yield sink

    return sink_to


async def refusal(sink: DataFactorySink) -> WorkerError:
    with capture_logs() as logged, pytest.raises(WorkerError) as raised:
        await sink.deliver(delivery_of())
    said = f"{raised.value!r} {raised.value.__cause__!r} {logged!r} {vars(sink)!r}"
    assert HIDDEN_TOKEN not in said
    assert "api-version" not in said
    assert str(raised.value).startswith("sink adf: ")
    return raised.value


# --- what is asked for


async def test_one_run_is_asked_for_with_the_parameters_and_the_key(service, sink_to):
    service.pipelines["retrain"] |= {"drift": Parameter("Float"), "day": Parameter(default="today")}
    delivery = delivery_of(ELEMENT | {"data": {"driftCoefficient": 0.83}})
    async with sink_to(parameters={"drift": "{{ event.data.driftCoefficient }}"}) as sink:
        with capture_logs() as logged:
            await sink.deliver(delivery)

    [asked], [run] = service.asked, service.runs
    assert (asked.method, asked.path, asked.query) == ("POST", CREATE_RUN, {"api-version": "2018-06-01"})
    assert asked.headers["authorization"] == f"Bearer {token_for(service.scope)}"
    assert asked.body == {"drift": 0.83, "eventKey": delivery.idempotency_key}
    assert run.parameters == {"drift": 0.83, "day": "today", "eventKey": delivery.idempotency_key}
    assert [(line["log_level"], line["run_id"]) for line in logged] == [("debug", run.run_id)]


async def test_another_attempt_of_another_process_asks_for_the_same(service, sink_to):
    for _ in range(2):
        async with sink_to(parameters={"a": "{{ event.data.note }}", "b": {"z": 1, "a": [2]}}) as sink:
            await sink.deliver(delivery_of())

    first, second = service.asked
    assert orjson.dumps(first.body) == orjson.dumps(second.body)
    assert service.starts == {delivery_of().idempotency_key: 2}  # Data Factory does not know a key again


async def test_names_with_blanks_and_brackets_are_asked_for_as_they_are(service, sink_to):
    service.pipelines["Retrain the model (daily)"] = {"eventKey": Parameter()}
    async with sink_to(pipeline="Retrain the model (daily)") as sink:
        await sink.deliver(delivery_of())
        assert await sink.verify(delivery_of()) is True

    assert [run.pipeline for run in service.runs] == ["Retrain the model (daily)"]


# --- what an answer means


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, SinkUnavailable) for status in (408, 425, 429, 503)),
        *((status, OutcomeUnknown) for status in (500, 502, 504, 599)),
        *((status, Misconfigured) for status in (401, 403, 404)),
        *((status, Rejected) for status in (301, 302, 307, 308, 400, 405, 409, 410, 413, 415, 422)),
    ],
)
async def test_every_status_has_its_class_and_is_asked_for_once(service, sink_to, status, outcome):
    headers = {"Location": "/elsewhere", "Retry-After": "17"}
    service.script = [Scripted(status, "Bearer is never repeated", headers, echoes=True)]
    async with sink_to() as sink:
        error = await refusal(sink)

    assert type(error) is outcome
    assert str(error).startswith(f"sink adf: 127.0.0.1 answered {status}")
    assert getattr(error, "retry_after_seconds", None) == (17.0 if outcome is SinkUnavailable else None)
    assert len(service.asked) == 1


@pytest.mark.parametrize("takes_effect", [True, False])
@pytest.mark.parametrize("end", [{"drops": True}, {"stalls": True}])
async def test_an_answer_that_does_not_come_leaves_the_outcome_unknown(service, sink_to, end, takes_effect):
    service.script = [Scripted(takes_effect=takes_effect, **end)]
    async with sink_to(timeout_seconds=0.2) as sink:
        assert type(await refusal(sink)) is OutcomeUnknown

    assert len(service.runs) == takes_effect
    assert len(service.asked) == 1


@pytest.mark.parametrize(("status", "text"), [(200, "{}"), (200, '{"runId": ""}'), (200, "fine"), (202, ""), (204, "")])
async def test_an_answer_without_the_id_of_a_run_leaves_the_outcome_unknown(service, sink_to, status, text):
    service.script = [Scripted(status, text)]
    async with sink_to() as sink:
        error = await refusal(sink)

    assert type(error) is OutcomeUnknown
    assert str(error).endswith("there is no id of a run in it")


async def test_nobody_listening_is_tried_again(service, clock):
    settings = settings_for(service, management_url=f"http://127.0.0.1:{free_port()}")
    async with opened(settings, clock) as sink:
        assert type(await refusal(sink)) is SinkUnavailable


@pytest.mark.parametrize(
    ("given", "outcome", "reason"),
    [
        ({"pipeline": "retrian"}, Misconfigured, "there is no pipeline retrian"),
        ({"factory": FACTORY + "2"}, Misconfigured, "answered 404"),
        ({"scope": "https://vault.azure.net/.default"}, Misconfigured, "AuthenticationFailed"),
        ({"api_version": "2017-09-01-preview"}, Misconfigured, "InvalidApiVersionParameter"),
        ({"event_key_parameter": "key"}, Rejected, "'eventKey' is not provided"),
        ({"parameters": {"count": "seven"}}, Rejected, "'count' expects Int"),
    ],
)
async def test_what_the_factory_refuses_is_said_in_its_words(service, sink_to, given, outcome, reason):
    service.pipelines["retrain"]["count"] = Parameter("Int", 0)
    async with sink_to(**given) as sink:
        error = await refusal(sink)

    assert type(error) is outcome
    assert reason in str(error)
    assert service.runs == []


@pytest.mark.parametrize(
    ("status", "code", "outcome"),
    [
        (400, "EntityNotFound", Misconfigured),
        (400, "SubscriptionNotFound", Misconfigured),
        (400, "NoRegisteredProviderFound", Misconfigured),
        (409, "MissingSubscriptionRegistration", Misconfigured),
        (400, "BadRequest", Rejected),
        (500, "EntityNotFound", OutcomeUnknown),
    ],
)
async def test_codes_that_speak_of_the_set_up_pause_the_sink(service, sink_to, status, code, outcome):
    service.script = [Scripted(status, orjson.dumps({"error": {"code": code, "message": "no"}}).decode())]
    async with sink_to() as sink:
        assert type(await refusal(sink)) is outcome


# --- the factory itself


async def test_the_factory_refuses_what_the_real_one_refuses(service):
    headers = {"Authorization": f"Bearer {token_for(service.scope)}"}
    version = "?api-version=2018-06-01"
    window = {"lastUpdatedAfter": "1970-01-01T00:00:00Z", "lastUpdatedBefore": "1970-01-02T00:00:00Z"}
    filters = [{"operand": "Parameters", "operator": "Equals", "values": ["x"]}]
    attempts: list[tuple[str, Any, dict[str, str], int]] = [
        (CREATE_RUN + version, {"eventKey": "k"}, {}, 401),
        (CREATE_RUN + version, {"eventKey": "k"}, {"Authorization": f"Bearer {token_for('https://x')}"}, 401),
        (CREATE_RUN, {"eventKey": "k"}, headers, 400),
        (CREATE_RUN + version, {}, headers, 400),
        (CREATE_RUN + version, {"eventKey": 7}, headers, 400),
        (CREATE_RUN.replace("retrain", "no") + version, {"eventKey": "k"}, headers, 404),
        (f"{FACTORY}/queryPipelineRuns{version}", {}, headers, 400),
        (f"{FACTORY}/queryPipelineRuns{version}", window | {"lastUpdatedAfter": "yesterday"}, headers, 400),
        (f"{FACTORY}/queryPipelineRuns{version}", window | {"filters": filters}, headers, 400),
        (f"{FACTORY}/queryPipelineRuns{version}", window, headers, 200),
    ]
    async with aiohttp.ClientSession() as session:
        for path, body, given, status in attempts:
            async with session.post(service.url + path, json=body, headers=given) as response:
                assert response.status == status, (path, body)
    assert service.runs == []
