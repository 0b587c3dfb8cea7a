"""What is wrong with OpenTelemetry's variables, before its SDK would overlook it. Pure: reads what it is given.

The SDK takes what it does not understand for a default, and says so in a log line at best. Only those that this worker
uses are looked at: traces, over HTTP. No value is repeated: endpoints and headers may hold secrets.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from urllib.parse import unquote

from yarl import URL

_SAMPLERS = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
QUEUE_SPANS = 2048
"""So many wait where OTEL_BSP_MAX_QUEUE_SIZE is left out."""
BATCH_SPANS = 512
"""So many go in one request where OTEL_BSP_MAX_EXPORT_BATCH_SIZE is left out."""
_DIGITS = 9
_HEADERS = re.compile(r"\s*[^=,\s]+\s*=[^,]*(,\s*[^=,\s]+\s*=[^,]*)*,?\s*")


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry is switched off, whatever worker.yaml says."""
    return environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def mistakes_in(environ: Mapping[str, str], *, ratio_given: bool) -> Iterator[str]:
    """A sentence for each variable that cannot be right; `ratio_given`: worker.yaml says how much is sampled."""
    for names, is_right, wanted in _RULES:
        for name in names:
            value = environ.get(name, "").strip()
            if value and not is_right(value) and not _is_overruled(name, environ):
                yield f"the environment variable {name} {wanted}"
    yield from _too_short_a_queue(environ)
    if ratio_given and environ.get("OTEL_TRACES_SAMPLER"):
        yield "the environment variable OTEL_TRACES_SAMPLER says how much is sampled as well; remove it or sample_ratio"


def _is_overruled(name: str, environ: Mapping[str, str]) -> bool:
    """Whether the one for traces alone is there, so that the one for all signals is for others."""
    own = name.replace("_OTLP_", "_OTLP_TRACES_")
    return own != name and bool(environ.get(own, "").strip())


def _too_short_a_queue(environ: Mapping[str, str]) -> Iterator[str]:
    """The SDK would not start: a batch has to fit into the queue."""
    batch, queue = (environ.get(f"OTEL_BSP_MAX_{of}_SIZE", "").strip() for of in ("EXPORT_BATCH", "QUEUE"))
    if _is_count(batch) and int(batch) > (int(queue) if _is_count(queue) else QUEUE_SPANS):
        yield (
            "the environment variable OTEL_BSP_MAX_EXPORT_BATCH_SIZE must be no more than OTEL_BSP_MAX_QUEUE_SIZE, "
            f"which is {QUEUE_SPANS:,} where it is left out"
        )


def _are_headers(value: str) -> bool:
    """Names and values; nothing in them that no header can hold, of which the client would say what it is."""
    plain = [unquote(part).strip() for part in value.split(",")]
    return bool(_HEADERS.fullmatch(value)) and all(part.isascii() and part.isprintable() for part in plain)


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
    return _is_limit(value) and int(value) > 0


def _is_limit(value: str) -> bool:
    return value.isascii() and value.isdigit() and len(value) <= _DIGITS


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
    (_otlp("HEADERS"), _are_headers, "must be written as name=value,name=value, in printable ASCII"),
    (_otlp("TIMEOUT"), lambda value: _number(value) > 0, "must be a number of seconds above 0"),
    (
        _otlp("COMPRESSION"),
        lambda value: value.lower() in ("none", "gzip", "deflate"),
        "must be none, gzip or deflate",
    ),
    (("OTEL_TRACES_SAMPLER",), lambda value: value.lower() in _SAMPLERS, f"must be one of {', '.join(_SAMPLERS)}"),
    (("OTEL_TRACES_SAMPLER_ARG",), lambda value: 0 <= _number(value) <= 1, "must be a number from 0 to 1"),
    (
        (
            "OTEL_BSP_MAX_QUEUE_SIZE",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
            "OTEL_BSP_SCHEDULE_DELAY",
            "OTEL_BSP_EXPORT_TIMEOUT",
        ),
        _is_count,
        "must be a whole number above 0",
    ),
    (
        (
            "OTEL_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
            "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
            "OTEL_SPAN_EVENT_COUNT_LIMIT",
            "OTEL_SPAN_LINK_COUNT_LIMIT",
        ),
        _is_limit,
        "must be a whole number",
    ),
)
