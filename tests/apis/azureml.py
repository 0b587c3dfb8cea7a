"""Azure ML on this machine: the jobs of a workspace, as Resource Manager creates them, and a batch endpoint.

It knows one workspace and no compute: a job that is created is one that was started. What of a job can be changed, and
what not, is as the service says it; which fields there are is from its published schema.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from aiohttp import web

from tests.api_service import ApiService, Refused, served
from tests.tokens import token_for

WORKSPACE = (
    "/subscriptions/01234567-89ab-cdef-0123-456789abcdef/resourceGroups/ml/providers"
    "/Microsoft.MachineLearningServices/workspaces/ws"
)
COMPONENT = f"{WORKSPACE}/components/retrain/versions/3"
COMPUTE = f"{WORKSPACE}/computes/cpu"
ARM_SCOPE = "https://management.azure.com/.default"
BATCH_SCOPE = "https://ml.azure.com/.default"

_CHANGEABLE = ("description", "tags", "displayName", "properties", "isArchived")
_DATA = ("uri_folder", "uri_file", "mltable", "custom_model", "mlflow_model", "triton_model")
_MODES = ("ReadOnlyMount", "ReadWriteMount", "Download", "Direct", "EvalMount", "EvalDownload")
_TEXTS = ("componentId", "sourceJobId", "computeId", "experimentName", "displayName", "description")
_FIELDS = {*_TEXTS, "jobType", "inputs", "outputs", "jobs", "settings", "tags", "properties", "isArchived"}
_INNER = {"JobPropertyImmutable": "UserError"}
"""Errors that are told within another one."""


class AzureMl(ApiService):
    """A workspace, and a batch endpoint with a deployment of a pipeline component and one of a model."""

    api_versions = frozenset(
        {"2023-10-01", "2024-01-01-preview", "2024-04-01", "2024-10-01", "2025-06-01", "2025-09-01", "2025-12-01"}
    )

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, dict[str, Any]] = {}
        """From their names to their properties."""
        self.started: list[str] = []
        """The names of jobs that were created, in order."""
        self.accepted: list[dict[str, Any]] = []
        """What was asked for in every request that was accepted, repetitions too."""
        self.deployments = {"pipeline": "component", "scorer": "model"}
        self.default_deployment = "pipeline"
        self.batch_jobs: list[dict[str, Any]] = []
        """What the endpoint started: its name, the deployment, and what was asked for."""

    @property
    def endpoint_url(self) -> str:
        """The endpoint's scoring URI."""
        return f"{self.url}/jobs"

    def routes(self) -> list[web.RouteDef]:
        job = re.sub(r"[^/]+$", "{workspace}", WORKSPACE) + "/jobs/{name}"
        endpoint = WORKSPACE + "/batchEndpoints/{name}"
        return [
            web.put(job, self._put),
            web.get(job, self._get),
            web.get(endpoint, self._endpoint),
            web.get(f"{endpoint}/deployments", self._deployments),
            web.post("/jobs", self._invoke),
        ]

    def check_login(self, request: web.Request) -> None:
        scope = BATCH_SCOPE if request.path == "/jobs" else ARM_SCOPE
        if request.headers.get("Authorization") != f"Bearer {token_for(scope)}":
            raise Refused(401, "AuthenticationFailed", "no token, or one for something else")

    def check_version(self, request: web.Request) -> None:
        if request.path != "/jobs":
            super().check_version(request)

    def error(self, status: int, code: str, message: str) -> Any:
        inner = {"type": "InnerError", "info": {"value": {"code": "Immutable", "innerError": {"code": code}}}}
        more = {"additionalInfo": [inner]} if code in _INNER else {}
        return {"error": {"code": _INNER.get(code, code), "message": message, "details": [], **more}}

    async def _put(self, request: web.Request) -> web.Response:
        name = self._name(request)
        body = await self.body(request)
        given = body.get("properties")
        if body.keys() != {"properties"} or not isinstance(given, dict):
            raise Refused(400, "UserError", "the body is {properties: …}")
        _check_job(given)
        known = self.jobs.get(name)
        if known is not None:
            _check_unchanged(name, known, given)
        else:
            self.started.append(name)
        self.jobs[name] = {**(known or {"status": "NotStarted"}), **given}
        self.accepted.append(given)
        return self._job(name, 201 if known is None else 200)

    async def _get(self, request: web.Request) -> web.Response:
        name = self._name(request)
        if name not in self.jobs:
            raise Refused(404, "UserError", f"Job {name} not found.")
        return self._job(name, 200)

    def _name(self, request: web.Request) -> str:
        if request.match_info["workspace"] != WORKSPACE.rpartition("/")[2]:
            raise Refused(404, "ResourceNotFound", "The workspace was not found.")
        name = request.match_info["name"]
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,254}", name):
            raise Refused(400, "UserError", "The name of the job is not valid.")
        return name

    def _job(self, name: str, status: int) -> web.Response:
        resource = {"id": f"{WORKSPACE}/jobs/{name}", "name": name, "properties": self.jobs[name]}
        return web.json_response(resource, status=status)

    async def _endpoint(self, request: web.Request) -> web.Response:
        properties = {"authMode": "AADToken", "scoringUri": self.endpoint_url}
        return web.json_response({"name": request.match_info["name"], "location": "x", "properties": properties})

    async def _deployments(self, _: web.Request) -> web.Response:
        found = [{"name": name, "location": "x", "properties": {}} for name in self.deployments]
        return web.json_response({"value": found})

    async def _invoke(self, request: web.Request) -> web.Response:
        job = _folded(await self.body(request))
        deployment = request.headers.get("azureml-model-deployment", self.default_deployment)
        if deployment not in self.deployments:
            raise Refused(404, "NotFound", f"There is no deployment {deployment}.")
        if job.keys() != {"properties"}:
            raise Refused(400, "BadArgument", "the body is {properties: …}")
        _check_batch(job["properties"], self.deployments[deployment])
        name = f"batchjob-{uuid4()}"
        self.batch_jobs.append({"name": name, "deployment": deployment, "properties": job["properties"]})
        return web.json_response({"id": f"{WORKSPACE}/jobs/{name}", "name": name, "properties": {"status": "Queued"}})


def _check_job(given: dict[str, Any]) -> None:
    if unknown := given.keys() - _FIELDS:
        raise Refused(400, "UserError", f"there is no {sorted(unknown)}")
    if given.get("jobType") != "Pipeline":
        raise Refused(400, "UserError", "jobType is missing, or no Pipeline")
    if ("componentId" in given) == ("sourceJobId" in given):
        raise Refused(400, "UserError", "a pipeline job is made of a component, or of a job")
    if not all(isinstance(given.get(name, ""), str) for name in _TEXTS):
        raise Refused(400, "UserError", "something is no text that has to be")
    for name in ("tags", "properties"):
        if not all(isinstance(text, str) for text in given.get(name, {}).values()):
            raise Refused(400, "UserError", f"{name} are texts")
    for each in given.get("inputs", {}).values():
        _check_input(each)


def _check_input(given: dict[str, Any]) -> None:
    kind = given.get("jobInputType")
    content = "value" if kind == "literal" else "uri"
    if kind not in {"literal", *_DATA} or not isinstance(given.get(content), str):
        raise Refused(400, "UserError", "an input is a literal with a text, or data with its URI")
    if given.keys() - {"jobInputType", content, "mode", "description"} or given.get("mode", "Direct") not in _MODES:
        raise Refused(400, "UserError", "an input has something that it cannot have")


def _check_unchanged(name: str, known: dict[str, Any], given: dict[str, Any]) -> None:
    if known.get("experimentName") != given.get("experimentName"):
        raise Refused(400, "UserError", f"As a run with runId = {name} already exists in the workspace.")
    fixed = _FIELDS - set(_CHANGEABLE)
    if changed := sorted(field for field in fixed if known.get(field) != given.get(field)):
        raise Refused(
            400,
            "JobPropertyImmutable",
            "A job with this name already exists. If you are trying to create a new job, use a different name. If you "
            f"are trying to update an existing job, the existing job's {', '.join(changed)} cannot be changed.",
        )


def _check_batch(job: Any, kind: str) -> None:
    if not isinstance(job, dict) or job.keys() - {"inputdata", "outputdata", "properties"}:
        raise Refused(400, "BadArgument", "there is no such property of a job")
    inputs = job.get("inputdata", {})
    if kind == "model" and len(inputs) != 1:
        raise Refused(400, "PredicateValidator", "a deployment of a model has one input")
    for each in inputs.values():
        _check_batch_input(each, kind)
    for each in job.get("outputdata", {}).values():
        if each.keys() != {"joboutputtype", "uri"}:
            raise Refused(400, "BadArgument", "an output has a type and a URI")


def _check_batch_input(given: dict[str, Any], kind: str) -> None:
    types = {"UriFile", "UriFolder"}
    if kind == "component":
        types |= {"Literal", "MLTable", "MLFlowModel", "CustomModel", "TritonModel"}
    if given.get("jobinputtype") not in types:
        raise Refused(400, "PredicateValidator", f"The supported types are: {sorted(types)}.")
    content = "value" if given["jobinputtype"] == "Literal" else "uri"
    if given.keys() != {"jobinputtype", content}:
        raise Refused(400, "BadArgument", f"an input of this type has {content}")


def _folded(value: Any, depth: int = 0) -> Any:
    """With the API's own names in lower case, in which it does not care for case; not those of inputs."""
    if not isinstance(value, dict):
        return value
    are_own_names = depth != 2
    return {name.lower() if are_own_names else name: _folded(each, depth + 1) for name, each in value.items()}


def told(job: dict[str, Any]) -> dict[str, Any]:
    """The literals of a job, by name: of either API."""
    inputs = job.get("inputs") or job.get("inputdata") or {}
    return {name: each["value"] for name, each in inputs.items() if "value" in each}


@asynccontextmanager
async def azureml() -> AsyncIterator[AzureMl]:
    """Serves an empty workspace."""
    service = AzureMl()
    async with served(service):
        yield service
