"""`worker send-test`: what is said about each end of an attempt, and which mistakes are refused."""

import json
import logging
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import structlog

from tests.plugins import install
from tests.unit.configurations import WORKER, write
from worker.cli import main
from worker.decode import decode
from worker.events import Message, PartitionId, UnixSeconds
from worker.notice import notice_of
from worker.samples import NAME, Sample, sample_delivery

FICKLE = """
    import asyncio
    from typing import Literal
    from worker.errors import Gone, Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable
    from worker.settings import FilePath, Secret, SinkSettings
    from worker.sinks.answers import note_answer
    from worker.sinks.table import SinkKind

    class Settings(SinkSettings):
        ledger = "optional"
        kind: Literal["fickle"] = "fickle"
        url: str = "https://fickle.example.org:8443/path"
        token_env: str | None = None
        token_file: FilePath | None = None
        ends: str = "well"
        says: str = ""
        timeout_seconds: float = 0.1

    class Sink:
        def __init__(self, settings):
            self._settings = settings
            self._opened = False

        async def open(self):
            self._opened = True

        async def aclose(self):
            print("closed")

        async def deliver(self, delivery):
            assert self._opened
            token = Secret.of(self._settings, "token")
            said = self._settings.says or f"the token is {token.read() if token else None}"
            note_answer(200, said.encode())
            match self._settings.ends:
                case "unavailable": raise SinkUnavailable(said, retry_after_seconds=7)
                case "rejected": raise Rejected(said)
                case "gone": raise Gone(said)
                case "misconfigured": raise Misconfigured(said)
                case "unknown": raise OutcomeUnknown(said)
                case "never": await asyncio.Event().wait()

    KIND = SinkKind(Settings, lambda settings, _tokens: Sink(settings))
    """
ROUTES = """
    sinks:
      - name: out
        kind: fickle
        token_env: TOKEN
        {more}
      - {name: other, kind: webhook, url_env: NOT_THERE}
    routes:
      - {name: all, sinks: [out, other]}
    """
TOKEN = 'hidden"token 4711-0815'


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def send_test(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    install(tmp_path / "packages", "fickle", FICKLE)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setenv("TOKEN", TOKEN)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def send_test(*arguments: str, more: str = "ends: well", sink: str = "out") -> Outcome:
        config = write(Path(), WORKER, ROUTES.replace("{more}", more))
        monkeypatch.setattr(sys, "argv", ["worker", "send-test", "--config", str(config), "--sink", sink, *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        return Outcome(stopped.value.code or 0, *capsys.readouterr())  # type: ignore[arg-type]  # never a text

    yield send_test
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


# --- how it ended


def test_what_was_accepted_is_said_with_what_was_sent_and_answered(send_test):
    outcome = send_test(more="says: thanks")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[:3] == [
        "sink        out",
        "kind        fickle, from worker-fickle 1.2",
        "destination fickle.example.org:8443",
    ]
    assert '    "subject": "experiments/worker-send-test/runs/worker-send-test-run",' in lines
    assert "answer      200: thanks" in lines
    assert lines[-1].startswith("accepted in 0.0")


@pytest.mark.parametrize(
    ("ends", "word", "meaning"),
    [
        ("unavailable", "try again", "A worker would try again"),
        ("rejected", "rejected", "dead letter"),
        ("gone", "gone", "nothing more there"),
        ("misconfigured", "misconfigured", "Repair the address, the secret or the right"),
        ("unknown", "outcome unknown", "A worker would go by on_unknown: resend."),
    ],
)
def test_what_was_not_accepted_is_said_in_words_and_exits_1(send_test, ends, word, meaning):
    outcome = send_test(more=f"ends: {ends}\n        says: because")
    assert outcome.code == 1
    *_, said, then = outcome.out.splitlines()
    assert said.startswith(f"{word}, after 0.0")
    assert said.endswith(": because")
    assert meaning in then
    row = json.loads(send_test("--json", more=f"ends: {ends}").out.splitlines()[-1])
    assert row["result"] == word.replace(" ", "_")


def test_a_sink_that_does_not_end_is_ended_and_its_outcome_is_unknown(send_test, monkeypatch):
    monkeypatch.setattr("worker.trial._OVERRUN_SECONDS", 0.1)
    outcome = send_test(more="ends: never")
    assert outcome.code == 1
    assert "outcome unknown, after 0.2" in outcome.out
    assert "no end after 0.2 s" in outcome.out
    assert "closed" in outcome.out


@pytest.mark.parametrize("ends", ["well", "unavailable", "rejected"])
@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_a_secret_that_the_destination_echoes_is_not_printed(send_test, ends, arguments):
    outcome = send_test(*arguments, more=f"ends: {ends}")
    assert "the token is ***" in outcome.out
    assert "hidden" not in outcome.out + outcome.err
    assert "4711-0815" not in outcome.out + outcome.err


# --- what is not sent


def test_a_dry_run_sends_nothing_and_needs_no_secret(send_test, monkeypatch):
    monkeypatch.delenv("TOKEN")
    outcome = send_test("--dry-run")
    assert (outcome.code, outcome.err) == (0, "")
    assert "what would be sent:" in outcome.out
    assert outcome.out.endswith("not sent: --dry-run\n")
    assert "closed" not in outcome.out
    assert json.loads(send_test("--dry-run", "--json").out)["result"] == "not_sent"


def test_a_sink_that_says_dry_run_is_sent_nothing(send_test):
    outcome = send_test(more="dry_run: true")
    assert outcome.code == 0
    assert "not sent: the sink says dry_run: true, so a worker would only log the event" in outcome.out
    assert "closed" not in outcome.out


def test_a_paused_sink_is_sent_it_all_the_same(send_test):
    outcome = send_test(more="paused: true")
    assert outcome.code == 0
    assert "accepted" in outcome.out
    assert "The sink is paused: a running worker holds its events" in outcome.out


# --- what is refused


def test_an_unknown_sink_exits_2_with_a_suggestion(send_test):
    outcome = send_test(sink="otu")
    assert outcome == Outcome(2, "", "routes.yaml: there is no sink otu; did you mean out?\n")


def test_only_the_named_sinks_secrets_must_be_there(send_test, monkeypatch):
    assert send_test().code == 0  # neither the hub's nor the other sink's are
    monkeypatch.delenv("TOKEN")
    outcome = send_test()
    assert outcome.code == 2
    assert outcome.err == (
        "routes.yaml:5:5: sinks[0].token_env: the environment variable TOKEN is not set; set it, or name another\n"
    )


def test_a_mistake_anywhere_in_the_files_exits_2(send_test):
    outcome = send_test(more="colour: red")
    assert outcome.code == 2
    assert "sinks[0].colour: there is no such key" in outcome.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "own.json: cannot be read: No such file or directory; name a file with one event"),
        (b"not json", "own.json: holds no event (not_json): "),
        (b"[]", "own.json: holds 0 events; leave one"),
        (b'[{"id": "1"}, {"id": "2"}]', "own.json: holds 2 events; leave one"),
        (b'{"id": "1", "eventType": ""}', "own.json: holds no event (missing_type): "),
    ],
)
def test_a_file_without_one_event_exits_2(send_test, content, said):
    if content is not None:
        Path("own.json").write_bytes(content)
    outcome = send_test("--event", "own.json")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(said)


def test_a_sample_and_an_event_at_once_are_refused(send_test):
    assert send_test("--event", "own.json", "--sample", "drift").code == 2
    assert send_test("--sample", "run-failed").code == 2


# --- what is sent


def test_an_event_of_ones_own_is_sent_as_it_is_and_cannot_steer_the_terminal(send_test):
    own = {"id": "e1", "eventType": "Some.Type", "subject": "s\x1b[2J", "data": {"x": "sig=hunter2\u202e"}}
    Path("own.json").write_text(json.dumps([own]))
    outcome = send_test("--event", "own.json")
    assert outcome.code == 0
    assert "event       e1 (own.json)" in outcome.out
    assert "\x1b" not in outcome.out
    assert "\u202e" not in outcome.out
    assert "hunter2" not in outcome.out
    first, second = (json.loads(send_test("--event", "own.json", "--json").out.splitlines()[-1]) for _ in range(2))
    assert first["idempotency_key"] == second["idempotency_key"]


def test_its_help_says_what_is_sent_when_nobody_says_and_that_it_is_really_sent(send_test):
    said = " ".join(send_test("--help").out.replace("│", " ").split())
    assert re.search("default: .what the sink's .*kind is for, mostly a .*failed run", said)
    assert "It is really sent, also to a sink that starts something" in said


def test_a_sample_can_come_from_the_workspace_that_a_sink_is_about():
    delivery = sample_delivery(Sample.MODEL_REGISTERED, "out", now=UnixSeconds(1.8e9), source="/a/workspace")
    assert delivery.released.placed.event.source == "/a/workspace"


@pytest.mark.parametrize("sample", list(Sample))
def test_a_sample_says_that_it_is_a_test_and_is_another_one_each_time(sample):
    first, second = (sample_delivery(sample, "out", now=UnixSeconds(1.8e9)) for _ in range(2))
    assert first.idempotency_key != second.idempotency_key
    for delivery in (first, second):
        event = delivery.released.placed.event
        assert NAME in notice_of(delivery).title
        assert event.id.startswith("worker-send-test-")
        assert "send-test" in (event.subject or "")
        assert "send-test" in (event.source or "")
        message = delivery.released.placed.message
        assert decode(Message(PartitionId("0"), 0, "0", UnixSeconds(0.0), message.body)) == [event]


def test_the_digest_shows_several_kinds_and_one_that_is_superseded():
    notice = notice_of(sample_delivery(Sample.DIGEST, "out", now=UnixSeconds(1.8e9)))
    assert len(notice.kinds) == 3
    assert [entry.superseded for entry in notice.entries] == [False, True, False, False]
    assert notice.remarks == ("1 of them is superseded: a later event of the same subject is known.",)
