"""A hub on the local broker, in the contract suite."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from tests.contract.rigs import SECRETS, Mood, echo
from tests.hub_service import HUB, HubService, hub_service
from worker.errors import SinkUnavailable

if TYPE_CHECKING:
    from tests.contract.rigs.table import Place

REFUSALS = {
    Mood.BUSY: {"on": "send", "condition": "com.microsoft:server-busy"},
    Mood.REJECTS: {"on": "send", "condition": "amqp:link:message-size-exceeded"},
    Mood.REFUSES: {"on": "attach", "condition": "amqp:unauthorized-access"},
}


class EventHubRig:
    kind = "eventhub"
    says_when = False
    lost = SinkUnavailable
    """Who reads a hub has to expect repetitions anyway."""

    def __init__(self, service: HubService) -> None:
        self._service = service

    def settings(self) -> dict[str, Any]:
        return {"connection_string_env": "CONTRACT_CONNECTION", "hub": HUB}

    def arrived(self) -> list[dict[str, Any]]:
        came = self._service.came()
        assert all(each.properties["idempotencykey"] == each.id for each in came)
        return [{"id": each.properties["id"], "key": each.id} for each in came]

    def next_time(self, mood: Mood) -> None:
        if mood is Mood.LOSES_THE_ANSWER:
            self._service.lose_answers()
        else:
            self._service.fault(kind="refuse", link="sender", description=echo(), **REFUSALS[mood])

    def well_again(self) -> None:
        self._service.well_again()


@asynccontextmanager
async def eventhub(place: "Place") -> AsyncIterator[EventHubRig]:
    async with hub_service(key=SECRETS["CONTRACT_KEY"]) as service:
        place.monkeypatch.setenv("CONTRACT_CONNECTION", service.connection_string)
        yield EventHubRig(service)
