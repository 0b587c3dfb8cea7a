"""What outlives an owner: late events, copies, verdicts; in parts, of which some may be lost."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from tests.fakes import FakeSink
from tests.memory_store import MemoryStore
from tests.pipeline.stage import PARTITION, START, Stage, blob_event, message
from tests.virtual_time import run
from worker import memory
from worker import state as codec
from worker.claim import Claim
from worker.errors import SinkUnavailable, StateFormatUnknown, StoreUnavailable
from worker.events import Message, UnixSeconds
from worker.keys import data_digest, duplicate_key


class Gate(MemoryStore):
    """Holds calls of one name, as a process does that is frozen there."""

    held = ""
    closed = False

    async def _reach(self, name: str) -> None:
        while self.closed and name == self.held:
            await asyncio.sleep(0.05)


def with_gate(store: MemoryStore, name: str) -> Gate:
    """The same contents, through a gate that is still open."""
    gate = Gate(store.contents)
    gate.held = name
    return gate


def crowd(first: int, number: int, *, at: float = 0.0) -> list[Message]:
    """So many events of as many subjects, a hundredth of a second apart."""
    return [message(each, blob_event(f"crowd-{each}", 1), at=at + each / 100) for each in range(first, first + number)]


async def play_all(stage: Stage, claim: Claim, messages: list[Message]) -> None:
    for start in range(0, len(messages), 200):
        await stage.play(claim, *messages[start : start + 200])
        await asyncio.sleep(1)


def test_an_event_that_comes_after_a_later_one_was_released_by_the_last_owner_is_late():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 7), at=0))
            await stage.end(claim)
        async with Stage(store=stage.store, window=0).open() as second:
            claim = await second.begin("second")
            await second.play(claim, message(1, blob_event("a", 5), at=3))
            assert [each.released.late_by_ms for each in second.sinks["out"].accepted] == [3000]

    run(scene())


def test_a_late_event_is_late_again_when_it_is_read_again_and_the_others_do_not_become_it():
    async def scene():
        broken = FakeSink(refuse=lambda _: SinkUnavailable("503"))
        messages = [
            message(0, blob_event("a", 7), at=0),
            message(1, blob_event("a", 5), at=2),
            message(2, blob_event("a", 6), blob_event("b", 1), at=2),
            message(3, blob_event("b", 3), at=3),
        ]
        async with Stage({"out": broken}, window=1).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, *messages)
            await asyncio.sleep(5)
            await stage.end(claim)
        async with Stage(store=stage.store, window=1).open() as second:
            claim = await second.begin("second")
            await second.play(claim, *[replace(each, enqueued_at=UnixSeconds(START + 900)) for each in messages])
            await asyncio.sleep(2)
            late = {each.released.placed.event.id: each.released.late_by_ms for each in second.sinks["out"].accepted}
            assert late == {"a-7": None, "a-5": 0, "a-6": 0, "b-1": None, "b-3": None}

    run(scene())


def test_a_variant_keeps_its_key_when_it_is_read_again_although_the_first_is_forgotten():
    async def scene():
        broken = FakeSink(refuse=lambda each: SinkUnavailable("503") if each.released.data_digest else None)
        first, other = blob_event("a", 1), blob_event("a", 1, data="other")
        async with Stage({"out": broken}, window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, first), message(1, other))
            await asyncio.sleep(5)
            await stage.end(claim)
            key = broken.attempts[-1].idempotency_key
        forgetful = replace(await stage.state(), memory_since={})
        version = (await stage.store.state_versions())[PARTITION]
        await stage.store.write_state(PARTITION, codec.encode(forgetful), expected=version)
        async with Stage(store=stage.store, window=0).open() as second:
            claim = await second.begin("second")
            await second.play(claim, message(1, other))
            assert [each.idempotency_key for each in second.sinks["out"].accepted] == [key]

    run(scene())


def test_a_copy_is_recognised_after_a_restart_though_thousands_of_others_came_between():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)))
            await play_all(stage, claim, crowd(1, 5_000))
            await stage.end(claim)
            assert len((await stage.state()).memory_parts) > 1
        async with Stage(store=stage.store, window=0).open() as second:
            claim = await second.begin("second")
            await second.play(claim, message(6_000, blob_event("a", 1), blob_event("new", 1), at=60))
            assert second.sinks["out"].ids == ["new-1"]
            assert second.count("worker_memory_parts_lost_total", partition="0") == 0

    run(scene())


def test_a_write_of_the_state_stays_small_while_thousands_of_events_a_second_settle():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim, sizes = await stage.begin(), []
            for second in range(5):
                await stage.play(claim, *crowd(second * 1_000, 1_000))
                await asyncio.sleep(1.5)
                stored = await stage.store.read_state(PARTITION)
                assert stored is not None
                sizes.append(len(stored.payload))
            assert (await stage.state()).watermark == (4_999, "499900")
            assert max(sizes) < 50_000

    run(scene())


def test_an_owner_writes_what_came_to_it_and_not_what_it_inherited():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, *crowd(0, 1_000))
            await asyncio.sleep(2)
            await stage.end(claim)
            parts = (await stage.state()).memory_parts
            assert parts
        async with Stage(store=stage.store, window=0).open() as second:
            claim = await second.begin("second")
            await second.play(claim, message(1_000, blob_event("a", 1), at=20))
            await second.end(claim)
            assert (await second.state()).memory_parts == parts

    run(scene())


def test_what_settles_while_the_memory_is_written_anew_is_remembered_too():
    async def scene():
        async def slowly(function: Callable[..., Any], *arguments: Any) -> Any:
            whole = function is memory.pack and sum(rows.number for rows in arguments[0]) > 1_500
            await asyncio.sleep(5 if whole else 0)
            return function(*arguments)

        stage = Stage(window=0)
        stage.parts = replace(stage.parts, offload=slowly)
        async with stage.open():
            claim = await stage.begin()
            await play_all(stage, claim, crowd(0, 4_000))
            await asyncio.sleep(60)
            await stage.end(claim)
            assert stage.count("worker_memory_written_bytes_total", partition="0", kind="whole") > 0
        async with Stage(store=stage.store, window=0).open() as second:
            claim = await second.begin("second")
            again = [replace(each, sequence_number=each.sequence_number + 4_000) for each in crowd(0, 4_000)]
            await play_all(second, claim, again)
            assert second.sinks["out"].ids == []

    run(scene())


def test_many_parts_become_one_and_what_no_state_names_is_forgotten():
    async def scene():
        store = MemoryStore()
        await store.write_memory(PARTITION, "0000000000-000009", b"of a process that died before it named the part")
        async with Stage(store=store, window=0).open() as stage:
            claim = await stage.begin()
            for minute in range(3):
                await play_all(stage, claim, crowd(minute * 2_000, 2_000))
                await asyncio.sleep(60)
            await stage.end(claim)
            named = (await stage.state()).memory_parts
            assert len(named) < 8  # of more than 18 that were written
            assert sorted(part for _, part in store.contents.memory) == named
        async with Stage(store=store, window=0).open() as second:
            claim = await second.begin("second")
            again = [replace(each, sequence_number=each.sequence_number + 6_000) for each in crowd(0, 6_000)]
            await play_all(second, claim, again)
            assert second.sinks["out"].ids == []

    run(scene())


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_without_a_part_the_owner_goes_on_with_the_rest_says_so_and_writes_anew_what_is_left(damage: str):
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, *crowd(0, 1_000))
            await asyncio.sleep(2)
            await stage.play(claim, message(1_000, blob_event("a", 1), at=20))
            await stage.end(claim)
        (part,) = (await stage.state()).memory_parts
        if damage == "missing":
            del stage.store.contents.memory[PARTITION, part]
        else:
            stage.store.contents.memory[PARTITION, part] = b"worker memory 1\nhello"
        async with Stage(store=stage.store, window=0).open() as second:
            claim = await second.begin("second")
            await second.play(claim, message(1_001, blob_event("a", 1), blob_event("crowd-7", 1), at=30))
            assert second.sinks["out"].ids == ["crowd-7-1"]
            assert second.count("worker_memory_parts_lost_total", partition="0") == 1
            await asyncio.sleep(5)
            assert part not in (await second.state()).memory_parts
            assert len((await second.state()).memory_parts) == 1

    run(scene())


def test_a_part_of_a_newer_version_stops_the_claim_instead_of_being_forgotten():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, *crowd(0, 1_000))
            await asyncio.sleep(2)
            await stage.end(claim)
        (part,) = (await stage.state()).memory_parts
        stage.store.contents.memory[PARTITION, part] = b"worker memory 9\nwho knows"
        with pytest.raises(StateFormatUnknown, match="format 9"):
            await Claim(PARTITION, "second", stage.parts).run()

    run(scene())


def test_a_copy_of_what_an_owner_of_the_former_version_settled_is_recognised():
    async def scene():
        async with Stage(window=0).open() as probe:  # its sink shows the event, as the worker decodes it
            claim = await probe.begin()
            await probe.play(claim, message(0, blob_event("a", 1)))
            event = probe.sinks["out"].accepted[0].released.placed.event
        old = {
            "format": 1,
            "generation": 4,
            "owner": "old",
            "request": None,
            "acknowledged": None,
            "released": True,
            "progress": {"watermark": [0, "0"], "read": 0, "unsettled": [], "parts": [], "served": []},
            "recent": [[duplicate_key(event).hex(), data_digest(event), 0, 0, START, 0]],
        }
        store = MemoryStore()
        await store.write_state(PARTITION, orjson.dumps(old), expected=None)
        async with Stage(store=store, window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(1, blob_event("a", 1)), message(2, blob_event("a", 2)))
            assert stage.sinks["out"].ids == ["a-2"]
            await asyncio.sleep(2)
            assert (await stage.state()).generation == 5

    run(scene())


def test_an_outage_while_the_memory_is_read_is_waited_for():
    async def scene():
        class Away(MemoryStore):
            refusals = 5

            async def _reach(self, name: str) -> None:
                if name == "read_memory" and self.refusals:
                    self.refusals -= 1
                    raise StoreUnavailable("away")

        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, *crowd(0, 1_000))
            await asyncio.sleep(2)
            await stage.end(claim)
        async with Stage(store=Away(stage.store.contents), window=0).open() as second:
            claim = await second.begin("second")
            await second.play(claim, message(1_000, blob_event("crowd-7", 1), blob_event("new", 1), at=30))
            await asyncio.sleep(20)
            assert second.sinks["out"].ids == ["new-1"]

    run(scene())


def test_a_claim_that_is_closed_while_it_restores_leaves_everything_to_the_next_at_once():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, *crowd(0, 1_000))
            await asyncio.sleep(2)
            await stage.end(claim)
        gate = with_gate(stage.store, "read_memory")
        gate.closed = True
        async with Stage(store=gate, window=0).open() as second:
            claim = await second.begin("second")
            await second.end(claim)
            assert (await second.state()).released
        async with Stage(store=stage.store, window=0).open() as third:
            claim = await third.begin("third")
            await third.play(claim, message(1_000, blob_event("crowd-7", 1), blob_event("new", 1), at=30))
            assert third.sinks["out"].ids == ["new-1"]

    run(scene())


def test_a_former_owner_that_thaws_while_it_forgets_takes_nothing_from_its_successor():
    async def scene():
        store = MemoryStore()
        gate = with_gate(store, "forget_memory")
        async with Stage(store=gate, window=0).open() as old, Stage(store=store, window=0).open() as new:
            first = await old.begin("old")
            gate.closed = True
            await play_all(old, first, crowd(0, 3_000))
            await asyncio.sleep(60)
            assert gate.calls.count("forget_memory") == 1
            second = await new.begin("new")
            await play_all(new, second, crowd(3_000, 3_000))
            named = (await new.state()).memory_parts
            gate.closed = False
            await asyncio.sleep(1)
            assert set(named) <= {part for _, part in store.contents.memory}
            assert any(part.startswith("0000000002") for part in named)

    run(scene())


def test_a_part_that_was_written_before_a_crash_and_never_named_counts_for_nothing():
    async def scene():
        store = MemoryStore()
        gate = with_gate(store, "write_state")
        async with Stage(store=gate, window=0).open() as stage:
            claim = await stage.begin()
            gate.closed = True
            await stage.play(claim, *crowd(0, 1_000))
            await asyncio.sleep(3)
            assert len(store.contents.memory) == 1  # the part is there, the state is not
        async with Stage(store=store, window=0).open() as second:
            claim = await second.begin("second")
            await second.play(claim, *crowd(0, 1_000))
            await asyncio.sleep(1)
            assert len(second.sinks["out"].ids) == 1_000

    run(scene())


def test_the_memory_of_a_quiet_partition_reaches_over_many_owners():
    async def scene():
        store = MemoryStore()
        for owner in range(5):
            async with Stage(store=store, window=0).open() as stage:
                claim = await stage.begin(f"owner-{owner}")
                await stage.play(claim, message(owner * 2, blob_event("a", 1), blob_event(f"b{owner}", 1)))
                await stage.end(claim)
                assert stage.sinks["out"].ids == (["a-1"] if owner == 0 else []) + [f"b{owner}-1"]

    run(scene())


def test_rows_of_a_damaged_state_are_forgotten_and_the_partition_goes_on():
    async def scene():
        async with Stage(window=0).open() as stage:
            claim = await stage.begin()
            await stage.play(claim, message(0, blob_event("a", 1)))
            await stage.end(claim)
        state = replace(await stage.state(), memory_since={"format": 1, "subjects": 7})
        version = (await stage.store.state_versions())[PARTITION]
        await stage.store.write_state(PARTITION, codec.encode(state), expected=version)
        async with Stage(store=stage.store, window=0).open() as second:
            claim = await second.begin("second")
            await second.play(claim, message(1, blob_event("a", 1)))
            assert second.sinks["out"].ids == ["a-1"]
            assert second.count("worker_memory_parts_lost_total", partition="0") == 1

    run(scene())


def test_what_was_in_order_in_a_full_partition_is_in_order_when_it_is_read_again_with_room():
    async def scene():
        early = [
            message(1, blob_event("x", 1)),
            message(2, blob_event("y", 1), at=9),
            message(3, blob_event("a", 2), at=10),
        ]
        earlier = message(4, blob_event("a", 1), at=30)
        down = FakeSink(refuse=lambda _: SinkUnavailable("down"))
        async with Stage({"out": down}, window=5, limits={"in_flight": 2}).open() as full:
            claim = await full.begin()
            await full.play(claim, *early, last=9)
            await full.play(claim, earlier, last=9)  # a-2 is due, but waits for room: so this one is in time
            await asyncio.sleep(30)
        async with Stage(store=full.store, window=5).open() as roomy:
            claim = await roomy.begin("second")
            await roomy.play(claim, *early, last=9)
            await asyncio.sleep(20)
            await roomy.play(claim, earlier, last=9)
            await roomy.play(claim, message(5, blob_event("z", 1), at=60), last=5)
            await asyncio.sleep(30)
            ids = roomy.sinks["out"].ids
            assert ids.index("a-1") < ids.index("a-2")
            assert all(each.released.late_by_ms is None for each in roomy.sinks["out"].accepted)

    run(scene())


def test_what_does_not_come_again_holds_up_the_rest_for_a_minute_only():
    async def scene():
        sink = FakeSink()
        sink.open_gate.clear()
        async with Stage({"out": sink}, window=5).open() as first:
            claim = await first.begin()
            await first.play(claim, *(message(n, blob_event(f"s{n}", n)) for n in (1, 2, 3)), last=9)
            await asyncio.sleep(30)
        async with Stage(store=first.store, window=5).open() as later:
            claim = await later.begin("second")
            await later.play(claim, message(1, blob_event("s1", 1)), last=9)
            await asyncio.sleep(50)
            assert later.sinks["out"].ids == []
            await asyncio.sleep(30)
            assert later.sinks["out"].ids == ["s1-1"]

    run(scene())
