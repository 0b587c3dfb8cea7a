"""What every store promises to who works on dead letters: read and dropped by name, requests to replay them."""

import asyncio

from tests.contract.store_helpers import P1, SCOPE, OpenStore, letter, real_stores, request
from worker.stores import Store
from worker.stores.layout import letter_name


async def kept(store: Store) -> list[int]:
    return [each.sequence_number async for each in store.dead_letters(bodies=False)]


# --- letters by name ---


async def test_a_letter_is_read_whole_by_its_name(open_store: OpenStore):
    store, other = await open_store(), await open_store()
    hard = letter(1, id="0/17?#%ä", body=b"\x00\xff", properties={"k": b"v"}, idempotency_key="5f" * 32)
    await store.put_dead_letters([hard, letter(2)])

    assert await other.read_dead_letter(letter_name(hard)) == hard
    assert await other.read_dead_letter(letter_name(letter(3))) is None


async def test_the_letters_with_the_names_go_and_no_other(open_store: OpenStore):
    store, other = await open_store(), await open_store()
    letters = [letter(number) for number in range(60)]
    await store.put_dead_letters(letters)

    dropped = await other.drop_dead_letters([letter_name(each) for each in letters if each.sequence_number % 3])

    assert dropped == 40
    assert await kept(store) == list(range(0, 60, 3))


async def test_a_letter_that_is_named_twice_or_is_gone_counts_at_most_once(open_store: OpenStore):
    store = await open_store()
    await store.put_dead_letters([letter(1), letter(2)])
    first, gone = letter_name(letter(1)), letter_name(letter(9))

    assert await store.drop_dead_letters([first, first, gone]) == 1
    assert await store.drop_dead_letters([first]) == 0
    assert await store.drop_dead_letters([]) == 0
    assert await kept(store) == [2]


async def test_of_two_that_drop_at_once_each_letter_counts_for_one(open_store: OpenStore):
    stores = [await open_store(), await open_store()]
    letters = [letter(number) for number in range(40)]
    await stores[0].put_dead_letters(letters)

    counts = await asyncio.gather(
        *(store.drop_dead_letters([letter_name(each) for each in letters]) for store in stores)
    )

    assert sum(counts) == 40
    assert await kept(stores[0]) == []


async def test_a_letter_too_long_for_a_list_is_dropped_too(open_store: OpenStore):
    store = await open_store()
    long = letter(1, subject="s" * 20_000)
    await store.put_dead_letters([long])

    assert await store.drop_dead_letters([letter_name(long)]) == 1


# --- requests to replay ---


async def test_requests_are_there_for_every_process_in_the_order_of_their_letters(open_store: OpenStore):
    store, other = await open_store(), await open_store()
    assert await store.replays() == []

    await store.request_replays([request(30), request(4, P1), request(5)])
    await other.request_replays([request(1, P1)])

    assert await other.replays() == [request(1, P1), request(4, P1), request(5), request(30)]


async def test_a_request_that_is_there_stays_one(open_store: OpenStore):
    stores = [await open_store(), await open_store()]
    await asyncio.gather(*(store.request_replays([request(1), request(2), request(1)]) for store in stores))

    assert await stores[0].replays() == [request(1), request(2)]


async def test_ended_requests_are_gone_and_those_that_were_gone_are_no_error(open_store: OpenStore):
    store, other = await open_store(), await open_store()
    await store.request_replays([request(number) for number in range(40)])

    await other.end_replays([request(number) for number in range(0, 45, 2)])
    await other.end_replays([request(0)])
    await other.end_replays([])

    assert await store.replays() == [request(number) for number in range(1, 40, 2)]


async def test_a_dropped_letters_request_goes_with_it(open_store: OpenStore):
    store = await open_store()
    await store.put_dead_letters([letter(1), letter(2)])
    await store.request_replays([request(1), request(2), request(3)])

    await store.drop_dead_letters([letter_name(letter(1)), letter_name(letter(3))])

    assert await store.replays() == [request(2)]
    assert await kept(store) == [2]


async def test_the_end_of_a_request_leaves_its_letter(open_store: OpenStore):
    store = await open_store()
    await store.put_dead_letters([letter(1)])
    await store.request_replays([request(1)])

    await store.end_replays([request(1)])

    assert await kept(store) == [1]


async def test_more_requests_than_fit_a_page_are_all_listed(open_store: OpenStore):
    store = await open_store()
    wanted = [request(number) for number in range(520)]
    await store.request_replays(wanted)

    assert await store.replays() == wanted


@real_stores
async def test_another_scopes_letters_and_requests_stay(open_store: OpenStore):
    store, other = await open_store(), await open_store(SCOPE._replace(consumer_group="other"))
    for each in (store, other):
        await each.put_dead_letters([letter(1)])
        await each.request_replays([request(1)])

    assert await store.drop_dead_letters([letter_name(letter(1))]) == 1

    assert await kept(other) == [1]
    assert await other.replays() == [request(1)]
    assert await store.replays() == []
