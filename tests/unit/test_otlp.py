"""otlp.py: what leaves the worker holds no secret, only attempts begin a trace, and a collector that is away costs none
but spans."""

import threading
from collections.abc import Sequence

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode
from structlog.testing import capture_logs

from tests.deliveries import delivery_of
from tests.lanes import FakeOwner
from tests.support import free_port
from tests.traces import PARENT, Traces, trace_of, traces
from worker import tracing
from worker.chains import Job
from worker.config import TracingSettings
from worker.otlp import Exporting, Scrubbed, origin_of, scrubbed
from worker.stores import HubScope


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://prod.logic.example:443/workflows/hidden/triggers?sig=hidden", "https://prod.logic.example"),
        ("https://user:hidden@host.example:8443/hidden#hidden", "https://host.example:8443"),
        ("http://[::1]:10000/devstoreaccount1/worker/hidden?sv=1&sig=hidden", "http://[::1]:10000"),
        ("https://a.blob.core.windows.net/c/hidden%2Fhidden?hidden", "https://a.blob.core.windows.net"),
        ("/hidden?x=hidden", ""),
        ("hidden", ""),
        ("http://host:hidden/", ""),
        ("https://[hidden", ""),
        ("", ""),
    ],
)
def test_of_a_url_the_host_is_left(url, origin):
    assert origin_of(url) == origin


def foreign(kept: Traces) -> ReadableSpan:
    """A span as a library makes it, with all that it may say."""
    job = Job(delivery_of(), FakeOwner())
    with kept.spans.attempt(job, "blob"):
        tracer = kept.exporting._provider.get_tracer("azure-storage-blob")
        span = tracer.start_span("PUT", kind=SpanKind.CLIENT)
        span.set_attributes(
            {
                "url.full": "https://u:hidden@a.example/hidden/x?sig=hidden",
                "http.url": "https://a.example/hidden",
                "url.path": "/hidden",
                "url.query": "hidden=1",
                "said": "AccountKey=hidden; Bearer hiddenhiddenhiddenhidden",
                "several": ["sig=hidden", "fine"],
                "http.request.header.x-key": ["hidden"],
                "http.response.header.set-cookie": "hidden",
                "az.client_request_id": "7",
            }
        )
        span.add_event("exception", {"exception.message": "hidden"})
        span.set_status(Status(StatusCode.ERROR, "Authorization: hidden"))
        span.end()
    [made] = kept.named("PUT")
    return made


def test_what_libraries_say_leaves_without_secrets_and_below_the_attempt():
    with traces() as kept:
        span = foreign(kept)
        [attempt] = kept.named("deliver out")
    assert "hidden" not in span.to_json()
    about = span.attributes or {}
    assert about["url.full"] == about["http.url"] == "https://a.example"
    assert about["az.client_request_id"] == "7"
    assert list(about["several"]) == ["sig=***", "fine"]
    assert span.status.status_code is StatusCode.ERROR
    assert attempt.context is not None
    assert span.parent is not None
    assert span.parent.span_id == attempt.context.span_id


def test_a_span_that_is_clean_stays_what_it_is():
    with traces() as kept:
        with kept.spans.attempt(Job(delivery_of(), FakeOwner()), "log"):
            pass
        [span] = kept.finished
    assert scrubbed(span).to_json() == span.to_json()


@pytest.mark.parametrize("sampler", ["always_on", "parentbased_always_on", "traceidratio"])
def test_what_belongs_to_no_attempt_is_not_exported(monkeypatch, sampler):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "1")
    with traces() as kept:
        tracer = kept.exporting._provider.get_tracer("azure-storage-blob")
        with tracer.start_as_current_span("BlobClient.set_blob_metadata"), tracer.start_as_current_span("PUT"):
            pass
        assert kept.finished == []
        with kept.spans.attempt(Job(delivery_of(), FakeOwner()), "log"), tracer.start_as_current_span("PUT"):
            pass
        assert {span.name for span in kept.finished} == {"PUT", "deliver out"}


def test_the_standard_sampler_counts_where_the_file_says_nothing(monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    with traces() as kept:
        with kept.spans.attempt(Job(delivery_of(), FakeOwner()), "log") as span:
            assert not span.sampled
            assert tracing.exemplar() is None
            assert int(span.carrier["traceparent"][-2:], 16) % 2 == 0
        assert kept.finished == []


def test_the_resource_is_the_worker_and_what_the_environment_says(monkeypatch):
    with traces() as kept:
        plain = kept.exporting._provider.resource.attributes
    assert (plain["service.name"], plain["service.instance.id"]) == ("event-grid-worker", "one")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ml-events")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=pod-7,deployment.environment.name=test")
    with traces() as kept:
        given = kept.exporting._provider.resource.attributes
    assert (given["service.name"], given["service.instance.id"]) == ("ml-events", "pod-7")
    assert given["deployment.environment.name"] == "test"


def test_deliveries_that_go_together_are_one_span_that_all_of_them_are_linked_with():
    with traces() as kept:
        jobs = [Job(delivery_of(sink=name), FakeOwner()) for name in ("a", "b")]
        with kept.spans.attempt(jobs[0], "log") as first, kept.spans.attempt(jobs[1], "log") as second:
            with tracing.together("send", [None, first, second]):
                batch = tracing.current()
                assert batch is not None
                assert batch.trace_id == first.trace_id
            with tracing.together("send", [second]):
                assert tracing.current() is second
        [sent] = kept.named("send")
        [own], [other] = kept.named("deliver a"), kept.named("deliver b")
    assert {link.context.span_id for link in sent.links} == {own.context.span_id, other.context.span_id}
    assert [link.context.span_id for link in other.links] == [sent.context.span_id]
    assert (sent.attributes or {})["messaging.batch.message_count"] == 2


def test_of_an_id_as_long_as_a_message_only_the_beginning_waits_to_be_exported():
    long = "x" * 1_000_000
    with traces() as kept:
        with kept.spans.attempt(Job(delivery_of({**_cloud(), "id": long, "type": long}), FakeOwner()), "log"):
            pass
        [span] = kept.finished
    texts = [value for value in (span.attributes or {}).values() if isinstance(value, str)]
    assert max(len(text) for text in texts) == 500


def test_a_batch_stands_in_the_trace_of_one_that_is_exported():
    unsampled, sampled = (delivery_of({**_cloud(), "traceparent": parent}) for parent in (PARENT[:-2] + "00", PARENT))
    with traces() as kept:
        with (
            kept.spans.attempt(Job(unsampled, FakeOwner()), "log") as first,
            kept.spans.attempt(Job(sampled, FakeOwner()), "log") as second,
            tracing.together("send", [first, second]),
        ):
            pass
        [sent] = kept.named("send")
    assert trace_of(sent) == second.trace_id


def _cloud() -> dict[str, str]:
    return {"specversion": "1.0", "id": "c1", "type": "t", "source": "/s"}


class Collector(SpanExporter):
    """Takes spans, or not, or never answers."""

    def __init__(self) -> None:
        self.taking = True
        self.answers = threading.Event()
        self.answers.set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.answers.wait(30)
        return SpanExportResult.SUCCESS if self.taking else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        pass


def test_a_collector_that_takes_nothing_is_said_once_and_so_is_its_return():
    collector = Collector()
    exporter = Scrubbed(collector)
    with capture_logs() as lines:
        for taking in (True, False, False, False, True, True):
            collector.taking = taking
            exporter.export([])
    assert [line["log_level"] for line in lines] == ["warning", "info"]


def test_what_raises_in_the_exporter_is_said_like_any_other_failure(monkeypatch):
    def broken(_: object) -> SpanExportResult:
        raise ValueError("hidden")

    collector = Collector()
    monkeypatch.setattr(collector, "export", broken)
    exporter = Scrubbed(collector)
    with capture_logs() as lines:
        assert [exporter.export([]) for _ in range(2)] == [SpanExportResult.FAILURE] * 2
    assert [line["error"] for line in lines] == ["ValueError"]


def test_a_header_that_cannot_be_sent_is_not_quoted(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}/hidden")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=hidden%0Akey")
    exporter = Scrubbed(OTLPSpanExporter())
    with capture_logs() as lines:
        exporter.export([])
    [line] = lines
    assert "header value: ***" in line["error"]
    assert "hidden" not in str(line)


def test_a_queue_that_is_shorter_than_a_batch_makes_batches_shorter(monkeypatch):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")
    with traces() as kept:
        for _ in range(3):
            with kept.spans.attempt(Job(delivery_of(), FakeOwner()), "log"):
                pass
        assert len(kept.finished) == 3


async def test_the_end_waits_for_the_last_spans_but_not_for_a_collector_that_never_answers(monkeypatch):
    monkeypatch.setattr("worker.otlp._FLUSH_SECONDS", 0.2)
    collector = Collector()
    collector.answers.clear()
    exporting = Exporting(TracingSettings(enabled=True), HubScope("h", "e", "g"), "one", exporter=collector)
    with exporting.spans.attempt(Job(delivery_of(), FakeOwner()), "log"):
        pass
    with capture_logs() as lines:
        await exporting.aclose()
    assert [line["log_level"] for line in lines] == ["warning"]
    collector.answers.set()


async def test_what_was_made_last_is_sent_at_the_end():
    with traces() as kept:
        with kept.spans.attempt(Job(delivery_of(), FakeOwner()), "log"):
            pass
        await kept.exporting.aclose()
        assert [span.name for span in kept._memory.get_finished_spans()] == ["deliver out"]


def test_a_collector_that_never_answers_makes_nobody_wait_and_fills_no_memory(monkeypatch):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "20")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
    collector = Collector()
    collector.answers.clear()
    exporting = Exporting(TracingSettings(enabled=True), HubScope("h", "e", "g"), "one", exporter=collector)
    job = Job(delivery_of(), FakeOwner())
    for _ in range(500):
        with exporting.spans.attempt(job, "log"):
            pass
    [processor] = exporting._provider._active_span_processor._span_processors
    assert len(processor._batch_processor._queue) == 20
    collector.answers.set()
    exporting._provider.shutdown()
