"""Many seeds on several cores: what happened, added up, and which of them broke a promise."""

import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from unittest.mock import patch

import structlog

from tests.simulation.bugs import planted
from tests.simulation.checker import Violation, check
from tests.simulation.history import Attempt, Enqueued, History, LetterWrite
from tests.simulation.traffic import LEDGER, PLAIN
from tests.simulation.world import simulate

_SEEDS_PER_TASK = 20
_SEEDS_PER_LOOK = 2
"""Where the first is looked for that breaks a promise: what others have begun meanwhile was played in vain."""


@dataclass
class Tally:
    """What a number of runs amounts to."""

    counts: Counter[str] = field(default_factory=Counter)
    broken: list[tuple[int, list[Violation]]] = field(default_factory=list)
    """Seeds whose run broke a promise."""

    def add(self, history: History, violations: list[Violation]) -> None:
        """Counts one run."""
        counts = self.counts
        attempts: list[Attempt] = history.of(Attempt)
        effects = [each for each in attempts if each.acted]
        counts.update(history.counts)
        counts["seeds"] += 1
        counts["virtual seconds"] += round(history.virtual_seconds)
        counts["elements"] += sum(len(message.elements) for message in history.of(Enqueued))
        counts["attempts"] += len(attempts)
        counts["effects"] += len(effects)
        for sink in (PLAIN, LEDGER):
            acted = Counter(each.element.uid for each in effects if each.sink == sink)
            counts[f"doubled at {sink}"] += sum(times - 1 for times in acted.values())
        counts["missed expectations"] += len({each.about for each in attempts if each.about})
        counts["dead letters"] += len(history.of(LetterWrite))
        counts["violations"] += len(violations)
        if violations:
            self.broken.append((history.seed, violations))

    def join(self, other: "Tally") -> None:
        """Adds other runs."""
        self.counts.update(other.counts)
        self.broken += other.broken

    def rows(self) -> list[tuple[str, int]]:
        """The table."""
        shown = (
            *("seeds", "virtual seconds", "elements", "started", "killed", "frozen", "stopping", "reloaded"),
            *(
                "store away",
                "cut off from the store",
                "link dropped",
                "hub away",
                "sink away",
                "sink refuses",
                "window changed",
            ),
            *("attempts", "effects", f"doubled at {PLAIN}", f"doubled at {LEDGER}"),
            *("missed expectations", "dead letters", "violations"),
        )
        return [(name, self.counts[name]) for name in shown]


@contextmanager
def silent() -> Iterator[None]:
    """Inside, neither the worker nor the SDK logs anything: thousands of runs would say it thousands of times."""
    before = structlog.get_config()
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        with warnings.catch_warnings():
            # Whoever is killed between making a coroutine and starting it.
            warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)
            yield
    finally:
        structlog.configure(**before)
        logging.disable(disabled)


def play(seeds: Sequence[int], *, bug: str | None = None, until_broken: bool = False) -> Tally:
    """Plays the seeds here, one after the other."""
    tally = Tally()
    with silent(), planted(bug):
        for seed in seeds:
            history = simulate(seed)
            tally.add(history, check(history))
            if until_broken and tally.broken:
                break
    return tally


@contextmanager
def cores(number: int) -> Iterator[ProcessPoolExecutor]:
    """Processes to play on. All hash texts alike: the SDK keeps sets of them, and a seed must replay exactly."""
    # Not fork: the caller's own hashes would be inherited, and its threads only half.
    with (
        patch.dict(os.environ, PYTHONHASHSEED="0"),
        ProcessPoolExecutor(number, mp_context=get_context("spawn")) as pool,
    ):
        yield pool


def play_all(
    pool: ProcessPoolExecutor, seeds: range, *, bug: str | None = None, until_broken: bool = False
) -> Iterator[Tally]:
    """Plays the seeds on all cores; gives, in order, what was played since the last time."""
    size = _SEEDS_PER_LOOK if until_broken else _SEEDS_PER_TASK
    tasks = [seeds[first : first + size] for first in range(0, len(seeds), size)]
    futures = [pool.submit(play, task, bug=bug, until_broken=until_broken) for task in tasks]
    try:
        for future in futures:
            tally = future.result()
            yield tally
            if until_broken and tally.broken:
                return
    finally:
        for future in futures:
            future.cancel()
