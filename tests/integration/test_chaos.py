"""`make chaos`, small, as a user runs it; and its destinations, which have to fail and to write down what they did."""

import asyncio
import subprocess
import sys

import aiohttp
import pytest

from bench.chaos import receivers
from bench.chaos.receivers import Book, HttpReceiver, MailReceiver, Mood
from tests.deliveries import ELEMENT, delivery_of
from worker.errors import OutcomeUnknown, SinkUnavailable
from worker.sinks.email import EmailSettings, EmailSink

_SECONDS = 200


def chaos(folder, *arguments: str) -> tuple[int, str]:
    """Its exit code, and all it said."""
    command = [sys.executable, "-m", "bench.chaos", "--folder", str(folder), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output, _ = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()  # not killed: it has processes to stop
        output, _ = process.communicate()
        pytest.fail(f"not over after {_SECONDS} s:\n{output}")
    return process.returncode, output


@pytest.mark.timeout(240)
def test_the_worker_keeps_its_promises_in_a_small_run(tmp_path):
    # So few events say nothing about percents; what has a key or a ledger must not double a single one.
    code, output = chaos(tmp_path, "--events", "900", "--faults", "22", "--only", "worker", "--doubled-percent", "50")
    assert code == 0, output
    assert "the worker kept its promises" in output
    for kind in ("kill", "suspend", "drop", "detach", "blackhole", "store"):
        assert f"fault: {kind}" in output


def test_the_hand_written_loop_works_and_delivers_everything_when_nothing_is_broken(tmp_path):
    code, output = chaos(tmp_path, "--events", "300", "--faults", "0", "--only", "loop")
    assert code == 0, output
    assert [line.split()[-1] for line in output.splitlines() if line.strip().startswith("delivered")] == ["300"]


def always(monkeypatch, mood: Mood) -> None:
    shares = {mood: 1.0}
    monkeypatch.setattr(receivers, "HTTP_SHARES", shares)
    monkeypatch.setattr(receivers, "SMTP_SHARES", shares)


async def post(url: str, event: str, key: str | None = None) -> int | None:
    """The status, or None where no answer came."""
    headers = {"webhook-id": key} if key else {}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.5)) as session,
            session.post(url, json={"id": event}, headers=headers) as answer,
        ):
            return answer.status
    except (aiohttp.ClientError, TimeoutError):
        return None


@pytest.mark.parametrize(
    ("mood", "status", "effects", "untold"),
    [
        (Mood.TAKEN, 204, 1, 0),
        (Mood.BUSY, 429, 0, 0),
        (Mood.ERROR, 500, 0, 0),
        (Mood.HANG, None, 0, 0),
        (Mood.LOST_BEFORE, None, 0, 0),
        (Mood.LOST_AFTER, None, 1, 1),
    ],
)
async def test_a_request_has_the_effect_and_the_answer_of_its_mood(monkeypatch, mood, status, effects, untold):
    always(monkeypatch, mood)
    plain = Book()
    async with HttpReceiver(plain, Book(), seed=1) as url:
        assert await post(f"{url}/plain", "e1") == status
    assert (len(plain.arrivals), plain.untold["e1"], plain.moods[mood]) == (effects, untold, 1)


async def test_once_acts_once_per_key_and_plain_each_time(monkeypatch):
    always(monkeypatch, Mood.TAKEN)
    plain, once = Book(), Book()
    async with HttpReceiver(plain, once, seed=1) as url:
        for key in ("k1", "k1", "k2"):
            assert await post(f"{url}/plain", "e1", key) == 204
            assert await post(f"{url}/once", "e1", key) == 204
    assert [arrival.key for arrival in plain.arrivals] == ["k1", "k1", "k2"]
    assert [arrival.key for arrival in once.arrivals] == ["k1", "k2"]


@pytest.mark.parametrize(
    ("mood", "error", "effects", "unanswered"),
    [
        (Mood.TAKEN, None, 1, False),
        (Mood.BUSY, SinkUnavailable, 0, False),
        (Mood.ERROR, SinkUnavailable, 0, False),
        (Mood.HANG, OutcomeUnknown, 0, True),
        (Mood.LOST_BEFORE, OutcomeUnknown, 0, True),
        (Mood.LOST_AFTER, OutcomeUnknown, 1, True),
    ],
)
async def test_a_mail_has_the_effect_and_the_answer_of_its_mood(monkeypatch, mood, error, effects, unanswered):
    always(monkeypatch, mood)
    book, delivery = Book(), delivery_of(ELEMENT, late_by_ms=7)
    async with MailReceiver(book, seed=1) as port:
        given = {"name": "mail", "host": "127.0.0.1", "port": port, "security": "none", "from": "a@example.org"}
        sink = EmailSink(EmailSettings.model_validate(given | {"to": ["b@example.org"], "timeout_seconds": 0.5}))
        await sink.open()
        [ended] = await asyncio.gather(sink.deliver(delivery), return_exceptions=True)
        await sink.aclose()
    assert type(ended) is (error or type(None))
    assert [(arrival.key, arrival.late) for arrival in book.arrivals] == [(delivery.idempotency_key, True)] * effects
    assert (delivery.idempotency_key in book.unanswered) is unanswered
