"""The reorder job on the worker's order stage: `python -m bench.orderer_reorder EVENTS SUBJECTS PLACES`.

Called as the pipeline calls it: what is due comes out before each event goes in. Prints the processor seconds.
"""

import sys
import time

from bench.reorder import PER_SECOND, Arrival, Job, arrivals, check, set_collector
from worker.events import (
    Event,
    Message,
    OrderKey,
    OrderKind,
    PartitionId,
    Placed,
    Position,
    Released,
    Schema,
    UnixSeconds,
)
from worker.order import Orderer

_SOURCE = "/subscriptions/0b2c/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws"


def placed(arrival: Arrival) -> Placed:
    """As the pipeline makes it."""
    message = Message(PartitionId("0"), arrival.number, str(arrival.number), UnixSeconds(arrival.at), b"")
    key = OrderKey(OrderKind.TIME, arrival.text)
    event = Event(Schema.EVENT_GRID, str(arrival.number), "t", _SOURCE, arrival.subject, None, None, {}, key)
    return Placed(event, message, Position(arrival.number, 0))


def main() -> None:
    """Runs the job, checks what came out, and prints the seconds."""
    job = Job(*map(int, sys.argv[1:]))
    events = [placed(arrival) for arrival in arrivals(job)]
    orderer = Orderer(window_seconds=job.window_seconds, memory_seconds=86_400)
    released: list[Released] = []
    set_collector()
    began = time.process_time()
    for event in events:
        now = event.message.enqueued_at
        released += orderer.due(now=now, at_most=job.events)
        assert orderer.add(event, now=now) is None, "nothing of this job is late"
    end = UnixSeconds(job.events / PER_SECOND + job.window_seconds)
    released += orderer.due(now=end, at_most=job.events)
    seconds = time.process_time() - began
    check(job, (each.placed.position.sequence_number for each in released))
    print(seconds)


if __name__ == "__main__":
    main()
