"""The Blob store before a service that is down, refuses, answers late or not at all, and before other writers.

Also how many requests things take.
"""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from tests.contract.store_helpers import P0, SCOPE, Proxy, blob_store, letter, names, request
from tests.support import AZURITE_KEY, azurite_connection_string, free_port
from worker.errors import StoreUnavailable
from worker.events import PartitionId, UnixSeconds
from worker.stores.blob import BlobStore
from worker.stores.layout import letter_name

NOW = UnixSeconds(1_770_000_000.0)
"""Later than the letters' time."""

CALLS: dict[str, Callable[[BlobStore], Awaitable[object]]] = {
    "open": lambda store: store.open(),
    "release_ownership": lambda store: store.release_ownership("a"),
    "state_versions": lambda store: store.state_versions(),
    "read_state": lambda store: store.read_state(P0),
    "write_state": lambda store: store.write_state(P0, b"", expected=None),
    "read_checkpoint": lambda store: store.read_checkpoint(P0),
    "write_checkpoint": lambda store: store.write_checkpoint(P0, offset="1", sequence_number=1, expected=None),
    "read_memory": lambda store: store.read_memory(P0, "1"),
    "write_memory": lambda store: store.write_memory(P0, "1", b"x"),
    "forget_memory": lambda store: store.forget_memory(P0, keep=[]),
    "read_entry": lambda store: store.read_entry("key"),
    "write_entry": lambda store: store.write_entry("key", b"x", expected=None),
    "expire_entries": lambda store: store.expire_entries(NOW),
    "put_dead_letters": lambda store: store.put_dead_letters([letter(1)]),
    "read_dead_letter": lambda store: store.read_dead_letter("name"),
    "drop_dead_letters": lambda store: store.drop_dead_letters(["name"]),
    "request_replays": lambda store: store.request_replays([request(1)]),
    "replays": lambda store: store.replays(),
    "end_replays": lambda store: store.end_replays([request(1)]),
    "dead_letters": lambda store: anext(store.dead_letters()),
    "expire_dead_letters": lambda store: store.expire_dead_letters(NOW),
    "list_ownership": lambda store: store.checkpoints.list_ownership(*SCOPE),
    "claim_ownership": lambda store: store.checkpoints.claim_ownership([names(owner_id="a")]),
    "list_checkpoints": lambda store: store.checkpoints.list_checkpoints(*SCOPE),
    "update_checkpoint": lambda store: store.checkpoints.update_checkpoint(names(sequence_number=1, offset="1")),
}


@pytest.mark.parametrize("call", CALLS)
async def test_a_service_that_is_down_is_unavailable_within_the_time_limit(call: str):
    down = blob_store(azurite_connection_string(free_port()), "letters", timeout_seconds=0.2)

    with pytest.raises(StoreUnavailable, match=r"^Could not .*the blob container letters at 127\.0\.0\.1") as caught:
        await CALLS[call](down)
    assert AZURITE_KEY not in str(caught.value)
    await down.aclose()


async def test_a_service_that_takes_a_request_and_never_answers_is_unavailable():
    closed = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1_000):
            pass
        writer.close()
        await writer.wait_closed()
        closed.set()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with server:
        silent = blob_store(
            azurite_connection_string(server.sockets[0].getsockname()[1]), "letters", timeout_seconds=0.2
        )
        with pytest.raises(StoreUnavailable, match=r"did not answer within 0\.2 s"):
            await silent.read_state(P0)
        await silent.aclose()
        await closed.wait()


@pytest.mark.parametrize("call", sorted(set(CALLS) - {"open"}))
async def test_a_container_that_was_deleted_is_said_to_be_missing(azurite: str, container: str, call: str):
    never_opened = blob_store(azurite, container)

    with pytest.raises(StoreUnavailable, match="it is missing"):
        await CALLS[call](never_opened)
    await never_opened.aclose()


async def test_a_claim_that_failed_is_not_reported_as_won_and_the_others_are_renewed(
    proxy: Proxy, behind_proxy: BlobStore, store: BlobStore
):
    first = await store.checkpoints.claim_ownership([names(str(each), owner_id="a") for each in range(4)])

    tries = []

    async def fail_one(request: web.Request) -> web.Response | None:
        tries.append(request.path.rsplit("/", 1)[-1])
        return web.Response(status=503) if tries[-1] == "1" else None

    proxy.meddle = fail_one
    with pytest.raises(StoreUnavailable, match=r"Could not claim partitions: .* HTTP 503"):
        await behind_proxy.checkpoints.claim_ownership(first)

    assert sorted(tries) == ["0", "1", "2", "3"]  # a second try could take the first one's success for a loss
    before = {row["partition_id"]: row["etag"] for row in first}
    after = {row["partition_id"]: row["etag"] for row in await store.checkpoints.list_ownership(*SCOPE)}
    assert [each for each in sorted(after) if after[each] == before[each]] == ["1"]


async def test_release_looks_again_at_a_row_that_was_renewed_in_between(
    proxy: Proxy, behind_proxy: BlobStore, store: BlobStore
):
    claims = [await store.checkpoints.claim_ownership([names(owner_id="a")])]

    async def renew_first(request: web.Request) -> None:
        if request.method == "PUT" and len(claims) == 1:
            claims.append(await store.checkpoints.claim_ownership(claims[0]))

    proxy.meddle = renew_first
    await behind_proxy.release_ownership("a")

    assert len(claims[1]) == 1
    assert [row["owner_id"] for row in await store.checkpoints.list_ownership(*SCOPE)] == [""]


async def test_release_leaves_a_row_that_was_taken_in_between(proxy: Proxy, behind_proxy: BlobStore, store: BlobStore):
    ((won,), taken) = (await store.checkpoints.claim_ownership([names(owner_id="a")])), []

    async def take_first(request: web.Request) -> None:
        if request.method == "PUT" and not taken:
            taken.extend(await store.checkpoints.claim_ownership([{**won, "owner_id": "b"}]))

    proxy.meddle = take_first
    await behind_proxy.release_ownership("a")

    assert [row["owner_id"] for row in await store.checkpoints.list_ownership(*SCOPE)] == ["b"]


async def test_a_letter_that_is_dropped_before_it_can_be_deleted_is_not_counted(
    proxy: Proxy, behind_proxy: BlobStore, store: BlobStore
):
    await store.put_dead_letters([letter(1), letter(2)])
    dropped = []

    async def drop_first(request: web.Request) -> None:
        if request.method == "DELETE" and not dropped:
            dropped.append(await store.expire_dead_letters(NOW))

    proxy.meddle = drop_first

    assert await behind_proxy.expire_dead_letters(NOW) + sum(dropped) == 2


async def test_a_letter_that_is_said_to_be_gone_is_not_counted(proxy: Proxy, behind_proxy: BlobStore):
    """Azurite says that the condition is not met; this is the other answer that fits."""
    await behind_proxy.put_dead_letters([letter(1), letter(2)])

    async def gone(request: web.Request) -> web.Response | None:
        if request.method == "DELETE" and "id-1" in request.path:
            return web.Response(status=404, headers={"x-ms-error-code": "BlobNotFound"})
        return None

    proxy.meddle = gone

    assert await behind_proxy.expire_dead_letters(NOW) == 1


async def test_a_letter_that_is_written_anew_before_it_can_be_deleted_stays(
    proxy: Proxy, behind_proxy: BlobStore, store: BlobStore
):
    anew = letter(1, time=NOW)
    await store.put_dead_letters([letter(1)])
    dropped = []

    async def replace_first(request: web.Request) -> None:
        if request.method == "DELETE" and not dropped:
            dropped.append(await store.expire_dead_letters(NOW))
            await store.put_dead_letters([anew])

    proxy.meddle = replace_first

    assert await behind_proxy.expire_dead_letters(NOW) == 0
    assert dropped == [1]
    assert [each async for each in store.dead_letters()] == [anew]


async def test_letters_that_cannot_be_deleted_are_unavailable_and_the_others_go(
    proxy: Proxy, behind_proxy: BlobStore, store: BlobStore
):
    await store.put_dead_letters([letter(number) for number in range(10)])

    async def refuse_one(request: web.Request) -> web.Response | None:
        return web.Response(status=403) if request.method == "DELETE" and "id-3" in request.path else None

    proxy.meddle = refuse_one

    with pytest.raises(StoreUnavailable, match=r"^Could not delete a dead letter: .* access is refused"):
        await behind_proxy.expire_dead_letters(NOW)
    assert [each async for each in store.dead_letters()] == [letter(3)]


async def test_a_short_outage_is_bridged(proxy: Proxy, behind_proxy: BlobStore):
    outages = iter([web.Response(status=503)])

    async def fail_once(_request: web.Request) -> web.Response | None:
        return next(outages, None)

    proxy.meddle = fail_once

    version = await behind_proxy.write_state(P0, b"1", expected=None)

    assert await behind_proxy.read_state(P0) == (b"1", version)


async def test_a_checkpoint_needs_one_request_as_long_as_nobody_else_writes(proxy: Proxy, behind_proxy: BlobStore):
    await behind_proxy.checkpoints.update_checkpoint(names(sequence_number=1, offset="1"))
    proxy.requests.clear()
    for number in range(2, 6):
        await behind_proxy.checkpoints.update_checkpoint(names(sequence_number=number, offset=str(number)))

    assert proxy.requests == ["PUT"] * 4


async def test_a_list_of_letters_without_bodies_takes_one_request(proxy: Proxy, behind_proxy: BlobStore):
    letters = [letter(number) for number in range(20)]
    await behind_proxy.put_dead_letters(letters)
    proxy.requests.clear()

    assert [each async for each in behind_proxy.dead_letters(bodies=False)] == letters
    assert proxy.requests == ["GET"]


async def test_looking_for_old_letters_among_young_ones_takes_one_request(proxy: Proxy, behind_proxy: BlobStore):
    await behind_proxy.put_dead_letters([letter(number, enqueued_at=NOW, time=NOW) for number in range(120)])
    proxy.requests.clear()

    assert await behind_proxy.expire_dead_letters(UnixSeconds(NOW - 1)) == 0
    assert proxy.requests == ["GET"]


async def test_all_versions_take_one_request(proxy: Proxy, behind_proxy: BlobStore):
    for number in range(12):
        await behind_proxy.write_state(PartitionId(str(number)), b"x", expected=None)
    proxy.requests.clear()

    assert len(await behind_proxy.state_versions()) == 12
    assert proxy.requests == ["GET"]


async def test_all_requests_to_replay_take_one_request(proxy: Proxy, behind_proxy: BlobStore):
    await behind_proxy.request_replays([request(number) for number in range(60)])
    proxy.requests.clear()

    assert len(await behind_proxy.replays()) == 60
    assert proxy.requests == ["GET"]


async def test_many_letters_are_dropped_some_at_a_time(proxy: Proxy, behind_proxy: BlobStore):
    letters = [letter(number) for number in range(60)]
    await behind_proxy.put_dead_letters(letters)
    proxy.most_under_way = 0

    assert await behind_proxy.drop_dead_letters([letter_name(each) for each in letters]) == 60

    assert 1 < proxy.most_under_way <= 16
