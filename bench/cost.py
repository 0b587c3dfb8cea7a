"""What the store is asked, and how much goes there, by setting: `python -m bench cost`.

A real worker for each setting, all at one time, each in a consumer group of its own on one local hub, on Azurite. Its
requests are counted on their way there and by itself, and must agree. That they share a machine changes no count.
"""

import asyncio
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, AsyncExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import unquote

from bench.azurite import HOST
from bench.report import Section, Table, Target
from bench.scene import BLOB_ENV, HUB, PARTITIONS, Hub, Worker, azurite, hub, worker
from worker.local.send import send
from worker.local.traffic import TrafficOptions, generate

RATE = 200.0
"""Events a second, over all partitions: enough that there is something to write at each moment."""
SECONDS = 15.0
"""Of load, and of rest."""
WARM_SECONDS = 5.0
SETTINGS = ((1.0, 5.0), (4.0, 30.0), (0.2, 1.0))
"""state_interval_seconds and checkpoint_interval_seconds; the first are the defaults."""
STATES, WRITES, AT_REST = 1.0, 1.5, 0.05
"""The most that the defaults may write a second and partition: states; states, memory and checkpoints; and the same
with nothing to do."""
_START_SECONDS = 180.0
_DRAIN_SECONDS = 15.0
_MONTH_SECONDS = 30 * 86_400
_WRITES = ("PUT state", "PUT memory", "PUT checkpoint")
_BEGINS = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) (/\S*) HTTP/1\.1\r\n")
_KIND = re.compile(r"/(state|memory|checkpoint|ownership|rows|ledger)(/|$)")
_TOLD = f"""\
A worker for each setting, {PARTITIONS} partitions, Azurite, {RATE:.0f} events/s in all, one event a message:
{SECONDS:.0f} s of load, then {SECONDS:.0f} s of rest after {_DRAIN_SECONDS:.0f} s in which what was held is
delivered and written. A write is one of a state, a part of the memory, or a checkpoint; requests are all that the
worker asked the store, also to renew and list ownership, once (no repetitions: such small counts are those of a
clock). Bytes are those on the wire towards the store, headers included. Writes follow the clock and not the events:
per million events there are fewer, the faster they come, and the figure holds for this rate."""


class Counted(NamedTuple):
    """What was asked by some moment."""

    events: float
    states: float
    asked: float
    """Requests, as the worker counts them."""
    requests: Counter[str]
    """By what they are for."""
    sent_bytes: int

    def less(self, before: "Counted") -> "Counted":
        """What was asked since then."""
        return Counted(
            self.events - before.events,
            self.states - before.states,
            self.asked - before.asked,
            self.requests - before.requests,
            self.sent_bytes - before.sent_bytes,
        )

    @property
    def writes(self) -> int:
        """Of states, memory and checkpoints."""
        return sum(self.requests[name] for name in _WRITES)


class Wire:
    """The way to the store: counts the requests, by what they are for, and the bytes."""

    def __init__(self, port: int) -> None:
        self.requests = Counter[str]()
        self.sent_bytes = 0
        self._to = port
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, HOST, 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        their_reader, their_writer = await asyncio.open_connection(HOST, self._to)
        await asyncio.gather(self._there(reader, their_writer), _pass(their_reader, writer))

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                self.sent_bytes += len(data)
                if found := _BEGINS.match(data):  # a client waits for the answer: what it asks begins a piece
                    self.requests[_what(*found.groups())] += 1
                writer.write(data)
                await writer.drain()
        writer.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


def _what(method: bytes, target: bytes) -> str:
    """The verb and what it is of, such as `PUT state` and `list ownership`."""
    text = unquote(target.decode())
    kind = _KIND.search(text)
    verb = "list" if "comp=list" in text else method.decode()
    return f"{verb} {kind[1] if kind else 'other'}"


class Observed:
    """A worker with one setting, and the way to its store, which goes through this loop: so nothing may hold it up."""

    def __init__(self, setting: tuple[float, float], wire: Wire, one: Worker) -> None:
        self.setting = setting
        self._wire = wire
        self._worker = one

    async def now(self) -> Counted:
        """What it has done so far."""
        said = await asyncio.to_thread(self._worker.metrics)
        return Counted(
            said.total("worker_settled_events_total"),
            said.total("worker_state_writes_total"),
            said.total("worker_store_requests_total"),
            self._wire.requests.copy(),
            self._wire.sent_bytes,
        )

    async def ready(self) -> None:
        """Waits until it owns every partition."""
        until = self._worker.process.until
        await asyncio.to_thread(until, self._owns_all, "did not take every partition", _START_SECONDS)

    def _owns_all(self) -> bool:
        return self._worker.metrics().total("worker_partition_takes_total") >= PARTITIONS

    async def stop(self) -> None:
        """Must end well."""
        await asyncio.to_thread(self._worker.process.stop)


class Cost(NamedTuple):
    """What one setting asked for."""

    setting: tuple[float, float]
    load: Counted
    rest: Counted

    def each_second(self, number: float) -> float:
        """A second and partition."""
        return number / SECONDS / PARTITIONS


def measure(_repetitions: int) -> Section:
    """Once: what is counted are intervals of a clock, dozens of them."""
    costs = asyncio.run(_measured())
    default = costs[0]
    states, writes = default.each_second(default.load.states), default.each_second(default.load.writes)
    rest = default.each_second(default.rest.writes)
    requests = sum(default.rest.requests.values()) / SECONDS
    targets = [
        # A count over some seconds may have one interval more than fits into them.
        Target(
            "writes of the state, a second and partition",
            f"≤ {STATES:g}",
            f"{states:.2f}",
            states <= STATES + 1 / SECONDS,
        ),
        Target("writes in all, a second and partition", f"< {WRITES}", f"{writes:.2f}", writes < WRITES),
        Target("writes at rest, a second and partition", f"≤ {AT_REST} (almost none)", f"{rest:.3f}", rest <= AT_REST),
    ]
    return Section(
        "Cost", f"{_TOLD}\n\n{_formula(default.rest, requests)}", [_under_load(costs), _at_rest(costs)], targets
    )


def _under_load(costs: Sequence[Cost]) -> Table:
    head = (
        "state / checkpoint every",
        "events",
        "states a second and partition",
        "writes a second and partition",
        "requests per million events",
        "MB per million events",
    )
    rows = [
        (
            _named(each.setting),
            f"{each.load.events:,.0f}",
            f"{each.each_second(each.load.states):.2f}",
            f"{each.each_second(each.load.writes):.2f}",
            f"{sum(each.load.requests.values()) / each.load.events * 1e6:,.0f}",
            f"{each.load.sent_bytes / each.load.events:,.1f}",
        )
        for each in costs
    ]
    return Table(head, rows)


def _at_rest(costs: Sequence[Cost]) -> Table:
    rows = [
        (
            _named(each.setting),
            f"{each.each_second(each.rest.writes):.3f}",
            f"{sum(each.rest.requests.values()) / SECONDS:.2f}",
            "; ".join(f"{name} {number / SECONDS:.2f}" for name, number in each.rest.requests.most_common() if number),
        )
        for each in costs
    ]
    return Table(("at rest", "writes a second and partition", "requests a second, one worker", "of which"), rows)


def _formula(rest: Counted, requests: float) -> str:
    """What rest costs in a month."""
    of_partitions = rest.requests["PUT ownership"] / SECONDS / PARTITIONS
    of_worker = requests - of_partitions * PARTITIONS
    return (
        f"Requests at rest in a month of 30 days, with the default `balance_interval_seconds`: "
        f"{of_partitions * _MONTH_SECONDS:,.0f} for each partition (ownership, renewed by whoever has it) + "
        f"{of_worker * _MONTH_SECONDS:,.0f} for each worker (what each asks whatever it has)."
    )


def _named(setting: tuple[float, float]) -> str:
    state, checkpoint = setting
    return f"{state:g} s / {checkpoint:g} s{' (defaults)' if setting == SETTINGS[0] else ''}"


async def _measured() -> list[Cost]:
    async with AsyncExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        store = opened.enter_context(azurite(folder))
        source = opened.enter_context(hub(folder, PARTITIONS))
        observed = []
        for number, setting in enumerate(SETTINGS):
            wire = await opened.enter_async_context(Wire(_port(store)))
            through = store.replace(f":{_port(store)}/", f":{wire.port}/")
            one = opened.enter_context(_worker(folder, source, f"cost{number}", setting, through))
            observed.append(Observed(setting, wire, one))
        for each in observed:
            await each.ready()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_load(source))
            await asyncio.sleep(WARM_SECONDS)
            loads = await _during(observed)
        await asyncio.sleep(_DRAIN_SECONDS)
        rests = await _during(observed)
        await asyncio.gather(*(each.stop() for each in observed))
    for load, rest in zip(loads, rests, strict=True):
        assert load.events > 0.8 * RATE * SECONDS, "the worker did not follow: there was no steady load"
        assert rest.events == 0, "there was no rest"
        for counted in (load, rest):
            # By two who count: a request may be under way at either end.
            assert abs(counted.asked - sum(counted.requests.values())) <= 3 * PARTITIONS, "the counts do not agree"
    return [Cost(*each) for each in zip(SETTINGS, loads, rests, strict=True)]


async def _during(observed: Sequence[Observed]) -> list[Counted]:
    """What each asks for meanwhile."""
    before = [await each.now() for each in observed]
    await asyncio.sleep(SECONDS)
    return [(await each.now()).less(first) for each, first in zip(observed, before, strict=True)]


async def _load(source: Hub) -> None:
    """Longer than is measured: what is held still counts as load."""
    count = round(RATE * (SECONDS + 2 * WARM_SECONDS))
    traffic = generate(TrafficOptions(count=count, started_at=datetime.now(UTC), disorder=20, seed=1))
    await send(traffic, connection_string=source.connection_string, hub=HUB, rate=RATE)


def _port(store: str) -> int:
    """Azurite's."""
    found = re.search(r"BlobEndpoint=http://[^:]+:(\d+)/", store)
    assert found is not None
    return int(found[1])


def _worker(
    folder: Path, source: Hub, name: str, setting: tuple[float, float], store: str
) -> AbstractContextManager[Worker]:
    """With the limits as they are shipped, in a group and a container of its own."""
    state_seconds, checkpoint_seconds = setting
    settings = {
        "source": {"consumer_group": name},
        "store": {
            "kind": "blob",
            "connection_string_env": BLOB_ENV,
            "container": name,
            "state_interval_seconds": state_seconds,
            "checkpoint_interval_seconds": checkpoint_seconds,
        },
    }
    routing = {
        "sinks": [{"name": "out", "kind": "file", "path": "out.jsonl"}],
        "routes": [{"name": "everything", "sinks": ["out"]}],
    }
    return worker(folder, source, settings, routing, name=name, environment={BLOB_ENV: store})
