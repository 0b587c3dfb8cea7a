"""The Teams sink: posts an Adaptive Card to a workflow of Power Automate, that puts it into a chat or channel.

A workflow cannot tell a repetition, so this is a sink for the ledger: `deliver` is exact about the end of an attempt.
The workflow's URL is its only credential and an opaque secret: it is used as it is, and no error names more of it than
the host. It sends no faster than its limits, which all sinks of the process with this URL share; beyond them it raises
Throttled, and the lane waits. What the card looks like is in `cards`; who may post otherwise (a tenant's tokens) is
not known here.
"""

import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, Self

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver
from pydantic import ConfigDict, Field, field_validator, model_validator
from yarl import URL

from worker.errors import ConfigError, Misconfigured, OutcomeUnknown, Throttled
from worker.notice import notice_of
from worker.settings import FilePath, Secret, SinkSettings, one_of
from worker.sinks import Delivery
from worker.sinks.addresses import check_host, checked_url
from worker.sinks.answers import to_hide
from worker.sinks.cards import message_of
from worker.sinks.limiter import Rate, SharedBuckets, TokenBuckets
from worker.sinks.posting import Answer, Poster, refusal, url_secrets
from worker.strict import Settings

_FLOW_HOSTS = (".logic.azure.com", ".api.powerplatform.com", ".api.powerautomate.com")
_RETIRED_HOSTS = (".webhook.office.com",)
_RETIRED_NAMES = frozenset({"outlook.office.com", "outlook.office365.com"})
_RETIRED = (
    "the URL is one of an Office 365 connector, which Microsoft has retired; in Teams, open the channel's menu, "
    "Workflows, create the one that posts to a channel when a webhook request is received, and put its URL here"
)
_NO_SIGNATURE = (
    "the URL has no sig: its workflow takes requests with a token of the tenant only, which this sink does not send; "
    'in the workflow\'s trigger set "Who can trigger the flow" to Anyone, and put the new URL here'
)
_HOST = re.compile(r"[a-z0-9.-]+")

# A connector answers 200 and says in plain text what Teams answered. JSON is not looked into: a workflow's own answer
# may quote the event.
_ERROR_WITHIN = re.compile(rb"\s*[^\s{\[][^{\[]{0,200}HTTP error ([345]\d\d)\b")

_BUCKETS = SharedBuckets(time.monotonic)


class LimitSettings(Settings):
    """How fast a workflow is told, by this process."""

    per_second: float = Field(default=1, gt=0, le=100)
    """Cards per second in the long run. Teams named four a second per channel for what came before workflows."""
    per_hour: float = Field(default=100, gt=0, le=100_000)
    """Cards per hour in the long run; after a quiet hour so many can go at once."""

    @property
    def rates(self) -> tuple[Rate, ...]:
        """As the limiter knows them."""
        return Rate(self.per_second, 1.0), Rate(self.per_hour, 3600.0)


class TeamsSettings(SinkSettings):
    """A sink of kind `teams`."""

    model_config = ConfigDict(hide_input_in_errors=True)  # a URL that was written where it does not belong

    ledger = "always"
    needs_one_of = (("url_env", "url_file"),)

    kind: Literal["teams"] = "teams"
    concurrency: int = Field(default=1, ge=1, le=1000)
    """Cards on their way at one time per process. More than one pays only where the workflow answers slowly."""
    allow_private: bool = False
    """Permits http:// and private, link-local and reserved addresses. The loopback is always permitted."""
    allow_host: str | None = None
    """A host beyond Power Automate's own that the URL may go to, such as a gateway before it."""
    url_env: str | None = None
    url_file: FilePath | None = None
    """The workflow's URL, whole: from `https://` to the end of `sig`."""
    limits: LimitSettings = LimitSettings()
    """Shared by all sinks of the process that have the same URL; give them the same."""
    timeout_seconds: float = Field(default=60, gt=0, le=600)
    """For one attempt, from the connection (10 s at most) to the answer's status. A workflow with a Response action
    answers only when it has posted."""

    @field_validator("allow_host")
    @classmethod
    def _host(cls, host: str | None) -> str | None:
        if host is not None and not _HOST.fullmatch(host.casefold()):
            raise ValueError("is no host; write a name such as gateway.example.org, without https:// and path")
        return host

    @model_validator(mode="after")
    def _one_url(self) -> Self:
        one_of(dict(self), *self.needs_one_of[0])
        return self

    def check_secret(self, key: str, value: str) -> None:
        """See SinkSettings."""
        if key == "url":
            self.flow_url(value)

    def flow_url(self, text: str) -> URL:
        """The workflow's URL, exactly as it is written. Raises ValueError that holds no more of it than the host."""
        if "@" in text.partition("://")[2].partition("/")[0]:
            raise ValueError("the URL holds a user name or password, which no workflow's does; copy it anew")
        url = checked_url(text, allow_private=self.allow_private)
        host = (url.host or "").casefold().rstrip(".")
        if host.endswith(_RETIRED_HOSTS) or host in _RETIRED_NAMES:
            raise ValueError(_RETIRED)
        if self.allow_host is not None and host == self.allow_host.casefold():
            return url  # what proves itself to a gateway, it alone knows
        here = check_host(host, what="the URL goes", allow_private=True)
        if not (here or host.endswith(_FLOW_HOSTS)):
            raise ValueError(
                f"the URL goes to {host}, which is no host of Power Automate; copy the workflow's URL anew, or permit "
                f"it with allow_host: {host}"
            )
        if not url.query.get("sig"):
            raise ValueError(_NO_SIGNATURE)
        return url


class TeamsSink:
    """Posts cards over one session."""

    def __init__(
        self,
        settings: TeamsSettings,
        *,
        buckets: SharedBuckets = _BUCKETS,
        clock: Callable[[], float] = time.time,
        resolver: Callable[[], AbstractResolver] = aiohttp.ThreadedResolver,
    ) -> None:
        self._settings = settings
        self._rates = settings.limits.rates
        self._shared = buckets
        self._buckets: TokenBuckets | None = None
        """Those of the URL that was last posted to."""
        self._poster = Poster(
            settings,
            unclear=OutcomeUnknown,
            resolver=resolver,
            clock=clock,
        )
        self._url = Secret.of(settings, "url")

    async def open(self) -> None:
        """Makes the session; connections come with the first deliveries."""
        await self._poster.open()

    def wait_seconds(self) -> float:
        """How long nothing can be sent to keep the limits."""
        return self._buckets.wait_seconds(self._rates) if self._buckets else 0.0

    def preview(self, delivery: Delivery) -> str:
        """The message with its card, as JSON that can be read."""
        message = orjson.loads(message_of(notice_of(delivery), key=delivery.idempotency_key))
        return orjson.dumps(message, option=orjson.OPT_INDENT_2).decode()

    async def deliver(self, delivery: Delivery) -> None:
        """Posts one card. Returns on any 2xx: 202 says that the workflow is queued, others what it says itself."""
        url = self._read_url()
        message = message_of(notice_of(delivery), key=delivery.idempotency_key)
        self._take_turn(url)
        answer = await self._poster.post(url, message, {"Content-Type": "application/json"})
        if answer.accepted and (status := _error_within(answer)):
            answer = replace(answer, status=status)
        if not answer.accepted:
            raise refusal(answer, to_hide(url_secrets(url)), unclear=OutcomeUnknown)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._poster.aclose()

    def _read_url(self) -> URL:
        """Misconfigured, not ConfigError: by now the lane can wait until it is repaired."""
        assert self._url is not None, "the settings insist on it"
        try:
            return self._settings.flow_url(self._url.read())
        except (ConfigError, ValueError) as error:
            raise Misconfigured(f"sink {self._settings.name}: {error}") from None

    def _take_turn(self, url: URL) -> None:
        self._buckets = self._shared.of(str(url))
        if wait_seconds := self._buckets.take(self._rates):
            raise Throttled(
                f"sink {self._settings.name}: nothing more is sent now, to keep this sink's limits",
                retry_after_seconds=wait_seconds,
            )


def _error_within(answer: Answer) -> int:
    """The status that stands in a text; 0 where there is none."""
    found = _ERROR_WITHIN.match(answer.body)
    return int(found[1]) if found else 0
