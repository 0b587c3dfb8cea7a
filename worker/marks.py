"""What a list of the shared table tells of each row without reading it: when it is due, or who is at it. Pure."""

from enum import StrEnum
from typing import NamedTuple

from worker.events import PartitionId


class Say(StrEnum):
    """What a row says of itself."""

    DUE = "due"
    """It is to be looked at when every partition is through this time."""
    OLD = "old"
    """It may be deleted then."""
    TOLD = "told"
    """A silence was told; a sign of life newer than this time ends it."""
    TELLING = "telling"
    """It is being handed to this partition."""
    THROUGH = "through"
    """A partition is through this time."""


class Mark(NamedTuple):
    """A row's mark."""

    says: Say
    time: float = 0.0
    """Unix time."""
    home: PartitionId = PartitionId("")

    def __str__(self) -> str:
        return f"{self.says}/{self.home if self.says is Say.TELLING else repr(self.time)}"


def parse(text: str) -> Mark | None:
    """The mark in the text; None where it is none that this version knows."""
    says, _, rest = text.partition("/")
    try:
        said = Say(says)
        return Mark(said, home=PartitionId(rest)) if said is Say.TELLING else Mark(said, float(rest))
    except ValueError:
        return None
