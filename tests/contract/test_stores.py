"""What every store promises, on SQLite, on Blob (Azurite), and on the fake of the other tests.

Dead letters are in test_store_dead_letters.py, and what only one store has in test_store_<kind>.py.
"""

import asyncio
import random
from types import SimpleNamespace

import pytest
from azure.eventhub import LoadBalancingStrategy
from azure.eventhub.aio import CheckpointStore, EventHubConsumerClient
from azure.eventhub.aio._eventprocessor._ownership_manager import OwnershipManager

from tests.contract.store_helpers import P0, P1, SCOPE, OpenStore, names, real_stores
from worker.errors import Conflict
from worker.stores import StateVersion, Store


def ownership(partition: str, owner_id: str, **more: str) -> dict[str, str]:
    return names(partition, owner_id=owner_id, **more)


def checkpoint(sequence_number: int, offset: str | None = None) -> dict[str, str | int]:
    return names(sequence_number=sequence_number, offset=offset or f"{sequence_number}00")


async def owners(store: Store) -> dict[str, str]:
    return {row["partition_id"]: row["owner_id"] for row in await store.checkpoints.list_ownership(*SCOPE)}


async def stored_checkpoint(store: Store) -> tuple[int, str]:
    (row,) = await store.checkpoints.list_checkpoints(*SCOPE)
    return row["sequence_number"], row["offset"]


# --- ownership ---


async def test_a_partition_nobody_has_is_claimed_without_an_etag(open_store: OpenStore):
    store = await open_store()

    (won,) = await store.checkpoints.claim_ownership([ownership("0", "a")])
    (listed,) = await store.checkpoints.list_ownership(*SCOPE)

    assert isinstance(won["last_modified_time"], float)
    assert won["etag"].strip('"') == listed["etag"].strip('"')
    assert {**listed, "etag": won["etag"]} == won


async def test_a_claim_without_an_etag_loses_against_a_partition_that_is_owned(open_store: OpenStore):
    store = await open_store()
    await store.checkpoints.claim_ownership([ownership("0", "a")])

    assert list(await store.checkpoints.claim_ownership([ownership("0", "b")])) == []
    assert await owners(store) == {"0": "a"}


async def test_each_claim_changes_the_etag_and_the_former_one_is_refused(open_store: OpenStore):
    store = await open_store()
    (first,) = await store.checkpoints.claim_ownership([ownership("0", "a")])
    (second,) = await store.checkpoints.claim_ownership([first])

    assert second["etag"] != first["etag"]
    assert second["last_modified_time"] >= first["last_modified_time"]
    assert list(await store.checkpoints.claim_ownership([{**first, "owner_id": "b"}])) == []
    assert await owners(store) == {"0": "a"}


async def test_an_etag_for_a_partition_that_was_never_owned_is_refused(open_store: OpenStore):
    store = await open_store()

    assert list(await store.checkpoints.claim_ownership([ownership("0", "a", etag="7")])) == []
    assert await owners(store) == {}


async def test_the_result_holds_only_what_was_won_and_leaves_the_input_alone(open_store: OpenStore):
    store = await open_store()
    await store.checkpoints.claim_ownership([ownership("0", "a")])
    wanted = [ownership("0", "b"), ownership("1", "b")]

    won = await store.checkpoints.claim_ownership(wanted)

    assert [row["partition_id"] for row in won] == ["1"]
    assert wanted == [ownership("0", "b"), ownership("1", "b")]


@pytest.mark.parametrize("known", [False, True], ids=["new partitions", "listed partitions"])
async def test_of_two_processes_that_claim_at_once_exactly_one_wins_each_partition(open_store: OpenStore, known: bool):
    partitions = [str(number) for number in range(8)]
    stores = {"a": await open_store(), "b": await open_store()}
    if known:
        await stores["a"].checkpoints.claim_ownership([ownership(each, "gone") for each in partitions])
    listed = {row["partition_id"]: row for row in await stores["a"].checkpoints.list_ownership(*SCOPE)}

    async def claim(owner_id: str) -> list[str]:
        wanted = [{**listed.get(each, ownership(each, "")), "owner_id": owner_id} for each in partitions]
        return [row["partition_id"] for row in await stores[owner_id].checkpoints.claim_ownership(wanted)]

    won_by_a, won_by_b = await asyncio.gather(claim("a"), claim("b"))

    assert sorted(won_by_a + won_by_b) == partitions
    assert await owners(stores["b"]) == {**dict.fromkeys(won_by_a, "a"), **dict.fromkeys(won_by_b, "b")}


@real_stores
async def test_release_gives_up_what_the_owner_holds_and_nothing_else(open_store: OpenStore):
    store = await open_store()
    other_scope = SCOPE._replace(consumer_group="other")
    elsewhere = {**ownership("0", "a"), "consumer_group": "other"}
    await store.checkpoints.claim_ownership([ownership("0", "a"), ownership("1", "b"), elsewhere])

    await store.release_ownership("a")

    assert await owners(store) == {"0": "", "1": "b"}
    assert [row["owner_id"] for row in await store.checkpoints.list_ownership(*other_scope)] == ["a"]


async def test_a_released_partition_can_be_claimed_and_its_former_owner_cannot_renew(open_store: OpenStore):
    store = await open_store()
    (before,) = await store.checkpoints.claim_ownership([ownership("0", "a")])
    await store.release_ownership("a")
    (released,) = await store.checkpoints.list_ownership(*SCOPE)

    assert list(await store.checkpoints.claim_ownership([before])) == []
    assert len(list(await store.checkpoints.claim_ownership([{**released, "owner_id": "b"}]))) == 1


@real_stores
async def test_scopes_are_kept_apart_and_compared_without_case(open_store: OpenStore):
    store, other = await open_store(), await open_store(SCOPE._replace(consumer_group="other"))
    await store.checkpoints.claim_ownership([ownership("0", "a")])
    await store.write_state(P0, b"mine", expected=None)

    assert await other.read_state(P0) is None
    assert await other.state_versions() == {}
    (row,) = await store.checkpoints.list_ownership(SCOPE.namespace, SCOPE.hub.upper(), SCOPE.consumer_group.lower())
    assert row["owner_id"] == "a"


# --- checkpoints ---


async def test_a_checkpoint_comes_back_with_its_offset_as_text(open_store: OpenStore):
    store = await open_store()
    await store.checkpoints.update_checkpoint(checkpoint(7, "1:2:300"))

    (row,) = await store.checkpoints.list_checkpoints(*SCOPE)

    assert row == checkpoint(7, "1:2:300")


async def test_a_checkpoint_never_moves_back_whatever_the_order_and_whoever_writes(open_store: OpenStore):
    stores = [await open_store(), await open_store()]
    order = random.Random(4)
    numbers = list(range(40))
    order.shuffle(numbers)
    highest = -1
    for number in numbers:
        highest = max(highest, number)
        await order.choice(stores).checkpoints.update_checkpoint(checkpoint(number))
        assert await stored_checkpoint(stores[0]) == (highest, f"{highest}00")


async def test_of_many_checkpoints_at_once_the_furthest_stays(open_store: OpenStore):
    stores = [await open_store(), await open_store()]

    await asyncio.gather(
        *(stores[number % 2].checkpoints.update_checkpoint(checkpoint(number)) for number in range(12))
    )

    assert await stored_checkpoint(stores[0]) == (11, "1100")


async def test_an_equal_sequence_number_keeps_the_stored_offset(open_store: OpenStore):
    store = await open_store()
    await store.checkpoints.update_checkpoint(checkpoint(5, "first"))
    await store.checkpoints.update_checkpoint(checkpoint(5, "second"))

    assert await stored_checkpoint(store) == (5, "first")


async def test_a_forced_checkpoint_moves_back_and_the_other_process_goes_on_from_there(open_store: OpenStore):
    running, seeking = await open_store(), await open_store()
    await running.checkpoints.update_checkpoint(checkpoint(500))
    await seeking.checkpoints.update_checkpoint(checkpoint(100), force=True)
    assert await stored_checkpoint(running) == (100, "10000")

    await running.checkpoints.update_checkpoint(checkpoint(101))

    assert await stored_checkpoint(running) == (101, "10100")


async def test_the_first_checkpoint_may_stand_before_the_first_message(open_store: OpenStore):
    store = await open_store()
    await store.checkpoints.update_checkpoint(checkpoint(-1, "-1"))
    await store.checkpoints.update_checkpoint(checkpoint(0, "0"))

    assert await stored_checkpoint(store) == (0, "0")


# --- partition state ---


async def test_state_comes_back_byte_for_byte_with_the_version_that_was_returned(open_store: OpenStore):
    store = await open_store()
    payload = bytes(range(256)) * 4_000

    assert await store.read_state(P0) is None
    version = await store.write_state(P0, payload, expected=None)

    assert await store.read_state(P0) == (payload, version)
    assert await store.state_versions() == {P0: version}


async def test_a_write_changes_the_version_of_its_partition_only(open_store: OpenStore):
    store, watcher = await open_store(), await open_store()
    first = await store.write_state(P0, b"1", expected=None)
    other = await store.write_state(P1, b"1", expected=None)

    second = await store.write_state(P0, b"1", expected=first)

    assert second != first
    assert await watcher.state_versions() == {P0: second, P1: other}


async def test_a_state_that_exists_is_not_created_again(open_store: OpenStore):
    store, late = await open_store(), await open_store()
    version = await store.write_state(P0, b"mine", expected=None)

    with pytest.raises(Conflict):
        await late.write_state(P0, b"theirs", expected=None)
    assert await late.read_state(P0) == (b"mine", version)


async def test_a_version_of_a_state_that_is_absent_is_a_conflict(open_store: OpenStore):
    store = await open_store()

    with pytest.raises(Conflict):
        await store.write_state(P0, b"mine", expected=StateVersion("1"))
    assert await store.read_state(P0) is None


async def test_a_former_owner_cannot_write_after_the_new_one_has(open_store: OpenStore):
    former, new = await open_store(), await open_store()
    version = await former.write_state(P0, b"generation 1", expected=None)
    await new.write_state(P0, b"generation 2", expected=version)

    with pytest.raises(Conflict):
        await former.write_state(P0, b"generation 1, thawed", expected=version)
    stored = await new.read_state(P0)
    assert stored is not None
    assert stored.payload == b"generation 2"


@pytest.mark.parametrize("instances", [1, 2], ids=["one store", "two stores"])
async def test_of_two_writers_at_once_exactly_one_wins_every_time(open_store: OpenStore, instances: int):
    stores = [await open_store() for _ in range(instances)]
    version = None
    for number in range(20):
        results = await asyncio.gather(
            stores[0].write_state(P0, b"a%d" % number, expected=version),
            stores[-1].write_state(P0, b"b%d" % number, expected=version),
            return_exceptions=True,
        )
        assert {type(result) for result in results} == {Conflict, StateVersion}
        winner, version = next((i, each) for i, each in enumerate(results) if isinstance(each, StateVersion))
        assert await stores[0].read_state(P0) == (b"%s%d" % (b"ab"[winner : winner + 1], number), version)


# --- life, and the SDK itself ---


async def test_a_store_opens_a_second_time_and_closes_twice(open_store: OpenStore):
    store = await open_store()
    again = await open_store()
    await store.aclose()
    await store.aclose()

    assert await again.state_versions() == {}


async def test_the_sdk_shares_the_partitions_of_a_hub_over_two_stores(open_store: OpenStore):
    first, second = await open_store(), await open_store()
    managers = [ownership_manager("a", first), ownership_manager("b", second)]
    for _ in range(5):
        for manager in managers:
            await manager.claim_ownership()

    held = await owners(first)
    assert sorted(held) == ["0", "1", "2", "3"]
    assert sorted(held.values()) == ["a", "a", "b", "b"]
    assert {row["partition_id"] for row in managers[0].owned_partitions} == {p for p, o in held.items() if o == "a"}

    await managers[0].release_ownership(managers[0].owned_partitions[0]["partition_id"])
    assert sorted((await owners(second)).values()) == ["", "a", "b", "b"]


async def test_the_sdks_client_takes_the_store(open_store: OpenStore):
    store = await open_store()
    assert isinstance(store.checkpoints, CheckpointStore)
    address = "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=k;SharedAccessKey=aw==;UseDevelopmentEmulator=true"

    client = EventHubConsumerClient.from_connection_string(
        address, "$Default", eventhub_name=SCOPE.hub, checkpoint_store=store.checkpoints
    )

    await client.close()


def ownership_manager(owner_id: str, store: Store) -> OwnershipManager:
    async def get_partition_ids() -> list[str]:
        return ["0", "1", "2", "3"]

    client = SimpleNamespace(
        _address=SimpleNamespace(hostname=SCOPE.namespace), eventhub_name=SCOPE.hub, get_partition_ids=get_partition_ids
    )
    return OwnershipManager(
        client,
        consumer_group=SCOPE.consumer_group,
        owner_id=owner_id,
        checkpoint_store=store.checkpoints,
        ownership_timeout=20,
        load_balancing_strategy=LoadBalancingStrategy.GREEDY,
        partition_id=None,
    )
