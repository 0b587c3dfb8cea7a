"""What only the Blob store has: the layout that other tools read, and ways to open it."""

import asyncio
import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from azure.eventhub.extensions.checkpointstoreblobaio import BlobCheckpointStore
from azure.storage.blob import generate_container_sas
from azure.storage.blob.aio import ContainerClient

from tests.contract.store_helpers import P0, P1, SCOPE, blob_store, endpoint_of, letter, names, request
from tests.support import AZURITE_KEY, azurite_connection_string, eventually
from worker.errors import ConfigError, StoreUnavailable
from worker.events import UnixSeconds
from worker.stores import ReplayRequest
from worker.stores.blob import BlobStore
from worker.stores.layout import letter_name

PREFIX = "team.servicebus.windows.net:5671/ml-events/$default"


@pytest.fixture
async def blobs(azurite: str, container: str) -> AsyncIterator[ContainerClient]:
    async with ContainerClient.from_connection_string(azurite, container) as client:
        yield client


# --- the layout ---


async def test_the_sdks_own_store_reads_what_ours_wrote(azurite: str, container: str, store: BlobStore):
    won = await store.checkpoints.claim_ownership([names(owner_id="a")])
    await store.checkpoints.update_checkpoint(names(sequence_number=7, offset="700"))

    async with BlobCheckpointStore.from_connection_string(azurite, container) as theirs:
        (owned,) = await theirs.list_ownership(*SCOPE)
        assert [{**owned, "etag": owned["etag"].strip('"')}] == won
        assert await theirs.list_checkpoints(*SCOPE) == [names(sequence_number=7, offset="700")]


async def test_our_store_goes_on_from_what_the_sdks_own_wrote(azurite: str, container: str, store: BlobStore):
    async with BlobCheckpointStore.from_connection_string(azurite, container) as theirs:
        (won,) = await theirs.claim_ownership([names(owner_id="a")])
        await theirs.update_checkpoint(names(sequence_number=7, offset="700"))

    (renewed,) = await store.checkpoints.claim_ownership([won])
    await store.checkpoints.update_checkpoint(names(sequence_number=6, offset="600"))

    assert renewed["etag"] != won["etag"]
    assert await store.checkpoints.list_checkpoints(*SCOPE) == [names(sequence_number=7, offset="700")]


async def test_blob_names_are_lower_case_and_checkpoints_are_metadata(store: BlobStore, blobs: ContainerClient):
    await store.checkpoints.claim_ownership([names(owner_id="A")])
    await store.checkpoints.update_checkpoint(names(sequence_number=7, offset="1:2:700"))
    await store.write_state(P0, b"state", expected=None)
    await store.write_memory(P0, "1-1", b"memory")
    await store.write_entry("5f0a", b"intent", expected=None)
    await store.put_dead_letters([letter(1)])
    await store.request_replays([request(1)])

    found = {blob.name: blob async for blob in blobs.list_blobs(include=["metadata"])}

    assert sorted(found) == [
        f"{PREFIX}/checkpoint/0",
        f"{PREFIX}/deadletters/{letter_name(letter(1))}",
        f"{PREFIX}/ledger/5f/5f0a",
        f"{PREFIX}/memory/0/1-1",
        f"{PREFIX}/ownership/0",
        f"{PREFIX}/replays/{letter_name(letter(1))}",
        f"{PREFIX}/state/0",
    ]
    assert found[f"{PREFIX}/replays/{letter_name(letter(1))}"].metadata == {"partition": "0"}
    assert found[f"{PREFIX}/checkpoint/0"].metadata == {"sequencenumber": "7", "offset": "1:2:700"}
    assert found[f"{PREFIX}/checkpoint/0"].size == 0
    assert found[f"{PREFIX}/ownership/0"].metadata == {"ownerid": "A"}


async def test_the_sdks_own_store_reads_a_checkpoint_that_was_written_by_version_and_goes_on_from_it(
    azurite: str, container: str, store: BlobStore, blobs: ContainerClient
):
    version = await store.write_checkpoint(P0, offset="700", sequence_number=7, expected=None)
    await store.write_checkpoint(P0, offset="700", sequence_number=7, expected=version)

    (found,) = [blob async for blob in blobs.list_blobs(include=["metadata"])]
    assert found.name == f"{PREFIX}/checkpoint/0"
    assert {**found.metadata, "writeid": "…"} == {"offset": "700", "sequencenumber": "7", "writeid": "…"}
    async with BlobCheckpointStore.from_connection_string(azurite, container) as theirs:
        assert await theirs.list_checkpoints(*SCOPE) == [names(sequence_number=7, offset="700")]
        await theirs.update_checkpoint(names(sequence_number=8, offset="800"))
    read = await store.read_checkpoint(P0)
    assert read is not None
    assert read[:2] == ("800", 8)


async def test_a_checkpoint_without_offset_as_other_sdks_write_it_begins_at_the_start(
    store: BlobStore, blobs: ContainerClient
):
    await blobs.upload_blob(f"{PREFIX}/checkpoint/0", b"", metadata={"sequencenumber": "7"})
    await blobs.upload_blob(f"{PREFIX}/checkpoint/1", b"", metadata={"clientidentifier": "x"})

    assert await store.checkpoints.list_checkpoints(*SCOPE) == [
        names("0", sequence_number=7, offset=""),
        names("1", sequence_number=-1, offset=""),
    ]
    found = [await store.read_checkpoint(each) for each in (P0, P1)]
    assert [each and each[:2] for each in found] == [("", 7), ("", -1)]


async def test_a_checkpoint_that_an_operator_deleted_is_written_anew(store: BlobStore, blobs: ContainerClient):
    await store.checkpoints.update_checkpoint(names(sequence_number=7, offset="700"))
    await blobs.delete_blob(f"{PREFIX}/checkpoint/0")

    await store.checkpoints.update_checkpoint(names(sequence_number=8, offset="800"))

    assert await store.checkpoints.list_checkpoints(*SCOPE) == [names(sequence_number=8, offset="800")]


async def test_a_deleted_ownership_cannot_be_renewed_and_is_claimed_as_a_new_one(
    store: BlobStore, blobs: ContainerClient
):
    (won,) = await store.checkpoints.claim_ownership([names(owner_id="a")])
    await blobs.delete_blob(f"{PREFIX}/ownership/0")

    assert await store.checkpoints.claim_ownership([won]) == []
    assert len(await store.checkpoints.claim_ownership([names(owner_id="a")])) == 1


async def test_a_letter_that_is_dropped_while_letters_are_read_is_passed_over(store: BlobStore, blobs: ContainerClient):
    await store.put_dead_letters([letter(number) for number in range(40)])
    listed = [name async for name in blobs.list_blob_names()]

    reading = store.dead_letters()
    found = [await anext(reading)]
    await blobs.delete_blob(listed[39])
    found += [each async for each in reading]

    assert [each.sequence_number for each in found] == list(range(39))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (b'{"format":2}', "newer version"),
        (b'{"format":1,"id":"x"}', "no dead letter"),
        (b"[]", "no dead letter"),
        (b"{", "cannot be read"),
    ],
)
async def test_a_row_that_is_not_understood_is_named(store: BlobStore, blobs: ContainerClient, row: bytes, says: str):
    await blobs.upload_blob(f"{PREFIX}/deadletters/odd", row)

    with pytest.raises(StoreUnavailable, match=rf"deadletters/odd.*{says}"):
        await anext(store.dead_letters())


@pytest.mark.parametrize("row", [b'{"format":2,"time":0}', b'{"format":1,"time":0}', b"[]", b"{"])
async def test_a_row_that_is_not_understood_is_not_deleted_for_its_age(
    store: BlobStore, blobs: ContainerClient, row: bytes
):
    await blobs.upload_blob(f"{PREFIX}/deadletters/00000000", row)
    await store.put_dead_letters([letter()])

    assert await store.expire_dead_letters(UnixSeconds(1_770_000_000.0)) == 1
    assert [name async for name in blobs.list_blob_names()] == [f"{PREFIX}/deadletters/00000000"]


@pytest.mark.parametrize("row", [b'{"format":2,"time":0}', b'{"format":1,"time":0}', b"[]", b"{"])
@pytest.mark.parametrize("in_metadata", [False, True])
async def test_a_row_that_is_not_understood_is_not_dropped_by_its_name(
    store: BlobStore, blobs: ContainerClient, row: bytes, in_metadata: bool
):
    metadata = {"letter": base64.b64encode(row).decode()} if in_metadata else {}
    await blobs.upload_blob(f"{PREFIX}/deadletters/odd", row, metadata=metadata)
    await store.request_replays([ReplayRequest(P0, "odd")])
    await store.put_dead_letters([letter()])

    assert await store.drop_dead_letters(["odd", letter_name(letter())]) == 1
    assert [name async for name in blobs.list_blob_names()] == [f"{PREFIX}/deadletters/odd", f"{PREFIX}/replays/odd"]


async def test_a_blob_that_is_no_request_is_passed_over(store: BlobStore, blobs: ContainerClient):
    await blobs.upload_blob(f"{PREFIX}/replays/odd", b"")
    await store.request_replays([request(1)])

    assert await store.replays() == [request(1)]


async def test_an_entry_expires_by_when_it_was_last_written(store: BlobStore, blobs: ContainerClient):
    """The service's clock has whole seconds: an entry stays until the second in which it was written is over."""
    version = await store.write_entry("renewed", b"x", expected=None)
    await store.write_entry("old", b"x", expected=None)

    async def written_at(key: str) -> float:
        properties = await blobs.get_blob_client(f"{PREFIX}/ledger/{key[:2]}/{key}").get_blob_properties()
        return properties.last_modified.timestamp()

    async def renewed_later() -> bool:
        nonlocal version
        version = await store.write_entry("renewed", b"y", expected=version)
        return await written_at("renewed") > await written_at("old")

    assert await store.expire_entries(UnixSeconds(await written_at("old") + 0.5)) == 0
    await eventually(renewed_later)
    assert await store.expire_entries(UnixSeconds(await written_at("old") + 1)) == 1
    assert await store.read_entry("old") is None
    assert await store.read_entry("renewed") == (b"y", version)


# --- opening ---


async def test_a_container_that_exists_is_used_without_the_right_to_create_it(
    azurite: str, container: str, store: BlobStore
):
    limited = BlobStore(
        container, SCOPE, connection_string=None, account_url=address_with_sas(azurite, container), credential=None
    )
    await limited.open()
    await limited.write_state(P0, b"state", expected=None)

    assert await store.state_versions() == await limited.state_versions()
    await limited.aclose()


async def test_without_the_right_to_create_it_a_missing_container_is_named_and_the_signature_is_not(
    azurite: str, container: str
):
    limited = BlobStore(
        container, SCOPE, connection_string=None, account_url=address_with_sas(azurite, container), credential=None
    )

    with pytest.raises(StoreUnavailable, match=f"container {container} at 127.0.0.1") as caught:
        await limited.open()
    assert "sig" not in str(caught.value)
    await limited.aclose()


async def test_many_processes_that_start_at_once_share_one_new_container(azurite: str, container: str):
    stores = [blob_store(azurite, container) for _ in range(8)]

    await asyncio.gather(*(each.open() for each in stores))

    await asyncio.gather(*(each.aclose() for each in stores))


async def test_a_wrong_key_is_refused_with_what_to_do_and_not_shown(azurite: str, container: str):
    wrong = AZURITE_KEY.swapcase()
    refused = blob_store(azurite.replace(AZURITE_KEY, wrong), container)

    with pytest.raises(StoreUnavailable, match=r"access is refused .*Check the connection string") as caught:
        await refused.open()
    assert wrong not in str(caught.value)
    await refused.aclose()


@pytest.mark.parametrize(
    "ways_in",
    [
        {"connection_string": "AccountKey=secret", "account_url": None},
        {"connection_string": "", "account_url": None},
        {"connection_string": None, "account_url": None},
    ],
)
def test_an_address_that_is_none_is_a_configuration_mistake_and_is_not_quoted(ways_in: dict[str, str | None]):
    with pytest.raises(ConfigError, match=r"^store\.(connection_string|account_url): ") as caught:
        BlobStore("container", SCOPE, credential=None, **ways_in)
    assert "secret" not in str(caught.value)


async def test_it_may_be_closed_without_having_been_opened():
    await blob_store(azurite_connection_string(1), "container").aclose()


def address_with_sas(azurite: str, container: str) -> str:
    endpoint = endpoint_of(azurite)
    signature = generate_container_sas(
        urlsplit(endpoint).path.strip("/"),
        container,
        account_key=AZURITE_KEY,
        permission="rwl",
        expiry=datetime.now(UTC) + timedelta(hours=1),
    )
    return f"{endpoint}?{signature}"
