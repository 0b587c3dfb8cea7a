"""A collector of traces for tests: takes OTLP over HTTP as the protocol says, and keeps what came."""

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

_PROTOBUF = "application/x-protobuf"


class Received:
    """One span as it came."""

    def __init__(self, span: Span, scope: str, resource: dict[str, Any]) -> None:
        self.name = span.name
        self.kind = Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_")
        self.trace_id = span.trace_id.hex()
        self.span_id = span.span_id.hex()
        self.parent_id = span.parent_span_id.hex()
        self.attributes = {each.key: _value(each.value) for each in span.attributes}
        self.failed = span.status.code == 2
        self.scope = scope
        self.resource = resource


class Collector:
    """What came, as bytes and as spans."""

    def __init__(self) -> None:
        self.url = ""
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.spans: list[Received] = []

    def named(self, name: str) -> list[Received]:
        return [span for span in self.spans if span.name == name]

    def below(self, parent: Received) -> list[Received]:
        return [span for span in self.spans if span.parent_id == parent.span_id]

    async def handle(self, request: web.Request) -> web.Response:
        assert request.content_type == _PROTOBUF
        body = await request.read()  # aiohttp undoes the compression
        if body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.bodies.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            who = {each.key: _value(each.value) for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [Received(span, scope.scope.name, who) for span in scope.spans]
        return web.Response(body=ExportTraceServiceResponse().SerializeToString(), content_type=_PROTOBUF)


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    """Listens on this machine."""
    taking = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", taking.handle)
    async with TestServer(app, host="127.0.0.1", shutdown_timeout=0.1) as server:
        taking.url = str(server.make_url("")).rstrip("/")
        yield taking
