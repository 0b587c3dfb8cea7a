"""Events that come without their subject as partition key are noticed, also where no worker sees two of a subject."""

import asyncio
import zlib
from dataclasses import replace
from itertools import count, cycle
from pathlib import Path

from tests.integration.scene import HUB, PARTITIONS, Scene, scene, traffic
from tests.support import eventually
from worker.connections import hub_address
from worker.local.traffic import TrafficMessage

GAUGE = "worker_subjects_on_several_partitions[]"


async def test_two_workers_notice_that_each_has_a_part_of_the_same_subjects(tmp_path: Path):
    async with scene(tmp_path) as stage:
        workers = [await stage.start_worker(name) for name in ("one", "two")]
        await stage.until_shared("one", "two")
        spread = over(traffic(400, seed=4), await one_partition_of_each(stage))
        sending = asyncio.create_task(stage.send(spread, rate=80))
        await eventually(lambda: noticed_by(stage, "one", "two"), 45)
        await sending
        answers = [await stage.readiness(name) for name in ("one", "two")]
        await stage.family.stop(workers)

    for answer in answers:
        assert answer["ready"]
        assert "several partitions" in answer["notes"]["subjects"]
    for worker in workers:
        (line,) = [
            each
            for each in worker.log.read_text().splitlines()
            if "events of one subject come on several partitions" in each
        ]
        assert "worker subscription" in line


def over(messages: list[TrafficMessage], partitions: list[int]) -> list[TrafficMessage]:
    """The messages in turn on these partitions, whatever their subject."""
    turns = cycle(partitions)
    return [replace(message, partition_key=_key_for(next(turns))) for message in messages]


def _key_for(partition: int) -> str:
    """As `worker local send` chooses partitions."""
    return next(str(key) for key in count() if zlib.crc32(str(key).encode()) % PARTITIONS == partition)


async def one_partition_of_each(stage: Scene) -> list[int]:
    async with stage.store() as store:
        namespace = hub_address(stage.connection_string).namespace
        owned = await store.checkpoints.list_ownership(namespace, HUB, "$Default")
    return list({each["owner_id"]: int(each["partition_id"]) for each in owned if each["owner_id"]}.values())


async def noticed_by(stage: Scene, *names: str) -> bool:
    return all([(await stage.metrics(name)).get(GAUGE, 0) > 0 for name in names])
