"""The e-mail sink: one message per delivery over SMTP, that says what happened.

SMTP has no idempotency, so this is a sink for the ledger: `deliver` is exact about the end of an attempt. What ended
before the message was handed over is SinkUnavailable, what was lost after that is OutcomeUnknown, and what some
recipients have and others not yet is PartlyAccepted. The Message-ID is the same at every attempt: some mail systems
show such a message once, none has to. It keeps no connection.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import parseaddr

import aiosmtplib
import structlog
from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver

from worker.errors import (
    ConfigError,
    Misconfigured,
    OutcomeUnknown,
    PartlyAccepted,
    Rejected,
    SinkUnavailable,
    WorkerError,
)
from worker.settings import Secret
from worker.sinks import Delivery, TokenSource
from worker.sinks.answers import note_answer
from worker.sinks.email_session import Login, MailServer
from worker.sinks.email_settings import EmailSettings
from worker.sinks.email_text import compose

_log = structlog.get_logger()

_NAMED = 10
"""So many recipients an error names."""
_WANTS_LOGIN = frozenset({530, 534, 535, 538})
_CLOSES = 421
"""The server ends the session: whoever it had taken before, it takes no message for them."""


@dataclass(frozen=True, slots=True)
class _Answers:
    """What the server said about each recipient."""

    taken: list[str]
    later: list[aiosmtplib.SMTPRecipientRefused]
    never: list[aiosmtplib.SMTPRecipientRefused]


class EmailSink:
    """Hands each message to the mail server over a connection of its own."""

    def __init__(
        self,
        settings: EmailSettings,
        tokens: TokenSource | None = None,
        *,
        resolver: Callable[[], AbstractResolver] = ThreadedResolver,
        tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    ) -> None:
        self._settings = settings
        self._address = parseaddr(settings.sender)[1]
        self._password = Secret.of(settings, "password")
        self._tokens = tokens
        self._templates = settings.templates()
        self._server = MailServer(settings, resolver=resolver, tls=tls)
        self._refused: set[str] = set()
        """Recipients the server does not take, while it takes others; said once."""

    async def open(self) -> None:
        """Connections come with the deliveries."""
        await self._server.open()

    async def aclose(self) -> None:
        """Nothing is kept between deliveries but the resolver."""
        await self._server.aclose()

    def preview(self, delivery: Delivery) -> str:
        """The headers that a reader sees, and the text."""
        settings = self._settings
        message = compose(delivery, sender=settings.sender, to=settings.to, templates=self._templates)
        body = message.get_body(("plain",))
        headers = (f"{name}: {message[name]}" for name in ("From", "To", "Subject"))
        return "\n".join((*headers, "", str(body.get_content()) if body else ""))

    async def deliver(self, delivery: Delivery) -> None:
        """Sends one message to all who have not got it yet; those whom the server never takes are left out.

        Raises PartlyAccepted when some have it now, and others were refused for the time being.
        """
        to = [each for each in self._settings.to if each not in delivery.served]
        if not to:
            return
        try:
            await self._send(delivery, to)
        except (SinkUnavailable, Rejected, Misconfigured, OutcomeUnknown) as error:
            served = error.served if isinstance(error, PartlyAccepted) else delivery.served
            if served:  # whoever reads that it was given up must know who never got it
                error.args = (f"{error}; {self._without(served)}",)
            raise

    async def _send(self, delivery: Delivery, to: Sequence[str]) -> None:
        settings = self._settings
        message = await asyncio.to_thread(self._message, delivery)  # a large digest takes a few tenths of a second
        deadline = asyncio.get_running_loop().time() + settings.timeout_seconds
        login = await self._login(deadline)
        handed_over = False
        try:
            async with asyncio.timeout_at(deadline), self._server.session(login) as client:
                answers = await self._name_recipients(client, to)
                self._stop_unless_taken(answers, delivery)
                handed_over = bool(answers.taken)
                if answers.taken:
                    answer = await client.data(message)
                    note_answer(answer.code, answer.message.encode())
        except (aiosmtplib.SMTPException, OSError) as error:
            # Without its cause: the library's own texts may quote what the server echoed.
            raise self._problem(error, handed_over=handed_over, login=login) from None
        self._say(to, {refusal.recipient for refusal in answers.never})
        if answers.later:
            said = self._server.said(answers.later[0], login)
            raise PartlyAccepted(said, served=delivery.served | set(answers.taken))

    def _message(self, delivery: Delivery) -> bytes:
        settings = self._settings
        return compose(delivery, sender=settings.sender, to=settings.to, templates=self._templates).as_bytes()

    async def _login(self, deadline: float) -> Login | None:
        """What to log in with, as it stands now. Raises Misconfigured: the lane waits until it is repaired."""
        settings = self._settings
        if settings.username is None:
            return None
        if settings.needs_identity:
            return Login(settings.username, token=await self._token(deadline))
        try:
            return Login(settings.username, password=self._password.read() if self._password else "")
        except ConfigError as error:
            raise Misconfigured(f"sink {settings.name}: {error}") from None

    async def _token(self, deadline: float) -> str:
        assert self._tokens is not None, "app gives tokens where needs_identity asks for them"
        name = self._settings.name
        try:
            async with asyncio.timeout_at(deadline):
                return await self._tokens.token(self._settings.token_scope)
        except TimeoutError:
            raise SinkUnavailable(f"sink {name}: the identity service gave no token in time") from None

    async def _name_recipients(self, client: aiosmtplib.SMTP, to: Sequence[str]) -> _Answers:
        await client.mail(self._address)
        answers = _Answers([], [], [])
        for recipient in to:
            try:
                await client.rcpt(recipient)
            except aiosmtplib.SMTPRecipientRefused as refusal:
                if refusal.code in _WANTS_LOGIN or refusal.code == _CLOSES:
                    raise
                (answers.later if refusal.code < 500 else answers.never).append(refusal)
            else:
                answers.taken.append(recipient)
        return answers

    def _stop_unless_taken(self, answers: _Answers, delivery: Delivery) -> None:
        """Nobody takes it: the code says whether to try again. Where some have it already, it is partly done still."""
        if not answers.taken and not delivery.served:
            raise (answers.later or answers.never)[0]

    def _without(self, served: frozenset[str]) -> str:
        left = [each for each in self._settings.to if each not in served]
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        number = f"{len(left)} of {len(self._settings.to)} recipients"
        return f"{number} without it as far as is known: {', '.join(left[:_NAMED])}{more}"

    def _say(self, asked: Sequence[str], refused: set[str]) -> None:
        for recipient in refused - self._refused:
            _log.warning(
                "the mail server refuses a recipient, the others get mail", sink=self._settings.name, to=recipient
            )
        self._refused = self._refused - set(asked) | refused

    def _problem(self, error: Exception, *, handed_over: bool, login: Login | None) -> WorkerError:
        """What is to be done about an attempt that did not end well."""
        if isinstance(error, aiosmtplib.SMTPResponseException):
            said = self._server.said(error, login)
            if handed_over and not (isinstance(error, aiosmtplib.SMTPDataError) and 400 <= error.code < 600):
                return OutcomeUnknown(said)
            return _refusal(error, said)
        said = f"{self._server.where} {self._server.what_happened(error)}"
        if handed_over:
            return OutcomeUnknown(f"{said} after the message was handed over")
        # What is left of the library's errors: the server does not offer encryption, or no way to log in.
        return SinkUnavailable(said) if isinstance(error, OSError) else Misconfigured(said)


def _refusal(error: aiosmtplib.SMTPResponseException, said: str) -> WorkerError:
    if error.code < 500:
        return SinkUnavailable(said)
    about_the_message = isinstance(error, aiosmtplib.SMTPRecipientRefused | aiosmtplib.SMTPDataError)
    return Rejected(said) if about_the_message and error.code not in _WANTS_LOGIN else Misconfigured(said)
