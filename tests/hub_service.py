"""A hub on the local broker as a destination: what came, by partition, and how it goes wrong."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import orjson
import proton

from worker.local.broker import Broker, BrokerOptions
from worker.local.faults import parse

HUB = "ordered"
KEY_NAME = "sender"


class Came(NamedTuple):
    """A message in the hub."""

    partition: str
    body: bytes
    content_type: str
    id: str
    properties: dict[str, Any]

    @property
    def event(self) -> dict[str, Any]:
        return orjson.loads(self.body)


class HubService:
    """One hub with several partitions, looked into without a client."""

    def __init__(self, broker: Broker, key: str) -> None:
        self.broker = broker
        self._key = key
        self._takes_and_loses = 0
        for partition in self._partitions:
            partition.listeners.add(self._taken)

    @property
    def connection_string(self) -> str:
        return (
            f"Endpoint=sb://127.0.0.1:{self.broker.port};SharedAccessKeyName={KEY_NAME};SharedAccessKey={self._key};"
            f"UseDevelopmentEmulator=true;EntityPath={HUB}"
        )

    def came(self) -> list[Came]:
        """All messages, partition by partition, each in the order of its log."""
        return [
            _came(str(partition.id), partition.log[number])
            for partition in self._partitions
            for number in range(len(partition.log))
        ]

    def fault(self, **request: Any) -> None:
        """Goes wrong like this: see worker.local.faults."""
        self._injector.make(parse(request))

    def lose_answers(self, batches: int = 1) -> None:
        """Takes so many batches and hangs up; who tries again at once, as the SDK does, is sent away."""
        self._takes_and_loses = batches

    def well_again(self) -> None:
        self._injector.lift_all()

    @property
    def _partitions(self) -> list[Any]:
        return self.broker._hubs.find(HUB, asked_for=HUB).partitions

    @property
    def _injector(self) -> Any:
        return self.broker._admin._injector

    def _taken(self) -> None:
        if self._takes_and_loses:
            self._takes_and_loses -= 1
            self.fault(kind="refuse", on="attach", link="sender")
            self.fault(kind="drop", link="sender")


def _came(partition: str, encoded: bytes) -> Came:
    message = proton.Message()
    message.decode(encoded)
    return Came(partition, bytes(message.body), message.content_type, message.id, dict(message.properties or {}))


@asynccontextmanager
async def hub_service(*, key: str = "a2V5LW9mLXRoZS1odWI=", partitions: int = 4) -> AsyncIterator[HubService]:
    options = BrokerOptions(port=0, hubs=(HUB,), partitions=partitions, keys={KEY_NAME: key}, admin_port=0)
    broker = Broker(options)
    await broker.start()
    try:
        yield HubService(broker, key)
    finally:
        await broker.aclose()
