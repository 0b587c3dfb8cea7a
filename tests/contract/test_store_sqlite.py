"""What only the SQLite store has: a file that may be locked, missing, broken or another's, and several processes."""

import asyncio
import sqlite3
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.contract.store_helpers import P0, SCOPE, letter, names, request
from tests.support import eventually
from worker.errors import ConfigError, StoreUnavailable
from worker.events import UnixSeconds
from worker.stores import ReplayRequest
from worker.stores.layout import letter_name
from worker.stores.sqlite import SqliteStore

NOW = UnixSeconds(1_770_000_000.0)
"""Later than the letters' time."""

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "worker.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(path, SCOPE, busy_timeout_seconds=0.05)
    await opened.open()
    yield opened
    await opened.aclose()


WRITES: dict[str, Callable[[SqliteStore], Awaitable[object]]] = {
    "release_ownership": lambda store: store.release_ownership("a"),
    "write_state": lambda store: store.write_state(P0, b"2", expected=None),
    "write_checkpoint": lambda store: store.write_checkpoint(P0, offset="1", sequence_number=1, expected=None),
    "write_memory": lambda store: store.write_memory(P0, "1", b"x"),
    "forget_memory": lambda store: store.forget_memory(P0, keep=[]),
    "write_entry": lambda store: store.write_entry("key", b"x", expected=None),
    "expire_entries": lambda store: store.expire_entries(NOW),
    "write_row": lambda store: store.write_row("row", b"x", mark="", expected=None),
    "drop_dead_letters": lambda store: store.drop_dead_letters(["name"]),
    "request_replays": lambda store: store.request_replays([request()]),
    "end_replays": lambda store: store.end_replays([request()]),
    "put_dead_letters": lambda store: store.put_dead_letters([letter()]),
    "claim_ownership": lambda store: store.checkpoints.claim_ownership([names(owner_id="a")]),
    "update_checkpoint": lambda store: store.checkpoints.update_checkpoint(names(offset="1", sequence_number=1)),
}


@pytest.mark.parametrize("write", WRITES)
async def test_a_write_beyond_the_busy_timeout_is_unavailable_and_changes_nothing(
    store: SqliteStore, path: Path, write: str
):
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")

    with pytest.raises(StoreUnavailable, match=r"worker\.db has been locked for over 0\.05 s"):
        await WRITES[write](store)

    holder.execute("ROLLBACK")
    holder.close()
    await WRITES[write](store)


async def test_while_the_file_is_locked_old_letters_stay_and_it_is_unavailable(store: SqliteStore, path: Path):
    await store.put_dead_letters([letter()])
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreUnavailable, match="locked"):
        await store.expire_dead_letters(NOW)

    holder.close()
    assert await store.expire_dead_letters(NOW) == 1


@pytest.mark.parametrize("row", [b'{"format":2,"time":0}', b'{"time":0}', b'{"format":1}', b"[]", b"{"])
async def test_a_row_that_is_not_understood_is_not_deleted_for_its_age(store: SqliteStore, path: Path, row: bytes):
    await store.put_dead_letters([letter()])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("INSERT INTO dead_letters SELECT scope, '00000000', ? FROM dead_letters", (row,))

    assert await store.expire_dead_letters(NOW) == 1
    assert other.execute("SELECT letter FROM dead_letters").fetchall() == [(row,)]

    other.close()


@pytest.mark.parametrize("row", [b'{"format":2,"time":0}', b'{"format":1}', b"[]", b"{"])
async def test_a_row_that_is_not_understood_is_not_dropped_by_its_name(store: SqliteStore, path: Path, row: bytes):
    await store.put_dead_letters([letter()])
    await store.request_replays([ReplayRequest(P0, "odd")])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("INSERT INTO dead_letters SELECT scope, 'odd', ? FROM dead_letters", (row,))

    assert await store.drop_dead_letters(["odd", letter_name(letter())]) == 1
    assert other.execute("SELECT letter FROM dead_letters").fetchall() == [(row,)]
    assert await store.replays() == [ReplayRequest(P0, "odd")]

    other.close()


async def test_an_entry_expires_by_when_it_was_last_written(store: SqliteStore, path: Path):
    await store.write_entry("old", b"x", expected=None)
    version = await store.write_entry("renewed", b"x", expected=None)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("UPDATE ledger SET modified = modified - 7200")
    other.close()
    await store.write_entry("renewed", b"y", expected=version)

    assert await store.expire_entries(UnixSeconds(time.time() - 3600)) == 1
    assert await store.read_entry("old") is None
    assert await store.read_entry("renewed") is not None


async def test_reading_does_not_wait_for_another_ones_transaction(store: SqliteStore, path: Path):
    version = await store.write_state(P0, b"1", expected=None)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")

    assert await store.read_state(P0) == (b"1", version)

    holder.close()


async def test_the_event_loop_runs_on_while_a_write_waits_for_the_file(path: Path):
    store = SqliteStore(path, SCOPE, busy_timeout_seconds=30)
    await store.open()
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")

    writing = asyncio.create_task(store.write_state(P0, b"1", expected=None))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not writing.done()
    holder.close()

    await writing
    await store.aclose()


def test_a_file_that_is_no_database_is_a_configuration_mistake_and_stays_as_it_is(path: Path):
    path.write_bytes(b"name,age\n" * 500)

    with pytest.raises(ConfigError, match=r"^store\.path: .*worker\.db is no SQLite database"):
        asyncio.run(open_and_close(path))
    assert path.read_bytes() == b"name,age\n" * 500


def test_another_programs_database_is_a_configuration_mistake_and_stays_as_it_is(path: Path):
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE customers (name TEXT)")
    other.close()
    before = path.read_bytes()

    with pytest.raises(ConfigError, match="belongs to another program"):
        asyncio.run(open_and_close(path))
    assert path.read_bytes() == before


async def test_a_newer_schema_is_a_configuration_mistake_that_says_so(store: SqliteStore, path: Path):
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version = 4")
    newer.close()

    with pytest.raises(ConfigError, match=r"newer version of the worker \(schema 4, this version knows 3\)"):
        await open_and_close(path)


# --- a file of the version before ---

SCOPE_NAME = "team.servicebus.windows.net:5671/ml-events/$default"
VERSION_1 = f"""
CREATE TABLE ownership (
    scope TEXT NOT NULL, partition TEXT NOT NULL, owner_id TEXT NOT NULL, version INTEGER NOT NULL,
    modified REAL NOT NULL, PRIMARY KEY (scope, partition)) WITHOUT ROWID;
CREATE TABLE checkpoints (
    scope TEXT NOT NULL, partition TEXT NOT NULL, "offset" TEXT NOT NULL, sequence_number INTEGER NOT NULL,
    PRIMARY KEY (scope, partition)) WITHOUT ROWID;
CREATE TABLE states (
    scope TEXT NOT NULL, partition TEXT NOT NULL, version INTEGER NOT NULL, payload BLOB NOT NULL,
    PRIMARY KEY (scope, partition));
CREATE TABLE dead_letters (
    scope TEXT NOT NULL, name TEXT NOT NULL, letter BLOB NOT NULL, PRIMARY KEY (scope, name));
PRAGMA application_id = {0x45475731};
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
INSERT INTO ownership VALUES ('{SCOPE_NAME}', '0', 'a', 3, 1764000000.5);
INSERT INTO checkpoints VALUES ('{SCOPE_NAME}', '0', '700', 7);
INSERT INTO states VALUES ('{SCOPE_NAME}', '0', 5, 'state');
"""
"""What the version before created, word for word, with a row in each table."""


@pytest.fixture
def version_1(path: Path) -> Path:
    old = sqlite3.connect(path)
    old.executescript(VERSION_1)
    old.close()
    return path


async def test_a_file_of_the_version_before_goes_on_with_what_it_holds(version_1: Path):
    store = SqliteStore(version_1, SCOPE)
    await store.open()

    (owned,) = await store.checkpoints.list_ownership(*SCOPE)
    assert (owned["owner_id"], owned["etag"]) == ("a", "3")
    assert await store.state_versions() == {P0: "5"}
    found = await store.read_checkpoint(P0)
    assert found is not None
    assert found[:2] == ("700", 7)
    version = await store.write_checkpoint(P0, offset="800", sequence_number=8, expected=found.version)
    assert await store.read_checkpoint(P0) == ("800", 8, version)
    await store.write_memory(P0, "1", b"x")
    await store.write_entry("key", b"x", expected=None)
    await store.request_replays([request()])

    await store.aclose()


async def test_many_that_open_a_file_of_the_version_before_at_once_all_succeed(version_1: Path):
    stores = [SqliteStore(version_1, SCOPE) for _ in range(8)]
    await asyncio.gather(*(each.open() for each in stores))

    versions = [await each.read_checkpoint(P0) for each in stores]
    await asyncio.gather(*(each.aclose() for each in stores))

    assert versions == [("700", 7, "1")] * 8


async def test_a_step_to_the_new_version_that_fails_leaves_the_file_as_it_was(version_1: Path):
    other = sqlite3.connect(version_1, isolation_level=None)
    other.execute("CREATE TABLE replays (in_the_way TEXT)")  # the last of the new tables

    with pytest.raises(StoreUnavailable, match="replays already exists"):
        await open_and_close(version_1)

    assert other.execute("PRAGMA user_version").fetchone() == (1,)
    tables = {name for (name,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables == {"ownership", "checkpoints", "states", "dead_letters", "replays"}
    assert other.execute("SELECT * FROM checkpoints").fetchall() == [(SCOPE_NAME, "0", "700", 7)]
    other.close()


async def test_a_worker_of_the_version_before_that_goes_on_meanwhile_can_move_no_checkpoint(version_1: Path):
    """Its statement names no columns: it fails, and so cannot move a checkpoint past its version."""
    old = sqlite3.connect(version_1, isolation_level=None)
    await open_and_close(version_1)

    with pytest.raises(sqlite3.OperationalError, match="5 columns but 4 values"):
        old.execute("INSERT INTO checkpoints VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", (SCOPE_NAME, "0", "800", 8))

    assert old.execute('SELECT "offset", version FROM checkpoints').fetchall() == [("700", 1)]
    old.close()


# --- paths ---


def test_a_folder_in_place_of_the_file_is_unavailable_and_named(tmp_path: Path):
    with pytest.raises(StoreUnavailable, match=f"{tmp_path} cannot be used"):
        asyncio.run(open_and_close(tmp_path))


def test_a_folder_that_cannot_be_created_is_a_configuration_mistake(path: Path):
    path.write_text("a file")

    with pytest.raises(ConfigError, match=r"^store\.path: the folder .*worker\.db cannot be created"):
        asyncio.run(open_and_close(path / "worker.db"))


async def open_and_close(path: Path) -> None:
    store = SqliteStore(path, SCOPE)
    try:
        await store.open()
    finally:
        await store.aclose()


def test_an_empty_file_becomes_a_store(path: Path):
    path.touch()

    asyncio.run(open_and_close(path))


async def test_it_may_be_closed_without_having_been_opened_and_leaves_no_thread(path: Path):
    before = set(threading.enumerate())
    store = SqliteStore(path, SCOPE)

    await store.aclose()
    await store.aclose()

    await eventually(lambda: set(threading.enumerate()) <= before)


async def test_many_that_open_one_new_file_at_once_all_succeed(tmp_path: Path):
    for number in range(10):
        stores = [SqliteStore(tmp_path / f"{number}.db", SCOPE) for _ in range(8)]
        await asyncio.gather(*(each.open() for each in stores))
        await asyncio.gather(*(each.aclose() for each in stores))


async def test_what_was_asked_for_before_closing_is_done(path: Path):
    store = SqliteStore(path, SCOPE)
    await store.open()
    writing = asyncio.create_task(store.write_state(P0, b"last", expected=None))
    await asyncio.sleep(0)
    await store.aclose()
    version = await writing

    again = SqliteStore(path, SCOPE)
    await again.open()
    assert await again.read_state(P0) == (b"last", version)
    await again.aclose()


PROCESS = """
import asyncio, sys
from pathlib import Path
from tests.contract.store_helpers import SCOPE, names
from worker.errors import Conflict
from worker.stores.sqlite import SqliteStore

async def main(path, name, rounds):
    store = SqliteStore(Path(path), SCOPE, busy_timeout_seconds=60)
    await store.open()
    wins = 0
    for number in range(rounds):
        wins += len(await store.checkpoints.claim_ownership([names(f"new-{number}", owner_id=name)]))
        await store.checkpoints.update_checkpoint(names(offset=name, sequence_number=number * 10 + int(name)))
        while True:
            state = await store.read_state("0")
            count, expected = (int(state.payload), state.version) if state else (0, None)
            try:
                await store.write_state("0", str(count + 1).encode(), expected=expected)
                break
            except Conflict:
                continue
    await store.aclose()
    print(wins)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


async def test_several_processes_on_one_file_lose_no_update(path: Path):
    processes, rounds = 4, 40
    running = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROCESS, str(path), str(name), str(rounds)),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        for name in range(processes)
    ]
    outputs = [(await each.communicate())[0] for each in running]
    assert [each.returncode for each in running] == [0] * processes

    store = SqliteStore(path, SCOPE)
    await store.open()
    state = await store.read_state(P0)
    (checkpoint,) = await store.checkpoints.list_checkpoints(*SCOPE)
    await store.aclose()
    assert state is not None
    assert int(state.payload) == processes * rounds
    assert sum(int(output) for output in outputs) == rounds  # each new partition was won by exactly one
    assert checkpoint == names(offset="3", sequence_number=(rounds - 1) * 10 + 3)
