"""The log sink: one line of the worker's own log per event, for trying routes out and for keeping a trace of them.

It needs no network and no file, so an attempt cannot fail. It also stands in for a sink with `dry_run`.
"""

from typing import Any, Literal

import structlog

from worker.settings import SinkSettings
from worker.sinks import Delivery


class LogSettings(SinkSettings):
    """A sink of kind `log`."""

    kind: Literal["log"] = "log"
    data: bool = False
    """Whether the event's `data` is in the line. Off: data is large and may be personal, and logs live long."""


class LogSink:
    """Writes each event as one structured line at level info."""

    def __init__(self, settings: LogSettings) -> None:
        self._settings = settings
        self._log = structlog.get_logger()

    async def open(self) -> None:
        """Nothing to acquire."""

    async def deliver(self, delivery: Delivery) -> None:
        """Writes the line."""
        self._log.info(
            "event not sent, dry run" if self._settings.dry_run else "event delivered", **self._fields(delivery)
        )

    def preview(self, delivery: Delivery) -> str:
        """The fields of the line."""
        return "\n".join(f"{name}={value}" for name, value in self._fields(delivery).items())

    async def aclose(self) -> None:
        """Nothing to release."""

    def _fields(self, delivery: Delivery) -> dict[str, Any]:
        released = delivery.released
        event = released.placed.event
        fields: dict[str, Any] = {
            "sink": delivery.sink,
            "route": delivery.route,
            "id": event.id,
            "type": event.type,
            "source": event.source,
            "subject": event.subject,
            "time": event.time,
            "partition": released.placed.message.partition,
            "sequence_number": released.placed.position.sequence_number,
            "index": released.placed.position.element,
            "idempotency_key": delivery.idempotency_key,
        }
        if released.late_by_ms is not None:
            fields["late_by_ms"] = released.late_by_ms
        if self._settings.data:
            fields["data"] = event.data
        return fields
