"""The discard sink: accepts every event at once and does nothing with it, for trying routes out and for measuring.

What goes through it has passed the whole worker, a lane included, and is counted as delivered: what a worker does by
itself can so be told from what a destination costs. It needs no network and no file, so an attempt cannot fail.
"""

from typing import Literal

from worker.settings import SinkSettings
from worker.sinks import Delivery


class DiscardSettings(SinkSettings):
    """A sink of kind `discard`."""

    kind: Literal["discard"] = "discard"


class DiscardSink:
    """Accepts, and forgets."""

    def __init__(self, settings: DiscardSettings) -> None:
        self._name = settings.name

    async def open(self) -> None:
        """Nothing to acquire."""

    async def deliver(self, delivery: Delivery) -> None:
        """Accepts it."""

    def preview(self, delivery: Delivery) -> str:
        """Who would be forgotten."""
        return f"{self._name} discards id={delivery.released.placed.event.id} key={delivery.idempotency_key}"

    async def aclose(self) -> None:
        """Nothing to release."""
