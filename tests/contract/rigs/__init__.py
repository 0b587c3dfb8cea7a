"""A destination for each kind of sink: how a sink is configured for it, what has arrived, and how it goes wrong."""

import os
from base64 import b64encode
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import orjson
import pytest

from tests.acs_service import AcsService, Fault
from tests.api_service import ApiService, Scripted
from tests.mailbox import Mailbox
from tests.support import AZURITE_KEY
from tests.tokens import HIDDEN_TOKEN, token_for
from tests.workflows_service import HIDDEN, Answer, Workflow
from worker.errors import OutcomeUnknown, WorkerError
from worker.sinks import Delivery
from worker.sinks.discard import DiscardSink

ACS_KEY = b64encode(b"hidden-access-key-4711").decode()
SECRETS = {
    "CONTRACT_URL": "hidden-path-4711",
    "CONTRACT_SECRET": "hidden-signing-key",
    "CONTRACT_AUTH": "hidden-token",
    "CONTRACT_KEY": ACS_KEY,
}


class Identity:
    """The identity of a process, to log in with."""

    async def token(self, scope: str) -> str:
        return token_for(scope)


HIDDEN_TEXTS = (*SECRETS.values(), *HIDDEN, HIDDEN_TOKEN, AZURITE_KEY)


class Rig(Protocol):
    """A destination of one kind: how to configure a sink for it, and what has arrived."""

    kind: str

    def settings(self) -> dict[str, Any]: ...

    def arrived(self) -> list[dict[str, Any]]:
        """One record per accepted delivery: `id`, and the idempotency key as `key`."""
        ...


class Mood(StrEnum):
    """How a destination takes the next delivery."""

    BUSY = "busy"
    REJECTS = "rejects"
    REFUSES = "refuses the worker"
    LOSES_THE_ANSWER = "takes it and loses the answer"


RETRY_AFTER_SECONDS = 7.0
STATUS = {Mood.BUSY: 429, Mood.REJECTS: 422, Mood.REFUSES: 403}


def echo() -> str:
    """A destination may answer with what it was sent, or knows besides."""
    given = [value for name, value in os.environ.items() if name.startswith("CONTRACT_")]
    return " ".join(given)


class AnsweringRig(Rig, Protocol):
    """A destination that can say no."""

    says_when: bool
    """Whether it can say when to come again."""
    lost: type[WorkerError]
    """What a lost answer is: unknown, or merely tried again where the destination knows the key."""

    def next_time(self, mood: Mood) -> None:
        """The next delivery goes like this."""
        ...

    def well_again(self) -> None:
        """Those after it go well."""
        ...


class LogRig:
    kind = "log"

    def __init__(self, lines: list[Any]) -> None:
        self._lines = lines

    def settings(self) -> dict[str, Any]:
        return {}

    def arrived(self) -> list[dict[str, Any]]:
        return [{"id": line["id"], "key": line["idempotency_key"]} for line in self._lines]


class DiscardRig:
    """It leaves nothing behind, so what it has accepted is noted as it returns."""

    kind = "discard"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._accepted: list[dict[str, Any]] = []
        monkeypatch.setattr(DiscardSink, "deliver", self._noting(DiscardSink.deliver))

    def _noting(self, deliver: Callable[[DiscardSink, Delivery], Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def noting(sink: DiscardSink, delivery: Delivery) -> None:
            await deliver(sink, delivery)
            self._accepted.append({"id": delivery.released.placed.event.id, "key": delivery.idempotency_key})

        return noting

    def settings(self) -> dict[str, Any]:
        return {}

    def arrived(self) -> list[dict[str, Any]]:
        return self._accepted


class FileRig:
    kind = "file"

    def __init__(self, folder: Path) -> None:
        self._path = folder / "missing" / "out.jsonl"

    def settings(self) -> dict[str, Any]:
        return {"path": str(self._path)}

    def arrived(self) -> list[dict[str, Any]]:
        lines = [orjson.loads(line) for line in self._path.read_bytes().splitlines()] if self._path.exists() else []
        return [{"id": line["id"], "key": line["idempotencykey"]} for line in lines]


class EmailRig:
    kind = "email"
    says_when = False
    lost = OutcomeUnknown

    def __init__(self, mailbox: Mailbox, port: int) -> None:
        self._mailbox = mailbox
        self._port = port

    def settings(self) -> dict[str, Any]:
        return {
            "host": "127.0.0.1",
            "port": self._port,
            "security": "none",
            "from": "ml@example.org",
            "to": ["oncall@example.org"],
            "username": "ml",
            "password_env": "CONTRACT_SECRET",
        }

    def arrived(self) -> list[dict[str, Any]]:
        return [{"id": mail["X-Event-Id"], "key": mail["X-Idempotency-Key"]} for mail in self._mailbox.messages]

    def next_time(self, mood: Mood) -> None:
        match mood:
            case Mood.LOSES_THE_ANSWER:
                self._mailbox.vanishes = "after"
            case Mood.REFUSES:
                self._mailbox.to_sender = f"530 log in first, {echo()}"
            case _:
                self._mailbox.to_data = f"{'451' if mood is Mood.BUSY else '554'} {echo()}"

    def well_again(self) -> None:
        self._mailbox.vanishes, self._mailbox.to_sender, self._mailbox.to_data = None, "250 OK", "250 OK"


class AcsEmailRig:
    kind = "acs_email"
    says_when = True
    lost = OutcomeUnknown

    def __init__(self, service: AcsService) -> None:
        self._service = service

    def settings(self) -> dict[str, Any]:
        return {
            "connection_string_env": "CONTRACT_CONNECTION",
            "from": "ml@example.org",
            "to": ["oncall@example.org"],
        }

    def arrived(self) -> list[dict[str, Any]]:
        """Of all requests that were accepted, repetitions too: the service itself sends such a mail once."""
        headers = [each.message["headers"] for each in self._service.accepted]
        return [{"id": each["X-Event-Id"], "key": each["X-Idempotency-Key"]} for each in headers]

    def next_time(self, mood: Mood) -> None:
        self.answer_next(scripted(mood))

    def answer_next(self, answer: Scripted) -> None:
        """The next request that sends something is answered so."""
        ends = "drop" if answer.drops else "stall" if answer.stalls else "error" if answer.takes_effect else ""
        place = "after" if answer.takes_effect else "before"
        fault = Fault(answer.status, answer.text, answer.headers)
        self._service.faults.append(Fault(**{place: ends}) if ends else fault)

    def well_again(self) -> None:
        """It is."""


class TeamsRig:
    kind = "teams"
    says_when = True
    lost = OutcomeUnknown

    def __init__(self, workflow: Workflow) -> None:
        self._workflow = workflow

    def settings(self) -> dict[str, Any]:
        return {"url_env": "CONTRACT_URL", "limits": {"per_second": 100, "per_hour": 1000}}

    def arrived(self) -> list[dict[str, Any]]:
        return [
            {"id": fact["value"], "key": message["eventKey"]}
            for message in self._workflow.messages
            for element in message["attachments"][0]["content"]["body"]
            for fact in element.get("facts", [])
            if fact["title"] == "Event"
        ]

    def next_time(self, mood: Mood) -> None:
        self.answer_next(scripted(mood))

    def answer_next(self, answer: Scripted) -> None:
        """The next request is answered so."""
        self._workflow.script.append(
            Answer(
                answer.status or 202,
                answer.text,
                answer.headers,
                posts=answer.takes_effect,
                drops=answer.drops,
                stalls=answer.stalls,
            )
        )

    def well_again(self) -> None:
        """It is."""


class ApiRig:
    """A destination that is a REST API of this machine. Derive, with `kind`, `settings` and `arrived`."""

    kind: str
    says_when = True
    lost: type[WorkerError] = OutcomeUnknown

    def __init__(self, service: ApiService) -> None:
        self.service = service

    def next_time(self, mood: Mood) -> None:
        self.answer_next(scripted(mood))

    def answer_next(self, answer: Scripted) -> None:
        """The next request that changes something is answered so."""
        self.service.script.append(answer)

    def well_again(self) -> None:
        """It is."""


def headers_of(mood: Mood) -> dict[str, str]:
    return {"Retry-After": f"{RETRY_AFTER_SECONDS:g}"} if mood is Mood.BUSY else {}


def scripted(mood: Mood) -> Scripted:
    if mood is Mood.LOSES_THE_ANSWER:
        return Scripted(takes_effect=True, drops=True)
    return Scripted(STATUS[mood], echo(), headers_of(mood), echoes=True)
