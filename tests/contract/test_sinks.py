"""What every kind of sink promises, whatever its destination."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import ValidationError
from structlog.testing import capture_logs

from tests.acs_service import AcsService, acs_service
from tests.deliveries import ELEMENT, delivery_of
from tests.mailbox import Mailbox, mail_server
from tests.workflows_service import HIDDEN, Workflow, workflow_service
from worker.sinks import PreviewingSink, Sink, VerifyingSink
from worker.sinks.installed import find_kind
from worker.sinks.table import KINDS

ACS_KEY = b64encode(b"hidden-access-key-4711").decode()
SECRETS = {
    "CONTRACT_URL": "hidden-path-4711",
    "CONTRACT_SECRET": "hidden-signing-key",
    "CONTRACT_AUTH": "hidden-token",
    "CONTRACT_TOKEN": "hidden-access-token",
    "CONTRACT_KEY": ACS_KEY,
}


class FixedToken:
    """The identity of a process, to log in with."""

    async def token(self, scope: str) -> str:
        return SECRETS["CONTRACT_TOKEN"]


HIDDEN_TEXTS = (*SECRETS.values(), *HIDDEN)


class Rig(Protocol):
    """A destination of one kind: how to configure a sink for it, and what has arrived."""

    kind: str

    def settings(self) -> dict[str, Any]: ...

    def arrived(self) -> list[dict[str, Any]]:
        """One record per accepted delivery: `id`, and the idempotency key as `key`."""
        ...


class LogRig:
    kind = "log"

    def __init__(self, lines: list[Any]) -> None:
        self._lines = lines

    def settings(self) -> dict[str, Any]:
        return {}

    def arrived(self) -> list[dict[str, Any]]:
        return [{"id": line["id"], "key": line["idempotency_key"]} for line in self._lines]


class FileRig:
    kind = "file"

    def __init__(self, folder: Path) -> None:
        self._path = folder / "missing" / "out.jsonl"

    def settings(self) -> dict[str, Any]:
        return {"path": str(self._path)}

    def arrived(self) -> list[dict[str, Any]]:
        lines = [orjson.loads(line) for line in self._path.read_bytes().splitlines()] if self._path.exists() else []
        return [{"id": line["id"], "key": line["idempotencykey"]} for line in lines]


class EmailRig:
    kind = "email"

    def __init__(self, mailbox: Mailbox, port: int) -> None:
        self._mailbox = mailbox
        self._port = port

    def settings(self) -> dict[str, Any]:
        return {
            "host": "127.0.0.1",
            "port": self._port,
            "security": "none",
            "from": "ml@example.org",
            "to": ["oncall@example.org"],
            "username": "ml",
            "password_env": "CONTRACT_SECRET",
        }

    def arrived(self) -> list[dict[str, Any]]:
        return [{"id": mail["X-Event-Id"], "key": mail["X-Idempotency-Key"]} for mail in self._mailbox.messages]


class AcsEmailRig:
    kind = "acs_email"

    def __init__(self, service: AcsService) -> None:
        self._service = service

    def settings(self) -> dict[str, Any]:
        return {
            "connection_string_env": "CONTRACT_CONNECTION",
            "from": "ml@example.org",
            "to": ["oncall@example.org"],
        }

    def arrived(self) -> list[dict[str, Any]]:
        """Of all requests that were accepted, repetitions too: the service itself sends such a mail once."""
        headers = [each.message["headers"] for each in self._service.accepted]
        return [{"id": each["X-Event-Id"], "key": each["X-Idempotency-Key"]} for each in headers]


class TeamsRig:
    kind = "teams"

    def __init__(self, workflow: Workflow) -> None:
        self._workflow = workflow

    def settings(self) -> dict[str, Any]:
        return {"url_env": "CONTRACT_URL", "limits": {"per_second": 100, "per_hour": 1000}}

    def arrived(self) -> list[dict[str, Any]]:
        return [
            {"id": fact["value"], "key": message["eventKey"]}
            for message in self._workflow.messages
            for element in message["attachments"][0]["content"]["body"]
            for fact in element.get("facts", [])
            if fact["title"] == "Event"
        ]


class WebhookRig:
    kind = "webhook"

    def __init__(self) -> None:
        self._arrived: list[dict[str, Any]] = []

    async def handle(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        self._arrived.append({"id": body["id"], "key": request.headers["webhook-id"]})
        return web.Response(status=202)

    def settings(self) -> dict[str, Any]:
        return {
            "url_env": "CONTRACT_URL",
            "secret_env": "CONTRACT_SECRET",
            "headers_env": {"Authorization": "CONTRACT_AUTH"},
        }

    def arrived(self) -> list[dict[str, Any]]:
        return self._arrived


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with capture_logs() as lines:
        yield lines


@pytest.fixture(params=sorted(KINDS))
async def rig(request, tmp_path, monkeypatch, logged) -> AsyncIterator[Rig]:
    match request.param:
        case "log":
            yield LogRig(logged)
        case "file":
            yield FileRig(tmp_path)
        case "email":
            mailbox = Mailbox()
            monkeypatch.setenv("CONTRACT_SECRET", SECRETS["CONTRACT_SECRET"])
            async with mail_server(mailbox, password=SECRETS["CONTRACT_SECRET"]) as port:
                yield EmailRig(mailbox, port)
        case "acs_email":
            async with acs_service(key=ACS_KEY) as service:
                monkeypatch.setenv("CONTRACT_CONNECTION", service.connection_string)
                yield AcsEmailRig(service)
        case "teams":
            async with workflow_service(Workflow()) as workflow:
                monkeypatch.setenv("CONTRACT_URL", workflow.url)
                yield TeamsRig(workflow)
        case "webhook":
            webhook = WebhookRig()
            app = web.Application()
            app.router.add_post("/{path}", webhook.handle)
            async with TestServer(app, host="127.0.0.1") as server:
                secrets = SECRETS | {"CONTRACT_URL": str(server.make_url(f"/{SECRETS['CONTRACT_URL']}"))}
                for name, value in secrets.items():
                    monkeypatch.setenv(name, value)
                yield webhook
        case kind:
            pytest.fail(f"the contract suite has no rig for the kind {kind!r}: add one")


def build(rig: Rig, **more: Any) -> Sink:
    kind = find_kind(rig.kind)
    settings = kind.settings.model_validate({"name": "out", "kind": rig.kind, **rig.settings(), **more})
    return kind.build(settings, FixedToken() if settings.needs_identity else None)


@asynccontextmanager
async def opened(rig: Rig) -> AsyncIterator[Sink]:
    sink = build(rig)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.aclose()


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
