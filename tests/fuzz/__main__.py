"""`python -m tests.fuzz [--inputs N] [--seed N] [--jobs N]`: hostile inputs through all that judges them."""

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.fuzz.feed import Report, feed, share


def main() -> int:
    """Exits 1 when an input crashed something, took too long, or left something behind."""
    options = argparse.ArgumentParser(prog="python -m tests.fuzz")
    options.add_argument("--inputs", type=int, default=1_000_000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options.add_argument("--only", type=int, help="feed this one input again, here, with its traceback")
    given = options.parse_args()
    if given.only is not None:
        feed(given.seed, range(given.only, given.only + 1))
        return 0
    began, total = time.monotonic(), Report()
    with ProcessPoolExecutor(given.jobs) as pool:
        parts = [pool.submit(share, given.seed, given.inputs, part, given.jobs) for part in range(given.jobs)]
        for part in parts:
            total.add(part.result())
    for outcome, count in sorted(total.outcomes.items()):
        print(f"{count:>10,}  {outcome}")
    print(f"{total.inputs:>10,}  inputs in {time.monotonic() - began:.0f} s, seed {given.seed}")
    print(f"slowest: input {total.slowest_input}, {total.slowest_seconds * 1000:.0f} ms")
    if total.grown:
        print("memory grew: something is kept of each input")
    return int(total.grown)


if __name__ == "__main__":
    sys.exit(main())
