import json
import logging
import re
import string
import threading

import pytest
import structlog
from hypothesis import assume, example, given
from hypothesis import strategies as st

from worker import logs

KEYS = st.text(string.ascii_letters + string.digits + "+/=", min_size=20, max_size=60)
PLAIN = st.text(st.characters(categories=["L", "N", "P", "S", "Z"]), max_size=40)


@pytest.fixture
def stderr(capsys):
    """What has come out on stderr until now; logging is put back as it was at the end."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield lambda: capsys.readouterr().err
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stderr) -> list[dict]:
    return [json.loads(line) for line in stderr().splitlines()]


def raised(error: Exception) -> Exception:
    """The error with a traceback."""
    try:
        raise error
    except type(error):
        return error


@pytest.mark.parametrize(
    "text",
    [
        "Endpoint=sb://x/;SharedAccessKeyName=Root;SharedAccessKey={};EntityPath=h",
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey={};EndpointSuffix=core.windows.net",
        "BlobEndpoint=https://a/;SharedAccessSignature=sv=2020&sig={}&se=1",
        "https://prod.logic.azure.com/workflows/x?sv=1.0&sig={}",
        "https://user:{}@example.org/",
        "Authorization: Bearer {}",
        "Authorization: Basic {}",
        "{{'authorization': 'SharedKey {}'}}",
        "the header was bearer {} and failed",
        '{{"client_secret":"{}","x":1}}',
        '"{{\\"password\\": \\"{}\\"}}"',
        "sharedaccesskey%3D{}",
        "whsec_{}",
        "token eyJ{}.abc.def",
    ],
)
@given(key=KEYS, before=PLAIN, after=PLAIN)
@example(key="a" * 43 + "=", before="", after="")
def test_a_key_in_a_text_never_comes_out(text, key, before, after):
    if "eyJ" in text or "user:" in text:
        key = re.sub("[^A-Za-z0-9]", "x", key)
    assume(key not in before + after)
    shown = logs.redact(f"{before} {text.format(key)} {after}")

    assert key not in shown
    assert "***" in shown


@pytest.mark.parametrize("text", ["eyJ-", "eyJ-a.", "x_eyJ", "bearer ", "sig= ", "://a:", "password\\"])
def test_a_text_that_begins_like_a_secret_again_and_again_is_read_in_time(text):
    """Else it holds up the whole process, for longer than this test may take."""
    logs.redact(text * (1_000_000 // len(text)))


@pytest.mark.parametrize("before", ["", "a.", "token_", "x-", "eyJ-", "a-eyJb_"])
def test_a_token_is_masked_wherever_it_begins(before):
    assert "hidden" not in logs.redact(f"{before}eyJhidden.hidden.hidden")


@given(KEYS)
def test_a_key_under_its_name_never_comes_out_at_any_depth(key):
    shown = repr(logs.redact({"a": [{"sig": key, "SharedAccessKey": [key]}, ({"Authorization": key},)], "cookie": key}))

    assert key not in shown


@given(PLAIN)
def test_redacting_twice_changes_nothing_more(text):
    once = logs.redact(f"{text} sig={text}")
    assert logs.redact(once) == once


@pytest.mark.parametrize(
    "text",
    [
        "SharedAccessKeyName=RootManageSharedAccessKey",
        "the bearer token is missing",
        "design=3 assigned: 4",
        "https://example.org:8080/a?b=c",
        "experiments/exp/runs/run-1",
        "the environment variable OUT_PASSWORD is not set",
    ],
)
def test_what_is_no_secret_stays_as_it_is(text):
    assert logs.redact(text) == text


def test_other_values_stay_as_they_are():
    assert logs.redact({"n": 1, "f": 0.5, "t": True, "none": None, "sig": None}) == {
        "n": 1,
        "f": 0.5,
        "t": True,
        "none": None,
        "sig": None,
    }


def test_a_line_is_one_json_object_with_a_utc_time_and_a_level(stderr):
    logs.configure(json=True)
    structlog.get_logger().info("hello", subject="a\nb", position=(1, 2))

    [line] = lines(stderr)
    assert line["event"] == "hello"
    assert line["level"] == "info"
    assert line["subject"] == "a\nb"
    assert line["position"] == [1, 2]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["timestamp"])


def test_without_a_terminal_it_is_json(stderr):
    logs.configure()
    structlog.get_logger().info("hello")

    assert lines(stderr)[0]["event"] == "hello"


def test_secrets_are_redacted_wherever_they_stand_in_a_line(stderr):
    logs.configure(json=True)
    log = structlog.get_logger()
    error = raised(ValueError("AccountKey=hunter2hunter2"))
    log.error("failed for sig=hunter2", detail={"url": "https://x/?sig=hunter2"}, exc_info=error)
    logging.getLogger("azure.core").warning("sent %s", "SharedAccessKey=hunter2")

    text = stderr()
    assert "hunter2" not in text
    assert "ValueError" in json.loads(text.splitlines()[0])["exception"]


@pytest.mark.parametrize("value", [2**70, "\ud800", b"\xff", object(), {1: 2}, float("nan")])
def test_no_value_makes_a_line_get_lost(stderr, value):
    logs.configure(json=True)
    structlog.get_logger().info("hello", value=value)

    assert lines(stderr)[0]["event"] == "hello"


def test_libraries_speak_through_the_same_lines_from_warning_on(stderr):
    logs.configure(json=True)
    logging.getLogger("azure.eventhub").info("chatter")
    logging.getLogger("azure.eventhub").warning("link %s lost", "x")
    logging.getLogger("azure.eventhub._pyamqp.aio._connection_async").error("noise")

    [line] = lines(stderr)
    assert (line["event"], line["level"], line["logger"]) == ("link x lost", "warning", "azure.eventhub")


def test_the_level_is_the_workers_own(stderr):
    logs.configure(json=True, level="ERROR")
    structlog.get_logger().warning("no")
    structlog.get_logger("worker.source").error("yes")
    logging.getLogger("aiohttp.server").warning("also")

    assert [line["event"] for line in lines(stderr)] == ["yes", "also"]


def test_setting_up_twice_does_not_double_lines(stderr):
    logs.configure(json=True)
    logs.configure(json=True)
    structlog.get_logger().info("once")

    assert len(lines(stderr)) == 1


def test_what_events_contain_cannot_take_over_a_terminal(stderr):
    logs.configure(json=False)
    error = raised(ValueError("red \x1b[31m"))
    structlog.get_logger().error("\x1b[2J", subject="a\nfake line", items=["\x1b[31m"], exc_info=error)

    text = stderr()
    assert "\x1b" not in text
    assert "\nfake line" not in text
    assert "Traceback" in text


def test_lines_of_many_threads_do_not_mix(stderr):
    logs.configure(json=True)
    log = structlog.get_logger()
    start = threading.Barrier(8)

    def talk(thread: int) -> None:
        start.wait()
        for n in range(50):
            log.info("line", thread=thread, n=n, padding="p" * 500)

    threads = [threading.Thread(target=talk, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {(line["thread"], line["n"]) for line in lines(stderr)} == {(t, n) for t in range(8) for n in range(50)}
