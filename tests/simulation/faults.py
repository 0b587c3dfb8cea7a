"""What goes wrong in one run, and when: a plan made from the seed before the run begins."""

from dataclasses import dataclass
from enum import Enum
from random import Random

SECONDS = 30.0
"""After this nothing goes wrong any more, and everything must settle."""


class Fault(Enum):
    KILL = "kill"
    FREEZE = "freeze"
    STOP = "stop"
    STORE_AWAY = "store away"
    CUT_OFF = "cut off from the store"
    LINK_DROPPED = "link dropped"
    HUB_AWAY = "hub away"
    SINK_AWAY = "sink away"
    SINK_REFUSES = "sink refuses"


_WEIGHTS = {
    Fault.KILL: 8,
    Fault.FREEZE: 6,
    Fault.STOP: 4,
    Fault.STORE_AWAY: 2,
    Fault.CUT_OFF: 2,
    Fault.LINK_DROPPED: 3,
    Fault.HUB_AWAY: 1,
    Fault.SINK_AWAY: 2,
    Fault.SINK_REFUSES: 1,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """One fault."""

    time: float
    fault: Fault
    seconds: float
    """How long it lasts; until a killed process is started again."""
    steps: int
    """How many handles the process still runs: the moment is any of its awaits."""
    victim: float
    """Which process, partition or sink: a share of those there are."""


@dataclass(frozen=True, slots=True)
class Reload:
    """One process reads its rules anew."""

    time: float
    victim: float
    """Which process: a share of those there are."""
    sink: float | None
    """The one that is taken out, a share of all; None: every sink is built anew, and none is missing."""
    seconds: float
    """How long it is out."""
    refuses: bool
    """Whether its destination refuses everybody for a while before and until then: so something is left in its lane."""


RELOADED = 0.4
"""The share of runs in which rules are read anew."""


def reloads(random: Random) -> list[Reload]:
    """The reloads of one run."""
    if random.random() >= RELOADED:
        return []
    return [
        Reload(
            random.uniform(1, SECONDS - 8),
            random.random(),
            random.random() if random.random() < 0.6 else None,
            random.choice((0.1, 1.0, 3.0, 8.0, 15.0)),
            random.random() < 0.5,
        )
        for _ in range(random.randint(1, 5))
    ]


def plans(random: Random) -> list[Plan]:
    """The faults of one run, in the order of their times."""
    chosen = random.choices(list(_WEIGHTS), weights=list(_WEIGHTS.values()), k=random.randint(2, 9))
    return sorted(
        (
            Plan(random.uniform(1, SECONDS - 8), fault, _seconds(random, fault), random.randrange(150), random.random())
            for fault in chosen
        ),
        key=lambda plan: plan.time,
    )


def _seconds(random: Random, fault: Fault) -> float:
    """Shorter and longer than what the worker's own limits are."""
    match fault:
        case Fault.FREEZE:
            return random.choice((0.3, 2.5, 5.0, 8.0)) * random.uniform(0.8, 1.2)
        case Fault.KILL | Fault.STOP:
            return random.choice((0.05, 1.0, 8.0))
        case Fault.HUB_AWAY:
            return random.choice((1.0, 5.0, 8.0))
        case _:
            return random.uniform(0.5, 8.0)
