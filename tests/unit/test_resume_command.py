"""`worker resume`: partitions that stand still, shown and let go."""

import asyncio
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.unit.configurations import ENVIRON, write
from worker import state as codec
from worker.cli import main
from worker.events import PartitionId
from worker.state import PartitionState
from worker.stores import HubScope
from worker.stores.sqlite import SqliteStore

SCOPE = HubScope("127.0.0.1:5672", "ml-events", "$Default")


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def states(changes: dict[str, PartitionState] | None = None) -> dict[str, PartitionState]:
    """What the store says after these were written."""

    async def work() -> dict[str, PartitionState]:
        store = SqliteStore(Path("data/worker.db"), SCOPE)
        await store.open()
        try:
            for partition, state in (changes or {}).items():
                await store.write_state(PartitionId(partition), codec.encode(state), expected=None)
            found = {each: await store.read_state(each) for each in await store.state_versions()}
            return {each: codec.decode(stored.payload) for each, stored in found.items()}
        finally:
            await store.aclose()

    return asyncio.run(work())


@pytest.fixture
def worker(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    states(
        {
            "0": PartitionState(generation=3, owner="w"),
            "1": PartitionState(generation=4, owner="w", stopped="junk everywhere", stopped_under="digest"),
            "10": PartitionState(generation=5, owner="w", stopped="more junk", stopped_under="digest"),
        }
    )

    def worker(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["worker", "resume", "--config", "worker.yaml", *arguments])
        try:
            main()
        except SystemExit as stopped:
            return Outcome(stopped.code or 0, *capsys.readouterr())  # type: ignore[arg-type]  # never a text
        return Outcome(0, *capsys.readouterr())

    return worker


def test_all_that_stand_still_may_be_read_again_and_nothing_else_changes(worker):
    before = states()
    outcome = worker()
    assert outcome.code == 0
    assert outcome.out.splitlines() == [
        "partition 1 may be read again: junk everywhere",
        "partition 10 may be read again: more junk",
    ]
    after = states()
    assert [after[each].stopped for each in ("0", "1", "10")] == [None] * 3
    assert [state.generation for state in after.values()] == [state.generation for state in before.values()]


def test_only_the_partition_asked_for_is_resumed(worker):
    assert worker("--partition", "10").out == "partition 10 may be read again: more junk\n"
    assert states()["1"].stopped == "junk everywhere"


def test_a_dry_run_changes_nothing(worker):
    assert "partition 1 stands still: junk everywhere" in worker("--dry-run").out
    assert states()["1"].stopped == "junk everywhere"


def test_a_partition_that_does_not_stand_still_is_said(worker):
    outcome = worker("--partition", "0")
    assert outcome.code == 1
    assert "partition 0 does not stand still" in outcome.err


def test_nothing_to_do_is_said(worker):
    worker()
    assert worker().out == "no partition stands still\n"
