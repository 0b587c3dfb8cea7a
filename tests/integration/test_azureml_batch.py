"""The azureml_batch sink and an endpoint: what it asks for, what each answer means, and how often it starts a job."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from tests.api_service import Scripted
from tests.apis.azureml import ARM_SCOPE, BATCH_SCOPE, AzureMl, azureml, told
from tests.deliveries import delivery_of
from tests.fate import Fate, Scene, die_at_every_step
from tests.support import free_port
from tests.tokens import HIDDEN_TOKEN, FakeCredential, token_for
from worker.errors import Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable, WorkerError
from worker.identity import Tokens
from worker.ledger import EntryState
from worker.settings import OnUnknown
from worker.sinks.azureml_batch import AzureMlBatchSettings, AzureMlBatchSink

DELIVERY = delivery_of()
INPUTS = {"data": {"type": "uri_folder", "uri": "https://a.blob.core.windows.net/c/{{ event.id }}"}}
OpenSink = Callable[..., Awaitable[AzureMlBatchSink]]


@pytest.fixture
async def service() -> AsyncIterator[AzureMl]:
    async with azureml() as service:
        yield service


def settings_to(service: AzureMl, **given: Any) -> AzureMlBatchSettings:
    return AzureMlBatchSettings.model_validate(
        {"name": "out", "endpoint_url": service.endpoint_url, "inputs": INPUTS, **given}
    )


@pytest.fixture
async def sink_with(service) -> AsyncIterator[OpenSink]:
    """Opens a sink with these settings."""
    opened = []

    async def open_sink(**given: Any) -> AzureMlBatchSink:
        sink = AzureMlBatchSink(settings_to(service, **given), Tokens(FakeCredential()))
        await sink.open()
        opened.append(sink)
        return sink

    yield open_sink
    for sink in opened:
        await sink.aclose()


async def refusal(sink: AzureMlBatchSink) -> WorkerError:
    with capture_logs() as logged, pytest.raises(WorkerError) as raised:
        await sink.deliver(DELIVERY)
    said = f"{raised.value!r} {raised.value.__cause__!r} {logged!r} {vars(sink)!r}"
    assert HIDDEN_TOKEN not in said
    assert str(raised.value).startswith("sink out: ")
    assert str(raised.value).isprintable()
    return raised.value


# --- what is started


async def test_a_job_is_started_at_the_endpoints_default_deployment(service, sink_with):
    await (await sink_with()).deliver(DELIVERY)

    [job] = service.batch_jobs
    assert job["deployment"] == "pipeline"
    assert job["properties"]["inputdata"]["data"]["uri"] == "https://a.blob.core.windows.net/c/e1"
    assert service.refusals == []


async def test_a_job_is_started_at_the_deployment_that_is_named(service, sink_with):
    await (await sink_with(deployment="scorer")).deliver(DELIVERY)

    assert [job["deployment"] for job in service.batch_jobs] == ["scorer"]


async def test_another_attempt_sends_the_same_and_starts_another_job(service, sink_with):
    """Which is why there is a ledger."""
    sink = await sink_with(inputs={**INPUTS, "key": "{{ delivery.idempotency_key }}"})
    await sink.deliver(DELIVERY)
    await sink.deliver(DELIVERY)

    first, second = service.asked
    assert first.body == second.body
    assert [told(job["properties"])["key"] for job in service.batch_jobs] == [DELIVERY.idempotency_key] * 2
    assert len({job["name"] for job in service.batch_jobs}) == 2


# --- what an answer means


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_what_the_endpoint_takes_is_accepted(service, sink_with, status):
    service.script = [Scripted(status)]
    await (await sink_with()).deliver(DELIVERY)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, SinkUnavailable) for status in (408, 425, 429)),
        *((status, OutcomeUnknown) for status in (500, 502, 503, 504, 599)),
        *((status, Misconfigured) for status in (401, 403, 404)),
        *((status, Rejected) for status in (301, 302, 307, 308, 400, 405, 409, 410, 413, 415, 422)),
    ],
)
async def test_every_other_status_has_its_class_and_is_tried_once(service, sink_with, status, outcome):
    service.script = [Scripted(status, headers={"Location": "/elsewhere"})]
    error = await refusal(await sink_with())

    assert type(error) is outcome
    assert str(error).startswith(f"sink out: 127.0.0.1 answered {status}")
    assert len(service.asked) == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_how_long_to_wait_is_passed_on(service, sink_with, status):
    service.script = [Scripted(status, headers={"Retry-After": "17"})]
    error = await refusal(await sink_with())

    assert isinstance(error, SinkUnavailable)
    assert error.retry_after_seconds == 17.0


@pytest.mark.parametrize("takes_effect", [True, False])
async def test_a_connection_lost_after_the_request_leaves_the_outcome_unknown(service, sink_with, takes_effect):
    service.script = [Scripted(drops=True, takes_effect=takes_effect)]
    assert type(await refusal(await sink_with())) is OutcomeUnknown
    assert len(service.batch_jobs) == takes_effect


async def test_no_answer_in_time_leaves_the_outcome_unknown(service, sink_with):
    service.script = [Scripted(stalls=True)]
    assert type(await refusal(await sink_with(timeout_seconds=0.2))) is OutcomeUnknown


async def test_nobody_listening_is_tried_again(sink_with):
    error = await refusal(await sink_with(endpoint_url=f"http://127.0.0.1:{free_port()}/jobs"))
    assert type(error) is SinkUnavailable


async def test_resource_managers_token_is_not_taken_and_pauses_the_sink(sink_with):
    error = await refusal(await sink_with(scope=ARM_SCOPE))
    assert type(error) is Misconfigured
    assert "AuthenticationFailed" in str(error)


async def test_a_deployment_that_is_not_there_pauses_the_sink(sink_with):
    assert type(await refusal(await sink_with(deployment="other"))) is Misconfigured


async def test_a_literal_for_a_models_deployment_is_rejected_in_the_services_words(service, sink_with):
    error = await refusal(await sink_with(deployment="scorer", inputs={"mode": "append"}))

    assert type(error) is Rejected
    assert "PredicateValidator" in str(error)
    assert service.batch_jobs == []


async def test_a_template_that_cannot_be_filled_in_is_rejected_and_nothing_is_sent(service, sink_with):
    error = await refusal(await sink_with(inputs={"a": "{{ event.data.absent }}"}))

    assert type(error) is Rejected
    assert service.asked == []


# --- the service is as strict as the real one

FOLDER = {"JobInputType": "UriFolder", "Uri": "https://x"}
LITERAL = {"JobInputType": "Literal", "Value": "append"}


@pytest.mark.parametrize(
    ("deployment", "job", "status"),
    [
        ("pipeline", {}, 200),
        ("pipeline", {"InputData": {"a": FOLDER, "b": LITERAL}, "properties": {"experimentName": "x"}}, 200),
        ("pipeline", {"inputData": {"a": {"jobInputType": "UriFolder", "uri": "https://x"}}}, 200),
        ("pipeline", {"InputData": {"a": FOLDER | {"JobInputType": "uri_folder"}}}, 400),
        ("pipeline", {"InputData": {"a": FOLDER | {"Value": "x"}}}, 400),
        ("pipeline", {"InputData": {"a": {"JobInputType": "Literal", "Uri": "x"}}}, 400),
        ("pipeline", {"OutputData": {"a": {"JobOutputType": "UriFile", "Uri": "x"}}}, 200),
        ("pipeline", {"OutputData": {"a": {"Uri": "x"}}}, 400),
        ("pipeline", {"Inputs": {}}, 400),
        ("scorer", {"InputData": {"a": FOLDER}}, 200),
        ("scorer", {"InputData": {"a": LITERAL}}, 400),
        ("scorer", {"InputData": {"a": FOLDER, "b": FOLDER}}, 400),
        ("scorer", {}, 400),
        ("other", {}, 404),
    ],
)
async def test_the_service_refuses_what_is_no_job_for_a_deployment(service, deployment, job, status):
    headers = {"Authorization": f"Bearer {token_for(BATCH_SCOPE)}", "azureml-model-deployment": deployment}
    async with (
        aiohttp.ClientSession() as session,
        session.post(service.endpoint_url, json={"properties": job}, headers=headers) as response,
    ):
        assert response.status == status
    assert len(service.batch_jobs) == (status == 200)


# --- processes that die

SCRIPTS: dict[str, list[Scripted]] = {
    "accepted": [],
    "a server error after the effect": [Scripted(500, takes_effect=True)],
    "a server error without effect": [Scripted(502)],
    "an answer that is lost": [Scripted(drops=True, takes_effect=True)],
    "asked to wait": [Scripted(429, headers={"Retry-After": "0"})],
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("policy", ["resend", "skip"])
async def test_dying_at_any_step_skip_starts_one_job_at_most_resend_one_at_least_and_neither_once_it_is_known(
    service, policy: OnUnknown, script: str
):
    settings = settings_to(service, on_unknown=policy)

    def begin() -> None:
        service.script = list(SCRIPTS[script])
        service.batch_jobs.clear()

    def meet(fate: Fate) -> None:
        service.before = service.after = fate.step

    held = await die_at_every_step(
        Scene(
            settings,
            sink=lambda: AzureMlBatchSink(settings, Tokens(FakeCredential())),
            begin=begin,
            meet=meet,
            effects=lambda: len(service.batch_jobs),
        )
    )
    assert {frozenset(), frozenset({EntryState.INTENT})} <= held
