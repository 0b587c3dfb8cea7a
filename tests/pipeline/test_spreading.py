"""Events of one subject on several partitions are noticed, whoever owns those, in virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from structlog.testing import capture_logs

from tests.fakes import FakeSink
from tests.memory_store import MemoryStore
from tests.pipeline.stage import PARTITION, Stage, blob_event, message
from tests.virtual_time import run
from worker.claim import Claim
from worker.events import Message, PartitionId
from worker.spread import Spread

OTHER = PartitionId("3")
NOTE = {"subjects": "events of one subject come on several partitions: there is no order among them"}
WARNING = "events of one subject come on several partitions"
COMPARED = 15.0
"""Seconds after which each process has stored its samples and read the others'."""
TEN_MINUTES = 600.0


@asynccontextmanager
async def process(
    store: MemoryStore, *partitions: PartitionId, window: float = 1
) -> AsyncIterator[tuple[Stage, list[Claim]]]:
    """One process that owns these partitions and compares samples."""
    stage = Stage({"out": FakeSink()}, store=store, window=window)
    async with stage.open():
        claims = [Claim(partition, f"{partition} of {id(stage)}", stage.parts) for partition in partitions]
        stage.running += [asyncio.create_task(claim.run()) for claim in claims]
        while any(claim.tenure is None for claim in claims):
            await asyncio.sleep(0.05)
        owned = [claim for claim in claims if claim.held]
        spread = Spread(store, lambda: owned, metrics=stage.metrics, health=stage.parts.health)
        comparing = asyncio.create_task(spread.run())
        try:
            yield stage, claims
        finally:
            comparing.cancel()
            with suppress(asyncio.CancelledError):
                await comparing
            for claim in claims:
                await stage.end(claim)


def on(partition: PartitionId, number: int, subject: str, at: float, *, keyed: bool = False) -> Message:
    event = blob_event(subject, number, event_id=f"{partition}/{number}")
    return replace(message(number, event, at=at), partition=partition, keyed=keyed)


def spread_subjects(stage: Stage) -> float:
    return stage.count("worker_subjects_on_several_partitions")


def said(log: list[Any]) -> list[dict[str, Any]]:
    return [{**line} for line in log if line["event"] == WARNING]


async def _here_and_there(
    here: tuple[Stage, Claim], there: tuple[Stage, Claim], *, subject: str = "run", keyed: bool = False
) -> None:
    """A subject on one partition, then on the other, and on the first again."""
    await here[0].play(here[1], on(here[1].partition, 1, subject, 0, keyed=keyed))
    await there[0].play(there[1], on(there[1].partition, 1, subject, 10, keyed=keyed))
    await here[0].play(here[1], on(here[1].partition, 2, subject, 20, keyed=keyed))


def test_a_subject_on_two_partitions_of_one_process_is_said_once_with_what_to_do():
    async def play() -> None:
        async with process(MemoryStore(), PARTITION, OTHER) as (stage, (one, other)):
            with capture_logs() as log:
                await _here_and_there((stage, one), (stage, other))
                await asyncio.sleep(TEN_MINUTES)

            assert spread_subjects(stage) == 1
            assert stage.parts.health.notes() == NOTE
            (line,) = said(log)
            assert (line["subject"], line["partitions"]) == ("run", ["0", "3"])
            assert line["partition_key"] == "there is none"
            assert "worker subscription" in line["advice"]
            assert "docs/sinks/eventhub.md" in line["advice"]

    run(play())


def test_a_subject_on_partitions_of_two_processes_is_noticed_by_both():
    async def play() -> None:
        store = MemoryStore()
        async with process(store, PARTITION) as (stage, (one,)), process(store, OTHER) as (second, (other,)):
            await _here_and_there((stage, one), (second, other))
            await asyncio.sleep(COMPARED)

            for each in (stage, second):
                assert spread_subjects(each) == 1
                assert each.parts.health.notes() == NOTE

    run(play())


def test_a_process_says_what_concerns_its_partitions_only():
    async def play() -> None:
        store = MemoryStore()
        elsewhere = PartitionId("7")
        async with (
            process(store, PARTITION, OTHER) as (stage, (one, other)),
            process(store, elsewhere) as (second, (third,)),
        ):
            await _here_and_there((stage, one), (stage, other))
            await second.play(third, on(elsewhere, 1, "another", 0))
            await asyncio.sleep(COMPARED)
            assert (spread_subjects(stage), spread_subjects(second)) == (1, 0)

            await second.play(third, on(elsewhere, 2, "run", 5))
            await asyncio.sleep(2 * COMPARED)
            assert (spread_subjects(stage), spread_subjects(second)) == (1, 1)

    run(play())


def test_where_there_is_a_key_the_subscription_is_not_blamed():
    async def play() -> None:
        async with process(MemoryStore(), PARTITION, OTHER) as (stage, (one, other)):
            with capture_logs() as log:
                await _here_and_there((stage, one), (stage, other), keyed=True)
                await asyncio.sleep(COMPARED)

            (line,) = said(log)
            assert line["partition_key"] == "there is one"
            assert line["advice"] == "make a second hub whose partitions go by subject: docs/sinks/eventhub.md"

    run(play())


def test_subjects_that_keep_their_partitions_are_no_news():
    async def play() -> None:
        store = MemoryStore()
        async with process(store, PARTITION) as (stage, (one,)), process(store, OTHER) as (second, (other,)):
            with capture_logs() as log:
                for number in range(1, 5):
                    await stage.play(one, on(PARTITION, number, "a", number * 10))
                    await second.play(other, on(OTHER, number, "b", number * 10))
                await asyncio.sleep(TEN_MINUTES)

            assert said(log) == []
            assert spread_subjects(stage) == spread_subjects(second) == 0
            assert stage.parts.health.notes() == {}

    run(play())


def test_an_hour_after_the_repair_it_is_said_no_more_and_when_it_comes_again_it_is_said_again():
    async def play() -> None:
        async with process(MemoryStore(), PARTITION, OTHER) as (stage, (one, other)):
            with capture_logs() as log:
                await _here_and_there((stage, one), (stage, other))
                await asyncio.sleep(COMPARED)
                await stage.play(one, on(PARTITION, 3, "run", 4000))
                await asyncio.sleep(TEN_MINUTES)
                assert (spread_subjects(stage), stage.parts.health.notes()) == (0, {})

                await stage.play(other, on(OTHER, 2, "run", 4010))
                await stage.play(one, on(PARTITION, 4, "run", 4020))
                await asyncio.sleep(TEN_MINUTES)
            assert spread_subjects(stage) == 1
            assert len(said(log)) == 2

    run(play())


def test_a_hub_of_one_partition_costs_the_store_nothing():
    async def play() -> None:
        store = MemoryStore()
        async with process(store, PARTITION) as (stage, (one,)):
            await stage.play(one, on(PARTITION, 1, "run", 0))
            await asyncio.sleep(TEN_MINUTES)

            assert not [place for place, _ in store.contents.memory if place.endswith(".subjects")]

    run(play())


def test_without_a_window_no_order_is_asked_for_and_nothing_is_compared():
    async def play() -> None:
        store = MemoryStore()
        async with process(store, PARTITION, OTHER, window=0) as (stage, (one, other)):
            await _here_and_there((stage, one), (stage, other))
            await asyncio.sleep(TEN_MINUTES)

            assert (spread_subjects(stage), stage.parts.health.notes()) == (0, {})
            assert not [place for place, _ in store.contents.memory if place.endswith(".subjects")]

    run(play())


def test_a_sample_is_written_only_when_it_has_changed():
    async def play() -> None:
        store = MemoryStore()
        async with process(store, PARTITION, OTHER) as (stage, (one, _)):
            await stage.play(one, on(PARTITION, 1, "run", 0))
            await asyncio.sleep(COMPARED)
            place = PartitionId("0.subjects"), "sample"
            assert store.contents.memory.pop(place)

            await asyncio.sleep(TEN_MINUTES)
            assert place not in store.contents.memory
            await stage.play(one, on(PARTITION, 2, "run", 1))
            await asyncio.sleep(TEN_MINUTES)
            assert place in store.contents.memory

    run(play())


def test_while_the_store_is_away_nothing_is_compared_and_afterwards_it_goes_on():
    async def play() -> None:
        store = MemoryStore()
        async with process(store, PARTITION, OTHER) as (stage, (one, other)):
            store.down = True
            await _here_and_there((stage, one), (stage, other))
            await asyncio.sleep(COMPARED)
            assert spread_subjects(stage) == 0

            store.down = False
            await asyncio.sleep(2 * COMPARED)
            assert spread_subjects(stage) == 1

    run(play())
