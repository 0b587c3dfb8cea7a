"""A benchmark that measures a broken run must fail: bench.reorder says when one is broken."""

import subprocess
import sys

import pytest

from bench.reorder import COLLECTOR, Job, arrivals, check
from worker import app

JOB = Job(events=600, subjects=20, places=50)


def test_the_collector_is_that_of_the_worker():
    assert COLLECTOR == app.COLLECTOR


def test_events_come_displaced_but_never_further_than_said():
    places = [(place, arrival.number) for place, arrival in enumerate(arrivals(JOB))]
    assert any(place != number for place, number in places)
    assert all(abs(place - number) <= JOB.places for place, number in places)


def test_true_order_passes():
    check(JOB, range(JOB.events))


def test_the_order_of_arrival_does_not():
    with pytest.raises(ValueError, match="out of order"):
        check(JOB, [arrival.number for arrival in arrivals(JOB)])


def test_an_event_that_is_missing_is_found():
    with pytest.raises(ValueError, match="599 of 600"):
        check(JOB, range(1, JOB.events))


def test_an_event_that_came_twice_is_found():
    with pytest.raises(ValueError, match="out of order"):
        check(JOB, [0, *range(JOB.events - 1)])


def test_the_order_stage_does_the_job():
    command = [sys.executable, "-m", "bench.orderer_reorder", *map(str, JOB)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0
