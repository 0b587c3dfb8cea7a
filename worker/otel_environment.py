"""What is wrong with OpenTelemetry's variables, before its SDK would overlook it. Pure: reads what it is given.

The SDK takes what it does not understand for a default, and says so in a log line at best. Only those that this worker
uses are looked at: traces, over HTTP. No value is repeated: endpoints and headers may hold secrets.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from math import isfinite

from yarl import URL

_SAMPLERS = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
_HEADERS = re.compile(r"\s*[^=,\s]+\s*=[^,]*(,\s*[^=,\s]+\s*=[^,]*)*,?\s*")


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry is switched off, whatever worker.yaml says."""
    return environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def mistakes_in(environ: Mapping[str, str], *, ratio_given: bool) -> Iterator[str]:
    """A sentence for each variable that cannot be right; `ratio_given`: worker.yaml says how much is sampled."""
    for names, is_right, wanted in _RULES:
        for name in names:
            value = environ.get(name, "").strip()
            if value and not is_right(value):
                yield f"the environment variable {name} {wanted}"
    if ratio_given and environ.get("OTEL_TRACES_SAMPLER"):
        yield "the environment variable OTEL_TRACES_SAMPLER says how much is sampled as well; remove it or sample_ratio"


def _is_url(value: str) -> bool:
    try:
        url = URL(value)
    except ValueError:
        return False
    return url.scheme in ("http", "https") and bool(url.host)


def _number(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        return -1.0
    return number if isfinite(number) else -1.0


def _is_count(value: str) -> bool:
    return value.isascii() and value.isdigit() and int(value) > 0


def _otlp(*ends: str) -> tuple[str, ...]:
    return tuple(f"OTEL_EXPORTER_OTLP_{of}{end}" for end in ends for of in ("", "TRACES_"))


_RULES: tuple[tuple[tuple[str, ...], Callable[[str], bool], str], ...] = (
    (("OTEL_SDK_DISABLED",), lambda value: value.lower() in ("true", "false"), "must be true or false"),
    (
        ("OTEL_TRACES_EXPORTER",),
        lambda value: value == "otlp",
        "must be otlp or not there: no other exporter is built in; tracing.enabled: false switches tracing off",
    ),
    (
        _otlp("PROTOCOL"),
        lambda value: value == "http/protobuf",
        "must be http/protobuf or not there; the collector's port for that is 4318 as a rule, and 4317 is for gRPC",
    ),
    (_otlp("ENDPOINT"), _is_url, "must be a URL such as http://collector:4318"),
    (_otlp("HEADERS"), lambda value: bool(_HEADERS.fullmatch(value)), "must be written as name=value,name=value"),
    (_otlp("TIMEOUT"), lambda value: _number(value) > 0, "must be a number of seconds above 0"),
    (
        _otlp("COMPRESSION"),
        lambda value: value.lower() in ("none", "gzip", "deflate"),
        "must be none, gzip or deflate",
    ),
    (("OTEL_TRACES_SAMPLER",), lambda value: value.lower() in _SAMPLERS, f"must be one of {', '.join(_SAMPLERS)}"),
    (("OTEL_TRACES_SAMPLER_ARG",), lambda value: 0 <= _number(value) <= 1, "must be a number from 0 to 1"),
    (
        ("OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_BSP_SCHEDULE_DELAY"),
        _is_count,
        "must be a whole number above 0",
    ),
)
