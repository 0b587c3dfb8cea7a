"""Start positions: what a selector means, looked up in a log."""

import pytest

from worker.local.log import memory_logs
from worker.local.messages import parse
from worker.local.positions import FROM_THE_START, parse_selector
from worker.local.refusals import ARGUMENT_ERROR, Refused

MESSAGE = parse(b"\x00\x53\x75\xa0\x01x")


@pytest.fixture
def log():
    """Three messages, a second apart."""
    [log] = memory_logs(1)
    for second in range(3):
        log.append([MESSAGE], 1000 * (second + 1))
    return log


def resolve(selector: str, log) -> int:
    return parse_selector("amqp.annotation.x-opt-" + selector).resolve(log)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("offset > '-1'", 0),
        ("offset >= '-1'", 0),
        ("offset > '@latest'", 3),
        ("offset >= '@latest'", 3),
        ("offset > '0'", 1),
        ("offset >= '0'", 0),
        ("offset > '1'", 1),
        ("offset>='1'", 1),
        ("sequence-number > '-1'", 0),
        ("sequence-number > '0'", 1),
        ("sequence-number >= '0'", 0),
        ("sequence-number > '2'", 3),
        ("sequence-number >= '2'", 2),
        ("enqueued-time > '1000'", 1),
        ("enqueued-time >= '1000'", 0),
        ("enqueued-time > '1500'", 1),
        ("enqueued-time > '3000'", 3),
        ("enqueued-time > '999999'", 3),
        ("enqueued-time > '-5'", 0),
    ],
)
def test_a_selector_finds_the_first_message_it_means(log, selector, expected):
    assert resolve(selector, log) == expected


def test_the_last_offset_is_a_place_to_go_on_from(log):
    assert resolve(f"offset > '{log.last_offset}'", log) == 3
    assert resolve(f"offset >= '{log.last_offset}'", log) == 2


def test_without_a_selector_reading_begins_at_the_start(log):
    assert FROM_THE_START.resolve(log) == 0


@pytest.mark.parametrize("selector", ["offset > '99999'", "offset >= '99999'", "sequence-number > '3'"])
def test_a_place_beyond_the_log_is_refused(log, selector):
    with pytest.raises(
        Refused, match=r"is invalid\. The last (offset|sequence number) in the system is '\d+'"
    ) as raised:
        resolve(selector, log)
    assert raised.value.condition == ARGUMENT_ERROR


@pytest.mark.parametrize("what", ["offset", "sequence-number"])
def test_in_an_empty_log_only_its_ends_are_places(what):
    [empty] = memory_logs(1)
    assert resolve(f"{what} > '-1'", empty) == 0
    with pytest.raises(Refused, match="in the system is '-1'"):
        resolve(f"{what} > '0'", empty)


@pytest.mark.parametrize(
    "selector",
    [
        "",
        "amqp.annotation.x-opt-offset < '1'",
        "amqp.annotation.x-opt-offset > '1' OR 1",
        "x > '1'",
        "amqp.annotation.x-opt-offset > 'abc'",
        "amqp.annotation.x-opt-enqueued-time > '@latest'",
    ],
)
def test_what_is_not_understood_is_refused(log, selector):
    with pytest.raises(Refused):
        parse_selector(selector).resolve(log)
