"""The store away for minutes while events flow: deliveries go on, nothing is lost, and the checkpoint catches up."""

import asyncio
from contextlib import suppress
from dataclasses import replace

from tests.pipeline.stage import PARTITION, SCOPE, Stage, blob_event, message
from tests.virtual_time import run, settle_down
from worker.errors import StoreUnavailable
from worker.lease import Leases
from worker.link import Link

INTERVAL, EXPIRY, OUTAGE = 2.0, 20.0, 300.0


class Owner:
    """What the SDK does for a process with one partition: renews each interval, and keeps a link."""

    def __init__(self, stage: Stage) -> None:
        clock = asyncio.get_running_loop().time
        self.leases = Leases(stage.store, balance_seconds=INTERVAL, expiry_seconds=EXPIRY, clock=clock, wall=clock)
        link = object()
        self.leases.connected(lambda _: Link(link, clock()))
        names = ("fully_qualified_namespace", "eventhub_name", "consumer_group")
        self._wanted = {**dict(zip(names, SCOPE, strict=True)), "partition_id": PARTITION, "owner_id": "me"}

    async def run(self) -> None:
        mine = [self._wanted]
        while True:
            with suppress(StoreUnavailable):
                mine = list(await self.leases.claim_ownership(mine))
            self.leases.heard(PARTITION)
            await asyncio.sleep(INTERVAL)


async def owned_stage(**settings) -> tuple[Stage, Owner]:
    """A process whose deliveries depend on its lease."""
    stage = Stage(window=0, **settings)
    owner = Owner(stage)
    stage.parts = replace(stage.parts, lease_valid=owner.leases.valid)
    stage.running.append(asyncio.create_task(owner.run()))
    await asyncio.sleep(2 * INTERVAL)
    return stage, owner


def test_events_are_delivered_all_through_an_outage_and_the_checkpoint_catches_up():
    async def scene():
        stage, _ = await owned_stage()
        async with stage.open():
            claim = await stage.begin()
            stage.store.down = True
            for number in range(int(OUTAGE)):
                await stage.play(claim, message(number, blob_event("a", number)))
                await asyncio.sleep(1)
            assert len(stage.sinks["out"].ids) == OUTAGE
            assert PARTITION not in stage.store.contents.checkpoints
            stage.store.down = False
            await asyncio.sleep(60)
            assert await stage.checkpoint() == OUTAGE - 1
            state = await stage.state()
            assert state.watermark is not None
            assert state.watermark.sequence_number == OUTAGE - 1
            await stage.end(claim)
        assert stage.sinks["out"].ids == [f"a-{number}" for number in range(int(OUTAGE))]

    run(scene())


def test_what_can_only_become_a_dead_letter_waits_for_the_store_and_holds_the_checkpoint():
    async def scene():
        stage, _ = await owned_stage(limits={"in_flight": 10})
        async with stage.open():
            claim = await stage.begin()
            stage.store.down = True
            await stage.play(claim, *[message(number, body=b"not json") for number in range(10)])
            await stage.play(claim, message(10, blob_event("a", 1)), message(11, blob_event("a", 2)))
            await asyncio.sleep(OUTAGE)
            assert stage.sinks["out"].ids == [], "the partition is full: reading waits"
            stage.store.down = False
            await asyncio.sleep(60)
            assert stage.sinks["out"].ids == ["a-1", "a-2"]
            assert len(await stage.dead_letters()) == 10
            assert await stage.checkpoint() == 11
            await stage.end(claim)

    run(scene())


def test_without_a_link_no_delivery_starts_once_the_lease_is_over_and_all_go_when_the_store_is_back():
    async def scene():
        stage, owner = await owned_stage()
        async with stage.open():
            claim = await stage.begin()
            stage.store.down = True
            owner.leases.connected(lambda _: None)
            await asyncio.sleep(EXPIRY)
            await stage.play(claim, message(1, blob_event("a", 1)))
            await asyncio.sleep(60)
            assert stage.sinks["out"].attempts == []
            stage.store.down = False
            await asyncio.sleep(60)
            assert stage.sinks["out"].ids == ["a-1"]
            await settle_down()
            await stage.end(claim)

    run(scene())
