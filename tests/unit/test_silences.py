"""Silent sources: told once, from the newest sign of life of all partitions, and again only after life was seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from worker.errors import StateFormatUnknown
from worker.events import PartitionId, UnixSeconds
from worker.silences import Signs, Silence, decode, encode, hear, row_name, tell, told

HOME = PartitionId("1")
BEGUN = Silence("rule", "/source", UnixSeconds(100))


def test_a_source_that_says_nothing_from_the_beginning_is_told_after_its_time():
    assert tell(BEGUN, every=10, written="10s", through=110, home=HOME) is None
    telling = tell(BEGUN, every=10, written="10s", through=110.5, home=HOME)

    assert telling is not None
    assert tell(telling, every=10, written="10s", through=200, home=HOME) is None
    assert tell(told(telling), every=10, written="10s", through=200, home=HOME) is None


def test_the_newest_sign_of_any_partition_counts():
    row = hear(BEGUN, [90, 107, 103])

    assert (row.since, row.seen) == (107, True)
    assert tell(row, every=10, written="10s", through=117, home=HOME) is None
    assert tell(row, every=10, written="10s", through=118, home=HOME) is not None


def test_life_ends_a_silence_and_the_next_one_is_told_again():
    telling = tell(BEGUN, every=10, written="10s", through=111, home=HOME)
    assert telling is not None
    silent = told(telling)
    assert hear(silent, [100, 99]) == silent

    alive = hear(silent, [150])

    assert not alive.told
    assert tell(alive, every=10, written="10s", through=161, home=HOME) is not None


def test_a_partition_keeps_its_newest_sign_of_each():
    signs = Signs()
    assert signs.see("x", 5)
    assert not signs.see("x", 4)
    assert not signs.see("x", 5)
    assert signs.see("y", 1)
    signs.keep(lambda row: row != "y")
    after = Signs()
    after.restore(signs.snapshot())

    assert after.snapshot() == {"x": 5}


def test_a_row_survives_as_bytes_and_another_format_is_refused():
    telling = tell(BEGUN, every=10, written="10s", through=111, home=HOME)
    assert telling is not None
    for row in (BEGUN, telling, told(telling)):
        assert decode(encode(row)) == row
    for payload in (b"", b"[]", b"{}", b'{"format":2}', b'{"format":1,"x":1}'):
        with pytest.raises(StateFormatUnknown):
            decode(payload)


def test_a_name_tells_the_rule():
    assert row_name("rule", "/a").startswith("silence/rule.")
    assert row_name("rule", "/a") != row_name("rule", "/b")


@given(some.lists(some.integers(101, 200), max_size=8), some.data())
def test_each_silence_is_told_once_whenever_it_is_looked_at(life: list[int], data: some.DataObject):
    """Looked at at any times, each with what all partitions had seen until then."""
    looks = sorted(data.draw(some.lists(some.integers(101, 250), max_size=12)))
    row, tells = BEGUN, list[float]()
    for through in looks:
        row = hear(row, [float(at) for at in life if at < through])
        telling = tell(row, every=10, written="10s", through=through, home=HOME)
        if telling is not None:
            tells.append(row.since)
            row = told(telling)
    assert len(tells) == len(set(tells))
    for through in looks:
        since = max([100, *(at for at in life if at < through)])
        assert (through <= since + 10) or since in tells
    for since in tells:
        assert not any(since < at <= since + 10 for at in life)
