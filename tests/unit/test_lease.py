"""Leases: the SDK's view of the store, watched. Clocks are moved by hand."""

import asyncio
from contextlib import suppress

import pytest
from azure.eventhub._eventprocessor.common import LoadBalancingStrategy
from azure.eventhub.aio._eventprocessor._ownership_manager import OwnershipManager

from tests.memory_store import Contents, MemoryStore
from tests.virtual_time import run, settle_down
from worker.errors import StoreUnavailable
from worker.events import PartitionId
from worker.lease import Leases
from worker.link import Link

SCOPE = ("hub.test", "events", "$Default")
INTERVAL, EXPIRY = 2.0, 20.0
LEASE = EXPIRY - 2 * INTERVAL
ZERO, ONE = PartitionId("0"), PartitionId("1")


def ownership(partition: str, owner: str, etag: str | None = None) -> dict[str, object]:
    names = ("fully_qualified_namespace", "eventhub_name", "consumer_group")
    row = {**dict(zip(names, SCOPE, strict=True)), "partition_id": partition, "owner_id": owner}
    return {**row, "etag": etag} if etag else row


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def leases_on(store: MemoryStore, clock: Clock) -> Leases:
    return Leases(store, balance_seconds=INTERVAL, expiry_seconds=EXPIRY, clock=clock, wall=clock)


class Hub:
    """What is seen of the links to it: the frames that came, and the link they came on."""

    def __init__(self) -> None:
        self.link: object | None = object()
        self.frames = 0

    def look(self, _: PartitionId) -> Link | None:
        return Link(self.link, self.frames) if self.link is not None else None


class Renewing:
    """A process that owns partition 0, has a link, and tries to renew every interval."""

    def __init__(self) -> None:
        self.clock, self.hub = Clock(), Hub()
        self.store = MemoryStore(clock=self.clock)
        self.leases = leases_on(self.store, self.clock)
        self.leases.connected(self.hub.look)

    async def begin(self) -> None:
        await self.leases.claim_ownership([ownership("0", "me")])
        await self.tick()

    async def tick(self) -> None:
        """What the SDK does each interval."""
        with suppress(StoreUnavailable):
            rows = await self.leases.list_ownership(*SCOPE)
            mine = [row for row in rows if row["owner_id"] == "me"]
            await self.leases.claim_ownership(mine)

    async def go_on(self, seconds: float, *, frames: bool = True) -> None:
        for _ in range(round(seconds / INTERVAL)):
            self.clock.now += INTERVAL
            self.hub.frames += frames
            self.leases.heard(ZERO)
            await self.tick()


def test_a_lease_counts_from_when_the_renewal_was_asked_for():
    async def scene():
        clock = Clock()

        class SlowStore(MemoryStore):
            async def claim_ownership(self, ownership_list, **kwargs):
                clock.now += 3  # the answer takes its time
                return await super().claim_ownership(ownership_list, **kwargs)

        leases = leases_on(SlowStore(), clock)
        assert not leases.valid(ZERO)
        await leases.claim_ownership([ownership("0", "me")])
        assert leases.valid(ZERO)
        clock.now = 1000 + LEASE - 0.1
        assert leases.valid(ZERO)
        clock.now = 1000 + LEASE
        assert not leases.valid(ZERO)

    run(scene())


def test_a_claim_that_was_not_granted_renews_nothing():
    async def scene():
        store = MemoryStore()
        await store.claim_ownership([ownership("0", "other")])
        leases = leases_on(store, Clock())
        assert list(await leases.claim_ownership([ownership("0", "me", etag="stale")])) == []
        assert not leases.valid(ZERO)

    run(scene())


def test_once_stopping_nothing_is_claimed_and_giving_up_still_works():
    async def scene():
        store = MemoryStore()
        leases = leases_on(store, Clock())
        [granted] = await leases.claim_ownership([ownership("0", "me")])
        leases.stop_claiming()
        assert list(await leases.claim_ownership([granted, ownership("1", "me")])) == []
        [released] = await leases.claim_ownership([{**granted, "owner_id": ""}])
        assert released["owner_id"] == ""
        leases.connected(lambda _: None)
        assert len(list(await leases.claim_ownership([ownership("1", "me")]))) == 1
        await leases.release()
        assert {each["owner_id"] for each in await store.list_ownership(*SCOPE)} == {""}

    run(scene())


class Stopping:
    """A process that owns partition 0 beside another that owns partition 1, and offers it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(clock=self.clock)
        self.leases = leases_on(self.store, self.clock)

    async def begin(self, *, other: bool = True) -> None:
        await self.leases.claim_ownership([ownership("0", "me")])
        if other:
            await self.store.claim_ownership([ownership("1", "other")])
        await self.sdk_sees()

    async def sdk_sees(self) -> dict[str, str]:
        return {row["partition_id"]: row["owner_id"] for row in await self.leases.list_ownership(*SCOPE)}

    async def store_says(self) -> dict[str, str]:
        return {row["partition_id"]: row["owner_id"] for row in await self.store.list_ownership(*SCOPE)}

    async def sdk_claims(self) -> list[str]:
        mine = [row for row in await self.leases.list_ownership(*SCOPE) if row["owner_id"] == "me"]
        return [row["partition_id"] for row in await self.leases.claim_ownership([*mine, ownership("2", "me")])]

    async def taken(self) -> None:
        [row] = [row for row in await self.store.list_ownership(*SCOPE) if row["partition_id"] == "0"]
        await self.store.claim_ownership([{**row, "owner_id": "other"}])


def test_what_is_offered_is_free_in_the_store_and_ours_for_the_sdk_until_another_has_it():
    async def scene():
        process = Stopping()
        await process.begin()
        assert await process.leases.offer()
        assert await process.store_says() == {"0": "", "1": "other"}
        assert await process.sdk_claims() == ["0"]
        assert await process.store_says() == {"0": "", "1": "other"}
        assert process.leases.valid(ZERO)
        await process.taken()
        assert await process.sdk_claims() == []
        assert await process.sdk_sees() == {"0": "other", "1": "other"}
        assert not process.leases.valid(ZERO)

    run(scene())


def test_an_offer_ends_and_with_it_the_lease_also_when_nobody_looked():
    async def scene():
        process = Stopping()
        await process.begin()
        await process.leases.offer()
        process.clock.now += process.leases.offer_seconds - 0.1
        assert process.leases.valid(ZERO)
        process.clock.now += 0.2
        assert not process.leases.valid(ZERO)
        process.leases.stop_claiming()
        assert await process.sdk_claims() == []

    run(scene())


def test_once_an_offer_has_ended_no_lease_comes_back():
    async def scene():
        process = Stopping()
        await process.begin()
        await process.leases.offer()
        process.clock.now += process.leases.offer_seconds  # it was frozen: others may have taken it
        process.leases.stop_claiming()
        assert not process.leases.valid(ZERO)

    run(scene())


def test_what_was_let_go_while_it_was_on_offer_is_not_begun_again_though_it_is_free():
    async def scene():
        process = Stopping()
        await process.begin()
        await process.leases.offer()
        [mine] = [row for row in await process.leases.list_ownership(*SCOPE) if row["partition_id"] == "0"]
        await process.taken()
        await process.leases.claim_ownership(
            [{**mine, "owner_id": ""}]
        )  # the SDK has closed it, because it was asked for
        await process.store.release_ownership("other")  # who stops too
        assert await process.sdk_sees() == {"0": "", "1": ""}
        assert await process.sdk_claims() == []

    run(scene())


@pytest.mark.parametrize(("balance", "seconds"), [(2, 3.4), (10, 5)])
def test_an_offer_stands_until_others_have_looked_and_is_over_before_they_take_for_silence(
    balance: float, seconds: float
):
    leases = Leases(MemoryStore(), balance_seconds=balance, expiry_seconds=60, hand_over_seconds=5)
    assert leases.offer_seconds == pytest.approx(seconds)


@pytest.mark.parametrize("case", ["alone", "the other has expired", "the store is away", "the store does not answer"])
def test_nothing_is_offered_where_nobody_is_known_to_take_it(case):
    async def scene():
        process = Stopping()
        await process.begin(other=case != "alone")
        process.clock.now += EXPIRY + 1 if case == "the other has expired" else 0
        process.store.down = case == "the store is away"
        if case == "the store does not answer":
            process.store.list_ownership = lambda *_: asyncio.sleep(3600)
        assert not await process.leases.offer()
        process.store.down = False
        assert (await process.store_says() if case != "the store does not answer" else {"0": "me"})["0"] == "me"

    run(scene())


def test_while_the_store_is_away_the_link_carries_the_lease():
    async def scene():
        process = Renewing()
        await process.begin()
        process.store.down = True
        await process.go_on(300)
        assert process.leases.valid(ZERO)
        process.store.down = False
        await process.go_on(INTERVAL)
        assert process.leases.valid(ZERO)

    run(scene())


def test_a_store_that_answers_and_does_not_renew_ends_the_lease():
    """The link alone is no lease: whoever asks the store and is refused may have lost the partition."""

    async def scene():
        process = Renewing()
        await process.begin()
        process.clock.now += LEASE
        process.hub.frames += 1
        process.leases.heard(ZERO)
        assert not process.leases.valid(ZERO)

    run(scene())


@pytest.mark.parametrize("link", [None, object()], ids=["no link", "another link"])
def test_a_link_that_was_lost_once_carries_nothing_any_more_though_there_be_another(link):
    async def scene():
        process = Renewing()
        await process.begin()
        process.store.down = True
        await process.go_on(40)
        assert process.leases.valid(ZERO)
        process.hub.link = link
        await process.go_on(4)
        assert not process.leases.valid(ZERO)

    run(scene())


def test_a_link_on_which_nothing_is_heard_carries_no_longer_than_a_lease():
    async def scene():
        process = Renewing()
        await process.begin()
        process.store.down = True
        await process.go_on(40)
        await process.go_on(LEASE - 2 * INTERVAL, frames=False)
        assert process.leases.valid(ZERO)
        await process.go_on(2 * INTERVAL, frames=False)
        assert not process.leases.valid(ZERO)

    run(scene())


def test_a_store_that_takes_long_to_say_anything_is_away_too():
    async def scene():
        answer = asyncio.Event()

        class Silent(MemoryStore):
            async def _answered(self, name: str) -> None:
                await answer.wait()

        process = Renewing()
        await process.begin()
        silent = Silent(process.store.contents, clock=process.clock)
        process.leases._store = silent
        process.clock.now += LEASE - INTERVAL
        asking = asyncio.create_task(process.tick())
        await settle_down()
        for _ in range(4):
            process.clock.now += INTERVAL
            process.hub.frames += 1
            process.leases.heard(ZERO)
        assert process.leases.valid(ZERO)
        answer.set()
        await asking

    run(scene())


def test_a_process_that_was_frozen_while_the_store_was_away_thaws_without_a_lease():
    async def scene():
        process = Renewing()
        await process.begin()
        process.store.down = True
        await process.go_on(40)
        assert process.leases.valid(ZERO)
        process.clock.now += 40  # frozen
        process.hub.frames += 1  # what lay in the socket
        assert not process.leases.valid(ZERO)
        await process.tick()  # the store is away still
        assert not process.leases.valid(ZERO), "frames from before are no sign of now"

    run(scene())


def test_a_partition_that_the_store_shows_as_anothers_is_ours_no_more_whatever_the_clock_says():
    async def scene():
        process = Renewing()
        await process.begin()
        [row] = await process.store.list_ownership(*SCOPE)
        await process.store.claim_ownership([{**row, "owner_id": "thief"}])
        assert process.leases.valid(ZERO)
        await process.leases.list_ownership(*SCOPE)
        assert not process.leases.valid(ZERO)

    run(scene())


class PartlyAway(MemoryStore):
    """Can be read and not written, when it is told so: a locked file."""

    read_only = False

    async def _reach(self, name: str) -> None:
        if self.read_only and name == "claim_ownership":
            raise StoreUnavailable("locked")


class Pod:
    """One process's share of the balancing: the SDK's own, on leases of ours."""

    def __init__(self, name: str, contents: Contents, clock: Clock, partitions: int) -> None:
        self.store = PartlyAway(contents, clock=clock)
        self.leases = leases_on(self.store, clock)
        self.owned: set[str] = set()

        class Client:
            eventhub_name = SCOPE[1]

            class _address:  # noqa: N801 - the SDK's name
                hostname = SCOPE[0]

            async def get_partition_ids(self):
                return [str(number) for number in range(partitions)]

        self._manager = OwnershipManager(
            Client(), SCOPE[2], name, self.leases, EXPIRY, LoadBalancingStrategy.GREEDY, None
        )

    async def tick(self) -> None:
        with suppress(StoreUnavailable):  # then the SDK leaves everything as it is
            self.owned = set(await self._manager.claim_ownership())


@pytest.fixture
def balanced(monkeypatch):
    """Three processes that share twelve partitions, and a way to let time pass for all of them."""
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    contents = Contents()
    pods = [Pod(f"pod-{number}", contents, clock, 12) for number in range(3)]

    async def pass_time(seconds: float, *awake: Pod) -> int:
        """Returns the most partitions that one of them had."""
        most = 0
        for _ in range(round(seconds / INTERVAL)):
            clock.now += INTERVAL
            for pod in awake or pods:
                await pod.tick()
                most = max(most, len(pod.owned))
        return most

    asyncio.run(pass_time(60))
    assert [len(pod.owned) for pod in pods] == [4, 4, 4]
    return pods, pass_time, clock


def test_after_an_outage_longer_than_the_expiry_nobody_takes_what_others_had(balanced):
    pods, pass_time, _ = balanced
    before = [set(pod.owned) for pod in pods]

    async def scene():
        for pod in pods:
            pod.store.down = True
        await pass_time(300)
        for pod in pods:
            pod.store.down = False
        assert await pass_time(60) == 4

    asyncio.run(scene())
    assert [pod.owned for pod in pods] == before


def test_one_that_sees_the_store_again_before_the_others_leaves_them_what_they_had(balanced):
    pods, pass_time, _ = balanced
    before = [set(pod.owned) for pod in pods]

    async def scene():
        for pod in pods:
            pod.store.down = True
        await pass_time(300)
        pods[0].store.down = False
        assert await pass_time(EXPIRY - 2 * INTERVAL) == 4
        for pod in pods:
            pod.store.down = False
        assert await pass_time(60) == 4

    asyncio.run(scene())
    assert [pod.owned for pod in pods] == before


def test_a_store_that_can_be_read_and_not_written_gives_nobody_everything(balanced):
    pods, pass_time, _ = balanced
    before = [set(pod.owned) for pod in pods]

    async def scene():
        for pod in pods:
            pod.store.read_only = True
        await pass_time(300)
        for pod in pods:
            pod.store.read_only = False
        assert await pass_time(60) == 4

    asyncio.run(scene())
    assert [pod.owned for pod in pods] == before


def test_who_died_while_the_store_was_away_is_noticed_one_expiry_after_it_came_back(balanced):
    pods, pass_time, _ = balanced
    dead, *alive = pods

    async def scene():
        for pod in pods:
            pod.store.down = True
        await pass_time(300)
        for pod in pods:
            pod.store.down = False
        await pass_time(EXPIRY - 2 * INTERVAL, *alive)
        assert [len(pod.owned) for pod in alive] == [4, 4]
        await pass_time(4 * INTERVAL, *alive)

    asyncio.run(scene())
    assert [len(pod.owned) for pod in alive] == [6, 6]
    assert set.union(*(pod.owned for pod in alive)) > dead.owned


def test_who_was_dead_before_the_store_went_away_need_not_be_waited_for_again():
    async def scene():
        process = Renewing()
        await process.store.claim_ownership([ownership("1", "dead")])
        died_at = process.clock.now
        await process.begin()
        await process.go_on(EXPIRY + 2 * INTERVAL)
        process.store.down = True
        await process.go_on(300)
        process.store.down = False
        rows = {row["partition_id"]: row for row in await process.leases.list_ownership(*SCOPE)}
        assert rows["1"]["last_modified_time"] == died_at
        assert rows["0"]["last_modified_time"] == process.clock.now

    run(scene())


def test_what_a_replaced_client_of_ours_still_owns_is_free_for_the_next_one():
    async def scene():
        clock = Clock()
        leases = leases_on(MemoryStore(clock=clock), clock)
        await leases.claim_ownership([ownership("0", "first client"), ownership("1", "first client")])
        assert [row["owner_id"] for row in await leases.list_ownership(*SCOPE)] == ["first client"] * 2
        leases.connected(lambda _: None)
        assert [row["owner_id"] for row in await leases.list_ownership(*SCOPE)] == ["", ""]

    run(scene())


def test_an_answer_that_came_late_is_an_outage_though_no_attempt_failed():
    async def scene():
        process = Renewing()
        await process.store.claim_ownership([ownership("1", "other")])
        await process.begin()
        process.clock.now += 300  # the store took its time for everybody
        rows = await process.leases.list_ownership(*SCOPE)
        assert {row["last_modified_time"] for row in rows} == {process.clock.now}

    run(scene())


def test_one_who_owns_nothing_takes_what_a_dead_owner_had():
    async def scene():
        clock = Clock()
        leases = leases_on(store := MemoryStore(clock=clock), clock)
        await store.claim_ownership([ownership("1", "dead")])
        died_at = clock.now
        for _ in range(50):
            clock.now += INTERVAL
            [row] = await leases.list_ownership(*SCOPE)
        assert row["last_modified_time"] == died_at

    run(scene())


def test_an_outage_that_was_there_before_the_process_counts_too():
    async def scene():
        clock = Clock()
        contents = Contents()
        await MemoryStore(contents, clock=clock).claim_ownership([ownership("0", "other")])
        clock.now += 300
        store = MemoryStore(contents, clock=clock)
        store.down = True
        leases = leases_on(store, clock)
        with pytest.raises(StoreUnavailable):
            await leases.open()
        store.down = False
        await leases.open()
        [row] = await leases.list_ownership(*SCOPE)
        assert row["last_modified_time"] == clock.now

    run(scene())


@pytest.mark.parametrize(
    ("offset", "number", "told"), [("4200", 42, "4200"), ("", 42, 42), ("", 1, 1), ("", 0, "-1"), ("", -1, "-1")]
)
def test_a_checkpoint_without_an_offset_is_told_by_its_number_and_never_as_the_beginning(offset, number, told):
    """The SDK goes by the offset, and by where it was told to start where there is none."""

    async def scene():
        store = MemoryStore()
        await store.write_checkpoint(ZERO, offset=offset, sequence_number=number, expected=None)
        leases = leases_on(store, Clock())
        [row] = await leases.list_checkpoints(*SCOPE)
        assert row["offset"] == told
        assert type(row["offset"]) is type(told)
        assert leases.reads_from(ZERO) == number

    run(scene())
