from hypothesis import given
from hypothesis import strategies as st

from worker.sinks.limiter import Rate, SharedBuckets, TokenBuckets


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


SECOND, HOUR = Rate(1, 1.0), Rate(100, 3600.0)


def test_a_burst_goes_at_once_and_then_one_each_time_a_token_is_back():
    clock = Clock()
    buckets = TokenBuckets(clock)
    assert [buckets.take([Rate(3, 6.0)]) for _ in range(4)] == [0.0, 0.0, 0.0, 2.0]
    clock.now += 1.5
    assert buckets.take([Rate(3, 6.0)]) == 0.5
    clock.now += 0.5
    assert [buckets.take([Rate(3, 6.0)]) for _ in range(2)] == [0.0, 2.0]


def test_the_slowest_rate_decides_and_none_is_taken_from_the_others_meanwhile():
    clock = Clock()
    buckets = TokenBuckets(clock)
    taken = 0
    while not buckets.take([SECOND, HOUR]):
        taken += 1
        clock.now += 1.0
    assert 100 <= taken <= 103
    assert len({buckets.take([SECOND, HOUR]) for _ in range(50)}) == 1
    assert 1 < buckets.wait_seconds([SECOND, HOUR]) <= 36.0
    assert buckets.wait_seconds([SECOND]) == 0.0


def test_looking_takes_nothing():
    buckets = TokenBuckets(Clock())
    assert [buckets.wait_seconds([SECOND]) for _ in range(10)] == [0.0] * 10
    assert buckets.take([SECOND]) == 0.0
    assert [buckets.wait_seconds([SECOND]) for _ in range(3)] == [1.0] * 3


def test_a_rate_below_one_lets_one_through_at_first():
    clock = Clock()
    buckets = TokenBuckets(clock)
    assert [buckets.take([Rate(0.1, 1.0)]) for _ in range(2)] == [0.0, 10.0]


@given(
    st.lists(st.floats(0, 50), max_size=60),
    st.floats(0.05, 20).map(lambda number: Rate(number, 1.0)),
    st.integers(1, 30).map(lambda number: Rate(number, 60.0)),
)
def test_no_time_sees_more_than_the_burst_and_what_came_back_and_who_waits_as_told_is_let_in(pauses, fast, slow):
    clock = Clock()
    buckets = TokenBuckets(clock)
    taken: list[float] = []
    for pause in pauses:
        clock.now += pause
        if wait_seconds := buckets.take([fast, slow]):
            clock.now += wait_seconds
            assert buckets.take([fast, slow]) == 0.0
        taken.append(clock.now)
    for rate in (fast, slow):
        for first in range(len(taken)):
            for last in range(first, len(taken)):
                allowed = rate.burst + (taken[last] - taken[first]) * rate.per_second
                assert last - first + 1 <= allowed + 1e-3


def test_who_names_the_same_destination_shares_its_buckets_while_somebody_keeps_them():
    shared = SharedBuckets(Clock())
    one = shared.of("https://a/?sig=hidden")
    assert shared.of("https://a/?sig=hidden") is one
    assert shared.of("https://b/?sig=hidden") is not one
    one.take([HOUR])
    del one
    assert shared.of("https://a/?sig=hidden")._spent == {}
    assert "hidden" not in repr(vars(shared))
