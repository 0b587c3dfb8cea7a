"""doctor.py and its parts: what is found, and that each trouble is said with what to do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.memory_store import MemoryStore
from tests.unit.configurations import ENVIRON, loaded
from worker import state as codec
from worker.doctor import Examination
from worker.errors import ConfigError, HubUnavailable, StoreUnavailable
from worker.events import PartitionId, UnixSeconds
from worker.finding import Finding, State, clocks
from worker.peek import NothingSeen, Seen
from worker.reachable import hindrance, place_of
from worker.recent import clock, keys
from worker.state import PartitionState
from worker.stores import DeadLetter, HubScope
from worker.target import Span

NOW = 1_770_000_000.0
SCOPE = HubScope("127.0.0.1:5672", "ml-events", "$Default")
EMPTY = Span(0, -1, "-1", UnixSeconds(0.0), empty=True)
ROUTES = """\
sinks: [{name: audit, kind: file, path: audit.jsonl}]
routes: [{name: all, sinks: [audit]}]
"""


class Hub:
    """A hub without a message."""

    scope = SCOPE

    def __init__(self, **spans: Span) -> None:
        self.found = {PartitionId(each.removeprefix("p")): span for each, span in spans.items()} or {
            PartitionId("0"): EMPTY
        }
        self.down = False

    async def spans(self) -> dict[PartitionId, Span]:
        if self.down:
            raise HubUnavailable("hub 'ml-events' cannot be reached")
        return self.found


class Store(MemoryStore):
    """Some of its rights are missing."""

    refused = ""

    async def _reach(self, name: str) -> None:
        if name == self.refused:
            raise StoreUnavailable(f"Could not {name}: AuthorizationPermissionMismatch")


@pytest.fixture
def config(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return loaded(routes=ROUTES)


def found(config, hub: Hub, store: Store) -> list[Finding]:
    async def work() -> list[Finding]:
        examination = Examination(config, hub, store, clock=lambda: NOW)
        return [each async for each in examination.findings()]

    return asyncio.run(work())


def wrong(findings: list[Finding]) -> list[Finding]:
    return [each for each in findings if each.state is State.WRONG]


def store_at(now: float = NOW) -> Store:
    return Store(clock=lambda: now)


def test_nothing_is_wrong_with_what_was_just_set_up_and_nothing_is_left_behind(config):
    store = store_at()
    findings = found(config, Hub(), store)
    assert wrong(findings) == []
    assert {each.check for each in findings} == {
        "configuration", "store", "clock", "hub", "partitions", "partition key", "sink", "dead letters",
    }  # fmt: skip
    assert store.contents.memory == {}
    assert store.contents.states == {}
    [nobody] = [each for each in findings if each.check == "partitions"]
    assert (nobody.state, "no worker has any" in nobody.said) == (State.LOOK, True)


@pytest.mark.parametrize("right", ["write_memory", "read_memory", "forget_memory"])
def test_a_right_that_is_missing_is_named(config, right: str):
    store = store_at()
    store.refused = right
    [finding] = wrong(found(config, Hub(), store))
    assert finding.check == "store"
    assert "AuthorizationPermissionMismatch" in finding.said
    assert "Storage Blob Data Contributor" in finding.to_do
    assert right == "forget_memory" or store.contents.memory == {}, "what was written goes all the same"


def test_a_store_that_is_away_hinders_neither_the_look_at_the_hub_nor_at_sinks(config):
    store = store_at()
    store.down = True
    findings = found(config, Hub(), store)
    assert [each.check for each in wrong(findings)] == ["store"]
    states = {each.check: each.state for each in findings}
    assert (states["hub"], states["sink"], states["partitions"]) == (State.OK, State.OK, State.UNKNOWN)


def test_a_hub_that_is_away_hinders_neither_the_look_at_the_store_nor_at_letters(config):
    hub = Hub()
    hub.down = True
    findings = found(config, hub, store_at())
    assert [each.check for each in wrong(findings)] == ["hub"]
    assert {"store", "sink", "dead letters"} <= {each.check for each in findings if each.state is State.OK}


@pytest.mark.parametrize(("apart", "state"), [(0.9, State.OK), (-3, State.LOOK), (3, State.LOOK), (-6, State.WRONG)])
def test_clocks(apart: float, state: State):
    finding = clocks("the store's", apart)
    assert finding.state is state
    assert ("NTP" in finding.to_do) == (state is not State.OK)


def test_the_stores_clock_is_compared(config):
    [finding] = wrong(found(config, Hub(), store_at(NOW + 60)))
    assert finding.said == "the store's clock is 60.0 s ahead of this machine's"


def test_a_store_that_does_not_say_what_time_it_is_may_work_all_the_same(config):
    store = store_at()
    store.refused = "clock"
    findings = found(config, Hub(), store)
    assert wrong(findings) == []
    [clock] = [each for each in findings if each.about == "the store's"]
    assert (clock.state, "AuthorizationPermissionMismatch" in clock.said) == (State.UNKNOWN, True)


def test_partitions_that_stand_still_are_behind_retention_or_of_another_hub_are_said(config):
    store = store_at()

    async def write() -> None:
        state = PartitionState(generation=1, owner="w", stopped="junk everywhere")
        await store.write_state(PartitionId("0"), codec.encode(state), expected=None)
        for partition, number in (("1", 9), ("2", 500)):
            await store.write_checkpoint(PartitionId(partition), offset="o", sequence_number=number, expected=None)

    asyncio.run(write())
    owned = Span(0, 99, "o", UnixSeconds(NOW - 5), empty=False)
    hub = Hub(p0=EMPTY, p1=owned._replace(first=50, empty=True), p2=owned._replace(empty=True))
    said = {each.about: each.said for each in wrong(found(config, hub, store))}
    assert said["0"] == "stands still: junk everywhere"
    assert "left the hub before" in said["1"]
    assert "was it created anew?" in said["2"]


def test_a_state_that_is_not_understood_is_no_trouble_of_the_hub(config):
    store = store_at()
    asyncio.run(store.write_state(PartitionId("0"), b'{"format": 99}', expected=None))
    findings = found(config, Hub(), store)
    [finding] = wrong(findings)
    assert (finding.check, "format 99" in finding.said) == ("partitions", True)
    assert {each.check: each.state for each in findings}["hub"] is State.OK
    assert {"sink", "dead letters"} <= {each.check for each in findings if each.state is State.OK}


def test_a_store_that_is_something_else_hinders_no_other_check(config):
    class Foreign(Store):
        async def open(self) -> None:
            raise ConfigError(["store.path: data.db belongs to another program: give another path"])

    findings = found(config, Hub(), Foreign(clock=lambda: NOW))
    assert [(each.check, "worker.yaml" in each.to_do) for each in wrong(findings)] == [("store", True)]
    assert {"hub", "sink"} <= {each.check for each in findings if each.state is State.OK}


def test_a_check_that_takes_too_long_is_left(config, monkeypatch):
    monkeypatch.setattr("worker.doctor._SECONDS", 0.01)

    class Endless(Store):
        async def dead_letters(self, *, bodies: bool = True) -> AsyncIterator[DeadLetter]:
            await asyncio.Event().wait()
            yield letter(1)

    [finding] = [each for each in found(config, Hub(), Endless(clock=lambda: NOW)) if each.check == "dead letters"]
    assert (finding.state, "was left" in finding.said) == (State.UNKNOWN, True)


def test_dead_letters_are_counted_by_sink_and_reason(config):
    store = store_at()
    asyncio.run(store.put_dead_letters([letter(number) for number in range(3)]))
    [finding] = [each for each in found(config, Hub(), store) if each.check == "dead letters"]
    assert (finding.state, finding.about, finding.said) == (State.LOOK, "out", "3 with reason rejected")


def letter(number: int) -> DeadLetter:
    values: dict[str, Any] = dict.fromkeys(DeadLetter.__dataclass_fields__)
    numbers = {"sequence_number": number, "index": 0, "attempts": 1, "time": NOW, "enqueued_at": NOW}
    texts = {"id": f"id-{number}", "reason": "rejected", "detail": "no", "sink": "out", "partition": "0"}
    return DeadLetter(**{**values, **numbers, **texts, "body": b"", "properties": {}})


# --- the newest messages


@pytest.mark.parametrize(
    ("error", "states"),
    [
        (HubUnavailable("has no consumer group 'another'"), {State.WRONG}),
        (NothingSeen("is being read by a worker"), {State.UNKNOWN}),
    ],
)
def test_a_hub_that_says_how_far_it_is_and_lets_nobody_read_is_wrong(config, monkeypatch, error, states):
    async def refuse(*_: Any, **__: Any) -> Seen:
        raise error

    monkeypatch.setattr("worker.recent.peek", refuse)
    findings = found(config, Hub(p0=Span(0, 9, "o9", UnixSeconds(NOW - 5), empty=False)), store_at())
    about_keys = [each for each in findings if each.check == "partition key"]
    assert {each.state for each in about_keys} == states
    assert all("Rights" in each.to_do for each in about_keys if each.state is State.WRONG)


def test_subjects_on_several_partitions_as_the_workers_saw_them_are_wrong():
    finding = keys({}, 3)
    assert finding.state is State.WRONG
    assert "worker subscription" in finding.to_do


@pytest.mark.parametrize(("split", "state"), [(None, State.UNKNOWN), (0, State.OK)])
def test_without_a_message_to_look_at_it_is_said_what_the_workers_saw(split: int | None, state: State):
    assert keys({}, split).state is state


@pytest.mark.parametrize(
    ("ahead", "state"),
    [(None, State.UNKNOWN), (-0.5, State.OK), (-60, State.LOOK), (3, State.LOOK), (60, State.WRONG)],
)
def test_the_hubs_clock(ahead: float | None, state: State):
    assert clock([], {PartitionId("0"): Seen([], ahead)}, now=NOW).state is state


# --- destinations


@asynccontextmanager
async def listening() -> AsyncIterator[int]:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def sink(config_text: str):
    name = config_text.split("name: ")[1].split(",", maxsplit=1)[0]
    [settings] = loaded(routes=f"sinks: [{config_text}]\nroutes: [{{name: all, sinks: [{name}]}}]\n").sinks
    return settings


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("{name: out, kind: webhook, url: 'https://out.example.org/hook'}", ("out.example.org", 443)),
        ("{name: out, kind: webhook, url: 'http://127.0.0.1:8123/hook'}", ("127.0.0.1", 8123)),
        ("{name: m, kind: email, host: smtp.example.org, port: 2525, from: a@b.org, to: [c@d.org]}",
         ("smtp.example.org", 2525)),
        ("{name: m, kind: email, host: smtp.example.org, from: a@b.org, to: [c@d.org]}", ("smtp.example.org", 587)),
        ("{name: m, kind: email, host: smtp.example.org, security: tls, from: a@b.org, to: [c@d.org]}",
         ("smtp.example.org", 465)),
        ("{name: h, kind: eventhub, hub: other, connection_string_env: HUB}", ("127.0.0.1", 5672)),
        ("{name: h, kind: eventhub, hub: other, namespace: ns.servicebus.windows.net}",
         ("ns.servicebus.windows.net", 5671)),
        ("{name: f, kind: file, path: audit.jsonl}", None),
    ],
)  # fmt: skip
def test_where_sinks_connect_to(monkeypatch, tmp_path, text: str, place: tuple[str, int] | None):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HUB", ENVIRON["HUB"])
    assert place_of(sink(text)) == place


async def test_a_destination_that_takes_a_connection_is_reachable_and_one_that_does_not_is_not(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    async with listening() as port:
        settings = sink(f"{{name: out, kind: webhook, url: 'http://127.0.0.1:{port}/hook'}}")
        assert await hindrance(settings) is None
    assert f"127.0.0.1:{port} cannot be reached" in (await hindrance(settings) or "")


async def test_a_folder_that_may_not_be_written_is_said(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    assert "may not be written" in (await hindrance(sink("{name: f, kind: file, path: audit.jsonl}")) or "")


async def test_a_folder_that_may_not_be_looked_into_is_said(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied")  # as for another user than root

    settings = sink("{name: f, kind: file, path: audit.jsonl}")
    monkeypatch.setattr(Path, "is_dir", refuse)
    assert "Permission denied" in (await hindrance(settings) or "")
