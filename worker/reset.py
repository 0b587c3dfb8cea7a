"""What becomes of a partition whose position its hub does not know: a hub created anew, put back, or failed over.

Its checkpoint and its progress are numbers of another log: read on from there, and events would be skipped without a
word. So the partition stands still until somebody decides, or begins anew at one of the hub's ends, as
`source.on_invalid_offset` says. What is known of events by their keys stays: who was delivered, and what is late.
"""

from dataclasses import replace
from typing import Any, Protocol

import structlog

from worker import state as codec
from worker.checkpoint import rewrite
from worker.config import OnInvalidOffset
from worker.events import PartitionId
from worker.ownership import Tenure
from worker.progress import Watermark
from worker.state import HubIdentity, PartitionState
from worker.stores import Store

_log = structlog.get_logger()

_NOT_REPLICATED = -1
_UNKNOWN = "the hub does not know the position: "
"""How the reasons of this module begin in the state, so that they are told from others."""


class KnownHub(Protocol):
    """What must be known of the hub."""

    @property
    def identity(self) -> HubIdentity | None:
        """The hub's; None until it has answered."""
        ...

    async def identify(self) -> HubIdentity:
        """Asks again which hub it is. HubUnavailable."""
        ...

    async def edge(self, partition: PartitionId, which: OnInvalidOffset) -> Watermark:
        """Where a partition is read from to have all of it (earliest), or what comes from now on. HubUnavailable."""
        ...


def is_doubt(reason: str) -> bool:
    """Whether a partition stands still for this reason because its position is in doubt."""
    return reason.startswith(_UNKNOWN)


def doubtful(state: PartitionState, hub: HubIdentity | None) -> str | None:
    """Why the positions in the state may not be the hub's; None: they are, as far as one can see."""
    if state.stopped is not None and is_doubt(state.stopped):
        return state.stopped.removeprefix(_UNKNOWN)
    if state.hub is None or hub is None or state.hub.created_at == hub.created_at:
        return None
    return f"it is of a hub created at {state.hub.created_at}, and this one was created at {hub.created_at}"


def stopped(reason: str) -> dict[str, Any]:
    """Fields of the state from which the next claim sees that the hub did not know the position."""
    return {"stopped": _UNKNOWN + reason, "stopped_under": ""}


def without_positions() -> dict[str, Any]:
    """Fields of the state in which nothing is said of messages by their numbers, nor that the partition stands still.

    What waits to be told (digests, expectations) says nothing of numbers, and stays.
    """
    return {
        "stopped": None,
        "stopped_under": "",
        "progress": None,
        "late": [],
        "variants": [],
        "attempts": [],
        "deaths": 0,
        "deaths_at": None,
        "marked": [],
        "suspects": [],
        "sought": False,
        "again": None,
        "oldest_at": None,
    }


def other_life(tenure: Tenure, epoch: int) -> str | None:
    """Says so when a message's sequence number is of another epoch than those before; learns the first one."""
    known = tenure.state.hub
    if known is None or known.epoch == epoch:
        return None
    if known.epoch != _NOT_REPLICATED:
        return f"it is of epoch {known.epoch} of the hub's numbers, and its messages now are of epoch {epoch}"
    tenure.state = replace(tenure.state, hub=known._replace(epoch=epoch))
    return None


class Positions:
    """Holds the positions of partitions that were taken against the hub."""

    def __init__(self, store: Store, hub: KnownHub, policy: OnInvalidOffset) -> None:
        self._store = store
        self._hub = hub
        self._policy = policy

    async def surely_known(self, partition: PartitionId) -> bool:
        """Whether a link may be opened before the partition is taken. Raises StoreUnavailable."""
        stored = await self._store.read_state(partition)
        return stored is None or doubtful(codec.decode(stored.payload), self._hub.identity) is None

    async def hold(self, tenure: Tenure, *, configuration: str) -> bool:
        """Whether the claim goes on with what its state says, be it to stand still; False: it must begin anew.

        `configuration` is the digest under which it may have to stop.
        Raises Fenced, HubUnavailable, StoreUnavailable.
        """
        reason = doubtful(tenure.state, self._hub.identity)
        if reason is None:
            if tenure.state.hub is None and self._hub.identity is not None:
                await tenure.save(hub=self._hub.identity)
            return True
        if self._policy == "stop":
            await self._stop(tenure, reason, configuration)
            return True
        await self._begin_anew(tenure, reason)
        return False

    async def _stop(self, tenure: Tenure, reason: str, configuration: str) -> None:
        _log.error(
            "partition stopped: the hub does not know its position",
            partition=tenure.partition,
            reason=reason,
            help="nothing is read and nothing lost; was the hub created anew, or did it fail over? "
            "Set source.on_invalid_offset to earliest or latest, or use `worker seek`",
        )
        await tenure.save(**{**stopped(reason), "stopped_under": configuration})

    async def _begin_anew(self, tenure: Tenure, reason: str) -> None:
        """The checkpoint first: whoever dies in between leaves a state that is doubtful still, and it happens again."""
        identity = await self._hub.identify()  # what is known may be older than the doubt
        start = await self._hub.edge(tenure.partition, self._policy)
        await rewrite(tenure, self._store, lambda _: start)
        _log.warning(
            "partition begins anew: the hub does not know its position",
            partition=tenure.partition,
            reason=reason,
            on_invalid_offset=self._policy,
            offset=start.offset,
        )
        await tenure.save(
            **without_positions(),
            hub=identity,
            released=True,  # nothing runs: the next claim of this process or another need not wait
        )
