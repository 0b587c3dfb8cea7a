"""An Azurite, Microsoft's stand-in for Blob storage, as a process to start: who starts it waits for it and ends it."""

import base64
import os
import socket
from pathlib import Path
from typing import NamedTuple, Self

HOST = "127.0.0.1"
_PROGRAM = Path(__file__).parent.parent / "tests/node/node_modules/azurite/dist/src/blob/main.js"
_ACCOUNT = "devstoreaccount1"
_OPTIONS = ("--silent", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry")


class Azurite(NamedTuple):
    """An empty Blob service in memory, with a key of its own."""

    port: int
    command: tuple[str, ...]
    environment: dict[str, str]
    connection_string: str

    @classmethod
    def new(cls) -> Self:
        """On a free port."""
        port, key = free_port(), base64.b64encode(os.urandom(32)).decode()
        endpoint = f"http://{HOST}:{port}/{_ACCOUNT}"
        return cls(
            port,
            ("node", str(_PROGRAM), *_OPTIONS, "--blobHost", HOST, "--blobPort", str(port)),
            {"AZURITE_ACCOUNTS": f"{_ACCOUNT}:{key}"},
            f"DefaultEndpointsProtocol=http;AccountName={_ACCOUNT};AccountKey={key};BlobEndpoint={endpoint};",
        )

    @staticmethod
    def is_installed() -> bool:
        """Whether `make node` was run."""
        return _PROGRAM.exists()


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
