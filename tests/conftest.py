"""Fixtures for every test folder: the Blob service on this machine."""

import gc
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

# Its pytest plugin would import it for the summary at the end; where the collector then frees what is left of a client
# while a module is being parsed, CPython 3.11 ends with a SystemError.
import hypothesis  # noqa: F401
import pytest

from tests.support import AZURITE_ACCOUNT, AZURITE_KEY, azurite_connection_string, free_port, stop, wait_for_port

# What a shell runs in its background ignores Ctrl-C, and so would whatever the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mixes the folders, module by module, by how far each is through its own: testers that run beside each other have
    some tests that work and some that wait at any time, and not first all of the ones and then all of the others."""
    total = Counter(item.path.parent for item in items)
    passed = Counter[Path]()
    places: dict[Path, float] = {}
    for item in items:
        folder = item.path.parent
        passed[folder] += 1
        places[item.path] = passed[folder] / total[folder]
    items.sort(key=lambda item: places[item.path])


def pytest_collection_finish() -> None:
    """Spares the collector what is there to stay: to look through all modules again took a tenth of the time."""
    gc.collect()
    gc.freeze()


_AZURITE = Path(__file__).parent / "node" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"


@pytest.fixture(scope="session")
def azurite() -> Iterator[str]:
    """The connection string of an empty Blob service in memory. Skips without Node.js packages, fails in CI."""
    if not _AZURITE.exists():
        message = "Azurite is not installed: run `make node`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    port = free_port()
    options = "--silent --inMemoryPersistence --skipApiVersionCheck --disableTelemetry --blobHost 127.0.0.1"
    process = subprocess.Popen(
        ["node", str(_AZURITE), *options.split(), "--blobPort", str(port)],
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "AZURITE_ACCOUNTS": f"{AZURITE_ACCOUNT}:{AZURITE_KEY}"},
    )
    try:
        wait_for_port(process, port)
        yield azurite_connection_string(port)
    finally:
        stop(process)
