import asyncio
import errno
import os
import stat
from pathlib import Path

import orjson
import pytest

from tests.deliveries import ELEMENT, delivery_of
from worker.errors import Misconfigured, SinkUnavailable
from worker.sinks.cloudevents import structured
from worker.sinks.file import FileSettings, FileSink


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "deep" / "er" / "out.jsonl"


@pytest.fixture
async def deliver(path):
    """Delivers to a sink on `path`."""
    sink = FileSink(FileSettings(name="out", path=path))
    await sink.open()
    yield sink.deliver
    await sink.aclose()


async def test_a_line_is_the_cloud_event_with_its_idempotency_key(path, deliver):
    delivery = delivery_of(late_by_ms=5)
    await deliver(delivery)

    text = path.read_bytes()
    assert text.endswith(b"\n")
    assert orjson.loads(text) == structured(delivery) | {"idempotencykey": delivery.idempotency_key}
    assert orjson.loads(text)["lateby"] == 5


async def test_the_path_is_relative_to_the_folder_of_the_configuration(tmp_path):
    settings = FileSettings.model_validate({"name": "out", "path": "a.jsonl"}, context={"folder": tmp_path})

    assert settings.path == tmp_path / "a.jsonl"


async def test_the_file_is_not_for_everyone_to_read(path, deliver):
    await deliver(delivery_of())

    assert stat.S_IMODE(path.stat().st_mode) & stat.S_IRWXO == 0


async def test_what_stands_in_the_file_already_stays(path, deliver):
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"old":1}\n')
    await deliver(delivery_of())

    assert [orjson.loads(line).get("id") for line in path.read_bytes().splitlines()] == [None, "e1"]


async def test_half_a_line_left_by_a_crash_does_not_spoil_the_next(path, deliver):
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"half":')
    await deliver(delivery_of())
    await deliver(delivery_of(ELEMENT | {"id": "e2"}))

    half, *whole = path.read_bytes().splitlines()
    assert half == b'{"half":'
    assert [orjson.loads(line)["id"] for line in whole] == ["e1", "e2"]


async def test_a_file_that_was_rotated_away_is_made_anew(path, deliver):
    await deliver(delivery_of())
    path.rename(path.with_suffix(".1"))
    await deliver(delivery_of(ELEMENT | {"id": "e2"}))

    assert orjson.loads(path.read_bytes())["id"] == "e2"


async def test_several_writers_share_a_file_line_by_line(path):
    sinks = [FileSink(FileSettings(name=f"s{n}", path=path)) for n in range(4)]
    for sink in sinks:
        await sink.open()
    async with asyncio.TaskGroup() as group:
        for n in range(200):
            element = ELEMENT | {"id": f"e{n}", "data": "y" * (n * 100)}
            group.create_task(sinks[n % 4].deliver(delivery_of(element)))
    for sink in sinks:
        await sink.aclose()

    assert {orjson.loads(line)["id"] for line in path.read_bytes().splitlines()} == {f"e{n}" for n in range(200)}


async def test_lines_stand_in_the_order_in_which_they_were_handed_over(path, deliver):
    async with asyncio.TaskGroup() as group:
        for n in range(100):
            group.create_task(deliver(delivery_of(ELEMENT | {"id": str(n)})))

    assert [orjson.loads(line)["id"] for line in path.read_bytes().splitlines()] == [str(n) for n in range(100)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
async def test_a_full_disk_is_tried_again_later():
    sink = FileSink(FileSettings(name="out", path=Path("/dev/full")))
    await sink.open()
    with pytest.raises(SinkUnavailable, match="sink out: cannot append to /dev/full: No space left"):
        await sink.deliver(delivery_of())
    await sink.aclose()


async def test_a_path_that_cannot_be_written_is_the_operators_mistake(path, deliver):
    path.mkdir(parents=True)

    with pytest.raises(Misconfigured, match=f"sink out: cannot append to {path}: Is a directory"):
        await deliver(delivery_of())


async def test_a_folder_that_cannot_be_made_is_the_operators_mistake(path, deliver):
    path.parents[1].write_text("a file where the folder belongs")

    with pytest.raises(Misconfigured, match="Not a directory"):
        await deliver(delivery_of())


async def test_a_write_cut_short_is_an_attempt_that_failed(path, deliver, monkeypatch):
    whole = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: whole(descriptor, line[:10]))
    with pytest.raises(SinkUnavailable, match="only 10 of"):
        await deliver(delivery_of())
    monkeypatch.undo()
    await deliver(delivery_of())

    assert orjson.loads(path.read_bytes().splitlines()[-1])["id"] == "e1"


async def test_with_fsync_an_accepted_line_is_on_the_disk_first(path, monkeypatch):
    def broken(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    sink = FileSink(FileSettings(name="out", path=path, fsync=True))
    await sink.open()
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(SinkUnavailable, match="Input/output error"):
        await sink.deliver(delivery_of())
    await sink.aclose()


async def test_a_disk_that_hangs_ends_the_attempt(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    sink = FileSink(FileSettings(name="out", path=pipe, timeout_seconds=0.05))
    await sink.open()
    try:
        with pytest.raises(SinkUnavailable, match=r"took no line within 0\.05 s"):
            await sink.deliver(delivery_of(ELEMENT | {"data": "z" * 200_000}))  # more than a pipe holds
    finally:
        os.set_blocking(reader, True)
        drain = asyncio.create_task(asyncio.to_thread(read_to_the_end, reader))
        await sink.aclose()
        await drain


def read_to_the_end(descriptor: int) -> None:
    while os.read(descriptor, 65536):
        pass
    os.close(descriptor)
