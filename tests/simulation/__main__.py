"""`python -m tests.simulation`: plays seeds and says whether a promise was broken; replays one, and shows it."""

import argparse
import os
import sys
import time

import structlog

from tests.simulation.bugs import BUGS, planted
from tests.simulation.campaign import Tally, cores, play_all, silent
from tests.simulation.checker import check
from tests.simulation.history import describe
from tests.simulation.loop import LIFE
from tests.simulation.world import World, play_world

_SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many seeds to play")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="on how many cores")
    parser.add_argument("--seed", type=int, help="replay this one only")
    parser.add_argument("--trace", action="store_true", help="with --seed: all that happened, and the log")
    parser.add_argument("--bug", choices=sorted(BUGS), help="with --seed: plant this bug")
    parser.add_argument("--bugs", action="store_true", help="say which seed is the first to show each planted bug")
    options = parser.parse_args()
    if options.seed is not None:
        _hash_alike()
        return _replay(options.seed, trace=options.trace, bug=options.bug)
    seeds = range(options.first, options.first + options.seeds)
    return _first_shown(seeds, options.jobs) if options.bugs else _campaign(seeds, options.jobs)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _campaign(seeds: range, jobs: int) -> int:
    began = time.monotonic()
    total = Tally()
    with cores(jobs) as pool:
        for tally in play_all(pool, seeds):
            total.join(tally)
            for seed, violations in tally.broken:
                _say(f"seed {seed}: {violations[0].promise}: {violations[0].text}")
    seconds = time.monotonic() - began
    for name, value in total.rows():
        _say(f"{name:24}{value:>12,}")
    _say(f"{'seconds':24}{seconds:>12,.1f}   ({seconds * jobs / len(seeds) * 1000:.0f} ms a seed and core)")
    return 1 if total.broken else 0


def _first_shown(seeds: range, jobs: int) -> int:
    """For `_SHOWN_BY` in test_simulation.py."""
    missing = 0
    with cores(jobs) as pool:
        for bug in BUGS:
            tallies = play_all(pool, seeds, bug=bug, until_broken=True)
            first = next((seed for tally in tallies for seed, _ in tally.broken), None)
            missing += first is None
            _say(f'"{bug}": {first},')
    return 1 if missing else 0


def _hash_alike() -> None:
    """Begins this process again if it hashes texts at random: see `campaign.cores`."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        command = [sys.executable, "-m", "tests.simulation", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONHASHSEED": "0"})


def _replay(seed: int, *, trace: bool, bug: str | None) -> int:
    with silent(), planted(bug):
        world = World(seed)
        if trace:
            _log_with(world)
        history = play_world(world)
    if trace:
        for entry in history.entries:
            _say(describe(entry))
    violations = check(history)
    for violation in violations[:_SHOWN]:
        _say(f"{violation.time:.3f} {violation.promise}: {violation.text}")
    _say(f"seed {seed}: {len(violations)} violations, history {history.digest()[:16]}, {world.variant}")
    return 1 if violations else 0


def _log_with(world: World) -> None:
    """The worker's own log, with the virtual time and the process."""

    def place(_: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        life = LIFE.get()
        return {"event": f"{world.loop.time():.3f} {life.name if life else '-'} {line.pop('event')}", **line}

    structlog.configure(
        processors=[place, structlog.dev.ConsoleRenderer(colors=False)],
        wrapper_class=structlog.make_filtering_bound_logger(0),
    )


if __name__ == "__main__":
    sys.exit(main())
