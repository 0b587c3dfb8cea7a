"""Expectations across subjects and silent sources, through two whole partitions in virtual time."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.fakes import FakeSink
from tests.memory_store import Contents, MemoryStore
from tests.pipeline import stage as stages
from tests.pipeline.digests import GROUPED, told
from tests.pipeline.stage import Stage
from tests.pipeline.table import DEPLOYED, SILENT, SOURCE
from tests.virtual_time import run, settle_down
from worker import correlations
from worker.claim import Claim
from worker.errors import SinkUnavailable, StoreUnavailable
from worker.events import Event, Message, PartitionId
from worker.expect import ExpectRule
from worker.missed import time_text
from worker.noting import NOTING
from worker.route import Routes, RouteSpec
from worker.sinks import Delivery

HOUR = 3600.0
LOOP_BEGINS = 1000.0
START = stages.START + LOOP_BEGINS
P0, P1 = PartitionId("0"), PartitionId("1")
ROW = correlations.row_name("model-is-deployed", SOURCE.casefold(), "m:1")


def message(partition: PartitionId, number: int, *events: object, at: float = 0.0) -> Message:
    return replace(stages.message(number, *events, at=LOOP_BEGINS + at), partition=partition)


def event(kind: str, at: float, **data: Any) -> dict[str, Any]:
    return {
        "id": f"{kind}-{at:g}",
        "topic": SOURCE,
        "subject": f"{kind}/{data}",
        "eventType": kind,
        "eventTime": time_text(START + at),
        "data": data,
    }


class Scene(Stage):
    """Two partitions of one process."""

    def __init__(self, *args: Any, rules: tuple[ExpectRule, ...] = (DEPLOYED,), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.now(expect=rules)
        self.partitions = [P0, P1]
        self.numbers = {P0: -1, P1: -1}

    async def begin_both(self) -> tuple[Claim, Claim]:
        return await self.begin("zero", partition=P0), await self.begin("one", partition=P1)

    async def take_in(self, claim: Claim, content: dict[str, Any], *, at: float) -> None:
        """The event is the next one of the claim's partition; the order stage releases it."""
        self.numbers[claim.partition] += 1
        await self.play(claim, message(claim.partition, self.numbers[claim.partition], content, at=at))

    async def pass_by(self, seconds: float = 0.0) -> None:
        """Time goes by; the hub has nothing more, and the table is looked at."""
        for part in (seconds, 11.0, 11.0):
            await asyncio.sleep(part)
            for claim in self.claims:
                if claim.held:
                    asked_at = asyncio.get_running_loop().time()
                    claim.hub_end(self.numbers[claim.partition], START, empty=False, asked_at=asked_at)
            await settle_down()

    def missed(self, sink: str = "out") -> list[Event]:
        events = [each.released.placed.event for each in self.sinks[sink].accepted]
        return [each for each in events if each.type == "Worker.ExpectationMissed"]

    def home(self) -> Claim:
        """Of the row of model 1."""
        return next(claim for claim in reversed(self.claims) if claim.partition == self.board.home(ROW))


def play(scene: Callable[[Scene], Any], **options: Any) -> None:
    async def whole() -> None:
        async with Scene(**options).open() as stage:
            assert isinstance(stage, Scene)
            await scene(stage)

    run(whole())


def test_what_does_not_come_on_another_partition_is_told_once_with_the_first_event_inside():
    async def scene(stage: Scene) -> None:
        zero, one = await stage.begin_both()
        first = event("Registered", 0, model="m:1")
        await stage.take_in(zero, first, at=0)
        await stage.take_in(zero, event("Registered", 1, model="m:2"), at=1)
        await stage.take_in(one, event("Deployed", 60, models="m:2"), at=60)
        await stage.pass_by(HOUR - 100)
        assert stage.missed() == []
        await stage.pass_by(200)
        (told,) = stage.missed()
        assert told.source == "/worker/events/$Default"
        assert told.subject == "expectations/model-is-deployed/m:1"
        assert told.data == {
            "rule": "model-is-deployed",
            "within": "1h",
            "key": "m:1",
            "source": SOURCE.casefold(),
            "after": first,
            "due": time_text(START + HOUR),
        }
        await stage.pass_by(3 * HOUR)
        assert len(stage.missed()) == 1
        assert [name for name in stage.store.contents.rows if not name.startswith("clock/")] == []

    play(scene)


def test_an_event_that_is_to_be_noted_is_not_settled_before_its_row_is_written():
    class Store(MemoryStore):
        refuses = True

        async def _reach(self, name: str) -> None:
            if name == "write_row" and self.refuses:
                raise StoreUnavailable("no rows")

    async def scene(stage: Scene) -> None:
        assert isinstance(stage.store, Store)
        zero, one = await stage.begin_both()
        await stage.take_in(zero, event("Registered", 0, model="m:1"), at=0)
        await asyncio.sleep(30)
        assert (await stage.state()).watermark is None
        assert len(stage.sinks["out"].accepted) == 1
        await stage.take_in(one, event("Deployed", 60, models="m:1"), at=60)
        await stage.pass_by(2 * HOUR)
        assert zero._pipeline.through.noted() <= START

        stage.store.refuses = False
        await stage.pass_by(300)
        assert (await stage.state()).watermark is not None
        assert stage.missed() == []
        assert len(stage.sinks["out"].accepted) == 2

    play(scene, store=Store())


def test_a_partition_that_nobody_holds_holds_it_up_until_its_events_are_read():
    async def scene(stage: Scene) -> None:
        zero = await stage.begin("zero", partition=P0)
        await stage.take_in(zero, event("Registered", 0, model="m:1"), at=0)
        await stage.pass_by(5 * HOUR)
        assert stage.missed() == []
        assert stage.count("worker_expectations_waiting_seconds", waits_for="1") > 3 * HOUR
        assert stage.count("worker_expectations_waiting_seconds", waits_for="0") == 0
        one = await stage.begin("one", partition=P1)
        stage.numbers[P1] = 1  # two are there, of hours ago
        await stage.pass_by(60)
        assert stage.missed() == []
        await stage.play(
            one,
            message(P1, 0, event("Deployed", 60, models="m:1"), at=60),
            message(P1, 1, event("Deployed", 70, models="other"), at=5 * HOUR),
        )
        await stage.pass_by(60)
        assert stage.missed() == []
        assert stage.count("worker_expectations_total", rule="model-is-deployed", outcome="met") == 1
        assert stage.count("worker_expectations_waiting_seconds", waits_for="1") == 0

    play(scene)


def test_whoever_takes_the_home_over_tells_the_sinks_that_do_not_know_under_the_same_key():
    class Down(FakeSink):
        down = True

        async def deliver(self, delivery: Delivery) -> None:
            if self.down and delivery.released.placed.event.type == "Worker.ExpectationMissed":
                raise SinkUnavailable("503")
            await super().deliver(delivery)

    contents, down = Contents(), Down()
    keys = []

    async def first(stage: Scene) -> None:
        zero, _ = await stage.begin_both()
        await stage.take_in(zero, event("Registered", 0, model="m:1"), at=0)
        await stage.pass_by(HOUR + 60)
        assert len(stage.missed("up")) == 1
        keys.append(stage.sinks["up"].accepted[-1].idempotency_key)
        # and the process is gone

    async def second(stage: Scene) -> None:
        await asyncio.sleep(HOUR + 300)
        for partition in (P0, P1):
            await stage.begin("again", partition=partition)
        stage.numbers = {P0: 0, P1: -1}
        await stage.pass_by(60)
        assert stage.missed("up") == []
        assert len(stage.missed("down")) == 1
        await stage.pass_by(60)
        (missed,) = (each for each in stage.board.marks if each == ROW)
        assert str(stage.board.marks[missed]).startswith("old/")

    play(first, sinks={"up": FakeSink(), "down": down}, store=MemoryStore(contents))
    down.down = False
    play(second, sinks={"up": FakeSink(), "down": FakeSink()}, store=MemoryStore(contents))
    assert len(set(keys)) == 1


def test_an_event_that_is_only_noted_is_settled_then():
    async def scene(stage: Scene) -> None:
        routes = Routes([RouteSpec("none", ("out",), None, ("/nowhere",))])
        stage.now(routes=routes)
        zero, _ = await stage.begin_both()
        await stage.take_in(zero, event("Registered", 0, model="m:1"), at=0)
        await asyncio.sleep(30)
        assert await stage.checkpoint() == 0
        assert stage.sinks["out"].accepted == []
        assert ROW in stage.store.contents.rows
        assert stage.count("worker_deliveries_total", sink=NOTING, outcome="accepted") == 1

    play(scene)


def test_a_sign_of_life_stands_in_the_state_and_counts_from_either_partition():
    async def scene(stage: Scene) -> None:
        zero, one = await stage.begin_both()
        await stage.pass_by()
        await stage.take_in(one, event("Anything", 1800), at=1800)
        await stage.pass_by(1800)
        await stage.end(one)
        again = await stage.begin("again", partition=P1)
        await stage.pass_by(1800)
        assert stage.missed() == []
        await stage.pass_by(1800)
        (told,) = stage.missed()
        assert told.data["last_seen"] == time_text(START + 1800)
        assert told.subject.startswith("expectations/silent/")
        await stage.pass_by(5 * HOUR)
        assert len(stage.missed()) == 1

        now = round(asyncio.get_running_loop().time() - LOOP_BEGINS)
        await stage.take_in(again, event("Anything", now), at=now)
        await stage.pass_by(HOUR - 60)
        assert len(stage.missed()) == 1
        await stage.pass_by(120)
        assert [each.data["last_seen"] for each in stage.missed()][1:] == [time_text(START + now)]
        del zero

    play(scene, rules=(SILENT,))


def test_what_joined_a_digest_is_noted_as_told_only_when_the_digest_is_in_the_stored_state():
    class Store(MemoryStore):
        """The process dies as soon as a row says that its expectation was told."""

        async def _answered(self, name: str) -> None:
            if name == "write_row" and self.contents.row_marks.get(ROW, "").startswith("old/"):
                self.down = True

    contents, quiet = Contents(), {"out": {"group_by": [], "group_wait_seconds": 600, "group_interval_seconds": 600}}

    async def first(stage: Scene) -> None:
        zero, _ = await stage.begin_both()
        await stage.take_in(zero, event("Registered", 0, model="m:1"), at=0)
        await stage.pass_by(HOUR + 60)
        assert stage.store.down

    async def second(stage: Scene) -> None:
        await asyncio.sleep(HOUR + 300)
        for partition in (P0, P1):
            await stage.begin("again", partition=partition)
        stage.numbers = {P0: 0, P1: -1}
        await stage.pass_by(900)
        told_of = [row for each in stage.sinks["out"].accepted for row in told(each)]
        assert len([each for each in told_of if not each.startswith("Registered")]) == 1

    play(first, store=Store(contents), quiet=quiet)
    play(second, store=MemoryStore(contents), quiet=quiet)


class Dying(MemoryStore):
    """The process dies at a write: before or after it takes effect."""

    writes, at, after = 0, -1, False

    async def _reach(self, name: str) -> None:
        if name.startswith(("write", "delete")):
            self.writes += 1
            self.down = self.down or (self.writes == self.at and not self.after)

    async def _answered(self, name: str) -> None:
        if self.writes >= self.at >= 0 and name.startswith(("write", "delete")):
            self.down = True


SOON = replace(DEPLOYED, written="5m", seconds=300.0)
"""Hours in which nothing is written hold no moment to die in, and each life would play them."""


async def deployed_is_missing(stage: Scene) -> None:
    """Model 1 is registered and not deployed, model 2 is both; read again from the start where that is asked for."""
    asked = [await stage.begin(f"{each}", partition=each, taken=False) for each in (P0, P1)]
    await asyncio.sleep(60)
    for claim in asked:
        if not claim.held:
            return  # it died at once
    zero, one = asked
    stage.numbers = {P0: -1, P1: -1}
    await stage.take_in(zero, event("Registered", 0, model="m:1"), at=0)
    await stage.take_in(zero, event("Registered", 1, model="m:2"), at=1)
    await stage.take_in(one, event("Deployed", 60, models="m:2"), at=60)
    await stage.pass_by(SOON.seconds + 60)
    await stage.pass_by(300)


@pytest.mark.parametrize("quiet", [{}, GROUPED])
def test_whenever_the_process_dies_what_is_missing_is_told_and_nothing_else(quiet: dict[str, Any]):
    def told_of(store: MemoryStore) -> list[str]:
        found = []

        async def life(stage: Scene) -> None:
            await deployed_is_missing(stage)
            for each in stage.sinks["out"].accepted:
                content = each.released.placed.event
                rows = content.data["events"] if content.type == "Worker.Digest" else [{"subject": content.subject}]
                found.extend(row["subject"] for row in rows if row["subject"].startswith("expectations/"))

        play(life, store=store, quiet=quiet, rules=(SOON,))
        return found

    whole = Dying()
    assert told_of(whole) == ["expectations/model-is-deployed/m:1"]
    for number in range(1 + bool(quiet), whole.writes + 1, 2):
        for after in (False, True):
            contents = Contents()
            store = Dying(contents)
            store.at, store.after = number, after
            found = told_of(store) + told_of(MemoryStore(contents))
            assert set(found) == {"expectations/model-is-deployed/m:1"}, (number, after)
            assert len(found) <= 2, (number, after)


def test_a_partition_that_is_left_says_first_what_joined_a_digest():
    marks = []

    class Slow(MemoryStore):
        async def _reach(self, name: str) -> None:
            if name == "write_state":
                await asyncio.sleep(0.3)

        async def _answered(self, name: str) -> None:
            if name == "write_state":
                marks.append(self.contents.row_marks.get(ROW, ""))

    contents, quiet = Contents(), {"out": {"group_by": [], "group_wait_seconds": 600, "group_interval_seconds": 600}}

    async def left(stage: Scene) -> None:
        zero, one = await stage.begin_both()
        await stage.take_in(zero, event("Registered", 0, model="m:1"), at=0)
        home = {P0: zero, P1: one}[stage.home().partition]
        await asyncio.sleep(HOUR)
        until = asyncio.get_running_loop().time() + 60
        while not home.overdue.waits_for_state and asyncio.get_running_loop().time() < until:
            for claim in (zero, one):
                number, asked_at = stage.numbers[claim.partition], asyncio.get_running_loop().time()
                claim.hub_end(number, START, empty=False, asked_at=asked_at)
            await asyncio.sleep(0.1)
        assert contents.row_marks[ROW].startswith("telling/")
        await stage.end(home)
        assert marks[-1].startswith("old/")  # when its state says that it is free

    play(left, store=Slow(contents), quiet=quiet)
