"""A hub that is fed without partition keys becomes one whose order can be trusted: two workers, one after the other."""

import asyncio
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.integration.eventhub import reading
from tests.integration.scene import PARTITIONS, Scene, scene, traffic
from tests.support import eventually
from worker.local.traffic import TrafficMessage

ORDERED = "ordered"
FORWARDING: dict[str, Any] = {
    "sinks": [{"name": "ordered", "kind": "eventhub", "connection_string_env": "ORDERED", "hub": ORDERED}],
    "routes": [{"name": "everything", "sinks": ["ordered"]}],
}
AS_THEY_COME = {"window_seconds": 0}
"""The first worker has no order to make: it sees a part of each subject only."""


def without_keys(messages: list[TrafficMessage]) -> list[TrafficMessage]:
    """The events of one subject on all partitions, as Event Grid sends them where it is not told otherwise."""
    return [replace(message, partition_key=str(number)) for number, message in enumerate(messages)]


async def test_what_came_without_keys_arrives_once_and_in_order_behind_the_second_hub_also_after_a_crash(
    tmp_path: Path,
):
    messages = without_keys(traffic(1200, seed=11))
    async with scene(tmp_path, hubs=[ORDERED]) as stage:
        plain = stage.connection_string.partition(";EntityPath=")[0]
        stage.connection_string = plain
        stage.environment = {"ORDERED": f"{plain};EntityPath={ORDERED}"}
        behind = await stage.start_worker("behind", source={"hub": ORDERED}, order={"window_seconds": 2})
        stage.routing = FORWARDING
        victim = await stage.start_worker("victim", order=AS_THEY_COME)
        await stage.until_shared("behind")
        await stage.until_shared("victim")
        sending = asyncio.create_task(stage.send(messages, rate=300))
        await eventually(lambda: stage.records["out"].events > 200, 60)
        victim.kill()
        survivor = await stage.start_worker("survivor", order=AS_THEY_COME)
        await sending
        await stage.until_delivered(messages)
        partitions = await _partitions_of_subjects(stage, messages)
        notes = (await stage.readiness("behind"))["notes"]
        await stage.family.stop([survivor, behind])
        verdict = await stage.verdict(messages)

    assert "subjects" not in notes, "each subject has its partition"
    assert {len(each) for each in partitions.values()} == {1}
    assert len({each for used in partitions.values() for each in used}) == PARTITIONS
    for sink in verdict.sinks:
        assert (sink.missing, sink.unexpected, sink.out_of_order, sink.wrongly_late) == (0, 0, 0, 0)
        assert sink.doubled == 0, "the second worker knows again what the first one sent twice"
        assert sink.late < sink.delivered / 2, "late are only those that waited for the victim's partitions"
    assert verdict.malformed == verdict.malformed_kept > 0


async def _partitions_of_subjects(stage: Scene, messages: list[TrafficMessage]) -> dict[str, set[str]]:
    wanted = {event.id for message in messages for event in message.events}
    partitions = defaultdict(set)
    connection_string = stage.environment["ORDERED"]
    async with reading(connection_string, partition=None, group="check") as seen:
        await eventually(lambda: wanted <= {event.body_as_json()["id"] for event in seen.events}, 30)
        for context, event in zip(seen.contexts, seen.events, strict=True):
            partitions[event.body_as_json()["subject"]].add(context.partition_id)
    return partitions
