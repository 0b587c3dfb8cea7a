"""The worker's own spans, as OpenTelemetry has them: attempts to deliver, and the requests that they make.

Which spans there are and what stands in them is on docs/tracing.md. No subject, no source, no data of an event; of a
URL no more than scheme, host and port; errors as the log has them. Where they go, `otlp` says. Imported only where
tracing is on: OpenTelemetry need not be installed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from worker import tracing
from worker.chains import Job
from worker.errors import WorkerError
from worker.events import DIGEST_TYPE
from worker.logs import redact
from worker.outcomes import Outcome
from worker.stores import HubScope

_SYSTEM = "eventhubs"
_FINE = frozenset({Outcome.ACCEPTED, Outcome.KNOWN, Outcome.IN_PROGRESS, Outcome.POSTPONED})
_TEXT_CHARACTERS = 500
"""Of any text that others wrote: an id may be as long as a message, and 2,048 spans may wait."""
_PROPAGATOR = TraceContextTextMapPropagator()
_Value = str | int | float | bool


class Spans:
    """Makes the spans of one process, which reads one hub."""

    def __init__(self, tracer: trace.Tracer, scope: HubScope) -> None:
        self._tracer = tracer
        self._place = {
            "messaging.system": _SYSTEM,
            "messaging.operation.type": "process",
            "messaging.operation.name": "deliver",
            "messaging.destination.name": scope.hub,
            "messaging.consumer.group.name": scope.consumer_group,
            "server.address": scope.namespace,
        }

    @contextmanager
    def attempt(self, job: Job, kind: str) -> Iterator["Attempted"]:
        """See tracing.Tracing. Its parent is the event's own trace; all others that it belongs to are linked."""
        placed = job.delivery.released.placed
        parent: Context | None = None
        linked = tracing.members_of(placed)
        if own := tracing.contexts_of(placed):
            parent = _PROPAGATOR.extract(own[0], Context())
            linked = [*own[1:], *linked]
        span = self._tracer.start_span(
            f"deliver {job.delivery.sink}",
            context=parent or Context(),  # never below whatever happens to be under way here
            kind=SpanKind.CONSUMER,
            links=[Link(trace.get_current_span(_PROPAGATOR.extract(each)).get_span_context()) for each in linked],
            record_exception=False,
            set_status_on_exception=False,
        )
        if span.is_recording():
            span.set_attributes({**self._place, **_about(job, kind)})
        attempted = Attempted(self._tracer, span)
        with _ending(span), attempted.under_way():
            yield attempted


class Attempted:
    """A span of the worker's that others may be made below; see tracing.Span and tracing.Attempt."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span
        self._context = span.get_span_context()
        self.trace_id = trace.format_trace_id(self._context.trace_id)
        self.span_id = trace.format_span_id(self._context.span_id)
        self.sampled = self._context.trace_flags.sampled

    @property
    def carrier(self) -> tracing.Carrier:
        """See tracing.Span."""
        return _carrier_of(self._span)

    def ended(self, outcome: Outcome, error: WorkerError | None) -> None:
        """See tracing.Attempt."""
        self._span.set_attribute("worker.outcome", outcome.value)
        if error is not None:
            self._span.set_attribute("error.type", type(error).__name__)
        if outcome not in _FINE:
            self._span.set_status(Status(StatusCode.ERROR, _said(error)))

    @contextmanager
    def call(self, name: str, attributes: Mapping[str, _Value]) -> Iterator["Called"]:
        """See tracing.Span."""
        span = self._start(name, SpanKind.CLIENT, attributes)
        with _ending(span), _set(span):
            yield Called(span)

    @contextmanager
    def together(self, name: str, others: Sequence[tracing.Span]) -> Iterator[None]:
        """See tracing.Span: a span below this one that links those of the others, which link it."""
        if not others:
            with self.under_way():
                yield
            return
        members = [each for each in (self, *others) if isinstance(each, Attempted)]
        links = [Link(each._context) for each in members]  # noqa: SLF001 - its own kind
        span = self._start(name, SpanKind.INTERNAL, {"messaging.batch.message_count": len(members)}, links)
        for each in members[1:]:
            each._span.add_link(span.get_span_context())  # noqa: SLF001 - its own kind
        with _ending(span), Attempted(self._tracer, span).under_way():
            yield

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Inside, this is what the worker and OpenTelemetry's users take for the current span."""
        with tracing.under_way(self), _set(self._span):
            yield

    def _start(
        self, name: str, kind: SpanKind, attributes: Mapping[str, _Value], links: Sequence[Link] = ()
    ) -> trace.Span:
        return self._tracer.start_span(
            name,
            context=trace.set_span_in_context(self._span, Context()),
            kind=kind,
            attributes=attributes,
            links=links,
            record_exception=False,
            set_status_on_exception=False,
        )


class Called:
    """A request that is under way; see tracing.Call."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self.carrier = _carrier_of(span)

    def answered(self, status: int) -> None:
        """See tracing.Call."""
        self._span.set_attribute("http.response.status_code", status)
        if status >= 400:
            self._span.set_attribute("error.type", str(status))
            self._span.set_status(Status(StatusCode.ERROR))


def _about(job: Job, kind: str) -> dict[str, _Value]:
    """What an attempt says of its delivery. What looks like a secret is masked when it is exported, in a thread."""
    delivery = job.delivery
    released, message, event = delivery.released, delivery.released.placed.message, delivery.released.placed.event
    found: dict[str, _Value] = {
        "messaging.destination.partition.id": message.partition,
        "messaging.eventhubs.message.enqueued_time": int(message.enqueued_at),
        "messaging.message.id": event.id[:_TEXT_CHARACTERS],
        "cloudevents.event_id": event.id[:_TEXT_CHARACTERS],
        "cloudevents.event_type": event.type[:_TEXT_CHARACTERS],
        "worker.sink": delivery.sink,
        "worker.sink.kind": kind,
        "worker.route": delivery.route,
        "worker.attempt": job.attempts + 1,
        "worker.idempotency_key": delivery.idempotency_key,
    }
    if not job.made_here:
        found["worker.sequence_number"] = message.sequence_number
    if delivery.replayed:
        found["worker.replayed"] = True
    if released.late_by_ms is not None:
        found["worker.late_by_ms"] = released.late_by_ms
    if event.type == DIGEST_TYPE and isinstance(event.data, dict) and isinstance(event.data.get("count"), int):
        found["messaging.batch.message_count"] = event.data["count"]
    return found


def _carrier_of(span: trace.Span) -> tracing.Carrier:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span, Context()))
    return carrier


@contextmanager
def _set(span: trace.Span) -> Iterator[None]:
    """Inside, it is OpenTelemetry's current span: what azure-core and others make is made below it."""
    token = contexts.attach(trace.set_span_in_context(span))
    try:
        yield
    finally:
        contexts.detach(token)


@contextmanager
def _ending(span: trace.Span) -> Iterator[None]:
    """Ends the span, whatever happens. Whoever is no error of the worker's has no text here: it may quote anything."""
    try:
        yield
    except BaseException as error:
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(Status(StatusCode.ERROR, _said(error)))
        raise
    finally:
        span.end()


def _said(error: BaseException | None) -> str | None:
    if not isinstance(error, WorkerError):
        return None
    text: str = redact(" ".join(str(error).split()))
    return text[:_TEXT_CHARACTERS]
