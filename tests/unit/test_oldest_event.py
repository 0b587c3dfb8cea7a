"""The oldest event in a lane is the oldest that came from the hub to be delivered: no replay, and no digest."""

from dataclasses import replace

from prometheus_client import Gauge

from tests.lanes import FakeOwner, job_of
from tests.virtual_time import run
from worker.chains import Chains, Job
from worker.events import UnixSeconds


def job(subject: str, enqueued_at: float, *, replayed: bool = False, made_here: bool = False) -> Job:
    made = job_of(FakeOwner(), subject, subject, made_here=made_here)
    released = made.delivery.released
    placed = replace(released.placed, message=replace(released.placed.message, enqueued_at=UnixSeconds(enqueued_at)))
    made.delivery = replace(made.delivery, released=replace(released, placed=placed), replayed=replayed)
    return made


def oldest(*jobs: Job) -> float:
    async def scene() -> float:
        chains = Chains(Gauge("queued", "", registry=None))
        for each in jobs:
            chains.add(each)
        return chains.oldest_event

    return run(scene())


def test_none_is_older_than_the_oldest():
    assert oldest(job("a", 300), job("b", 100), job("c", 200)) == 100


def test_replays_are_old_by_nature_and_digests_are_ours():
    assert oldest(job("a", 300), job("b", 1, replayed=True), job("c", 2, made_here=True)) == 300


def test_of_nothing_there_is_none():
    assert oldest() == oldest(job("b", 1, replayed=True)) == 0
