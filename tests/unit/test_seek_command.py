"""`worker seek` and `worker lag` as commands: what they refuse, print and exit with. What the hub says is given."""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.unit.configurations import ENVIRON, write
from worker import state as codec
from worker.cli import main
from worker.events import PartitionId, UnixSeconds
from worker.hub import Hub
from worker.progress import SavedProgress
from worker.state import HubIdentity, PartitionState
from worker.stores import HubScope
from worker.stores.sqlite import SqliteStore
from worker.target import Span

SCOPE = HubScope("127.0.0.1:5672", "ml-events", "$Default")


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


async def in_store(*, owned: str = "") -> dict[str, int]:
    """Three partitions read to number 59; who owns one of them. Returns the checkpoints."""
    store = SqliteStore(Path("data/worker.db"), SCOPE)
    await store.open()
    try:
        if owned:
            keys = dict(zip(("fully_qualified_namespace", "eventhub_name", "consumer_group"), SCOPE, strict=True))
            await store.checkpoints.claim_ownership([{**keys, "partition_id": owned, "owner_id": "sdk"}])
        if not await store.state_versions():
            progress = SavedProgress(watermark=[59, "o59"], read=59, unsettled=[], parts=[], served=[])
            state = PartitionState(generation=1, owner="host-7/1", released=not owned, progress=progress)
            for partition in map(PartitionId, "012"):
                await store.write_state(partition, codec.encode(state), expected=None)
                await store.write_checkpoint(partition, offset="o59", sequence_number=59, expected=None)
        rows = await store.checkpoints.list_checkpoints(*SCOPE)
        return {row["partition_id"]: row["sequence_number"] for row in rows}
    finally:
        await store.aclose()


@pytest.fixture
def worker(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)

    async def spans(hub: Hub) -> dict[PartitionId, Span]:
        hub._identity = HubIdentity("2026-01-01T00:00:00+00:00", -1)
        span = Span(10, 99, "o99", UnixSeconds(time.time() - 30), empty=False)
        return {PartitionId(each): span for each in "012"}

    monkeypatch.setattr(Hub, "spans", spans)

    def worker(command: str, *arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["worker", command, "--config", "worker.yaml", *arguments])
        try:
            main()
        except SystemExit as stopped:
            return Outcome(stopped.code or 0, *capsys.readouterr())  # type: ignore[arg-type]  # never a text
        return Outcome(0, *capsys.readouterr())

    return worker


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)


def test_all_partitions_go_where_they_are_wanted_and_each_is_said(worker):
    asyncio.run(in_store())
    outcome = worker("seek", "--to", "40")
    assert outcome.code == 0
    assert outcome.out.splitlines() == [
        f"partition {each} moved: reading goes on with number 40 (20 events come again)" for each in "012"
    ]
    assert asyncio.run(in_store()) == {"0": 39, "1": 39, "2": 39}


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("earliest", "number 10 (50 events come again)"),
        ("latest", "number 100 (40 events are passed over)"),
        ("60", "number 60 (where it is already)"),
        ("61", "number 61 (1 event is passed over)"),
        ("1s", "number 100 (40 events are passed over)"),
    ],
)
def test_what_it_means_is_said(worker, to: str, said: str):
    asyncio.run(in_store())
    assert said in worker("seek", "--to", to, "--partition", "1").out
    checkpoints = asyncio.run(in_store())
    assert (checkpoints["0"], checkpoints["2"]) == (59, 59)


def test_on_a_terminal_nothing_is_changed_without_yes(worker, terminal):
    asyncio.run(in_store())
    outcome = worker("seek", "--to", "earliest")
    assert outcome.code == 0
    assert "partition 0 would be moved" in outcome.out
    assert "add --yes" in outcome.err
    assert asyncio.run(in_store()) == {"0": 59, "1": 59, "2": 59}
    assert worker("seek", "--to", "earliest", "--yes").code == 0
    assert asyncio.run(in_store()) == {"0": 9, "1": 9, "2": 9}


def test_a_dry_run_changes_nothing(worker):
    asyncio.run(in_store())
    outcome = worker("seek", "--to", "latest", "--dry-run", "--json")
    assert outcome.rows[0] == {
        "partition": "0",
        "outcome": "would_be_moved",
        "was_behind": 59,
        "is_behind": 99,
        "owner": None,
        "error": None,
    }
    assert asyncio.run(in_store()) == {"0": 59, "1": 59, "2": 59}


def test_a_partition_that_a_worker_has_is_refused_and_so_are_all_that_are_asked_for_with_it(worker):
    asyncio.run(in_store(owned="1"))
    for arguments in ((), ("--dry-run",)):
        outcome = worker("seek", "--to", "earliest", *arguments)
        assert outcome.code == 1
        assert "partition 1: host-7" in outcome.err
        assert "--force" in outcome.err
        assert asyncio.run(in_store()) == {"0": 59, "1": 59, "2": 59}
    assert worker("seek", "--to", "earliest", "--partition", "0", "--partition", "2").code == 0
    assert asyncio.run(in_store()) == {"0": 9, "1": 59, "2": 9}


def test_one_who_is_forced_and_never_answers_is_fenced(worker):
    (Path() / "worker.yaml").write_text(
        (Path() / "worker.yaml").read_text() + "limits: {hand_over_seconds: 1.6, drain_seconds: 0.2}\n"
    )
    asyncio.run(in_store(owned="1"))
    assert worker("seek", "--to", "earliest", "--partition", "1", "--force").code == 0
    assert asyncio.run(in_store())["1"] == 9


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to", "soon"), "is no place"),
        (("--to", "2099-01-01T00:00:00Z"), "still to come"),
        (("--to", "101"), "there is no 101 yet"),
        (("--to", "latest", "--partition", "3"), "there is no partition 3"),
        (("--to", "latest", "--yes", "--dry-run"), "--dry-run"),
        ((), "--to"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_changed(worker, arguments: tuple[str, ...], said: str):
    asyncio.run(in_store())
    outcome = worker("seek", *arguments)
    assert outcome.code == 2
    assert said in outcome.err
    assert asyncio.run(in_store()) == {"0": 59, "1": 59, "2": 59}


def test_lag_says_of_each_partition_whose_it_is_and_what_waits(worker):
    asyncio.run(in_store(owned="1"))
    rows = worker("lag", "--json").rows
    assert [(row["partition"], row["owner"]) for row in rows] == [("0", None), ("1", "host-7"), ("2", None)]
    seconds = rows[0].pop("lag_seconds")
    assert 30 <= seconds < 90
    assert rows[0] == {
        "partition": "0",
        "owner": None,
        "last_enqueued": 99,
        "checkpoint": 59,
        "lag_events": 40,
        "lag_seconds_exact": False,
        "lost_events": 0,
        "stopped": None,
    }
    table = worker("lag")
    assert table.err == "120 events wait.\n"
    assert [line.split()[:5] for line in table.out.splitlines()] == [
        ["partition", "owner", "last", "checkpoint", "lag"],
        ["0", "-", "99", "59", "40"],
        ["1", "host-7", "99", "59", "40"],
        ["2", "-", "99", "59", "40"],
    ]
