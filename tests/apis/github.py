"""GitHub's REST API for workflows and their runs, as far as it is documented, on this machine.

It refuses what GitHub refuses, starts a run for each request, however often it comes, and shows it in its lists after a
lag on a clock that tests move. Filters of its lists answer from an index that misses runs, as GitHub's has done.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
from aiohttp import web

from tests.api_service import ApiService, Refused, served

TOKEN = "hidden-token"
REPOSITORY = "octo/models"
START = 1_700_000_000.0
MOST_CHARACTERS = 65_535
FILTERS = {"actor", "branch", "check_suite_id", "created", "event", "head_sha", "status"}


@dataclass
class Workflow:
    """A file in .github/workflows."""

    file: str = "retrain.yml"
    number: int = 4711
    inputs: dict[str, bool] = field(default_factory=lambda: {"event_key": False, "event_id": False, "key": False})
    """Their names, and whether they are required."""
    dispatches: bool = True
    """Whether it has workflow_dispatch."""
    listens_to: tuple[str, ...] = ()
    """The types of repository_dispatch."""
    run_name: str | None = "Retrain {event_key}"
    """Filled in from the inputs or the payload; None: it has none, and its runs are called as it is."""

    def title(self, given: dict[str, Any], otherwise: str) -> str:
        return otherwise if self.run_name is None else self.run_name.format_map({"event_key": ""} | given)


@dataclass(frozen=True)
class Run:
    number: int
    workflow: Workflow
    event: str
    given: dict[str, Any]
    title: str
    created: float


class GitHubService(ApiService):
    """One repository."""

    def __init__(self, *workflows: Workflow, versions: tuple[str, ...] = ("2022-11-28", "2026-03-10")) -> None:
        super().__init__()
        self.workflows = list(workflows) or [Workflow()]
        self.versions = versions
        self.refs = {"main"}
        self.runs: list[Run] = []
        self.now = START
        self.lag_seconds = 0.0
        self.lists: Any = None
        """What a list answers instead."""

    def routes(self) -> list[web.RouteDef]:
        repository = "/repos/{owner}/{name}"
        return [
            web.post(f"{repository}/actions/workflows/{{workflow}}/dispatches", self._dispatch),
            web.get(f"{repository}/actions/workflows/{{workflow}}/runs", self._list_of_workflow),
            web.post(f"{repository}/dispatches", self._dispatch_event),
            web.get(f"{repository}/actions/runs", self._list),
        ]

    def start(self, workflow: Workflow, event: str, given: dict[str, Any], otherwise: str = "") -> Run:
        run = Run(len(self.runs) + 1, workflow, event, given, workflow.title(given, otherwise), self.now)
        self.runs.append(run)
        return run

    # --- who asks, and how

    def error(self, status: int, code: str, message: str) -> Any:
        return {"message": message, "documentation_url": "https://docs.github.com/rest", "status": str(status)}

    def check_login(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refused(401, "BadCredentials", "Bad credentials")
        if not request.headers.get("User-Agent"):
            raise Refused(403, "NoUserAgent", "Request forbidden by administrative rules")

    def check_version(self, request: web.Request) -> None:
        if request.headers.get("X-GitHub-Api-Version") not in self.versions:
            raise Refused(400, "UnknownVersion", "The requested API version is not supported")

    def _check_repository(self, request: web.Request) -> None:
        if f"{request.match_info['owner']}/{request.match_info['name']}".casefold() != REPOSITORY:
            raise Refused(404, "NotFound", "Not Found")

    def _workflow(self, request: web.Request) -> Workflow:
        self._check_repository(request)
        asked = request.match_info["workflow"]
        for workflow in self.workflows:
            if asked in {workflow.file, str(workflow.number)}:
                return workflow
        raise Refused(404, "NotFound", "Not Found")

    # --- starting

    async def _dispatch(self, request: web.Request) -> web.Response:
        workflow, body = self._workflow(request), await self.body(request)
        known = {"ref", "inputs"} | ({"return_run_details"} if self.versions[-1] >= "2026-03-10" else set())
        for name in body.keys() - known:
            raise Refused(422, "UnknownKey", f'Invalid request.\n\n"{name}" is not a permitted key.')
        if not isinstance(body.get("ref"), str):
            raise Refused(422, "NoRef", 'Invalid request.\n\n"ref" wasn\'t supplied.')
        if not workflow.dispatches:
            raise Refused(422, "NoTrigger", "Workflow does not have 'workflow_dispatch' trigger")
        if body["ref"] not in self.refs:
            raise Refused(422, "UnknownRef", f"No ref found for: {body['ref']}")
        inputs = body.get("inputs", {})
        self._check_inputs(workflow, inputs)
        run = self.start(workflow, "workflow_dispatch", inputs, otherwise=workflow.file)
        if body.get("return_run_details") is not True:
            return web.Response(status=204)
        url = f"{self.url}/repos/{REPOSITORY}/actions/runs/{run.number}"
        return web.json_response({"workflow_run_id": run.number, "run_url": url, "html_url": url})

    @staticmethod
    def _check_inputs(workflow: Workflow, inputs: Any) -> None:
        if not isinstance(inputs, dict) or not all(isinstance(each, str) for each in inputs.values()):
            raise Refused(422, "NoTexts", 'Invalid request.\n\nFor "inputs", not all members are strings.')
        if unexpected := sorted(inputs.keys() - workflow.inputs.keys()):
            raise Refused(422, "UnexpectedInputs", f"Unexpected inputs provided: {unexpected}")
        for name, required in workflow.inputs.items():
            if required and not inputs.get(name):
                raise Refused(422, "MissingInput", f"Required input '{name}' not provided")
        if len(inputs) > 25 or len(orjson.dumps(inputs).decode()) > MOST_CHARACTERS:
            raise Refused(422, "TooLarge", "inputs are too large.")

    async def _dispatch_event(self, request: web.Request) -> web.Response:
        self._check_repository(request)
        body = await self.body(request)
        event_type, payload = body.get("event_type"), body.get("client_payload", {})
        if body.keys() - {"event_type", "client_payload"} or not isinstance(payload, dict):
            raise Refused(422, "UnknownKey", "Invalid request.")
        if not isinstance(event_type, str) or not 1 <= len(event_type) <= 100:
            raise Refused(422, "NoType", 'Invalid request.\n\n"event_type" wasn\'t supplied.')
        if len(payload) > 10:
            text = f"No more than 10 properties are allowed; {len(payload)} were supplied."
            raise Refused(422, "TooMany", f"Invalid request.\n\n{text}")
        if len(orjson.dumps(payload).decode()) > MOST_CHARACTERS:
            raise Refused(422, "TooLarge", "client_payload is too large.")
        for workflow in self.workflows:
            if event_type in workflow.listens_to:
                self.start(workflow, "repository_dispatch", payload, otherwise=event_type)
        return web.Response(status=204)

    # --- lists

    async def _list(self, request: web.Request) -> web.Response:
        self._check_repository(request)
        return self._page(request, self.runs)

    async def _list_of_workflow(self, request: web.Request) -> web.Response:
        workflow = self._workflow(request)
        return self._page(request, [run for run in self.runs if run.workflow is workflow])

    def _page(self, request: web.Request, runs: list[Run]) -> web.Response:
        if self.lists is not None:
            return web.json_response(self.lists)
        if request.query.keys() & FILTERS:
            runs = []  # the index has not seen them yet
        seen = [run for run in reversed(runs) if run.created + self.lag_seconds <= self.now]
        size, page = min(int(request.query.get("per_page", 30)), 100), int(request.query.get("page", 1))
        headers = {}
        if len(seen) > page * size:
            headers["Link"] = f'<{request.url.update_query(page=str(page + 1))}>; rel="next"'
        shown = [_shown(run) for run in seen[(page - 1) * size : page * size]]
        return web.json_response({"total_count": len(seen), "workflow_runs": shown}, headers=headers)


def _shown(run: Run) -> dict[str, Any]:
    return {
        "id": run.number,
        "name": run.workflow.file,
        "display_title": run.title,
        "path": f".github/workflows/{run.workflow.file}",
        "workflow_id": run.workflow.number,
        "event": run.event,
        "status": "queued",
        "conclusion": None,
        "created_at": datetime.fromtimestamp(run.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


@asynccontextmanager
async def github_service(*workflows: Workflow, **given: Any) -> AsyncIterator[GitHubService]:
    service = GitHubService(*workflows, **given)
    async with served(service):
        yield service
