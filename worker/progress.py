"""Which messages of a partition are settled, and how far without a hole: what the checkpoint may say.

A message settles when all its elements have. The watermark is the last message with nothing unsettled at or before it.
Only what is unsettled is kept, in memory as in the partition state, because it is bounded and what is settled is not:
one event that is tried again for hours keeps the watermark where it is while a million others settle above it.
So a number up to the highest one read that is not known as unsettled counts as settled. Numbers may have gaps.

Pure: what settles an event, and when progress is saved, is decided elsewhere.
"""

from collections import OrderedDict, deque
from typing import Any, NamedTuple, TypedDict

from worker.events import Position


class Watermark(NamedTuple):
    """A message, as a checkpoint names it."""

    sequence_number: int
    offset: str


class SavedProgress(TypedDict):
    """Progress as plain lists, ready for JSON; read back, lists and tuples are the same."""

    watermark: list[Any] | None
    """Sequence number and offset."""
    read: int | None
    unsettled: list[list[int]]
    """Ranges of messages, first and last, in order. What is between two ranges is settled."""
    parts: list[list[int]]
    """An unsettled message, then its settled elements; left out where there are none."""
    served: list[list[Any]]
    """An unsettled position's number and element, then the sinks that took its event."""


class _Message:
    """A message with something unsettled."""

    __slots__ = ("before", "elements", "settled")

    def __init__(self, elements: int, settled: set[int], before: Watermark | None) -> None:
        self.elements = elements
        self.settled = settled
        self.before = before
        """The message begun before this one: the watermark, when this is the oldest unsettled."""


_NONE = -1
"""Below every sequence number."""


class Progress:
    """The progress of one partition: `begin` a message, `settle` each of its elements, read the `watermark`."""

    def __init__(self) -> None:
        self._open: OrderedDict[int, _Message] = OrderedDict()
        self._served: dict[Position, set[str]] = {}
        self._last: Watermark | None = None
        """The last message begun; after a restart first the watermark of the earlier life."""
        self._begun = _NONE
        self._read = _NONE
        # What an earlier life left unsettled and is still to be begun again.
        self._left: deque[tuple[int, int]] = deque()
        self._left_parts: dict[int, set[int]] = {}
        self.missing = 0
        """Messages that an earlier life left unsettled, and that did not come again before later ones did."""

    @classmethod
    def restore(cls, saved: SavedProgress | None, *, checkpoint: Watermark | None = None) -> "Progress":
        """Goes on where `snapshot` was taken; what was read then is to be begun again from above the watermark.

        A checkpoint further on is where it goes on instead: the state was lost, or is an older one.
        """
        progress = cls()
        if saved is not None:
            progress._take_over(saved)
        if checkpoint is not None and checkpoint.sequence_number > _number(progress._last):
            progress._skip_to(checkpoint)
        return progress

    def _take_over(self, saved: SavedProgress) -> None:
        if saved["watermark"] is not None:
            self._last = Watermark(*saved["watermark"])
        if saved["read"] is not None:
            self._read = saved["read"]
        self._left.extend((first, last) for first, last in saved["unsettled"])
        self._left_parts = {number: set(elements) for number, *elements in saved["parts"]}
        self._served = {Position(number, element): set(sinks) for number, element, *sinks in saved["served"]}

    def _skip_to(self, checkpoint: Watermark) -> None:
        number = checkpoint.sequence_number
        self._last = checkpoint
        self._read = max(self._read, number)
        self._left = deque((max(first, number + 1), last) for first, last in self._left if last > number)
        self._left_parts = {each: elements for each, elements in self._left_parts.items() if each > number}
        self._served = {each: sinks for each, sinks in self._served.items() if each.sequence_number > number}

    @property
    def watermark(self) -> Watermark | None:
        """The last message with nothing unsettled at or before it; None before there is one."""
        return next(iter(self._open.values())).before if self._open else self._last

    @property
    def read(self) -> int | None:
        """The highest sequence number begun, in this life or an earlier one."""
        return None if self._read == _NONE else self._read

    @property
    def unsettled(self) -> int:
        """How many messages are begun and not settled."""
        return len(self._open)

    @property
    def oldest_unsettled(self) -> int | None:
        """The sequence number that keeps the watermark where it is; None when everything begun is settled."""
        return next(iter(self._open), None)

    def begin(self, sequence_number: int, offset: str, elements: int) -> None:
        """A message with so many elements is there to be settled; with none, or settled in an earlier life, it is."""
        if sequence_number <= self._begun:
            raise ValueError(f"message {sequence_number} begins after {self._begun}: messages begin in order, once")
        settled = self._settled_before(sequence_number, elements)
        if len(settled) < elements:
            self._open[sequence_number] = _Message(elements, settled, self._last)
        self._begun = sequence_number
        self._read = max(self._read, sequence_number)
        if self._last is None or self._last.sequence_number < sequence_number:
            self._last = Watermark(sequence_number, offset)

    def already_settled(self, position: Position) -> bool:
        """Whether the element of a message that has begun is settled, in this life or an earlier one: then skip it."""
        if self._last is None or position.sequence_number > self._last.sequence_number:
            raise ValueError(f"message {position.sequence_number} has not begun: ask after `begin`")
        message = self._open.get(position.sequence_number)
        return message is None or position.element in message.settled

    def settle(self, position: Position) -> None:
        """Everything the element's event asked for is done. Once: a second time is a mistake of the caller."""
        message = self._message(position)
        message.settled.add(position.element)
        self._served.pop(position, None)
        if len(message.settled) == message.elements:
            del self._open[position.sequence_number]

    def holds(self, sequence_number: int) -> bool:
        """Whether the message is begun and something of it is unsettled."""
        return sequence_number in self._open

    def start_over(self, sequence_number: int) -> None:
        """The message is to be begun as if nothing of it had been settled or served in an earlier life."""
        self._left_parts.pop(sequence_number, None)
        for position in [each for each in self._served if each.sequence_number == sequence_number]:
            del self._served[position]

    def served(self, position: Position, sink: str) -> None:
        """The sink took the event, others have not yet: it need not have it again after a restart."""
        self._message(position)
        self._served.setdefault(position, set()).add(sink)

    def served_by(self, position: Position) -> frozenset[str]:
        """The sinks that took the event of this unsettled position."""
        return frozenset(self._served.get(position, ()))

    def snapshot(self) -> SavedProgress:
        """What a later life needs to know. While messages are begun again, what is still to come is part of it."""
        left_parts = {number: parts for number, parts in self._left_parts.items() if number > self._begun}
        parts = {number: message.settled for number, message in self._open.items() if message.settled} | left_parts
        watermark = self.watermark
        return SavedProgress(
            watermark=None if watermark is None else list(watermark),
            read=self.read,
            unsettled=self._open_ranges() + self._left_ranges(),
            parts=[[number, *sorted(settled)] for number, settled in parts.items()],
            served=[
                [*position, *sorted(sinks)]
                for position, sinks in self._served.items()
                if position.sequence_number > self._begun or position.sequence_number in self._open
            ],
        )

    def _settled_before(self, number: int, elements: int) -> set[int]:
        """The elements settled in an earlier life."""
        left = self._left
        while left and left[0][1] < number:
            first, last = left.popleft()
            self.missing += max(0, last - max(first - 1, self._begun))
        if number > self._read:
            return set()
        if not left or number < left[0][0]:
            return set(range(elements))
        return {element for element in self._left_parts.get(number, ()) if element < elements}

    def _message(self, position: Position) -> _Message:
        message = self._open.get(position.sequence_number)
        if message is None or position.element in message.settled or not 0 <= position.element < message.elements:
            raise ValueError(f"{position} is not unsettled: it never began, or it is settled a second time")
        return message

    def _open_ranges(self) -> list[list[int]]:
        ranges: list[list[int]] = []
        for number, message in self._open.items():
            if ranges and message.before is not None and message.before.sequence_number == ranges[-1][1]:
                ranges[-1][1] = number
            else:
                ranges.append([number, number])
        return ranges

    def _left_ranges(self) -> list[list[int]]:
        """What is still to be begun again."""
        return [[max(first, self._begun + 1), last] for first, last in self._left if last > self._begun]


def _number(watermark: Watermark | None) -> int:
    return _NONE if watermark is None else watermark.sequence_number
