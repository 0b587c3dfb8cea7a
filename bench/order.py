"""How many events a second the order stage takes in and gives out: `python -m bench.order`.

Best of several short runs in processor time, because a shared machine changes its speed; the events are made before.
"""

import gc
import random
import sys
import time

from worker.events import Event, Message, OrderKey, OrderKind, PartitionId, Placed, Position, Schema, UnixSeconds
from worker.order import Orderer

EVENTS = 5_000
PER_SECOND = 10_000
WINDOW_SECONDS = 0.05
RUNS = 60
SOURCE = "/subscriptions/0b2c/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws"


def disordered(*, subjects: int, disorder: int) -> list[Placed]:
    """Events in the order of their arrival, each up to `disorder` places late."""
    chance = random.Random(1)  # noqa: S311 - a bench wants the same numbers each time
    message = Message(PartitionId("0"), 1, "1", UnixSeconds(0.0), b"")
    order = sorted(range(EVENTS), key=lambda number: number + chance.uniform(0, disorder))
    return [placed(number, subjects, message) for number in order]


def placed(number: int, subjects: int, message: Message) -> Placed:
    """The event with this place in the true order."""
    key = OrderKey(OrderKind.TIME, f"2017-06-26T18:41:00.{number:07d}Z/3")
    subject = f"experiments/e/runs/{number % subjects}"
    return Placed(
        Event(Schema.EVENT_GRID, str(number), "t", SOURCE, subject, None, None, {}, key), message, Position(number, 0)
    )


def run(arrivals: list[Placed]) -> float:
    """The seconds it took."""
    orderer = Orderer(window_seconds=WINDOW_SECONDS, memory_seconds=86_400)
    began = time.process_time()
    for number, event in enumerate(arrivals):
        now = UnixSeconds(number / PER_SECOND)
        if number % 100 == 0:
            orderer.due(now=now, at_most=EVENTS)
        orderer.add(event, now=now)
    orderer.due(now=UnixSeconds(EVENTS / PER_SECOND + WINDOW_SECONDS), at_most=EVENTS)
    seconds = time.process_time() - began
    assert orderer.held == 0
    return seconds


def main() -> None:
    """Prints one line per mix."""
    for subjects, disorder in ((100, 20), (EVENTS, 20), (1, 20), (10, 1_000)):
        arrivals = disordered(subjects=subjects, disorder=disorder)
        gc.collect()
        gc.freeze()
        best = min(run(arrivals) for _ in range(RUNS))
        sys.stdout.write(f"{subjects:>5} subjects, disorder {disorder:>5}: {EVENTS / best:>9,.0f} events/s\n")


if __name__ == "__main__":
    main()
