"""Expectations over one subject, through a whole partition in virtual time: told once, over crashes and backlogs."""

import asyncio
from collections.abc import Callable
from typing import Any

from tests.fakes import FakeSink
from tests.fate import Fate, FatefulStore
from tests.memory_store import Contents, MemoryStore
from tests.pipeline import stage as stages
from tests.pipeline.stage import PARTITION, Stage
from tests.virtual_time import run, settle_down
from worker import state as codec
from worker.claim import Claim
from worker.errors import SinkUnavailable, StoreUnavailable
from worker.events import Event, Message
from worker.expect import ExpectRule
from worker.filters import compile_filter
from worker.missed import time_text
from worker.route import Routes, RouteSpec
from worker.sinks import Delivery

HOUR = 3600.0
LOOP_BEGINS = 1000.0
START = stages.START + LOOP_BEGINS


def message(number: int, *events: object, at: float = 0.0) -> Message:
    return stages.message(number, *events, at=LOOP_BEGINS + at)


def rule(name: str = "run-ends", seconds: float = HOUR, after: str = "Started", then: str = "Ended") -> ExpectRule:
    return ExpectRule(
        name=name,
        written=f"{seconds:g}s",
        seconds=seconds,
        listed=None,
        sources=None,
        after=compile_filter({"includedEventTypes": [after]}),
        then=compile_filter({"includedEventTypes": [then]}),
    )


def event(type_: str, subject: str, at: float, **more: Any) -> dict[str, Any]:
    return {
        "id": f"{type_}-{subject}-{at:g}",
        "topic": "/Some/Topic",
        "subject": subject,
        "eventType": type_,
        "eventTime": time_text(START + at),
        "data": {"from": subject},
        **more,
    }


def started(subject: str, at: float = 0.0, **more: Any) -> dict[str, Any]:
    return event("Started", subject, at, **more)


def ended(subject: str, at: float) -> dict[str, Any]:
    return event("Ended", subject, at)


class Scene(Stage):
    """A stage with rules, on which the hub says how far it is whenever it is asked."""

    def __init__(self, *args: Any, rules: tuple[ExpectRule, ...] = (rule(),), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.now(expect=rules)

    def missed(self, sink: str = "out") -> list[str]:
        return [each.subject or "" for each in self.missed_events(sink)]

    def missed_events(self, sink: str = "out") -> list[Event]:
        events = [each.released.placed.event for each in self.sinks[sink].accepted]
        return [each for each in events if each.type == "Worker.ExpectationMissed"]

    def counted(self, outcome: str, name: str = "run-ends") -> float:
        return self.count("worker_expectations_total", rule=name, outcome=outcome)


def ask_hub(claim: Claim, number: int, *, empty: bool = False) -> None:
    """The hub is asked now, and says that this is its last message."""
    now = asyncio.get_running_loop().time()
    claim.hub_end(number, START + now, empty=empty, asked_at=now)


async def pass_seconds(claim: Claim, seconds: float, number: int) -> None:
    """Time goes by; then the hub is asked, and the pipeline looks."""
    await asyncio.sleep(seconds)
    ask_hub(claim, number)
    await asyncio.sleep(6)


def play(scene: Callable[[Scene], Any], **options: Any) -> None:
    async def whole() -> None:
        async with Scene(**options).open() as stage:
            assert isinstance(stage, Scene)
            await scene(stage)

    run(whole())


def test_what_does_not_come_is_told_once_with_the_first_event_inside():
    async def scene(stage: Scene) -> None:
        claim = await stage.begin()
        await stage.play(claim, message(0, started("a")), message(1, started("b"), at=1))
        await stage.play(claim, message(2, ended("b", HOUR), at=HOUR))
        await pass_seconds(claim, HOUR - 60, 2)
        assert stage.missed() == []
        await pass_seconds(claim, 60, 2)
        await pass_seconds(claim, HOUR, 2)
        (told,) = stage.missed_events()
        assert told.source == "/worker/events/$Default"
        assert told.subject == "expectations/run-ends/a"
        assert told.time == time_text(START + HOUR)
        assert told.data == {
            "rule": "run-ends",
            "within": "3600s",
            "key": "a",
            "source": "/Some/Topic",
            "after": started("a"),
            "due": time_text(START + HOUR),
        }
        assert (stage.counted("met"), stage.counted("missed")) == (1, 1)
        assert stage.count("worker_expectations_pending", partition=PARTITION, rule="run-ends") == 0
        assert (await stage.state()).expectations == {}

    play(scene)


def test_nothing_is_missed_before_the_hub_has_said_that_it_has_nothing_more():
    async def scene(stage: Scene) -> None:
        claim = await stage.begin()
        await stage.play(claim, message(0, started("a")))
        await asyncio.sleep(3 * HOUR)
        assert stage.missed() == []
        await pass_seconds(claim, 0, 1)  # one more is there, and has not come
        assert stage.missed() == []
        await stage.play(claim, message(1, ended("a", HOUR / 2), at=HOUR / 2))
        await pass_seconds(claim, HOUR, 1)
        assert stage.missed() == []
        assert stage.counted("met") == 1

    play(scene)


def test_a_later_message_shows_as_well_that_the_time_is_over():
    async def scene(stage: Scene) -> None:
        claim = await stage.begin()
        await stage.play(claim, message(0, started("a")), message(1, started("b", 2 * HOUR), at=2 * HOUR))
        await asyncio.sleep(6)
        assert stage.missed() == ["expectations/run-ends/a"]

    play(scene)


def test_a_backlog_of_hours_makes_no_false_alarm():
    async def scene(stage: Scene) -> None:
        claim = await stage.begin()
        await asyncio.sleep(10 * HOUR)
        ask_hub(claim, 2)
        await stage.play(claim, message(0, started("a")), last=2)
        await asyncio.sleep(100)
        await stage.play(
            claim, message(1, ended("a", HOUR), at=HOUR), message(2, started("z", 9.5 * HOUR), at=9.5 * HOUR)
        )
        await asyncio.sleep(100)
        assert stage.missed() == []
        assert stage.counted("met") == 1

    play(scene)


def test_what_event_grid_brings_hours_late_has_some_time_to_come_together():
    async def scene(stage: Scene) -> None:
        claim = await stage.begin()
        await asyncio.sleep(10 * HOUR)
        await stage.play(claim, message(0, started("a"), at=10 * HOUR))
        await stage.play(claim, message(1, started("b"), at=10 * HOUR + 100))
        await asyncio.sleep(100)
        await stage.play(claim, message(2, ended("a", HOUR), at=10 * HOUR + 200))
        await pass_seconds(claim, HOUR, 2)
        assert stage.missed() == ["expectations/run-ends/b"]
        assert stage.counted("met") == 1

    play(scene)


def test_an_event_that_waits_for_its_turn_is_not_through():
    async def scene(stage: Scene) -> None:
        claim = await stage.begin()
        await stage.play(claim, message(0, started("a")))
        await stage.play(claim, message(1, ended("a", 59 * 60), at=HOUR - 1))
        ask_hub(claim, 1)
        claim.feed.end = claim.feed.end and claim.feed.end._replace(asked_at=START + 2 * HOUR)
        await settle_down()
        assert stage.missed() == []
        await asyncio.sleep(700)
        assert stage.missed() == []
        assert stage.counted("met") == 1

    play(scene, window=600)


def test_a_second_event_after_the_time_changes_nothing():
    async def scene(stage: Scene) -> None:
        claim = await stage.begin()
        await stage.play(claim, message(0, started("a")), message(1, ended("a", HOUR + 1), at=HOUR + 1))
        await asyncio.sleep(10)
        assert stage.missed() == ["expectations/run-ends/a"]
        assert stage.counted("met") == 0

    play(scene, window=0)


def test_a_heartbeat_is_missed_anew_after_it_came_back():
    async def scene(stage: Scene) -> None:
        claim = await stage.begin()
        beats = [0.0, 0.5, 1.0, 3.0, 3.5]
        for number, hour in enumerate(beats):
            await stage.play(claim, message(number, event("Beat", "a", hour * HOUR), at=hour * HOUR))
        await pass_seconds(claim, 8 * HOUR, len(beats) - 1)
        times = [each.time for each in stage.missed_events()]
        assert times == [time_text(START + 2 * HOUR), time_text(START + 4.5 * HOUR)]

    play(scene, rules=(rule(after="Beat", then="Beat"),), window=0)


def test_a_late_first_event_is_not_watched_and_a_late_second_one_counts():
    async def scene(stage: Scene) -> None:
        claim = await stage.begin()
        await stage.play(claim, message(0, event("Other", "a", 100), at=100))
        await stage.play(claim, message(1, started("a", 50), at=101))
        await stage.play(claim, message(2, started("b", 100), at=102), message(3, event("Other", "b", 300), at=300))
        await stage.play(claim, message(4, ended("b", 200), at=301))
        await stage.play(claim, message(5, started("c", 310), at=310), message(6, ended("c", 305), at=311))
        await pass_seconds(claim, 3 * HOUR, 6)
        assert stage.counted("not_watched_late") == 1
        assert stage.counted("met") == 1
        assert stage.missed() == ["expectations/run-ends/c"]

    play(scene, window=0)


def test_copies_do_not_count():
    async def scene(stage: Scene) -> None:
        claim = await stage.begin()
        await stage.play(claim, message(0, started("a")), message(1, ended("a", 10), at=10))
        await stage.play(claim, message(2, started("a"), at=20))
        await pass_seconds(claim, 3 * HOUR, 2)
        assert stage.missed() == []

    play(scene, window=0)


def test_it_goes_only_to_sinks_whose_routes_take_it():
    async def scene(stage: Scene) -> None:
        only = RouteSpec("alarm", ("alarm",), compile_filter({"includedEventTypes": ["Worker.ExpectationMissed"]}))
        elsewhere = RouteSpec("out", ("out",), None, ("/some/topic",))
        stage.now(routes=Routes([only, elsewhere]))
        claim = await stage.begin()
        await stage.play(claim, message(0, started("a")))
        await pass_seconds(claim, 3 * HOUR, 0)
        assert stage.missed("alarm") == ["expectations/run-ends/a"]
        assert stage.sinks["out"].ids == ["Started-a-0"]

    play(scene, sinks={"out": FakeSink(), "alarm": FakeSink()})


def test_where_no_route_takes_it_it_is_over():
    async def scene(stage: Scene) -> None:
        stage.now(routes=Routes([]))
        claim = await stage.begin()
        await stage.play(claim, message(0, started("a")))
        await pass_seconds(claim, 3 * HOUR, 0)
        await asyncio.sleep(2)
        assert stage.counted("missed") == 1
        assert stage.counted("no_route") == 1
        assert (await stage.state()).expectations == {}

    play(scene)


def test_while_its_sink_does_not_take_it_it_counts_as_untold():
    gate = [SinkUnavailable("503")]

    def down(delivery: Delivery) -> Exception | None:
        return gate[0] if gate and delivery.released.placed.event.type.startswith("Worker") else None

    async def scene(stage: Scene) -> None:
        claim = await stage.begin()
        await stage.play(claim, message(0, started("a")))
        await pass_seconds(claim, 3 * HOUR, 0)
        await asyncio.sleep(10)
        assert stage.count("worker_expectations_untold", partition=PARTITION) == 1
        gate.clear()
        await asyncio.sleep(120)
        assert stage.missed() == ["expectations/run-ends/a"]
        assert stage.count("worker_expectations_untold", partition=PARTITION) == 0

    play(scene, sinks={"out": FakeSink(refuse=down)}, window=0)


def test_one_that_is_given_up_is_a_dead_letter():
    def down(delivery: Delivery) -> Exception | None:
        return SinkUnavailable("503") if delivery.released.placed.event.type.startswith("Worker") else None

    async def scene(stage: Scene) -> None:
        claim = await stage.begin()
        await stage.play(claim, message(0, started("a")))
        await pass_seconds(claim, 3 * HOUR, 0)
        await asyncio.sleep(600)
        (letter,) = await stage.dead_letters()
        assert (letter.type, letter.reason) == ("Worker.ExpectationMissed", "retries_exhausted")
        await asyncio.sleep(2)
        assert (await stage.state()).expectations == {}

    play(scene, sinks={"out": FakeSink(refuse=down)}, lanes={"retry": {"max_attempts": 3}})


def test_a_sink_that_is_told_in_digests_is_told_of_it_there():
    async def scene(stage: Scene) -> None:
        claim = await stage.begin()
        await stage.play(claim, message(0, started("a")))
        await pass_seconds(claim, 3 * HOUR, 0)
        await asyncio.sleep(120)
        told = [each.released.placed.event for each in stage.sinks["out"].accepted]
        assert {each.type for each in told} == {"Worker.Digest"}
        entries = [entry["type"] for each in told for entry in each.data["events"]]
        assert entries == ["Started", "Worker.ExpectationMissed"]
        assert (await stage.state()).expectations == {}

    play(scene, quiet={"out": {"group_by": ["type"], "group_wait_seconds": 30}})


# --- from life to life


def test_it_is_told_in_the_next_life_though_nothing_comes_any_more():
    async def scene() -> None:
        contents = Contents()
        async with Scene(store=MemoryStore(contents)).open() as first:
            claim = await first.begin("first")
            await first.play(claim, message(0, started("a")))
            await asyncio.sleep(10)
            await first.end(claim)
            assert first.counted("missed") == 0  # type: ignore[attr-defined]
        async with Scene(store=MemoryStore(contents)).open() as second:
            assert isinstance(second, Scene)
            claim = await second.begin("second")
            await asyncio.sleep(3 * HOUR)
            assert second.missed() == []
            await pass_seconds(claim, 0, 0)
            assert second.missed() == ["expectations/run-ends/a"]

    run(scene())


def test_an_unsettled_event_that_was_looked_at_is_not_looked_at_again():
    """Else: first event, second event, and the first one read again would be an alarm."""

    def only_ended(delivery: Delivery) -> Exception | None:
        return SinkUnavailable("503") if delivery.released.placed.event.type == "Started" else None

    async def scene() -> None:
        contents, messages = Contents(), [message(0, started("a"), ended("b", 3)), message(1, ended("a", 5), at=5)]
        async with Scene({"out": FakeSink(refuse=only_ended)}, store=MemoryStore(contents), window=0).open() as first:
            assert isinstance(first, Scene)
            claim = await first.begin("first")
            await first.play(claim, *messages)
            await asyncio.sleep(10)
            assert first.counted("met") == 1
            assert (await first.state()).progress["unsettled"]  # type: ignore[index]
        async with Scene(store=MemoryStore(contents), window=0).open() as second:
            assert isinstance(second, Scene)
            claim = await second.begin("second")
            await second.play(claim, *messages)
            await pass_seconds(claim, 3 * HOUR, 1)
            assert "Started-a-0" in second.sinks["out"].ids
            assert second.missed() == []
            assert second.count("worker_settled_events_total", partition=PARTITION, outcome="delivered") == 2

    run(scene())


def test_while_an_earlier_life_is_read_again_nothing_is_missed():
    def nothing_yet(_: Delivery) -> Exception | None:
        return SinkUnavailable("503")

    async def scene() -> None:
        contents = Contents()
        messages = [
            message(0, started("x")),
            message(1, started("a", 1), at=1),
            message(2, ended("a", 2), at=2),
            message(3, started("z", 2 * HOUR), at=2 * HOUR),
        ]
        store = MemoryStore(contents)
        async with Scene({"out": FakeSink(refuse=nothing_yet)}, store=store, window=3 * HOUR).open() as first:
            claim = await first.begin("first")
            await first.play(claim, *messages)
            await asyncio.sleep(10)
        async with Scene(store=MemoryStore(contents), window=0).open() as second:
            assert isinstance(second, Scene)
            claim = await second.begin("second")
            await second.play(claim, *messages[:2], last=3)
            ask_hub(claim, 3)
            await asyncio.sleep(3 * HOUR)
            assert second.missed() == []
            await second.play(claim, *messages[2:])
            await asyncio.sleep(10)
            assert second.missed() == ["expectations/run-ends/x"]

    run(scene())


def test_a_sink_that_was_told_is_not_told_again_in_the_next_life():
    async def scene() -> None:
        contents, slow = Contents(), FakeSink()
        slow.open_gate.clear()
        async with Scene({"out": FakeSink(), "slow": slow}, store=MemoryStore(contents)).open() as first:
            assert isinstance(first, Scene)
            claim = await first.begin("first")
            first.now(routes=_told_of_missed("out", "slow"))
            await first.play(claim, message(0, started("a")))
            await pass_seconds(claim, 3 * HOUR, 0)
            await asyncio.sleep(5)
            (key,) = [each.idempotency_key for each in slow.attempts]
            assert first.missed() == ["expectations/run-ends/a"]
        async with Scene({"out": FakeSink(), "slow": FakeSink()}, store=MemoryStore(contents)).open() as second:
            assert isinstance(second, Scene)
            second.now(routes=_told_of_missed("out", "slow"))
            await second.begin("second")
            await asyncio.sleep(5)
            assert second.missed() == []
            assert [each.idempotency_key for each in second.sinks["slow"].accepted] == [key]
            assert (await second.state()).expectations == {}

    run(scene())


def _told_of_missed(*sinks: str) -> Routes:
    return Routes([RouteSpec("m", sinks, compile_filter({"includedEventTypes": ["Worker.ExpectationMissed"]}))])


def test_nobody_is_told_before_it_is_in_the_stored_state():
    class Refusing(MemoryStore):
        refuses = False

        async def _reach(self, name: str) -> None:
            if name == "write_state" and self.refuses:
                raise StoreUnavailable("not written")

    async def scene() -> None:
        store = Refusing()
        async with Scene(store=store).open() as stage:
            assert isinstance(stage, Scene)
            claim = await stage.begin()
            await stage.play(claim, message(0, started("a")))
            await asyncio.sleep(10)
            store.refuses = True
            await pass_seconds(claim, 3 * HOUR, 0)
            await asyncio.sleep(60)
            assert stage.missed() == []
            store.refuses = False
            await asyncio.sleep(60)
            assert stage.missed() == ["expectations/run-ends/a"]

    run(scene())


def test_what_is_pending_of_a_rule_that_is_gone_is_dropped_and_what_was_missed_is_told():
    async def scene() -> None:
        contents, held = Contents(), FakeSink()
        held.open_gate.clear()
        both = (rule(), rule("longer", 10 * HOUR))
        async with Scene({"out": held}, store=MemoryStore(contents), rules=both).open() as first:
            first.now(routes=_told_of_missed("out"))
            claim = await first.begin("first")
            await first.play(claim, message(0, started("a")))
            await pass_seconds(claim, 3 * HOUR, 0)
        async with Scene(store=MemoryStore(contents), rules=(rule("new"),)).open() as second:
            assert isinstance(second, Scene)
            claim = await second.begin("second")
            await pass_seconds(claim, 20 * HOUR, 0)
            assert second.missed() == ["expectations/run-ends/a"]
            assert second.counted("dropped", "longer") == 1
            assert second.count("worker_expectations_pending", partition=PARTITION, rule="new") == 0

    run(scene())


def test_rules_may_be_exchanged_while_it_runs():
    async def scene(stage: Scene) -> None:
        claim = await stage.begin()
        await stage.play(claim, message(0, started("a")))
        stage.now(expect=(rule("new", 2 * HOUR),))
        await stage.play(claim, message(1, started("b", 10), at=10))
        await pass_seconds(claim, 5 * HOUR, 1)
        assert stage.missed() == ["expectations/new/b"]
        assert stage.counted("dropped") == 1

    play(scene, window=0)


def test_many_first_events_do_not_stand_in_the_hot_state():
    async def scene() -> None:
        contents = Contents()
        many = [message(n, started(f"s{n}", data={"x": "y" * 2000})) for n in range(60)]
        async with Scene(store=MemoryStore(contents), window=0).open() as first:
            claim = await first.begin("first")
            await first.play(claim, *many)
            await asyncio.sleep(5)
            state = await first.state()
            assert state.expectations["parts"]
            assert len(str(state.expectations)) < 20_000
            await first.play(claim, message(60, *[ended(f"s{n}", 20) for n in range(0, 60, 2)], at=20))
            await asyncio.sleep(5)
        async with Scene(store=MemoryStore(contents), window=0).open() as second:
            assert isinstance(second, Scene)
            claim = await second.begin("second")
            await pass_seconds(claim, 3 * HOUR, 60)
            assert sorted(second.missed()) == sorted(f"expectations/run-ends/s{n}" for n in range(1, 60, 2))
            after = second.missed_events()[0].data["after"]
            assert after["data"] == {"x": "y" * 2000}

    run(scene())


def test_the_hub_is_to_be_asked_only_when_its_answer_would_tell_that_something_is_missed():
    async def scene(stage: Scene) -> None:
        claim = await stage.begin()
        assert not claim.wants_hub_end
        await stage.play(claim, message(0, started("a")))
        await asyncio.sleep(HOUR)
        assert not claim.wants_hub_end
        await asyncio.sleep(10)
        assert claim.wants_hub_end
        ask_hub(claim, 1)
        assert claim.wants_hub_end
        ask_hub(claim, 0)
        assert not claim.wants_hub_end
        await asyncio.sleep(10)
        assert stage.missed() == ["expectations/run-ends/a"]
        assert not claim.wants_hub_end

    play(scene)


# --- a death at every step

SOON = 300.0
"""Hours in which nothing is written hold no step to die at, and each life would play them."""


async def _live(stage: Scene, messages: list[Message]) -> None:
    """Until it is told, and that is saved."""
    claim = await stage.begin(taken=True)
    await stage.play(claim, *messages)
    await asyncio.sleep(10)
    await pass_seconds(claim, 2 * SOON, messages[-1].sequence_number)
    await asyncio.sleep(10)


async def _die(contents: Contents, steps: int | None, messages: list[Message]) -> tuple[list[str], Fate]:
    """A life that ends at a step of its store; the keys under which it told of what was missed."""
    fate = Fate(steps)
    async with Scene(store=FatefulStore(contents, fate), window=0, rules=(rule(seconds=SOON),)).open() as stage:
        assert isinstance(stage, Scene)
        living, dying = asyncio.create_task(_live(stage, messages)), asyncio.create_task(fate.died.wait())
        await asyncio.wait({living, dying}, return_when=asyncio.FIRST_COMPLETED)
        for each in (living, dying):
            each.cancel()
        told = stage.sinks["out"].accepted
        return [f"{_subject(each)} {each.idempotency_key}" for each in told if "expectations" in _subject(each)], fate


def _subject(delivery: Delivery) -> str:
    return delivery.released.placed.event.subject or ""


def test_whenever_it_dies_what_is_missed_is_told_under_one_key_and_what_was_met_is_not():
    messages = [
        message(0, started("a"), started("b")),
        message(1, ended("b", 60), at=60),
        message(2, started("c", 70), at=70),
        message(3, ended("c", 80), at=80),
    ]

    async def lives(steps: int | None) -> tuple[list[str], int]:
        contents = Contents()
        told, fate = await _die(contents, steps, messages)
        stored = await MemoryStore(contents).list_checkpoints(*stages.SCOPE)
        done = next((each["sequence_number"] for each in stored), -1)
        again, _ = await _die(
            contents, None, [each for each in messages if each.sequence_number > done] or messages[-1:]
        )
        return told + again, fate.taken

    (whole,), taken = run(lives(None))
    assert taken > 20
    for steps in range(taken):
        told, _ = run(lives(steps))
        assert set(told) == {whole}, steps


# --- what a review has found


def test_one_that_was_tried_alone_is_not_told_in_a_digest_by_the_next_life():
    async def scene() -> None:
        contents, sink = Contents(), FakeSink(refuse=lambda _: SinkUnavailable("perhaps it arrived"))
        async with Scene({"out": sink}, store=MemoryStore(contents)).open() as first:
            assert isinstance(first, Scene)
            first.now(routes=_told_of_missed("out"))
            claim = await first.begin("first")
            await first.play(claim, message(0, started("a")))
            await pass_seconds(claim, 3 * HOUR, 0)
            await asyncio.sleep(5)
            assert sink.attempts
        quiet = {"out": {"group_by": ["type"], "group_wait_seconds": 5}}
        async with Scene(store=MemoryStore(contents), quiet=quiet).open() as second:
            assert isinstance(second, Scene)
            second.now(routes=_told_of_missed("out"))
            await second.begin("second")
            await asyncio.sleep(120)
            assert second.missed() == ["expectations/run-ends/a"]
            assert {each.idempotency_key for each in second.sinks["out"].accepted} == {
                each.idempotency_key for each in sink.attempts
            }

    run(scene())


def test_when_thousands_are_missed_at_once_and_nobody_takes_them_the_state_stays_small():
    async def scene() -> None:
        contents, down = Contents(), FakeSink()
        down.open_gate.clear()
        many = [message(n, *[started(f"s{n}-{m}") for m in range(100)]) for n in range(20)]
        async with Scene({"out": down}, store=MemoryStore(contents), window=0).open() as first:
            first.now(routes=_told_of_missed("out"))
            claim = await first.begin("first")
            await first.play(claim, *many)
            await pass_seconds(claim, 3 * HOUR, 19)
            await asyncio.sleep(60)
            assert len(codec.encode(await first.state())) < 40_000
        async with Scene(store=MemoryStore(contents), window=0).open() as second:
            assert isinstance(second, Scene)
            second.now(routes=_told_of_missed("out"))
            claim = await second.begin("second")
            await pass_seconds(claim, 0, 19)
            await asyncio.sleep(120)
            told = second.missed()
            assert len(told) == len(set(told)) == 2000
            assert (await second.state()).expectations == {}

    run(scene())


def test_while_the_partition_is_full_what_is_through_is_told_to_those_who_can_take_it():
    async def scene() -> None:
        stuck = FakeSink()
        stuck.open_gate.clear()
        async with Scene({"out": FakeSink(), "stuck": stuck}, window=0, limits={"in_flight": 1}).open() as stage:
            assert isinstance(stage, Scene)
            no_filter = compile_filter({"includedEventTypes": ["Other"]})
            missed_ones = compile_filter({"includedEventTypes": ["Worker.ExpectationMissed"]})
            stage.now(routes=Routes([RouteSpec("o", ("stuck",), no_filter), RouteSpec("m", ("out",), missed_ones)]))
            claim = await stage.begin()
            later = [message(n, event("Other", f"o{n}", 2 * HOUR), at=2 * HOUR) for n in (1, 2, 3)]
            await claim.feed.put([message(0, started("a")), *later], None)
            await asyncio.sleep(60)
            assert stage.missed() == ["expectations/run-ends/a"]
            stuck.open_gate.set()

    run(scene())


def test_an_empty_hub_says_nothing_of_what_has_come_and_waits_to_be_taken_in():
    async def scene() -> None:
        stuck = FakeSink()
        stuck.open_gate.clear()
        sinks, rules = {"out": FakeSink(), "stuck": stuck}, (rule(seconds=100),)
        async with Scene(sinks, window=0, limits={"in_flight": 1}, rules=rules).open() as stage:
            assert isinstance(stage, Scene)
            other = compile_filter({"includedEventTypes": ["Other"]})
            missed_ones = compile_filter({"includedEventTypes": ["Worker.ExpectationMissed"]})
            stage.now(routes=Routes([RouteSpec("o", ("stuck",), other), RouteSpec("m", ("out",), missed_ones)]))
            claim = await stage.begin()
            await claim.feed.put([message(0, started("a")), message(1, event("Other", "o", 1), at=1)], None)
            await asyncio.sleep(20)
            await claim.feed.put([message(2, ended("a", 60), at=60)], None)
            await asyncio.sleep(100)
            ask_hub(claim, 2, empty=True)  # its retention is over
            await asyncio.sleep(10)
            stuck.open_gate.set()
            await asyncio.sleep(60)
            assert stage.missed() == []
            assert stage.counted("met") == 1

    run(scene())
