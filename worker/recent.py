"""The newest messages of the hub, as `worker doctor` looks at them: what time it is there, and whether they are keyed.

A partition that a worker reads is left alone: who looks would be turned away. Of those the workers have kept samples.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from worker import messages, sightings, spread
from worker.decode import decode
from worker.errors import StoreUnavailable
from worker.events import BadEvent, PartitionId
from worker.finding import Finding, State, clocks
from worker.hub import Hub
from worker.overview import PartitionView
from worker.peek import NothingSeen, Seen, peek
from worker.sightings import Sightings
from worker.stores import Store

_EVENTS = 50
"""Of each partition, at most."""
_HUB = "the hub's"
_SUBSCRIPTION = "let the event subscription send the subject as partition key: `worker subscription` writes that"


async def newest(hub: Hub, views: Sequence[PartitionView]) -> dict[PartitionId, Seen]:
    """The newest messages of each partition that nobody reads and that has any. Raises HubUnavailable.

    The hub may say how far it is to somebody who may not read from it: another consumer group, a key for sending.
    """
    free = [view for view in views if not view.owned and not view.span.empty]
    found = await asyncio.gather(*(_newest(hub, view) for view in free))
    return {view.partition: seen for view, seen in zip(free, found, strict=True) if seen is not None}


async def _newest(hub: Hub, view: PartitionView) -> Seen | None:
    first = max(view.span.first, view.span.last - _EVENTS + 1)
    try:
        return await peek(hub, view.partition, first, at_least=view.span.last - first + 1)
    except NothingSeen:
        return None


def clock(views: Sequence[PartitionView], recent: Mapping[PartitionId, Seen], *, now: float) -> Finding:
    """Whether the hub's clock and this machine's agree, as far as messages tell."""
    told = [seen.hub_ahead_seconds for seen in recent.values() if seen.hub_ahead_seconds is not None]
    newest_at = max((view.span.last_at for view in views if not view.span.empty), default=0.0)
    ahead = max([*told, newest_at - now]) if told or newest_at > now else None
    if ahead is None:
        return Finding("clock", _HUB, State.UNKNOWN, "not ahead of ours; more is not known while workers read from it")
    found = clocks(_HUB, ahead)
    # The messages may have been slow: that it is behind is not sure.
    return found._replace(state=State.LOOK) if found.state is State.WRONG and ahead < 0 else found


@dataclass(slots=True)
class _Counts:
    """What was seen in the newest messages."""

    with_key: int = 0
    without_key: int = 0
    seen: dict[PartitionId, Sightings] = field(default_factory=lambda: defaultdict(Sightings))

    def take(self, partition: PartitionId, seen: Seen) -> None:
        for event in seen.events:
            message = messages.message(partition, event)
            self.with_key += message.keyed
            self.without_key += not message.keyed
            for element in decode(message):
                if not isinstance(element, BadEvent):
                    self.seen[partition].saw(element.key, at=message.enqueued_at, keyed=message.keyed)


def keys(recent: Mapping[PartitionId, Seen], split: int | None) -> Finding:
    """Whether the events of one subject stay together; `split`: how many subjects did not, as the workers saw."""
    counts = _Counts()
    for partition, seen in recent.items():
        counts.take(partition, seen)
    here = len(sightings.splits({partition: each.sample() for partition, each in counts.seen.items()}))
    if most := max(split or 0, here):
        said = f"{most} subjects came on several partitions: there is no order among their events"
        to_do = f"{_SUBSCRIPTION}; or a second hub: docs/sinks/eventhub.md"
        return Finding("partition key", "", State.WRONG, said, to_do)
    if counts.without_key:
        said = f"{counts.without_key} of the {counts.with_key + counts.without_key} newest messages have none"
        return Finding("partition key", "", State.LOOK, said, _SUBSCRIPTION)
    if counts.with_key:
        return Finding("partition key", "", State.OK, f"all of the {counts.with_key} newest messages have one")
    if split is not None:
        return Finding("partition key", "", State.OK, "the workers saw no subject on several partitions")
    return Finding("partition key", "", State.UNKNOWN, "no message to look at: none came, or workers read them")


async def splits(store: Store, views: Sequence[PartitionView]) -> int | None:
    """How many subjects the workers have seen on several partitions; None: they have kept nothing to tell by."""
    try:
        samples = {view.partition: await spread.stored_sample(store, view.partition) for view in views}
    except StoreUnavailable:
        return None
    return len(sightings.splits(samples)) if any(samples.values()) else None
