"""Where spans go: OpenTelemetry's own exporter (OTLP over HTTP), set up by its OTEL_* variables, and bounded.

Only what belongs to an attempt is exported. What libraries make outside of one (the store's renewals, every two
seconds) would cost more than it tells. What leaves is scrubbed once more here, whoever made it. A collector that is
slow or away costs spans, never time of the event loop: they wait in a queue of a fixed length, and a thread sends them.
Imported only where tracing is on.
"""

import asyncio
import logging
import os
import re
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import structlog
from azure.core.settings import settings as azure_settings
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import (
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanKind, Status, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes
from yarl import URL

from worker.config import TracingSettings
from worker.logs import redact
from worker.otel_environment import BATCH_SPANS
from worker.spans import Spans
from worker.stores import HubScope

_log = structlog.get_logger()

SCOPE = "worker"
"""The instrumentation scope of the worker's own spans."""
_FLUSH_SECONDS = 2.0
"""How long the last spans may take at the end. Less than Kubernetes grants beyond the drain."""
_EXPORTER_LOGGER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
_URLS = frozenset({"url.full", "http.url"})
_PATHS = frozenset({"url.path", "url.query", "http.target"})
_HEADERS = ("http.request.header.", "http.response.header.")
_PATH_IN_TEXT = re.compile(r"url: \S+")
_HEADER_IN_TEXT = re.compile(r"(header [a-z]+: ).*", re.IGNORECASE | re.DOTALL)


class Exporting:
    """The spans of a process, on their way to the collector."""

    def __init__(
        self, settings: TracingSettings, scope: HubScope, name: str, *, exporter: SpanExporter | None = None
    ) -> None:
        """`name`: of the process. `exporter`: another one than the collector's."""
        self._provider = TracerProvider(
            sampler=OnlyAttempts(_sampler(settings)),
            resource=_resource(name),
            shutdown_on_exit=False,  # we do, and wait no longer than we can
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(Scrubbed(exporter or _collector()), max_export_batch_size=_batch_size(os.environ))
        )
        self.spans = Spans(self._provider.get_tracer(SCOPE, version("event-grid-worker")), scope)

    def serve_libraries(self) -> None:
        """From now on azure-core's requests are spans too, where they are made for an attempt. Once in a process."""
        trace.set_tracer_provider(self._provider)
        propagate.set_global_textmap(TraceContextTextMapPropagator())  # and no baggage, which may hold anything
        azure_settings.tracing_enabled = True

    async def aclose(self) -> None:
        """Sends what is left, in a bounded time; then nothing more."""
        azure_settings.tracing_enabled = False
        closed, loop = asyncio.Event(), asyncio.get_running_loop()

        def close() -> None:
            self._provider.shutdown()
            try:
                loop.call_soon_threadsafe(closed.set)
            except RuntimeError:
                return  # nobody waited for so long

        # No thread of the loop's own: those are waited for at its end, however long they take.
        threading.Thread(target=close, name="last spans", daemon=True).start()
        try:
            async with asyncio.timeout(_FLUSH_SECONDS):
                await closed.wait()
        except TimeoutError:
            _log.warning("the last spans were not sent: the collector did not take them in time")


class OnlyAttempts(Sampler):
    """Attempts are sampled as it is configured, everything else with what it is made for: nothing begins elsewhere."""

    def __init__(self, attempts: Sampler) -> None:
        self._attempts = attempts

    def should_sample(  # noqa: PLR0917 - the signature of OpenTelemetry's
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Whether a span that begins is recorded."""
        if kind is SpanKind.CONSUMER:
            return self._attempts.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)
        parent = trace.get_current_span(parent_context).get_span_context()
        sampled = parent.is_valid and parent.trace_flags.sampled
        return SamplingResult(
            Decision.RECORD_AND_SAMPLE if sampled else Decision.DROP,
            attributes if sampled else None,
            parent.trace_state if parent.is_valid else None,
        )

    def get_description(self) -> str:
        """For people."""
        return f"OnlyAttempts{{{self._attempts.get_description()}}}"


class Scrubbed(SpanExporter):
    """Hands spans on without what must not leave, and says when the collector stops or begins to take them."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._failing = False
        self._last_words = _LastWords()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See SpanExporter."""
        result = self._handed_on(spans)
        failed = result is not SpanExportResult.SUCCESS
        if failed and not self._failing:
            _log.warning("the collector does not take spans; they are dropped", error=self._last_words.text)
        elif self._failing and not failed:
            _log.info("the collector takes spans again")
        self._failing = failed
        return result

    def _handed_on(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            return self._exporter.export([scrubbed(span) for span in spans])
        except Exception as error:  # noqa: BLE001 - whoever calls would drop the spans and say nothing
            self._last_words.text = type(error).__name__  # its text may quote anything
            return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """See SpanExporter."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """See SpanExporter."""
        return self._exporter.force_flush(timeout_millis)


def scrubbed(span: ReadableSpan) -> ReadableSpan:
    """The same without URLs beyond the host, without secrets, and without what libraries say of errors."""
    ours = span.instrumentation_scope is not None and span.instrumentation_scope.name == SCOPE
    return ReadableSpan(
        name=redact(span.name),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=_safe(span.attributes or {}),
        events=span.events if ours else (),
        links=span.links,
        kind=span.kind,
        # Libraries quote requests, with their headers.
        status=span.status if ours else Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _safe(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: origin_of(str(value)) if name in _URLS else redact(value)
        for name, value in attributes.items()
        if name not in _PATHS and not name.startswith(_HEADERS)
    }


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL: its path may be a secret as well as its query. Empty where it is none."""
    try:
        return str(URL(url).origin())
    except ValueError:
        return ""


class _LastWords(logging.Handler):
    """Keeps what the exporter says of its last failure, which it would log each time."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text = ""
        logger = logging.getLogger(_EXPORTER_LOGGER)
        logger.setLevel(logging.ERROR)
        logger.propagate = False
        logger.handlers = [self]

    def emit(self, record: logging.LogRecord) -> None:
        # Paths and headers are secrets of some collectors, and a client that refuses a header quotes it.
        text = _HEADER_IN_TEXT.sub(r"\1***", _PATH_IN_TEXT.sub("url: ***", record.getMessage()))
        self.text = redact(text)[:300]


def _collector() -> SpanExporter:
    return OTLPSpanExporter()


def _batch_size(environ: Mapping[str, str]) -> int | None:
    """A queue that is shorter than OpenTelemetry's batches makes these shorter too; None: as it is configured."""
    queue = environ.get("OTEL_BSP_MAX_QUEUE_SIZE", "").strip()
    if not queue or environ.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "").strip():
        return None
    return min(int(queue), BATCH_SPANS)


def _sampler(settings: TracingSettings) -> Sampler:
    if settings.sample_ratio is None:
        return TracerProvider(shutdown_on_exit=False).sampler  # that of OTEL_TRACES_SAMPLER
    return ParentBased(TraceIdRatioBased(settings.sample_ratio))


def _resource(name: str) -> Resource:
    """Who we are. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win."""
    ours = {
        "service.name": "event-grid-worker",
        "service.version": version("event-grid-worker"),
        "service.instance.id": name,
    }
    return Resource.create().merge(Resource(ours)).merge(OTELResourceDetector().detect())
