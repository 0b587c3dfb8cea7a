"""bench/stages.py: what stands there for a partition is one that a lane can work for."""

import asyncio

import pytest

from bench.stages import _through_lane
from tests.deliveries import delivery_of


@pytest.mark.timeout(20)  # a lane that fails leaves the bench waiting
async def test_the_benchs_owner_lets_a_lane_deliver():
    some = [delivery_of().released.placed]
    async with asyncio.timeout(10):
        sink = await _through_lane(some)
    assert sink.accepted == 1
