"""Faults without a hub: how they are asked for, whom they are about, how bytes are held back, what a plan is."""

import asyncio
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.virtual_time import run, settle_down
from worker.local.chaos import (
    HUB_KINDS,
    KINDS,
    PROCESS_KINDS,
    Chaos,
    ChaosFailed,
    ProcessFault,
    Scene,
    admin_url_in,
    plan,
)
from worker.local.faults import KINDS as HUB_FAULTS
from worker.local.faults import Place, Scoped, WrongFaultError, kind_of, parse
from worker.local.wire import Wire

RECEIVER = Place("receiver", "hub", "3", "$Default")


# How they are asked for


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (["drop"], "a fault is a JSON object"),
        ({}, "there is no such fault; give one of drop, detach"),
        ({"kind": "explode"}, "there is no such fault"),
        ({"kind": ["drop"]}, "there is no such fault"),
        ({"kind": "delay"}, "milliseconds is missing; add it (how long each frame waits)"),
        ({"kind": "delay", "milliseconds": "soon"}, "milliseconds must be a number"),
        ({"kind": "delay", "milliseconds": -1}, "milliseconds must be more than 0"),
        ({"kind": "drop", "partitions": "1"}, "partitions there is no such key; did you mean partition?"),
        ({"kind": "detach", "condition": "busy"}, "condition has a character or a length that is not allowed"),
        ({"kind": "refuse", "on": "connect"}, "on cannot be connect; write one of attach, send"),
        ({"kind": "ignore", "on": "connect", "hub": "h"}, "leave hub, partition, group and link out"),
        ({"kind": "duplicate", "probability": 2, "times": 0}, "probability must be at most 1"),
        ({"kind": "epoch", "hub": "h", "value": -2}, "value must be at least -1"),
    ],
)
def test_what_is_no_fault_is_said_in_a_sentence(request_, sentence):
    with pytest.raises(WrongFaultError) as caught:
        parse(request_)
    assert sentence in str(caught.value)


def test_all_mistakes_of_a_request_are_said_at_once():
    with pytest.raises(WrongFaultError, match=r"milliseconds .*; direction "):
        parse({"kind": "delay", "direction": "up"})


def test_every_kind_can_be_asked_for_by_its_name():
    required = {"milliseconds": 1, "messages": 1, "on": "attach", "probability": 0.5, "hub": "h", "value": 1}
    for model in HUB_FAULTS:
        request = {
            name: required[name] for name, field in model.model_fields.items() if field.is_required() and name != "kind"
        }
        assert type(parse({"kind": kind_of(model), **request})) is model


# Whom they are about


@pytest.mark.parametrize(
    ("scope", "covered"),
    [
        ({}, True),
        ({"hub": "HUB", "group": "$default", "partition": 3, "link": "receiver"}, True),
        ({"hub": "other"}, False),
        ({"group": "other"}, False),
        ({"partition": "4"}, False),
        ({"link": "sender"}, False),
    ],
)
def test_a_fault_is_about_the_links_that_it_names(scope, covered):
    assert Scoped(kind="drop", **scope).covers(RECEIVER) is covered


def test_a_link_without_hub_is_covered_by_no_fault_about_a_hub():
    assert not Scoped(kind="drop", hub="hub").covers(Place("cbs"))


def test_a_busy_hub_still_takes_tokens_unless_it_is_told_not_to():
    assert not parse({"kind": "refuse", "on": "attach"}).covers(Place("cbs"))
    assert parse({"kind": "refuse", "on": "attach", "link": "cbs"}).covers(Place("cbs"))


# How bytes are held back


class FakeSocket:
    """Notes what is written and when, and whether it is read from."""

    def __init__(self) -> None:
        self.written: list[tuple[float, bytes]] = []
        self.reads = True
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append((asyncio.get_running_loop().time(), data))

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


@given(
    delays=st.lists(st.sampled_from([0.0, 0.1, 0.5, 3.0]), min_size=1, max_size=20),
    frozen=st.sets(st.integers(0, 19)),
)
def test_whatever_is_done_to_a_wire_bytes_pass_once_and_in_order(delays, frozen):
    async def scenario() -> None:
        socket = FakeSocket()
        wire = Wire(socket, lambda _: None)
        for number, delay in enumerate(delays):
            wire.delay(0, delay)
            if number in frozen:
                wire.freeze()
            wire.outgoing.put(bytes([number]))
            await asyncio.sleep(0.05)
        for _ in frozen & set(range(len(delays))):
            wire.thaw()
        wire.close()
        await asyncio.sleep(10)
        assert [data[0] for _, data in socket.written] == list(range(len(delays)))
        assert socket.closed
        assert socket.reads

    run(scenario())


def test_a_delayed_wire_holds_each_piece_for_as_long_as_it_was_told():
    async def scenario() -> None:
        socket, came = FakeSocket(), []
        wire = Wire(socket, came.append)
        wire.delay(2, 0)
        wire.incoming.put(b"in")
        wire.outgoing.put(b"out")
        assert [data for _, data in socket.written] == [b"out"]
        await asyncio.sleep(1.9)
        assert came == []
        await asyncio.sleep(0.2)
        assert came == [b"in"]

    run(scenario())


def test_a_frozen_wire_neither_reads_nor_writes_until_it_is_thawed_as_often():
    async def scenario() -> None:
        socket, came = FakeSocket(), []
        wire = Wire(socket, came.append)
        wire.freeze()
        wire.freeze()
        wire.incoming.put(b"in")
        wire.outgoing.put(b"out")
        wire.thaw()
        await asyncio.sleep(100)
        assert (came, socket.written, socket.reads) == ([], [], False)
        wire.thaw()
        await asyncio.sleep(0)
        await settle_down()
        assert (came, [data for _, data in socket.written], socket.reads) == ([b"in"], [b"out"], True)

    run(scenario())


def test_nothing_passes_a_wire_after_its_connection_has_ended():
    async def scenario() -> None:
        socket, came = FakeSocket(), []
        wire = Wire(socket, came.append)
        wire.delay(1, 1)
        wire.incoming.put(b"in")
        wire.outgoing.put(b"out")
        wire.discard()
        await asyncio.sleep(5)
        assert (came, socket.written) == ([], [])

    run(scenario())


# What a plan is

THREE = Scene(processes=3, partitions=4)


def away(faults) -> list[list[tuple[float, float]]]:
    """Per process, from when to when it is killed or frozen."""
    spans: list[list[tuple[float, float]]] = [[] for _ in range(3)]
    for moment, fault in faults:
        if isinstance(fault, ProcessFault):
            spans[fault.process].append((moment, moment + fault.seconds))
    return spans


def test_the_same_seed_makes_the_same_plan_and_another_one_another():
    assert plan(7, 50, scene=THREE) == plan(7, 50, scene=THREE) != plan(8, 50, scene=THREE)


@given(seed=st.integers(), processes=st.integers(1, 5))
def test_a_plan_has_as_many_faults_as_asked_one_in_each_turn_and_every_kind(seed, processes):
    planned = plan(seed, 40, scene=Scene(processes=processes, partitions=2), every_seconds=2)
    assert [int(moment / 2) for moment, _ in planned] == list(range(40))
    assert {fault.kind for _, fault in planned} == set(KINDS)


@given(seed=st.integers())
def test_in_a_plan_no_process_has_two_faults_at_a_time_and_one_always_works(seed):
    spans = away(plan(seed, 60, PROCESS_KINDS, scene=THREE))
    for own in spans:
        assert all(ends < begins for (_, ends), (begins, _) in pairwise(own))
    moments = [moment for own in spans for span in own for moment in span]
    for moment in moments:
        assert any(all(not begins <= moment <= ends for begins, ends in own) for own in spans)


@given(seed=st.integers())
def test_a_frozen_process_sleeps_longer_than_its_ownership_lasts(seed):
    scene = Scene(processes=2, partitions=1, frozen_seconds=(12, 15))
    frozen = [fault.seconds for _, fault in plan(seed, 20, ("suspend",), scene=scene)]
    assert all(12 <= seconds <= 15 for seconds in frozen)


@given(seed=st.integers(), kinds=st.sets(st.sampled_from(HUB_KINDS), min_size=1))
def test_a_plan_asks_for_nothing_that_the_hub_does_not_know(seed, kinds):
    planned = plan(seed, 20, sorted(kinds), scene=Scene(processes=1, partitions=4, hub="hub", group="g"))
    for _, fault in planned:
        for request in fault.requests:
            made = parse(request)
            assert made.covers(Place("receiver", "hub", made.partition, "g"))
            assert not made.covers(Place("sender", "hub", made.partition))


def test_a_plan_of_unknown_kinds_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"\['meteor'\]: there are kill, suspend"):
        plan(1, 1, ("meteor",), scene=THREE)


def test_the_admin_port_is_found_in_the_announcement():
    line = "The local hub listens on 127.0.0.1:1, its admin port is http://127.0.0.1:22: Endpoint=sb://127.0.0.1:1;"
    assert admin_url_in(line) == "http://127.0.0.1:22"
    with pytest.raises(ChaosFailed, match="names no admin port"):
        admin_url_in("The local hub listens on 127.0.0.1:1: Endpoint=sb://127.0.0.1:1;")


# Who carries it out


class FakeProcess:
    def __init__(self, name: str, note: Callable[[str], None]) -> None:
        self.name = name
        self._note = note

    async def crash(self) -> None:
        self._note(f"{self.name} crashes")

    async def restart(self) -> None:
        self._note(f"{self.name} restarts")

    def suspend(self) -> None:
        self._note(f"{self.name} freezes")

    def resume(self) -> None:
        self._note(f"{self.name} thaws")


class FakeHub:
    def __init__(self, affected: int = 1) -> None:
        self.made: list[tuple[float, dict]] = []
        self.calm = False
        self.affected = affected

    async def make(self, kind: str, **fields) -> dict:
        self.made.append((asyncio.get_running_loop().time(), {"kind": kind, **fields}))
        return {"affected": self.affected}

    async def lift_all(self) -> None:
        self.calm = True


def test_a_plan_is_carried_out_at_its_moments_and_leaves_everything_working():
    async def scenario() -> None:
        began = asyncio.get_running_loop().time()
        noted: list[str] = []
        said: list[str] = []
        hub = FakeHub()
        chaos = Chaos(hub, [FakeProcess(name, noted.append) for name in "abc"], said.append)
        planned = plan(3, 40, scene=THREE)
        await chaos.run(planned)
        wanted = [
            (began + each.after_seconds, dict(request))
            for each in planned
            if not isinstance(each.fault, ProcessFault)
            for request in each.fault.requests
        ]
        assert [request for _, request in hub.made] == [request for _, request in wanted]
        assert [at for at, _ in hub.made] == pytest.approx([at for at, _ in wanted])
        assert hub.calm
        count = Counter(entry.split()[1] for entry in noted)
        assert count["crashes"] == count["restarts"] == chaos.done["kill"] > 0
        assert count["freezes"] == count["thaws"] == chaos.done["suspend"] > 0
        assert (chaos.done.total(), len(said), chaos.missed.total()) == (40, 40, 0)

    run(scenario())


def test_a_fault_that_meets_nobody_is_said_and_counted():
    async def scenario() -> None:
        said: list[str] = []
        chaos = Chaos(FakeHub(affected=0), [], said.append)
        await chaos.run(plan(3, 2, ("drop",), scene=THREE))
        assert chaos.missed == {"drop": 2}
        assert all(line.endswith("nobody is there") for line in said)

    run(scenario())


def test_a_hub_that_refuses_a_fault_ends_the_chaos_and_thaws_who_was_frozen():
    class Refusing(FakeHub):
        async def make(self, kind: str, **fields) -> dict:
            raise ChaosFailed("no")

    async def scenario() -> None:
        noted: list[str] = []
        processes = [FakeProcess(name, noted.append) for name in "abc"]
        with pytest.raises(ChaosFailed, match="no"):
            await Chaos(Refusing(), processes).run(plan(1, 40, ("suspend", "drop"), scene=THREE))
        assert (
            Counter(each.split()[1] for each in noted)["freezes"] == Counter(each.split()[1] for each in noted)["thaws"]
        )

    run(scenario())
