"""`changed`: what a sink has already is not delivered again, also after a crash, and nothing new is taken for it."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.fakes import FakeSink
from tests.memory_store import Contents, MemoryStore
from tests.pipeline.stage import PARTITION, Stage, blob_event, message
from tests.virtual_time import run
from worker import state as codec
from worker.errors import Rejected, SinkUnavailable
from worker.events import Message
from worker.route import RouteSpec
from worker.sinks import Delivery

CHANGED = RouteSpec("changed", ("out",), changed=("data", "etag"))
EVERY = RouteSpec("every", ("audit",))


def version(number: int, etag: str | None, *, subject: str = "a") -> dict[str, Any]:
    """A write of a blob."""
    event = blob_event(subject, number)
    if etag is not None:
        event["data"]["eTag"] = etag
    return event


def versions(*etags: str | None, first: int = 0) -> list[Message]:
    """One after the other, in messages of their own."""
    return [message(first + number, version(first + number, etag)) for number, etag in enumerate(etags)]


def stage(*routes: RouteSpec, **given: Any) -> Stage:
    names = dict.fromkeys(sink for route in routes for sink in route.sinks)
    given.setdefault("sinks", {name: FakeSink() for name in names})
    return Stage(routes=routes, **{"window": 0, **given})


async def played(playing: Stage, *messages: Message) -> list[str]:
    claim = await playing.begin()
    for each in messages:
        await playing.play(claim, each)
    await asyncio.sleep(5)
    return playing.sinks["out"].ids


def unchanged(playing: Stage) -> float:
    return playing.count("worker_unchanged_events_total", route="changed", sink="out")


def test_an_event_with_the_value_that_was_delivered_last_is_unchanged():
    async def scene():
        async with stage(CHANGED, EVERY).open() as playing:
            assert await played(playing, *versions("A", "A", "B", "A", "A")) == ["a-0", "a-2", "a-3"]
            assert playing.sinks["audit"].ids == ["a-0", "a-1", "a-2", "a-3", "a-4"]
            assert unchanged(playing) == 2

    run(scene())


def test_subjects_and_sinks_are_told_apart_and_it_is_counted():
    async def scene():
        both = RouteSpec("changed", ("out", "other"), changed=("data", "etag"))
        down = FakeSink(refuse=lambda _: Rejected("400"))
        async with stage(both, sinks={"out": FakeSink(), "other": down}).open() as playing:
            events = [version(0, "A"), version(0, "A", subject="b"), version(1, "A")]
            ids = await played(playing, message(0, *events))
            assert sorted(ids) == ["a-0", "b-0"]
            assert len(down.attempts) == 3
            settled = playing.count("worker_settled_events_total", partition="0", outcome="unchanged")
            assert (settled, unchanged(playing)) == (0, 1)

    run(scene())


def test_an_event_without_the_value_is_delivered_and_makes_it_unknown():
    async def scene():
        async with stage(CHANGED).open() as playing:
            assert await played(playing, *versions("A", None, None, "A", "A")) == ["a-0", "a-1", "a-2", "a-3"]

    run(scene())


def test_what_is_given_up_makes_it_unknown_because_it_may_have_arrived():
    async def scene():
        sink = FakeSink(refuse=lambda each: Rejected("400") if each.released.placed.event.id == "a-1" else None)
        async with stage(CHANGED, sinks={"out": sink}).open() as playing:
            assert await played(playing, *versions("A", "B", "A", "A")) == ["a-0", "a-2"]
            assert unchanged(playing) == 1

    run(scene())


def test_an_attempt_that_failed_is_no_delivery():
    async def scene():
        async with stage(CHANGED, sinks={"out": FakeSink([SinkUnavailable("503")])}).open() as playing:
            assert await played(playing, *versions("A", "A")) == ["a-0"]
            assert unchanged(playing) == 1

    run(scene())


def test_the_decision_waits_until_the_one_before_has_ended():
    async def scene():
        sink = FakeSink()
        sink.open_gate.clear()
        async with stage(CHANGED, sinks={"out": sink}).open() as playing:
            claim = await playing.begin()
            await playing.play(claim, *versions("A", "B", "A", "A", "B"))
            assert (len(sink.attempts), unchanged(playing)) == (1, 0)
            sink.open_gate.set()
            await asyncio.sleep(5)
            assert sink.ids == ["a-0", "a-1", "a-2", "a-4"]

    run(scene())


def test_a_late_event_is_compared_and_says_nothing_of_what_the_sink_has():
    async def scene():
        async with stage(CHANGED).open() as playing:
            claim = await playing.begin()
            for number, (order, etag) in enumerate([(5, "A"), (2, "A"), (3, "B"), (6, "A"), (7, "B")]):
                await playing.play(claim, message(number, version(order, etag), at=number))
            await asyncio.sleep(5)
            assert playing.sinks["out"].ids == ["a-5", "a-3", "a-7"]

    run(scene())


def test_a_delivery_by_another_route_makes_it_unknown():
    async def scene():
        small = replace(CHANGED, sources=("/none",))
        routes = [small, RouteSpec("rest", ("out",))]
        async with stage(CHANGED).open() as first:
            assert await played(first, *versions("A")) == ["a-0"]
        async with stage(*routes, store=first.store).open() as second:
            assert await played(second, *versions("B", first=1)) == ["a-1"]
        async with stage(CHANGED, store=first.store).open() as third:
            assert await played(third, *versions("A", first=2)) == ["a-2"]

    run(scene())


def test_joining_a_digest_is_being_delivered():
    async def scene():
        quiet = {"out": {"group_by": [], "group_wait_seconds": 10, "group_interval_seconds": 60}}
        async with stage(CHANGED, quiet=quiet).open() as playing:
            claim = await playing.begin()
            await playing.play(claim, *versions("A", "A", "B"))
            await asyncio.sleep(20)
            [digest] = playing.sinks["out"].accepted
            assert [row["id"] for row in digest.released.placed.event.data["events"]] == ["a-0", "a-2"]
            assert playing.count("worker_settled_events_total", partition="0", outcome="unchanged") == 1
            await playing.end(claim)

    run(scene())


def test_a_digest_that_is_given_up_makes_it_unknown_for_those_in_it():
    async def scene():
        contents, refused = Contents(), FakeSink(refuse=lambda _: Rejected("400"))
        quiet = {"out": {"group_by": [], "group_wait_seconds": 10, "group_interval_seconds": 60}}
        store = MemoryStore(contents)
        async with stage(CHANGED, store=store, sinks={"out": refused}, quiet=quiet).open() as first:
            await played(first, *versions("A"))
            await asyncio.sleep(20)
            assert [letter.type for letter in await first.dead_letters()] == ["Worker.Digest"]
        async with stage(CHANGED, store=MemoryStore(contents)).open() as second:
            assert await played(second, *versions("A", first=1)) == ["a-1"]

    run(scene())


def test_what_a_mute_window_drops_makes_it_unknown():
    async def scene():
        quiet = {"out": {"mute": [{"then": "drop", "let_through": "warning"}]}}
        async with stage(CHANGED).open() as first:
            assert await played(first, *versions("A")) == ["a-0"]
        async with stage(CHANGED, store=first.store, quiet=quiet).open() as second:
            assert await played(second, *versions("B", first=1)) == []
        async with stage(CHANGED, store=first.store).open() as third:
            assert await played(third, *versions("A", first=2)) == ["a-2"]

    run(scene())


def test_with_only_latest_what_comes_back_to_the_old_value_is_not_delivered():
    async def scene():
        async with stage(replace(CHANGED, only="latest")).open() as playing:
            claim = await playing.begin()
            await playing.play(claim, *versions("A"))
            await playing.play(claim, message(1, version(1, "B"), version(2, "A"), at=1))
            await playing.play(claim, message(2, version(3, "A"), version(4, "B"), at=2))
            await asyncio.sleep(30)
            assert playing.sinks["out"].ids == ["a-0", "a-4"]

    run(scene())


# --- from life to life


def test_the_next_owner_knows_it_also_when_it_comes_from_a_part():
    async def scene():
        async with stage(CHANGED).open() as first:
            claim = await first.begin()
            for start in range(0, 1_000, 100):
                await first.play(
                    claim, *(message(n, version(0, "A", subject=f"s{n}")) for n in range(start, start + 100))
                )
                await asyncio.sleep(1)
            await first.end(claim)
            assert (await first.state()).memory_parts
        async with stage(CHANGED, store=first.store).open() as second:
            claim = await second.begin("second")
            again = [message(1_000 + n, version(1, "AB"[n % 2], subject=f"s{n}")) for n in range(0, 1_000, 99)]
            await second.play(claim, *again)
            await asyncio.sleep(5)
            assert second.sinks["out"].ids == [f"s{n}-1" for n in range(99, 1_000, 198)]
            await second.end(claim)

    run(scene())


def test_a_version_that_knows_nothing_of_it_leaves_nothing_that_could_be_wrong():
    """Such a one carries on the parts of the memory and says nothing about them: it may have delivered since."""

    async def scene(*, in_a_part: bool) -> None:
        crowd = [message(n, version(0, "A", subject=f"s{n}")) for n in range(700)] if in_a_part else []
        async with stage(CHANGED).open() as first:
            claim = await first.begin()
            await first.play(claim, *versions("A"))
            for start in range(1, len(crowd), 100):
                await first.play(claim, *crowd[start : start + 100])
                await asyncio.sleep(1)
            await first.end(claim)
        stored = await first.store.read_state(PARTITION)
        assert stored is not None
        written = codec.decode(stored.payload)
        assert bool(written.memory_parts) is in_a_part
        older = replace(written, values_from=None)  # as its own writes would be
        await first.store.write_state(PARTITION, codec.encode(older), expected=stored.version)
        async with stage(CHANGED, store=first.store).open() as second:
            assert await played(second, *versions("A", "A", first=1_000)) == ["a-1000"]
            await second.end(await second.begin("again"))
        async with stage(CHANGED, store=first.store).open() as third:
            assert await played(third, *versions("A", first=1_002)) == []
            await third.play(await third.begin("again"), message(1_003, version(1, "A", subject="s650")))
            await asyncio.sleep(5)
            assert third.sinks["out"].ids == (["s650-1"])

    run(scene(in_a_part=False))
    run(scene(in_a_part=True))


def test_when_some_of_the_memory_is_lost_an_earlier_value_does_not_count():
    async def scene():
        async with stage(CHANGED).open() as first:
            claim = await first.begin()
            await first.play(claim, *versions("A"))
            for start in range(1, 700, 100):
                crowd = (message(n, version(0, "A", subject=f"s{n}")) for n in range(start, start + 100))
                await first.play(claim, *crowd)
                await asyncio.sleep(1)
            await first.end(claim)
            assert (await first.state()).memory_parts
        async with stage(CHANGED, store=first.store).open() as second:
            assert await played(second, *versions("B", first=1_000)) == ["a-1000"]
        stored = await first.store.read_state(PARTITION)
        assert stored is not None
        damaged = replace(codec.decode(stored.payload), memory_since={"format": 1})
        await first.store.write_state(PARTITION, codec.encode(damaged), expected=stored.version)
        async with stage(CHANGED, store=first.store).open() as third:
            assert await played(third, *versions("A", "A", first=2_000)) == ["a-2000"]

    run(scene())


def test_with_only_latest_what_an_earlier_life_may_have_delivered_is_not_passed_over():
    """It was delivered, and that was not saved: the sink has another value than what is remembered."""

    async def scene():
        route = replace(CHANGED, only="latest")
        async with stage(route, window=5).open() as first:
            claim = await first.begin()
            await first.play(claim, *versions("A"))
            await asyncio.sleep(8)
            first.store.down = True
            await first.play(claim, message(1, version(1, "B"), at=8))
            await asyncio.sleep(8)
            assert first.sinks["out"].ids == ["a-0", "a-1"]
        first.store.down = False
        async with stage(route, window=5, store=first.store).open() as second:
            claim = await second.begin("second")
            await second.play(claim, message(1, version(1, "B"), at=8), message(2, version(2, "A"), at=8))
            await asyncio.sleep(30)
            assert second.sinks["out"].ids == ["a-1", "a-2"]

    run(scene())


def test_the_same_when_the_state_is_lost_and_the_checkpoint_says_that_somebody_was_there():
    async def scene():
        route = replace(CHANGED, only="latest")
        async with stage(route, window=5, ledger=True).open() as first:
            claim = await first.begin()
            await first.play(claim, message(0, version(0, None, subject="b")))
            await asyncio.sleep(20)
            assert await first.checkpoint() == 0
            await first.play(claim, message(1, version(1, "A"), at=20))
            await asyncio.sleep(8)
            await first.play(claim, message(2, version(2, "B"), at=28))
            await asyncio.sleep(8)
            assert first.sinks["out"].ids == ["b-0", "a-1", "a-2"]
            kept = first.store.contents.checkpoints[PARTITION]
        first.store.contents.states.clear()
        first.store.contents.checkpoints[PARTITION] = kept._replace(sequence_number=0, offset="0")
        async with stage(route, window=5, ledger=True, store=first.store).open() as second:
            claim = await second.begin("second")
            await second.play(claim, message(1, version(1, "A"), at=20))
            both = [message(2, version(2, "B"), at=28), message(3, version(3, "A"), at=28)]
            await second.play(claim, *both)
            await asyncio.sleep(30)
            assert second.sinks["out"].ids == ["a-3"]

    run(scene())


def test_without_such_a_route_nothing_is_remembered():
    async def scene():
        async with stage(RouteSpec("all", ("out",))).open() as playing:
            claim = await playing.begin()
            await playing.play(claim, *versions("A", "A"))
            await asyncio.sleep(5)
            await playing.end(claim)
            state = await playing.state()
            assert (state.values_from, "values" in state.memory_since) == (None, False)

    run(scene())


class _Dying(MemoryStore):
    """Counts its calls; from one of them on nothing comes back: the process is dead."""

    def __init__(self, contents: Contents, dies_at: int | None) -> None:
        super().__init__(contents)
        self.steps = 0
        self.dead = asyncio.Event()
        self._dies_at = dies_at

    async def step(self) -> None:
        if self.steps == self._dies_at:
            self.dead.set()
        self.steps += 1
        if self.dead.is_set():
            await asyncio.Event().wait()
        await asyncio.sleep(0.01)

    async def _reach(self, _name: str) -> None:
        await self.step()

    async def _answered(self, _name: str) -> None:
        await self.step()


class _Mirror(FakeSink):
    """A destination that has what it was sent last; dies with its process. Now and then it fails, before or after."""

    def __init__(self, store: _Dying, log: list[tuple[str, str]]) -> None:
        super().__init__()
        self._store = store
        self._log = log
        self._tries = 0

    async def deliver(self, delivery: Delivery) -> None:
        event = delivery.released.placed.event
        self._tries += 1
        await self._store.step()
        if self._tries % 4 == 2:
            raise SinkUnavailable("nothing was done")
        self._log.append((event.id, event.data["eTag"]))
        await self._store.step()
        if self._tries % 4 == 0:
            raise SinkUnavailable("the answer got lost")


_ETAGS = "ABAAABA"


async def _life(
    contents: Contents, log: list[tuple[str, str]], route: RouteSpec, *, dies_at: int | None, first: bool
) -> int:
    """A process that reads all there is: the first one message after the other, another one at once."""
    store = _Dying(contents, dies_at)
    async with Stage({"out": _Mirror(store, log)}, store=store, routes=[route], window=1).open() as playing:
        claim = await playing.begin("first" if first else "second", taken=False)
        waiting = asyncio.create_task(store.dead.wait())
        while claim.tenure is None and not store.dead.is_set():
            await asyncio.sleep(0.05)
        # Two are enqueued at one time: when they are read together they are released together.
        messages = [message(n, version(n, etag), at=10 * (n + n % 2)) for n, etag in enumerate(_ETAGS)]
        for some in [[each] for each in messages] if first else [messages]:
            if not store.dead.is_set():
                await playing.play(claim, *some)
                await asyncio.wait({waiting}, timeout=8)
        await asyncio.wait({waiting}, timeout=100)
        waiting.cancel()
        if not store.dead.is_set():
            await playing.end(claim)
    return store.steps


@pytest.mark.parametrize("route", [CHANGED, replace(CHANGED, only="latest")])
def test_dying_at_any_await_the_sink_ends_with_the_newest_value(route: RouteSpec):
    async def lives(dies_at: int | None) -> int:
        contents, log = Contents(), list[tuple[str, str]]()
        steps = await _life(contents, log, route, dies_at=dies_at, first=True)
        await asyncio.sleep(100)
        await _life(contents, log, route, dies_at=None, first=False)
        assert log[-1][1] == _ETAGS[-1], (dies_at, log)
        return steps

    async def scene() -> None:
        steps = await lives(None)
        for dies_at in range(steps):
            await lives(dies_at)
        assert steps > 20

    run(scene())
