"""When too much cannot be decoded."""

from hypothesis import given
from hypothesis import strategies as st

from worker.decode_limit import DecodeLimit


def limit() -> DecodeLimit:
    return DecodeLimit(stop_ratio=0.5, of_at_least=100, per_seconds=300)


def test_half_is_allowed_and_one_more_is_not():
    counted = limit()
    for number in range(100):
        counted.saw(decoded=number % 2 == 0, now=0)
    assert not counted.exceeded
    counted.saw(decoded=False, now=0)
    assert counted.exceeded


def test_a_few_messages_say_nothing():
    counted = limit()
    for _ in range(99):
        counted.saw(decoded=False, now=0)
    assert not counted.exceeded
    counted.saw(decoded=False, now=0)
    assert counted.exceeded


def test_what_is_long_ago_does_not_count():
    counted = limit()
    for number in range(1000):
        counted.saw(decoded=False, now=number * 4)  # 75 in five minutes
        assert not counted.exceeded


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 50)), max_size=300))
def test_it_counts_like_a_list_of_all_messages_but_for_one_bucket(steps):
    counted, now, seen = limit(), 0.0, []
    for decoded, step in steps:
        now += step
        seen.append((now, decoded))
        counted.saw(decoded=decoded, now=now)
        inside = [each for each in seen if each[0] > now - 300]
        well_inside = [each for each in seen if each[0] > now - 295]
        assert len(well_inside) <= counted.messages <= len(inside)
        assert counted.bad <= sum(not good for _, good in inside)
