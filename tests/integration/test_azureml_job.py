"""The azureml_job sink and a workspace: what it asks for, what each answer means, and how many jobs there are."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from tests.api_service import Scripted
from tests.apis.azureml import ARM_SCOPE, BATCH_SCOPE, COMPONENT, WORKSPACE, AzureMl, azureml
from tests.deliveries import delivery_of
from tests.support import free_port
from tests.tokens import HIDDEN_TOKEN, FakeCredential, token_for
from tests.turns import MOST_TURNS
from worker.errors import Misconfigured, Rejected, SinkUnavailable, WorkerError
from worker.identity import Tokens
from worker.sinks.azureml_job import AzureMlJobSettings, AzureMlJobSink
from worker.sinks.rest import short_key

DELIVERY = delivery_of()
NAME, KEY = short_key(DELIVERY), DELIVERY.idempotency_key
OpenSink = Callable[..., Awaitable[AzureMlJobSink]]


@pytest.fixture
async def service() -> AsyncIterator[AzureMl]:
    async with azureml() as service:
        yield service


def settings_to(service: AzureMl, **given: Any) -> AzureMlJobSettings:
    return AzureMlJobSettings.model_validate(
        {
            "name": "out",
            "management_url": service.url,
            "scope": ARM_SCOPE,
            "workspace": WORKSPACE,
            "component": COMPONENT,
            "experiment": "retrain",
            "inputs": {"event": "{{ event.id }}"},
            **given,
        }
    )


@pytest.fixture
async def sink_with(service) -> AsyncIterator[OpenSink]:
    """Opens a sink with these settings."""
    opened = []

    async def open_sink(**given: Any) -> AzureMlJobSink:
        sink = AzureMlJobSink(settings_to(service, **given), Tokens(FakeCredential()))
        await sink.open()
        opened.append(sink)
        return sink

    yield open_sink
    for sink in opened:
        await sink.aclose()


async def refusal(sink: AzureMlJobSink) -> WorkerError:
    with capture_logs() as logged, pytest.raises(WorkerError) as raised:
        await sink.deliver(DELIVERY)
    said = f"{raised.value!r} {raised.value.__cause__!r} {logged!r} {vars(sink)!r}"
    assert HIDDEN_TOKEN not in said
    assert str(raised.value).startswith("sink out: ")
    assert str(raised.value).isprintable()
    return raised.value


def methods(service: AzureMl) -> list[str]:
    return [asked.method for asked in service.asked]


# --- one job for an event


async def test_one_job_is_started_under_a_name_of_the_events_and_says_whose_it_is(service, sink_with):
    await (await sink_with()).deliver(DELIVERY)

    [asked] = service.asked
    assert (asked.method, asked.path) == ("PUT", f"{WORKSPACE}/jobs/{NAME}")
    assert asked.query == {"api-version": "2025-12-01"}
    assert service.started == [NAME]
    assert service.jobs[NAME]["tags"] == {"eventKey": KEY}
    assert service.refusals == []


async def test_another_attempt_sends_the_same_and_starts_nothing(service, sink_with):
    sink = await sink_with()
    await sink.deliver(DELIVERY)
    await sink.deliver(DELIVERY)

    first, second = service.asked
    assert first.body == second.body
    assert service.started == [NAME]


@pytest.mark.parametrize(
    "change", [{"inputs": {"event": "another"}}, {"experiment": "another"}, {"tags": {"more": "x"}}]
)
async def test_the_job_is_known_again_when_what_is_asked_for_has_been_edited_since(service, sink_with, change):
    await (await sink_with()).deliver(DELIVERY)
    await (await sink_with(**change)).deliver(DELIVERY)

    assert service.started == [NAME]
    assert service.jobs[NAME]["inputs"]["event"]["value"] == "e1"


@pytest.mark.parametrize("tags", [{}, {"eventKey": "another"}, {"eventKey": KEY[:32]}])
async def test_a_job_of_somebody_elses_by_that_name_is_not_taken_for_it(service, sink_with, tags):
    service.jobs[NAME] = {"jobType": "Command", "tags": tags}
    error = await refusal(await sink_with())

    assert type(error) is Rejected
    assert "answered 400" in str(error)
    assert "its tag eventKey does not name this event" in str(error)
    assert service.jobs[NAME] == {"jobType": "Command", "tags": tags}


async def test_a_job_that_cannot_be_read_is_asked_for_again(service, sink_with, monkeypatch):
    monkeypatch.setattr(service, "changes", lambda _: True)  # the script is for GET too
    service.script = [Scripted(409), Scripted(200, '{"properties": {"tags": {"event')]
    error = await refusal(await sink_with())

    assert type(error) is SinkUnavailable
    assert "which is no job" in str(error)


async def test_an_answer_that_shows_another_events_job_is_no_success(service, sink_with):
    service.script = [Scripted(200, '{"properties": {"tags": {"eventKey": "another"}}}')]
    error = await refusal(await sink_with())

    assert type(error) is Rejected
    assert "does not name this event" in str(error)


# --- what an answer means


@pytest.mark.parametrize("status", [200, 201, 202])
async def test_what_the_service_takes_is_accepted(service, sink_with, status):
    service.script = [Scripted(status)]
    await (await sink_with()).deliver(DELIVERY)

    assert methods(service) == ["PUT"]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, SinkUnavailable) for status in (408, 425, 429, 500, 502, 503, 504, 599)),
        *((status, Misconfigured) for status in (401, 403, 404)),
        *((status, Rejected) for status in (301, 302, 307, 308, 405, 410, 412, 413, 415, 422)),
    ],
)
async def test_every_other_status_has_its_class_and_is_tried_once(service, sink_with, status, outcome):
    service.script = [Scripted(status, headers={"Location": "/elsewhere"})]
    error = await refusal(await sink_with())

    assert type(error) is outcome
    assert str(error).startswith(f"sink out: 127.0.0.1 answered {status}")
    assert methods(service) == ["PUT"]


@pytest.mark.parametrize("status", [429, 503])
async def test_how_long_to_wait_is_passed_on(service, sink_with, status):
    service.script = [Scripted(status, headers={"Retry-After": "17"})]
    error = await refusal(await sink_with())

    assert isinstance(error, SinkUnavailable)
    assert error.retry_after_seconds == 17.0


async def test_a_job_that_the_service_does_not_like_is_rejected_in_its_words(service, sink_with):
    service.script = [Scripted(400, '{"error": {"code": "UserError", "message": "no such input"}}')]
    error = await refusal(await sink_with())

    assert type(error) is Rejected
    assert "no such input" in str(error)
    assert methods(service) == ["PUT", "GET"]


THERE = [
    Scripted(409),
    Scripted(400, '{"error": {"innererror": {"code": "JobPropertyImmutable"}}}'),
    Scripted(400, '{"error": {"message": "A run with runId = evt-… already exists in the workspace."}}'),
]


@pytest.mark.parametrize("said", THERE, ids=["conflict", "immutable", "another experiment"])
async def test_a_job_that_is_said_to_be_there_and_is_the_events_is_accepted(service, sink_with, said):
    sink = await sink_with()
    await sink.deliver(DELIVERY)
    service.script = [said]
    await sink.deliver(DELIVERY)

    assert methods(service) == ["PUT", "PUT", "GET"]


@pytest.mark.parametrize("said", THERE, ids=["conflict", "immutable", "another experiment"])
async def test_a_job_that_is_said_to_be_there_and_cannot_be_found_is_asked_for_again(service, sink_with, said):
    service.script = [said]
    error = await refusal(await sink_with())

    assert type(error) is SinkUnavailable
    assert "asked for the job, it knows none" in str(error)


@pytest.mark.parametrize(("status", "outcome"), [(403, Misconfigured), (429, SinkUnavailable), (500, SinkUnavailable)])
async def test_a_question_that_gets_no_answer_leaves_it_open_whose_job_it_is(
    service, sink_with, monkeypatch, status, outcome
):
    service.jobs[NAME] = {"jobType": "Command", "tags": {}}
    monkeypatch.setattr(service, "changes", lambda request: True)  # scripts are for questions too
    service.script = [Scripted(takes_effect=True), Scripted(status)]
    error = await refusal(await sink_with())

    assert type(error) is outcome
    assert f"answered {status}" in str(error)


@pytest.mark.parametrize("takes_effect", [True, False])
async def test_a_connection_lost_after_the_request_is_tried_again_by_the_lane_and_not_by_the_client(
    service, sink_with, takes_effect
):
    service.script = [Scripted(drops=True, takes_effect=takes_effect)]
    sink = await sink_with()
    error = await refusal(sink)
    assert type(error) is SinkUnavailable
    assert methods(service) == ["PUT"]
    await sink.deliver(DELIVERY)

    assert service.started == [NAME]


async def test_no_answer_in_time_is_tried_again(service, sink_with):
    service.script = [Scripted(stalls=True, takes_effect=True)]
    assert type(await refusal(await sink_with(timeout_seconds=0.2))) is SinkUnavailable


async def test_nobody_listening_is_tried_again(sink_with):
    error = await refusal(await sink_with(management_url=f"http://127.0.0.1:{free_port()}"))
    assert type(error) is SinkUnavailable


async def test_a_token_for_something_else_pauses_the_sink(service, sink_with):
    error = await refusal(await sink_with(scope="https://graph.example.org/.default"))

    assert type(error) is Misconfigured
    assert "AuthenticationFailed" in str(error)


async def test_a_workspace_that_is_not_there_pauses_the_sink(sink_with):
    other = {"workspace": WORKSPACE.replace("/ws", "/other"), "component": COMPONENT.replace("/ws/", "/other/")}
    error = await refusal(await sink_with(**other))

    assert type(error) is Misconfigured
    assert "The workspace was not found" in str(error)


async def test_a_version_that_the_service_does_not_know_is_told_in_its_words(sink_with):
    error = await refusal(await sink_with(api_version="2199-01-01"))
    assert "InvalidApiVersionParameter" in str(error)


async def test_a_template_that_cannot_be_filled_in_is_rejected_and_nothing_is_sent(service, sink_with):
    error = await refusal(await sink_with(inputs={"a": "{{ event.data.absent }}"}))

    assert type(error) is Rejected
    assert service.asked == []


# --- the service is as strict as the real one

GOOD = {"jobType": "Pipeline", "componentId": COMPONENT}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 201),
        ({"jobType": "Pipelin"}, 400),
        ({"componentId": None}, 400),
        ({"sourceJobId": "x"}, 400),
        ({"colour": "red"}, 400),
        ({"tags": {"a": 1}}, 400),
        ({"properties": {"a": None}}, 400),
        ({"displayName": 1}, 400),
        ({"inputs": {"a": {"jobInputType": "literal", "value": 1}}}, 400),
        ({"inputs": {"a": {"jobInputType": "literal", "uri": "x"}}}, 400),
        ({"inputs": {"a": {"jobInputType": "folder", "uri": "x"}}}, 400),
        ({"inputs": {"a": {"jobInputType": "uri_folder", "uri": "x", "mode": "ro_mount"}}}, 400),
        ({"inputs": {"a": {"jobInputType": "uri_folder", "uri": "x", "mode": "Direct"}}}, 201),
    ],
)
async def test_the_service_refuses_what_is_no_job(service, change, status):
    assert await asked_for(service, GOOD | change) == status
    assert len(service.started) == (status == 201)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 200),
        ({"tags": {"a": "b"}, "displayName": "x", "properties": {"p": "q"}}, 200),
        ({"inputs": {"a": {"jobInputType": "literal", "value": "1"}}}, 400),
        ({"settings": {"default_compute": "x"}}, 400),
        ({"componentId": f"{COMPONENT}0"}, 400),
        ({"experimentName": "another"}, 400),
    ],
)
async def test_the_service_changes_of_a_job_what_can_be_changed(service, change, status):
    assert await asked_for(service, GOOD | {"tags": {"old": "tag"}}) == 201
    assert await asked_for(service, GOOD | change) == status

    assert service.started == ["a"]
    assert service.jobs["a"]["tags"] == change.get("tags", {"old": "tag"})


async def asked_for(service: AzureMl, job: dict[str, Any]) -> int:
    url = f"{service.url}{WORKSPACE}/jobs/a?api-version=2025-12-01"
    headers = {"Authorization": f"Bearer {token_for(ARM_SCOPE)}"}
    job = {name: value for name, value in job.items() if value is not None}
    async with (
        aiohttp.ClientSession() as session,
        session.put(url, json={"properties": job}, headers=headers) as response,
    ):
        return response.status


async def test_the_service_refuses_who_asks_wrongly(service):
    good = f"{service.url}{WORKSPACE}/jobs/a?api-version=2025-12-01"
    token = {"Authorization": f"Bearer {token_for(ARM_SCOPE)}"}
    async with aiohttp.ClientSession() as session:
        for url, headers, status in (
            (good, {}, 401),
            (good, {"Authorization": f"Bearer {token_for(BATCH_SCOPE)}"}, 401),
            (good.partition("?")[0], token, 400),
            (good.replace("/jobs/a", "/jobs/a.b"), token, 400),
            (good.replace("/ws/", "/other/"), token, 404),
            (good.replace("/workspaces/", "/registries/"), token, 404),
        ):
            async with session.put(url, json={"properties": GOOD}, headers=headers) as response:
                assert response.status == status, url
    assert service.started == []


# --- processes that die

SCRIPTS: dict[str, list[Scripted]] = {
    "accepted": [],
    "a server error after the effect": [Scripted(500, takes_effect=True)],
    "a server error without effect": [Scripted(502)],
    "an answer that is lost": [Scripted(drops=True, takes_effect=True)],
    "a conflict after the effect": [Scripted(409, takes_effect=True)],
    "asked to wait": [Scripted(429, headers={"Retry-After": "0"})],
}


@pytest.mark.parametrize("script", SCRIPTS)
async def test_whatever_dies_at_any_turn_there_is_one_job_and_the_next_process_finds_it(service, script):
    """Without a ledger. The hub holds the event three times; the first process ends at each turn of the event loop."""
    held = set()
    for turns in range(MOST_TURNS):
        service.script = list(SCRIPTS[script])
        service.jobs.clear()
        service.started.clear()
        ended = await live(service, turns=turns)
        held.add(len(service.started))
        assert await live(service)
        assert await live(service)

        assert service.started == [NAME]
        if ended:  # by itself: every moment before has been tried
            break
    assert turns > 10
    assert held == {0, 1}


async def live(service: AzureMl, *, turns: int = MOST_TURNS) -> bool:
    """A process that tries all copies again and again, and ends after so many turns; whether they were accepted."""
    sink = AzureMlJobSink(settings_to(service), Tokens(FakeCredential()))
    await sink.open()
    copies = [asyncio.create_task(until_accepted(sink)) for _ in range(3)]
    for _ in range(turns):
        if all(copy.done() for copy in copies):
            break
        await asyncio.sleep(0)
    ended = all(copy.done() for copy in copies)
    for copy in copies:
        copy.cancel()
    results = await asyncio.gather(*copies, return_exceptions=True)
    await sink.aclose()
    assert not ended or results == [None] * 3
    return ended


async def until_accepted(sink: AzureMlJobSink) -> None:
    """As a lane does, which waits in between."""
    while True:
        try:
            return await sink.deliver(DELIVERY)
        except SinkUnavailable:
            await asyncio.sleep(0)


async def test_a_request_that_was_on_its_way_when_its_process_died_may_come_after_the_next_ones(service, sink_with):
    held = asyncio.Event()
    service.before = held.wait
    sink = await sink_with()
    frozen = asyncio.create_task((await sink_with()).deliver(DELIVERY))
    while not service.asked:
        await asyncio.sleep(0)
    service.before = _at_once
    await sink.deliver(DELIVERY)
    held.set()
    await frozen

    assert service.started == [NAME]


async def _at_once() -> None:
    pass
