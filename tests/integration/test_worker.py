"""The main job on real parts: the unmodified SDK, processes, signals, HTTP, files, SQLite and Blob."""

import asyncio
from pathlib import Path

import pytest

from tests.integration.scene import DRAIN_SECONDS, Scene, scene, traffic
from tests.support import eventually
from worker.events import PartitionId
from worker.local.children import ChildFailed
from worker.local.verdict import Verdict

SEED = 7


def faults(verdict: Verdict) -> dict[str, int]:
    """What must be zero, summed over the sinks."""
    names = ("missing", "unexpected", "out_of_order", "wrongly_late", "doubled_under_another_key")
    return {name: sum(getattr(sink, name) for sink in verdict.sinks) for name in names}


NONE = dict.fromkeys(("missing", "unexpected", "out_of_order", "wrongly_late", "doubled_under_another_key"), 0)


@pytest.fixture(params=["sqlite", "blob"])
def azurite_or_none(request: pytest.FixtureRequest) -> str | None:
    return request.getfixturevalue("azurite") if request.param == "blob" else None


async def test_two_workers_deliver_everything_once_and_in_order(tmp_path: Path, azurite_or_none: str | None):
    messages = traffic(4000, seed=SEED)
    async with scene(tmp_path, azurite_or_none) as stage:
        workers = [await stage.start_worker(name) for name in ("one", "two")]
        await stage.until_shared("one", "two")
        assert [await stage.status("one", path) for path in ("/livez", "/readyz")] == [200, 200]
        await stage.send(messages, rate=2000)
        await stage.until_delivered(messages)
        await _until_checkpoints_have_arrived(stage)
        await stage.family.stop(workers)
        verdict = await stage.verdict(messages)
    assert faults(verdict) == NONE
    assert verdict.malformed == verdict.malformed_kept > 0
    assert [sink.doubled for sink in verdict.sinks] == [0, 0]


async def test_a_killed_worker_loses_nothing_and_order_is_kept(tmp_path: Path):
    messages = traffic(2000, seed=SEED)
    async with scene(tmp_path) as stage:
        victim, survivor = [await stage.start_worker(name) for name in ("victim", "survivor")]
        await stage.until_shared("victim", "survivor")
        sending = asyncio.create_task(stage.send(messages, rate=250))
        await eventually(lambda: stage.records["out"].events > 500, 60)
        victim.kill()
        await sending
        await stage.until_delivered(messages)
        await stage.family.stop([survivor])
        verdict = await stage.verdict(messages)
    assert faults(verdict) == NONE


async def test_a_stopped_worker_exits_0_in_time_and_nothing_accepted_is_delivered_again(tmp_path: Path):
    messages = traffic(2000, seed=SEED)
    async with scene(tmp_path) as stage:
        leaving, staying = [await stage.start_worker(name) for name in ("leaving", "staying")]
        await stage.until_shared("leaving", "staying")
        sending = asyncio.create_task(stage.send(messages, rate=250))
        await eventually(lambda: stage.records["out"].events > 500, 60)
        async with asyncio.timeout(DRAIN_SECONDS + 5):
            await stage.family.stop([leaving])  # raises unless it exits 0
        await sending
        await stage.until_delivered(messages)
        await stage.family.stop([staying])
        verdict = await stage.verdict(messages)
    assert faults(verdict) == NONE
    assert [sink.doubled for sink in verdict.sinks] == [0, 0]


async def test_a_joining_worker_gets_its_share_and_nothing_is_delivered_twice(tmp_path: Path):
    messages = traffic(2000, seed=SEED)
    async with scene(tmp_path) as stage:
        first = await stage.start_worker("first")
        await stage.until_shared("first")
        sending = asyncio.create_task(stage.send(messages, rate=200))
        await eventually(lambda: stage.records["out"].events > 250, 60)
        second = await stage.start_worker("second")
        await stage.until_shared("first", "second")
        await sending
        await stage.until_delivered(messages)
        await stage.family.stop([first, second])
        verdict = await stage.verdict(messages)
    assert faults(verdict) == NONE
    assert [sink.doubled for sink in verdict.sinks] == [0, 0]


async def test_a_worker_whose_destination_never_answers_stops_in_time_and_another_goes_on(tmp_path: Path):
    messages = traffic(300, seed=SEED)
    async with scene(tmp_path) as stage:
        answering = stage.url
        connected = asyncio.Event()

        async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connected.set()
            await reader.read()
            writer.close()

        silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
        stage.url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}/events"
        stuck = await stage.start_worker("stuck")
        await stage.until_shared("stuck")
        await stage.send(messages)
        async with asyncio.timeout(30):
            await connected.wait()
        async with asyncio.timeout(DRAIN_SECONDS + 5):
            await stage.family.stop([stuck])
        silent.close()
        stage.url = answering
        await stage.start_worker("next")
        await stage.until_delivered(messages)
        verdict = await stage.verdict(messages)
    assert faults(verdict) == NONE
    assert [sink.doubled for sink in verdict.sinks] == [0, 0]


async def test_a_state_written_by_a_newer_version_ends_the_worker_with_a_sentence(tmp_path: Path):
    async def until_it_ends() -> None:
        async with scene(tmp_path) as stage:
            async with stage.store() as store:
                await store.write_state(PartitionId("0"), b'{"format": 4}', expected=None)
            await stage.start_worker("old")
            await asyncio.Event().wait()

    with pytest.raises(ChildFailed, match="exit code 1") as failure:
        await until_it_ends()
    assert "has format 4" in str(failure.value)
    assert "Traceback" not in str(failure.value)


async def test_without_a_hub_the_worker_says_so_tries_again_and_stops_when_asked(tmp_path: Path):
    async with scene(tmp_path) as stage:
        listening, free = stage.connection_string, "127.0.0.1:1;"
        address = listening[listening.index("127.0.0.1") : listening.index(";") + 1]
        stage.connection_string = listening.replace(address, free)
        worker = await stage.start_worker("one")
        await eventually(lambda: "cannot be reached" in worker.log.read_text(), 20)
        await stage.family.stop([worker])
        text = worker.log.read_text()
    assert "127.0.0.1:1" in text
    assert "Traceback" not in text


async def test_without_its_store_the_worker_says_so_and_stops_when_asked(tmp_path: Path):
    async with scene(tmp_path, _nobody_listens()) as stage:
        worker = await stage.start_worker("one")
        await eventually(lambda: "not ready yet" in worker.log.read_text(), 30)
        await stage.family.stop([worker])
        text = worker.log.read_text()
    assert "Traceback" not in text
    assert "AccountKey" not in text


async def test_an_unknown_hub_is_named(tmp_path: Path):
    async with scene(tmp_path) as stage:
        stage.connection_string = stage.connection_string.replace("EntityPath=ml-events", "")
        worker = await stage.start_worker("one", source={"hub": "no-such-hub"})
        await eventually(lambda: "no-such-hub" in worker.log.read_text(), 20)
        await stage.family.stop([worker])
    assert "Traceback" not in worker.log.read_text()


async def _until_checkpoints_have_arrived(stage: Scene) -> None:
    """The checkpoints come to stand at the end of every partition: nothing holds them back."""

    async def lag() -> float:
        samples = [await stage.metrics(name) for name in ("one", "two")]
        return sum(value for each in samples for name, value in each.items() if name.startswith("worker_lag_events"))

    async def arrived() -> bool:
        return await lag() == 0

    await eventually(arrived, 20)


def _nobody_listens() -> str:
    return (
        "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=bm9ib2R5;"
        "BlobEndpoint=http://127.0.0.1:1/devstoreaccount1;"
    )
