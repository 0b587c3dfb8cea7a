"""Versions registered at one moment, processes that die or freeze, events that come again: where the endpoint ends."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from tests.api_service import served
from tests.apis.online_endpoints import ENDPOINT, OnlineEndpoints
from tests.fate import Fate
from tests.integration.deployments import deliver_to_the_end, registered, sink_at
from tests.support import eventually
from worker.errors import InProgress, SinkUnavailable
from worker.sinks import Delivery
from worker.sinks.azureml_deployment import AzureMlDeploymentSink

V3, V4 = registered(3, second=3), registered(4, second=4)


@pytest.fixture
async def service() -> AsyncIterator[OnlineEndpoints]:
    service = OnlineEndpoints()
    service.changes = lambda _: True  # type: ignore[method-assign]  # a process may die at any request, a look too
    async with served(service):
        yield service


@asynccontextmanager
async def opened(service: OnlineEndpoints, **given: Any) -> AsyncIterator[AzureMlDeploymentSink]:
    """The sink of a process."""
    sink = sink_at(service, settings={"shift_traffic": True}, **given)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.aclose()


def check_the_end(service: OnlineEndpoints, newest: str = "fraud-4", *, puts: int = 1) -> None:
    """One deployment each, put so often at most, and all traffic on the newest."""
    assert service.traffic == {newest: 100}
    for name in service.deployments:
        assert 1 <= service.count("deploy", name) <= puts
    assert service.states()[newest] == "Succeeded"
    assert not [code for code in service.refusals if code != "Conflict"]


# --- processes that die


async def one_life(service: OnlineEndpoints, deliveries: list[Delivery], fate: Fate) -> list[Delivery]:
    """A process that is given the deliveries; returns those it brought to an end before it died."""
    service.before = service.after = fate.step
    ended: list[Delivery] = []

    async def bring_to_the_end(sink: AzureMlDeploymentSink, delivery: Delivery) -> None:
        await deliver_to_the_end(sink, delivery, service)
        ended.append(delivery)

    async with opened(service) as sink:
        tasks = [asyncio.create_task(bring_to_the_end(sink, each)) for each in deliveries]
        dead = asyncio.create_task(fate.died.wait())
        all_ended = asyncio.gather(*tasks)
        await asyncio.wait({dead, all_ended}, return_when=asyncio.FIRST_COMPLETED)
        for task in (dead, *tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(asyncio.CancelledError):
            await all_ended
    return ended


@pytest.mark.parametrize("again", ["what had not ended", "everything"])
@pytest.mark.parametrize("deliveries", [[V4], [V3, V4], [V4, V3]], ids=["v4", "v3 and v4", "v4 and v3"])
async def test_whatever_request_a_process_dies_at_the_next_one_brings_it_to_the_same_end(service, deliveries, again):
    whole = Fate()
    await one_life(service, deliveries, whole)
    check_the_end(service)
    assert whole.taken >= 20
    for death in range(whole.taken + 1):
        service.clear()
        fate = Fate(death)
        ended = await one_life(service, deliveries, fate)
        left = deliveries if again == "everything" else [each for each in deliveries if each not in ended]
        assert await one_life(service, left, Fate()) == left or len(left) > 1
        check_the_end(service)


async def test_processes_that_die_one_after_the_other_at_every_step_still_get_there(service):
    for lives in range(200):
        if await one_life(service, [V4], Fate(lives)):
            break
    check_the_end(service)
    assert lives > 3


# --- processes that freeze


class Freezer:
    """Holds the first change of the endpoint itself back, as long as its process is frozen."""

    def __init__(self, service: OnlineEndpoints) -> None:
        self._service = service
        self.frozen = asyncio.Event()
        self.thaw = asyncio.Event()
        self.landed = asyncio.Event()
        service.before = self._before

    async def _before(self) -> None:
        asked = self._service.asked[-1]
        if asked.method == "PUT" and asked.path.endswith(f"/{ENDPOINT}") and not self.frozen.is_set():
            self.frozen.set()
            await self.thaw.wait()
            asyncio.get_running_loop().call_soon(self.landed.set)


@pytest.fixture
async def two_versions(service: OnlineEndpoints) -> OnlineEndpoints:
    """Both are deployed, and one process is about to give the traffic to the older one."""
    service.at_once = True
    for version in ("3", "4"):
        service.put_there(f"fraud-{version}", "fraud", version)
    service.deployments["fraud-4"]["properties"]["provisioningState"] = "Creating"
    return service


async def test_a_process_frozen_before_it_moves_the_traffic_repairs_that_when_it_thaws(two_versions):
    service, freezer = two_versions, Freezer(two_versions)
    async with opened(service) as frozen, opened(service) as other:
        late = asyncio.create_task(frozen.deliver(V3))
        await freezer.frozen.wait()
        service.finish("fraud-4")
        await other.deliver(V4)
        assert service.traffic == {"fraud-4": 100}
        freezer.thaw.set()
        await late
    assert service.traffic == {"fraud-4": 100}
    assert [name for what, name in service.changes_made if what == "traffic"] == ["fraud-4", "fraud-3", "fraud-4"]


async def test_where_it_dies_as_soon_as_it_has_thawed_its_event_comes_again_and_repairs_it(two_versions):
    service, freezer = two_versions, Freezer(two_versions)
    async with opened(service) as frozen, opened(service) as other:
        late = asyncio.create_task(frozen.deliver(V3))
        await freezer.frozen.wait()
        service.finish("fraud-4")
        await other.deliver(V4)
        late.cancel()
        freezer.thaw.set()
        await eventually(lambda: service.traffic == {"fraud-3": 100})
        await other.deliver(V3)
    assert service.traffic == {"fraud-4": 100}


async def test_what_was_seen_long_ago_is_not_acted_upon(service):
    now = 0.0
    service.put_there("fraud-3", "fraud", "3")

    async def freeze() -> None:
        nonlocal now
        now += 60.0

    async with opened(service, monotonic=lambda: now) as sink:
        looked = sink._look

        async def look_and_freeze(attempt: Any) -> Any:
            seen = await looked(attempt)
            await freeze()
            return seen

        sink._look = look_and_freeze  # type: ignore[method-assign]
        for delivery in (V3, V4):
            with pytest.raises(InProgress, match="looked at long ago") as raised:
                await sink.deliver(delivery)
            assert raised.value.retry_after_seconds == 0
    assert service.changes_made == []


async def test_a_look_is_as_old_as_its_first_request(service):
    now = 0.0
    service.put_there("fraud-3", "fraud", "3")

    async def freeze() -> None:
        nonlocal now
        now += 60.0 * (service.asked[-1].path.endswith("/deployments"))

    service.before = freeze
    async with opened(service, monotonic=lambda: now) as sink:
        with pytest.raises(InProgress, match="looked at long ago"):
            await sink.deliver(V3)
    assert service.changes_made == []


# --- any order


class Scheduler:
    """Lets one request at a time take its next step, in an order that a number decides."""

    def __init__(self, service: OnlineEndpoints, seed: int) -> None:
        self.choose = random.Random(seed)
        self._service = service
        self._waiting: list[asyncio.Future[None]] = []
        self.running = 0
        service.before = service.after = self.turn

    async def turn(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    async def run(self) -> None:
        """Until nobody is left."""
        while self.running:
            while len(self._waiting) < self.running:
                await asyncio.sleep(0)
            unfinished = self._service.unfinished()
            if unfinished and self.choose.random() < 0.3:
                self._service.finish(self.choose.choice(unfinished))
            elif self._waiting:
                self._waiting.pop(self.choose.randrange(len(self._waiting))).set_result(None)

    async def deliver(self, sink: AzureMlDeploymentSink, delivery: Delivery) -> None:
        """As the lane does: again and again, until it is accepted."""
        self.running += 1
        try:
            while True:
                try:
                    return await sink.deliver(delivery)
                except (InProgress, SinkUnavailable):
                    await self.turn()
        finally:
            self.running -= 1


@asynccontextmanager
async def pods(service: OnlineEndpoints, how_many: int) -> AsyncIterator[list[AzureMlDeploymentSink]]:
    sinks = [sink_at(service, settings={"shift_traffic": True}) for _ in range(how_many)]
    for sink in sinks:
        await sink.open()
    try:
        yield sinks
    finally:
        for sink in sinks:
            await sink.aclose()


async def in_some_order(service: OnlineEndpoints, seed: int, deliveries: list[Delivery]) -> None:
    service.clear()
    scheduler = Scheduler(service, seed)
    service.exclusive = scheduler.choose.random() < 0.5
    async with pods(service, len(deliveries)) as sinks:
        tasks = [
            asyncio.create_task(scheduler.deliver(sink, each)) for sink, each in zip(sinks, deliveries, strict=True)
        ]
        await asyncio.sleep(0)
        await scheduler.run()
        await asyncio.gather(*tasks)


@pytest.mark.parametrize("seeds", [range(40), range(40, 80)], ids=str)
async def test_two_versions_on_two_pods_in_any_order_of_their_requests_end_with_the_newer_one(service, seeds):
    older_deployed = set()
    for seed in seeds:
        await in_some_order(service, seed, [V3, V4])
        check_the_end(service)
        older_deployed.add("fraud-3" in service.deployments)
    assert older_deployed == {True, False}  # the orders differ


async def test_copies_of_three_versions_in_any_order_end_with_the_newest_and_put_the_same_deployment_at_worst(service):
    for seed in range(15):
        service.asked.clear()
        await in_some_order(service, seed, [V3, registered(5, second=5), V4, V3, V4])
        check_the_end(service, "fraud-5", puts=2)
        for name in service.deployments:
            bodies = [each.body for each in service.asked if each.method == "PUT" and each.path.endswith(f"/{name}")]
            assert all(body == bodies[0] for body in bodies)
