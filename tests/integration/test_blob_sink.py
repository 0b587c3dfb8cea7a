"""The blob sink and Azurite: an archive that is complete and can be read, whatever goes wrong while it is written."""

import asyncio
import random
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.api_service import Scripted
from tests.blob_service import BlobService, blob_service
from tests.certificates import make_certificate
from tests.deliveries import ELEMENT, delivery_of
from tests.lanes import FakeOwner, LaneScene, job_of
from tests.support import eventually
from tests.tokens import FakeCredential, token_for
from worker.errors import Misconfigured, Rejected, SinkUnavailable, Throttled, WorkerError
from worker.identity import Tokens
from worker.sinks import Delivery, blob_lines
from worker.sinks.blob import BlobSettings, BlobSink
from worker.sinks.blob_link import Account, BlobLink

DROPPED_TWICE = (Scripted(takes_effect=True, drops=True), Scripted(drops=True))
"""The answer is lost, and so is the HTTP client's own second try of a PUT."""


@pytest.fixture
async def service(azurite, monkeypatch) -> AsyncIterator[BlobService]:
    async with blob_service(azurite, f"archive-{uuid4().hex}") as running:
        monkeypatch.setenv("ARCHIVE", running.connection_string)
        yield running


@asynccontextmanager
async def opened(service: BlobService, **settings: Any) -> AsyncIterator[BlobSink]:
    base = {"name": "archive", "connection_string_env": "ARCHIVE", "container": service.container}
    sink = BlobSink(BlobSettings.model_validate(base | settings), None)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.aclose()


def event(number: int, **changes: Any) -> Delivery:
    return delivery_of(ELEMENT | {"id": f"e{number}"} | changes, sink="archive")


async def deliver_all(sink: BlobSink, deliveries: Iterable[Delivery]) -> None:
    async def until_sent(delivery: Delivery) -> None:
        """As the lane does it: whoever was not sent, because others took too long, asks again."""
        while True:
            with suppress(Throttled):
                return await sink.deliver(delivery)

    async with asyncio.TaskGroup() as group:
        for delivery in deliveries:
            group.create_task(until_sent(delivery))


def lines_of(blobs: dict[str, bytes]) -> list[dict[str, Any]]:
    assert all(body.endswith(b"\n") for body in blobs.values() if body)
    return [orjson.loads(line) for body in blobs.values() for line in body.splitlines()]


def keys_of(blobs: dict[str, bytes]) -> Counter[str]:
    return Counter(line["idempotencykey"] for line in lines_of(blobs))


# Mode events.


async def test_each_event_is_a_blob_by_its_day_and_can_be_read_back(service):
    deliveries = [event(n, eventTime=f"2026-03-{n + 1:02}T23:59:59.9999999Z", data={"n": n}) for n in range(20)]
    async with opened(service) as sink:
        await deliver_all(sink, deliveries)

    found = {name: orjson.loads(body) for name, body in (await service.blobs()).items()}
    assert found.keys() == {
        f"archive/2026/03/{n + 1:02}/{each.idempotency_key}.json" for n, each in enumerate(deliveries)
    }
    for each in deliveries:
        [kept] = [value for value in found.values() if value["idempotencykey"] == each.idempotency_key]
        assert kept["specversion"] == "1.0"
        assert kept["data"] == each.released.placed.event.data


async def test_an_event_that_comes_twice_stands_there_once(service):
    async with opened(service) as sink:
        await sink.deliver(event(1))
    async with opened(service) as sink:
        await sink.deliver(event(1))

    assert len(await service.blobs()) == 1
    assert service.asked.count("create") == 3  # the first found no container


@pytest.mark.parametrize(
    ("time", "folder"),
    [
        ("2026-03-01T00:30:00+02:00", "2026/02/28"),
        ("2026-03-01T00:00:00Z", "2026/03/01"),
        ("2026-02-28T23:59:60Z", "undated"),
        ("yesterday", "undated"),
        (None, "undated"),
    ],
)
async def test_the_day_is_that_of_the_event_in_utc(service, time, folder):
    async with opened(service, prefix="events/raw/") as sink:
        await sink.deliver(event(1, eventTime=time))

    [name] = await service.blobs()
    assert name == f"events/raw/archive/{folder}/{event(1, eventTime=time).idempotency_key}.json"


HOSTILE = ["../../../etc/passwd", "a/b?sig=x#y", "%2e%2e%2f", "\0\n\r", "☃" * 500, "..", " ", "-" * 2000, '"\\<>|*']


@pytest.mark.parametrize("mode", ["events", "lines"])
async def test_what_an_event_says_never_becomes_part_of_a_name(service, mode):
    deliveries = [
        delivery_of(ELEMENT | {"id": text, "subject": text, "topic": text, "eventType": text}, sink="archive")
        for text in HOSTILE
    ] + [event(n, eventTime=text) for n, text in enumerate(HOSTILE)]
    async with opened(service, mode=mode) as sink:
        await deliver_all(sink, deliveries)

    blobs = await service.blobs()
    assert all(set(name) <= set("archive/undatedjsonl.-0123456789abcdef") for name in blobs)
    kept = lines_of(blobs) if mode == "lines" else [orjson.loads(body) for body in blobs.values()]
    assert sorted(each["id"] for each in kept) == sorted(each.released.placed.event.id for each in deliveries)


@pytest.mark.parametrize("mode", ["events", "lines"])
@pytest.mark.parametrize(
    ("answer", "expected", "retry_after"),
    [
        (Scripted(503, headers={"Retry-After": "9"}), SinkUnavailable, 9),
        (Scripted(500), SinkUnavailable, None),
        (Scripted(429, headers={"Retry-After": "2"}), SinkUnavailable, 2),
        (Scripted(408), SinkUnavailable, None),
        (Scripted(401), Misconfigured, None),
        (Scripted(403, headers={"x-ms-error-code": "AuthorizationFailure"}), Misconfigured, None),
        (Scripted(404, headers={"x-ms-error-code": "ResourceNotFound"}), Misconfigured, None),
        (Scripted(400, headers={"x-ms-error-code": "InvalidHeaderValue"}), Rejected, None),
        (Scripted(413, headers={"x-ms-error-code": "RequestBodyTooLarge"}), Rejected, None),
        (Scripted(307, headers={"Location": "http://127.0.0.1:9/elsewhere"}), Rejected, None),
        (Scripted(409, headers={"x-ms-error-code": "ContainerBeingDeleted"}), SinkUnavailable, None),
        (Scripted(409, headers={"x-ms-error-code": "ContainerDisabled"}), Misconfigured, None),
        (Scripted(400, headers={"x-ms-error-code": "AccountRequiresHttps"}), Misconfigured, None),
        (Scripted(418, text="<xml", headers={"x-ms-error-code": "secret=x"}), Rejected, None),
    ],
)
async def test_an_answer_is_named_by_what_is_to_be_done(service, mode, answer, expected, retry_after):
    await service.create_container()
    async with opened(service, mode=mode) as sink:
        await sink.deliver(event(0))
        service.script.append(answer)
        with pytest.raises(WorkerError, match=f"container {service.container} answered {answer.status}") as raised:
            await sink.deliver(event(1))
        assert type(raised.value) is expected
        assert getattr(raised.value, "retry_after_seconds", None) == retry_after
        assert "secret" not in str(raised.value)
        await sink.deliver(event(1))

    assert len(await service.blobs()) == (1 if mode == "lines" else 2)


@pytest.mark.parametrize("code", ["BlobArchived", "BlobImmutableDueToPolicy"])
async def test_a_blob_that_is_there_and_cannot_be_changed_is_there(service, code):
    await service.create_container()
    service.script.append(Scripted(409, headers={"x-ms-error-code": code}))
    async with opened(service) as sink:
        await sink.deliver(event(1))


@pytest.mark.parametrize("mode", ["events", "lines"])
async def test_an_answer_that_the_sdk_cannot_read_is_tried_again(service, mode):
    await service.create_container()
    async with opened(service, mode=mode) as sink:
        await sink.deliver(event(0))
        service.script.append(Scripted(503, text="no gzip", headers={"Content-Encoding": "gzip"}))
        with pytest.raises(SinkUnavailable):
            await sink.deliver(event(1))
        await sink.deliver(event(1))


@pytest.mark.parametrize("mode", ["events", "lines"])
async def test_a_service_that_stalls_costs_no_more_than_its_time(service, mode):
    await service.create_container()
    async with opened(service, mode=mode, timeout_seconds=1.5) as sink:
        service.script.append(Scripted(stalls=True))
        with pytest.raises(SinkUnavailable, match=r"within 1\.5 s|did not answer"):
            await sink.deliver(event(1))
        await sink.deliver(event(1))


@pytest.mark.parametrize("mode", ["events", "lines"])
async def test_nobody_who_listens_is_unavailable(service, monkeypatch, mode):
    port = service.connection_string.split(":")[-1].split("/")[0]
    monkeypatch.setenv("ARCHIVE", service.connection_string.replace(port, "1"))
    async with opened(service, mode=mode) as sink:
        with pytest.raises(SinkUnavailable, match="was not reached"):
            await sink.deliver(event(1))


async def test_a_new_secret_is_used_without_a_restart(service, monkeypatch):
    monkeypatch.setenv("ARCHIVE", "AccountName=hidden")
    async with opened(service) as sink:
        with pytest.raises(Misconfigured, match="the connection string has neither AccountKey nor") as raised:
            await sink.deliver(event(1))
        assert "hidden" not in str(raised.value)
        monkeypatch.setenv("ARCHIVE", service.connection_string)
        await sink.deliver(event(1))

    assert len(await service.blobs()) == 1


async def test_a_token_is_not_sent_without_tls(service):
    settings = BlobSettings(name="archive", account_url="http://127.0.0.1:1", container=service.container)
    sink = BlobSink(settings, Tokens(FakeCredential()))
    await sink.open()
    with pytest.raises(Misconfigured, match="has to begin with https://"):
        await sink.deliver(event(1))
    await sink.aclose()


async def test_with_the_identity_of_the_process_each_request_carries_a_token_for_storage(tmp_path, monkeypatch):
    seen: list[str] = []

    async def take(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.Response(status=201)

    app = web.Application()
    app.router.add_put("/{path:.*}", take)
    certificate = make_certificate(tmp_path)
    # aiohttp makes its context when it is imported, and the SDK's settings are not the sink's.
    trusting = ssl.create_default_context(cafile=str(certificate.trusted))
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", trusting)
    server = TestServer(app, host="127.0.0.1", scheme="https")
    await server.start_server(ssl=certificate.context)
    url = f"https://127.0.0.1:{server.port}"
    sink = BlobSink(BlobSettings(name="archive", account_url=url, container="archive"), Tokens(FakeCredential()))
    await sink.open()
    await sink.deliver(event(1))
    await sink.aclose()
    await server.close()

    assert seen == [f"Bearer {token_for('https://storage.azure.com/.default')}"]


# Mode lines.


async def test_events_become_lines_by_the_hour_and_can_be_read_back(service):
    times = ["2026-03-01T09:59:59.9999999Z", "2026-03-01T10:00:00Z", "2026-03-01T12:30:00+02:00", None]
    deliveries = [event(n, eventTime=times[n % 4]) for n in range(200)]
    async with opened(service, mode="lines") as sink:
        await deliver_all(sink, deliveries)

    blobs = await service.blobs()
    assert [name.rsplit("/", 1)[0] for name in sorted(blobs)] == [
        "archive/2026/03/01/09",
        "archive/2026/03/01/10",
        "archive/undated",
    ]
    assert keys_of(blobs) == Counter(each.idempotency_key for each in deliveries)
    assert {len(body.splitlines()) for body in blobs.values()} == {50, 100}
    assert service.asked.count("appendblock") < 20, "lines that come at one time go together"


async def test_lines_of_one_subject_stand_in_order(service):
    async with opened(service, mode="lines") as sink:
        for number in range(10):
            await sink.deliver(event(number))

    assert [each["id"] for each in lines_of(await service.blobs())] == [f"e{number}" for number in range(10)]


async def test_an_append_whose_answer_was_lost_is_not_written_again(service):
    await service.create_container()
    async with opened(service, mode="lines") as sink:
        await sink.deliver(event(0))
        service.script += DROPPED_TWICE
        with pytest.raises(SinkUnavailable):
            await sink.deliver(event(1))
        await sink.deliver(event(2))  # another line of the same length comes first
        await sink.deliver(event(1))

    assert [each["id"] for each in lines_of(await service.blobs())] == ["e0", "e1", "e2"]


async def test_a_line_whose_answer_was_lost_is_known_again_after_many_others(service, monkeypatch):
    monkeypatch.setattr(blob_lines, "REMEMBERED", 3)
    await service.create_container()
    async with opened(service, mode="lines") as sink:
        await sink.deliver(event(0))
        service.script += DROPPED_TWICE
        with pytest.raises(SinkUnavailable):
            await sink.deliver(event(1))
        for number in range(2, 8):
            await sink.deliver(event(number))
        await sink.deliver(event(1))

    assert keys_of(await service.blobs()) == Counter(event(number).idempotency_key for number in range(8))


async def test_an_append_that_the_http_client_sends_twice_is_applied_once(service):
    await service.create_container()
    async with opened(service, mode="lines") as sink:
        await sink.deliver(event(0))
        service.script.append(Scripted(takes_effect=True, drops=True))
        await sink.deliver(event(1))

    assert [each["id"] for each in lines_of(await service.blobs())] == ["e0", "e1"]


async def test_an_append_that_was_lost_before_it_took_effect_is_written_after_all(service):
    await service.create_container()
    async with opened(service, mode="lines") as sink:
        await sink.deliver(event(0))
        service.script += [Scripted(drops=True), Scripted(drops=True)]
        with pytest.raises(SinkUnavailable):
            await sink.deliver(event(1))
        await sink.deliver(event(1))

    assert [each["id"] for each in lines_of(await service.blobs())] == ["e0", "e1"]


async def test_the_beginning_of_a_blob_may_be_lost_too(service):
    await service.create_container()
    async with opened(service, mode="lines") as sink:
        service.script += DROPPED_TWICE
        with pytest.raises(SinkUnavailable):
            await sink.deliver(event(0))
        await sink.deliver(event(0))

    blobs = await service.blobs()
    assert len(blobs) == 1
    assert [each["id"] for each in lines_of(blobs)] == ["e0"]


async def test_a_beginning_that_comes_late_leaves_what_stands_there(service):
    await service.create_container()
    account = Account("archive", service.container, lambda: service.connection_string, None, None)
    link = BlobLink(account, read_seconds=10)
    await link.create_empty("a", "text/plain")
    await link.append("a", b"line", position=0)
    await link.create_empty("a", "text/plain")
    await link.aclose()

    assert await service.blobs() == {"a": b"line"}


async def test_a_full_blob_is_followed_by_another(service, monkeypatch):
    monkeypatch.setattr(blob_lines, "MOST_BLOCKS", 3)
    await service.create_container()
    async with opened(service, mode="lines") as sink:
        for number in range(7):
            await sink.deliver(event(number))
        service.script.append(Scripted(409, headers={"x-ms-error-code": "BlockCountExceedsLimit"}))
        await sink.deliver(event(7))

    blobs = await service.blobs()
    assert sorted(len(body.splitlines()) for body in blobs.values()) == [1, 1, 3, 3]
    assert sorted(name.rsplit("-", 1)[1] for name in blobs) == ["1.jsonl", "2.jsonl", "3.jsonl", "4.jsonl"]


async def test_a_blob_that_somebody_leases_is_followed_by_another(service):
    await service.create_container()
    async with opened(service, mode="lines") as sink:
        await sink.deliver(event(0))
        service.script.append(Scripted(412, headers={"x-ms-error-code": "LeaseIdMissing"}))
        await sink.deliver(event(1))

    assert sorted(len(body.splitlines()) for body in (await service.blobs()).values()) == [1, 1]


async def test_a_blob_that_somebody_deleted_is_followed_by_another(service):
    async with opened(service, mode="lines") as sink:
        await sink.deliver(event(0))
        [name] = await service.blobs()
        await service.delete(name)
        await sink.deliver(event(1))

    assert [each["id"] for each in lines_of(await service.blobs())] == ["e1"]


async def test_a_blob_that_does_not_end_where_it_did_is_followed_by_another(service):
    async with opened(service, mode="lines") as sink:
        await sink.deliver(event(0))
        service.script.append(Scripted(412, headers={"x-ms-error-code": "AppendPositionConditionNotMet"}))
        with pytest.raises(SinkUnavailable, match="an earlier append came late"):
            await sink.deliver(event(1))
        await sink.deliver(event(1))

    blobs = await service.blobs()
    assert len(blobs) == 2
    assert [each["id"] for each in lines_of(blobs)] == ["e0", "e1"]


async def test_large_lines_share_appends_as_far_as_they_fit(service):
    deliveries = [event(n, data="x" * 900_000) for n in range(12)]
    async with opened(service, mode="lines") as sink:
        await deliver_all(sink, deliveries)
        with pytest.raises(Rejected, match="bytes as a line; one append takes 4,194,304"):
            await sink.deliver(event(99, data="x" * (4 * 1024 * 1024)))

    assert keys_of(await service.blobs()) == Counter(each.idempotency_key for each in deliveries)


async def test_many_hours_take_turns_in_few_blobs(service, monkeypatch):
    monkeypatch.setattr(blob_lines, "MOST_BLOBS", 4)
    deliveries = [event(n, eventTime=f"2026-03-01T{n % 24:02}:00:00Z") for n in range(96)]
    async with opened(service, mode="lines") as sink:
        for delivery in deliveries:
            await sink.deliver(delivery)

    blobs = await service.blobs()
    assert keys_of(blobs) == Counter(each.idempotency_key for each in deliveries)
    assert len({name.rsplit("/", 1)[0] for name in blobs}) == 24


async def test_another_life_writes_a_blob_of_its_own_and_a_repeated_line_can_be_recognised(service):
    for _ in range(2):
        async with opened(service, mode="lines") as sink:
            await sink.deliver(event(1))

    blobs = await service.blobs()
    assert len(blobs) == 2
    assert keys_of(blobs) == {event(1).idempotency_key: 2}


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8, 13, 30])
async def test_a_cancelled_line_does_not_harm_the_next(service, steps):
    await service.create_container()
    async with opened(service, mode="lines") as sink:
        attempt = asyncio.create_task(sink.deliver(event(1)))
        for _ in range(steps):
            await asyncio.sleep(0)
        attempt.cancel()
        await asyncio.gather(attempt, return_exceptions=True)
        await sink.deliver(event(2))
        await sink.deliver(event(1))

    assert keys_of(await service.blobs()) == {event(number).idempotency_key: 1 for number in (1, 2)}


GOES_WRONG = [
    (Scripted(503),),
    (Scripted(500),),
    (Scripted(takes_effect=True, status=500),),
    (Scripted(takes_effect=True, stalls=True),),
    (Scripted(drops=True), Scripted(drops=True)),
    DROPPED_TWICE,
]


@pytest.mark.parametrize("mode", ["events", "lines"])
async def test_an_archive_is_complete_and_each_line_stands_once_however_often_writing_fails(service, mode):
    await service.create_container()
    owner, rng = FakeOwner(), random.Random(3)
    subjects, length = 20, 8
    async with (
        opened(service, mode=mode, timeout_seconds=0.4) as sink,
        LaneScene(sink, concurrency=32).running() as stage,
    ):
        for number in range(length):
            for subject in range(subjects):
                stage.lane.submit(job_of(owner, f"s{subject}", f"{subject}.{number}"))
        for _ in range(8):
            service.script += rng.choice(GOES_WRONG)
            before = owner.ended
            await eventually(lambda before=before: owner.ended > before or owner.ended == subjects * length)
        await eventually(lambda: owner.ended == subjects * length, 40)

    assert not owner.letters
    blobs = await service.blobs()
    kept = lines_of(blobs) if mode == "lines" else [orjson.loads(body) for body in blobs.values()]
    assert Counter(each["id"] for each in kept) == Counter(f"{s}.{n}" for s in range(subjects) for n in range(length))
    if mode == "lines":
        for subject in range(subjects):
            ids = [each["id"] for each in kept if each["id"].startswith(f"{subject}.")]
            assert ids == [f"{subject}.{number}" for number in range(length)]
