"""disorder.py: how delays are measured, and which window is learnt from them."""

import json
from itertools import pairwise
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_order import placed
from worker.disorder import AutoWindow, Overtakers
from worker.events import OrderKey, OrderKind, Subject, UnixSeconds
from worker.order import Orderer

TIME, SEQUENCER, ARRIVAL = OrderKind.TIME, OrderKind.SEQUENCER, OrderKind.ARRIVAL
RUN = Subject("/ws", "run")


def at(seconds: float) -> UnixSeconds:
    return UnixSeconds(float(seconds))


def delays(arrivals: list[tuple[float, int]], *, seconds: float = 60, at_most: int = 1_000) -> list[float]:
    overtakers = Overtakers(seconds=seconds, at_most=at_most)
    return [overtakers.delay(RUN, OrderKey(TIME, f"{key:04d}"), now=at(now)) for now, key in arrivals]


def a_window(**changed: float) -> AutoWindow:
    return AutoWindow(**{"late_target": 0.01, "min_seconds": 1, "max_seconds": 60, **changed})


class Partition:
    """Tells a window of events one after the other."""

    def __init__(self, window: AutoWindow) -> None:
        self.window = window
        self.now = 0.0

    def events(self, count: int, *, delay: float = 0.0, every: float = 0.01) -> float:
        for _ in range(count):
            self.now += every
            self.window.arrived(delay, late=delay >= self.window.seconds, now=at(self.now))
        return self.window.seconds


def test_what_comes_in_order_has_no_delay_and_neither_has_an_equal_key():
    assert delays([(0, 1), (1, 2), (2, 2), (3, 9)]) == [0, 0, 0, 0]


def test_a_delay_counts_from_the_first_event_that_overtook_not_from_the_newest():
    assert delays([(0, 1), (1, 5), (3, 7), (4, 9), (10, 6), (11, 4), (12, 8)])[4:] == [7, 10, 8]


def test_a_displaced_event_overtakes_nobody():
    assert delays([(0, 1), (1, 9), (2, 5), (4, 3)]) == [0, 0, 1, 3]


def test_subjects_and_kinds_of_keys_are_not_compared():
    overtakers = Overtakers(seconds=60)
    assert overtakers.delay(RUN, OrderKey(TIME, "9"), now=at(0)) == 0
    assert overtakers.delay(RUN, OrderKey(SEQUENCER, "1"), now=at(1)) == 0
    assert overtakers.delay(Subject("/ws", "other"), OrderKey(TIME, "1"), now=at(1)) == 0
    assert overtakers.delay(RUN, OrderKey(ARRIVAL, None), now=at(1)) == 0
    assert overtakers.delay(RUN, OrderKey(TIME, "1"), now=at(1)) == 1


def test_a_delay_beyond_what_is_looked_back_is_infinite_as_long_as_something_is_known_of_the_subject():
    assert delays([(0, 5), (30, 9), (61, 4), (62, 6)]) == [0, 0, inf, 32]


def test_what_is_looked_back_on_is_bounded_by_time_and_number():
    assert delays([(0, 5), (60, 4)]) == [0, 0], "forgotten: for all we know it is the subject's first"
    assert delays([(0, 5), (1, 6), (2, 7), (3, 4)], at_most=2)[-1] == inf
    overtakers = Overtakers(seconds=10, at_most=5)
    for number in range(1_000):
        overtakers.delay(Subject("/ws", str(number)), OrderKey(TIME, "1"), now=at(number / 10))
    assert len(overtakers._ages) == len(overtakers._subjects) == 6


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=40), st.integers(1, 12))
def test_an_event_is_late_exactly_when_its_delay_is_the_window_or_more(steps: list[tuple[int, int]], window: int):
    orderer = Orderer(window_seconds=window, memory_seconds=1_000_000)
    overtakers, now = Overtakers(seconds=1_000_000), 0.0
    for step, key in steps:
        now += step
        one = placed(key)
        orderer.due(now=at(now), at_most=1_000)
        late = orderer.add(one, now=at(now)) is not None
        assert late == (overtakers.delay(one.event.key, one.event.order_key, now=at(now)) >= window)


def test_a_partition_of_which_nothing_is_known_begins_with_the_default_of_a_fixed_window():
    assert a_window().seconds == 5
    assert a_window(max_seconds=3).seconds == 3
    assert a_window(min_seconds=8).seconds == 8


def test_disorder_makes_the_window_grow_at_once():
    partition = Partition(a_window())
    partition.events(500)
    before = partition.events(1, delay=20)
    assert partition.events(3, delay=20) > 20 > before


def test_one_event_alone_changes_nothing_however_late():
    for delay in (20, 59, 3_600, inf):
        partition = Partition(a_window())
        assert partition.events(1, delay=delay) == 5
        assert partition.events(20) == 5


def test_what_comes_later_than_the_longest_window_makes_it_no_longer():
    partition = Partition(a_window(max_seconds=30))
    assert partition.events(500, delay=7_200) <= 5
    assert partition.window.late_share == 1


def test_fewer_late_ones_than_the_target_allows_leave_the_window_short():
    partition = Partition(a_window())
    for _ in range(100):
        partition.events(399, every=1)
        partition.events(1, delay=30)
    assert partition.window.seconds == 1
    assert partition.window.late_share == pytest.approx(1 / 400, rel=0.5)


def test_order_makes_the_window_shrink_to_the_shortest_by_a_tenth_a_minute():
    partition = Partition(a_window())
    assert partition.events(90, every=0.1) == 5, "as long as too few have come to tell"
    partition.events(20, every=0.1)
    before = partition.window.seconds
    assert partition.events(600, every=0.1) == pytest.approx(before * 0.9, rel=0.01)
    partition.events(3_000, every=1)
    assert partition.window.seconds == 1


def test_disorder_that_goes_on_keeps_the_window_from_shrinking():
    partition = Partition(a_window())
    for _ in range(2_000):
        partition.events(19)
        partition.events(1, delay=8)
    assert 8 < partition.window.seconds < 12


def test_silence_teaches_nothing():
    partition = Partition(a_window())
    partition.events(5_000, delay=8)
    before = partition.window.seconds
    partition.now += 86_400
    assert partition.events(1) == before


arrivals = st.lists(
    st.tuples(
        st.integers(1, 40),
        st.one_of(st.just(0.0), st.floats(0, 100), st.just(inf)),
        st.sampled_from([0.0, 0.01, 1.0, 70.0]),
    ),
    min_size=1,
    max_size=15,
)
bounds = st.tuples(st.floats(0.05, 30), st.floats(1, 3)).map(lambda pair: (pair[0], pair[0] * pair[1]))


@settings(deadline=None)
@given(arrivals, bounds, st.sampled_from([0.02, 0.2]))
def test_a_window_keeps_its_bounds_shrinks_by_at_most_a_tenth_a_minute_and_remembers_little(
    arrivals: list[tuple[int, float, float]], bounds: tuple[float, float], late_target: float
):
    window = AutoWindow(late_target=late_target, min_seconds=bounds[0], max_seconds=bounds[1])
    partition, seen = Partition(window), [(0.0, window.seconds)]
    for count, delay, every in arrivals:
        for _ in range(count):
            partition.events(1, delay=delay, every=every)
            seen.append((partition.now, window.seconds))
    assert all(bounds[0] <= seconds <= bounds[1] for _, seconds in seen)
    for (before, longer), (after, shorter) in pairwise(seen):
        assert shorter >= longer * 0.9 ** ((after - before + 1) / 60) - 1e-9, (
            "a second more: it is not always looked at"
        )
    first, last = seen[0], seen[-1]
    assert min(seconds for _, seconds in seen) >= first[1] * 0.9 ** (last[0] / 60) - 1e-9
    assert len(window.snapshot()["delays"]) <= 200
    assert 0 <= window.late_share <= 1


@given(arrivals, st.floats(1.5, 50))
def test_after_enough_events_with_one_delay_the_window_covers_it(
    arrivals: list[tuple[int, float, float]], delay: float
):
    partition = Partition(a_window())
    for count, earlier, every in arrivals:
        partition.events(count, delay=earlier, every=every)
    allowed = round(0.005 * partition.window.snapshot()["events"]) + 3
    assert partition.events(allowed, delay=delay) > delay


@given(arrivals)
def test_a_later_life_goes_on_from_what_was_learnt(arrivals: list[tuple[int, float, float]]):
    first = Partition(a_window())
    for count, delay, every in arrivals:
        first.events(count, delay=delay, every=every)
    later = Partition(a_window())
    later.window.restore(json.loads(json.dumps(first.window.snapshot())))
    assert later.window.seconds == pytest.approx(first.window.seconds, abs=0.001)
    assert later.window.late_share == pytest.approx(first.window.late_share, abs=0.001)
    assert later.window.snapshot() == first.window.snapshot()


def test_a_later_life_keeps_to_its_own_bounds():
    first = Partition(a_window())
    first.events(1_000, delay=40)
    later = a_window(max_seconds=10)
    later.restore(first.window.snapshot())
    assert later.seconds == 10
    assert later.snapshot()["delays"] == []
