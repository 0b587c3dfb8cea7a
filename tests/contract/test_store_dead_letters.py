"""What every store promises about dead letters: kept as they were, listed oldest first, deleted when they are old."""

import asyncio
import json
import math
import random
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from tests.contract.store_helpers import SCOPE, OpenStore, letter, real_stores
from worker.events import UnixSeconds
from worker.stores import DeadLetter, Store
from worker.stores.layout import letter_from_json, letter_to_json

HOUR = 3600.0
NOON = UnixSeconds(1_764_000_000.0)


def hours(number: float) -> UnixSeconds:
    """So many hours after noon."""
    return UnixSeconds(NOON + number * HOUR)


async def kept(store: Store) -> list[DeadLetter]:
    return [each async for each in store.dead_letters()]


def full_letter() -> DeadLetter:
    """Every field, with values that are hard to write down."""
    return letter(
        id="0/17?#%",
        route="failed-runs",
        sink="oncall",
        attempts=3,
        index=2,
        idempotency_key="5f" * 32,
        event_id="e\x00\ud800é",
        type="Microsoft.MachineLearningServices.RunCompleted",
        subject="experiments/ä",
        source="/subscriptions/s",
        body=bytes(range(256)),
        content_type="application/json",
        properties={
            "text": "ü",
            "flag": True,
            "none": None,
            "big": 2**70,
            "float": 1.5,
            "infinite": float("inf"),
            "bytes": b"\x00\xff",
            "time": datetime(2026, 11, 22, 1, 2, 3, 456789, tzinfo=UTC),
            "uuid": UUID("12345678-1234-5678-1234-567812345678"),
            "list": [1, b"\x01", {"$bytes": "not a tag", 5: None}],
        },
    )


async def test_a_dead_letter_comes_back_as_it_was(open_store: OpenStore):
    store = await open_store()
    full, plain = full_letter(), letter(18)

    await store.put_dead_letters([full, plain])

    assert await kept(store) == [full, plain]


async def test_a_property_of_an_unknown_type_is_kept_as_text(open_store: OpenStore):
    store = await open_store()
    await store.put_dead_letters([letter(1, properties={"tuple": (1, 2), "range": range(3)})])

    (found,) = await kept(store)

    assert found.properties == {"tuple": [1, 2], "range": "range(0, 3)"}


async def test_a_letter_written_again_stays_as_it_is(open_store: OpenStore):
    stores = [await open_store(), await open_store()]
    first = letter(1, attempts=1)
    await stores[0].put_dead_letters([first])

    await stores[1].put_dead_letters([letter(1, attempts=2, time=UnixSeconds(1_764_000_200.0)), letter(2)])

    assert await kept(stores[0]) == [first, letter(2)]


async def test_two_processes_that_write_the_same_letters_keep_one_of_each(open_store: OpenStore):
    stores = [await open_store(), await open_store()]
    letters = [letter(number) for number in range(40)]

    await asyncio.gather(*(store.put_dead_letters(letters) for store in stores))

    assert await kept(stores[0]) == letters


async def test_dead_letters_come_oldest_first_also_over_several_pages(open_store: OpenStore):
    store = await open_store()
    letters = [letter(number, enqueued_at=UnixSeconds(1_764_000_000 + number // 2)) for number in range(150)]
    mixed = random.Random(4).sample(letters, len(letters))

    await store.put_dead_letters(mixed[:75])
    await store.put_dead_letters(mixed[75:])

    assert await kept(store) == letters


async def test_letters_can_be_listed_without_bodies_and_properties(open_store: OpenStore):
    store = await open_store()
    short = letter(1, body=b"body", properties={"k": "v"}, detail="é")
    long = letter(2, body=b"body", properties={"k": "v"}, subject="s" * 20_000)
    await store.put_dead_letters([short, long])

    listed = [each async for each in store.dead_letters(bodies=False)]

    assert listed == [replace(short, body=b"", properties={}), replace(long, body=b"", properties={})]
    assert await kept(store) == [short, long]


async def test_no_dead_letters_is_an_empty_list(open_store: OpenStore):
    store = await open_store()
    await store.put_dead_letters([])

    assert await kept(store) == []


# --- age ---


async def test_letters_are_deleted_by_when_they_became_dead_letters_and_the_number_is_told(open_store: OpenStore):
    store, other = await open_store(), await open_store()
    old = [letter(1, enqueued_at=hours(-9), time=hours(-2)), letter(2, enqueued_at=hours(-1), time=hours(-1))]
    given_up_late = letter(3, enqueued_at=hours(-9), time=hours(1))
    young = letter(4, enqueued_at=hours(2), time=hours(3))
    await store.put_dead_letters([*old, given_up_late, young])

    assert await other.expire_dead_letters(NOON) == 2
    assert await kept(store) == [given_up_late, young]
    assert await store.expire_dead_letters(NOON) == 0
    assert await store.expire_dead_letters(hours(4)) == 2
    assert await kept(store) == []


async def test_a_letter_goes_in_the_moment_after_its_time_and_not_at_it(open_store: OpenStore):
    store = await open_store()
    only = letter(1, enqueued_at=NOON, time=NOON)
    await store.put_dead_letters([only])

    assert await store.expire_dead_letters(NOON) == 0
    assert await kept(store) == [only]
    assert await store.expire_dead_letters(UnixSeconds(math.nextafter(NOON, math.inf))) == 1


async def test_of_many_letters_exactly_the_old_ones_go(open_store: OpenStore):
    """Those that were given up late stand between the others and hide none; over several pages and transactions."""
    store = await open_store()
    order = random.Random(4)
    enqueued = [hours(order.uniform(-12, 2)) for _ in range(230)]
    letters = [
        letter(number, enqueued_at=each, time=UnixSeconds(each + order.choice([0, 0.5, 9]) * HOUR))
        for number, each in enumerate(enqueued)
    ]
    await store.put_dead_letters(letters)

    expired = await store.expire_dead_letters(NOON)

    staying = [each for each in letters if each.time >= NOON]
    assert expired == len(letters) - len(staying) > 100
    assert await kept(store) == sorted(staying, key=lambda each: each.enqueued_at)


async def test_what_a_letter_holds_does_not_keep_it_from_being_deleted(open_store: OpenStore):
    store = await open_store()
    long = letter(2, subject="s" * 20_000)
    misleading = letter(3, detail='"time":0,', properties={"time": 0.0}, time=hours(9))
    await store.put_dead_letters([full_letter(), long, misleading])

    assert await store.expire_dead_letters(hours(8)) == 2
    assert await kept(store) == [misleading]


async def test_of_two_processes_that_delete_at_once_each_letter_counts_for_one(open_store: OpenStore):
    stores = [await open_store(), await open_store()]
    await stores[0].put_dead_letters([letter(number) for number in range(40)])

    counts = await asyncio.gather(*(store.expire_dead_letters(hours(1)) for store in stores))

    assert sum(counts) == 40
    assert await kept(stores[0]) == []


async def test_letters_that_are_written_meanwhile_stay(open_store: OpenStore):
    stores = [await open_store(), await open_store()]
    await stores[0].put_dead_letters([letter(number) for number in range(40)])
    young = [letter(number, enqueued_at=hours(-1), time=hours(2)) for number in range(40, 60)]

    expired, _ = await asyncio.gather(stores[0].expire_dead_letters(hours(1)), stores[1].put_dead_letters(young))

    assert expired == 40
    assert await kept(stores[0]) == young


@real_stores
async def test_another_consumer_groups_letters_stay(open_store: OpenStore):
    store, other = await open_store(), await open_store(SCOPE._replace(consumer_group="other"))
    await store.put_dead_letters([letter()])
    await other.put_dead_letters([letter()])

    assert await store.expire_dead_letters(hours(1)) == 1
    assert await kept(other) == [letter()]


# --- other versions ---


def test_a_row_is_read_without_the_field_it_lacks_and_without_what_a_later_version_added():
    row = json.loads(letter_to_json(letter(1, idempotency_key="5f" * 32)))
    del row["idempotency_key"]

    assert letter_from_json(json.dumps(row).encode()) == letter(1)
    assert letter_from_json(json.dumps({**row, "added_later": {"x": 1}}).encode()) == letter(1)
