"""Whether the hub is heard on the links of the Event Hubs client: a partition that is taken away loses its link.

The SDK calls back for a quiet partition whether or not its link is there, and has no public word about links. So `look`
reads two of its private fields, here and nowhere else; where it does not find them, there is no link, and nothing goes
on that depends on one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from worker.events import PartitionId


class Link(NamedTuple):
    """What is seen of an open link."""

    attached: object
    """The same object as long as it is the same link."""
    frame: object
    """Another value with each frame that came in."""


@dataclass(slots=True)
class _Heard:
    link: Link
    looked_at: float
    at: float


def look(client: Any, partition: PartitionId) -> Link | None:
    """The client's link to a partition, or None while it has none that is open."""
    for processor in getattr(client, "_event_processors", {}).values():
        consumer = processor._consumers.get(partition)  # noqa: SLF001 - see above
        handler = getattr(consumer, "_handler", None)
        connection = getattr(handler, "_connection", None)
        if connection is not None and consumer.running:
            return Link(handler, connection._last_frame_received_time)  # noqa: SLF001 - see above
    return None


class Links:
    """When each link was last heard of, by our own clock. Looked at with every callback, and when it matters.

    A frame is dated to the look before the one that shows it: what a process finds in its socket when it thaws came
    while it was frozen, and says nothing about now.
    """

    def __init__(self, look: Callable[[PartitionId], Link | None], clock: Callable[[], float]) -> None:
        self._look = look
        self._clock = clock
        self._heard: dict[PartitionId, _Heard] = {}

    def attached(self, partition: PartitionId) -> object | None:
        """Looks, and names the link there is."""
        link, now = self._look(partition), self._clock()
        if link is None:
            self._heard.pop(partition, None)
            return None
        heard = self._heard.get(partition)
        if heard is None or heard.link.attached is not link.attached:
            self._heard[partition] = _Heard(link, now, now)
        else:
            if link.frame != heard.link.frame:
                heard.at = heard.looked_at
            heard.link, heard.looked_at = link, now
        return link.attached

    def silent_seconds(self, partition: PartitionId) -> float:
        """How long ago the link was heard of, by the looks so far; there is one."""
        return self._clock() - self._heard[partition].at
