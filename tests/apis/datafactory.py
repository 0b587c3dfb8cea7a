"""Data Factory on this machine: starts runs of the pipelines that it has, and lists them.

As documented: a token for Resource Manager, the version 2018-06-01, who is not there (404), a parameter that has no
default and is not given or is of another type (400), parameters as texts in the list of runs, filters, pages, and times
by which a run was updated. By experience, not by documents: a parameter that the pipeline does not declare is ignored,
and what is declared as a SecureString is hidden in the list. A run is listed only when the index has seen it. A
pipeline is found in any case, as documented; whether the filter of runs is so patient is not, and here it is not.
"""

import time
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import orjson
from aiohttp import web

from tests.api_service import ApiService, Refused, Step, no_step

FACTORY = (
    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/ml"
    "/providers/Microsoft.DataFactory/factories/contoso-ml"
)
_TYPES: dict[str, tuple[type, ...]] = {
    "String": (str,),
    "SecureString": (str,),
    "Int": (int,),
    "Float": (int, float),
    "Bool": (bool,),
    "Array": (list,),
    "Object": (dict,),
}
_OPERANDS = {"PipelineName", "Status", "RunStart", "RunEnd", "RunGroupId", "LatestOnly"}
_NEEDED = object()


@dataclass(frozen=True)
class Parameter:
    """One that a pipeline declares."""

    type: str = "String"
    default: Any = _NEEDED


@dataclass
class Run:
    """One run of a pipeline."""

    pipeline: str
    parameters: dict[str, Any]
    started_at: float
    updated_at: float
    invoked_by: str = "Manual"
    status: str = "Queued"
    listed_from: float = 0.0
    run_id: str = field(default_factory=lambda: str(uuid4()))


class DataFactory(ApiService):
    """One factory."""

    api_versions = frozenset({"2018-06-01"})
    scope = "https://management.azure.com/.default"

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.pipelines: dict[str, dict[str, Parameter]] = {"retrain": {"eventKey": Parameter()}}
        self.runs: list[Run] = []
        self.index_lag_seconds = 0.0
        self.page_size = 100
        self.answers_to_questions: list[web.Response] = []
        """What the next questions for runs are answered instead of with a list."""
        self.before_question: Step = no_step
        self.clock = clock

    @property
    def starts(self) -> Counter[str]:
        """How often a run was started, by the key of its event."""
        return Counter(str(run.parameters.get("eventKey")) for run in self.runs)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post(FACTORY + "/pipelines/{pipeline}/createRun", self._create_run),
            web.post(FACTORY + "/queryPipelineRuns", self._query_runs),
        ]

    def changes(self, request: web.Request) -> bool:
        return request.path.endswith("/createRun")

    def error(self, status: int, code: str, message: str) -> Any:
        return {"error": {"code": code, "message": message, "target": None, "details": None}}

    def start(self, pipeline: str, given: dict[str, Any], *, invoked_by: str = "Manual") -> Run:
        """Starts a run as the API does, or as a trigger or a person would. Raises Refused."""
        pipeline = next((name for name in self.pipelines if name.casefold() == pipeline.casefold()), pipeline)
        declared = self.pipelines.get(pipeline)
        if declared is None:
            raise Refused(404, "PipelineNotFound", f"there is no pipeline {pipeline}")
        now = self.clock()
        parameters = {name: _value(name, each, given) for name, each in declared.items()}
        run = Run(pipeline, parameters, now, now, invoked_by, listed_from=now + self.index_lag_seconds)
        self.runs.append(run)
        return run

    async def _create_run(self, request: web.Request) -> web.Response:
        given = await self.body(request) if await request.read() else {}
        run = self.start(request.match_info["pipeline"], given)
        return web.json_response({"runId": run.run_id})

    async def _query_runs(self, request: web.Request) -> web.Response:
        await self.before_question()
        if self.answers_to_questions:
            return self.answers_to_questions.pop(0)
        body = await self.body(request)
        begins, ends = _time(body, "lastUpdatedAfter"), _time(body, "lastUpdatedBefore")
        wanted = _filter(body.get("filters") or [])
        runs = [
            run
            for run in self.runs
            if begins <= run.updated_at <= ends and run.listed_from <= self.clock() and wanted(run)
        ]
        for order in reversed(body.get("orderBy") or []):
            if order["orderBy"] != "RunStart" or order["order"] not in {"ASC", "DESC"}:
                raise Refused(400, "BadRequest", "no such order here")
            runs.sort(key=lambda run: run.started_at, reverse=order["order"] == "DESC")
        return web.json_response(self._page(runs, body.get("continuationToken")))

    def _page(self, runs: list[Run], token: str | None) -> dict[str, Any]:
        begin = int(b64decode(token)) if token else 0
        end = begin + self.page_size
        more = b64encode(str(end).encode()).decode() if end < len(runs) else None
        return {"value": [self._listed(run) for run in runs[begin:end]], "continuationToken": more}

    def _listed(self, run: Run) -> dict[str, Any]:
        declared = self.pipelines.get(run.pipeline, {})
        return {
            "id": f"{FACTORY}/pipelineruns/{run.run_id}",
            "runId": run.run_id,
            "runGroupId": run.run_id,
            "isLatest": True,
            "pipelineName": run.pipeline,
            "parameters": {name: _text(value, declared.get(name)) for name, value in run.parameters.items()},
            "invokedBy": {"id": uuid4().hex, "name": run.invoked_by, "invokedByType": run.invoked_by},
            "runStart": _iso(run.started_at),
            "runEnd": None,
            "durationInMs": None,
            "status": run.status,
            "message": "",
            "lastUpdated": _iso(run.updated_at),
        }


def _value(name: str, declared: Parameter, given: dict[str, Any]) -> Any:
    value = given.get(name, declared.default)
    if value is _NEEDED:
        raise Refused(
            400,
            "BadRequest",
            f"ErrorCode=InvalidTemplate, ErrorMessage=The template parameter '{name}' is not provided.",
        )
    fits = isinstance(value, _TYPES[declared.type]) and (declared.type == "Bool") == isinstance(value, bool)
    if not fits:
        raise Refused(
            400,
            "BadRequest",
            f"ErrorCode=InvalidTemplate, ErrorMessage=The template parameter '{name}' expects {declared.type}.",
        )
    return value


def _text(value: Any, declared: Parameter | None) -> str:
    if declared is not None and declared.type == "SecureString":
        return "*****"
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _time(body: dict[str, Any], name: str) -> float:
    try:
        return datetime.fromisoformat(body[name]).astimezone(UTC).timestamp()
    except (KeyError, TypeError, ValueError):
        raise Refused(400, "BadRequest", f"{name} is no time in ISO 8601") from None


def _iso(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).isoformat().replace("+00:00", "Z")


def _filter(filters: list[dict[str, Any]]) -> Callable[[Run], bool]:
    for each in filters:
        if each.get("operand") not in _OPERANDS or each.get("operator") not in {"Equals", "In"}:
            raise Refused(400, "BadRequest", "no such filter")
    names = [set(each["values"]) for each in filters if each["operand"] == "PipelineName"]
    return lambda run: all(run.pipeline in each for each in names)
