"""Which event kills the worker: told from what was marked when generations died."""

from dataclasses import replace

from worker import caution
from worker.caution import Caution
from worker.progress import SavedProgress
from worker.state import PartitionState, Suspect


def state(watermark: int = 10, read: int = 20, **fields) -> PartitionState:
    progress = SavedProgress(watermark=[watermark, "o"], read=read, unsettled=[], parts=[], served=[])
    return PartitionState(generation=1, owner="w", progress=progress, **fields)


def next_life(last: PartitionState, **fields) -> PartitionState:
    """The state at the beginning of the next generation, then as this one writes it."""
    return replace(last, **caution.after(last), **fields)


def test_a_generation_after_a_release_trusts_every_message():
    careful = state(deaths=5, deaths_at=10, marked=[11], suspects=[Suspect(11, 1)], released=True)
    after = Caution(next_life(careful), now=0.0)
    assert not after.marks(11, now=0.0)
    assert not after.condemns(11)


def test_one_death_is_no_reason_to_be_careful():
    assert not Caution(next_life(state()), now=0.0).marks(11, now=0.0)


def test_two_deaths_at_one_watermark_are():
    twice = next_life(next_life(state()))
    assert Caution(twice, now=0.0).marks(11, now=0.0)


def test_deaths_between_which_the_watermark_moved_are_not():
    once = next_life(state(watermark=10))
    moved = replace(once, progress={**once.progress, "watermark": [11, "o"]})
    assert not Caution(next_life(moved), now=0.0).marks(12, now=0.0)


def test_what_lies_far_beyond_the_last_message_read_is_not_marked():
    twice = next_life(next_life(state(read=20)))
    assert Caution(twice, now=0.0).marks(20 + 2_000, now=0.0)
    assert not Caution(twice, now=0.0).marks(20 + 2_001, now=0.0)


def test_a_message_that_was_marked_at_three_deaths_is_condemned():
    life = next_life(next_life(state()))
    life = next_life(replace(life, marked=[11]))
    life = next_life(replace(life, marked=[11, 15]))
    assert not Caution(life, now=0.0).condemns(11)
    life = next_life(replace(life, marked=[11, 15]))
    assert Caution(life, now=0.0).condemns(11) == 3
    assert not Caution(life, now=0.0).condemns(15)


def test_a_suspect_keeps_the_worker_careful_although_the_watermark_moves():
    life = next_life(state(watermark=10, marked=[13]))
    moved = replace(life, progress={**life.progress, "watermark": [12, "o"]})
    assert Caution(next_life(moved), now=0.0).marks(13, now=0.0)


def test_a_settled_message_is_no_suspect_any_more():
    life = Caution(state(suspects=[Suspect(11, 3), Suspect(12, 1)]), now=0.0)
    life.clear(11)
    assert not life.condemns(11)
    assert life.snapshot()["suspects"] == [Suspect(12, 1)]


def test_the_state_names_what_is_taken_in_and_what_is_attempted():
    life = Caution(state(), now=0.0)
    assert life.snapshot()["marked"] == []
    life.taken_in, life.attempted = 15, 11
    assert life.snapshot()["marked"] == [11, 15]
    life.attempted = 15
    assert life.snapshot()["marked"] == [15]
