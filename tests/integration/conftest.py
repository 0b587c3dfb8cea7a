"""Fixtures of the integration tests: the local hub, in this process and on a port of its own."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from worker.local.broker import Broker, BrokerOptions

HUB = "hub"
PARTITIONS = 4


@pytest.fixture
async def start_broker() -> AsyncIterator[Callable[..., Awaitable[Broker]]]:
    """Starts brokers with the options that a test names; all end with the test."""
    brokers: list[Broker] = []

    async def start(**options) -> Broker:
        broker = Broker(BrokerOptions(**{"port": 0, "hubs": (HUB,), "partitions": PARTITIONS, **options}))
        await broker.start()
        brokers.append(broker)
        return broker

    yield start
    for broker in brokers:
        await broker.aclose()


@pytest.fixture
async def broker(start_broker) -> Broker:
    """A broker with one hub named "hub" and four partitions, in memory, where every token passes."""
    return await start_broker()


@pytest.fixture
def connection_string(broker: Broker) -> str:
    """How a client reaches the hub of `broker`."""
    return broker.connection_string(HUB)
