"""Spans as they would leave the worker, kept in memory."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from worker.config import TracingSettings
from worker.otlp import Exporting
from worker.spans import Spans
from worker.stores import HubScope

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
OTHER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Traces:
    """What one process exports."""

    def __init__(self, scope: HubScope, sample_ratio: float | None) -> None:
        self._memory = InMemorySpanExporter()
        settings = TracingSettings(enabled=True, sample_ratio=sample_ratio)
        self.exporting = Exporting(settings, scope, "one", exporter=self._memory)

    @property
    def spans(self) -> Spans:
        return self.exporting.spans

    @property
    def finished(self) -> list[ReadableSpan]:
        """In the order in which they began."""
        self.exporting._provider.force_flush()
        return sorted(self._memory.get_finished_spans(), key=lambda span: span.start_time or 0)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.finished if span.name == name]


@contextmanager
def traces(sample_ratio: float | None = None) -> Iterator[Traces]:
    kept = Traces(HubScope("hub.test", "events", "$Default"), sample_ratio)
    try:
        yield kept
    finally:
        kept.exporting._provider.shutdown()


def trace_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def linked(span: ReadableSpan) -> set[str]:
    """The traces that it links."""
    return {f"{link.context.trace_id:032x}" for link in span.links}
