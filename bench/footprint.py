"""What one worker needs, processor time and memory: `python -m bench.footprint [--keep]`.

A local hub with four partitions (`--partitions`) holds a backlog; one worker with the limits of deploy/k8s/base owns
them all, orders it by windows of 5 s, writes every event into a file and posts it to a receiver that answers at once.
Measured from the process itself (/proc): Linux only. The hub, the receiver and the worker share this machine's cores.
`--keep` writes the table into bench/FOOTPRINT.md, which the resources in deploy/k8s/base/deployment.yaml come from.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import yaml

from bench.scene import HUB, usage
from worker.local.children import Child, Children, children
from worker.local.receiver import Receiver, Record
from worker.local.send import send
from worker.local.traffic import TrafficOptions, generate

_PARTITIONS = 4
_IDLE_SECONDS = 20.0
_LIMIT_SECONDS = 300.0
_KEPT = Path(__file__).parent / "FOOTPRINT.md"
_HEAD = """\
# What one worker needs

Made by `python -m bench.footprint --keep`. What is measured, and how: the docstring of bench/footprint.py."""
_TABLE = (
    "| phase | events | took | cores | events per second of a core | memory | most so far |",
    "|---|---:|---:|---:|---:|---:|---:|",
)


class Measured(NamedTuple):
    """One line of the table."""

    phase: str
    events: int
    seconds: float
    cpu_seconds: float
    resident_bytes: int
    peak_bytes: int

    def row(self) -> str:
        """As it stands in the table."""
        a_core = f"{self.events / self.cpu_seconds:,.0f}" if self.events else "-"
        memory = f"{self.resident_bytes / 2**20:.0f} MiB | {self.peak_bytes / 2**20:.0f} MiB"
        cores = self.cpu_seconds / self.seconds
        return f"| {self.phase} | {self.events:,} | {self.seconds:.0f} s | {cores:.2f} | {a_core} | {memory} |"


def main() -> int:
    """Measures, prints the table, and writes it when asked to."""
    parser = argparse.ArgumentParser(prog="python -m bench.footprint", description=__doc__)
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--partitions", type=int, default=_PARTITIONS)
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    text = report(asyncio.run(measure(arguments.events, arguments.partitions)), arguments.partitions)
    print(text)
    if arguments.keep:
        _KEPT.write_text(text)
    return 0


def report(rows: list[Measured], partitions: int = _PARTITIONS) -> str:
    """The page."""
    where = f"Python {sys.version_info.major}.{sys.version_info.minor}, {os.cpu_count()} cores"
    told = f"{where}, shared with the hub and the receiver; one worker, {partitions} partitions."
    return "\n".join([_HEAD, "", told, "", *_TABLE, *(row.row() for row in rows), ""])


async def measure(events: int, partitions: int) -> list[Measured]:
    """A backlog, then nothing."""
    async with AsyncExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        record = Record()
        received = opened.enter_context((folder / "received.jsonl").open("wb"))
        url = await opened.enter_async_context(Receiver(record, received))
        family = await opened.enter_async_context(children(folder))
        connection_string = await _start_hub(family, partitions)
        sent = generate(TrafficOptions(count=events, started_at=datetime(2026, 1, 1, tzinfo=UTC), disorder=50, seed=1))
        await send(sent, connection_string=connection_string, hub=HUB)
        worker = await _start_worker(family, folder, url, connection_string)
        backlog = await _phase("backlog", worker, record, events)
        idle = await _phase("nothing comes", worker, record, 0)
        await family.stop([worker])
    return [backlog, idle]


async def _phase(name: str, worker: Child, record: Record, events: int) -> Measured:
    """Until so many have come, or, with none to come, for a while."""
    began, before = time.monotonic(), usage(worker.pid)
    wanted = record.events + events
    async with asyncio.timeout(_LIMIT_SECONDS):
        while record.events < wanted if events else time.monotonic() - began < _IDLE_SECONDS:  # noqa: ASYNC110 - sampled
            await asyncio.sleep(0.1)
    after = usage(worker.pid)
    seconds, cpu = time.monotonic() - began, after.cpu_seconds - before.cpu_seconds
    return Measured(name, events, seconds, cpu, after.resident_bytes, after.peak_bytes)


async def _start_hub(family: Children, partitions: int) -> str:
    arguments = ("--port", "0", "--hub", HUB, "--partitions", str(partitions))
    hub = await family.start("hub", "local", "broker", *arguments, speaks=True)
    line = await hub.first_line(timeout_seconds=30)
    return line[line.index("Endpoint=") :]


async def _start_worker(family: Children, folder: Path, url: str, connection_string: str) -> Child:
    """With the limits of the shipped configuration, which are the defaults."""
    settings = {
        "source": {"connection_string_env": "EVENTHUB_CONNECTION_STRING", "hub": HUB},
        "store": {"kind": "sqlite", "path": "worker.db"},
        "http": {"port": 0},
    }
    sinks = [{"name": "audit", "kind": "file", "path": "audit.jsonl"}, {"name": "team", "kind": "webhook", "url": url}]
    routing = {"sinks": sinks, "routes": [{"name": "everything", "sinks": ["audit", "team"]}]}
    (folder / "worker.yaml").write_text(yaml.safe_dump(settings))
    (folder / "routes.yaml").write_text(yaml.safe_dump(routing))
    environment = {"EVENTHUB_CONNECTION_STRING": connection_string}
    return await family.start("worker", "run", "--config", str(folder / "worker.yaml"), environment=environment)


if __name__ == "__main__":
    sys.exit(main())
