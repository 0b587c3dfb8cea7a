"""How `worker run` ends, and what a locked store does to it: signals, exit codes, processes."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.scene import HUB, Scene, scene, traffic
from tests.support import eventually
from worker.local.chaos import Faults
from worker.local.children import Child, ChildFailed

SEED = 7
LOCKED_SECONDS = 10
"""Longer than the ownership's expiry, 6 s in these scenes, and then some."""


async def never_answers(stage: Scene) -> tuple[asyncio.Server, asyncio.Event]:
    """A destination that takes connections and says nothing; the event tells of the first."""
    connected = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    stage.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/events"
    return server, connected


async def test_a_second_signal_ends_the_process_at_once_with_exit_code_1(tmp_path: Path):
    async with scene(tmp_path) as stage:
        server, connected = await never_answers(stage)
        worker = await stage.start_worker("stuck", limits={"drain_seconds": 60})
        await stage.until_shared("stuck")
        await stage.send(traffic(100, seed=SEED))
        async with asyncio.timeout(30):
            await connected.wait()
        worker.terminate()
        await eventually(lambda: "stopping" in worker.log.read_text())
        worker.terminate()
        async with asyncio.timeout(3):
            assert await worker.ended() == 1
        server.close()
        assert "may be delivered again" in worker.log.read_text()


async def test_the_watchdog_ends_the_process_with_exit_code_3(tmp_path: Path, start_broker):
    broker = await start_broker(hubs=(HUB,), partitions=1, admin_port=0)

    async def until_it_ends() -> None:
        async with scene(tmp_path) as stage, Faults(broker.admin_url) as faults:
            stage.connection_string = broker.connection_string(HUB)
            await stage.send(traffic(10, seed=SEED))
            await faults.make("ignore", on="attach", link="receiver")
            await stage.start_worker("blind", source={"stall_seconds": 1})
            await asyncio.Event().wait()

    with pytest.raises(ChildFailed, match="exit code 3") as failure:
        async with asyncio.timeout(90):
            await until_it_ends()
    assert "has not helped" in str(failure.value)
    assert "Traceback" not in str(failure.value)


async def test_a_store_that_is_locked_for_longer_than_the_expiry_stops_no_delivery_and_moves_no_partition(
    tmp_path: Path,
):
    messages = traffic(1500, seed=SEED, malformed=0)
    async with scene(tmp_path) as stage:
        workers = [await stage.start_worker(name) for name in ("one", "two")]
        await stage.until_shared("one", "two")
        sending = asyncio.create_task(stage.send(messages, rate=100))
        await eventually(lambda: stage.records["out"].events > 100, 30)
        before_the_lock = _taken(workers)
        with closing(sqlite3.connect(tmp_path / "worker.db", isolation_level=None)) as outside:
            outside.execute("BEGIN EXCLUSIVE")
            before = stage.records["out"].events
            until = asyncio.get_running_loop().time() + LOCKED_SECONDS
            await eventually(lambda: asyncio.get_running_loop().time() > until, 2 * LOCKED_SECONDS)
            during = stage.records["out"].events - before
            outside.execute("ROLLBACK")
        assert during > 60 * LOCKED_SECONDS, "events came at 100 a second, and went"
        await sending
        await stage.until_delivered(messages)
        assert [await stage.owned(name) for name in ("one", "two")] == [2, 2]
        await _until_nothing_lags(stage)
        await stage.family.stop(workers)
        verdict = await stage.verdict(messages)
        assert _taken(workers) == before_the_lock
    assert [(sink.missing, sink.out_of_order, sink.doubled) for sink in verdict.sinks] == [(0, 0, 0)] * 2


def _taken(workers: list[Child]) -> int:
    """How often a partition was taken so far."""
    return sum(worker.log.read_text().count("partition taken") for worker in workers)


async def _until_nothing_lags(stage: Scene) -> None:
    async def caught_up() -> bool:
        samples = [await stage.metrics(name) for name in ("one", "two")]
        return not sum(value for each in samples for name, value in each.items() if "lag_events" in name)

    await eventually(caught_up, 30)
