"""The azuredevops sink and Azure DevOps' API: what it starts, what each answer means, how it finds its runs again."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from tests.api_service import Scripted
from tests.apis.azuredevops import (
    PAT,
    PROJECT,
    SCOPE,
    SIGN_IN,
    START,
    AzureDevOpsService,
    Pipeline,
    azuredevops_service,
)
from tests.deliveries import ELEMENT, delivery_of
from tests.fate import Scene, die_at_every_step
from tests.memory_store import Contents, MemoryStore
from tests.support import free_port
from tests.tokens import HIDDEN_TOKEN, FakeCredential
from worker.errors import Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable, WorkerError
from worker.events import UnixSeconds
from worker.identity import Tokens
from worker.ledger import EntryState, Later, Ledger, Memo
from worker.metrics import Metrics
from worker.settings import OnUnknown
from worker.sinks import Delivery
from worker.sinks.answers import listening
from worker.sinks.azuredevops import AzureDevOpsSettings, AzureDevOpsSink
from worker.sinks.rest import short_key
from worker.sinks.runs import iso_time

OpenSink = Callable[..., Awaitable[AzureDevOpsSink]]


@pytest.fixture
async def devops() -> AsyncIterator[AzureDevOpsService]:
    async with azuredevops_service() as service:
        yield service


@pytest.fixture
def credential() -> FakeCredential:
    return FakeCredential()


def settings_of(devops: AzureDevOpsService, **given: Any) -> AzureDevOpsSettings:
    plain = {"name": "ml", "organization": devops.organization, "project": PROJECT, "pipeline": 7}
    return AzureDevOpsSettings.model_validate(plain | given)


@pytest.fixture
async def sink_to(devops, credential) -> AsyncIterator[OpenSink]:
    opened = []

    async def open_sink(**given: Any) -> AzureDevOpsSink:
        sink = AzureDevOpsSink(settings_of(devops, **given), Tokens(credential))
        await sink.open()
        opened.append(sink)
        return sink

    yield open_sink
    for sink in opened:
        await sink.aclose()


def delivery_at(now: float, **element: Any) -> Delivery:
    """Of an event that came to the hub then."""
    delivery = delivery_of(ELEMENT | {"eventTime": iso_time(now)} | element, sink="ml")
    placed = delivery.released.placed
    message = replace(placed.message, enqueued_at=UnixSeconds(now))
    return replace(delivery, released=replace(delivery.released, placed=replace(placed, message=message)))


DELIVERY = delivery_at(START)


async def refusal(sink: AzureDevOpsSink, delivery: Delivery = DELIVERY) -> WorkerError:
    with capture_logs() as logged, pytest.raises(WorkerError) as raised:
        await sink.deliver(delivery)
    said = f"{raised.value!r} {raised.value.__cause__!r} {logged!r} {vars(sink)!r}"
    assert not [secret for secret in (PAT, HIDDEN_TOKEN) if secret in said]
    assert str(raised.value).startswith("sink ml: ")
    assert str(raised.value).isprintable()
    return raised.value


# --- what is started


async def test_a_pipeline_is_run_with_its_parameters_as_texts_its_variables_and_the_key(devops, sink_to, credential):
    devops.pipeline = Pipeline(parameters={"eventKey": True, "status": True}, variables=("subject",))
    devops.refs = {"refs/tags/v1"}
    sink = await sink_to(
        ref="refs/tags/v1",
        parameters={"status": "{{ event.data.runstatus }}"},
        variables={"subject": "{{ event.subject }}"},
    )
    with listening() as heard:
        await sink.deliver(DELIVERY)

    [run] = devops.runs
    assert run.parameters == {"status": "Failed", "eventKey": short_key(DELIVERY)}
    assert run.variables == {"subject": {"value": ELEMENT["subject"]}}
    assert run.name == f"20261129-{short_key(DELIVERY)}"
    assert credential.scopes == [SCOPE]
    assert heard[0].status == "200"
    assert b'"id": 1' in heard[0].body


async def test_a_personal_access_token_is_the_password_of_nobody_and_is_read_at_each_attempt(
    devops, sink_to, tmp_path, credential
):
    file = tmp_path / "pat"
    sink = await sink_to(token_file=file)
    for content, hint in (
        (None, "cannot be read"),
        ("expired", "its page to sign in on; renew the token"),
        (f"{PAT}\nmore", "a character that no token has"),
    ):
        if content is not None:
            file.write_text(content)
        error = await refusal(sink)
        assert type(error) is Misconfigured
        assert hint in str(error)
    file.write_text(f"{PAT}\n")
    await sink.deliver(DELIVERY)
    assert len(devops.runs) == 1
    assert credential.scopes == []


async def test_a_template_that_cannot_be_filled_in_is_rejected_and_says_where(devops, sink_to):
    error = await refusal(await sink_to(parameters={"key": "{{ event.data.modelName }}"}))
    assert type(error) is Rejected
    assert str(error).startswith("sink ml: parameters.key: ")
    assert devops.asked == []


# --- what answers mean

HTML = {"Content-Type": "text/html; charset=utf-8"}


@pytest.mark.parametrize("redirects", [True, False], ids=["302", "203"])
async def test_who_is_sent_to_a_page_to_sign_in_on_is_refused_and_nothing_was_accepted(devops, sink_to, redirects):
    devops.redirects = redirects
    sink = await sink_to(scope="https://management.azure.com/.default")
    error = await refusal(sink)
    assert type(error) is Misconfigured
    assert f"answered {302 if redirects else 203}, its page to sign in on" in str(error)
    with pytest.raises(Misconfigured):
        await sink.verify(DELIVERY)
    assert devops.runs == []


@pytest.mark.parametrize(
    ("answer", "kind", "wait_seconds"),
    [
        (Scripted(203, "<html>Sign In</html>", HTML), Misconfigured, None),
        (Scripted(200, "<html>Sign In</html>", HTML), Misconfigured, None),
        (Scripted(302, headers={"Location": SIGN_IN}), Misconfigured, None),
        (Scripted(302, headers={"Location": "https://login.microsoftonline.com/x"}), Misconfigured, None),
        (Scripted(302, headers={"Location": "/elsewhere"}), Misconfigured, None),
        (Scripted(302), Misconfigured, None),
        (Scripted(200, "{}"), OutcomeUnknown, None),
        (Scripted(202, '{"id": "x"}'), OutcomeUnknown, None),
        (Scripted(204), OutcomeUnknown, None),
        (Scripted(429, "TF400733: The request has been canceled", {"Retry-After": "7"}), SinkUnavailable, 7),
        (Scripted(429), SinkUnavailable, None),
        (Scripted(503, headers={"Retry-After": "3"}), SinkUnavailable, 3),
        (Scripted(408), SinkUnavailable, None),
        (Scripted(401), Misconfigured, None),
        (Scripted(403, "TF215106: Access denied"), Misconfigured, None),
        (Scripted(404), Misconfigured, None),
        (Scripted(500), OutcomeUnknown, None),
        (Scripted(502, takes_effect=True), OutcomeUnknown, None),
        (Scripted(504), OutcomeUnknown, None),
        (Scripted(400), Rejected, None),
        (Scripted(409), Rejected, None),
        (Scripted(drops=True), OutcomeUnknown, None),
        (Scripted(takes_effect=True, drops=True), OutcomeUnknown, None),
        (Scripted(stalls=True), OutcomeUnknown, None),
    ],
    ids=lambda value: f"{value.status}" if isinstance(value, Scripted) else None,
)
async def test_an_answer_that_is_no_yes_is_named_by_what_to_do(devops, sink_to, answer, kind, wait_seconds):
    devops.script.append(answer)
    error = await refusal(await sink_to(timeout_seconds=0.3 if answer.stalls else 10))
    assert type(error) is kind
    assert getattr(error, "retry_after_seconds", None) == wait_seconds
    assert len(devops.asked) == 1


async def test_where_nobody_listens_nothing_was_sent(sink_to):
    sink = await sink_to(organization=f"http://127.0.0.1:{free_port()}/contoso")
    assert type(await refusal(sink)) is SinkUnavailable


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"ref": "refs/heads/gone"}, Misconfigured, "Could not get the latest source version"),
        ({"parameters": {"extra": "x"}}, Misconfigured, "Unexpected parameter 'extra'"),
        ({"key_name": "other"}, Misconfigured, "correct the sink's settings, or the pipeline's YAML"),
        ({"variables": {"extra": "x"}}, Misconfigured, "can't set the following variables"),
        ({"pipeline": 8}, Misconfigured, "is not there, or may not be seen"),
        ({"project": "gone"}, Misconfigured, "TF200016"),
        ({"api_version": "9.9"}, Misconfigured, "is out of range for this server"),
    ],
)
async def test_what_all_requests_have_in_common_is_the_setups_fault_and_no_events(devops, sink_to, given, kind, said):
    error = await refusal(await sink_to(**given))
    assert type(error) is kind
    assert said in str(error)
    assert devops.runs == []


@pytest.mark.parametrize(("given", "kind"), [({}, Misconfigured), ({"parameters": {"model": ""}}, Rejected)])
async def test_a_parameter_that_the_sink_never_gives_is_the_setups_fault(devops, sink_to, given, kind):
    text = "/azure-pipelines.yml: A value for the 'model' parameter must be provided."
    devops.script.append(Scripted(400, orjson.dumps({"message": text}).decode()))
    assert type(await refusal(await sink_to(**given))) is kind


# --- whether a run was started


async def answer_of(sink: AzureDevOpsSink, delivery: Delivery = DELIVERY) -> tuple[bool | None, list[str]]:
    with capture_logs() as logged:
        found = await sink.verify(delivery)
    assert all(line["log_level"] == "warning" and line["sink"] == "ml" for line in logged)
    return found, [line["why"] for line in logged]


OTHER = {"eventKey": f"evt-{'0' * 32}"}
MINE = {"eventKey": short_key(DELIVERY)}


def start(devops: AzureDevOpsService, number: int = 1, **parameters: str) -> None:
    for _ in range(number):
        devops.start(parameters)


@pytest.mark.parametrize("shown_by", ["name", "parameters"])
async def test_a_run_that_carries_the_key_was_started_and_else_it_was_not(devops, sink_to, shown_by):
    if shown_by == "parameters":
        devops.pipeline.name, devops.lists_parameters = None, True
    sink = await sink_to()
    assert await answer_of(sink) == (False, [])
    start(devops, **OTHER)
    assert await answer_of(sink) == (False, [])
    await sink.deliver(DELIVERY)
    assert await answer_of(sink) == (True, [])
    assert await answer_of(sink, delivery_at(START, id="e2")) == (False, [])


async def test_a_run_is_found_page_by_page(devops, sink_to):
    devops.page_size = 100
    start(devops, **MINE)
    start(devops, 250, **OTHER)
    assert await answer_of(await sink_to()) == (True, [])
    assert [asked.query.get("continuationToken") for asked in devops.asked] == [None, "100", "200"]


async def test_a_run_that_somebody_deleted_was_started_all_the_same(devops, sink_to):
    start(devops, **MINE)
    devops.runs[0].deleted = True
    assert await answer_of(await sink_to()) == (True, [])


async def test_what_was_queued_long_before_the_event_is_not_looked_at(devops, sink_to):
    devops.now = START - 3600
    start(devops, **MINE)
    start(devops)
    devops.now = START
    assert await answer_of(await sink_to()) == (False, [])


async def test_more_runs_than_are_read_leave_it_open(devops, sink_to):
    start(devops, 2001, **OTHER)
    assert await answer_of(await sink_to()) == (None, ["there are more than 2,000 runs since the event"])


async def test_a_pipeline_that_shows_no_key_is_not_taken_for_one_without_the_run(devops, sink_to):
    devops.pipeline.name = None
    sink = await sink_to()
    await sink.deliver(DELIVERY)
    found, [why] = await answer_of(sink)
    assert found is None
    assert why == (
        "a run of pipeline 7 may be it and shows no key, or its name was cut; let its name hold "
        "${{ parameters.eventKey }}"
    )


async def test_runs_of_people_after_one_with_a_key_are_nothing_to_worry_about(devops, sink_to):
    start(devops, **OTHER)
    start(devops, eventKey="manual")
    assert await answer_of(await sink_to()) == (False, [])


async def test_the_oldest_run_since_the_event_may_be_its_own_where_it_shows_no_key(devops, sink_to):
    start(devops, eventKey="manual")
    start(devops, **OTHER)
    assert (await answer_of(await sink_to()))[0] is None


@pytest.mark.parametrize("answer", [{"value": None}, [], "text", {"message": "?"}])
async def test_a_list_that_cannot_be_read_leaves_it_open(devops, sink_to, answer):
    devops.lists = answer
    assert await answer_of(await sink_to()) == (None, ["the list of runs cannot be read"])


async def test_odd_entries_of_a_list_are_passed_over(devops, sink_to):
    odd = {"buildNumber": 7, "templateParameters": [1]}
    devops.lists = {"value": [None, "x", odd, {"templateParameters": {"a": 1, **MINE}}]}
    assert await answer_of(await sink_to()) == (True, [])


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Scripted(429, headers={"Retry-After": "7"}), SinkUnavailable),
        (Scripted(503, headers={"Retry-After": "3"}), SinkUnavailable),
        (Scripted(401), Misconfigured),
        (Scripted(203, "<html>Sign In</html>", HTML), Misconfigured),
        (Scripted(500), None),
        (Scripted(400), None),
        (Scripted(drops=True), None),
        (Scripted(stalls=True), None),
    ],
    ids=lambda value: f"{value.status}" if isinstance(value, Scripted) else None,
)
async def test_a_question_that_is_refused_is_no_verdict(devops, sink_to, monkeypatch, answer, kind):
    monkeypatch.setattr(devops, "changes", lambda _: True)
    devops.script += [answer, answer]  # a client may ask again when a question is dropped
    sink = await sink_to(timeout_seconds=0.3 if answer.stalls else 10)
    if kind is None:
        found, [why] = await answer_of(sink)
        assert found is None
        assert why.startswith("sink ml: 127.0.0.1 ")
    else:
        with pytest.raises(kind):
            await sink.verify(DELIVERY)


async def test_azure_devops_itself_starts_a_run_for_each_request(devops, sink_to):
    sink = await sink_to()
    await sink.deliver(DELIVERY)
    await sink.deliver(DELIVERY)
    assert len(devops.runs) == 2


# --- with the ledger


async def test_a_run_whose_answer_was_lost_is_not_looked_for_before_the_list_must_have_it(devops, sink_to):
    """A list that lags says that there is none; so the ledger waits."""
    devops.lag_seconds = 60
    sink, settings = await sink_to(), settings_of(devops)
    store = MemoryStore(Contents(), clock=lambda: devops.now)
    ledger = Ledger(store, settings, sink, by="p1", metrics=Metrics(), clock=lambda: devops.now)
    memo = Memo()

    async def attempt() -> bool:
        return await ledger.once(DELIVERY, memo, lambda: sink.deliver(DELIVERY), attempt=1)

    devops.script.append(Scripted(502, takes_effect=True))
    with pytest.raises(OutcomeUnknown):
        await attempt()
    assert await sink.verify(DELIVERY) is False, "it lags"
    with pytest.raises(Later) as later:
        await attempt()
    assert later.value.retry_after_seconds == settings.settles_seconds > devops.lag_seconds
    devops.now += settings.settles_seconds
    assert await attempt() is False
    assert len(devops.runs) == 1


class KnowsAtOnce(AzureDevOpsSettings):
    settles_seconds: float = 0.0
    """The clock of these lives stands still."""


SCRIPTS = {
    "accepted": [],
    "a server error after the effect": [Scripted(500, takes_effect=True)],
    "an answer that is lost": [Scripted(takes_effect=True, drops=True)],
    "a request that is lost": [Scripted(drops=True)],
    "asked to wait": [Scripted(429, headers={"Retry-After": "0"})],
}


@pytest.mark.parametrize(
    ("policy", "script"),
    [("verify", each) for each in SCRIPTS]
    + [(policy, each) for policy in ("skip", "resend") for each in ("accepted", "an answer that is lost")],
)
async def test_dying_at_any_await_verify_starts_once_skip_at_most_once_and_resend_at_least_once(
    devops, credential, policy: OnUnknown, script: str
):
    settings = KnowsAtOnce.model_validate(settings_of(devops, on_unknown=policy).model_dump(exclude_defaults=True))

    def begin() -> None:
        devops.script = list(SCRIPTS[script])
        devops.runs.clear()

    def meet(fate: Any) -> None:
        devops.before = devops.after = fate.step

    held = await die_at_every_step(
        Scene(
            settings,
            sink=lambda: AzureDevOpsSink(settings, Tokens(credential)),
            begin=begin,
            meet=meet,
            effects=lambda: len(devops.runs),
        )
    )
    assert {frozenset(), frozenset({EntryState.INTENT})} <= held


async def test_many_at_one_time_each_start_their_own(devops, sink_to):
    sink = await sink_to()
    deliveries = [delivery_at(START, id=f"e{number}") for number in range(30)]
    await asyncio.gather(*(sink.deliver(each) for each in deliveries))
    assert sorted(run.parameters["eventKey"] for run in devops.runs) == sorted(map(short_key, deliveries))
    assert await asyncio.gather(*(sink.verify(each) for each in deliveries)) == [True] * 30
