"""What is tried and does not succeed is remembered across processes: attempts, and events that kill them."""

import asyncio

from tests.fakes import FakeSink
from tests.pipeline.stage import Stage, blob_event, message
from tests.virtual_time import run
from worker import pipeline
from worker.errors import SinkUnavailable
from worker.sinks import Delivery


class DeadlySink(FakeSink):
    """Its attempt at one event never comes back, as far as anyone will ever know."""

    def __init__(self, poison: str) -> None:
        super().__init__()
        self.poison = poison
        self.killed = asyncio.Event()

    async def deliver(self, delivery: Delivery) -> None:
        if delivery.released.placed.event.id == self.poison:
            self.killed.set()
            await asyncio.Event().wait()
        await super().deliver(delivery)


def test_attempts_of_one_owner_count_at_the_next():
    async def scene():
        down = FakeSink(refuse=lambda _: SinkUnavailable("down"))
        async with Stage({"out": down}, window=0).open() as first:
            claim = await first.begin()
            await first.play(claim, message(1, blob_event("a", 1)))
            await asyncio.sleep(10)
            tried = len(down.attempts)
            assert tried > 2
            await first.end(claim)
        later = FakeSink(refuse=lambda _: SinkUnavailable("down"))
        limit = {"out": {"retry": {"give_up_after_seconds": 60}}}
        async with Stage({"out": later}, store=first.store, window=0, lane=limit).open() as second:
            claim = await second.begin("second")
            await second.play(claim, message(1, blob_event("a", 1)))
            await asyncio.sleep(100)
            (letter,) = await second.dead_letters()
            assert letter.reason == "retries_exhausted"
            assert letter.attempts == tried + len(later.attempts)
            assert (await second.state()).attempts == []

    run(scene())


def test_an_event_that_kills_every_process_is_given_up_after_a_few_and_the_rest_goes_on():
    async def scene():
        store, lives = None, 0
        messages = [message(n, blob_event(f"s{n}", n)) for n in range(1, 8)]
        while lives < 10:
            lives += 1
            sink = DeadlySink("s3-3")
            stage = Stage({"out": sink}, store=store, window=0)
            store = stage.store
            async with stage.open():
                claim = await stage.begin(f"life {lives}")
                await stage.play(claim, *messages)
                await asyncio.sleep(30)
                if not sink.killed.is_set():
                    break  # it lives
        (letter,) = await stage.dead_letters()
        assert letter.reason == "kills_the_worker"
        assert letter.sequence_number == 3
        assert letter.body == messages[2].body
        assert await stage.checkpoint() == 7
        assert 3 <= lives <= 7

    run(scene())


def test_a_message_that_kills_the_process_where_it_is_decoded_is_given_up_too(monkeypatch):
    async def scene():
        store, lives = None, 0

        def deadly(message):
            if message.sequence_number == 3:
                raise MemoryError
            return decode(message)

        decode = pipeline.decode
        monkeypatch.setattr(pipeline, "decode", deadly)
        while lives < 10:
            lives += 1
            died = False
            stage = Stage(store=store, window=0)
            store = stage.store
            try:
                async with stage.open():
                    claim = await stage.begin(f"life {lives}")
                    await stage.play(claim, *(message(n, blob_event(f"s{n}", n)) for n in range(1, 8)))
                    await asyncio.sleep(30)
            except* MemoryError:
                died = True
            if not died:
                break
        assert [letter.sequence_number for letter in await stage.dead_letters()] == [3]
        assert await stage.checkpoint() == 7

    run(scene())


class SlowSink(FakeSink):
    async def deliver(self, delivery: Delivery) -> None:
        await asyncio.sleep(3)
        await super().deliver(delivery)


def test_processes_that_are_killed_by_others_again_and_again_give_up_nothing():
    async def scene():
        store, delivered, lives = None, set(), 0
        while len(delivered) < 30:
            lives += 1
            stage = Stage({"out": SlowSink()}, store=store, window=0, lanes={"concurrency": 1})
            store = stage.store
            async with stage.open():
                claim = await stage.begin(f"life {lives}")
                await stage.play(claim, *(message(n, blob_event(f"s{n}", n)) for n in range(1, 31)))
                await asyncio.sleep(8)
            delivered.update(stage.sinks["out"].ids)
            assert lives < 60
        assert await stage.dead_letters() == []

    run(scene())


def test_an_array_with_a_bad_element_and_one_that_kills_keeps_a_letter_for_each():
    async def scene():
        store, lives = None, 0
        body = message(1, "no event", blob_event("a", 1), blob_event("b", 1))
        while lives < 10:
            lives += 1
            sink = DeadlySink("b-1")
            stage = Stage({"out": sink}, store=store, window=0)
            store = stage.store
            async with stage.open():
                claim = await stage.begin(f"life {lives}")
                await stage.play(claim, body)
                await asyncio.sleep(30)
                if not sink.killed.is_set():
                    break
        letters = {(letter.reason, letter.index) for letter in await stage.dead_letters()}
        assert letters == {("not_an_object", 0), ("kills_the_worker", None)}
        assert await stage.checkpoint() == 1

    run(scene())
