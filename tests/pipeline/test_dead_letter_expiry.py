"""Dead letters that grow old while the worker runs, in virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from structlog.testing import capture_logs

from tests.memory_store import MemoryStore
from tests.pipeline.stage import START, message
from tests.virtual_time import run
from worker.deadletters import Expiry, from_bad_event
from worker.events import BadEvent, UnixSeconds
from worker.metrics import Metrics

HOUR = 3600.0
DAY = 24 * HOUR
KEEP_DAYS = 14
LEDGER_KEEP_DAYS = 7


class Scene:
    """A worker that deletes old letters, on a clock that starts at START."""

    def __init__(self, keep_days: float = KEEP_DAYS) -> None:
        started = asyncio.get_running_loop().time()

        def clock() -> float:
            return START + asyncio.get_running_loop().time() - started

        self.store = MemoryStore(clock=clock)
        self.metrics = Metrics()
        self._expiry = Expiry(
            self.store, self.metrics, keep_days=keep_days, ledger_keep_days=LEDGER_KEEP_DAYS, clock=clock
        )

    async def give_up(self, number: int, *, age: float) -> None:
        """Puts a letter that became one `age` seconds before the start."""
        bad = from_bad_event(message(number, at=-age), None, BadEvent("not_json", "The body is no JSON."))
        await self.store.put_dead_letters([replace(bad, time=UnixSeconds(START - age))])

    async def left(self) -> list[int]:
        return sorted([letter.sequence_number async for letter in self.store.dead_letters()])

    @property
    def counted(self) -> float | None:
        return self.metrics.registry.get_sample_value("worker_dead_letters_expired_total")

    @property
    def asked(self) -> int:
        return self.store.calls.count("expire_dead_letters")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self._expiry.run())
        try:
            yield task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def test_soon_after_the_start_letters_older_than_the_days_to_keep_are_gone_and_counted():
    async def scene():
        stage = Scene()
        for number, age in enumerate([15 * DAY, 14 * DAY + 1, 14 * DAY - HOUR, 0]):
            await stage.give_up(number, age=age)
        with capture_logs() as lines:
            async with stage.running():
                await asyncio.sleep(5 * 60)
                assert await stage.left() == [2, 3]
        assert stage.counted == 2
        assert [(line["event"], line["count"]) for line in lines] == [("old dead letters deleted", 2)]

    run(scene())


def test_a_letter_that_grows_old_while_the_worker_runs_goes_within_the_hour_and_not_before():
    async def scene():
        stage = Scene()
        await stage.give_up(1, age=0)
        async with stage.running():
            await asyncio.sleep(KEEP_DAYS * DAY - 1)
            assert await stage.left() == [1]
            await asyncio.sleep(HOUR + 1)
            assert await stage.left() == []
        assert stage.counted == 1
        assert stage.asked <= KEEP_DAYS * 24 + 2

    run(scene())


def test_an_entry_of_the_ledger_goes_when_it_was_last_written_so_many_days_ago():
    async def scene():
        stage = Scene()
        version = await stage.store.write_entry("key", b"intent", expected=None)
        async with stage.running():
            await asyncio.sleep(3 * DAY)
            await stage.store.write_entry("key", b"accepted", expected=version)
            await asyncio.sleep(LEDGER_KEEP_DAYS * DAY - 1)
            assert await stage.store.read_entry("key") is not None
            await asyncio.sleep(HOUR + 1)
            assert await stage.store.read_entry("key") is None
        assert stage.metrics.registry.get_sample_value("worker_ledger_expired_entries_total") == 1

    run(scene())


def test_nothing_is_said_while_nothing_is_old():
    async def scene():
        stage = Scene()
        await stage.give_up(1, age=0)
        with capture_logs() as lines:
            async with stage.running():
                await asyncio.sleep(DAY)
        assert stage.asked >= 24
        assert lines == []
        assert stage.counted == 0

    run(scene())


def test_a_store_that_is_away_is_said_once_and_its_letters_go_when_it_is_back():
    async def scene():
        stage = Scene()
        await stage.give_up(1, age=15 * DAY)
        with capture_logs() as lines:
            async with stage.running() as task:
                for _ in range(2):
                    stage.store.down = True
                    await asyncio.sleep(6 * HOUR)
                    stage.store.down = False
                    await asyncio.sleep(6 * HOUR)
                assert not task.done()
                assert await stage.left() == []
        away, gone, away_again = lines
        assert (away["log_level"], away["error"]) == ("warning", "the store is away")
        assert gone["count"] == 1
        assert away_again == away
        assert stage.asked >= 24

    run(scene())


def test_days_beyond_the_calendar_keep_everything():
    async def scene():
        for keep_days in (10.0**9, float("inf")):
            stage = Scene(keep_days=keep_days)
            await stage.give_up(1, age=10_000 * DAY)
            async with stage.running():
                await asyncio.sleep(DAY)
                assert await stage.left() == [1]
            assert stage.asked >= 24

    run(scene())
