"""What the watchdog takes for a stall, for silence and for a position of another hub. Time is moved by hand."""

import pytest

from worker.errors import WatchdogError
from worker.events import PartitionId
from worker.watchdog import Watchdog

ZERO, ONE = PartitionId("0"), PartitionId("1")
STALL, SILENCE = 60.0, 15.0


def watchdog(restarts: int = 3) -> Watchdog:
    return Watchdog(silence_seconds=SILENCE, stall_seconds=STALL, restarts=restarts)


def reading(from_number: int | None = 9, at: float = 0.0, dog: Watchdog | None = None) -> Watchdog:
    """A partition that is open, and called back for."""
    dog = dog or watchdog()
    dog.opened(ZERO, at, from_number)
    dog.returned(ZERO, at)
    return dog


def ask(dog: Watchdog, now: float, enqueued: int, *, empty: bool = False) -> int | None:
    assert dog.to_ask(now) == [ZERO]
    return dog.told(ZERO, now, enqueued, empty=empty)


def test_messages_that_wait_and_do_not_come_are_a_stall_whatever_the_heartbeats_say():
    dog = reading()
    ask(dog, 5, enqueued=12)
    for now in range(5, 65):
        dog.returned(ZERO, now)
        assert dog.stalled(now) == []
        assert dog.silent(now) == []
    assert dog.stalled(65) == [ZERO]


def test_a_quiet_partition_is_no_stall_however_long_it_is_quiet():
    dog = reading()
    for now in range(5, 1000):
        dog.returned(ZERO, now)
        if dog.to_ask(now):
            dog.told(ZERO, now, 9, empty=False)
    assert dog.stalled(1000) == []
    assert dog.silent(1000) == []


def test_what_the_hub_took_only_now_is_not_held_against_a_long_quiet():
    dog = reading()
    ask(dog, 5, enqueued=9)
    ask(dog, 65, enqueued=10)
    assert dog.stalled(66) == []
    assert dog.stalled(124) == []
    assert dog.stalled(125) == [ZERO]


def test_each_message_begins_the_patience_anew_also_when_more_wait():
    dog = reading()
    for now in (10, 60, 110):
        dog.called(ZERO, now, 10 + now, 1000)
        dog.returned(ZERO, now)
        assert dog.stalled(now + 59) == []
    assert dog.stalled(170) == [ZERO]


def test_the_number_that_comes_with_a_message_is_enough_to_know_that_more_wait():
    dog = reading()
    dog.called(ZERO, 10, 10, 500)
    dog.returned(ZERO, 10)
    assert dog.stalled(70) == [ZERO]


def test_a_full_partition_is_neither_stalled_nor_silent_and_has_time_after_it_was_full():
    dog = reading()
    dog.called(ZERO, 10, 10, 1000)
    assert dog.stalled(10_000) == []
    assert dog.silent(10_000) == []
    assert dog.to_ask(10_000) == []
    dog.returned(ZERO, 10_000)
    assert dog.stalled(10_059) == []
    assert dog.stalled(10_060) == [ZERO]


def test_a_partition_that_stands_still_while_it_opens_is_left_alone():
    dog = watchdog()
    dog.opened(ZERO, 0, 9)
    assert dog.silent(10_000) == dog.stalled(10_000) == dog.to_ask(10_000) == []


def test_what_the_hub_has_forgotten_does_not_wait():
    dog = reading()
    ask(dog, 5, enqueued=12, empty=True)
    assert dog.stalled(1000) == []


def test_one_question_early_and_then_one_in_each_interval():
    dog = reading()
    asked = [now for now in range(300) if dog.to_ask(now)]
    assert asked == [5, 65, 125, 185, 245]


def test_who_gives_messages_is_not_asked():
    dog = reading()
    for now in range(1, 300, 4):
        dog.called(ZERO, now, now, None)
        dog.returned(ZERO, now)
        assert dog.to_ask(now + 3) == []


def test_a_position_behind_the_hubs_end_is_of_another_hub():
    assert ask(reading(500), 5, enqueued=499) == 500
    assert ask(reading(500), 5, enqueued=-1, empty=True) == 500
    assert ask(reading(500), 5, enqueued=500) is None
    assert ask(reading(-1), 5, enqueued=-1, empty=True) is None
    assert ask(reading(None), 5, enqueued=3) is None


def test_an_answer_is_held_against_what_was_read_when_it_was_asked_for():
    dog = reading(500)
    assert dog.to_ask(5) == [ZERO]
    dog.called(ZERO, 5.1, 520, 520)
    assert dog.told(ZERO, 5.2, 510, empty=False) is None


def test_an_answer_for_a_partition_that_was_given_back_or_opened_anew_counts_for_nothing():
    dog = reading(500)
    dog.to_ask(5)
    dog.closed(ZERO)
    assert dog.told(ZERO, 6, 3, empty=False) is None
    dog = reading(2, at=6, dog=dog)
    assert dog.told(ZERO, 7, 1, empty=False) is None


def test_a_partition_that_is_no_longer_called_back_for_is_silent():
    dog = reading()
    dog.opened(ONE, 0, 9)
    dog.returned(ONE, 10)
    assert dog.silent(15) == []
    assert dog.silent(15.1) == [ZERO]
    assert dog.silent(26) == [ZERO, ONE]
    dog.closed(ZERO)
    assert dog.silent(26) == [ONE]


def test_the_process_ends_when_connecting_anew_does_not_help():
    dog = watchdog(restarts=3)
    for _ in range(3):
        reading(dog=dog)
        dog.restart([ZERO], "is silent")
    with pytest.raises(WatchdogError, match=r"partition 0 is silent.* 3 times"):
        dog.restart([ZERO], "is silent")


def test_a_message_in_between_is_progress():
    dog = watchdog(restarts=1)
    for _ in range(10):
        reading(dog=dog)
        dog.called(ZERO, 1, 10, None)
        dog.restart([ZERO], "stalls")


def test_nothing_missing_any_more_is_progress():
    dog = watchdog(restarts=1)
    for _ in range(10):
        reading(dog=dog)
        ask(dog, 5, enqueued=9)
        dog.restart([ZERO], "stalls")


def test_that_another_partition_is_read_is_no_progress():
    dog = watchdog(restarts=1)
    reading(dog=dog)
    dog.restart([ZERO], "stalls")
    dog.opened(ONE, 0, 9)
    dog.called(ONE, 1, 10, None)
    with pytest.raises(WatchdogError):
        dog.restart([ZERO], "stalls")


def test_callbacks_of_a_client_that_was_replaced_are_ignored():
    dog = reading()
    dog.restart([ZERO], "is silent")
    dog.called(ZERO, 1, 10, None)
    dog.returned(ZERO, 2)
    assert dog.silent(1000) == []


def test_where_somebody_waits_for_the_answer_the_hub_is_asked_every_few_seconds_of_quiet():
    dog = reading()
    asked = [now for now in range(1, 31) if dog.to_ask(now, [ZERO])]
    assert asked == [5, 10, 15, 20, 25, 30]
    dog.called(ZERO, 31, 10, 10)
    assert dog.to_ask(40, [ZERO]) == []
    dog.returned(ZERO, 41)
    assert dog.to_ask(45, [ZERO]) == []
    assert dog.to_ask(46, [ONE]) == []
    assert dog.to_ask(46, [ZERO]) == [ZERO]
