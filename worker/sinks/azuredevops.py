"""The azuredevops sink: runs a YAML pipeline of Azure Pipelines.

Azure Pipelines starts a run for each request and knows no repetition, so this is a sink for the ledger. The run
carries the delivery's key as a parameter, and the pipeline shows it in its `name`: that is how `verify` finds it.
Accepted means that the run was made; what becomes of it is not asked for.

Who is not logged in is sent a page to sign in on, with 203 or a redirect, and not 401: this is noticed.
"""

import re
import time
from base64 import b64encode
from collections.abc import Callable
from typing import Any, Literal, Self
from urllib.parse import quote

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver
from pydantic import Field, ValidationInfo, field_validator, model_validator
from yarl import URL

from worker.errors import Misconfigured, OutcomeUnknown, WorkerError
from worker.settings import FilePath, Secret, one_of
from worker.sinks import Delivery, TokenSource
from worker.sinks.addresses import checked_url
from worker.sinks.patterns import Pattern, TemplateValue
from worker.sinks.rest import (
    Authorize,
    Login,
    Reply,
    RestClient,
    RestSettings,
    bearer_of,
    check_token,
    read_token,
    short_key,
)
from worker.sinks.runs import KEY_CHARACTERS, Sighting, iso_time, same_name, texts_of, tried_since, verdict

_SCOPE = "499b84ac-1321-427f-aa17-267ca6975798/.default"
"""Azure DevOps in Entra ID: the same in all tenants, as documented."""
_PER_PAGE = 200
_MOST_PAGES = 10
_SIGN_IN = re.compile("_signin|login|oauth2", re.IGNORECASE)
"""In the Location of a redirect."""
_SETUP = re.compile(
    "Unexpected parameter|set the following variables|Could not get the latest source version|"
    "Could not find valid pipeline YAML|REST API version"
)
"""In a 400: what all requests of the sink have in common, so that no event is at fault."""
_REQUIRED = re.compile("A value for the '([^']+)' parameter must be provided")
_HINTS = {
    401: "renew the token, or give the identity access to the organization",
    403: "let it queue builds of this pipeline",
    404: "the organization, project or pipeline is not there, or may not be seen",
}


class AzureDevOpsSettings(RestSettings):
    """A sink of kind `azuredevops`."""

    ledger = "always"
    verifies = True
    unknown_by_default = "verify"

    kind: Literal["azuredevops"] = "azuredevops"
    organization: str
    """Its name, or its URL; of an Azure DevOps Server the URL of the collection."""
    project: str = Field(min_length=1)
    """The project's name or id."""
    pipeline: int = Field(ge=1)
    """The pipeline's number: in its URL after definitionId=."""
    ref: str = Field(default="refs/heads/main", pattern=r"^refs/.+$")
    """The branch or tag whose YAML runs, from refs/ on."""
    parameters: dict[str, TemplateValue] = Field(default_factory=dict)
    """What it is given beside the key, as templates; each becomes a text."""
    variables: dict[str, TemplateValue] = Field(default_factory=dict)
    """Variables that the pipeline lets be set at queue time, as templates; each becomes a text."""
    key_name: str = Field(default="eventKey", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=KEY_CHARACTERS)
    """The parameter that the delivery's key travels under."""
    token_env: str | None = None
    token_file: FilePath | None = None
    """A personal access token; without one, requests carry a token of the process's identity."""
    scope: str = Field(default=_SCOPE, pattern=r"^[!-~]+$")
    """What a token of the process's identity is asked for."""
    api_version: str = Field(default="7.1", pattern=r"^[0-9]+\.[0-9]+(-preview(\.[0-9]+)?)?$")
    """Of the API; Azure DevOps Server 2022 knows 7.0."""
    settles_seconds: float = Field(default=120, ge=0, le=3600)
    """verify: how long after an attempt a run may have been started and not be listed. Requests can be held up for
    30 s, also those nobody waits for any more. Who asks too soon starts twice."""

    @field_validator("organization")
    @classmethod
    def _collection(cls, text: str, info: ValidationInfo) -> str:
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", text):
            return f"https://dev.azure.com/{text}"
        if "://" not in text:
            raise ValueError("is no organization; write its name, or a URL such as https://dev.azure.com/NAME")
        url = checked_url(text, allow_private=info.data.get("allow_private", False))
        if url.raw_query_string or (url.host == "dev.azure.com" and not re.fullmatch("/[^/]+/?", url.path)):
            raise ValueError("is more or less than an organization; write https://dev.azure.com/NAME")
        return text.rstrip("/")

    @field_validator("ref", mode="before")
    @classmethod
    def _whole(cls, ref: object) -> object:
        if isinstance(ref, str) and not ref.startswith("refs/"):
            raise ValueError(f"is no whole name of a branch or tag; write refs/heads/{ref}")
        return ref

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        one_of(dict(self), "token_env", "token_file", required=False)
        if own := same_name(self.parameters, self.key_name):
            raise ValueError(f"parameters.{own} is what the delivery's key travels under; rename it, or set key_name")
        return self

    def check_secret(self, key: str, value: str) -> None:
        """See SinkSettings."""
        if key == "token":
            check_token(value)

    @property
    def needs_identity(self) -> bool:
        """Whether it logs in with access tokens of the process's identity."""
        return self.token_env is None and self.token_file is None


class AzureDevOpsSink:
    """Asks Azure DevOps over one session."""

    def __init__(
        self,
        settings: AzureDevOpsSettings,
        tokens: TokenSource | None = None,
        *,
        clock: Callable[[], float] = time.time,
        resolver: Callable[[], AbstractResolver] = aiohttp.ThreadedResolver,
    ) -> None:
        """`tokens` are needed to deliver, unless there is a token of its own."""
        self._settings = settings
        self._parameters = {name: Pattern(each, f"parameters.{name}") for name, each in settings.parameters.items()}
        self._variables = {name: Pattern(each, f"variables.{name}") for name, each in settings.variables.items()}
        secret = Secret.of(settings, "token")
        authorize = basic_in(secret, settings.name) if secret else bearer_of(tokens, settings.scope)
        self._client = RestClient(settings, authorize, unclear=OutcomeUnknown, clock=clock, resolver=resolver)

    async def open(self) -> None:
        """Makes the session; connections come with the first deliveries."""
        await self._client.open()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    def preview(self, delivery: Delivery) -> str:
        """The request: where it goes, and its body as JSON that can be read."""
        body = orjson.dumps(self._body(delivery), option=orjson.OPT_INDENT_2).decode()
        return f"POST {self._runs}\n\n{body}"

    async def deliver(self, delivery: Delivery) -> None:
        """Asks for one run. Returns when the answer names it."""
        reply = await self._client.request("POST", self._runs, self._body(delivery))
        if not reply.accepted or _is_sign_in(reply):
            raise self._refusal(reply)
        if not isinstance(reply.fields.get("id"), int):
            raise OutcomeUnknown(f"{reply.said}; this names no run")

    async def verify(self, delivery: Delivery) -> bool | None:
        """Whether a run carries the delivery's key; None, with a warning, where the list of runs cannot tell."""
        return await verdict(self._look(delivery), self._settings.name)

    # --- the requests

    @property
    def _apis(self) -> str:
        settings = self._settings
        return f"{settings.organization}/{quote(settings.project, safe='')}/_apis"

    @property
    def _runs(self) -> URL:
        settings = self._settings
        url = f"{self._apis}/pipelines/{settings.pipeline}/runs?api-version={settings.api_version}"
        return URL(url, encoded=True)

    def _body(self, delivery: Delivery) -> dict[str, Any]:
        parameters = texts_of(self._parameters, delivery) | {self._settings.key_name: short_key(delivery)}
        variables = {name: {"value": text} for name, text in texts_of(self._variables, delivery).items()}
        return {
            "resources": {"repositories": {"self": {"refName": self._settings.ref}}},
            "templateParameters": parameters,
            **({"variables": variables} if variables else {}),
        }

    def _refusal(self, reply: Reply) -> WorkerError:
        if _is_sign_in(reply):
            where = reply.answer.where
            return Misconfigured(f"{where} answered {reply.status}, its page to sign in on; {_HINTS[401]}")
        if 300 <= reply.status < 400:
            return Misconfigured(f"{reply.said}; the organization was renamed or moved: write where it is now")
        if reply.status == 400 and self._is_setup(str(reply.fields.get("message"))):
            return Misconfigured(f"{reply.said}; correct the sink's settings, or the pipeline's YAML")
        error = reply.refusal(unclear=OutcomeUnknown)
        return Misconfigured(f"{error}; {_HINTS[reply.status]}") if isinstance(error, Misconfigured) else error

    def _is_setup(self, message: str) -> bool:
        required = _REQUIRED.search(message)
        return bool(_SETUP.search(message)) or bool(required and required[1] not in self._parameters)

    # --- the runs

    async def _look(self, delivery: Delivery) -> bool | str:
        """Whether there is a run; or why that cannot be said.

        A run is a build of the older API, which alone filters by time, goes on page by page, and shows parameters: the
        list of runs has had none since 2022.
        """
        sighting, token = Sighting(delivery), ""
        for _ in range(_MOST_PAGES):
            reply = await self._client.request("GET", self._page(tried_since(delivery), token))
            if not reply.accepted or _is_sign_in(reply):
                raise self._refusal(reply)
            builds = reply.fields.get("value")
            if not isinstance(builds, list):
                return "the list of runs cannot be read"
            for build in filter(lambda build: isinstance(build, dict), builds):
                sighting.look(str(self._settings.pipeline), _texts(build), may_be_it=True)
            if sighting.found:
                return True
            token = reply.answer.headers.get("x-ms-continuationtoken", "")
            if not token:
                return self._missing(sighting)
        return f"there are more than {_MOST_PAGES * _PER_PAGE:,} runs since the event"

    def _page(self, since: float, token: str) -> URL:
        """Deleted runs too: whoever deleted one does not want it a second time."""
        settings = self._settings
        query = {
            "definitions": str(settings.pipeline),
            "minTime": iso_time(since),
            "queryOrder": "queueTimeDescending",
            "statusFilter": "all",
            "deletedFilter": "includeDeleted",
            "$top": str(_PER_PAGE),
            **({"continuationToken": token} if token else {}),
            "api-version": settings.api_version,
        }
        return URL(f"{self._apis}/build/builds", encoded=True).with_query(query)

    def _missing(self, sighting: Sighting) -> bool | str:
        if not sighting.silent:
            return False
        return (
            f"a run of pipeline {self._settings.pipeline} may be it and shows no key, or its name was cut; let its "
            f"name hold ${{{{ parameters.{self._settings.key_name} }}}}"
        )


def basic_in(secret: Secret, sink: str) -> Authorize:
    """With a personal access token that stands in a secret, read at each use: the password of nobody."""

    async def authorize() -> Login:
        token = read_token(secret, sink)
        encoded = b64encode(f":{token}".encode()).decode()
        return Login(f"Basic {encoded}", (token, encoded))

    return authorize


def _is_sign_in(reply: Reply) -> bool:
    headers = reply.answer.headers
    if reply.accepted:
        return reply.status == 203 or headers.get("Content-Type", "").startswith("text/html")
    return 300 <= reply.status < 400 and bool(_SIGN_IN.search(headers.get("Location", "")))


def _texts(build: dict[str, Any]) -> list[object]:
    """Where a build may show the key: its name, and its parameters where the list has them."""
    parameters = build.get("templateParameters")
    return [build.get("buildNumber"), *(parameters.values() if isinstance(parameters, dict) else ())]
