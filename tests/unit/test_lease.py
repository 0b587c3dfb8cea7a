"""Leases: the SDK's view of the store, watched."""

from tests.fakes import MemoryStore
from tests.virtual_time import run
from worker.lease import Leases

SCOPE = ("hub.test", "events", "$Default")


def ownership(partition: str, owner: str, etag: str | None = None) -> dict[str, object]:
    names = ("fully_qualified_namespace", "eventhub_name", "consumer_group")
    row = {**dict(zip(names, SCOPE, strict=True)), "partition_id": partition, "owner_id": owner}
    return {**row, "etag": etag} if etag else row


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_lease_counts_from_when_the_renewal_was_asked_for():
    async def scene():
        clock = Clock()

        class SlowStore(MemoryStore):
            async def claim_ownership(self, ownership_list, **kwargs):
                clock.now += 3  # the answer takes its time
                return await super().claim_ownership(ownership_list, **kwargs)

        leases = Leases(SlowStore(), lease_seconds=10, clock=clock)
        assert not leases.valid("0")
        await leases.claim_ownership([ownership("0", "me")])
        assert leases.valid("0")
        clock.now = 109.9
        assert leases.valid("0")
        clock.now = 110.0
        assert not leases.valid("0")

    run(scene())


def test_a_claim_that_was_not_granted_renews_nothing():
    async def scene():
        store = MemoryStore()
        await store.claim_ownership([ownership("0", "other")])
        leases = Leases(store, lease_seconds=10)
        assert list(await leases.claim_ownership([ownership("0", "me", etag="stale")])) == []
        assert not leases.valid("0")

    run(scene())


def test_once_stopping_nothing_is_claimed_and_giving_up_still_works():
    async def scene():
        store = MemoryStore()
        leases = Leases(store, lease_seconds=10)
        [granted] = await leases.claim_ownership([ownership("0", "me")])
        leases.stop_claiming()
        assert list(await leases.claim_ownership([granted, ownership("1", "me")])) == []
        [released] = await leases.claim_ownership([{**granted, "owner_id": ""}])
        assert released["owner_id"] == ""
        leases.claim_again()
        assert len(list(await leases.claim_ownership([ownership("1", "me")]))) == 1
        await leases.release()
        assert {each["owner_id"] for each in await store.list_ownership(*SCOPE)} == {""}

    run(scene())
