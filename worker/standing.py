"""Partitions that stand still, as an operator sees them; behind `worker resume`. It works on the store alone.

Why one stands still is decided by its owner, which also notices that it may read again.
"""

from dataclasses import replace

from worker import state as codec
from worker.errors import Conflict
from worker.events import PartitionId
from worker.stores import Store


async def standing(store: Store) -> dict[PartitionId, str]:
    """The partitions that stand still, and why."""
    found = {}
    for partition in sorted(await store.state_versions(), key=lambda each: (len(each), each)):
        stored = await store.read_state(partition)
        reason = codec.decode(stored.payload).stopped if stored else None
        if reason is not None:
            found[partition] = reason
    return found


async def resume(store: Store, partition: PartitionId) -> None:
    """Lets the partition's owner, whoever it is, read again."""
    while stored := await store.read_state(partition):
        state = replace(codec.decode(stored.payload), stopped=None, stopped_under="")
        try:
            await store.write_state(partition, codec.encode(state), expected=stored.version)
        except Conflict:
            continue  # its owner wrote in between
        return
