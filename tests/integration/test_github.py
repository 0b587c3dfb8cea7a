"""The github sink and GitHub's API: what it starts, what each answer means, and how it finds its runs again."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.api_service import Scripted
from tests.apis.github import REPOSITORY, START, TOKEN, GitHubService, Workflow, github_service
from tests.deliveries import ELEMENT, delivery_of
from tests.fate import Scene, die_at_every_step
from tests.memory_store import Contents, MemoryStore
from tests.support import free_port
from worker.errors import Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable, WorkerError
from worker.events import UnixSeconds
from worker.ledger import EntryState, Later, Ledger, Memo
from worker.metrics import Metrics
from worker.settings import OnUnknown
from worker.sinks import Delivery
from worker.sinks.answers import listening
from worker.sinks.github import GitHubSettings, GitHubSink
from worker.sinks.rest import short_key
from worker.sinks.runs import iso_time

OpenSink = Callable[..., Awaitable[GitHubSink]]
LISTENER = Workflow(listens_to=("drift",))
EVENT = {"workflow": None, "event_type": "drift"}


@pytest.fixture
async def github() -> AsyncIterator[GitHubService]:
    async with github_service() as service:
        yield service


def settings_of(github: GitHubService, **given: Any) -> GitHubSettings:
    plain = {"name": "ml", "api_url": github.url, "repository": REPOSITORY, "workflow": "retrain.yml"}
    token = {} if "token_file" in given else {"token_env": "GITHUB_TOKEN"}
    return GitHubSettings.model_validate(plain | token | given)


@pytest.fixture
async def sink_to(monkeypatch, github) -> AsyncIterator[OpenSink]:
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    opened = []

    async def open_sink(service: GitHubService = github, **given: Any) -> GitHubSink:
        sink = GitHubSink(settings_of(service, **given), clock=lambda: github.now)
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


async def refusal(sink: GitHubSink, delivery: Delivery = DELIVERY) -> WorkerError:
    with capture_logs() as logged, pytest.raises(WorkerError) as raised:
        await sink.deliver(delivery)
    assert TOKEN not in f"{raised.value!r} {raised.value.__cause__!r} {logged!r} {vars(sink)!r}"
    assert str(raised.value).startswith("sink ml: ")
    assert str(raised.value).isprintable()
    return raised.value


# --- what is started


async def test_a_workflow_is_started_with_its_inputs_as_texts_and_the_key(github, sink_to):
    github.workflows = [Workflow(inputs={"event_key": True, "status": True, "replayed": False})]
    github.refs.add("v1")
    sink = await sink_to(
        ref="v1", inputs={"status": "{{ event.data.runstatus }}", "replayed": "{{ delivery.replayed }}"}
    )
    with listening() as heard:
        await sink.deliver(DELIVERY)

    [run] = github.runs
    assert run.given == {"status": "Failed", "replayed": "false", "event_key": short_key(DELIVERY)}
    assert run.title == f"Retrain {short_key(DELIVERY)}"
    [asked] = github.asked
    assert asked.headers["accept"] == "application/vnd.github+json"
    assert asked.headers["x-github-api-version"] == "2026-03-10"
    assert heard[0].status == "200"
    assert b'"workflow_run_id": 1' in heard[0].body


async def test_an_event_is_sent_with_its_payload_in_types_and_starts_whoever_listens(github, sink_to):
    github.workflows = [LISTENER, Workflow("other.yml", listens_to=("other",))]
    sink = await sink_to(**EVENT, payload={"data": "{{ event.data }}", "late": "{{ delivery.late_by_ms }}"})
    await sink.deliver(DELIVERY)

    [run] = github.runs
    assert run.workflow is LISTENER
    assert run.given == {"data": ELEMENT["data"], "late": None, "event_key": short_key(DELIVERY)}


async def test_a_server_that_knows_only_the_older_version_is_not_asked_for_details(sink_to):
    async with github_service(versions=("2022-11-28",)) as server:
        await (await sink_to(server, api_version="2022-11-28")).deliver(DELIVERY)
        assert len(server.runs) == 1
        error = await refusal(await sink_to(server))
    assert type(error) is Misconfigured
    assert "correct the sink's settings" in str(error)


async def test_a_token_in_a_file_is_read_at_each_attempt_and_a_broken_one_is_misconfigured(github, sink_to, tmp_path):
    file = tmp_path / "token"
    sink = await sink_to(token_file=file)
    for content, hint in (
        (None, "cannot be read"),
        ("expired", "answered 401: "),
        (f"{TOKEN}\nmore", "a character that no token has"),
    ):
        if content is not None:
            file.write_text(content)
        error = await refusal(sink)
        assert type(error) is Misconfigured
        assert hint in str(error)
    file.write_text(f"{TOKEN}\n")
    await sink.deliver(DELIVERY)
    assert len(github.runs) == 1


@pytest.mark.parametrize(
    ("given", "data"),
    [
        ({"inputs": {"key": "{{ event.data }}"}}, "x" * 65_500),
        (EVENT | {"payload": {"data": "{{ event.data }}"}}, ["x" * 40_000] * 2),
    ],
)
async def test_what_github_does_not_take_for_its_size_is_rejected_without_asking(github, sink_to, given, data):
    error = await refusal(await sink_to(**given), delivery_at(START, data=data))
    assert type(error) is Rejected
    assert "characters, and GitHub takes 65,535; send less of the event" in str(error)
    assert github.asked == []


async def test_what_fits_just_so_is_taken(github, sink_to):
    fixed = len('{"key":"","event_key":""}') + len(short_key(DELIVERY))
    sink = await sink_to(inputs={"key": "{{ event.data }}"})
    await sink.deliver(delivery_at(START, data="ä" * (65_535 - fixed)))
    assert len(github.runs) == 1


async def test_a_template_that_cannot_be_filled_in_is_rejected_and_says_where(github, sink_to):
    error = await refusal(await sink_to(inputs={"key": "{{ event.data.modelName }}"}))
    assert type(error) is Rejected
    assert str(error).startswith("sink ml: inputs.key: ")
    assert github.asked == []


# --- what answers mean

LIMITED = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(START) + 42)}


@pytest.mark.parametrize(
    ("answer", "kind", "wait_seconds"),
    [
        (Scripted(429, headers={"Retry-After": "7"}), SinkUnavailable, 7),
        (Scripted(403, "You have exceeded a secondary rate limit", {"Retry-After": "9"}), SinkUnavailable, 9),
        (Scripted(403, headers=LIMITED), SinkUnavailable, 42),
        (Scripted(429, headers=LIMITED | {"x-ratelimit-reset": "99999999999"}), SinkUnavailable, 3600),
        (Scripted(403, headers=LIMITED | {"x-ratelimit-reset": "1"}), SinkUnavailable, 1),
        (Scripted(403, headers=LIMITED | {"x-ratelimit-reset": "soon"}), Misconfigured, None),
        (Scripted(403, "You have exceeded a secondary rate limit"), SinkUnavailable, 60),
        (Scripted(429), SinkUnavailable, 60),
        (Scripted(403, "Resource not accessible by personal access token"), Misconfigured, None),
        (Scripted(403, headers=LIMITED | {"x-ratelimit-remaining": "4999"}), Misconfigured, None),
        (Scripted(401), Misconfigured, None),
        (Scripted(404), Misconfigured, None),
        (Scripted(408), SinkUnavailable, None),
        (Scripted(503, headers={"Retry-After": "3"}), SinkUnavailable, 3),
        (Scripted(500), OutcomeUnknown, None),
        (Scripted(502, takes_effect=True), OutcomeUnknown, None),
        (Scripted(504), OutcomeUnknown, None),
        (Scripted(301, headers={"Location": "/elsewhere"}), Misconfigured, None),
        (Scripted(307, headers={"Location": "/elsewhere"}), Misconfigured, None),
        (Scripted(400), Rejected, None),
        (Scripted(400, '{"message": "\\"return_run_details\\" is not a permitted key."}'), Misconfigured, None),
        (Scripted(410), Rejected, None),
        (Scripted(422, "client_payload is too large."), Rejected, None),
        (Scripted(drops=True), OutcomeUnknown, None),
        (Scripted(takes_effect=True, drops=True), OutcomeUnknown, None),
        (Scripted(stalls=True), OutcomeUnknown, None),
    ],
    ids=lambda value: f"{value.status}" if isinstance(value, Scripted) else None,
)
async def test_an_answer_that_is_no_yes_is_named_by_what_to_do(github, sink_to, answer, kind, wait_seconds):
    github.script.append(answer)
    error = await refusal(await sink_to(timeout_seconds=0.3 if answer.stalls else 10))
    assert type(error) is kind
    assert getattr(error, "retry_after_seconds", None) == wait_seconds
    assert len(github.asked) == 1


async def test_where_nobody_listens_nothing_was_sent(sink_to):
    sink = await sink_to(api_url=f"http://127.0.0.1:{free_port()}")
    assert type(await refusal(sink)) is SinkUnavailable


@pytest.mark.parametrize(
    ("workflow", "given", "kind", "said"),
    [
        (Workflow(), {"ref": "gone"}, Misconfigured, "No ref found for: gone"),
        (Workflow(inputs={"event_key": False}), {"inputs": {"extra": "x"}}, Misconfigured, "Unexpected inputs"),
        (Workflow(inputs={}), {}, Misconfigured, "Unexpected inputs provided: ['event_key']"),
        (Workflow(dispatches=False), {}, Misconfigured, "does not have 'workflow_dispatch' trigger"),
        (Workflow(inputs={"event_key": True, "model": True}), {}, Misconfigured, "Required input 'model'"),
        (Workflow(inputs={"event_key": True, "model": True}), {"inputs": {"model": ""}}, Rejected, "input 'model'"),
        (Workflow(), {"workflow": "gone.yml"}, Misconfigured, "or the token may not see it"),
        (Workflow(), {"repository": "octo/gone"}, Misconfigured, "or the token may not see it"),
    ],
)
async def test_what_all_requests_have_in_common_is_the_setups_fault_and_no_events(sink_to, workflow, given, kind, said):
    async with github_service(workflow) as github:
        error = await refusal(await sink_to(github, **given))
    assert type(error) is kind
    assert said in str(error)
    assert github.runs == []


# --- whether a run was started


async def answer_of(sink: GitHubSink, delivery: Delivery = DELIVERY) -> tuple[bool | None, list[str]]:
    with capture_logs() as logged:
        found = await sink.verify(delivery)
    assert all(line["log_level"] == "warning" and line["sink"] == "ml" for line in logged)
    return found, [line["why"] for line in logged]


def start(github: GitHubService, number: int = 1, **given: Any) -> None:
    for _ in range(number):
        github.start(github.workflows[0], "workflow_dispatch", given)


OTHER = {"event_key": f"evt-{'0' * 32}"}
MINE = {"event_key": short_key(DELIVERY)}


async def test_a_run_that_carries_the_key_was_started_and_else_it_was_not(github, sink_to):
    sink = await sink_to()
    assert await answer_of(sink) == (False, [])
    start(github, **OTHER)
    assert await answer_of(sink) == (False, [])
    await sink.deliver(DELIVERY)
    assert await answer_of(sink) == (True, [])
    assert await answer_of(sink, delivery_at(START, id="e2")) == (False, [])


async def test_a_run_is_found_among_many_by_the_list_as_it_is_and_not_by_its_filters(github, sink_to):
    start(github, **MINE)
    start(github, 250, **OTHER)
    assert await answer_of(await sink_to()) == (True, [])
    assert [asked.query["page"] for asked in github.asked] == ["1", "2", "3"]
    assert {frozenset(asked.query) for asked in github.asked} == {
        frozenset({"per_page", "page", "exclude_pull_requests"})
    }


async def test_what_was_made_long_before_the_event_is_not_read(github, sink_to):
    github.now = START - 3600
    start(github, **MINE)
    start(github, 300, **OTHER)
    github.now = START
    start(github, 50, **OTHER)
    assert await answer_of(await sink_to()) == (False, [])
    assert len(github.asked) == 1


async def test_more_runs_than_are_read_leave_it_open(github, sink_to):
    start(github, 2001, **OTHER)
    found, [why] = await answer_of(await sink_to())
    assert found is None
    assert why == "there are more than 2,000 runs since the event"


async def test_a_workflow_that_shows_no_key_is_not_taken_for_one_without_the_run(github, sink_to):
    github.workflows[0].run_name = None
    sink = await sink_to()
    await sink.deliver(DELIVERY)
    found, [why] = await answer_of(sink)
    assert found is None
    assert why == (
        "a run of .github/workflows/retrain.yml may be it and shows no key, or its name was cut; let its run-name hold "
        "${{ inputs.event_key }} before anything long"
    )


async def test_runs_of_people_after_one_with_a_key_are_nothing_to_worry_about(github, sink_to):
    start(github, **OTHER)
    start(github)
    assert await answer_of(await sink_to()) == (False, [])


async def test_the_oldest_run_since_the_event_may_be_its_own_where_it_shows_no_key(github, sink_to):
    start(github)
    start(github, **OTHER)
    assert (await answer_of(await sink_to()))[0] is None


async def test_a_workflow_that_shows_keys_no_longer_is_not_taken_for_one_without_the_run(github, sink_to):
    github.now = START - 3600
    start(github, **OTHER)
    github.now = START
    github.workflows[0].run_name = None
    sink = await sink_to()
    await sink.deliver(DELIVERY)
    assert (await answer_of(sink))[0] is None


async def test_runs_that_were_started_otherwise_or_before_need_no_key(github, sink_to):
    github.start(github.workflows[0], "push", {})
    github.now = START - 3600
    start(github)
    assert await answer_of(await sink_to()) == (False, [])


async def test_of_all_workflows_that_listen_each_must_show_keys(github, sink_to):
    github.workflows = [LISTENER, Workflow("silent.yml", listens_to=("other",), run_name=None)]
    sink = await sink_to(**EVENT)
    start(github, **OTHER)
    assert await answer_of(sink) == (False, [])
    await sink.deliver(DELIVERY)
    assert await answer_of(sink) == (True, [])
    github.start(github.workflows[1], "repository_dispatch", {})
    assert await answer_of(sink) == (True, [])
    found, [why] = await answer_of(sink, delivery_at(START, id="e2"))
    assert found is None
    assert "silent.yml may be it and shows no key" in why
    assert "hold ${{ github.event.client_payload.event_key }} before anything long" in why


@pytest.mark.parametrize("answer", [{"workflow_runs": None}, [], "text", {"message": "?"}])
async def test_a_list_that_cannot_be_read_leaves_it_open(github, sink_to, answer):
    github.lists = answer
    assert await answer_of(await sink_to()) == (None, ["the list of runs cannot be read"])


async def test_odd_entries_of_a_list_are_passed_over(github, sink_to):
    github.lists = {"workflow_runs": [None, "x", {"created_at": 7}, {"display_title": MINE["event_key"]}]}
    assert await answer_of(await sink_to()) == (True, [])


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Scripted(403, headers=LIMITED), SinkUnavailable),
        (Scripted(503, headers={"Retry-After": "3"}), SinkUnavailable),
        (Scripted(401), Misconfigured),
        (Scripted(404), Misconfigured),
        (Scripted(500), None),
        (Scripted(422), None),
        (Scripted(302, headers={"Location": "/elsewhere"}), Misconfigured),
        (Scripted(drops=True), None),
        (Scripted(stalls=True), None),
    ],
    ids=lambda value: f"{value.status}" if isinstance(value, Scripted) else None,
)
async def test_a_question_that_is_refused_is_no_verdict(github, sink_to, monkeypatch, answer, kind):
    monkeypatch.setattr(github, "changes", lambda _: True)
    github.script += [answer, answer]  # a client may ask again when a question is dropped
    sink = await sink_to(timeout_seconds=0.3 if answer.stalls else 10)
    if kind is None:
        found, [why] = await answer_of(sink)
        assert found is None
        assert why.startswith("sink ml: 127.0.0.1 ")
    else:
        with pytest.raises(kind):
            await sink.verify(DELIVERY)


async def test_a_list_without_end_is_given_up_in_time(github, sink_to, monkeypatch):
    monkeypatch.setattr("worker.sinks.runs.LOOK_SECONDS", 0.2)
    monkeypatch.setattr(github, "changes", lambda _: True)
    github.script.append(Scripted(stalls=True))
    assert await answer_of(await sink_to()) == (None, ["the list of runs took longer than 0.2 s"])


async def test_github_itself_starts_a_run_for_each_request_and_its_filters_miss_them(github, sink_to):
    sink = await sink_to()
    await sink.deliver(DELIVERY)
    await sink.deliver(DELIVERY)
    assert len(github.runs) == 2


# --- with the ledger


async def test_a_run_whose_answer_was_lost_is_not_looked_for_before_the_list_must_have_it(github, sink_to):
    """A list that lags says that there is none; so the ledger waits."""
    github.lag_seconds = 200
    sink, settings = await sink_to(), settings_of(github)
    store = MemoryStore(Contents(), clock=lambda: github.now)
    ledger = Ledger(store, settings, sink, by="p1", metrics=Metrics(), clock=lambda: github.now)
    memo = Memo()

    async def attempt() -> bool:
        return await ledger.once(DELIVERY, memo, lambda: sink.deliver(DELIVERY), attempt=1)

    github.script.append(Scripted(502, takes_effect=True))
    with pytest.raises(OutcomeUnknown):
        await attempt()
    assert await sink.verify(DELIVERY) is False, "it lags"
    with pytest.raises(Later) as later:
        await attempt()
    assert later.value.retry_after_seconds == settings.settles_seconds > github.lag_seconds
    github.now += settings.settles_seconds
    assert await attempt() is False
    assert len(github.runs) == 1


class KnowsAtOnce(GitHubSettings):
    settles_seconds: float = 0.0
    """The clock of these lives stands still."""


SCRIPTS = {
    "accepted": [],
    "a server error after the effect": [Scripted(500, takes_effect=True)],
    "an answer that is lost": [Scripted(takes_effect=True, drops=True)],
    "a request that is lost": [Scripted(drops=True)],
    "asked to wait": [Scripted(403, headers={"Retry-After": "0"})],
}


@pytest.mark.parametrize(
    ("policy", "script"),
    [("verify", each) for each in SCRIPTS]
    + [(policy, each) for policy in ("skip", "resend") for each in ("accepted", "an answer that is lost")],
)
async def test_dying_at_any_await_verify_starts_once_skip_at_most_once_and_resend_at_least_once(
    github, monkeypatch, policy: OnUnknown, script: str
):
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    settings = KnowsAtOnce.model_validate(settings_of(github, on_unknown=policy).model_dump(exclude_defaults=True))

    def begin() -> None:
        github.script = list(SCRIPTS[script])
        github.runs.clear()

    def meet(fate: Any) -> None:
        github.before = github.after = fate.step

    held = await die_at_every_step(
        Scene(settings, sink=lambda: GitHubSink(settings), begin=begin, meet=meet, effects=lambda: len(github.runs))
    )
    assert {frozenset(), frozenset({EntryState.INTENT})} <= held


async def test_many_at_one_time_each_start_their_own(github, sink_to):
    sink = await sink_to()
    deliveries = [delivery_at(START, id=f"e{number}") for number in range(30)]
    await asyncio.gather(*(sink.deliver(each) for each in deliveries))
    assert sorted(run.given["event_key"] for run in github.runs) == sorted(map(short_key, deliveries))
    assert await asyncio.gather(*(sink.verify(each) for each in deliveries)) == [True] * 30
