"""An event that kills its process every time: found by what was marked before each death, and given up after a few.

To mark a message costs a write of the state, so the worker does it only when it has reason to: when generations of a
partition have died in a row without getting on. Then, for a while, each message is marked before it is taken in and
before each attempt to deliver it, one attempt at a time. Whoever was marked when a generation died is a suspect.

Pure. A generation has died when it ended without releasing the partition: the process was killed, or so it looked.
"""

from typing import Any

from worker.state import PartitionState, Suspect

KILLS_THE_WORKER = "kills_the_worker"
"""The reason of a message that was being worked on when one process after the other died."""
_CAREFUL_AFTER = 2
"""Deaths in a row at one watermark. One is what any node failure brings."""
_CAREFUL_SECONDS = 30.0
"""For so long after the beginning of a generation: what kills does it soon, and being careful is slow."""
_CONDEMNED_AFTER = 3
"""Deaths while the same message was marked."""
_CAREFUL_FOR = 2_000
"""Messages beyond the last one known to be read: about what can have been read since the state was written."""


def after(last: PartitionState) -> dict[str, Any]:
    """What the next generation's state says of deaths, by how the last one ended."""
    if last.released:
        return {"deaths": 0, "deaths_at": None, "marked": [], "suspects": []}
    reached = last.watermark.sequence_number if last.watermark else -1
    counts = dict(last.suspects)
    for number in last.marked:
        counts[number] = counts.get(number, 0) + 1
    return {
        "deaths": last.deaths + 1 if last.deaths_at == reached else 1,
        "deaths_at": reached,
        "marked": [],
        "suspects": [Suspect(*each) for each in sorted(counts.items())],
    }


class Caution:
    """What one generation has to be careful with. `attempted` and `taken_in` are the messages being worked on.

    `now` may be any clock that goes forward, in seconds.
    """

    def __init__(self, state: PartitionState, *, now: float) -> None:
        self._until = now + _CAREFUL_SECONDS
        self._suspects = dict(state.suspects)
        self._through = -1
        if self._suspects or state.deaths >= _CAREFUL_AFTER:
            read = state.progress["read"] if state.progress else None
            self._through = (-1 if read is None else read) + _CAREFUL_FOR
        self.taken_in: int | None = None
        self.attempted: int | None = None

    def marks(self, number: int, *, now: float) -> bool:
        """Whether the message is to be marked in the state before it is worked on."""
        return number <= self._through and now < self._until

    def condemns(self, number: int) -> int:
        """How many processes died of the message, when that is enough to give it up; else 0."""
        deaths = self._suspects.get(number, 0)
        return deaths if deaths >= _CONDEMNED_AFTER else 0

    @property
    def busy(self) -> bool:
        """Whether a marked message is being worked on: only one at a time, or it could not be told which it was."""
        return self.taken_in is not None or self.attempted is not None

    def ended(self, number: int) -> None:
        """The attempt to deliver something of this message has ended."""
        if self.attempted == number:
            self.attempted = None

    def clear(self, number: int) -> None:
        """The message is settled: whatever the processes died of, it was not that."""
        self._suspects.pop(number, None)

    def snapshot(self) -> dict[str, Any]:
        """Fields of the partition state."""
        marked = {number for number in (self.taken_in, self.attempted) if number is not None}
        return {
            "marked": sorted(marked),
            "suspects": [Suspect(*each) for each in sorted(self._suspects.items())],
        }
