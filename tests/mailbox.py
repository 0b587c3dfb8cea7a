"""A mail server for tests: aiosmtpd on a free port, that does as it is told and keeps a record of what it took."""

import asyncio
import base64
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword, Session

HOST = "127.0.0.1"


async def _no_step() -> None:
    pass


class Mailbox:
    """What the server took, and what it answers: by recipient, and to a whole message."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.raw: list[bytes] = []
        """The messages as they came over the wire."""
        self.recipients: list[list[str]] = []
        self.logins: list[tuple[str, str]] = []
        """Those that succeeded: method and name."""
        self.greeted_as: list[str] = []
        self.encrypted: list[bool] = []
        self.to_sender = "250 OK"
        self.to_recipient: dict[str, str] = {}
        self.to_data = "250 OK"
        self.vanishes: str | None = None
        """"before": the connection goes at MAIL; "after": when the message has come, without an answer."""
        self.silent = False
        """Never answers a message."""
        self.step: Callable[[], Awaitable[None]] = _no_step
        """Moments before each command and after a message was taken, for processes that die there."""

    async def handle_EHLO(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, _envelope: Any, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        self.greeted_as.append(hostname)
        self.encrypted.append(session.ssl is not None)
        return responses

    async def handle_MAIL(self, server: SMTP, _session: Any, envelope: Any, address: str, options: list[str]) -> str:  # noqa: N802
        await self.step()
        if self.vanishes == "before":
            server.transport.abort()
        envelope.mail_from = address
        envelope.to_data = self.to_data  # so that who dies meanwhile has the answer of the time in which they lived
        return self.to_sender

    async def handle_RCPT(self, _server: SMTP, _session: Any, envelope: Any, address: str, options: list[str]) -> str:  # noqa: N802
        await self.step()
        answer = self.to_recipient.get(address, "250 OK")
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: SMTP, _session: Any, envelope: Any) -> str:  # noqa: N802
        await self.step()
        if envelope.to_data.startswith("250"):
            message = message_from_bytes(envelope.content, policy=default)
            assert isinstance(message, EmailMessage)
            self.messages.append(message)
            self.raw.append(envelope.original_content)
            self.recipients.append(list(envelope.rcpt_tos))
        await self.step()
        if self.vanishes == "after":
            server.transport.abort()
        if self.silent:
            await asyncio.Event().wait()
        answer: str = envelope.to_data
        return answer


class _Server(SMTP):
    """With the login of Exchange Online, and how that refuses a token: a challenge first, which wants an answer."""

    async def auth_XOAUTH2(self, _server: SMTP, args: list[str]) -> AuthResult:  # noqa: N802 - aiosmtpd's name
        user, bearer, *_ = base64.b64decode(args[1]).decode().split("\1")
        login = LoginPassword(user.removeprefix("user=").encode(), bearer.removeprefix("auth=Bearer ").encode())
        result = self._authenticate("XOAUTH2", login)
        if not result.success:
            await self.push("334 eyJzdGF0dXMiOiI0MDAifQ==")
            assert await self._reader.readline() == b"\r\n"
        return result


@asynccontextmanager
async def mail_server(
    mailbox: Mailbox,
    *,
    starttls: ssl.SSLContext | None = None,
    tls: ssl.SSLContext | None = None,
    password: str | None = None,
    token: str | None = None,
    methods: Iterable[str] = ("PLAIN", "LOGIN"),
) -> AsyncIterator[int]:
    """Serves on a free port of this machine and gives it. With a token, XOAUTH2 is the only way to log in."""

    def authenticate(_server: Any, _session: Any, _envelope: Any, method: str, data: LoginPassword) -> AuthResult:
        success = data.password == (token or password or "").encode()
        if success:
            mailbox.logins.append((method, data.login.decode()))
        return AuthResult(success=success, handled=False)

    def protocol() -> SMTP:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a login without encryption is not safe
            return _Server(
                mailbox,
                hostname="mail.test",
                tls_context=starttls,
                require_starttls=starttls is not None,
                authenticator=authenticate,
                auth_required=password is not None or token is not None,
                auth_require_tls=False,
                auth_exclude_mechanism={"PLAIN", "LOGIN"}.difference(methods if token is None else ())
                | ({"XOAUTH2"} if token is None else set()),
                timeout=30,
                loop=loop,
            )

    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, HOST, 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
