"""The promises under crashes, freezes, lost ownership, outages, late and re-sent events: judged by history."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.simulation.bugs import BUGS
from tests.simulation.campaign import Tally, cores, play, play_all

_SEEDS = 100  # `make simulate` plays 20,000: on a slow machine a seed takes half a second
_SEEDS_PER_BUG = 300
_SHOWN_BY = {
    "no lease is looked at, and no loss": 43,
    "the next event does not wait for a retried one": 1,
    "progress above the watermark is forgotten": 2,
    "late verdicts are not kept": 2,
    "a dead letter counts before it is written": 4,
    "the ledger's outcome is ignored": 3,
    "what was closed is not in the state": 10,
    "the ledger is not asked about what is read again": 60,
    "an event does not wait for what is held of its subject": 34,
    "repeats of the SDK are let through": 3,
    "an event is looked at again when it is read again": 7,
    "the wall clock says what is missed": 6,
    "only one partition is asked whether it is through": 10,
    "what is not noted yet is not waited for": 33,
    "signs of life are not kept": 12,
    "who was told of a missed expectation is not noted in its row": 21,
    "what is under way is begun again on the new way": 7,
    "what a removed sink has left is forgotten": 62,
    "a lost answer of the store is taken for a yes": 1,
    "the oldest is delivered instead of the newest": 3,
    "a value counts before its event is accepted": 98,
}
"""The first seed that shows a bug, 0 where it is not in here, as the worker is now. Only to be quick: after a change of
the worker another may be the first, and it is looked for. Where these tests have become slow:
`python -m tests.simulation --bugs --seeds 300`.
"""


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
@pytest.mark.parametrize("bug", BUGS)
def test_the_checker_finds_a_planted_bug(bug: str, pool: ProcessPoolExecutor) -> None:
    known = pool.submit(play, [_SHOWN_BY.get(bug, 0)], bug=bug).result()
    tallies = [known] if known.broken else play_all(pool, range(_SEEDS_PER_BUG), bug=bug, until_broken=True)
    found = [seed for tally in tallies for seed, _ in tally.broken]
    assert found, f"not found in {_SEEDS_PER_BUG} seeds"
    assert not pool.submit(play, found[:1]).result().broken, "the worker without the bug breaks a promise there too"


def test_a_seed_replays_exactly_in_another_process() -> None:
    assert _replay(11) == _replay(11) != _replay(12)


def _replay(seed: int) -> str:
    command = [sys.executable, "-m", "tests.simulation", "--seed", str(seed)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
