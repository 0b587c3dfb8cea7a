"""What only the SQLite store has: a file that may be locked, missing, broken or another's, and several processes."""

import asyncio
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.contract.store_helpers import P0, SCOPE, letter, names
from tests.support import eventually
from worker.errors import ConfigError, StoreUnavailable
from worker.events import UnixSeconds
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
    newer.execute("PRAGMA user_version = 2")
    newer.close()

    with pytest.raises(ConfigError, match=r"newer version of the worker \(schema 2"):
        await open_and_close(path)


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
