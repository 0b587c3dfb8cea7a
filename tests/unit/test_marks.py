"""Marks: what a list of the shared table tells of a row, to and from text."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from worker.events import PartitionId
from worker.marks import Mark, Say, parse


@given(some.sampled_from([each for each in Say if each is not Say.TELLING]), some.floats(0, 1e11))
def test_a_time_survives_to_the_last_bit(says: Say, time: float):
    assert parse(str(Mark(says, time))) == Mark(says, time)


def test_a_home_survives():
    assert parse(str(Mark(Say.TELLING, home=PartitionId("31")))) == Mark(Say.TELLING, home=PartitionId("31"))


@pytest.mark.parametrize("text", ["", "due", "due/", "due/x", "other/5", "5"])
def test_what_is_no_mark_is_none(text: str):
    assert parse(text) is None
