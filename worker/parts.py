"""What all pipelines of a process share. Decides nothing: `process` puts it together."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.board import Board
from worker.config import DeadLetterSettings, LimitSettings, OrderSettings, StoreIntervals
from worker.deadletters import DeadLetterWriter
from worker.deliver import Lane
from worker.events import PartitionId
from worker.expect import ExpectRule
from worker.health import Health
from worker.metrics import Metrics
from worker.quiet import QuietSettings
from worker.reset import Positions
from worker.route import Routes
from worker.stores import HubScope, Store


@dataclass(frozen=True, slots=True)
class Parts:
    """What all pipelines of a process share."""

    store: Store
    scope: HubScope
    routes: Routes
    board: Board
    """The table that the partitions share, as this process sees it."""
    lanes: Mapping[str, Lane]
    dead_letters: DeadLetterWriter
    order: OrderSettings
    limits: LimitSettings
    spoiled: DeadLetterSettings
    intervals: StoreIntervals
    metrics: Metrics
    health: Health
    lease_valid: Callable[[PartitionId], bool]
    """Whether the ownership of a partition was renewed recently enough to start something."""
    quiet: Mapping[str, QuietSettings]
    """Of the sinks that have such a section."""
    positions: Positions
    """Holds the positions of what is taken against the hub."""
    offload: Callable[..., Awaitable[Any]] = asyncio.to_thread
    """Runs a long computation where it does not hold up the event loop."""
    clock: Callable[[], float] = time.time
    """The wall clock."""
    expect: Sequence[ExpectRule] = ()
    """What must follow on what: of the routes file too."""
    configuration: str = ""
    """`Config.digest`."""
