"""What one of `worker doctor`'s checks found."""

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    LOOK = "look"
    """Nothing is broken, and somebody should know."""
    WRONG = "wrong"
    UNKNOWN = "unknown"
    """It could not be checked."""


class Finding(NamedTuple):
    """One line of the table."""

    check: str
    about: str
    """Of several: which one."""
    state: State
    said: str
    to_do: str = ""


CLOCKS_SECONDS = 5.0
"""How far clocks may be apart: the ledger and the pending expectations reckon with so much."""
_LOOK_SECONDS = 2.0
"""Times come to the second, and an answer takes its time."""


def clocks(whose: str, seconds: float) -> Finding:
    """What it means that a clock is so many seconds ahead of this machine's; behind it, where they are negative."""
    if abs(seconds) <= _LOOK_SECONDS:
        return Finding("clock", whose, State.OK, f"{whose} clock and this machine's agree")
    state = State.WRONG if abs(seconds) > CLOCKS_SECONDS else State.LOOK
    said = f"{whose} clock is {abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} this machine's"
    return Finding("clock", whose, state, said, "synchronise this machine's clock (NTP): leases and deadlines go by it")
