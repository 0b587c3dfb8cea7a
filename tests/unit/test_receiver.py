"""The demo's destinations note what came, each once per delivery, in the order it came."""

import io
import json

import pytest
from aiohttp import ClientSession

from worker.local.receiver import AuditTail, Receiver, Record
from worker.local.verdict import Arrival


@pytest.fixture
def record():
    return Record()


def line(event_id: str, **more: object) -> bytes:
    return json.dumps({"id": event_id, "idempotencykey": f"key of {event_id}", **more}).encode() + b"\n"


async def test_the_receiver_accepts_and_notes_every_delivery_and_keeps_a_file_of_them(record):
    file = io.BytesIO()
    async with Receiver(record, file) as url, ClientSession() as session:
        for number, event in enumerate([{"id": "a"}, {"id": "b", "lateby": 40}, {"id": "a"}]):
            answer = await session.post(url, json=event, headers={"webhook-id": f"key {number}"})
            assert answer.status == 204
    assert record.arrivals == [
        Arrival("a", "key 0", late=False),
        Arrival("b", "key 1", late=True),
        Arrival("a", "key 2", late=False),
    ]
    assert record.events == 2
    kept = [json.loads(text) for text in file.getvalue().splitlines()]
    assert kept[1] == {"webhook-id": "key 1", "event": {"id": "b", "lateby": 40}}


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"{", {"webhook-id": "key"}),
        (b'{"type": "no id"}', {"webhook-id": "key"}),
        (b"7", {"webhook-id": "key"}),
        (b'{"id": "a"}', {}),
    ],
)
async def test_the_receiver_refuses_and_does_not_note_what_is_no_delivery(record, body, headers):
    async with Receiver(record, io.BytesIO()) as url, ClientSession() as session:
        answer = await session.post(url, data=body, headers=headers)
        assert answer.status == 400
    assert record.arrivals == []


def test_the_audit_file_is_read_line_by_whole_line_as_it_grows(record, tmp_path):
    path = tmp_path / "audit.jsonl"
    tail = AuditTail(record, path)
    tail.read()
    assert record.arrivals == []
    with path.open("ab", buffering=0) as file:
        file.write(line("a") + line("b", lateby=7) + line("c")[:10])
        tail.read()
        assert [arrival.event_id for arrival in record.arrivals] == ["a", "b"]
        tail.read()
        file.write(line("c")[10:])
        tail.read()
    assert record.arrivals == [
        Arrival("a", "key of a", late=False),
        Arrival("b", "key of b", late=True),
        Arrival("c", "key of c", late=False),
    ]


def test_half_a_line_that_a_killed_worker_left_is_no_delivery(record, tmp_path):
    path = tmp_path / "audit.jsonl"
    path.write_bytes(line("a") + line("b")[:15] + b"\n" + line("b"))
    AuditTail(record, path).read()
    assert [arrival.event_id for arrival in record.arrivals] == ["a", "b"]
