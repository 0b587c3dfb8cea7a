"""The github sink: starts a workflow of GitHub Actions, by its file or by the name of an event it listens to.

GitHub starts a run for each request and knows no repetition, so this is a sink for the ledger. The run carries the
delivery's key as an input, and the workflow shows it in its `run-name`: that is how `verify` finds it. Accepted means
that GitHub took the request; what becomes of the run is not asked for.
"""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver
from pydantic import Field, field_validator, model_validator
from yarl import URL

from worker.errors import Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable, WorkerError
from worker.settings import FilePath, Secret, one_of
from worker.sinks import Delivery, TokenSource
from worker.sinks.addresses import CheckedUrl
from worker.sinks.patterns import Pattern, TemplateValue
from worker.sinks.posting import Answer
from worker.sinks.rest import Reply, RestClient, RestSettings, bearer_in, check_token, short_key
from worker.sinks.runs import KEY_CHARACTERS, Sighting, same_name, texts_of, tried_since, unix_time, verdict

_MOST_INPUTS = 25
"""Of a workflow, as documented since 2025-12; the key is one of them."""
_MOST_PROPERTIES = 10
"""Of a client_payload, as documented; the key is one of them."""
_MOST_CHARACTERS = 65_535
"""Of all inputs, and of a client_payload, as documented: with names and quotes."""
_RUN_DETAILS_SINCE = "2026-03-10"
"""The first version of the API whose servers all know `return_run_details`; older ones refuse the unknown key."""
_PER_PAGE = 100
_MOST_PAGES = 20
_LIMITED_SECONDS = 60.0
"""How long to wait at least where GitHub limits and does not say for how long, as documented."""
_LONGEST_WAIT_SECONDS = 3600.0
_SETUP = {
    400: re.compile("[Vv]ersion|permitted key"),
    422: re.compile("No ref found|workflow_dispatch|Unexpected inputs|permitted key"),
}
"""By status, words about what all requests of the sink have in common: no event is at fault."""
_REQUIRED = re.compile("Required input '([^']+)' not provided")
"""Said of an input that is not given, and of one that is given and empty."""
_HINTS = {
    401: "renew the token",
    403: "give the token the permissions that docs/sinks/github.md names",
    404: "the repository or the workflow is not there, or the token may not see it",
}


class GitHubSettings(RestSettings):
    """A sink of kind `github`."""

    ledger = "always"
    verifies = True
    unknown_by_default = "verify"
    needs_one_of = (("token_env", "token_file"), ("workflow", "event_type"))

    kind: Literal["github"] = "github"
    api_url: CheckedUrl = "https://api.github.com"
    """The API; of an Enterprise Server https://HOST/api/v3."""
    api_version: str = Field(default="2026-03-10", pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")
    """Of the API. Enterprise Servers before 3.21 know only 2022-11-28."""
    settles_seconds: float = Field(default=300, ge=0, le=3600)
    """verify: how long after an attempt a run may have been started and not be listed: seconds, and when Actions is
    slow, minutes. Who asks too soon starts twice."""
    repository: str
    """Whose workflow: owner/name."""
    token_env: str | None = None
    token_file: FilePath | None = None
    """A fine-grained personal access token, or an installation token of a GitHub App, which something else renews: a
    file is read again for each request."""
    workflow: str | None = Field(default=None, coerce_numbers_to_str=True)
    """The file's name in .github/workflows, or the workflow's number."""
    ref: str | None = Field(default=None, min_length=1)
    """workflow: the branch or tag whose file runs; left out: main."""
    inputs: dict[str, TemplateValue] = Field(default_factory=dict)
    """workflow: what it is given beside the key, as templates; each becomes a text."""
    event_type: str | None = Field(default=None, min_length=1, max_length=100)
    """Instead of a workflow: starts those of the default branch that listen to repository_dispatch of this type."""
    payload: dict[str, TemplateValue] = Field(default_factory=dict)
    """event_type: what they find in github.event.client_payload beside the key, as templates that keep their type."""
    key_name: str = Field(default="event_key", pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$", max_length=KEY_CHARACTERS)
    """The input, or the property of the payload, that the delivery's key travels under."""

    @field_validator("api_url")
    @classmethod
    def _plain(cls, text: str) -> str:
        if URL(text, encoded=True).raw_query_string:
            raise ValueError("holds a query; write https://HOST/api/v3")
        return text.rstrip("/")

    @field_validator("repository")
    @classmethod
    def _owner_and_name(cls, text: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*/[A-Za-z0-9._-]+", text):
            raise ValueError("is no repository; write owner/name, without https:// and the host")
        return text

    @field_validator("workflow")
    @classmethod
    def _file_or_number(cls, text: str | None) -> str | None:
        if text is not None and not re.fullmatch(r"[0-9]+|[A-Za-z0-9_.-]+\.ya?ml", text):
            raise ValueError(
                "is no workflow; write the name of its file without a folder, such as retrain.yml, or its number"
            )
        return text

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for keys in self.needs_one_of:
            one_of(dict(self), *keys)
        if self.workflow is None and (self.inputs or self.ref is not None):
            raise ValueError("inputs and ref belong to a workflow; with event_type write payload")
        if self.event_type is None and self.payload:
            raise ValueError("payload belongs to event_type; with workflow write inputs")
        self._check_names("inputs", self.inputs, _MOST_INPUTS)
        self._check_names("payload", self.payload, _MOST_PROPERTIES)
        return self

    def _check_names(self, where: str, given: Mapping[str, Any], most: int) -> None:
        if own := same_name(given, self.key_name):
            raise ValueError(f"{where}.{own} is what the delivery's key travels under; rename it, or set key_name")
        if len(given) >= most:
            raise ValueError(
                f"{where} holds {len(given)}, and GitHub takes {most} with {self.key_name}; put several into one"
            )

    def check_secret(self, key: str, value: str) -> None:
        """See SinkSettings."""
        if key == "token":
            check_token(value)


class GitHubSink:
    """Asks GitHub over one session."""

    def __init__(
        self,
        settings: GitHubSettings,
        _tokens: TokenSource | None = None,
        *,
        clock: Callable[[], float] = time.time,
        resolver: Callable[[], AbstractResolver] = aiohttp.ThreadedResolver,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._inputs = {name: Pattern(each, f"inputs.{name}") for name, each in settings.inputs.items()}
        self._payload = {name: Pattern(each, f"payload.{name}") for name, each in settings.payload.items()}
        token = Secret.of(settings, "token")
        assert token is not None, "the settings insist on it"
        self._client = RestClient(
            settings, bearer_in(token, settings.name), unclear=OutcomeUnknown, clock=clock, resolver=resolver
        )

    async def open(self) -> None:
        """Makes the session; connections come with the first deliveries."""
        await self._client.open()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    def preview(self, delivery: Delivery) -> str:
        """The request: where it goes, and its body as JSON that can be read."""
        body = orjson.dumps(self._body(delivery), option=orjson.OPT_INDENT_2).decode()
        return f"POST {self._dispatches}\n\n{body}"

    async def deliver(self, delivery: Delivery) -> None:
        """Asks for one run. Returns on any 2xx: 200 names the run, 204 does not."""
        reply = await self._request("POST", self._dispatches, self._body(delivery))
        if not reply.accepted:
            raise self._refusal(reply)

    async def verify(self, delivery: Delivery) -> bool | None:
        """Whether a run carries the delivery's key; None, with a warning, where the list of runs cannot tell."""
        return await verdict(self._look(delivery), self._settings.name)

    # --- the requests

    @property
    def _repository(self) -> str:
        return f"{self._settings.api_url}/repos/{self._settings.repository}"

    @property
    def _dispatches(self) -> str:
        workflow = self._settings.workflow
        return f"{self._repository}/{'dispatches' if workflow is None else f'actions/workflows/{workflow}/dispatches'}"

    def _body(self, delivery: Delivery) -> dict[str, Any]:
        settings = self._settings
        key = {settings.key_name: short_key(delivery)}
        if settings.workflow is None:
            payload = {name: pattern.fill(delivery) for name, pattern in self._payload.items()} | key
            self._check_size("payload", payload)
            return {"event_type": settings.event_type, "client_payload": payload}
        inputs = texts_of(self._inputs, delivery) | key
        self._check_size("inputs", inputs)
        body = {"ref": settings.ref or "main", "inputs": inputs}
        return body | ({"return_run_details": True} if settings.api_version >= _RUN_DETAILS_SINCE else {})

    def _check_size(self, where: str, content: dict[str, Any]) -> None:
        characters = len(orjson.dumps(content).decode())
        if characters > _MOST_CHARACTERS:
            raise Rejected(
                f"sink {self._settings.name}: {where}: {characters:,} characters, and GitHub takes "
                f"{_MOST_CHARACTERS:,}; send less of the event"
            )

    async def _request(self, method: str, url: str, content: Any = None) -> Reply:
        headers = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": self._settings.api_version}
        return await self._client.request(method, URL(url, encoded=True), content, headers)

    def _refusal(self, reply: Reply) -> WorkerError:
        wait_seconds = _limited_for(reply.answer, now=self._clock())
        if wait_seconds is not None:
            return SinkUnavailable(reply.said, retry_after_seconds=wait_seconds)
        if 300 <= reply.status < 400:
            return Misconfigured(f"{reply.said}; the repository was renamed or moved: write where it is now")
        if self._is_setup(reply.status, str(reply.fields.get("message"))):
            return Misconfigured(f"{reply.said}; correct the sink's settings, or the workflow's file")
        error = reply.refusal(unclear=OutcomeUnknown)
        return Misconfigured(f"{error}; {_HINTS[reply.status]}") if isinstance(error, Misconfigured) else error

    def _is_setup(self, status: int, message: str) -> bool:
        setup, required = _SETUP.get(status), _REQUIRED.search(message)
        return bool(setup and setup.search(message)) or bool(required and required[1] not in self._inputs)

    # --- the runs

    async def _look(self, delivery: Delivery) -> bool | str:
        """Whether there is a run; or why that cannot be said.

        Reads the list as it is, the newest first. GitHub could filter it by event and time, but answers that from an
        index that has been seen to miss runs for most of an hour.
        """
        since, sighting = tried_since(delivery), Sighting(delivery)
        for page in range(1, _MOST_PAGES + 1):
            reply = await self._request("GET", self._page(page))
            if not reply.accepted:
                raise self._refusal(reply)
            runs = reply.fields.get("workflow_runs")
            if not isinstance(runs, list):
                return "the list of runs cannot be read"
            oldest = self._look_at(runs, sighting, since)
            if sighting.found:
                return True
            if oldest < since or (len(runs) < _PER_PAGE and 'rel="next"' not in reply.answer.headers.get("Link", "")):
                return self._missing(sighting)
        return f"there are more than {_MOST_PAGES * _PER_PAGE:,} runs since the event"

    def _page(self, page: int) -> str:
        workflow = self._settings.workflow
        runs = "actions/runs" if workflow is None else f"actions/workflows/{workflow}/runs"
        return f"{self._repository}/{runs}?per_page={_PER_PAGE}&page={page}&exclude_pull_requests=true"

    def _look_at(self, runs: list[Any], sighting: Sighting, since: float) -> float:
        """Looks at a page, and returns when its oldest run was made."""
        event = "repository_dispatch" if self._settings.workflow is None else "workflow_dispatch"
        oldest = float("inf")
        for run in filter(lambda run: isinstance(run, dict), runs):
            created = unix_time(run.get("created_at")) or float("inf")
            oldest = min(oldest, created)
            sighting.look(
                str(run.get("path")),
                (run.get("display_title"), run.get("name")),
                may_be_it=run.get("event") == event and created >= since,
            )
        return oldest

    def _missing(self, sighting: Sighting) -> bool | str:
        if not sighting.silent:
            return False
        context = "inputs" if self._settings.event_type is None else "github.event.client_payload"
        return (
            f"a run of {', '.join(sighting.silent)} may be it and shows no key, or its name was cut; let its run-name "
            f"hold ${{{{ {context}.{self._settings.key_name} }}}} before anything long"
        )


def _limited_for(answer: Answer, *, now: float) -> float | None:
    """How long GitHub does not want to be asked; None: the answer is about something else.

    It says so with 403 as well as 429, and 403 is what a token without permissions gets too.
    """
    if answer.status not in {403, 429}:
        return None
    if answer.retry_after_seconds is not None:
        return answer.retry_after_seconds
    reset = answer.headers.get("x-ratelimit-reset", "")
    if answer.headers.get("x-ratelimit-remaining") == "0" and reset.isascii() and reset.isdigit():
        return min(max(float(reset) - now, 1.0), _LONGEST_WAIT_SECONDS)
    if answer.status == 429 or b"rate limit" in answer.body:
        return _LIMITED_SECONDS
    return None
