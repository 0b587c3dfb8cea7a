"""What benchmarks share: processes that end with the block, a loaded hub, a store, a worker, and what each has used.

Everything runs as a process of its own and is measured from outside (/proc): Linux only. It knows no contestant and
makes no judgement.
"""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from prometheus_client.parser import text_string_to_metric_families

from bench.azurite import HOST, Azurite
from worker.local.send import send
from worker.local.traffic import TrafficMessage

ROOT = Path(__file__).parent.parent
HUB = "ml-events"
PARTITIONS = 4
BLOB_ENV = "BENCH_BLOB"
_HUB_ENV = "EVENTHUB_CONNECTION_STRING"
_START_SECONDS = 60.0
_STOP_SECONDS = 40.0
_LOOK_SECONDS = 0.005
_LAST_LINES = 15


class BenchFailed(Exception):
    """A run is broken, so its figures would mean nothing; the text says what is wrong."""


class Usage(NamedTuple):
    """What a process has used by now."""

    cpu_seconds: float
    resident_bytes: int
    peak_bytes: int


def usage(pid: int) -> Usage:
    """What the kernel says of a process, all its threads included; processor time in steps of 10 ms."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    resident, peak = (int(status[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))
    return Usage(cpu_seconds(pid), resident, peak)


def cpu_seconds(pid: int) -> float:
    """Processor time of a process."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


class Process:
    """One that runs; what it prints is in its log."""

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def cpu_seconds(self) -> float:
        """Processor time so far."""
        return cpu_seconds(self.pid)

    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, pattern: str, seconds: float = _START_SECONDS) -> re.Match[str]:
        """Waits until it has printed something like this."""
        return self.until(lambda: re.search(pattern, self.text()), f"printed nothing like {pattern!r}", seconds)

    def until(self, look: Callable[[], Any], what_if_not: str, seconds: float) -> Any:
        """Looks again and again until there is something to see; raises BenchFailed when it ends or takes too long."""
        ends = time.monotonic() + seconds
        while not (seen := look()):
            if self._process.poll() is not None:
                raise self.failure(f"ended with exit code {self._process.returncode}")
            if time.monotonic() > ends:
                raise self.failure(f"{what_if_not} within {seconds:g} s")
            time.sleep(_LOOK_SECONDS)
        return seen

    def ended(self, seconds: float) -> None:
        """Waits for its end, which must be a good one."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise self.failure(f"did not end within {seconds:g} s") from None
        if code:
            raise self.failure(f"ended with exit code {code}")

    def stop(self) -> None:
        """Asks it to stop, and raises BenchFailed where it does not do so well."""
        self._process.send_signal(signal.SIGTERM)
        self.ended(_STOP_SECONDS)

    def kill(self) -> None:
        """Ends it at once, if it is still there."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()

    def failure(self, what: str) -> BenchFailed:
        """An error with its last words."""
        with self.log.open(encoding="utf-8", errors="replace") as log:
            words = "".join(deque(log, maxlen=_LAST_LINES)) or "(nothing)\n"
        return BenchFailed(f"{self.name} {what}; its last words:\n{words.rstrip()}")


@contextmanager
def running(
    name: str, folder: Path, command: Sequence[str], environment: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """A process, which does not outlive the block; its log is `folder`/`name`.log.

    A PYTHONPATH in its environment comes behind that of the project.
    """
    log, given = folder / f"{name}.log", environment or {}
    path = os.pathsep.join((str(ROOT), *filter(None, [given.get("PYTHONPATH")])))
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own programs
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env={**os.environ, **given, "PYTHONUNBUFFERED": "1", "PYTHONPATH": path},
            start_new_session=True,
        )
    running_one = Process(name, process, log)
    try:
        yield running_one
    finally:
        running_one.kill()


class Hub(NamedTuple):
    """A local hub in its own process."""

    process: Process
    connection_string: str

    @property
    def environment(self) -> dict[str, str]:
        """Where clients find it."""
        return {_HUB_ENV: self.connection_string}


@contextmanager
def hub(folder: Path, partitions: int = PARTITIONS) -> Iterator[Hub]:
    """An empty hub in memory, run by the interpreter that runs this."""
    options = ("--port", "0", "--hub", HUB, "--partitions", str(partitions))
    with running("hub", folder, (sys.executable, "-m", "worker", "local", "broker", *options)) as process:
        yield Hub(process, process.wait_for(r"Endpoint=\S+")[0])


def load(into: Hub, messages: Sequence[TrafficMessage], rate: float | None = None) -> None:
    """Sends them in their order for each partition key: so many a second, or as fast as the hub takes them."""
    asyncio.run(send(messages, connection_string=into.connection_string, hub=HUB, rate=rate))


@contextmanager
def azurite(folder: Path) -> Iterator[str]:
    """An empty Blob service in memory: its connection string. Needs `make node`."""
    if not Azurite.is_installed():
        raise BenchFailed("Azurite is not installed: run `make node`")
    one = Azurite.new()
    with running("azurite", folder, one.command, one.environment) as process:
        process.until(lambda: _listens(one.port), "did not listen", _START_SECONDS)
        yield one.connection_string


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


Settings = Mapping[str, Any]


class Worker(NamedTuple):
    """A `worker run`."""

    process: Process
    folder: Path

    def metrics(self) -> "Metrics":
        """What it says of itself now; costs it a few milliseconds."""
        with urllib.request.urlopen(self._address()) as answer:  # noqa: S310 - its own address
            return Metrics(answer.read().decode())

    def _address(self) -> str:
        return self.process.wait_for(r"http://[0-9.:]+/metrics")[0]


@contextmanager
def worker(
    folder: Path,
    source: Hub,
    settings: Mapping[str, Settings],
    routing: Settings,
    *,
    python: str = sys.executable,
    name: str = "worker",
    environment: Mapping[str, str] | None = None,
) -> Iterator[Worker]:
    """A worker with these settings over those of the benchmarks: `settings` by section of worker.yaml.

    It is killed at the end of the block; whoever wants to see it stop well calls `process.stop` before.
    """
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    given = {section: dict(keys) for section, keys in settings.items()}
    base: dict[str, dict[str, Any]] = {
        "source": {"connection_string_env": _HUB_ENV, "hub": HUB},
        "http": {"port": 0},
    }
    if "kind" not in given.get("store", {}):
        base["store"] = {"kind": "sqlite", "path": "worker.db"}
    whole = {**given, **{section: keys | given.get(section, {}) for section, keys in base.items()}}
    (place / "worker.yaml").write_text(yaml.safe_dump(whole))
    (place / "routes.yaml").write_text(yaml.safe_dump(dict(routing)))
    command = (python, "-m", "worker", "run", "--config", str(place / "worker.yaml"))
    with running(name, folder, command, {**source.environment, **(environment or {})}) as process:
        yield Worker(process, place)


class Metrics:
    """One answer of /metrics."""

    def __init__(self, text: str) -> None:
        self._samples = [each for family in text_string_to_metric_families(text) for each in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """The sum over all that have these labels; 0 where there are none."""
        wanted = labels.items()
        return sum(each.value for each in self._samples if each.name == name and wanted <= each.labels.items())
