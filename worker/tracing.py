"""Tracing as the rest of the worker sees it: which trace an event belongs to, and the span that is under way.

Without tracing nothing is under way, and nobody looks at an event for its trace. Makes no spans and imports nothing of
OpenTelemetry: `spans` does, and only where tracing is on.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from worker.events import DIGEST_TYPE, Placed, Schema

if TYPE_CHECKING:
    from worker.chains import Job
    from worker.errors import WorkerError
    from worker.outcomes import Outcome

Carrier = Mapping[str, str]
"""A trace context as it travels: `traceparent`, and `tracestate` where there is one (W3C Trace Context)."""

MEMBERS = "worker-traceparents"
"""The property of a digest's message that names the traces of its events, with a space between two of them."""

MOST_MEMBERS = 128
"""So many links OpenTelemetry keeps of a span."""

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACEPARENT_CHARACTERS = 55
_TRACESTATE_CHARACTERS = 512
"""What everybody has to pass on; of longer ones nothing is."""


class Call(Protocol):
    """A request to somebody else, under way."""

    carrier: Carrier
    """What is to be sent along, so that the trace goes on there."""

    def answered(self, status: int) -> None:
        """The answer came, with this HTTP status."""
        ...


class Span(Protocol):
    """What is being done just now, and for which trace."""

    trace_id: str
    """32 hex digits."""
    span_id: str
    """16 hex digits."""
    sampled: bool
    """Whether it is exported."""

    @property
    def carrier(self) -> Carrier:
        """What is to be sent along, so that the trace goes on there."""
        ...

    def call(self, name: str, attributes: Mapping[str, str | int]) -> AbstractContextManager[Call]:
        """A request to somebody else, which is made inside."""
        ...

    def together(self, name: str, others: Sequence["Span"]) -> AbstractContextManager[None]:
        """What is made inside is made for this one and for these others."""
        ...


class Attempt(Span, Protocol):
    """One attempt to deliver."""

    def ended(self, outcome: "Outcome", error: "WorkerError | None") -> None:
        """How it ended."""
        ...


class Tracing(Protocol):
    """Where tracing is on: makes the spans."""

    def attempt(self, job: "Job", kind: str) -> AbstractContextManager[Attempt]:
        """One attempt to deliver to a sink of this kind, which is made inside."""
        ...


_UNDER_WAY: ContextVar[Span | None] = ContextVar("span under way", default=None)


def current() -> Span | None:
    """What is under way in this task; None while tracing is off."""
    return _UNDER_WAY.get()


@contextmanager
def under_way(span: Span) -> Iterator[None]:
    """Inside, this is under way."""
    token = _UNDER_WAY.set(span)
    try:
        yield
    finally:
        _UNDER_WAY.reset(token)


@contextmanager
def together(name: str, spans: Sequence[Span | None]) -> Iterator[None]:
    """Inside, something is made for all of these at once, whoever of them happens to have begun it."""
    here = [span for span in spans if span is not None]
    here.sort(key=lambda span: not span.sampled)  # what is not exported can be nobody's parent
    if not here:
        yield
        return
    with here[0].together(name, here[1:]):
        yield


def exemplar() -> dict[str, str] | None:
    """The labels with which a measurement points to the trace that is under way, where it is exported."""
    span = current()
    return {"trace_id": span.trace_id, "span_id": span.span_id} if span is not None and span.sampled else None


def contexts_of(placed: Placed) -> list[Carrier]:
    """The traces that an event belongs to: its own first (an attribute of CloudEvents), then that of its message."""
    found = []
    if placed.event.schema is Schema.CLOUD_EVENTS:
        envelope = placed.event.envelope
        found.append(_context(envelope.get("traceparent"), envelope.get("tracestate")))
    if properties := placed.message.properties:
        parent = _property(properties, "traceparent") or _property(properties, "Diagnostic-Id")
        found.append(_context(parent, _property(properties, "tracestate")))
    contexts: list[Carrier] = []
    for context in found:
        if context and all(context["traceparent"] != other["traceparent"] for other in contexts):
            contexts.append(context)
    return contexts


def traceparent_of(placed: Placed) -> str:
    """The trace that an event belongs to first of all; empty: none is known."""
    contexts = contexts_of(placed)
    return contexts[0]["traceparent"] if contexts else ""


def members_of(placed: Placed) -> list[Carrier]:
    """The traces of the events that a digest tells of, as far as they are known; MOST_MEMBERS at most.

    Only a digest has any: the property of anybody else's message would cost time with each attempt.
    """
    if placed.event.type != DIGEST_TYPE or not (properties := placed.message.properties):
        return []
    named = _text(_property(properties, MEMBERS))[: MOST_MEMBERS * (_TRACEPARENT_CHARACTERS + 1)]
    found = (_context(text, None) for text in named.split())
    return [context for context in found if context][:MOST_MEMBERS]


def _property(properties: Mapping[Any, object], name: str) -> object:
    """A property of a message: the SDK gives names as bytes, a dead letter's and a digest's are text."""
    found = properties.get(name.encode())
    return properties.get(name) if found is None else found


def _context(parent: object, state: object) -> Carrier | None:
    """As it may be passed on; None where it is none, for instance the older form of Diagnostic-Id."""
    text = _text(parent).strip()
    if not text.startswith("00-"):  # a later version may have more, behind what is known
        text = text[:_TRACEPARENT_CHARACTERS]
    if not _TRACEPARENT.fullmatch(text):
        return None
    rest = _text(state).strip()
    if not rest or len(rest) > _TRACESTATE_CHARACTERS or not (rest.isascii() and rest.isprintable()):
        return {"traceparent": text}
    return {"traceparent": text, "tracestate": rest}


def _text(value: object) -> str:
    """The SDK gives texts as bytes, whatever the sender wrote."""
    if isinstance(value, bytes):
        return value.decode("ascii", "replace")
    return value if isinstance(value, str) else ""
