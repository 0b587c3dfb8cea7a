"""The promises under crashes, freezes, lost ownership, outages, late and re-sent events: judged by history."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.simulation.bugs import BUGS
from tests.simulation.campaign import Tally, cores, play, play_all

_IN_CI = os.environ.get("CI") == "true"
_SEEDS = 200 if _IN_CI else 100  # `make simulate` plays 20,000: on a slow machine a seed takes half a second
_SEEDS_PER_BUG = 300
_BUGS = list(BUGS)[::3] if _IN_CI else list(BUGS)
"""CI has a quarter of an hour on two cores for everything; `make test` elsewhere plays them all."""


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with cores(2) as both:
        yield both


@pytest.mark.timeout(600)
def test_no_promise_is_broken_whatever_goes_wrong(pool: ProcessPoolExecutor) -> None:
    total = Tally()
    for tally in play_all(pool, range(_SEEDS)):
        total.join(tally)
    assert not total.broken, [f"seed {seed}: {violations[0]}" for seed, violations in total.broken[:5]]
    assert total.counts["seeds"] == _SEEDS
    for kind in (
        "killed",
        "frozen",
        "thawed",
        "stopping",
        "window changed",
        "reloaded",
        "sink back",
        "dead letters",
        "doubled at plain",
        "missed expectations",
    ):
        assert total.counts[kind] > 0, f"{kind}: what did not happen was not tested"


@pytest.mark.timeout(600)  # a busy machine
@pytest.mark.parametrize("bug", _BUGS)
def test_the_checker_finds_a_planted_bug(bug: str, pool: ProcessPoolExecutor) -> None:
    tallies = play_all(pool, range(_SEEDS_PER_BUG), bug=bug, until_broken=True)
    found = [seed for tally in tallies for seed, _ in tally.broken]
    assert found, f"not found in {_SEEDS_PER_BUG} seeds"
    assert not pool.submit(play, found[:1]).result().broken, "the worker without the bug breaks a promise there too"


def test_a_seed_replays_exactly_in_another_process() -> None:
    assert _replay(11) == _replay(11) != _replay(12)


def _replay(seed: int) -> str:
    command = [sys.executable, "-m", "tests.simulation", "--seed", str(seed)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
