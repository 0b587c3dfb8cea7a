from structlog.testing import capture_logs

from tests.deliveries import ELEMENT, delivery_of
from worker.sinks.log import LogSettings, LogSink


async def logged(*, late_by_ms: int | None = None, **settings) -> dict:
    with capture_logs() as lines:
        await LogSink(LogSettings(name="out", **settings)).deliver(delivery_of(late_by_ms=late_by_ms))
    [line] = lines
    return dict(line)


async def test_a_line_says_which_event_went_where_and_not_what_was_in_it():
    delivery = delivery_of()

    assert await logged() == {
        "event": "event delivered",
        "log_level": "info",
        "sink": "out",
        "route": "all",
        "id": "e1",
        "type": ELEMENT["eventType"],
        "source": ELEMENT["topic"],
        "subject": ELEMENT["subject"],
        "time": ELEMENT["eventTime"],
        "partition": "0",
        "sequence_number": 7,
        "index": 0,
        "idempotency_key": delivery.idempotency_key,
    }


async def test_the_payload_is_in_the_line_where_it_was_asked_for():
    assert (await logged(data=True))["data"] == ELEMENT["data"]


async def test_a_late_event_says_how_late():
    assert (await logged(late_by_ms=20))["late_by_ms"] == 20


async def test_a_dry_run_does_not_claim_a_delivery():
    assert (await logged(dry_run=True))["event"] == "event not sent, dry run"
