"""From a kind of sink to its destination in the contract suite. A kind brings a module with its rig, and a row here."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.acs_service import acs_service
from tests.contract.rigs import ACS_KEY, SECRETS, AcsEmailRig, DiscardRig, EmailRig, FileRig, LogRig, Rig, TeamsRig
from tests.contract.rigs.azuredevops import azuredevops
from tests.contract.rigs.azureml import azureml_batch, azureml_job
from tests.contract.rigs.azureml_deployment import azureml_deployment
from tests.contract.rigs.blob import blob
from tests.contract.rigs.datafactory import datafactory
from tests.contract.rigs.eventhub import eventhub
from tests.contract.rigs.github import github
from tests.contract.rigs.webhook import WebhookRig
from tests.mailbox import Mailbox, mail_server
from tests.webhook_receiver import Receiver, served
from tests.workflows_service import Workflow, workflow_service


@dataclass(frozen=True)
class Place:
    """Where a test lets its destination be."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    logged: list[Any]
    """What is logged from now on."""
    azurite: Callable[[], str]
    """The connection string of Azurite, which is started if need be."""


@asynccontextmanager
async def log(place: Place) -> AsyncIterator[LogRig]:
    yield LogRig(place.logged)


@asynccontextmanager
async def file(place: Place) -> AsyncIterator[FileRig]:
    yield FileRig(place.folder)


@asynccontextmanager
async def discard(place: Place) -> AsyncIterator[DiscardRig]:
    yield DiscardRig(place.monkeypatch)


@asynccontextmanager
async def email(place: Place) -> AsyncIterator[EmailRig]:
    mailbox = Mailbox()
    place.monkeypatch.setenv("CONTRACT_SECRET", SECRETS["CONTRACT_SECRET"])
    async with mail_server(mailbox, password=SECRETS["CONTRACT_SECRET"]) as port:
        yield EmailRig(mailbox, port)


@asynccontextmanager
async def acs_email(place: Place) -> AsyncIterator[AcsEmailRig]:
    async with acs_service(key=ACS_KEY) as service:
        place.monkeypatch.setenv("CONTRACT_CONNECTION", service.connection_string)
        yield AcsEmailRig(service)


@asynccontextmanager
async def teams(place: Place) -> AsyncIterator[TeamsRig]:
    async with workflow_service(Workflow()) as workflow:
        place.monkeypatch.setenv("CONTRACT_URL", workflow.url)
        yield TeamsRig(workflow)


@asynccontextmanager
async def webhook(place: Place, mode: str = "structured") -> AsyncIterator[WebhookRig]:
    receiver = Receiver(SECRETS["CONTRACT_SECRET"])
    async with served(receiver, f"/{SECRETS['CONTRACT_URL']}"):
        for name, value in (SECRETS | {"CONTRACT_URL": receiver.url}).items():
            place.monkeypatch.setenv(name, value)
        yield WebhookRig(receiver, mode=mode)


RIGS: Mapping[str, Callable[[Place], AbstractAsyncContextManager[Rig]]] = MappingProxyType(
    {
        "acs_email": acs_email,
        "azuredevops": azuredevops,
        "azureml_batch": azureml_batch,
        "azureml_deployment": azureml_deployment,
        "azureml_job": azureml_job,
        "blob": blob,
        "datafactory": datafactory,
        "discard": discard,
        "email": email,
        "eventhub": eventhub,
        "file": file,
        "github": github,
        "log": log,
        "teams": teams,
        "webhook": webhook,
    }
)

VARIANTS: Mapping[str, Callable[[Place], AbstractAsyncContextManager[Rig]]] = MappingProxyType(
    {
        "webhook, batched": partial(webhook, mode="batched"),
        "webhook, binary": partial(webhook, mode="binary"),
    }
)
"""Kinds that work in another way when they are set so: held to the same suite."""
