"""Access tokens of the process's identity: the vendor's own library against an identity endpoint of this machine."""

import traceback

import orjson
import pytest
from aiohttp import web
from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError
from azure.identity.aio import DefaultAzureCredential

from tests.deliveries import ELEMENT
from tests.identity_service import identity_service
from tests.integration.scene import scene
from tests.mailbox import Mailbox, mail_server
from tests.support import eventually
from worker.errors import Misconfigured, SinkUnavailable
from worker.identity import Tokens
from worker.local.traffic import TrafficMessage

TOKEN = "hidden-access-token"
SCOPE = "https://outlook.office365.com/.default"


async def test_a_token_is_what_the_identity_service_gives_for_the_scope(monkeypatch):
    async with identity_service(TOKEN, monkeypatch) as service, DefaultAzureCredential() as credential:
        assert await Tokens(credential).token(SCOPE) == TOKEN
    assert service.asked == ["https://outlook.office365.com"]


async def test_a_process_that_gets_none_is_misconfigured_and_repeats_nothing_of_why(monkeypatch):
    async with identity_service(TOKEN, monkeypatch) as service, DefaultAzureCredential() as credential:
        why = {"error": "invalid_request", "error_description": "AADSTS700016: no application hidden-client-id"}
        service.refusal = web.json_response(why, status=400)
        with pytest.raises(Misconfigured, match=r"gets no token for https://outlook\S+ \(AADSTS700016\)") as refused:
            await Tokens(credential).token(SCOPE)
    assert "hidden" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (ClientAuthenticationError("no identity: hidden-tenant-id"), Misconfigured),
        (ServiceRequestError("cannot connect to hidden-host"), SinkUnavailable),
        (ConnectionResetError("hidden"), SinkUnavailable),
    ],
)
async def test_what_the_library_raises_is_told_by_what_is_done_about_it(error, meaning):
    class Failing:
        async def get_token(self, *_scopes, **_more):
            raise error

    with pytest.raises(meaning) as told:
        await Tokens(Failing()).token(SCOPE)
    assert "hidden" not in "".join(traceback.format_exception(told.value))


async def test_a_worker_logs_in_to_its_mail_server_with_its_own_identity(monkeypatch, tmp_path):
    mailbox = Mailbox()
    async with (
        identity_service(TOKEN, monkeypatch) as service,
        mail_server(mailbox, token=TOKEN) as port,
        scene(tmp_path) as stage,
    ):
        mail = {
            "name": "mail",
            "kind": "email",
            "host": "127.0.0.1",
            "port": port,
            "security": "none",
            "from": "ml@example.org",
            "to": ["oncall@example.org"],
            "auth": "xoauth2",
            "username": "ml@example.org",
        }
        monkeypatch.setattr(stage, "_routes", lambda: {"sinks": [mail], "routes": [{"name": "all", "sinks": ["mail"]}]})
        worker = await stage.start_worker("one")
        await stage.until_shared("one")
        message = TrafficMessage(orjson.dumps(ELEMENT), "application/json", "run-1", ())
        await stage.send([message])
        await eventually(lambda: mailbox.messages, 30)
        await stage.family.stop([worker])
    assert mailbox.logins == [("XOAUTH2", "ml@example.org")]
    assert service.asked == ["https://outlook.office365.com"]
    assert TOKEN not in "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*.log"))
