"""Where a consumer asked to start: the selector filter of its link, understood and looked up in a log. No I/O."""

import re
from dataclasses import dataclass
from typing import Protocol

from worker.local.refusals import ARGUMENT_ERROR, Refused

_SELECTOR = re.compile(
    r"\s*amqp\.annotation\.x-opt-(?P<field>offset|sequence-number|enqueued-time)"
    r"\s*(?P<comparison>>=?)\s*'(?P<value>[^']*)'\s*"
)
_START_OF_LOG, _END_OF_LOG = "-1", "@latest"


class Searchable(Protocol):
    """The part of a partition's log that a position is looked up in."""

    def __len__(self) -> int:
        """How many messages there are: the sequence number of the next one."""
        ...

    @property
    def last_offset(self) -> int:
        """The offset of the last message, -1 in an empty log."""
        ...

    def first_at_offset(self, offset: int) -> int:
        """The sequence number of the first message at or after an offset."""
        ...

    def first_at_time(self, unix_ms: int) -> int:
        """The sequence number of the first message enqueued at or after a moment."""
        ...


@dataclass(frozen=True, slots=True)
class StartPosition:
    """What follows "start with the first message whose …"."""

    field: str
    inclusive: bool
    value: str

    def resolve(self, log: Searchable) -> int:
        """The sequence number to begin with; raises Refused where the log has no such place."""
        if self.field == "enqueued-time":
            return log.first_at_time(self._number() + self._step)
        if self.field == "offset" and self.value == _END_OF_LOG:
            return len(log)
        if self.value == _START_OF_LOG:
            return 0
        number = self._number()
        if self.field == "offset":
            _require(number <= log.last_offset, "offset", number, log.last_offset)
            return log.first_at_offset(number + self._step)
        _require(number < len(log), "sequence number", number, len(log) - 1)
        return max(0, number + self._step)

    @property
    def _step(self) -> int:
        return 0 if self.inclusive else 1

    def _number(self) -> int:
        try:
            return int(self.value)
        except ValueError:
            raise Refused(ARGUMENT_ERROR, f"The supplied {self.field} '{self.value}' is not a number.") from None


def _require(valid: bool, what: str, supplied: int, last: int) -> None:  # noqa: FBT001 - reads as an assertion
    if not valid:
        raise Refused(
            ARGUMENT_ERROR, f"The supplied {what} '{supplied}' is invalid. The last {what} in the system is '{last}'"
        )


FROM_THE_START = StartPosition("offset", inclusive=False, value=_START_OF_LOG)


def parse_selector(selector: str) -> StartPosition:
    """Understands `amqp.annotation.x-opt-offset > '100'` and its relatives; raises Refused for anything else."""
    found = _SELECTOR.fullmatch(selector)
    if found is None:
        raise Refused(ARGUMENT_ERROR, f"The selector {selector!r} is not supported.")
    return StartPosition(found["field"], found["comparison"] == ">=", found["value"])
