"""The acs_email sink: mail through Azure Communication Services, by its REST API.

The service knows a request by its `Operation-Id`, which is made from the idempotency key: a repetition sends nothing.
For how long it remembers is not documented, so this is a sink for the ledger as well. Accepted means that the service
has queued the mail; what became of it comes as events, and is not asked for. It follows no redirect and uses no proxy.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Literal, Self
from uuid import UUID

import aiohttp
from aiohttp.abc import AbstractResolver
from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from worker.errors import ConfigError, Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable, WorkerError
from worker.settings import FilePath, Secret, one_of
from worker.sinks import Delivery, TokenSource
from worker.sinks.acs_access import Access, Authorized, check_secret, checked_endpoint
from worker.sinks.acs_body import Envelope, operation_id, request_body
from worker.sinks.mail_addresses import checked_address, checked_addresses
from worker.sinks.mail_settings import MailSettings
from worker.sinks.mail_text import render
from worker.sinks.posting import Answer, Poster, refusal

_MOST_RECIPIENTS = 50
"""Of one request, as documented."""
_SCOPE = "https://communication.azure.com//.default"
"""What a token is asked for. With two slashes, as the vendor's own e-mail clients ask: the name of the resource ends
with one, and a token says it as it was asked for. Others ask with one slash; only of this form is it known that the
service for e-mail gets it every day."""
_TOKEN_SECONDS = 10.0
_ASK_SECONDS = 10.0
_WILL_NOT_GO_OUT = frozenset({"Failed", "Canceled"})
_SETUP_CODES = frozenset({"InvalidSenderUserName", "DomainNotLinked"})
"""Errors about the sender, which all mails have in common: whatever status they come with, no event is at fault."""
_SECRETS = ("connection_string_env", "connection_string_file", "access_key_env", "access_key_file")


class AcsEmailSettings(MailSettings):
    """A sink of kind `acs_email`."""

    model_config = ConfigDict(hide_input_in_errors=True)  # what is refused here may be a key in the wrong place

    ledger = "always"
    verifies = True

    kind: Literal["acs_email"] = "acs_email"
    concurrency: int = Field(default=2, ge=1, le=1000)
    """Requests at one time per process. The service takes few mails a minute; more at once only meets its limit."""
    allow_private: bool = False
    """Permits http:// and private, link-local and reserved addresses. The loopback is always permitted."""
    endpoint: str | None = None
    """The resource: https://NAME.communication.azure.com. A connection string says it already."""
    auth: Literal["key", "identity"] = "key"
    """key: the resource's access key signs each request. identity: each carries a token of the process's identity."""
    connection_string_env: str | None = None
    connection_string_file: FilePath | None = None
    """key: the resource's connection string."""
    access_key_env: str | None = None
    access_key_file: FilePath | None = None
    """key: the access key alone, with `endpoint`."""
    scope: str | None = Field(default=None, pattern=r"^[!-~]+$")
    """identity: what a token is asked for; left out: the public cloud's."""
    api_version: str = Field(default="2025-09-01", pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(-preview)?$")
    """Of the service's API. The first that documents Operation-Id in its clients."""
    sender: str = Field(alias="from")
    """Who it is from: a bare address. The name that people see belongs to the sender in the verified domain."""
    to: tuple[str, ...]
    """Who gets it. All are named in the message."""
    cc: tuple[str, ...] = ()
    """Who gets a copy, and is named too."""
    bcc: tuple[str, ...] = ()
    """Who gets a copy, and is not named."""
    reply_to: tuple[str, ...] = ()
    """Where answers go; left out: to the sender."""
    user_engagement_tracking_disabled: bool = True
    """Keeps the service from rewriting links and adding a picture that tells who opened the mail, where the domain is
    set to do so."""
    timeout_seconds: float = Field(default=30, gt=0, le=600)
    """For the request that sends, from the connection (10 s at most) to the answer's status. A token before it and a
    question after it have 10 s each."""

    @field_validator("endpoint")
    @classmethod
    def _resource(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is not None:
            try:
                checked_endpoint(text, allow_private=info.data.get("allow_private", False))
            except ValueError as error:
                raise ValueError(str(error).removeprefix("endpoint: ")) from None
        return text

    @field_validator("sender")
    @classmethod
    def _bare(cls, text: str) -> str:
        try:
            return checked_address(text)
        except ValueError:
            raise ValueError(
                f"{text!r} is no bare address; write name@example.org: the service takes the name from the sender's "
                "entry in the domain"
            ) from None

    @field_validator("to", "cc", "bcc", "reply_to")
    @classmethod
    def _addresses(cls, addresses: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not addresses and info.field_name == "to":
            raise ValueError("names nobody; write at least one address")
        return checked_addresses(addresses)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        everybody = (*self.to, *self.cc, *self.bcc)
        if len(everybody) > _MOST_RECIPIENTS:
            raise ValueError(
                f"to, cc and bcc name {len(everybody)} recipients, and the service takes {_MOST_RECIPIENTS}; "
                "write to a distribution list, or split them over two sinks"
            )
        checked_addresses(everybody)
        self._check_access()
        return self

    def _check_access(self) -> None:
        given = dict(self)
        if self.needs_identity:
            if found := [key for key in _SECRETS if given[key] is not None]:
                raise ValueError(f"auth: identity needs no {found[0]}; keep one of the two")
        elif self.scope is not None:
            raise ValueError("scope is for auth: identity; remove it, or add auth: identity")
        else:
            one_of(given, *_SECRETS)
        by_connection_string = self.connection_string_env or self.connection_string_file
        if by_connection_string and self.endpoint:
            raise ValueError("the connection string says the endpoint; remove endpoint")
        if not by_connection_string and not self.endpoint:
            raise ValueError("there is no endpoint; add endpoint: https://NAME.communication.azure.com")

    def check_secret(self, key: str, value: str) -> None:
        """See SinkSettings."""
        check_secret(key, value, allow_private=self.allow_private)

    @property
    def needs_identity(self) -> bool:
        """Whether it logs in with access tokens of the process's identity."""
        return self.auth == "identity"

    @property
    def token_scope(self) -> str:
        """What a token is asked for."""
        return self.scope or _SCOPE

    @property
    def attempt_seconds(self) -> float:
        """A token, the request, and the question whether an earlier request was meant."""
        return _TOKEN_SECONDS + self.timeout_seconds + _ASK_SECONDS


class AcsEmailSink:
    """Sends over one session with one pool of connections."""

    def __init__(
        self,
        settings: AcsEmailSettings,
        tokens: TokenSource | None = None,
        *,
        clock: Callable[[], float] = time.time,
        resolver: Callable[[], AbstractResolver] = aiohttp.ThreadedResolver,
    ) -> None:
        """`tokens` are needed with `auth: identity`, to deliver."""
        self._settings = settings
        self._templates = settings.templates()
        self._envelope = Envelope(
            sender=settings.sender,
            to=settings.to,
            cc=settings.cc,
            bcc=settings.bcc,
            reply_to=settings.reply_to,
            tracking_disabled=settings.user_engagement_tracking_disabled,
        )
        self._access = Access(
            endpoint=settings.endpoint,
            connection_string=Secret.of(settings, "connection_string"),
            access_key=Secret.of(settings, "access_key"),
            token=partial(tokens.token, settings.token_scope) if tokens and settings.needs_identity else None,
            allow_private=settings.allow_private,
            clock=clock,
        )
        self._poster = Poster(
            settings,
            unclear=OutcomeUnknown,
            timeout_seconds=settings.timeout_seconds,
            resolver=resolver,
            clock=clock,
        )

    async def open(self) -> None:
        """Makes the session; connections come with the first deliveries."""
        await self._poster.open()

    def preview(self, delivery: Delivery) -> str:
        """Who gets it, and the text."""
        settings, mail = self._settings, render(delivery, self._templates)
        given = {"From": (settings.sender,), "To": settings.to, "Cc": settings.cc, "Bcc": settings.bcc}
        headers = [f"{name}: {', '.join(addresses)}" for name, addresses in given.items() if addresses]
        return "\n".join((*headers, f"Subject: {mail.subject}", "", mail.text))

    async def deliver(self, delivery: Delivery) -> None:
        """Sends once. Returns when the service has queued the mail, or had done so before."""
        operation = operation_id(delivery)
        body = request_body(delivery, render(delivery, self._templates), self._envelope)
        answer, secrets = await self._request("POST", f"/emails:send?{self._version}", operation, body)
        said = answer.said(secrets)
        if answer.accepted:
            # A repetition is answered with how the mail stands by now.
            if _status(answer) in _WILL_NOT_GO_OUT:
                raise Rejected(said)
        elif answer.error_code in _SETUP_CODES:
            raise Misconfigured(said)
        elif answer.status in {400, 409}:
            await self._check_queued_before(operation, said)
        else:
            raise refusal(answer, secrets, unclear=OutcomeUnknown)

    async def verify(self, delivery: Delivery) -> bool | None:
        """Whether the service knows the mail. False also where it says that the mail will not go out.

        Then the request is made again, under the same id, and the service's answer to that tells why.
        """
        try:
            status = await self._ask(operation_id(delivery))
        except (OutcomeUnknown, Rejected):
            return None
        return status is not None and status not in _WILL_NOT_GO_OUT

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._poster.aclose()

    @property
    def _version(self) -> str:
        return f"api-version={self._settings.api_version}"

    async def _check_queued_before(self, operation: UUID, said: str) -> None:
        """Raises unless the service refused the request because an earlier one had sent the mail.

        Which code it gives to such a refusal is not documented; so every 400 and 409 is followed by the question.
        """
        try:
            status = await self._ask(operation)
        except WorkerError as error:
            # This request had no effect, but an earlier one may have had it.
            raise OutcomeUnknown(f"{said}; asked whether it knows the mail: {error}") from None
        if status is None:
            raise Rejected(said)
        if status in _WILL_NOT_GO_OUT:
            raise Rejected(f"{said}; of an earlier request for this mail it says: {status}")

    async def _ask(self, operation: UUID) -> str | None:
        """How the service says an operation stands; None: it knows of none. Raises as `refusal` does."""
        path = f"/emails/operations/{operation}?{self._version}"
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                answer, secrets = await self._request("GET", path, operation, b"")
        except TimeoutError:
            raise OutcomeUnknown(f"sink {self._settings.name}: no answer within {_ASK_SECONDS:g} s") from None
        if answer.status == 404:
            return None
        if not answer.accepted:
            raise refusal(answer, secrets, unclear=OutcomeUnknown)
        return _status(answer)

    async def _request(self, method: str, path: str, operation: UUID, body: bytes) -> tuple[Answer, tuple[str, ...]]:
        """One request and its answer, with what no error may repeat."""
        authorized = await self._authorize(method, path, body)
        headers = {
            **authorized.headers,
            "Accept": "application/json",
            "x-ms-client-request-id": str(operation),
        }
        if method == "POST":
            headers |= {"Content-Type": "application/json", "Operation-Id": str(operation)}
        answer = await self._poster.request(method, authorized.url, body or None, headers)
        return answer, authorized.secrets

    async def _authorize(self, method: str, path: str, body: bytes) -> Authorized:
        """Misconfigured, not ConfigError: by now the lane can wait until it is repaired."""
        who = f"sink {self._settings.name}"
        try:
            async with asyncio.timeout(_TOKEN_SECONDS):
                return await self._access.authorize(method, path, body)
        except TimeoutError:
            raise SinkUnavailable(f"{who}: no token of the process's identity within {_TOKEN_SECONDS:g} s") from None
        except (ConfigError, ValueError, Misconfigured) as error:
            raise Misconfigured(f"{who}: {error}") from None
        except SinkUnavailable as error:
            raise SinkUnavailable(f"{who}: {error}") from None


def _status(answer: Answer) -> str:
    """How an operation stands; empty where the answer does not say."""
    status = answer.fields.get("status")
    return status if isinstance(status, str) else ""
