"""The reorder job on Bytewax: `python -m bench.bytewax_reorder OPERATOR EVENTS SUBJECTS PLACES`, for bench.peers.

Prints the processor seconds from the start of the dataflow to its end. It runs in an environment of its own; the worker
is not needed, and not there.
"""

import sys
import time
from collections.abc import Callable
from heapq import heappop, heappush

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import KeyedStream, StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

from bench.reorder import Arrival, Job, arrivals, check, set_collector

BATCH = 300
"""What a source gives at once: as many as the worker takes from the hub."""

Heap = list[tuple[str, Arrival]]
Keyed = tuple[str, Arrival | None]
"""None: there are no more of this subject."""


class _Part(StatefulSourcePartition[Keyed, int]):
    """The list, in batches."""

    def __init__(self, items: list[Keyed], resume_at: int | None) -> None:
        self._items = items
        self._next = resume_at or 0

    def next_batch(self) -> list[Keyed]:
        batch = self._items[self._next : self._next + BATCH]
        if not batch:
            raise StopIteration
        self._next += len(batch)
        return batch

    def snapshot(self) -> int:
        return self._next


class _Source(FixedPartitionedSource[Keyed, int]):
    def __init__(self, items: list[Keyed]) -> None:
        self._items = items

    def list_parts(self) -> list[str]:
        return ["0"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _Part:  # noqa: ARG002 - its protocol
        return _Part(self._items, resume_state)


class _SinkPart(StatelessSinkPartition[tuple[str, Arrival]]):
    def __init__(self, released: list[tuple[str, Arrival]]) -> None:
        self._released = released

    def write_batch(self, items: list[tuple[str, Arrival]]) -> None:
        self._released.extend(items)


class _Sink(DynamicSink[tuple[str, Arrival]]):
    """A list."""

    def __init__(self, released: list[tuple[str, Arrival]]) -> None:
        self._released = released

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _SinkPart:  # noqa: ARG002 - its protocol
        return _SinkPart(self._released)


def hold(heap: Heap, arrival: Arrival | None, window_seconds: float) -> list[Arrival]:
    """Takes one in, and gives what has been held for the window by now: by the clock of its subject, there is no other.

    None ends it: all that is held comes out.
    """
    until = float("inf")
    if arrival is not None:
        heappush(heap, (arrival.text, arrival))
        until = arrival.at - window_seconds
    due = []
    while heap and heap[0][1].at <= until:
        due.append(heappop(heap)[1])
    return due


def flat_map(window_seconds: float) -> Callable[[Heap | None, Arrival | None], tuple[Heap | None, list[Arrival]]]:
    """A heap per subject for `stateful_flat_map`: called for each event; the heap is forgotten when it is empty."""

    def mapper(heap: Heap | None, arrival: Arrival | None) -> tuple[Heap | None, list[Arrival]]:
        heap = [] if heap is None else heap
        due = hold(heap, arrival, window_seconds)
        return heap or None, due

    return mapper


class BatchLogic(StatefulBatchLogic[Arrival | None, Arrival, Heap]):
    """The same for `stateful_batch`: called once for all the events of a subject in a batch."""

    def __init__(self, heap: Heap | None, window_seconds: float) -> None:
        self._heap: Heap = heap or []
        self._window_seconds = window_seconds

    def on_batch(self, values: list[Arrival | None]) -> tuple[list[Arrival], bool]:
        """What is due now, and whether to forget the heap."""
        due = [released for value in values for released in hold(self._heap, value, self._window_seconds)]
        return due, not self._heap

    def snapshot(self) -> Heap:
        """For recovery, which is off here."""
        return list(self._heap)


def _reordered(operator: str, keyed: KeyedStream[Arrival | None], window_seconds: float) -> KeyedStream[Arrival]:
    if operator == "stateful_flat_map":
        return op.stateful_flat_map("reorder", keyed, flat_map(window_seconds))
    return op.stateful_batch("reorder", keyed, lambda heap: BatchLogic(heap, window_seconds))


def main() -> None:
    """Runs the job, checks what came out, and prints the seconds."""
    job = Job(*map(int, sys.argv[2:]))
    came = arrivals(job)
    items: list[Keyed] = [(each.subject, each) for each in came]
    items += [(subject, None) for subject in dict.fromkeys(each.subject for each in came)]
    released: list[tuple[str, Arrival]] = []
    flow = Dataflow("reorder")
    keyed = op.input("in", flow, _Source(items))
    op.output("out", _reordered(sys.argv[1], keyed, job.window_seconds), _Sink(released))
    set_collector()
    began = time.process_time()
    run_main(flow)
    seconds = time.process_time() - began
    check(job, (arrival.number for _, arrival in released))
    print(seconds)


if __name__ == "__main__":
    main()
