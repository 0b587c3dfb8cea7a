"""The e-mail sink: one message per event over SMTP, that says what happened.

SMTP has no idempotency, so this is a sink for the ledger: `deliver` is exact about the end of an attempt. What ended
before the message was handed over is SinkUnavailable, what was lost after that is OutcomeUnknown. The Message-ID is the
same at every attempt: some mail systems show such a message once, none has to. It keeps no connection, has one fixed
text, and logs in with a password or not at all.
"""

import asyncio
import re
import socket
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from email.headerregistry import Address
from email.utils import getaddresses, parseaddr
from typing import Literal, Self

import aiosmtplib
import structlog
from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult
from pydantic import Field, field_validator, model_validator

from worker.errors import ConfigError, Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable, WorkerError
from worker.logs import redact
from worker.settings import FilePath, Secret, SinkSettings, one_of
from worker.sinks import Delivery
from worker.sinks.addresses import PublicResolver, check_host
from worker.sinks.answers import note_answer
from worker.sinks.email_text import compose, visible

_log = structlog.get_logger()

_CONNECT_SECONDS = 10.0
_PORTS = {"starttls": 587, "tls": 465, "none": 25}
_EXCERPT_CHARACTERS = 200

_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
_HOST = re.compile(r"[A-Za-z0-9.:_-]+")


class EmailSettings(SinkSettings):
    """A sink of kind `email`."""

    ledger = "always"

    kind: Literal["email"] = "email"
    concurrency: int = Field(default=3, ge=1, le=1000)
    """Messages at one time per process, each over a connection of its own. Mail services allow few at a time."""
    allow_private: bool = False
    """Permits private, link-local and reserved addresses, and security: none. The loopback is always permitted."""
    security: Literal["starttls", "tls", "none"] = "starttls"
    """starttls: encryption begins after the greeting, and is insisted on. tls: from the first byte. none: never."""
    host: str
    """The mail server."""
    port: int = Field(default=0, ge=0, le=65535)
    """587 with starttls, 465 with tls, 25 with none, unless set."""
    sender: str = Field(alias="from")
    """Who it is from: an address, or `Name <address>`."""
    to: tuple[str, ...]
    """Who gets it. All are named in the message."""
    username: str | None = None
    """Whom to log in as; left out: without logging in."""
    password_env: str | None = None
    password_file: FilePath | None = None
    timeout_seconds: float = Field(default=60, gt=0, le=600)
    """For one attempt, from the connection (10 s at most) to the server's last word. It pays to be patient: when the
    last word is missed, nobody knows whether the message goes out."""

    @field_validator("host")
    @classmethod
    def _host(cls, host: str) -> str:
        if not _HOST.fullmatch(host):
            raise ValueError(f"{host!r} is no host; write a name such as smtp.example.org, without smtp:// and port")
        return host

    @field_validator("sender")
    @classmethod
    def _from(cls, text: str) -> str:
        [(name, address), *others] = getaddresses([text])
        if others or not text.isprintable() or not _ADDRESS.fullmatch(address):
            raise ValueError(f"{text!r} is no sender; write name@example.org, or Name <name@example.org>")
        return str(Address(name, addr_spec=address))

    @field_validator("to")
    @classmethod
    def _to(cls, to: tuple[str, ...]) -> tuple[str, ...]:
        if not to:
            raise ValueError("names nobody; write at least one address")
        for address in to:
            if not _ADDRESS.fullmatch(address):
                raise ValueError(f"{address!r} is no e-mail address; write name@example.org")
        return to

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        here = check_host(self.host, what="the mail goes", allow_private=self.allow_private)
        if self.security == "none" and not here and not self.allow_private:
            raise ValueError(
                f"the mail would go to {self.host} without encryption; use security: starttls or tls, "
                "or allow_private: true"
            )
        one_of(dict(self), "password_env", "password_file", required=self.username is not None)
        if self.username is None and (self.password_env or self.password_file):
            raise ValueError("there is a password but no username; add username")
        return self


class EmailSink:
    """Hands each message to the mail server over a connection of its own."""

    def __init__(
        self,
        settings: EmailSettings,
        *,
        resolver: Callable[[], AbstractResolver] = ThreadedResolver,
        tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    ) -> None:
        self._settings = settings
        self._address = parseaddr(settings.sender)[1]
        self._port = settings.port or _PORTS[settings.security]
        self._where = f"sink {settings.name}: {settings.host}"
        self._password = Secret.of(settings, "password")
        self._make_resolver = resolver
        self._make_tls = tls
        self._resolver: AbstractResolver | None = None
        self._tls: ssl.SSLContext | None = None
        self._refused: set[str] = set()
        """Recipients the server does not take, while it takes others; said once."""

    async def open(self) -> None:
        """Reads the trusted certificates; connections come with the deliveries."""
        resolver = self._make_resolver()
        private = self._settings.allow_private
        self._resolver = resolver if private else PublicResolver(resolver, sink=self._settings.name)
        self._tls = None if self._settings.security == "none" else self._make_tls()

    async def deliver(self, delivery: Delivery) -> None:
        """Sends one message to all recipients, or to none; those the server never takes are left out."""
        message = compose(delivery, sender=self._settings.sender, to=self._settings.to).as_bytes()
        password = self._read_password()
        handed_over = False
        try:
            async with asyncio.timeout(self._settings.timeout_seconds), self._connected(password) as client:
                await self._name_recipients(client)
                handed_over = True
                answer = await client.data(message)
        except (aiosmtplib.SMTPException, OSError) as error:
            # Without its cause: the library's own texts may quote what the server echoed.
            raise self._problem(error, handed_over=handed_over, password=password) from None
        note_answer(answer.code, answer.message.encode())

    def preview(self, delivery: Delivery) -> str:
        """The headers that a reader sees, and the text."""
        message = compose(delivery, sender=self._settings.sender, to=self._settings.to)
        body = message.get_body(("plain", "html"))
        headers = (f"{name}: {message[name]}" for name in ("From", "To", "Subject"))
        return "\n".join((*headers, "", str(body.get_content()) if body else ""))

    async def aclose(self) -> None:
        """Nothing is kept between deliveries but the resolver."""
        resolver, self._resolver = self._resolver, None
        if resolver is not None:
            await resolver.close()

    def _read_password(self) -> str:
        """Misconfigured, not ConfigError: by now the lane can wait until it is repaired."""
        try:
            return self._password.read() if self._password else ""
        except ConfigError as error:
            raise Misconfigured(f"sink {self._settings.name}: {error}") from None

    @asynccontextmanager
    async def _connected(self, password: str) -> AsyncIterator[aiosmtplib.SMTP]:
        """A session that is encrypted and logged in as the settings say."""
        settings = self._settings
        sock = await self._connect()
        client = aiosmtplib.SMTP(
            hostname=settings.host,
            # Its own address: always right by the standard, and no name has to be looked up.
            local_hostname=_address_literal(sock),
            sock=sock,
            timeout=None,  # the attempt has one
            use_tls=settings.security == "tls",
            start_tls=settings.security == "starttls",
            tls_context=self._tls,
            username=settings.username.encode() if settings.username is not None else None,
            password=password.encode() if settings.username is not None else None,
        )
        try:
            await client.connect()
        except BaseException:
            sock.close()
            raise
        try:
            yield client
            _say_goodbye(client)
        finally:
            client.close()

    async def _connect(self) -> socket.socket:
        """Connects to the first address that answers, of those that the sink may connect to."""
        assert self._resolver is not None, "open() comes first"
        seconds = min(_CONNECT_SECONDS, self._settings.timeout_seconds)
        try:
            async with asyncio.timeout(seconds):
                found = await self._resolver.resolve(self._settings.host, self._port, socket.AF_UNSPEC)
                return await _first_that_answers(found)
        except TimeoutError:
            raise SinkUnavailable(f"{self._where} could not be connected to within {seconds:g} s") from None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise SinkUnavailable(f"{self._where}, port {self._port}, cannot be connected to: {reason}") from None

    async def _name_recipients(self, client: aiosmtplib.SMTP) -> None:
        """Raises when one is refused for now: all are tried again then, so that none gets the message twice."""
        await client.mail(self._address)
        refused = []
        for recipient in self._settings.to:
            try:
                await client.rcpt(recipient)
            except aiosmtplib.SMTPRecipientRefused as error:
                refused.append(error)
        for refusal in refused:
            if refusal.code < 500 or len(refused) == len(self._settings.to):
                raise refusal
        self._say({refusal.recipient for refusal in refused})

    def _say(self, refused: set[str]) -> None:
        for recipient in refused - self._refused:
            _log.warning(
                "the mail server refuses a recipient, the others get mail", sink=self._settings.name, to=recipient
            )
        self._refused = refused

    def _problem(self, error: Exception, *, handed_over: bool, password: str) -> WorkerError:
        """What is to be done about an attempt that did not end well."""
        if isinstance(error, aiosmtplib.SMTPResponseException):
            said = f"{self._where} answered {error.code}{_excerpt(error.message, self._secrets(password))}"
            if handed_over and not (isinstance(error, aiosmtplib.SMTPDataError) and 400 <= error.code < 600):
                return OutcomeUnknown(said)
            return _refusal(error, said)
        if handed_over:
            return OutcomeUnknown(f"{self._where} {self._what_happened(error)} after the message was handed over")
        said = f"{self._where} {self._what_happened(error)}"
        # What is left of the library's errors: the server does not offer encryption, or no way to log in.
        return SinkUnavailable(said) if isinstance(error, OSError) else Misconfigured(said)

    def _what_happened(self, error: Exception) -> str:
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

    def _secrets(self, password: str) -> tuple[str, ...]:
        """What no error may repeat: the password, also as it goes over the wire."""
        if not password:
            return ()
        user = self._settings.username or ""
        forms = (f"\0{user}\0{password}", password)
        return (password, *(b64encode(form.encode()).decode() for form in forms))


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


def _refusal(error: aiosmtplib.SMTPResponseException, said: str) -> WorkerError:
    if error.code < 500:
        return SinkUnavailable(said)
    wants_login = error.code in {530, 534, 535, 538}
    about_the_message = isinstance(error, aiosmtplib.SMTPRecipientRefused | aiosmtplib.SMTPDataError)
    return Rejected(said) if about_the_message and not wants_login else Misconfigured(said)


def _excerpt(answer: str, secrets: tuple[str, ...]) -> str:
    """An answer as one short line that is safe to show, with a colon before it; or nothing."""
    for secret in secrets:
        answer = answer.replace(secret, "***")
    line = " ".join(visible(redact(answer)).split())
    return f": {line[:_EXCERPT_CHARACTERS]}" if line else ""
