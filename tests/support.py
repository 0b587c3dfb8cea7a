"""What several test folders share: waiting for a condition, free ports, starting and stopping a server, Azurite.

`from tests.support import eventually`. Fixtures are in `conftest.py`.
"""

import asyncio
import base64
import inspect
import os
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from prometheus_client import CollectorRegistry

AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = base64.b64encode(os.urandom(32)).decode()
"""Made for this run, so that no key stands anywhere."""

_T = TypeVar("_T")


async def eventually(
    condition: Callable[[], _T | Awaitable[_T]], timeout_seconds: float = 10.0, *, every_seconds: float = 0.01
) -> _T:
    """Polls a plain or async condition until it is true, and returns its value; AssertionError after the timeout."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {timeout_seconds:g} s: {inspect.getsource(condition).strip()}")
        await asyncio.sleep(every_seconds)


def sample(registry: CollectorRegistry, name: str, labels: dict[str, str]) -> float | None:
    """What a metric's series says; None where there is none. Collects that metric, and not all as the client does."""
    for metric in registry.restricted_registry([name]).collect():
        for each in metric.samples:
            if each.name == name and each.labels == labels:
                return each.value
    return None


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(process: "subprocess.Popen[str]", port: int, timeout_seconds: float = 30.0) -> None:
    """Returns once the process listens; AssertionError when it ends before, or takes too long."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"{process.args} ended with exit code {process.returncode} before it listened")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"{process.args} did not listen on port {port} within {timeout_seconds:g} s")


def stop(process: "subprocess.Popen[str]") -> None:
    """Ends a process that a test started: asks first, then kills."""
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def azurite_connection_string(port: int) -> str:
    """How an Azurite on this port is reached, whether or not one listens."""
    endpoint = f"http://127.0.0.1:{port}/{AZURITE_ACCOUNT}"
    return (
        f"DefaultEndpointsProtocol=http;AccountName={AZURITE_ACCOUNT};AccountKey={AZURITE_KEY};BlobEndpoint={endpoint};"
    )
