"""Structured logging: one line per event on stderr, JSON for machines, coloured for people at a terminal.

What the worker logs (structlog) and what its libraries log (the standard library) leave through one handler, so lines
never mix, whatever thread they come from. Every value passes `redact` on its way, as a last line of defence; the first
is that nobody logs secrets. It decides nothing about what is worth logging.
"""

import json as stdlib_json
import logging
import re
import sys
from typing import Any

import orjson
import structlog
from structlog.dev import plain_traceback
from structlog.typing import EventDict, Processor, WrappedLogger

from worker import tracing

LOGGER = "worker"
"""The standard-library logger under which the worker's own lines travel, and whose level is theirs."""

# Louder than they are useful. What they say, `source` says with the partition and what is done about it.
_LIBRARY_LEVELS = {
    "azure": logging.WARNING,
    "azure.eventhub": logging.WARNING,
    "azure.core.pipeline.policies.http_logging_policy": logging.ERROR,  # requests with their headers
    "azure.eventhub._pyamqp": logging.CRITICAL,  # every lost link, once per layer
    "azure.identity": logging.ERROR,  # each credential of a chain that is not there
    "aiohttp.access": logging.ERROR,  # probes and scrapes, every few seconds
    "asyncio": logging.WARNING,
    "opentelemetry": logging.CRITICAL,  # each batch of spans that the collector does not take; `otlp` says it once
}

_NAMES = "access_?key|accountkey|sharedaccesssignature|client_?secret|password|x-functions-key|api-?key"
_SECRETS = re.compile(
    rf"""
      # Everything a match captures stays; what follows it within the match is the secret.
      (  (?: {_NAMES} | (?<![a-z0-9]) (?: sig | authorization ) ) \\* ["']? \s* (?: = | : | %3d ) \s* \\* ["']?
         (?: (?: bearer | basic | sharedkey ) \s+ )?
      )  [^\s"'&;<>\\]+
    | (  (?<![a-z0-9]) bearer \s+ )  [a-z0-9._~+/=-]{{16,}}
    | (  :// [^\s/:@"']* : )  [^\s/@"']+ (?=@)
    | (  whsec_ )  [a-z0-9+/=_-]+
      # Looked for once in each run of such letters, and only where two dots follow: a text that begins with it again
      # and again would else be read as often, for minutes.
    | (  (?<![a-z0-9_-]) (?= [a-z0-9_-]+ \. [a-z0-9_-]+ \. )  (?: [a-z0-9_-]*? [_-] )?? eyJ )
      [a-z0-9_-]+ \. [a-z0-9_-]+ \. [a-z0-9_-]*
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SECRET_KEYS = re.compile(rf".*(?:{_NAMES})|sig|(?:proxy-)?authorization|cookie", re.IGNORECASE)
_MASK = "***"


def redact(value: Any) -> Any:
    """The same value without what looks like a key, a signature or a token; anything but JSON's types as it is."""
    if isinstance(value, str):
        return _SECRETS.sub(lambda match: "".join(kept or "" for kept in match.groups()) + _MASK, value)
    if isinstance(value, dict):
        return {
            redact(key): _MASK if isinstance(key, str) and _SECRET_KEYS.fullmatch(key) and item else redact(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return value


def configure(*, json: bool | None = None, level: int | str = "INFO", traced: bool = False) -> None:
    """Sets up logging for the process; called again, it replaces what was set up. `json` None: unless at a terminal.

    `traced`: lines name the trace and the span that they were written in.
    """
    as_json = not sys.stderr.isatty() if json is None else json
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        *([_name_trace] if traced else []),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*common, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _redact_all,
                *([_render_json] if as_json else [_printable, _console()]),
            ],
        )
    )
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old.formatter, structlog.stdlib.ProcessorFormatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(LOGGER).setLevel(level)
    for name, library_level in _LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(library_level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *common,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=lambda *args: logging.getLogger(args[0] if args else LOGGER),
    )


def _name_trace(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    span = tracing.current()
    if span is not None:
        event["trace_id"], event["span_id"] = span.trace_id, span.span_id
    return event


def _redact_all(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    redacted: EventDict = redact(dict(event))
    return redacted


def _render_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    try:
        return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # integers beyond 64 bits, lone surrogates: rare, but a line must not get lost over them
        return stdlib_json.dumps(event, default=str)


def _printable(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Keeps a terminal safe from what events may contain: colour codes, line breaks that look like further lines."""
    return {key: _escaped(value, many=key == "exception") for key, value in event.items()}


def _escaped(value: Any, *, many: bool) -> Any:
    if not isinstance(value, str) or value.isprintable():
        return value
    return "\n".join(_escaped(line, many=False) for line in value.split("\n")) if many else repr(value)[1:-1]


def _console() -> structlog.dev.ConsoleRenderer:
    # Plain: the pretty traceback would show local variables, and with them secrets.
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain_traceback)
