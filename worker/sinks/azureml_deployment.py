"""The azureml_deployment sink: an online deployment for a model that was registered, and the traffic to it.

It starts machines and moves live traffic, and the service has no conditional write: so nothing is done because of what
was done before. Each attempt looks at the endpoint and does what `deployment_plan` says is next, and looks again after
each change: at whatever request a process dies, the next attempt finds what became of it. That is why it needs no
ledger: the deployment is named after model and version, so a repeated PUT is the same deployment, and a lost answer is
merely asked for again. While the service is at work the attempt ends with InProgress, and the lane asks again.

What keeps a newer version safe: an event that finds one creates nothing, however late or often it comes; and traffic
never goes to what the event is about, but to the newest version that has succeeded. Two workers may so undo each
other's work only towards the newer version. A process that is frozen between its look and its PUT of the traffic, and
thaws when a newer version has it, does put the older one back: what was seen long ago is therefore not acted upon, and
after each PUT it looks again and repairs that. If it dies at this very moment the redelivered event does, and else the
next event of the model. Who moves traffic by hand is respected: a version is given the traffic once, which is written
on the endpoint in the same PUT.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import orjson
import structlog
from aiohttp.abc import AbstractResolver
from yarl import URL

from worker.errors import InProgress, Misconfigured, Rejected, SinkUnavailable, WorkerError
from worker.sinks import Delivery, TokenSource
from worker.sinks.answers import excerpt
from worker.sinks.deployment_plan import Broken, Deploy, Done, Failed, Refuse, Shift, Wait, Wanted, next_step
from worker.sinks.deployment_settings import AzureMlDeploymentSettings, DeploymentRequest
from worker.sinks.deployment_state import SUCCEEDED, Deployment, Endpoint, endpoint_body, read_deployment, read_endpoint
from worker.sinks.rest import Reply, RestClient, bearer_of

_log = structlog.get_logger()

_ASK_AGAIN_SECONDS = 30.0
"""A deployment takes 10 to 20 minutes."""
_SOON_SECONDS = 5.0
"""For what takes seconds: an endpoint that is being changed."""
_LONGEST_WAIT_SECONDS = 120.0
"""Whatever the service says: who waits for long notices late."""
_OLD_SECONDS = 10.0
"""What was seen so long ago is looked at again before anything is done about it: the process was frozen meanwhile."""
_CHANGES = 3
"""Of one attempt: the deployment, the traffic, and the traffic once more."""
_REMEMBERED = 1000
"""Deliveries whose deployment this process has begun."""


@dataclass(frozen=True, slots=True)
class _Looked:
    """The endpoint as it was seen."""

    endpoint: Endpoint
    resource: Mapping[str, Any]
    """As it came: a PUT replaces all of it."""
    at: float
    """When it was asked for: it may be as old as that."""


class AzureMlDeploymentSink:
    """Brings the endpoint, one change at a time, to where the event wants it."""

    def __init__(
        self,
        settings: AzureMlDeploymentSettings,
        tokens: TokenSource | None = None,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        resolver: Callable[[], AbstractResolver] = aiohttp.ThreadedResolver,
    ) -> None:
        """`tokens` are needed to deliver."""
        self._settings = settings
        self._who = f"sink {settings.name}"
        self._request = DeploymentRequest(settings)
        self._client = RestClient(
            settings,
            bearer_of(tokens, settings.token_scope),
            unclear=SinkUnavailable,  # the next attempt looks
            clock=clock,
            resolver=resolver,
        )
        self._monotonic = monotonic
        self._host = URL(settings.management_url).origin()
        self._begun: OrderedDict[str, str] = OrderedDict()
        """Keys of deliveries whose deployment was put here and is not known to have ended: where to ask for why."""

    async def open(self) -> None:
        """Makes the session; connections come with the first deliveries."""
        await self._client.open()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    def preview(self, delivery: Delivery) -> str:
        """The request that creates the deployment, and what comes after it."""
        wanted, body = self._request.of(delivery)
        url = self._url("deployments", wanted.name)
        shown = orjson.dumps({"location": "(the endpoint's)", **body}, option=orjson.OPT_INDENT_2).decode()
        after = (
            "then, when it has succeeded: all traffic of the endpoint to the model's newest version that has"
            if self._settings.shift_traffic
            else "the endpoint's traffic stays as it is"
        )
        return f"PUT {url.raw_path_qs}\nContent-Type: application/json\n\n{shown}\n\n{after}"

    async def deliver(self, delivery: Delivery) -> None:
        """Does what is next, up to the point where the service is at work. Returns when nothing is left to do."""
        wanted, body = self._request.of(delivery)
        attempt = _Attempt(self._client, wanted.key, self._who, self._settings.requests_per_attempt)
        for _ in range(_CHANGES):
            looked = await self._look(attempt)
            match next_step(looked.endpoint, self._as_begun(wanted, delivery)):
                case Deploy():
                    await self._deploy(attempt, looked, wanted, body)
                case Shift(to):
                    await self._shift(attempt, looked, to)
                case Done(why):
                    return self._done(wanted, why)
                case Failed(why):
                    raise Rejected(f"{self._who}: {why}{await self._reason(attempt, wanted)}")
                case problem:
                    raise self._error(problem)
        raise InProgress(f"{self._who}: the endpoint changes meanwhile", retry_after_seconds=_SOON_SECONDS)

    def _done(self, wanted: Wanted, why: str) -> None:
        self._begun.pop(wanted.key, None)
        if why:
            _log.info("deployment left as it is", sink=self._settings.name, deployment=wanted.name, why=why)

    def _error(self, problem: Wait | Refuse | Broken) -> WorkerError:
        said = f"{self._who}: {problem.why}"
        match problem:
            case Wait():
                return InProgress(said, retry_after_seconds=_ASK_AGAIN_SECONDS)
            case Refuse():
                return Rejected(said)
            case Broken():
                return Misconfigured(said)

    def _as_begun(self, wanted: Wanted, delivery: Delivery) -> Wanted:
        """A dead letter that is replayed tries a failed deployment again; but once, or it would never end."""
        if delivery.replayed and wanted.key not in self._begun:
            return replace(wanted, try_again=True)
        return wanted

    # --- looking

    async def _look(self, attempt: "_Attempt") -> _Looked:
        at = self._monotonic()
        resource = await attempt.read(self._url())
        deployments: list[Any] = []
        page: URL | None = self._url("deployments")
        while page is not None:
            fields = await attempt.read(page)
            deployments += fields.get("value") or []
            page = self._same_host(fields.get("nextLink"))
        endpoint = read_endpoint(self._settings.endpoint, resource, deployments, self._settings.workspace)
        return _Looked(endpoint, resource, at)

    def _url(self, *more: str) -> URL:
        path = "/".join((self._settings.workspace, "onlineEndpoints", self._settings.endpoint, *more))
        return self._host.with_path(path).with_query({"api-version": self._settings.api_version})

    def _same_host(self, link: Any) -> URL | None:
        """An address that the service gave; a token goes to no other host than its own."""
        if not isinstance(link, str) or not link:
            return None
        with suppress(ValueError):
            url = URL(link, encoded=True)
            if url.origin() == self._host:
                return url
        raise SinkUnavailable(f"{self._who}: {self._host.host} points to another host for the rest of its answer")

    # --- changing

    async def _deploy(self, attempt: "_Attempt", looked: _Looked, wanted: Wanted, body: dict[str, Any]) -> None:
        url = self._url("deployments", wanted.name)
        reply = await self._put(attempt, looked, url, {"location": looked.endpoint.location, **body})
        _log.info("deployment begun", sink=self._settings.name, deployment=wanted.name, model=wanted.model)
        self._begun[wanted.key] = reply.answer.headers.get("Azure-AsyncOperation", "")
        while len(self._begun) > _REMEMBERED:
            self._begun.popitem(last=False)
        now = read_deployment(reply.fields, self._settings.workspace)
        if now.state != SUCCEEDED:
            raise InProgress(f"{self._who}: deployment {wanted.name} is begun", retry_after_seconds=_wait(reply))

    async def _shift(self, attempt: "_Attempt", looked: _Looked, to: Deployment) -> None:
        await self._put(attempt, looked, self._url(), endpoint_body(looked.resource, to))
        _log.info("traffic shifted", sink=self._settings.name, endpoint=looked.endpoint.name, deployment=to.name)

    async def _put(self, attempt: "_Attempt", looked: _Looked, url: URL, body: dict[str, Any]) -> Reply:
        if self._monotonic() - looked.at > _OLD_SECONDS:
            raise InProgress(f"{self._who}: the endpoint was looked at long ago", retry_after_seconds=0)
        reply = await attempt.ask("PUT", url, body)
        if reply.accepted:
            return reply
        if reply.status == 409 and reply.error_code == "ScopeLocked":
            raise Misconfigured(reply.said)
        if reply.status == 409 or (reply.status == 400 and await self._is_busy(attempt)):
            raise InProgress(reply.said, retry_after_seconds=_wait(reply))
        raise reply.refusal(unclear=SinkUnavailable)

    async def _is_busy(self, attempt: "_Attempt") -> bool:
        """Whether the endpoint is being changed: with which code it refuses another change is not documented."""
        fields = await attempt.read(self._url())
        state = read_endpoint(self._settings.endpoint, fields, (), self._settings.workspace).state
        return state in {"Creating", "Updating"}

    async def _reason(self, attempt: "_Attempt", wanted: Wanted) -> str:
        """Why the deployment failed, where this process knows whom to ask."""
        link = self._begun.pop(wanted.key, "")
        try:
            operation = self._same_host(link)
            reply = await attempt.ask("GET", operation) if operation else None
        except (SinkUnavailable, Misconfigured):
            reply = None
        error = reply.fields.get("error") if reply else None
        if reply is None or not isinstance(error, dict):
            where = f"--endpoint-name {self._settings.endpoint} --name {wanted.name}"
            return f"; see its logs: az ml online-deployment get-logs {where}"
        return excerpt(f"{error.get('code')}: {error.get('message')}", reply.secrets)


class _Attempt:
    """The requests of one attempt: so many and no more."""

    def __init__(self, client: RestClient, key: str, who: str, most: int) -> None:
        self._client = client
        # Azure keeps it with what it logs of a request, and takes letters, digits and dashes, 40 at most.
        self._headers = {"x-ms-client-request-id": key}
        self._who = who
        self._left = most

    async def ask(self, method: str, url: URL, content: Any = None) -> Reply:
        """Asks once, and returns the answer."""
        if not self._left:
            raise SinkUnavailable(f"{self._who}: the endpoint needs more requests than one attempt may make")
        self._left -= 1
        return await self._client.request(method, url, content, self._headers)

    async def read(self, url: URL) -> dict[str, Any]:
        """What is there. Raises what an answer that is no 2xx means."""
        reply = await self.ask("GET", url)
        if not reply.accepted:
            raise reply.refusal(unclear=SinkUnavailable)
        if not reply.fields:
            raise SinkUnavailable(f"{reply.said}, which is no resource")
        return reply.fields


def _wait(reply: Reply) -> float:
    """How long until it makes sense to look again."""
    seconds = reply.answer.retry_after_seconds
    return _ASK_AGAIN_SECONDS if seconds is None else min(max(seconds, 1.0), _LONGEST_WAIT_SECONDS)
