"""Dead letters delivered again by the owner of their partition, in virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import orjson
from structlog.testing import capture_logs

from tests.fakes import FakeSink
from tests.pipeline.stage import PARTITION, START, Stage, blob_event, message
from tests.virtual_time import run, settle_down
from worker.caution import KILLS_THE_WORKER
from worker.claim import Claim
from worker.deadletters import from_bad_event
from worker.decode import decode
from worker.errors import Rejected, SinkUnavailable
from worker.events import BadEvent, Event, Message, PartitionId
from worker.keys import idempotency_key
from worker.replay import watch
from worker.stores import DeadLetter, ReplayRequest
from worker.stores.layout import letter_name

LOOK_SECONDS = 6.0
"""A little more than the worker takes to see a request."""


def refuse_all() -> FakeSink:
    return FakeSink(refuse=lambda _: Rejected("400: no"))


def accept_all(stage: Stage, name: str = "out") -> None:
    stage.sinks[name]._refuse = None


def event_of(source: Message, index: int = 0) -> Event:
    event = decode(source)[index]
    assert isinstance(event, Event)
    return event


@asynccontextmanager
async def looking(stage: Stage, *claims: Claim) -> AsyncIterator[None]:
    """Requests are looked for, as the process would."""
    task = asyncio.create_task(watch(stage.store, lambda: [each.replays for each in claims if each.held]))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def ask(stage: Stage, *letters: DeadLetter) -> None:
    await stage.store.request_replays([ReplayRequest(each.partition, letter_name(each)) for each in letters])


async def given_up(stage: Stage, claim: Claim, *messages: Message) -> list[DeadLetter]:
    """The letters of these messages, which the sinks refuse."""
    await stage.play(claim, *messages)
    await asyncio.sleep(10)
    return await stage.dead_letters()


async def kept_by_hand(stage: Stage, source: Message, *, reason: str, index: int | None = 0) -> DeadLetter:
    """A letter of a message that an older version could not decode."""
    letter = from_bad_event(source, index, BadEvent(reason, "an older version could not read it"))
    await stage.store.put_dead_letters([letter])
    return letter


def outcomes(stage: Stage) -> dict[str, float]:
    names = ("accepted", "gave_up", "undecodable", "no_route", "no_sink", "gone")
    counts = {name: stage.count("worker_replays_total", outcome=name) for name in names}
    return {name: value for name, value in counts.items() if value}


def test_a_replayed_letter_arrives_late_and_replayed_under_its_first_key_and_then_is_gone():
    async def scene():
        async with Stage({"out": refuse_all()}).open() as stage:
            claim = await stage.begin()
            _, letter = await given_up(stage, claim, message(7, blob_event("s", 1), blob_event("t", 2, event_id="x")))
            accept_all(stage)
            await ask(stage, letter)
            async with looking(stage, claim):
                await asyncio.sleep(LOOK_SECONDS)
                [delivery] = stage.sinks["out"].accepted
                assert delivery.released.placed.event.id == "x"
                assert delivery.released.late_by_ms is not None
                assert delivery.replayed
                assert (delivery.route, delivery.sink) == ("to-out", "out")
                first = next(each for each in stage.sinks["out"].attempts if each.released.placed.event.id == "x")
                assert delivery.idempotency_key == first.idempotency_key == letter.idempotency_key
                assert not first.replayed
                assert [each.event_id for each in await stage.dead_letters()] == ["s-1"]
                assert await stage.store.replays() == []
            assert outcomes(stage) == {"accepted": 1}
            assert await stage.checkpoint() == 7

    run(scene())


def test_it_is_late_by_the_time_since_the_hub_took_it():
    async def scene():
        async with Stage().open() as stage:
            claim = await stage.begin()
            letter = await kept_by_hand(stage, message(3, blob_event("s", 1)), reason="not_json")
            await ask(stage, letter)
            async with looking(stage, claim):
                await asyncio.sleep(LOOK_SECONDS)
            [delivery] = stage.sinks["out"].accepted
            assert abs(START * 1000 + delivery.released.late_by_ms - stage.parts.clock() * 1000) <= LOOK_SECONDS * 1000

    run(scene())


def test_a_letter_that_is_refused_again_stays_as_it_was_and_is_not_tried_for_ever():
    async def scene():
        async with Stage({"out": refuse_all()}).open() as stage:
            claim = await stage.begin()
            before = await given_up(stage, claim, message(7, blob_event("s", 1)))
            with capture_logs() as lines:
                async with looking(stage, claim):
                    await ask(stage, *before)
                    await asyncio.sleep(10 * LOOK_SECONDS)
            assert await stage.dead_letters() == before
            assert await stage.store.replays() == []
            assert len(stage.sinks["out"].attempts) == 2
            assert outcomes(stage) == {"gave_up": 1}
            [line] = [each for each in lines if each["event"] == "dead letters not replayed"]
            assert (line["count"], line["letter"]) == (1, letter_name(before[0]))
            assert "400: no" in line["detail"]

    run(scene())


def test_a_refused_letter_can_be_asked_for_again():
    async def scene():
        async with Stage({"out": refuse_all()}).open() as stage:
            claim = await stage.begin()
            letters = await given_up(stage, claim, message(7, blob_event("s", 1)))
            async with looking(stage, claim):
                await ask(stage, *letters)
                await asyncio.sleep(LOOK_SECONDS)
                accept_all(stage)
                await ask(stage, *letters)
                await asyncio.sleep(2 * LOOK_SECONDS)
            assert await stage.dead_letters() == []
            assert outcomes(stage) == {"gave_up": 1, "accepted": 1}

    run(scene())


def test_the_key_is_the_letters_own_also_for_an_event_that_came_again_with_other_data():
    async def scene():
        async with Stage({"out": refuse_all()}).open() as stage:
            claim = await stage.begin()
            messages = [message(n, blob_event("s", 1, data=f"version {n}")) for n in (1, 2)]
            letters = await given_up(stage, claim, *messages)
            assert len({letter.idempotency_key for letter in letters}) == 2
            accept_all(stage)
            await ask(stage, *letters)
            async with looking(stage, claim):
                await asyncio.sleep(LOOK_SECONDS)
            accepted = [each.idempotency_key for each in stage.sinks["out"].accepted]
            assert accepted == [letter.idempotency_key for letter in letters]

    run(scene())


def test_a_look_that_began_before_a_replay_ended_does_not_begin_it_again():
    async def scene():
        async with Stage({"out": refuse_all()}).open() as stage:
            claim = await stage.begin()
            [letter] = await given_up(stage, claim, message(7, blob_event("s", 1)))
            await ask(stage, letter)
            listed_before = await stage.store.replays()
            for attempts in (2, 2, 3):  # asked, listed too early, asked again
                claim.replays.look(listed_before)
                await asyncio.sleep(1)
                assert len(stage.sinks["out"].attempts) == attempts

    run(scene())


def test_a_temporary_failure_is_tried_again_like_any_delivery():
    async def scene():
        async with Stage({"out": refuse_all()}).open() as stage:
            claim = await stage.begin()
            letters = await given_up(stage, claim, message(7, blob_event("s", 1)))
            stage.sinks["out"]._fails = [SinkUnavailable("503")] * 3
            accept_all(stage)
            await ask(stage, *letters)
            async with looking(stage, claim):
                await asyncio.sleep(60)
            assert stage.sinks["out"].ids == ["s-1"]
            assert await stage.dead_letters() == []

    run(scene())


def test_what_can_be_decoded_now_goes_to_every_sink_that_wants_it_and_only_then_the_letter_goes():
    async def scene():
        sinks = {"out": FakeSink(), "audit": FakeSink()}
        sinks["audit"].open_gate.clear()
        async with Stage(sinks).open() as stage:
            claim = await stage.begin()
            source = message(3, blob_event("s", 1), blob_event("t", 2))
            letter = await kept_by_hand(stage, source, reason="missing_id", index=1)
            await ask(stage, letter)
            async with looking(stage, claim):
                await asyncio.sleep(LOOK_SECONDS)
                assert sinks["out"].ids == ["t-2"]
                assert await stage.dead_letters() == [letter]
                sinks["audit"].open_gate.set()
                await asyncio.sleep(LOOK_SECONDS)
            keys = {name: sink.accepted[0].idempotency_key for name, sink in sinks.items()}
            assert keys == {name: idempotency_key(event_of(source, 1), name) for name in sinks}
            assert [sink.ids for sink in sinks.values()] == [["t-2"], ["t-2"]]
            assert await stage.dead_letters() == []

    run(scene())


def test_a_whole_message_that_can_be_read_now_gives_all_its_events():
    async def scene():
        async with Stage().open() as stage:
            claim = await stage.begin()
            source = message(3, blob_event("s", 1), blob_event("t", 2))
            await ask(stage, await kept_by_hand(stage, source, reason="not_json"))
            async with looking(stage, claim):
                await asyncio.sleep(LOOK_SECONDS)
            assert sorted(stage.sinks["out"].ids) == ["s-1", "t-2"]
            assert await stage.dead_letters() == []

    run(scene())


def test_what_still_is_no_event_stays_and_an_amqp_value_is_not_taken_for_one():
    async def scene():
        async with Stage().open() as stage:
            claim = await stage.begin()
            broken = await kept_by_hand(stage, message(3, body=b"{"), reason="not_json")
            value = await kept_by_hand(stage, message(4, blob_event("s", 1)), reason="amqp_body")
            shorter = await kept_by_hand(stage, message(5, blob_event("s", 1)), reason="missing_id", index=4)
            await ask(stage, broken, value, shorter)
            async with looking(stage, claim):
                await asyncio.sleep(LOOK_SECONDS)
            assert await stage.dead_letters() == [broken, value, shorter]
            assert await stage.store.replays() == []
            assert stage.sinks["out"].attempts == []
            assert outcomes(stage) == {"undecodable": 3}

    run(scene())


def test_what_killed_workers_is_asked_for_once_and_tried_once():
    async def scene():
        async with Stage().open() as stage:
            claim = await stage.begin()
            sink = stage.sinks["out"]
            sink.open_gate.clear()
            letter = await kept_by_hand(stage, message(3, blob_event("s", 1)), reason=KILLS_THE_WORKER)
            await ask(stage, letter)
            async with looking(stage, claim):
                await asyncio.sleep(LOOK_SECONDS)
                assert sink.under_way == 1
                assert await stage.store.replays() == []
                assert await stage.dead_letters() == [letter]
                sink.open_gate.set()
                await asyncio.sleep(2 * LOOK_SECONDS)
            assert sink.ids == ["s-1"]
            assert await stage.dead_letters() == []

    run(scene())


def test_what_was_accepted_is_written_down_while_others_are_being_tried():
    async def scene():
        slow = FakeSink()
        slow.open_gate.clear()
        async with Stage({"fast": FakeSink(), "slow": slow}).open() as stage:
            claim = await stage.begin()
            letters = [
                replace(
                    await kept_by_hand(stage, message(n, blob_event("s", n)), reason="late"), sink=sink, id=f"{n}{sink}"
                )
                for n in range(1, 4)
                for sink in stage.sinks
            ]
            await stage.store.put_dead_letters(letters)
            await ask(stage, *letters)
            async with looking(stage, claim):
                await asyncio.sleep(LOOK_SECONDS)
                assert stage.sinks["fast"].ids == ["s-1", "s-2", "s-3"]
                assert [request.letter[-4:] for request in await stage.store.replays()] == ["slow"] * 3

    run(scene())


def test_a_letter_whose_sink_is_gone_from_the_configuration_stays_and_the_log_says_why():
    async def scene():
        async with Stage({"old": refuse_all()}).open() as before:
            claim = await before.begin()
            [letter] = await given_up(before, claim, message(7, blob_event("s", 1)))
            await before.end(claim)
        async with Stage({"new": FakeSink()}, store=before.store).open() as stage:
            claim = await stage.begin("second")
            await ask(stage, letter)
            with capture_logs() as lines:
                async with looking(stage, claim):
                    await asyncio.sleep(LOOK_SECONDS)
            assert await stage.dead_letters() == [letter]
            assert await stage.store.replays() == []
            assert outcomes(stage) == {"no_sink": 1}
            assert any("no sink old" in str(line.get("detail")) for line in lines)

    run(scene())


def test_a_request_for_a_letter_that_was_dropped_ends():
    async def scene():
        async with Stage().open() as stage:
            claim = await stage.begin()
            await stage.store.request_replays([ReplayRequest(PARTITION, "20260101T000000.000000Z-7-gone")])
            async with looking(stage, claim):
                await asyncio.sleep(LOOK_SECONDS)
            assert await stage.store.replays() == []
            assert outcomes(stage) == {"gone": 1}

    run(scene())


def test_letters_of_other_partitions_are_left_to_their_owners():
    async def scene():
        async with Stage().open() as stage:
            claim = await stage.begin()
            request = ReplayRequest(PartitionId("5"), "20260101T000000.000000Z-7-other")
            await stage.store.request_replays([request])
            async with looking(stage, claim):
                await asyncio.sleep(LOOK_SECONDS)
            assert await stage.store.replays() == [request]

    run(scene())


def test_replays_of_one_subject_keep_their_order_and_of_others_go_beside_it():
    async def scene():
        async with Stage({"out": refuse_all()}).open() as stage:
            claim = await stage.begin()
            messages = [message(n, blob_event(f"s{n % 2}", n), at=n / 1000) for n in range(1, 41)]
            letters = await given_up(stage, claim, *messages)
            sink = stage.sinks["out"]
            sink._fails = [SinkUnavailable("503")] * 7
            accept_all(stage)
            sink.most_under_way = 0
            await ask(stage, *reversed(letters))
            async with looking(stage, claim):
                await asyncio.sleep(120)
            for subject in ("s0", "s1"):
                numbers = [int(each.split("-")[1]) for each in sink.ids if each.startswith(subject)]
                assert numbers == sorted(numbers)
                assert len(numbers) == 20
            assert sink.most_under_way == 2

    run(scene())


def test_only_so_many_letters_are_in_memory_at_once():
    async def scene():
        async with Stage({"out": FakeSink()}, lanes={"concurrency": 1000}).open() as stage:
            claim = await stage.begin()
            letters = [
                await kept_by_hand(stage, message(n, blob_event(f"s{n}", n)), reason="not_json") for n in range(250)
            ]
            large = [
                await kept_by_hand(stage, message(n, blob_event(f"s{n}", n, data="x" * 2**20)), reason="not_json")
                for n in range(1000, 1040)
            ]
            sink = stage.sinks["out"]
            sink.open_gate.clear()
            await ask(stage, *letters)
            async with looking(stage, claim):
                await asyncio.sleep(LOOK_SECONDS)
                assert sink.under_way == 100
                sink.open_gate.set()
                await asyncio.sleep(LOOK_SECONDS)
                assert len(set(sink.ids)) == len(sink.ids) == 250
                sink.open_gate.clear()
                await ask(stage, *large)
                await asyncio.sleep(LOOK_SECONDS)
                assert sink.under_way == 16
                sink.open_gate.set()
                await asyncio.sleep(LOOK_SECONDS)
            assert await stage.dead_letters() == []

    run(scene())


def test_a_stop_in_the_middle_leaves_the_rest_to_the_next_owner_under_the_same_keys():
    async def scene():
        async with Stage({"out": refuse_all()}, lanes={"concurrency": 2}).open() as stage:
            first = await stage.begin()
            letters = await given_up(stage, first, *(message(n, blob_event(f"s{n}", n)) for n in range(1, 11)))
            accept_all(stage)
            sink = stage.sinks["out"]
            sink.open_gate.clear()
            await ask(stage, *letters)
            async with looking(stage, first):
                await asyncio.sleep(LOOK_SECONDS)
                assert sink.under_way == 2
                first.close()
                await settle_down()
                sink.open_gate.set()
                await first.done.wait()
            assert len(sink.accepted) == 2
            assert len(await stage.dead_letters()) == len(await stage.store.replays()) == 8
            second = await stage.begin("second")
            async with looking(stage, second):
                await asyncio.sleep(LOOK_SECONDS)
            assert {each.idempotency_key for each in sink.accepted} == {each.idempotency_key for each in letters}
            assert len(sink.accepted) == 10
            assert await stage.dead_letters() == []

    run(scene())


def test_an_attempt_that_outlasts_the_drain_is_aborted_and_its_letter_stays_requested():
    async def scene():
        async with Stage({"out": refuse_all()}, limits={"drain_seconds": 3}).open() as stage:
            claim = await stage.begin()
            letters = await given_up(stage, claim, message(7, blob_event("s", 1)))
            accept_all(stage)
            stage.sinks["out"].open_gate.clear()
            await ask(stage, *letters)
            async with looking(stage, claim):
                await asyncio.sleep(LOOK_SECONDS)
                began = asyncio.get_running_loop().time()
                await stage.end(claim)
                assert asyncio.get_running_loop().time() - began < 4
            assert stage.sinks["out"].under_way == 0
            assert len(await stage.dead_letters()) == len(await stage.store.replays()) == 1

    run(scene())


def test_without_a_valid_lease_no_replay_starts():
    async def scene():
        async with Stage({"out": refuse_all()}).open() as stage:
            claim = await stage.begin()
            letters = await given_up(stage, claim, message(7, blob_event("s", 1)))
            accept_all(stage)
            stage.lease = False
            await ask(stage, *letters)
            async with looking(stage, claim):
                await asyncio.sleep(LOOK_SECONDS)
                assert stage.sinks["out"].accepted == []
                stage.lease = True
                await asyncio.sleep(LOOK_SECONDS)
                assert stage.sinks["out"].ids == ["s-1"]

    run(scene())


def test_a_former_owner_starts_no_replay_once_it_knows():
    async def scene():
        async with Stage({"out": refuse_all()}).open() as stage:
            former = await stage.begin("former")
            letters = await given_up(stage, former, *(message(n, blob_event("s", n)) for n in range(1, 6)))
            accept_all(stage)
            sink = stage.sinks["out"]
            before = len(sink.attempts)
            sink.open_gate.clear()
            await ask(stage, *letters)
            async with looking(stage, former):
                await asyncio.sleep(LOOK_SECONDS)
                assert sink.under_way == 1
                await stage.begin("next", taken=False)
                await former.look(None)
                await settle_down()
                sink.open_gate.set()
                await former.done.wait()
            assert len(sink.attempts) - before <= 1

    run(scene())


def test_while_the_store_is_away_an_accepted_letter_waits_and_is_not_delivered_twice():
    async def scene():
        async with Stage({"out": refuse_all()}).open() as stage:
            claim = await stage.begin()
            letters = await given_up(stage, claim, message(7, blob_event("s", 1)), message(8, blob_event("t", 2)))
            accept_all(stage)
            stage.sinks["out"].open_gate.clear()
            await ask(stage, *letters)
            async with looking(stage, claim):
                await asyncio.sleep(LOOK_SECONDS)
                stage.store.down = True
                stage.sinks["out"].open_gate.set()
                await asyncio.sleep(5 * LOOK_SECONDS)
                stage.store.down = False
                await asyncio.sleep(3 * LOOK_SECONDS)
            assert sorted(stage.sinks["out"].ids) == ["s-1", "t-2"]
            assert await stage.dead_letters() == []
            assert outcomes(stage) == {"accepted": 2}

    run(scene())


def test_the_bytes_of_a_replayed_event_are_those_of_its_message():
    async def scene():
        async with Stage().open() as stage:
            claim = await stage.begin()
            source = message(3, blob_event("s", 1, data={"big": 2**63, "text": "ü"}))
            await ask(stage, await kept_by_hand(stage, source, reason="not_json"))
            async with looking(stage, claim):
                await asyncio.sleep(LOOK_SECONDS)
            [delivery] = stage.sinks["out"].accepted
            assert delivery.released.placed.message.body == source.body
            assert delivery.released.placed.event.envelope == orjson.loads(source.body)[0]

    run(scene())
