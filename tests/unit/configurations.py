"""A good configuration for tests to change, and what loading it gives."""

from pathlib import Path
from textwrap import dedent

import pytest

from worker.config import Config
from worker.errors import ConfigError
from worker.loading import load

CONNECTION = "Endpoint=sb://127.0.0.1:5672;SharedAccessKeyName=n;SharedAccessKey=hunter2;UseDevelopmentEmulator=true"
ENVIRON = {"HUB": CONNECTION, "OUT": "https://out.example.org/hook"}

WORKER = """\
source:
  connection_string_env: HUB
  hub: ml-events
store:
  kind: sqlite
  path: data/worker.db
"""
ROUTES = """\
sinks:
  - name: out
    kind: webhook
    url_env: OUT
  - name: audit
    kind: file
    path: audit.jsonl
routes:
  - name: failed
    filter:
      includedEventTypes: [Some.Type]
    sinks: [out]
  - name: all
    sinks: [audit, out]
    late: drop
"""


def write(folder: Path, worker: str | bytes = WORKER, routes: str | bytes | None = ROUTES) -> Path:
    """Writes both files and returns the way to worker.yaml."""
    for name, content in (("worker.yaml", worker), ("routes.yaml", routes)):
        if content is not None:
            (folder / name).write_bytes(content if isinstance(content, bytes) else dedent(content).encode())
    return folder / "worker.yaml"


def loaded(worker: str = WORKER, routes: str = ROUTES, environ=ENVIRON, *, secrets: bool = True) -> Config:
    """The configuration, by way of files in the current folder."""
    return load(write(Path(), worker, routes), environ=environ, secrets=secrets)


def mistakes(*args, **kwargs) -> list[str]:
    """What `loaded` finds wrong."""
    with pytest.raises(ConfigError) as caught:
        loaded(*args, **kwargs)
    return caught.value.mistakes
