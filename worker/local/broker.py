"""`worker local broker`: a hub for development, tests and the demo, that the unmodified Event Hubs SDKs can talk to.

What it leaves out: TLS, WebSockets, retention (nothing is removed while it runs), rights within a key, throttling
(except as a fault), geo-replication, publishers' own addresses, schema registry, Kafka. It listens on this machine
only, unless told otherwise.
"""

import asyncio
import errno
import re
import signal
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from worker.local.admin import AdminPort
from worker.local.cbs import TokenCheck
from worker.local.connection import ClientConnection
from worker.local.hubs import Hub, Hubs
from worker.local.injector import Injector
from worker.local.links import unix_ms

MAX_PARTITIONS = 32
_HUB_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,254}[A-Za-z0-9])?")
_MAX_PORT = 65_535
_SHOWN_HUBS = 3
_GOODBYE_SECONDS = 2.0
# Without --key any token passes, so any name and key will do.
_ANY_KEY = ("local", "any")


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """What the command line asks for. Raises ValueError with a sentence where it makes no sense."""

    port: int
    """0 takes a free one."""
    hubs: tuple[str, ...]
    partitions: int
    """Of every hub."""
    data: Path | None = None
    """The folder of the logs, created when missing; None keeps them in memory."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Name -> key. Without any, every token passes."""
    host: str = "127.0.0.1"
    admin_port: int | None = None
    """Where faults are asked for, on this machine; 0 takes a free one, None has no such port."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= _MAX_PORT:
            raise ValueError(f"--port {self.port}: a port is between 1 and {_MAX_PORT}, or 0 for any free one.")
        if self.admin_port is not None and not 0 <= self.admin_port <= _MAX_PORT:
            raise ValueError(f"--admin-port {self.admin_port}: a port is between 1 and {_MAX_PORT}, or 0.")
        if not 1 <= self.partitions <= MAX_PARTITIONS:
            raise ValueError(f"--partitions {self.partitions}: a hub has 1 to {MAX_PARTITIONS} partitions.")
        self._check_hubs()
        if not all(name and key for name, key in self.keys.items()):
            raise ValueError("--key: give NAME=KEY, and neither may be empty.")
        if self.data is not None and self.data.exists() and not self.data.is_dir():
            raise ValueError(f"--data {self.data}: that is a file, and a folder is needed.")

    def _check_hubs(self) -> None:
        if not self.hubs:
            raise ValueError("--hub: name at least one hub.")
        for name in self.hubs:
            if not _HUB_NAME.fullmatch(name):
                raise ValueError(
                    f"--hub {name!r}: a name has 1 to 256 letters, digits, dots, hyphens and underscores, "
                    "and begins and ends with a letter or digit."
                )
        if len({name.casefold() for name in self.hubs}) < len(self.hubs):
            raise ValueError("--hub: two hubs have the same name; upper and lower case are not told apart.")


class Broker:
    """A running broker. `start`, then `aclose`."""

    def __init__(self, options: BrokerOptions) -> None:
        self.port = options.port
        """The one it listens on, once it has started."""
        self._options = options
        self._tokens = TokenCheck(options.keys)
        self._connections: set[ClientConnection] = set()
        self._idle = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._hubs: Hubs | None = None
        self._admin: AdminPort | None = None

    async def start(self) -> None:
        """Opens the logs and listens; raises ValueError with a sentence where that is not possible."""
        hubs = self._hubs = self._open_hubs()
        injector = Injector(hubs, self._connections, unix_ms)
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: ClientConnection(hubs, self._tokens, injector, self._connected, self._disconnected),
                self._options.host,
                self._options.port,
                backlog=1024,
            )
        except OSError as error:
            hubs.close()
            raise ValueError(self._why_not_listening(error)) from None
        self.port = self._server.sockets[0].getsockname()[1]
        if self._options.admin_port is not None:
            self._admin = AdminPort(injector, self._connections)
            try:
                await self._admin.start(self._options.admin_port)
            except ValueError:
                await self.aclose()
                raise

    def _open_hubs(self) -> Hubs:
        folder, partitions = self._options.data, self._options.partitions
        now_ms = unix_ms()
        if folder is None:
            return Hubs([Hub.in_memory(name, partitions, now_ms) for name in self._options.hubs])
        with ExitStack() as opened:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                hubs = []
                for name in self._options.hubs:
                    hubs.append(Hub.on_disk(folder, name, partitions, now_ms))
                    opened.callback(hubs[-1].close)
            except OSError as error:
                raise ValueError(f"--data {folder}: {error.strerror}: {error.filename}.") from None
            opened.pop_all()
        return Hubs(hubs)

    def _why_not_listening(self, error: OSError) -> str:
        where = f"--port {self._options.port}: {self._options.host}:{self._options.port}"
        if error.errno == errno.EADDRINUSE:
            return f"{where} is in use: stop what listens there, or give another port, or 0 for any free one."
        return f"{where} cannot be listened on: {error.strerror}."

    def _connected(self, connection: ClientConnection) -> None:
        self._connections.add(connection)
        if self._server is not None and not self._server.is_serving():  # it was on its way when the door closed
            connection.abort()

    def _disconnected(self, connection: ClientConnection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._idle.set()

    @property
    def consumers(self) -> int:
        """How many consumers are reading."""
        return sum(connection.consumers for connection in self._connections)

    @property
    def admin_url(self) -> str | None:
        """Where faults are asked for; None where there is no admin port."""
        return None if self._admin is None else f"http://127.0.0.1:{self._admin.port}"

    def connection_string(self, hub: str) -> str:
        """What a client connects to this hub with. Holds a key where the broker has any: nothing for a log."""
        name, key = next(iter(self._options.keys.items()), _ANY_KEY)
        return self._connection_string(hub, name, key)

    def _connection_string(self, hub: str, name: str, key: str) -> str:
        return (
            f"Endpoint=sb://{self._options.host}:{self.port};SharedAccessKeyName={name};SharedAccessKey={key};"
            f"UseDevelopmentEmulator=true;EntityPath={hub}"
        )

    def announcement(self) -> str:
        """One line for whoever started the broker: where it listens, and how to connect. Holds no key."""
        name, key = next(((name, "<KEY>") for name in self._options.keys), _ANY_KEY)
        shown = self._options.hubs[:_SHOWN_HUBS]
        strings = " ".join(self._connection_string(hub, name, key) for hub in shown)
        more = len(self._options.hubs) - len(shown)
        rest = f" and {more} more hubs" if more else ""
        admin = "" if self.admin_url is None else f", its admin port is {self.admin_url}"
        return f"The local hub listens on {self._options.host}:{self.port}{admin}: {strings}{rest}"

    async def aclose(self) -> None:
        """Says goodbye to all clients and closes the logs. Safe to call twice, and without `start`."""
        if self._server is not None:
            self._server.close()
        if self._admin is not None:
            await self._admin.aclose()
        self._idle.clear()
        for connection in tuple(self._connections):
            connection.close()
        if self._connections:
            await self._wait_for_goodbyes()
        if self._hubs is not None:
            self._hubs.close()

    async def _wait_for_goodbyes(self) -> None:
        try:
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self._idle.wait()
        except TimeoutError:
            for connection in tuple(self._connections):
                connection.abort()
            await self._idle.wait()


async def serve(options: BrokerOptions) -> None:
    """Runs a broker until SIGTERM or SIGINT; raises ValueError where it cannot start."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    broker = Broker(options)
    await broker.start()
    try:
        sys.stdout.write(broker.announcement() + "\n")
        sys.stdout.flush()
        await stop.wait()
    finally:
        await broker.aclose()


def main(options: BrokerOptions) -> int:
    """Runs a broker until it is told to stop. Returns the exit code."""
    try:
        uvloop.run(serve(options))
    except ValueError as error:
        sys.stderr.write(f"worker local broker: {error}\n")
        return 2
    return 0
