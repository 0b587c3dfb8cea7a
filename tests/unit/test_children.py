"""The demo's children: none is left, however the demo ends, and one that dies is not overlooked."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.support import eventually
from worker.errors import WorkerError
from worker.local.children import ChildFailed, Children, children


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def state_of(pid: int) -> str:
    """As the kernel tells it; T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def broker(*more: str) -> tuple[str, ...]:
    return ("local", "broker", "--port", "0", "--hub", "a", "--partitions", "1", *more)


async def start_hub(family: Children) -> int:
    """Its process id, once it is up."""
    child = await family.start("hub", *broker(), speaks=True)
    await child.first_line(timeout_seconds=30)
    return child.pid


async def test_a_child_that_speaks_gives_its_first_line_and_stops_when_asked(tmp_path):
    async with children(tmp_path) as family:
        child = await family.start("hub", *broker(), speaks=True)
        assert "Endpoint=" in await child.first_line(timeout_seconds=30)
        await family.stop([child])
        assert not is_running(child.pid)


async def test_a_child_that_ends_by_itself_ends_the_block_with_the_last_lines_of_its_log(tmp_path):
    async def work():
        async with children(tmp_path) as family:
            await family.start("hub", *broker("--partitions", "33"))
            await asyncio.Event().wait()

    with pytest.raises(ChildFailed, match=r"(?s)hub ended by itself with exit code 2.*hub\.log.*partitions"):
        await work()


async def test_when_one_child_dies_the_others_are_stopped(tmp_path):
    pids = []

    async def work():
        async with children(tmp_path) as family:
            pids.append(await start_hub(family))
            await family.start("second", "no such command")
            await asyncio.Event().wait()

    with pytest.raises(ChildFailed, match="second"):
        await work()
    assert not is_running(*pids)


async def test_an_error_in_the_block_stops_the_children_and_comes_out_as_it_is(tmp_path):
    class Oops(WorkerError):
        pass

    pids = []

    async def work():
        async with children(tmp_path) as family:
            pids.append(await start_hub(family))
            raise Oops

    with pytest.raises(Oops):
        await work()
    assert not is_running(*pids)


async def test_cancelling_the_block_stops_the_children(tmp_path):
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def work():
        async with children(tmp_path) as family:
            started.set_result(await start_hub(family))
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    pid = await started
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not is_running(pid)


async def test_stopping_a_child_that_exits_with_an_error_is_a_failure(tmp_path):
    async def work():
        async with children(tmp_path) as family:
            # Asked before Python has set up its handling of SIGTERM, so the signal itself ends the process.
            await family.stop([await family.start("hub", *broker())])

    with pytest.raises(ChildFailed, match="was asked to stop and ended with exit code"):
        await work()


async def test_a_child_that_is_crashed_on_purpose_starts_again_and_its_log_goes_on(tmp_path):
    async with children(tmp_path) as family:
        child = await family.start("hub", *broker(), speaks=True)
        await child.first_line(timeout_seconds=30)
        first = child.pid
        await child.crash()
        assert not is_running(first)
        await child.restart()
        assert "Endpoint=" in await child.first_line(timeout_seconds=30)
        assert child.pid != first
        await family.stop([child])


async def test_a_child_that_ends_by_itself_after_a_restart_is_not_overlooked(tmp_path):
    async def work():
        async with children(tmp_path) as family:
            child = await family.start("hub", *broker(), speaks=True)
            await child.first_line(timeout_seconds=30)
            await child.crash()
            await child.restart()
            os.kill(child.pid, signal.SIGKILL)
            await asyncio.Event().wait()

    with pytest.raises(ChildFailed, match="hub ended by itself with exit code -9"):
        await work()


async def test_a_suspended_child_does_nothing_until_it_is_resumed(tmp_path):
    async with children(tmp_path) as family:
        child = await family.start("hub", *broker(), speaks=True)
        await child.first_line(timeout_seconds=30)
        child.suspend()
        await eventually(lambda: state_of(child.pid) == "T")
        child.resume()
        await eventually(lambda: state_of(child.pid) != "T")
        await family.stop([child])


async def test_a_suspended_child_can_be_stopped(tmp_path):
    async with children(tmp_path) as family:
        child = await family.start("hub", *broker(), speaks=True)
        await child.first_line(timeout_seconds=30)
        child.suspend()
        await family.stop([child])
        assert not is_running(child.pid)
