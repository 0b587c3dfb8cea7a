"""Requests to REST APIs that answer in JSON, for sinks that start something: logged in, bounded, no secret said.

One request, as `posting` makes it, with the header that proves who asks: a token of the process's identity, or one that
stands in a secret. What an answer means is the sink's decision.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver
from pydantic import ConfigDict, Field, field_validator
from yarl import URL

from worker.errors import Misconfigured, SinkUnavailable, WorkerError
from worker.settings import Secret, SinkSettings
from worker.sinks import Delivery, TokenSource
from worker.sinks.addresses import CheckedUrl
from worker.sinks.answers import to_hide
from worker.sinks.posting import Answer, Poster, Unclear, refusal

TOKEN_SECONDS = 10.0
"""How long a token may take."""
WHOLE_BYTES = 16 * 1024 * 1024
"""Of an answer that is read to be understood."""


@dataclass(frozen=True, slots=True, repr=False)
class Login:
    """What a request proves itself with. Shows none of it where a task or a traceback shows values."""

    header: str
    """The value of Authorization."""
    secrets: tuple[str, ...]
    """What no error may repeat."""


Authorize = Callable[[], Awaitable[Login]]
"""Gives what the next request proves itself with. Raises Misconfigured, SinkUnavailable."""


def short_key(delivery: Delivery) -> str:
    """The first 128 bits of the idempotency key as a name that is legal everywhere: `evt-` and 32 hex digits."""
    return f"evt-{delivery.idempotency_key[:32]}"


class RestSettings(SinkSettings):
    """What kinds have that ask a REST API."""

    model_config = ConfigDict(hide_input_in_errors=True)  # what is refused here may be a secret in the wrong place

    concurrency: int = Field(default=4, ge=1, le=1000)
    """Requests at one time per process: starting something is dear, and the services count."""
    allow_private: bool = False
    """Permits http:// and private, link-local and reserved addresses. The loopback is always permitted."""
    timeout_seconds: float = Field(default=60, gt=0, le=600)
    """For one request, from the connection (10 s at most) to the answer's status. A token before it has 10 s."""

    requests_per_attempt: ClassVar[int] = 1
    """How many requests one attempt makes at most, one after the other."""

    @property
    def attempt_seconds(self) -> float:
        """The requests, and a token for each."""
        return self.requests_per_attempt * (TOKEN_SECONDS + self.timeout_seconds)


class ArmSettings(RestSettings):
    """What kinds have that ask Azure Resource Manager."""

    management_url: CheckedUrl = "https://management.azure.com"
    """The Resource Manager of the cloud; sovereign clouds have their own."""
    scope: str | None = Field(default=None, pattern=r"^[!-~]+$")
    """What a token is asked for; left out: `management_url` and /.default."""

    @field_validator("management_url")
    @classmethod
    def _no_path(cls, text: str) -> str:
        if URL(text, encoded=True).raw_path_qs.strip("/"):
            raise ValueError("holds a path; write only https:// and the host")
        return text.rstrip("/")

    @property
    def needs_identity(self) -> bool:
        """Always: Resource Manager knows nothing else."""
        return True

    @property
    def token_scope(self) -> str:
        """What a token is asked for."""
        return self.scope or f"{self.management_url}/.default"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, with what nothing may repeat of the request that it answers."""

    answer: Answer
    secrets: tuple[str, ...] = field(repr=False)

    @property
    def accepted(self) -> bool:
        """Any 2xx."""
        return self.answer.accepted

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.answer.status

    @property
    def fields(self) -> dict[str, Any]:
        """See `Answer`."""
        return self.answer.fields

    @property
    def error_code(self) -> str:
        """See `Answer`."""
        return self.answer.error_code

    @property
    def said(self) -> str:
        """The answer as one short line that is safe to show."""
        return self.answer.said(self.secrets)

    def refusal(self, *, unclear: Unclear) -> WorkerError:
        """What is to be done about an answer that is no 2xx: see `posting.refusal`."""
        return refusal(self.answer, self.secrets, unclear=unclear)


class RestClient:
    """One session with one pool of connections, for one sink."""

    def __init__(
        self,
        settings: RestSettings,
        authorize: Authorize,
        *,
        unclear: Unclear,
        clock: Callable[[], float] = time.time,
        resolver: Callable[[], AbstractResolver] = aiohttp.ThreadedResolver,
    ) -> None:
        """`unclear` is raised when a request was sent and no answer came: it may have taken effect."""
        self._who = f"sink {settings.name}"
        self._authorize = authorize
        self._poster = Poster(
            settings,
            unclear=unclear,
            timeout_seconds=settings.timeout_seconds,
            resolver=resolver,
            clock=clock,
        )

    async def open(self) -> None:
        """Makes the session; connections come with the first requests."""
        await self._poster.open()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._poster.aclose()

    async def request(
        self, method: str, url: URL, content: Any = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Asks once, with `content` as JSON, and returns the answer, whatever its status.

        The whole answer is read, up to `WHOLE_BYTES`. Raises SinkUnavailable or Misconfigured where nothing was sent,
        `unclear` where no answer came.
        """
        login = await self._login()
        all_headers = {"Accept": "application/json", **(headers or {}), "Authorization": login.header}
        body = None
        if content is not None:
            body = orjson.dumps(content)
            all_headers["Content-Type"] = "application/json"
        answer = await self._poster.request(method, url, body, all_headers, most_bytes=WHOLE_BYTES)
        return Reply(answer, to_hide((), login.secrets))

    async def _login(self) -> Login:
        try:
            async with asyncio.timeout(TOKEN_SECONDS):
                return await self._authorize()
        except TimeoutError:
            raise SinkUnavailable(f"{self._who}: no access token within {TOKEN_SECONDS:g} s") from None
        except Misconfigured as error:
            raise Misconfigured(self._said(error)) from None
        except SinkUnavailable as error:
            raise SinkUnavailable(self._said(error)) from None

    def _said(self, error: WorkerError) -> str:
        text = str(error)
        return text if text.startswith(self._who) else f"{self._who}: {text}"


def bearer_of(tokens: TokenSource | None, scope: str) -> Authorize:
    """With an access token of the process's identity for this scope."""

    async def authorize() -> Login:
        assert tokens is not None, "whoever delivers has tokens; without, there is only something to look at"
        token = await tokens.token(scope)
        return Login(f"Bearer {token}", (token,))

    return authorize


def bearer_in(secret: Secret, sink: str) -> Authorize:
    """With a token that stands in a secret, read at each use."""

    async def authorize() -> Login:
        token = read_token(secret, sink)
        return Login(f"Bearer {token}", (token,))

    return authorize


def read_token(secret: Secret, sink: str) -> str:
    """The token in a secret, for an attempt. Raises Misconfigured: by now the lane can wait until it is repaired."""
    token = secret.read_for(sink)
    try:
        check_token(token)
    except ValueError as error:
        raise Misconfigured(f"sink {sink}: {secret.source}: {error}") from None
    return token


def check_token(token: str) -> None:
    """Raises ValueError for what cannot stand in a header; its text repeats none of it."""
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ValueError("the token holds a character that no token has, such as a space or a line break; copy it anew")
