"""The kinds of sinks: from the word in `kind:` to its settings and to what builds it.

A new kind is one module with its settings and its sink, and one row here; nothing else knows the kinds. Here are the
built-in ones; those that other distributions bring are found by `installed`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from worker.settings import SinkSettings
from worker.sinks import Sink
from worker.sinks.email import EmailSettings, EmailSink
from worker.sinks.file import FileSettings, FileSink
from worker.sinks.log import LogSettings, LogSink
from worker.sinks.webhook import WebhookSettings, WebhookSink


@dataclass(frozen=True, slots=True)
class SinkKind:
    """What a kind is made of."""

    settings: type[SinkSettings]
    build: Callable[[Any], Sink]
    """From an instance of `settings` to the sink, not yet opened."""


KINDS: Mapping[str, SinkKind] = MappingProxyType(
    {
        "email": SinkKind(EmailSettings, EmailSink),
        "file": SinkKind(FileSettings, FileSink),
        "log": SinkKind(LogSettings, LogSink),
        "webhook": SinkKind(WebhookSettings, WebhookSink),
    }
)
