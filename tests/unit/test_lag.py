"""Lag is what the hub has and nobody is done with: known exactly where it was read, and never guessed."""

from hypothesis import given
from hypothesis import strategies as st

from worker.events import UnixSeconds
from worker.lag import Lag


def lag_of(*read: tuple[int, float], position: int = 10) -> Lag:
    lag = Lag()
    lag.begin(position)
    for number, enqueued_at in read:
        lag.read(number, UnixSeconds(enqueued_at))
    return lag


def test_while_the_hub_has_said_nothing_nothing_is_known():
    assert lag_of().events(unsettled=0) is None
    assert lag_of().seconds(10, now=100.0) is None


def test_while_it_is_not_known_where_reading_begins_nothing_is_known():
    lag = Lag()
    lag.hub_has(110, UnixSeconds(40.0))
    assert lag.events(unsettled=0) is None
    assert lag.seconds(None, now=100.0) is None
    lag.read(60, UnixSeconds(30.0))
    assert lag.events(unsettled=1) == 51
    assert lag.seconds(None, now=100.0) == 70.0


def test_what_was_read_and_is_not_settled_has_its_own_age():
    lag = lag_of((11, 50.0), (12, 60.0))
    lag.hub_has(12)
    assert lag.seconds(10, now=100.0) == 50.0
    assert lag.seconds(11, now=100.0) == 40.0
    assert lag.seconds(12, now=100.0) == 0.0


def test_a_backlog_is_lag_before_anything_of_it_is_read():
    lag = lag_of()
    lag.hub_has(110, UnixSeconds(40.0))
    assert lag.events(unsettled=0) == 100
    assert lag.seconds(10, now=100.0) == 60.0, "at least: the oldest unread one is no younger than the newest"


def test_while_nothing_is_read_the_age_grows_with_the_first_that_was_heard_of():
    lag = lag_of()
    lag.hub_has(11, UnixSeconds(40.0))
    lag.hub_has(500, UnixSeconds(990.0))
    assert lag.seconds(10, now=1000.0) == 960.0
    lag.read(11, UnixSeconds(40.0))
    assert lag.seconds(11, now=1000.0) == 10.0, "number 11 was read: of the rest, only the newest is known"
    lag.read(500, UnixSeconds(990.0))
    assert lag.seconds(500, now=1000.0) == 0.0


def test_what_is_settled_above_a_hole_is_no_lag():
    lag = lag_of((11, 50.0), (1011, 60.0))
    lag.hub_has(1011)
    assert lag.events(unsettled=1) == 1


def test_a_hub_that_has_forgotten_everything_has_nothing_to_read():
    lag = lag_of()
    lag.hub_has(110, UnixSeconds(40.0))
    lag.hub_has_nothing(-1)
    assert lag.events(unsettled=2) == 2
    assert lag.seconds(10, now=100.0) == 0.0


def test_what_it_had_handed_over_before_is_here():
    lag = lag_of()
    lag.hub_has(110, UnixSeconds(40.0))
    lag.hub_has_nothing(60)
    assert lag.events(unsettled=0) == 50
    lag.hub_has(111)
    assert lag.events(unsettled=0) == 101


def test_a_position_behind_the_end_of_the_hub_is_not_called_zero():
    lag = lag_of()
    lag.hub_has(3, UnixSeconds(40.0))
    assert lag.events(unsettled=0) == -7


def test_an_answer_that_comes_late_takes_nothing_back():
    lag = lag_of(position=20)
    lag.hub_has(20)
    lag.hub_has(15, UnixSeconds(1.0))
    assert lag.events(unsettled=0) == 0


@given(st.lists(st.sampled_from(["send", "ask", "read", "settle", "wait"]), max_size=60))
def test_it_is_never_more_than_true_and_exact_where_it_was_read(steps: list[str]):
    lag, now, sent, read, settled = lag_of(position=-1), 0.0, list[float](), 0, 0
    for step in steps:
        now += 1.0
        if step == "send":
            sent.append(now)
        elif step == "ask" and sent:
            lag.hub_has(len(sent) - 1, UnixSeconds(sent[-1]))
        elif step == "read" and read < len(sent):
            lag.hub_has(read)
            lag.read(read, UnixSeconds(sent[read]))
            read += 1
        elif step == "settle" and settled < read:
            settled += 1
        told, true = lag.seconds(settled - 1, now), now - sent[settled] if settled < len(sent) else 0.0
        assert told is None or told <= true
        if settled < read:
            assert told == true
        events = lag.events(unsettled=read - settled)
        assert events is None or events <= len(sent) - settled
        if step == "ask" and sent:
            assert events == len(sent) - settled
