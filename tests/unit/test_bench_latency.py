"""A benchmark that measures a broken run must fail: what bench.latency finds in the stamps, and what it sends."""

import orjson
import pytest

from bench.latency import check
from bench.scene import BenchFailed
from bench.stamped import BODY_BYTES, SUBJECTS, Stamp, Stamps, envelope, stamps


def came(*numbers: int) -> list[Stamp]:
    return [Stamp(number, 0, 1) for number in numbers]


def test_subjects_may_overtake_each_other():
    check(came(1, 0, SUBJECTS, SUBJECTS + 1), "it")


def test_events_of_one_subject_may_not():
    with pytest.raises(BenchFailed, match="it: a subject is out of order"):
        check(came(SUBJECTS, 0), "it")


def test_an_event_comes_once():
    with pytest.raises(BenchFailed, match="twice"):
        check(came(0, 1, 0), "it")


def test_half_a_line_of_stamps_is_left_for_later(tmp_path):
    path = tmp_path / "stamps"
    noted = Stamps(path)
    noted.note(7, 1_000_000, 3_500_000)
    noted.close()
    with path.open("ab") as file:
        file.write(b"8 1000")
    assert [(stamp.number, stamp.milliseconds) for stamp in stamps(path, 0)] == [(7, 2.5)]


def test_bodies_have_the_size_that_is_said_and_times_that_go_on():
    bodies = [envelope(number, subject="runs/1", sent_ns=10**15) for number in (0, 999, 1000, 3_600_000)]
    assert {len(body) for body in bodies} == {BODY_BYTES}
    times = [orjson.loads(body)[0]["eventTime"] for body in bodies]
    assert times == sorted(set(times))
