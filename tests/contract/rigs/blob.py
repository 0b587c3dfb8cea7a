"""Azurite behind a proxy, in the contract suite. Requests are counted: the second of an event finds its blob there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tests.api_service import Scripted
from tests.blob_service import BlobService, blob_service
from tests.contract.rigs import STATUS, Mood, echo, headers_of
from worker.errors import SinkUnavailable

if TYPE_CHECKING:
    from tests.contract.rigs.table import Place


class BlobRig:
    kind = "blob"
    says_when = True
    lost = SinkUnavailable
    """A blob's name tells whether it was written."""

    def __init__(self, service: BlobService) -> None:
        self.service = service

    def settings(self) -> dict[str, Any]:
        return {"connection_string_env": "CONTRACT_CONNECTION", "container": self.service.container}

    def arrived(self) -> list[dict[str, Any]]:
        return self.service.accepted

    def next_time(self, mood: Mood) -> None:
        if mood is Mood.LOSES_THE_ANSWER:
            self.answer_next(Scripted(takes_effect=True, drops=True))
        else:
            self.answer_next(Scripted(STATUS[mood], echo(), headers_of(mood)))

    def answer_next(self, answer: Scripted) -> None:
        """The next request that writes is answered so."""
        self.service.script.append(answer)
        if answer.drops:  # and so does the second one: the HTTP client tries a PUT again by itself
            self.service.script.append(Scripted(drops=True))

    def well_again(self) -> None:
        """It is."""


@asynccontextmanager
async def blob(place: "Place") -> AsyncIterator[BlobRig]:
    async with blob_service(place.azurite(), f"archive-{uuid4().hex}") as service:
        await service.create_container()
        place.monkeypatch.setenv("CONTRACT_CONNECTION", service.connection_string)
        yield BlobRig(service)
