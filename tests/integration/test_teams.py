"""The Teams sink and a workflow: what it posts, what each answer means, what stays secret, and how often it acts."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import orjson
import pytest
from structlog.testing import capture_logs
from yarl import URL

from tests.cards import digest_of, entries_of, run_event
from tests.deliveries import ELEMENT, delivery_of
from tests.fate import Fate, Scene, die_at_every_step
from tests.lanes import FakeOwner, LaneScene, job_of
from tests.support import eventually, free_port
from tests.workflows_service import HIDDEN, PATH, QUERY, Answer, Workflow, workflow_service
from worker.errors import Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable, Throttled, WorkerError
from worker.ledger import EntryState
from worker.settings import OnUnknown
from worker.sinks.limiter import SharedBuckets
from worker.sinks.teams import TeamsSettings, TeamsSink

OFTEN = {"per_second": 100, "per_hour": 100_000}
OpenSink = Callable[..., Awaitable[TeamsSink]]


@pytest.fixture
async def workflow() -> AsyncIterator[Workflow]:
    async with workflow_service(Workflow()) as workflow:
        yield workflow


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def sink_to(monkeypatch, clock) -> AsyncIterator[OpenSink]:
    """Opens a sink with these settings; they all share their limits."""
    opened = []
    shared = SharedBuckets(clock)

    async def open_sink(url: str | None = None, **given: Any) -> TeamsSink:
        if url is not None:
            monkeypatch.setenv("TEAMS_URL", url)
            given["url_env"] = "TEAMS_URL"
        settings = TeamsSettings.model_validate({"name": "ml", "limits": OFTEN} | given)
        sink = TeamsSink(settings, buckets=shared)
        await sink.open()
        opened.append(sink)
        return sink

    yield open_sink
    for sink in opened:
        await sink.aclose()


async def refusal(sink: TeamsSink) -> WorkerError:
    with capture_logs() as logged, pytest.raises(WorkerError) as raised:
        await sink.deliver(delivery_of())
    said = f"{raised.value!r} {raised.value.__cause__!r} {logged!r} {vars(sink)!r}"
    assert not [secret for secret in HIDDEN if secret in said]
    assert str(raised.value).startswith("sink ml: ")
    assert str(raised.value).isprintable()
    return raised.value


# --- what is posted


async def test_one_card_is_posted_at_exactly_the_workflows_url_without_credentials_of_another_kind(workflow, sink_to):
    delivery = delivery_of(run_event(7, "Failed"))
    await (await sink_to(workflow.url)).deliver(delivery)

    [request] = workflow.requests
    assert (request.method, request.raw_path) == ("POST", PATH + QUERY)
    assert request.headers["Content-Type"] == "application/json"
    assert "Authorization" not in request.headers
    assert workflow.posted == {delivery.idempotency_key: 1}
    assert workflow.refusals == []


async def test_another_attempt_posts_the_same_bytes(workflow, sink_to):
    sink = await sink_to(workflow.url)
    await sink.deliver(delivery_of())
    await sink.deliver(delivery_of())

    first, second = workflow.messages
    assert orjson.dumps(first) == orjson.dumps(second)


@pytest.mark.parametrize(
    "delivery",
    [
        delivery_of(ELEMENT | {"subject": '"' * 10_000, "id": "\\" * 10_000, "eventType": "<" * 10_000}),
        digest_of(entries_of(["Failed", "Running"] * 500)),
        digest_of([]),
    ],
    ids=["quotes", "a thousand events", "none"],
)
async def test_what_is_large_or_strange_is_taken(workflow, sink_to, delivery):
    await (await sink_to(workflow.url)).deliver(delivery)

    assert workflow.posted == {delivery.idempotency_key: 1}


async def test_the_file_of_the_url_is_read_at_each_attempt(workflow, sink_to, tmp_path):
    file = tmp_path / "url"
    file.write_text(workflow.url.replace("hidden-flow-4711", "hidden-flow-old") + "\n")
    sink = await sink_to(url_file=file)
    assert type(await refusal(sink)) is Misconfigured
    file.write_text(workflow.url + "\n")
    await sink.deliver(delivery_of())

    assert len(workflow.messages) == 1


# --- what an answer means


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_what_the_workflow_takes_is_accepted(workflow, sink_to, status):
    workflow.script = [Answer(status)]
    await (await sink_to(workflow.url)).deliver(delivery_of())

    assert len(workflow.messages) == 1


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, SinkUnavailable) for status in (408, 425, 429)),
        *((status, OutcomeUnknown) for status in (500, 502, 503, 504, 599)),
        *((status, Misconfigured) for status in (401, 403, 404)),
        *((status, Rejected) for status in (301, 302, 307, 308, 400, 405, 410, 413, 415, 422)),
    ],
)
async def test_every_other_status_has_its_class_and_is_tried_once(workflow, sink_to, status, outcome):
    workflow.script = [Answer(status, headers={"Location": "/elsewhere"})]
    error = await refusal(await sink_to(workflow.url))

    assert type(error) is outcome
    assert str(error).startswith(f"sink ml: 127.0.0.1 answered {status}")
    assert len(workflow.requests) == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_how_long_to_wait_is_passed_on(workflow, sink_to, status):
    workflow.script = [Answer(status, headers={"Retry-After": "17"})]
    assert (await refusal(await sink_to(workflow.url))).retry_after_seconds == 17.0


WITHIN = (
    "Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error {} with ContextId tcid=0"
)


@pytest.mark.parametrize(
    ("status", "outcome"), [(429, SinkUnavailable), (413, Rejected), (404, Misconfigured), (500, OutcomeUnknown)]
)
async def test_an_error_that_is_told_in_the_text_of_a_200_is_one(workflow, sink_to, status, outcome):
    workflow.script = [Answer(200, WITHIN.format(status), posts=False)]
    error = await refusal(await sink_to(workflow.url))

    assert type(error) is outcome
    assert f"HTTP error {status}" in str(error)


@pytest.mark.parametrize(
    "text", ['{"posted": "HTTP error 429"}', '[{"title": "Run Failed: HTTP error 429"}]', "1", "HTTP errors: 0"]
)
async def test_an_answer_of_the_workflows_own_that_quotes_an_event_is_none(workflow, sink_to, text):
    workflow.script = [Answer(200, text)]
    await (await sink_to(workflow.url)).deliver(delivery_of())


@pytest.mark.parametrize("posts", [True, False])
async def test_a_connection_lost_after_the_request_leaves_the_outcome_unknown(workflow, sink_to, posts):
    workflow.script = [Answer(drops=True, posts=posts)]
    error = await refusal(await sink_to(workflow.url))

    assert type(error) is OutcomeUnknown
    assert len(workflow.messages) == posts


async def test_no_answer_in_time_leaves_the_outcome_unknown(workflow, sink_to):
    workflow.script = [Answer(stalls=True)]
    assert type(await refusal(await sink_to(workflow.url, timeout_seconds=0.2))) is OutcomeUnknown


async def test_nobody_listening_is_tried_again(sink_to):
    error = await refusal(await sink_to(f"http://127.0.0.1:{free_port()}{PATH}{QUERY}"))
    assert type(error) is SinkUnavailable


async def test_a_workflow_that_is_asked_too_often_is_tried_again_when_it_says(workflow, sink_to):
    workflow.per_hour = 1
    sink = await sink_to(workflow.url)
    await sink.deliver(delivery_of())
    error = await refusal(sink)

    assert type(error) is SinkUnavailable
    assert error.retry_after_seconds == 30.0


async def test_a_signature_that_was_withdrawn_pauses_the_sink(workflow, sink_to):
    error = await refusal(await sink_to(workflow.url.replace("0815", "0816")))

    assert type(error) is Misconfigured
    assert "WorkflowTriggerUrlSignatureInvalid" in str(error)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://contoso.webhook.office.com/webhookb2/hidden-flow-4711", "which Microsoft has retired"),
        ("https://hooks.example.org/hidden-flow-4711?sig=hidden-signature", "allow_host: hooks.example.org"),
        (f"http://127.0.0.1:1{PATH}", "has no sig"),
    ],
)
async def test_a_url_that_cannot_be_right_pauses_the_sink_and_nothing_is_sent(sink_to, url, reason):
    error = await refusal(await sink_to(url))

    assert type(error) is Misconfigured
    assert reason in str(error)


async def test_a_url_that_is_not_there_pauses_the_sink(sink_to, tmp_path):
    assert type(await refusal(await sink_to(url_file=tmp_path / "missing"))) is Misconfigured


async def test_an_answer_that_repeats_the_url_does_not_make_it_known(workflow, sink_to):
    workflow.script = [
        Answer(400, f"no such thing: {workflow.url} {PATH} {QUERY} hidden-signature_0815-abc", posts=False)
    ]
    error = await refusal(await sink_to(workflow.url))

    assert "no such thing: ***" in str(error)


async def test_the_service_refuses_what_the_real_one_refuses(workflow):
    message: dict[str, Any] = {"type": "message", "attachments": []}
    url = URL(workflow.url, encoded=True)
    async with aiohttp.ClientSession() as session:
        for headers in ({"Authorization": "Bearer x"}, {}, {"Content-Type": "text/plain"}):
            async with session.post(url, data=b'{"type": "text"}', headers=headers) as response:
                assert response.status in {400, 401, 415}
        for attachments in ([], [{}, {}], [{"contentType": "x", "content": {}}]):
            async with session.post(url, json=message | {"attachments": attachments}) as response:
                assert response.status == 400
        card = {"contentType": "application/vnd.microsoft.card.adaptive", "content": {"type": "AdaptiveCard"}}
        later = {**card, "content": {"type": "AdaptiveCard", "version": "1.5"}}
        async with session.post(url, json=message | {"attachments": [later]}) as response:
            assert response.status == 400
        quotes = {**card, "content": {"type": "AdaptiveCard", "version": "1.4", "body": '"' * 8000}}
        async with session.post(url, json=message | {"attachments": [quotes]}) as response:
            assert response.status == 413

    assert workflow.messages == []
    assert workflow.refusals == [
        "DirectApiAuthorizationRequired",
        "UnsupportedMediaType",
        "UnsupportedMediaType",
        "NotOneAttachment",
        "NotOneAttachment",
        "NoAdaptiveCard",
        "CardVersionNotSupported",
        "MessageSizeExceeded",
    ]


# --- limits


async def test_beyond_its_limits_nothing_is_sent_and_the_sink_says_when_it_can_be(workflow, sink_to, clock):
    sink = await sink_to(workflow.url, limits={"per_second": 1, "per_hour": 2})
    assert sink.wait_seconds() == 0.0
    await sink.deliver(delivery_of())
    assert sink.wait_seconds() == 1.0
    error = await refusal(sink)
    assert type(error) is Throttled
    assert error.retry_after_seconds == 1.0
    clock.now += 1.0
    await sink.deliver(delivery_of())
    clock.now += 1.0
    error = await refusal(sink)

    assert error.retry_after_seconds == pytest.approx(1800.0, abs=3)
    assert len(workflow.requests) == 2


async def test_sinks_with_one_url_share_its_limits_and_others_have_their_own(workflow, sink_to, monkeypatch):
    monkeypatch.setenv("OTHER_URL", workflow.url + "&other=1")
    one = await sink_to(workflow.url, limits={"per_second": 1, "per_hour": 100})
    same = await sink_to(workflow.url, limits={"per_second": 1, "per_hour": 100})
    other = await sink_to(url_env="OTHER_URL", limits={"per_second": 1, "per_hour": 100})
    await one.deliver(delivery_of())

    assert type(await refusal(same)) is Throttled
    assert type(await refusal(other)) is Misconfigured  # asked, and the service does not know that URL
    assert len(workflow.requests) == 2


async def test_a_card_that_fails_before_it_is_sent_takes_nothing_from_the_limits(workflow, sink_to, tmp_path):
    file = tmp_path / "url"
    sink = await sink_to(url_file=file, limits={"per_second": 1, "per_hour": 1})
    assert type(await refusal(sink)) is Misconfigured
    file.write_text(workflow.url)
    await sink.deliver(delivery_of())

    assert len(workflow.messages) == 1


async def test_a_lane_keeps_the_limits_without_an_attempt_too_many(workflow, monkeypatch):
    monkeypatch.setenv("TEAMS_URL", workflow.url)
    limits = {"per_second": 20, "per_hour": 100_000}
    settings = TeamsSettings.model_validate({"name": "out", "url_env": "TEAMS_URL", "limits": limits})
    sink, owner = TeamsSink(settings), FakeOwner()
    await sink.open()
    scenery = LaneScene(sink, concurrency=1, retry={"max_attempts": 1})
    async with scenery.running() as stage:
        for number in range(30):
            stage.lane.submit(job_of(owner, f"s{number}", f"e{number}"))
        await eventually(lambda: owner.ended == 30)
    await sink.aclose()

    assert owner.letters == {}
    assert owner.accepted_ids == [f"e{number}" for number in range(30)]
    assert len(workflow.requests) == 30
    assert stage.count("worker_deliveries_total", outcome="postponed") == 0


# --- processes that die

SCRIPTS = {
    "accepted": [],
    "a server error after the effect": [Answer(500, posts=True)],
    "a server error without effect": [Answer(502)],
    "an answer that is lost": [Answer(drops=True)],
    "asked to wait": [Answer(429, headers={"Retry-After": "0"})],
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("policy", ["resend", "skip"])
async def test_dying_at_any_await_resend_posts_at_least_once_skip_at_most_once_and_neither_after_it_is_known(
    workflow, monkeypatch, policy: OnUnknown, script: str
):
    monkeypatch.setenv("TEAMS_URL", workflow.url)
    settings = TeamsSettings.model_validate(
        {"name": "out", "url_env": "TEAMS_URL", "on_unknown": policy, "limits": OFTEN}
    )

    def begin() -> None:
        workflow.script = list(SCRIPTS[script])
        workflow.messages.clear()

    def meet(fate: Fate) -> None:
        workflow.before = workflow.after = fate.step

    held = await die_at_every_step(
        Scene(
            settings,
            sink=lambda: TeamsSink(settings, buckets=SharedBuckets(Clock())),
            begin=begin,
            meet=meet,
            effects=lambda: len(workflow.messages),
        )
    )
    assert {frozenset(), frozenset({EntryState.INTENT})} <= held
