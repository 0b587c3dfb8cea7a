"""The e-mail sink against a real mail server: encryption, and the ways to log in."""

import asyncio

import pytest

from tests.certificates import make_certificate
from tests.deliveries import delivery_of
from tests.emails import sink_on
from tests.mailbox import HOST, Mailbox, mail_server
from worker.errors import Misconfigured, SinkUnavailable

PASSWORD = "hidden-password"
TOKEN = "hidden-access-token"


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"))


class Tokens:
    """An identity that gets what the test says."""

    def __init__(self, *given: str | Exception) -> None:
        self.given = list(given)
        self.scopes: list[str] = []

    async def token(self, scope: str) -> str:
        self.scopes.append(scope)
        one = self.given.pop(0)
        if isinstance(one, Exception):
            raise one
        return one


async def test_starttls_encrypts_before_anything_is_said(mailbox, certificate):
    async with (
        mail_server(mailbox, starttls=certificate.context) as port,
        sink_on(port, trusted=certificate.trusted, security="starttls") as sink,
    ):
        await sink.deliver(delivery_of())

    assert mailbox.encrypted == [False, True]
    assert mailbox.greeted_as == [f"[{HOST}]"] * 2
    assert len(mailbox.messages) == 1


async def test_tls_encrypts_from_the_first_byte(mailbox, certificate):
    async with (
        mail_server(mailbox, tls=certificate.context) as port,
        sink_on(port, trusted=certificate.trusted, security="tls") as sink,
    ):
        await sink.deliver(delivery_of())

    assert len(mailbox.messages) == 1


async def test_a_server_that_offers_no_encryption_gets_no_message_in_the_open(mailbox):
    async with mail_server(mailbox) as port, sink_on(port, security="starttls") as sink:
        with pytest.raises(Misconfigured, match="STARTTLS"):
            await sink.deliver(delivery_of())

    assert mailbox.messages == []


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_a_certificate_that_is_not_trusted_gets_no_message(mailbox, certificate, security):
    async with (
        mail_server(mailbox, **{security: certificate.context}) as port,
        sink_on(port, security=security) as sink,
    ):
        with pytest.raises(SinkUnavailable, match="certificate that is not trusted"):
            await sink.deliver(delivery_of())

    assert mailbox.messages == []


async def test_the_wrong_kind_of_security_for_the_port_is_said(mailbox):
    async with mail_server(mailbox) as port, sink_on(port, security="tls") as sink:
        with pytest.raises(SinkUnavailable, match="is it the right port"):
            await sink.deliver(delivery_of())


async def test_it_logs_in_with_the_password_as_it_stands_at_that_moment(mailbox, tmp_path):
    file = tmp_path / "password"
    file.write_text("wrong\n")
    async with (
        mail_server(mailbox, password="pässword") as port,
        sink_on(port, username="ml", password_file=str(file)) as sink,
    ):
        with pytest.raises(Misconfigured, match="535"):
            await sink.deliver(delivery_of())
        file.write_text("pässword\n")
        await sink.deliver(delivery_of())

    assert len(mailbox.messages) == 1


async def test_a_password_that_is_missing_or_refused_or_wanted_pauses_and_is_never_shown(mailbox, monkeypatch):
    async with mail_server(mailbox, password="another") as port:
        async with sink_on(port) as sink:
            with pytest.raises(Misconfigured, match="530"):
                await sink.deliver(delivery_of())
        async with sink_on(port, username="ml", password_env="MAIL_PASSWORD") as sink:
            with pytest.raises(Misconfigured, match="MAIL_PASSWORD is not set"):
                await sink.deliver(delivery_of())
            monkeypatch.setenv("MAIL_PASSWORD", PASSWORD)
            with pytest.raises(Misconfigured) as refused:
                await sink.deliver(delivery_of())

    assert PASSWORD not in f"{refused.value!s}{refused.value!r}{refused.value.__cause__!r}"


async def test_what_a_server_echoes_of_the_password_is_masked(mailbox, monkeypatch):
    monkeypatch.setenv("MAIL_PASSWORD", PASSWORD)
    mailbox.to_sender = f"550 not with {PASSWORD}"
    async with (
        mail_server(mailbox, password=PASSWORD) as port,
        sink_on(port, username="ml", password_env="MAIL_PASSWORD") as sink,
    ):
        with pytest.raises(Misconfigured, match=r"550: not with \*\*\*"):
            await sink.deliver(delivery_of())


@pytest.mark.parametrize("method", ["PLAIN", "LOGIN"])
async def test_it_logs_in_by_the_method_that_the_server_offers(mailbox, certificate, monkeypatch, method):
    monkeypatch.setenv("MAIL_PASSWORD", PASSWORD)
    async with (
        mail_server(mailbox, starttls=certificate.context, password=PASSWORD, methods={method}) as port,
        sink_on(
            port, trusted=certificate.trusted, security="starttls", username="ml", password_env="MAIL_PASSWORD"
        ) as sink,
    ):
        await sink.deliver(delivery_of())

    assert mailbox.logins == [(method, "ml")]
    assert len(mailbox.messages) == 1


# --- XOAUTH2


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_it_logs_in_with_an_access_token_asked_for_at_each_attempt(mailbox, certificate, security):
    tokens = Tokens("wrong", TOKEN)
    async with (
        mail_server(mailbox, **{security: certificate.context}, token=TOKEN) as port,
        sink_on(
            port,
            trusted=certificate.trusted,
            tokens=tokens,
            security=security,
            auth="xoauth2",
            username="ml@example.org",
        ) as sink,
    ):
        with pytest.raises(Misconfigured, match="535"):
            await sink.deliver(delivery_of())
        await sink.deliver(delivery_of())

    assert tokens.scopes == ["https://outlook.office365.com/.default"] * 2
    assert mailbox.logins == [("XOAUTH2", "ml@example.org")]
    assert len(mailbox.messages) == 1


async def test_the_scope_of_the_token_can_be_said(mailbox):
    tokens = Tokens(TOKEN)
    scope = "https://outlook.office.example/.default"
    async with (
        mail_server(mailbox, token=TOKEN) as port,
        sink_on(port, tokens=tokens, auth="xoauth2", username="ml@example.org", scope=scope) as sink,
    ):
        await sink.deliver(delivery_of())

    assert tokens.scopes == [scope]


async def test_what_a_server_echoes_of_the_token_is_masked(mailbox):
    mailbox.to_sender = (
        f"550 not with {TOKEN} or dXNlcj1tbEBleGFtcGxlLm9yZwFhdXRoPUJlYXJlciBoaWRkZW4tYWNjZXNzLXRva2VuAQE="
    )
    async with (
        mail_server(mailbox, token=TOKEN) as port,
        sink_on(port, tokens=Tokens(TOKEN), auth="xoauth2", username="ml@example.org") as sink,
    ):
        with pytest.raises(Misconfigured, match=r"550: not with \*\*\* or \*\*\*$"):
            await sink.deliver(delivery_of())


async def test_a_server_without_xoauth2_pauses_the_sink(mailbox, monkeypatch):
    async with (
        mail_server(mailbox, password=PASSWORD) as port,
        sink_on(port, tokens=Tokens(TOKEN), auth="xoauth2", username="ml@example.org") as sink,
    ):
        with pytest.raises(Misconfigured, match="offers no XOAUTH2"):
            await sink.deliver(delivery_of())


@pytest.mark.parametrize("error", [Misconfigured("no identity"), SinkUnavailable("not now")])
async def test_an_identity_without_a_token_is_what_the_attempt_ends_with(mailbox, error):
    async with (
        mail_server(mailbox, token=TOKEN) as port,
        sink_on(port, tokens=Tokens(error), auth="xoauth2", username="ml@example.org") as sink,
    ):
        with pytest.raises(type(error), match=str(error)):
            await sink.deliver(delivery_of())

    assert mailbox.greeted_as == []


async def test_an_identity_service_that_never_answers_is_tried_again(mailbox):
    class Mute:
        async def token(self, scope: str) -> str:
            await asyncio.Event().wait()
            return ""

    async with sink_on(25, tokens=Mute(), auth="xoauth2", username="ml@example.org", timeout_seconds=0.1) as sink:
        with pytest.raises(SinkUnavailable, match="no token in time"):
            await sink.deliver(delivery_of())
