"""Debian's Prometheus on the loopback: told whom to ask while it runs, and asked as Grafana asks it."""

import asyncio
import json
import math
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import yaml

from tests.support import eventually, free_port

_PROGRAM = "prometheus"
_LABELS_OF = re.compile(r"label_values\((?P<series>.+), (?P<label>\w+)\)")


def needs_prometheus() -> None:
    """Skips the test where there is no Prometheus to be had; not in CI."""
    if shutil.which(_PROGRAM) is None and os.environ.get("CI") != "true":
        pytest.skip("Prometheus is not installed here (Debian: apt-get install prometheus)")


class Line(NamedTuple):
    """One series of an answer, without what is no number."""

    labels: Mapping[str, str]
    points: list[tuple[float, float]]


class Refused(AssertionError):
    """Prometheus does not understand what it was asked."""


class Prometheus:
    """One that runs."""

    def __init__(self, address: str, targets: Path, session: aiohttp.ClientSession) -> None:
        self.began = time.time()
        self._address = address
        self._targets = targets
        self._session = session

    def watch(self, pods: Mapping[str, str]) -> None:
        """From now on it asks these, host:port by the name of the pod; and no others."""
        groups = [
            {"targets": [address], "labels": {"pod": pod, "namespace": "event-grid-worker"}}
            for pod, address in pods.items()
        ]
        beside = self._targets.with_suffix(".new")
        beside.write_text(json.dumps(groups))
        beside.replace(self._targets)

    async def lines(self, expression: str, *, instant: bool = False) -> list[Line]:
        """What it has of this since it began, second by second, or has now; only lines that have a number."""
        now = time.time()
        if instant:
            found = await self._ask("query", {"query": expression, "time": str(now)})
            series = [{**each, "values": [each["value"]]} for each in found["result"]]
        else:
            span = {"start": str(self.began), "end": str(now), "step": "1"}
            series = (await self._ask("query_range", {"query": expression, **span}))["result"]
        lines = [Line(each["metric"], _numbers(each["values"])) for each in series]
        return [line for line in lines if line.points]

    async def values(self, query: str) -> list[str]:
        """What a variable can be: `label_values(series, label)`, which is Grafana's own and no PromQL."""
        parts = _LABELS_OF.fullmatch(query)
        assert parts, query
        return list(await self._ask(f"label/{parts['label']}/values", {"match[]": parts["series"]}))

    async def _ask(self, what: str, parameters: dict[str, str]) -> Any:
        async with self._session.get(f"{self._address}/api/v1/{what}", params=parameters) as answer:
            told = await answer.json()
        if told["status"] != "success":
            raise Refused(f"{parameters}: {told['error']}")
        return told["data"]

    async def is_ready(self) -> bool:
        """Whether it answers."""
        with suppress(aiohttp.ClientError):
            async with self._session.get(f"{self._address}/-/ready") as answer:
                return answer.status == 200
        return False


def _numbers(values: list[tuple[float, str]]) -> list[tuple[float, float]]:
    return [(at, float(value)) for at, value in values if math.isfinite(float(value))]


def _prepared(folder: Path) -> tuple[Path, Path]:
    """Its settings, and the file where it is told whom to ask."""
    folder.mkdir()
    targets, settings = folder / "targets.json", folder / "prometheus.yaml"
    targets.write_text("[]")
    watching = {"job_name": "worker", "file_sd_configs": [{"files": [str(targets)], "refresh_interval": "1s"}]}
    every = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    settings.write_text(yaml.safe_dump({"global": every, "scrape_configs": [watching]}))
    return settings, targets


@asynccontextmanager
async def prometheus(folder: Path) -> AsyncIterator[Prometheus]:
    """Asks whom it is told to every second, and keeps what it hears in the folder."""
    needs_prometheus()
    settings, targets = _prepared(folder)
    port = free_port()
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            _PROGRAM,
            f"--config.file={settings}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=log,
            stderr=log,
        )
    try:
        async with aiohttp.ClientSession() as session:
            running = Prometheus(f"http://127.0.0.1:{port}", targets, session)
            await eventually(running.is_ready, 30, every_seconds=0.1)
            yield running
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
