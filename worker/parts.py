"""What all pipelines of a process share. Decides nothing: `process` puts it together."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from worker.board import Board
from worker.config import DeadLetterSettings, LimitSettings, OrderSettings, StoreIntervals
from worker.deadletters import DeadLetterWriter
from worker.events import PartitionId
from worker.health import Health
from worker.metrics import Metrics
from worker.reset import Positions
from worker.rules import Rules
from worker.stores import HubScope, Store
from worker.tracing import Tracing


@dataclass(frozen=True, slots=True)
class Parts:
    """What all pipelines of a process share."""

    store: Store
    scope: HubScope
    rules: Rules
    """What routes.yaml says: it may be exchanged at any moment, so it is asked anew for each event."""
    board: Board
    """The table that the partitions share, as this process sees it."""
    dead_letters: DeadLetterWriter
    order: OrderSettings
    limits: LimitSettings
    spoiled: DeadLetterSettings
    intervals: StoreIntervals
    metrics: Metrics
    health: Health
    lease_valid: Callable[[PartitionId], bool]
    """Whether the ownership of a partition was renewed recently enough to start something."""
    positions: Positions
    """Holds the positions of what is taken against the hub."""
    offload: Callable[..., Awaitable[Any]] = asyncio.to_thread
    """Runs a long computation where it does not hold up the event loop."""
    clock: Callable[[], float] = time.time
    """The wall clock."""
    tracing: Tracing | None = None
    """None: it is off."""
