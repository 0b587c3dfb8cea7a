"""The feed between the SDK's callback and a pipeline."""

import asyncio

from tests.pipeline.stage import message
from tests.virtual_time import run, settle_down
from worker.feed import Feed


def numbers(batch):
    return [each.sequence_number for each in batch]


def test_what_the_sdk_hands_over_again_after_a_reconnect_is_dropped_also_within_a_batch():
    async def scene():
        feed = Feed()
        assert await feed.put([message(n) for n in (4, 5, 6)], None) == 3
        assert await feed.put([message(n) for n in (5, 6, 7, 5, 6, 7, 8)], None) == 2
        assert await feed.put([message(n) for n in (7, 8)], None) == 0
        assert numbers(await feed.get(1)) == [4, 5, 6]
        assert numbers(await feed.get(1)) == [7, 8]
        assert await feed.get(1) == []

    run(scene())


def test_a_full_feed_makes_the_callback_wait_and_loses_nothing():
    async def scene():
        feed = Feed()
        putting = asyncio.create_task(_put_all(feed, 10))
        await settle_down()
        assert not putting.done()
        taken = [numbers(await feed.get(1)) for _ in range(10)]
        assert taken == [[n] for n in range(10)]
        await putting

    run(scene())


def test_closing_lets_the_callback_go():
    async def scene():
        feed = Feed()
        putting = asyncio.create_task(_put_all(feed, 10))
        await settle_down()
        feed.close()
        await putting

    run(scene())


def test_it_is_drained_only_when_everything_the_hub_is_known_to_have_was_taken():
    async def scene():
        feed = Feed()
        assert feed.drained
        await feed.put([message(0)], 2)
        assert not feed.drained
        await feed.get(1)
        assert not feed.drained  # the hub has two more
        await feed.put([message(1), message(2)], 2)
        await feed.get(1)
        assert feed.drained

    run(scene())


async def _put_all(feed, count):
    for number in range(count):
        await feed.put([message(number)], None)
