"""Known bugs to plant into the worker while it is simulated: each must be found, or the checker proves nothing.

A bug is one patch of one place of the worker: what a plausible mistake there would do.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from math import inf
from typing import Any, cast
from unittest.mock import patch

from worker import pipeline, spread
from worker import state as codec
from worker.across import Across
from worker.board import NEVER, Board
from worker.chains import Chain, Chains, Job
from worker.deadletters import DeadLetterWriter
from worker.deliver import Lane
from worker.digests import Because
from worker.duplicates import Duplicates, Verdict
from worker.errors import StoreUnavailable
from worker.events import PartitionId, Position
from worker.feed import Feed
from worker.groups import SinkGroups
from worker.latest import superseded
from worker.ledger import Ledger
from worker.missed import Missed
from worker.overdue import Overdue
from worker.ownership import Tenure
from worker.pending import LOOKED_AT
from worker.pipeline import Pipeline
from worker.progress import Progress, SavedProgress, Watermark
from worker.state import PartitionState
from worker.through import Through
from worker.way import Way

_restore = Progress.restore.__func__  # type: ignore[attr-defined]  # a class method's own function
_encode = codec.encode
_see = Duplicates.see
_put = DeadLetterWriter.put
_later = Chains.later
_may_start = Pipeline.may_start
_why_not_alone = SinkGroups._why_not_alone
_groups_snapshot = SinkGroups.snapshot
_follow = Lane.follow
_sightings = count(10**9)


def _received(progress: Progress) -> Watermark | None:
    return progress._last


async def _adopt(tenure: Tenure) -> None:
    """Whatever stands there is taken for a request: write over it."""
    stored = await tenure._store.read_state(tenure.partition)
    assert stored is not None
    tenure._version = stored.version


def _see_and_settle(duplicates: Duplicates, key: bytes, digest: str, _: Position, **options: Any) -> Verdict:
    """By the key alone, and at once: what was seen before a crash is then taken for its own copy."""
    verdict = _see(duplicates, key, digest, Position(next(_sightings), 0), now=options["now"])
    duplicates.settled(key, digest)
    return verdict


def _never_a_copy(_: Duplicates, *__: object, **___: object) -> Verdict:
    return Verdict.NEW


async def _always(*_: object, **__: object) -> bool:
    return True


def _let_the_next_go(chains: Chains, chain: Chain, delay_seconds: float) -> None:
    """The retried one goes behind those that waited for it."""
    chain.jobs.rotate(-1)
    _later(chains, chain, delay_seconds)


async def _never(*_: object) -> bool:
    return False


def _whatever_is_held(groups: SinkGroups, *given: Any) -> tuple[Because, float] | None:
    alone = _why_not_alone(groups, *given)
    return None if alone is not None and alone[0] is Because.ORDER else alone


def _forget_the_unsent(groups: SinkGroups) -> dict[str, Any]:
    content = _groups_snapshot(groups)
    return {**content, "unsent": []} if content else content


def _begin_again(lane: Lane, way: Way, **given: Any) -> Way:
    """What is under way on the old way is begun on the new one too."""
    before = _follow(lane, way, **given)
    for chain in lane._chains:
        if chain.trying:
            lane._chains.later(chain, 0.0)
    return before


def _forget_the_rest(lane: Lane, _: str) -> None:
    """What is left when a removed sink's time is over is nobody's."""
    for chain in [each for each in lane._chains if not each.trying]:
        lane._chains.drop(chain)


async def _do_not_wait(*_: object) -> None:
    return


def _only_the_watermark(cls: type[Progress], saved: SavedProgress | None, **rest: Any) -> Progress:
    watermark = saved and saved["watermark"]
    left = watermark and {
        "watermark": watermark,
        "read": watermark[0],
        "unsettled": [],
        "parts": [],
        "served": [],
    }
    return _restore(cls, left, **rest)  # type: ignore[no-any-return]  # see above


def _without_verdicts(state: PartitionState) -> bytes:
    return _encode(replace(state, late=[]))


def _settle_and_put(letters: DeadLetterWriter, letter: Any, settled: Callable[[], None], *rest: Any) -> None:
    settled()
    _put(letters, letter, lambda: None, *rest)


def _forget_the_memory(state: PartitionState) -> bytes:
    return _encode(replace(state, memory_parts=[], memory_since={}))


async def _put_everything(feed: Feed, batch: list[Any], last_enqueued: int | None) -> int:
    feed.last_enqueued = last_enqueued
    await feed._batches.put(batch)
    return len(batch)


async def _claim_success(tenure: Tenure, **changes: Any) -> None:
    """An answer that got lost is taken for a yes."""
    wanted = replace(tenure.state, **changes)
    try:
        version = await tenure._store.write_state(tenure.partition, codec.encode(wanted), expected=tenure._version)
    except StoreUnavailable:
        tenure.state = wanted
        return
    tenure._version, tenure.state = version, wanted


def _one_place(_: PartitionId) -> PartitionId:
    return PartitionId("all.subjects")


def _keep_the_oldest(together: list[Any], matched: list[Any]) -> list[frozenset[str]]:
    return superseded(together[::-1], matched[::-1])[::-1]


async def _note_and_start(owner: Pipeline, job: Job) -> bool:
    """What is about to be sent counts as what the sink has: when that fails, the next attempt is unchanged."""
    may = await _may_start(owner, job)
    if may:
        owner._note_value(job, job.value)
    return may


def _of(owner: object, name: str, instead: object) -> Callable[[], AbstractContextManager[object]]:
    return partial(patch.object, owner, name, instead)


def _without_marks(state: PartitionState) -> bytes:
    progress = state.progress and {
        **state.progress,
        "served": [[each for each in row if each != LOOKED_AT] for row in state.progress["served"]],
    }
    return _encode(replace(state, progress=cast("SavedProgress | None", progress)))


def _through_by_the_wall_clock(through: Through) -> float:
    """Nothing waits for its turn: then nothing is there."""
    oldest = through._orderer.oldest_enqueued()
    return through._parts.clock() if oldest is None else oldest


def _furthest(board: Board) -> float:
    return max((board.through(each) for each in board.partitions()), default=NEVER)


def _without_signs(state: PartitionState) -> bytes:
    return _encode(replace(state, signs={}))


def _note_nothing(_overdue: Overdue, _missed: Missed) -> None:
    return


BUGS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "the checkpoint says what was received": _of(Progress, "watermark", property(_received)),
    "the fence is forgotten": _of(Tenure, "_reconcile", _adopt),
    "a duplicate is recorded before it is settled": _of(Duplicates, "see", _see_and_settle),
    "copies are not recognised": _of(Duplicates, "see", _never_a_copy),
    "no lease is looked at, and no loss": _of(Pipeline, "may_start", _always),
    "the next event does not wait for a retried one": _of(Chains, "later", _let_the_next_go),
    "a drain does not wait": _of(Pipeline, "drain", _do_not_wait),
    "progress above the watermark is forgotten": _of(Progress, "restore", classmethod(_only_the_watermark)),
    "late verdicts are not kept": _of(codec, "encode", _without_verdicts),
    "the memory of subjects is forgotten": _of(codec, "encode", _forget_the_memory),
    "a dead letter counts before it is written": _of(DeadLetterWriter, "put", _settle_and_put),
    "the ledger's outcome is ignored": _of(Ledger, "_may_act", _always),
    "what was closed is not in the state": _of(SinkGroups, "snapshot", _forget_the_unsent),
    "the ledger is not asked about what is read again": _of(Ledger, "knows", _never),
    "an event does not wait for what is held of its subject": _of(SinkGroups, "_why_not_alone", _whatever_is_held),
    "repeats of the SDK are let through": _of(Feed, "put", _put_everything),
    "an event is looked at again when it is read again": _of(codec, "encode", _without_marks),
    "the wall clock says what is missed": _of(Through, "seen", _through_by_the_wall_clock),
    "samples of all partitions are stored in one place": _of(spread, "_place", _one_place),
    "only one partition is asked whether it is through": _of(Board, "all_through", property(_furthest)),
    "what is not noted yet is not waited for": _of(Across, "through", inf),
    "signs of life are not kept": _of(codec, "encode", _without_signs),
    "who was told of a missed expectation is not noted in its row": _of(Overdue, "note", _note_nothing),
    "what is under way is begun again on the new way": _of(Lane, "follow", _begin_again),
    "what a removed sink has left is forgotten": _of(Lane, "remove", _forget_the_rest),
    "a lost answer of the store is taken for a yes": _of(Tenure, "save", _claim_success),
    "the oldest is delivered instead of the newest": _of(pipeline, "superseded", _keep_the_oldest),
    "a value counts before its event is accepted": _of(Pipeline, "may_start", _note_and_start),
}


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """Inside, the worker has this bug."""
    if name is None:
        yield
        return
    with BUGS[name]():
        yield
