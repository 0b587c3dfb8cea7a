"""A session with a mail server: connected, encrypted and logged in as the settings say.

It sends no message and keeps no connection. What an error of a session's means is said here in words, and what is to be
done about it in `email`; neither ever repeats what one logs in with.
"""

import asyncio
import socket
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import aiosmtplib
from aiohttp.abc import AbstractResolver, ResolveResult

from worker.errors import Misconfigured, SinkUnavailable
from worker.sinks.addresses import PublicResolver, why_not_connected
from worker.sinks.answers import excerpt
from worker.sinks.email_settings import EmailSettings

_CONNECT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Login:
    """Whom to log in as, and with what."""

    username: str
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    """An access token, instead of a password."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no error may repeat: password and token, also as they go over the wire."""
        if self.token:
            wire = f"user={self.username}\1auth=Bearer {self.token}\1\1"
            return (self.token, b64encode(wire.encode()).decode())
        if self.password:
            forms = (f"\0{self.username}\0{self.password}", self.password)
            return (self.password, *(b64encode(form.encode()).decode() for form in forms))
        return ()


class MailServer:
    """The server of one sink."""

    def __init__(
        self,
        settings: EmailSettings,
        *,
        resolver: Callable[[], AbstractResolver],
        tls: Callable[[], ssl.SSLContext],
    ) -> None:
        self.where = f"sink {settings.name}: {settings.host}"
        self._settings = settings
        self._port = settings.connects_to_port
        self._make_resolver = resolver
        self._make_tls = tls
        self._resolver: AbstractResolver | None = None
        self._tls: ssl.SSLContext | None = None

    async def open(self) -> None:
        """Reads the trusted certificates; connections come with the sessions."""
        resolver = self._make_resolver()
        private = self._settings.allow_private
        self._resolver = resolver if private else PublicResolver(resolver, sink=self._settings.name)
        self._tls = None if self._settings.security == "none" else self._make_tls()

    async def aclose(self) -> None:
        """Nothing is kept between sessions but the resolver."""
        resolver, self._resolver = self._resolver, None
        if resolver is not None:
            await resolver.close()

    @asynccontextmanager
    async def session(self, login: Login | None) -> AsyncIterator[aiosmtplib.SMTP]:
        """A session that is encrypted and logged in. Raises the library's errors, which may repeat secrets."""
        settings = self._settings
        sock = await self._connect()
        by_password = login is not None and not login.token
        client = aiosmtplib.SMTP(
            hostname=settings.host,
            # Its own address: always right by the standard, and no name has to be looked up.
            local_hostname=_address_literal(sock),
            sock=sock,
            timeout=None,  # the attempt has one
            use_tls=settings.security == "tls",
            start_tls=settings.security == "starttls",
            tls_context=self._tls,
            username=login.username.encode() if login and by_password else None,
            password=login.password.encode() if login and by_password else None,
        )
        try:
            await client.connect()
        except BaseException:
            sock.close()
            raise
        try:
            if login is not None and login.token:
                await self._show_token(client, login)
            yield client
            _say_goodbye(client)
        finally:
            client.close()

    async def _show_token(self, client: aiosmtplib.SMTP, login: Login) -> None:
        if client.is_ehlo_or_helo_needed:
            await client.ehlo()
        if "xoauth2" not in client.server_auth_methods:
            raise Misconfigured(f"{self.where} offers no XOAUTH2 here; check host and port, or use auth: password")
        await client.auth_xoauth2(login.username, login.token)

    async def _connect(self) -> socket.socket:
        """Connects to the first address that answers, of those that the sink may connect to."""
        assert self._resolver is not None, "open() comes first"
        seconds = min(_CONNECT_SECONDS, self._settings.timeout_seconds)
        try:
            async with asyncio.timeout(seconds):
                found = await self._resolver.resolve(self._settings.host, self._port, socket.AF_UNSPEC)
                return await _first_that_answers(found)
        except TimeoutError:
            raise SinkUnavailable(f"{self.where} could not be connected to within {seconds:g} s") from None
        except OSError as error:
            why = why_not_connected(error)
            raise SinkUnavailable(f"{self.where}, port {self._port}, cannot be connected to: {why}") from None

    def said(self, error: aiosmtplib.SMTPResponseException, login: Login | None) -> str:
        """The server's answer as one short line that is safe to show."""
        return f"{self.where} answered {error.code}{excerpt(error.message, login.secrets if login else ())}"

    def what_happened(self, error: Exception) -> str:
        """Any other error, in words."""
        cause = error.__cause__ if isinstance(error, aiosmtplib.SMTPConnectError) else error
        match cause:
            case ssl.SSLCertVerificationError():
                return "shows a TLS certificate that is not trusted"
            case ssl.SSLError():
                return "does not speak TLS here; is it the right port for this kind of security?"
            case TimeoutError():
                return f"did not answer within {self._settings.timeout_seconds:g} s"
            case OSError():
                return "closed the connection"
            case _:
                return f"cannot be used as set up: {error}"


async def _first_that_answers(found: Sequence[ResolveResult]) -> socket.socket:
    loop = asyncio.get_running_loop()
    last: OSError = OSError("no address found")
    for each in found:
        sock = socket.socket(each["family"], socket.SOCK_STREAM)
        sock.setblocking(False)  # noqa: FBT003 - the socket module's own signature
        try:
            await loop.sock_connect(sock, (each["host"], each["port"]))
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError):
                raise
            last = error
        else:
            return sock
    raise last


def _address_literal(sock: socket.socket) -> str:
    host = sock.getsockname()[0].partition("%")[0]
    return f"[IPv6:{host}]" if ":" in host else f"[{host}]"


def _say_goodbye(client: aiosmtplib.SMTP) -> None:
    """Without waiting for the answer: what counts has been answered."""
    with suppress(aiosmtplib.SMTPServerDisconnected):
        if client.protocol is not None:
            client.protocol.write(b"QUIT\r\n")
