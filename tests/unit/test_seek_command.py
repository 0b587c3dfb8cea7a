"""`worker seek` and `worker lag` as commands: what they refuse, print and exit with. What the hub says is given."""

import asyncio
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from tests.unit.configurations import ENVIRON, write
from worker import state as codec
from worker.cli import main
from worker.errors import StoreUnavailable
from worker.events import PartitionId, UnixSeconds
from worker.hub import Hub
from worker.progress import SavedProgress
from worker.state import HubIdentity, PartitionState
from worker.stores import HubScope, StateVersion
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


async def in_store(*, owned: str = "", was: int = 59) -> dict[str, int]:
    """Three partitions read so far; who owns one of them. Returns the checkpoints."""
    store = SqliteStore(Path("data/worker.db"), SCOPE)
    await store.open()
    try:
        if owned:
            keys = dict(zip(("fully_qualified_namespace", "eventhub_name", "consumer_group"), SCOPE, strict=True))
            await store.checkpoints.claim_ownership([{**keys, "partition_id": owned, "owner_id": "sdk"}])
        if not await store.state_versions():
            offset = f"o{was}"
            progress = SavedProgress(watermark=[was, offset], read=was, unsettled=[], parts=[], served=[])
            state = PartitionState(generation=1, owner="host-7/1", released=not owned, progress=progress)
            for partition in map(PartitionId, "012"):
                await store.write_state(partition, codec.encode(state), expected=None)
                await store.write_checkpoint(partition, offset=offset, sequence_number=was, expected=None)
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
    outcome = worker("seek", "--to", "40", "--yes")
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
    assert said in worker("seek", "--to", to, "--partition", "1", "--yes").out
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


@pytest.mark.parametrize(
    ("was", "to", "said"),
    [
        (3, "latest", "90 events are passed over"),  # 4 to 9 are forgotten
        (3, "20", "10 events are passed over"),
        (5000, "latest", "90 events are passed over"),  # of another hub: nothing of this one was read
        (5000, "earliest", "where it is already"),
    ],
)
def test_what_the_hub_has_forgotten_or_never_had_is_not_counted(worker, was: int, to: str, said: str):
    asyncio.run(in_store(was=was))
    assert said in worker("seek", "--to", to, "--partition", "1", "--dry-run").out


@pytest.mark.parametrize("first", [0, -1])
@pytest.mark.parametrize("to", ["earliest", "latest"])
def test_a_partition_to_which_nothing_was_ever_sent_stays_where_it_is(worker, monkeypatch, to: str, first: int):
    async def spans(hub: Hub) -> dict[PartitionId, Span]:
        hub._identity = HubIdentity("2026-01-01T00:00:00+00:00", -1)
        return {PartitionId("0"): Span(first, -1, "-1", UnixSeconds(-62135596800.0), empty=True)}

    monkeypatch.setattr(Hub, "spans", spans)
    assert "number 0 (where it is already)" in worker("seek", "--to", to, "--yes").out


def test_a_store_that_knows_nothing_of_the_partitions_may_be_the_wrong_one(worker):
    assert "are store, hub and consumer group those of the workers?" in worker("seek", "--to", "10", "--dry-run").err
    asyncio.run(in_store())
    assert worker("seek", "--to", "10", "--yes").err == ""


@pytest.mark.parametrize(("at", "outcome"), [("put", "perhaps_moved"), ("follow", "moved"), ("begin", "not_moved")])
def test_what_became_of_a_partition_is_said_as_it_is_when_the_store_goes_away(worker, monkeypatch, at, outcome):
    asyncio.run(in_store())
    away = StoreUnavailable("The store is away.")
    write_state, write_checkpoint = SqliteStore.write_state, SqliteStore.write_checkpoint

    async def state(store: SqliteStore, partition: PartitionId, payload: bytes, **options: Any) -> StateVersion:
        if at == ("put" if b'"sought":true' in payload else "begin"):
            raise away
        return await write_state(store, partition, payload, **options)

    async def checkpoint(store: SqliteStore, *values: Any, **options: Any) -> StateVersion:
        if at == "follow":
            raise away
        return await write_checkpoint(store, *values, **options)

    with monkeypatch.context() as patched:
        patched.setattr(SqliteStore, "write_state", state)
        patched.setattr(SqliteStore, "write_checkpoint", checkpoint)
        said = worker("seek", "--to", "40", "--partition", "1", "--yes", "--json")
    [row] = said.rows
    assert (row["outcome"], said.code) == (outcome, 0 if outcome == "moved" else 1)
    assert asyncio.run(in_store())["1"] == 59
    assert worker("lag", "--json").rows[1]["lag_events"] == (60 if outcome == "moved" else 40)
    assert "The store is away." in said.out + said.err


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
    for arguments in (("--yes",), ("--dry-run",)):
        outcome = worker("seek", "--to", "earliest", *arguments)
        assert outcome.code == 1
        assert "partition 1: host-7" in outcome.err
        assert "--force" in outcome.err
        assert asyncio.run(in_store()) == {"0": 59, "1": 59, "2": 59}
    assert worker("seek", "--to", "earliest", "--partition", "0", "--partition", "2", "--yes").code == 0
    assert asyncio.run(in_store()) == {"0": 9, "1": 59, "2": 9}


def test_a_worker_is_alive_by_the_stores_clock(worker, monkeypatch):
    asyncio.run(in_store(owned="1"))
    monkeypatch.setattr("worker.commands.seek.time", SimpleNamespace(time=lambda: time.time() + 3600))
    assert worker("seek", "--to", "earliest", "--yes").code == 1
    assert asyncio.run(in_store()) == {"0": 59, "1": 59, "2": 59}


def test_one_who_is_forced_and_never_answers_is_fenced(worker):
    (Path() / "worker.yaml").write_text(
        (Path() / "worker.yaml").read_text() + "limits: {hand_over_seconds: 1.6, drain_seconds: 0.2}\n"
    )
    asyncio.run(in_store(owned="1"))
    assert worker("seek", "--to", "earliest", "--partition", "1", "--force", "--yes").code == 0
    assert asyncio.run(in_store())["1"] == 9


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to", "soon"), "is no place"),
        (("--to", "2099-01-01T00:00:00Z"), "still to come"),
        (("--to", "101", "--yes"), "there is no 101 yet"),
        (("--to", "latest", "--partition", "3", "--yes"), "there is no partition 3"),
        (("--to", "latest", "--yes", "--dry-run"), "--dry-run"),
        (("--to", "latest"), "add --yes"),  # no terminal: a script, or `kubectl exec` without -t
        (("--to", "latest", "--force", "--json"), "add --yes"),
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
