"""Azure DevOps' REST API for running a pipeline and listing its builds, as far as it is documented, on this machine.

It refuses what Azure DevOps refuses, sends those who are not logged in to a page to sign in on, starts a run for each
request, however often it comes, and shows it in its list after a lag on a clock that tests move.
"""

from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from tests.api_service import ApiService, Refused, served
from tests.tokens import token_for

SCOPE = "499b84ac-1321-427f-aa17-267ca6975798/.default"
PAT = "hidden-token"
ORGANIZATION, PROJECT = "contoso", "ml models"
START = 1_700_000_000.0
SIGN_IN = "https://spsprodweu1.vssps.visualstudio.com/_signin?realm=dev.azure.com"
_LOGINS = frozenset({f"Bearer {token_for(SCOPE)}", f"Basic {b64encode(f':{PAT}'.encode()).decode()}"})


@dataclass
class Pipeline:
    """A YAML pipeline."""

    number: int = 7
    parameters: dict[str, bool] = field(default_factory=lambda: {"eventKey": False, "eventId": False, "key": False})
    """Their names, and whether they have no default."""
    variables: tuple[str, ...] = ()
    """Those that may be set at queue time."""
    name: str | None = "20261129-{eventKey}"
    """Filled in from the parameters; None: runs have a date and a number."""


@dataclass
class Run:
    number: int
    pipeline: Pipeline
    parameters: dict[str, str]
    variables: dict[str, Any]
    queued: float
    deleted: bool = False

    @property
    def name(self) -> str:
        plain = f"20261129.{self.number}"
        return (
            plain if self.pipeline.name is None else self.pipeline.name.format_map({"eventKey": ""} | self.parameters)
        )


class AzureDevOpsService(ApiService):
    """One project with one pipeline."""

    api_versions = frozenset({"7.0", "7.1"})

    def __init__(self, pipeline: Pipeline | None = None) -> None:
        super().__init__()
        self.pipeline = pipeline or Pipeline()
        self.refs = {"refs/heads/main"}
        self.runs: list[Run] = []
        self.now = START
        self.lag_seconds = 0.0
        self.redirects = False
        """How those who are not logged in are sent to the page to sign in on: with 302, or 203."""
        self.lists_parameters = False
        """Whether the list of builds shows them; that it does is not documented."""
        self.page_size = 1000
        self.lists: Any = None
        """What a list answers instead."""

    @property
    def organization(self) -> str:
        return f"{self.url}/{ORGANIZATION}"

    def routes(self) -> list[web.RouteDef]:
        apis = "/{organization}/{project}/_apis"
        return [
            web.post(f"{apis}/pipelines/{{pipeline}}/runs", self._run),
            web.get(f"{apis}/build/builds", self._list),
        ]

    def start(self, parameters: dict[str, str] | None = None, variables: dict[str, Any] | None = None) -> Run:
        run = Run(len(self.runs) + 1, self.pipeline, parameters or {}, variables or {}, self.now)
        self.runs.append(run)
        return run

    # --- who asks, and how

    def error(self, status: int, code: str, message: str) -> Any:
        return {
            "$id": "1",
            "innerException": None,
            "message": message,
            "typeKey": code,
            "errorCode": 0,
            "eventId": 3000,
        }

    def check_login(self, request: web.Request) -> None:
        if request.headers.get("Authorization") in _LOGINS:
            return
        self.refusals.append("SignIn")
        if self.redirects:
            raise web.HTTPFound(SIGN_IN)
        raise web.HTTPNonAuthoritativeInformation(
            text="<html>Azure DevOps Services | Sign In</html>", content_type="text/html"
        )

    def check_version(self, request: web.Request) -> None:
        version = request.query.get("api-version")
        if version not in self.api_versions:
            text = f"The requested REST API version of {version} is out of range for this server."
            raise Refused(400, "VssVersionOutOfRangeException", text)

    def _check_project(self, request: web.Request) -> None:
        if request.match_info["organization"] != ORGANIZATION:
            raise Refused(404, "NotFound", "The resource cannot be found.")
        if request.match_info["project"] != PROJECT:
            raise Refused(404, "ProjectDoesNotExistWithNameException", "TF200016: The project does not exist.")

    # --- starting

    async def _run(self, request: web.Request) -> web.Response:
        self._check_project(request)
        if request.match_info["pipeline"] != str(self.pipeline.number):
            raise Refused(404, "PipelineNotFoundException", "The pipeline was not found.")
        body = await self.body(request)
        known = {"resources", "templateParameters", "variables", "stagesToSkip", "previewRun", "yamlOverride"}
        if body.keys() - known:
            raise Refused(400, "InvalidRequest", "Value cannot be null. Parameter name: runParameters")
        ref = body.get("resources", {}).get("repositories", {}).get("self", {}).get("refName", "refs/heads/main")
        if ref not in self.refs:
            text = f"/azure-pipelines.yml: Could not get the latest source version for repository ml using ref {ref}."
            raise Refused(400, "PipelineValidationException", text)
        parameters, variables = body.get("templateParameters", {}), body.get("variables", {})
        self._check_parameters(parameters)
        for name, variable in variables.items():
            if name not in self.pipeline.variables or not isinstance(variable.get("value"), str):
                raise Refused(400, "InvalidRequest", f"You can't set the following variables ({name}).")
        run = self.start(parameters, variables)
        return web.json_response(
            {
                "id": run.number,
                "name": run.name,
                "state": "inProgress",
                "createdDate": _time(run.queued),
                "url": f"{self.organization}/_apis/pipelines/{self.pipeline.number}/runs/{run.number}",
                "pipeline": {"id": self.pipeline.number, "name": "retrain", "folder": "\\"},
            }
        )

    def _check_parameters(self, parameters: dict[str, Any]) -> None:
        if not all(isinstance(each, str) for each in parameters.values()):
            raise Refused(400, "InvalidRequest", "Error converting value to type 'System.String'.")
        for name in parameters.keys() - self.pipeline.parameters.keys():
            raise Refused(400, "PipelineValidationException", f"Unexpected parameter '{name}'")
        for name, required in self.pipeline.parameters.items():
            if required and name not in parameters:
                text = f"A value for the '{name}' parameter must be provided."
                raise Refused(400, "PipelineValidationException", text)

    # --- the list

    async def _list(self, request: web.Request) -> web.Response:
        self._check_project(request)
        if self.lists is not None:
            return web.json_response(self.lists)
        query = request.query
        if query.get("queryOrder") != "queueTimeDescending" or query.get("statusFilter") != "all":
            raise Refused(400, "Unclear", "tests know only this order, and all states")
        after = datetime.fromisoformat(query["minTime"]).timestamp()
        found = [
            run
            for run in reversed(self.runs)
            if query["definitions"] == str(run.pipeline.number)
            and after <= run.queued
            and run.queued + self.lag_seconds <= self.now
            and (not run.deleted or query.get("deletedFilter") == "includeDeleted")
        ]
        size, first = min(int(query["$top"]), self.page_size), int(query.get("continuationToken", 0))
        more = first + size < len(found)
        return web.json_response(
            {"count": len(found), "value": [self._shown(run) for run in found[first : first + size]]},
            headers={"x-ms-continuationtoken": str(first + size)} if more else {},
        )

    def _shown(self, run: Run) -> dict[str, Any]:
        shown = {
            "id": run.number,
            "buildNumber": run.name,
            "status": "notStarted",
            "queueTime": _time(run.queued),
            "definition": {"id": run.pipeline.number},
        }
        return shown | ({"templateParameters": run.parameters} if self.lists_parameters else {})


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@asynccontextmanager
async def azuredevops_service(pipeline: Pipeline | None = None) -> AsyncIterator[AzureDevOpsService]:
    service = AzureDevOpsService(pipeline)
    async with served(service):
        yield service
