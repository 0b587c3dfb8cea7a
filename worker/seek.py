"""Puts a partition where an operator wants it to be read from; behind `worker seek`. Where that is, `target` says.

It does what a new owner does: asks whoever has the partition, waits until nothing of his runs any more, and begins a
generation of its own, so that every write of a former owner fails. Then it writes the state, the checkpoint, and that
it is done; whoever dies in between leaves one of two things. Before the state is written, nothing has changed. After
it, the partition is where it was wanted, and the checkpoint follows: here, or when the next owner takes it.

What is known of events by their numbers is forgotten, and so are the keys by which they would be told to be copies, or
late, or what a sink has already. What waits to be told stays as it is: digests, and expectations that are pending. So
do the ledger, the dead letters and the requests to replay them.
"""

from typing import Any

import structlog

from worker.checkpoint import rewrite
from worker.config import LimitSettings
from worker.errors import StoreUnavailable, WorkerError
from worker.events import PartitionId
from worker.ownership import Fenced, Tenure, take
from worker.progress import SavedProgress, Watermark
from worker.reset import without_positions
from worker.state import Again, HubIdentity
from worker.stores import Store

_log = structlog.get_logger()


class Unsure(WorkerError):
    """The store did not answer when it was given the place: it may have kept it, or not."""


async def seek(
    store: Store,
    partition: PartitionId,
    place: Watermark,
    *,
    hub: HubIdentity,
    claimant: str,
    limits: LimitSettings,
    again: Again | None = None,
) -> None:
    """Has the partition read from behind this place on, by whoever owns it next. May be repeated, whatever happened.

    `again` is about the ledger. Raises Unsure when it is not known whether the partition was moved; and where it surely
    was not StoreUnavailable, or WorkerError when somebody took the partition first.
    """
    tenure = await take(
        store,
        partition,
        claimant=claimant,
        hand_over_seconds=limits.hand_over_seconds,
        drain_seconds=limits.drain_seconds,
    )
    try:
        await tenure.save(**_put(place, again), hub=hub)
    except Fenced as fence:
        raise WorkerError(f"{fence}; nothing was changed, so try again") from None
    except StoreUnavailable as error:
        raise Unsure(f"{error} The partition may be moved or not: `worker lag` says where it is") from None
    await _follow(tenure, store, place)


async def _follow(tenure: Tenure, store: Store, place: Watermark) -> None:
    """The checkpoint, and that it is done. Who took the partition meanwhile found in the state what to do.

    So does whoever takes it when the store is away now: the partition is moved all the same.
    """
    try:
        await rewrite(tenure, store, lambda _: place)
        await tenure.save(sought=False, released=True)
    except Fenced:
        return
    except StoreUnavailable as error:
        _log.warning(
            "moved; the checkpoint may be the old one until a worker takes the partition, and scalers go by it",
            partition=tenure.partition,
            error=str(error),
        )


def _put(place: Watermark, again: Again | None) -> dict[str, Any]:
    """Fields of the state: the place, and nothing of what was before."""
    progress = SavedProgress(watermark=list(place), read=None, unsettled=[], parts=[], served=[])
    nothing_remembered: dict[str, Any] = {"memory_parts": [], "memory_since": {}, "values_from": None}
    return {**without_positions(), **nothing_remembered, "progress": progress, "sought": True, "again": again}
