"""otel_environment.py and what loading makes of it: a variable that cannot be right is a mistake, with its line."""

from contextlib import AsyncExitStack
from importlib.util import find_spec

import pytest

from tests.unit.configurations import ENVIRON, WORKER, loaded
from worker import loading
from worker.app import Worker
from worker.errors import ConfigError
from worker.mistakes import Mistakes
from worker.otel_environment import is_disabled, mistakes_in
from worker.stores import HubScope

ON = WORKER + "tracing:\n  enabled: true\n"
GOOD = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.observability:4318",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://collector.example/v1/traces",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20hidden%0A,x-team=ml",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "2.5",
    "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
    "OTEL_TRACES_SAMPLER_ARG": "0.25",
    "OTEL_BSP_MAX_QUEUE_SIZE": "4096",
    "OTEL_SDK_DISABLED": "false",
    "OTEL_SERVICE_NAME": "anything",
}


def test_what_the_sdk_understands_is_fine():
    assert list(mistakes_in(GOOD, ratio_given=False)) == []
    assert list(mistakes_in(dict.fromkeys(GOOD, ""), ratio_given=True)) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "hidden-collector:4317"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "hidden"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "hidden"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "nan"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli"),
        ("OTEL_TRACES_EXPORTER", "console"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-team=hidden%0Akey"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-team=hidden\nkey"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-team=hiddenü"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "soon"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4000"),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "many"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "-1"),
        ("OTEL_SDK_DISABLED", "yes"),
    ],
)
def test_what_it_would_pass_over_is_a_mistake_that_names_the_variable_and_not_its_value(name, value):
    [mistake] = mistakes_in({name: value}, ratio_given=False)
    assert mistake.startswith(f"the environment variable {name} must be ")
    assert "hidden" not in mistake


def test_what_is_for_traces_alone_overrules_what_is_for_all_signals():
    asked = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
    assert list(mistakes_in(asked, ratio_given=False)) == []


def test_two_who_say_how_much_is_sampled_are_one_too_many():
    [mistake] = mistakes_in({"OTEL_TRACES_SAMPLER": "always_on"}, ratio_given=True)
    assert "sample_ratio" in mistake


def test_the_standard_switch_is_known():
    assert is_disabled({"OTEL_SDK_DISABLED": "True"})
    assert not is_disabled({})


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_mistake_stands_at_the_line_that_asks_for_tracing():
    with pytest.raises(Mistakes) as raised:
        loaded(ON, environ=ENVIRON | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    [mistake] = raised.value.mistakes
    assert "worker.yaml:8:3: tracing.enabled: the environment variable OTEL_EXPORTER_OTLP_PROTOCOL must be" in mistake


def test_variables_are_nothing_to_a_worker_that_does_not_trace_or_is_only_looked_at():
    wrong = ENVIRON | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    assert not loaded(WORKER, environ=wrong).worker.tracing.enabled
    assert loaded(ON, environ=wrong, secrets=False).worker.tracing.enabled


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda _: None)
    with pytest.raises(Mistakes, match=r"pip install 'event-grid-worker\[otel\]'"):
        loaded(ON)
    assert loaded(WORKER)


def test_the_extra_is_missed_where_only_a_part_of_opentelemetry_is_there(monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: find_spec(f"opentelemetry.not_{name}.more"))
    with pytest.raises(Mistakes, match=r"pip install 'event-grid-worker\[otel\]'"):
        loaded(ON)


def test_a_variable_that_nobody_here_knows_ends_the_start_with_a_sentence(monkeypatch):
    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "hidden")
    worker = Worker(loaded(ON))
    with pytest.raises(ConfigError, match=r"tracing: .*RuntimeError") as raised:
        worker._trace(HubScope("hub.test", "events", "$Default"), AsyncExitStack())
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize("ratio", ["-0.1", "1.1", "true", "'1'"])
def test_a_ratio_is_a_number_from_0_to_1(ratio):
    with pytest.raises(Mistakes, match=r"tracing\.sample_ratio"):
        loaded(ON + f"  sample_ratio: {ratio}\n")
