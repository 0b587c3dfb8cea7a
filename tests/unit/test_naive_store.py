"""The hand-written loop's checkpoint store: it must be as good as the SDK's own, or the comparison would be unfair."""

from bench.naive import SqliteCheckpointStore

SCOPE = {"fully_qualified_namespace": "ns", "eventhub_name": "hub", "consumer_group": "$Default"}


def store_in(folder) -> SqliteCheckpointStore:
    return SqliteCheckpointStore(str(folder / "naive.db"))


async def test_of_two_claims_with_the_same_etag_one_wins(tmp_path):
    mine, theirs = store_in(tmp_path), store_in(tmp_path)
    claim = {**SCOPE, "partition_id": "0", "owner_id": "a"}
    [first] = await mine.claim_ownership([claim])
    [renewed] = await mine.claim_ownership([first])
    assert await theirs.claim_ownership([{**first, "owner_id": "b"}]) == []
    [taken] = await theirs.claim_ownership([{**renewed, "owner_id": "b"}])
    assert await mine.list_ownership(*SCOPE.values()) == [taken]
    assert taken["owner_id"] == "b"


async def test_the_last_checkpoint_of_each_partition_of_the_scope_is_kept(tmp_path):
    store = store_in(tmp_path)
    for partition, number in (("0", 5), ("1", 7), ("0", 9)):
        await store.update_checkpoint(
            {**SCOPE, "partition_id": partition, "offset": str(number), "sequence_number": number}
        )
    found = await store_in(tmp_path).list_checkpoints(*SCOPE.values())
    assert sorted((row["partition_id"], row["sequence_number"]) for row in found) == [("0", 9), ("1", 7)]
    assert await store.list_checkpoints("ns", "hub", "another") == []
