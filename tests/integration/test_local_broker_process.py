"""The local hub as a process and as a TCP server: starting, stopping, being killed, strange clients."""

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys

import pytest
from azure.eventhub import EventData
from azure.eventhub.exceptions import EventHubError
from proton import Connection, Transport

from tests.integration.eventhub import read, send
from tests.support import eventually
from worker.local.broker import Broker, BrokerOptions, main

PROGRAM = """
import sys
from pathlib import Path
from worker.local.broker import BrokerOptions, main
port, data, *hubs = sys.argv[1:]
sys.exit(main(BrokerOptions(int(port), tuple(hubs), 2, Path(data))))
"""


@pytest.fixture
def start_process(tmp_path):
    processes = []

    def start(port: int = 0, hubs: tuple[str, ...] = ("hub",)) -> tuple[subprocess.Popen, str]:
        command = [sys.executable, "-c", PROGRAM, str(port), str(tmp_path / "data"), *hubs]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        return process, process.stdout.readline()

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def connection_string_in(announcement: str) -> str:
    return next(word for word in announcement.split() if word.startswith("Endpoint="))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_stops_when_told(start_process, number):
    process, announcement = start_process()
    assert "UseDevelopmentEmulator=true;EntityPath=hub" in announcement
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (0, "", "")


def test_of_many_hubs_the_first_few_are_announced(start_process):
    _, announcement = start_process(hubs=tuple(f"hub-{number}" for number in range(10)))
    assert announcement.count("Endpoint=") == 3
    assert announcement.endswith("and 7 more hubs\n")


async def test_what_was_accepted_survives_a_kill(start_process):
    process, announcement = start_process()
    await send(connection_string_in(announcement), EventData("kept"), partition_id="0")
    process.kill()
    process.communicate()
    _, announcement = start_process()
    [event] = await read(connection_string_in(announcement), 1)
    assert event.body_as_str() == "kept"


def test_a_port_in_use_is_one_line_and_exit_code_2(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(BrokerOptions(port, ("hub",), 1)) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"--port {port}: 127.0.0.1:{port} is in use" in line


def test_a_data_folder_that_cannot_be_made_is_one_line_and_exit_code_2(capsys, tmp_path):
    (tmp_path / "file").touch()
    assert main(BrokerOptions(0, ("hub",), 1, tmp_path / "file" / "data")) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "--data" in line
    assert "Not a directory" in line


async def test_a_full_disk_refuses_the_event_and_says_why(start_broker, tmp_path, monkeypatch):
    broker = await start_broker(data=tmp_path)

    def full(*_arguments) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("worker.local.log.os.write", full)
    with pytest.raises(EventHubError, match="The log cannot be written: No space left on device"):
        await send(broker.connection_string("hub"), EventData("lost"), partition_id="0")
    monkeypatch.undo()
    await send(broker.connection_string("hub"), EventData("kept"), partition_id="0")
    [event] = await read(broker.connection_string("hub"), 1)
    assert (event.body_as_str(), event.sequence_number) == ("kept", 0)


async def test_closing_twice_or_before_starting_is_harmless():
    broker = Broker(BrokerOptions(0, ("hub",), 1))
    await broker.aclose()
    await broker.start()
    await broker.aclose()
    await broker.aclose()


async def test_a_port_is_free_again_after_closing(start_broker):
    first = await start_broker()
    await first.aclose()
    assert (await start_broker(port=first.port)).port == first.port


@pytest.mark.parametrize(
    "noise", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"GET / HTTP/1.1\r\n\r\n", b"AMQP\x00\x01\x00\x00" * 2]
)
async def test_a_client_that_speaks_something_else_is_hung_up_on(broker, noise):
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.port)
    writer.write(noise)
    async with asyncio.timeout(10):
        await reader.read()
    writer.close()
    await send(broker.connection_string("hub"), EventData("still there"), partition_id="0")


async def test_a_quiet_connection_is_kept_alive_with_empty_frames(broker):
    """A client that tolerates 200 ms of silence hears something within them, and stays connected."""
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.port)
    transport, connection = Transport(), Connection()
    transport.idle_timeout = 0.4  # Proton tells half of it.
    transport.bind(connection)
    connection.open()
    beats = 0
    async with asyncio.timeout(20):
        while beats < 3:
            while (pending := transport.pending()) > 0:
                writer.write(bytes(transport.peek(pending)))
                transport.pop(pending)
            data = await reader.read(65_536)
            assert data, "the broker hung up"
            beats += data.count(b"\x00\x00\x00\x08\x02\x00\x00\x00")
            transport.push(data)
    writer.close()


async def test_consumers_are_counted_until_they_leave(broker):
    await send(broker.connection_string("hub"), EventData("x"), partition_id="0")
    await read(broker.connection_string("hub"), 1)
    await eventually(lambda: broker.consumers == 0)
