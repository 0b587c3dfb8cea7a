"""Azure ML's online endpoints on this machine: one endpoint, its deployments, and the traffic between them.

It takes what the published specification (2024-04-01) has: PUT replaces a resource whole, PATCH knows tags and identity
only, nothing is conditional. A change takes until the test says that it has ended (`finish`), unless `at_once`; until
then another change of the same resource meets 409. Traffic adds up to 0 or 100, and goes to what has succeeded.
"""

import asyncio
import copy
import re
from typing import Any

from aiohttp import web

from tests.api_service import ApiService, Refused

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
WORKSPACE = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/ml/providers/Microsoft.MachineLearningServices/workspaces/team-ml"
)
ENDPOINT = "scoring"
LOCATION = "westeurope"
SCOPE = "https://management.azure.com/.default"

_NAME = re.compile(r"[A-Za-z](-?[A-Za-z0-9])*")
_PROPERTIES = frozenset(
    {
        *("appInsightsEnabled", "codeConfiguration", "dataCollector", "description", "egressPublicNetworkAccess"),
        *("endpointComputeType", "environmentId", "environmentVariables", "instanceType", "livenessProbe", "model"),
        *("modelMountPath", "properties", "readinessProbe", "requestSettings", "scaleSettings", "startupProbe"),
    }
)
_ENDPOINT_PROPERTIES = frozenset(
    {
        *("authMode", "compute", "description", "keys", "mirrorTraffic", "properties", "publicNetworkAccess"),
        "traffic",
    }
)
_ENDED = frozenset({"Succeeded", "Failed", "Canceled"})


class OnlineEndpoints(ApiService):
    """One workspace with one endpoint."""

    api_versions = frozenset({"2024-04-01", "2024-10-01", "2025-12-01"})
    scope = SCOPE

    def __init__(self, *, workspace: str = WORKSPACE, at_once: bool = False, exclusive: bool = False) -> None:
        """`exclusive`: while anything of the endpoint is being changed, nothing else of it can be."""
        super().__init__()
        self.workspace = workspace
        self.at_once = at_once
        self.exclusive = exclusive
        self.page_size = 100
        self.next_host = ""
        """Where the rest of a list is said to be; empty: here."""
        self.fails: set[str] = set()
        """Deployments that end as Failed, where a change ends at once."""
        self.clear()

    def clear(self) -> None:
        """As at the beginning: the endpoint, and nothing else."""
        self.endpoint: dict[str, Any] = {
            "id": f"{self.workspace}/onlineEndpoints/{ENDPOINT}",
            "name": ENDPOINT,
            "type": "Microsoft.MachineLearningServices/workspaces/onlineEndpoints",
            "location": LOCATION,
            "tags": {"team": "ml"},
            "kind": "Managed",
            "identity": {"type": "SystemAssigned", "principalId": "p", "tenantId": "t"},
            "systemData": {"createdAt": "2026-01-01T00:00:00Z", "lastModifiedAt": "2026-01-01T00:00:00Z"},
            "properties": {
                "authMode": "Key",
                "description": "scores",
                "keys": None,
                "properties": {"azureml.onlineendpointid": "x"},
                "publicNetworkAccess": "Disabled",
                "scoringUri": "https://scoring.example/score",
                "swaggerUri": "https://scoring.example/swagger.json",
                "traffic": {},
                "mirrorTraffic": {},
                "provisioningState": "Succeeded",
            },
        }
        self.deployments: dict[str, dict[str, Any]] = {}
        self.changes_made: list[tuple[str, str]] = []
        """What took effect, in its order: "deploy" and the name, "traffic" and what has it, "finish" and the name."""

    # --- for tests

    @property
    def traffic(self) -> dict[str, int]:
        return dict(self.endpoint["properties"]["traffic"])

    def states(self) -> dict[str, str]:
        return {name: each["properties"]["provisioningState"] for name, each in self.deployments.items()}

    @property
    def endpoint_state(self) -> str:
        state: str = self.endpoint["properties"]["provisioningState"]
        return state

    @endpoint_state.setter
    def endpoint_state(self, state: str) -> None:
        self.endpoint["properties"]["provisioningState"] = state

    def finish(self, name: str = ENDPOINT, state: str = "Succeeded") -> None:
        """What is being made, or changed, ends so."""
        resource = self.endpoint if name == ENDPOINT else self.deployments[name]
        resource["properties"]["provisioningState"] = state
        self.changes_made.append(("finish", name))

    def unfinished(self) -> list[str]:
        under_way = [name for name, state in self.states().items() if state not in _ENDED]
        return under_way + ([ENDPOINT] if self.endpoint_state not in _ENDED else [])

    def count(self, what: str, name: str | None = None) -> int:
        return sum(kind == what and name in (None, each) for kind, each in self.changes_made)

    def put_there(self, name: str, model: str, version: str, *, state: str = "Succeeded", **tags: str) -> None:
        """A deployment that somebody made by hand."""
        self.deployments[name] = {
            "name": name,
            "location": LOCATION,
            "tags": tags,
            "sku": {"name": "Default", "capacity": 1},
            "properties": {
                "endpointComputeType": "Managed",
                "model": f"{self.workspace}/models/{model}/versions/{version}",
                "instanceType": "Standard_DS3_v2",
                "provisioningState": state,
            },
        }

    # --- the API

    def routes(self) -> list[web.RouteDef]:
        endpoint = f"{self.workspace}/onlineEndpoints/{{endpoint}}"
        deployment = f"{endpoint}/deployments/{{deployment}}"
        operation = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.MachineLearningServices/operations/{{name}}"
        return [
            web.get(endpoint, self._get_endpoint),
            web.put(endpoint, self._put_endpoint),
            web.patch(endpoint, self._patch_endpoint),
            web.get(f"{endpoint}/deployments", self._list),
            web.get(deployment, self._get_deployment),
            web.put(deployment, self._put_deployment),
            web.get(operation, self._get_operation),
        ]

    async def _get_endpoint(self, request: web.Request) -> web.Response:
        self._check_endpoint(request)
        return web.json_response(self.endpoint)

    async def _list(self, request: web.Request) -> web.Response:
        self._check_endpoint(request)
        names, skip = sorted(self.deployments), int(request.query.get("$skip", "0"))
        page: dict[str, Any] = {"value": [self.deployments[each] for each in names[skip : skip + self.page_size]]}
        if len(names) > skip + self.page_size:
            url = request.rel_url.update_query({"$skip": str(skip + self.page_size)})
            page["nextLink"] = f"{self.next_host or self.url}{url}"
        return web.json_response(page)

    async def _get_deployment(self, request: web.Request) -> web.Response:
        self._check_endpoint(request)
        deployment = self.deployments.get(request.match_info["deployment"])
        if deployment is None:
            raise Refused(404, "NotFound")
        return web.json_response(deployment)

    async def _get_operation(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        state = self.endpoint_state if name == ENDPOINT else self.states()[name]
        body: dict[str, Any] = {"name": name, "status": state if state in _ENDED else "InProgress"}
        if state == "Failed":
            body["error"] = {"code": "OutOfQuota", "message": "not enough machines of this size"}
        return web.json_response(body)

    async def _put_deployment(self, request: web.Request) -> web.Response:
        self._check_endpoint(request)
        name, body = request.match_info["deployment"], await self.body(request)
        self._check_deployment(name, body)
        old = self.deployments.get(name)
        self._check_free(name)
        if old is not None and old["properties"]["instanceType"] != body["properties"]["instanceType"]:
            raise Refused(400, "BadRequest", "instanceType cannot be changed")
        state = ("Failed" if name in self.fails else "Succeeded") if self.at_once else "Updating" if old else "Creating"
        self.deployments[name] = {"tags": {}, **copy.deepcopy(body), "name": name}
        self.deployments[name]["properties"]["provisioningState"] = state
        self.changes_made.append(("deploy", name))
        return self._accepted(request, name, self.deployments[name], created=old is None)

    async def _put_endpoint(self, request: web.Request) -> web.Response:
        self._check_endpoint(request)
        body = await self.body(request)
        self._check_free(ENDPOINT)
        self._check_new_endpoint(body)
        old = self.endpoint
        properties = {
            "description": None,
            "publicNetworkAccess": "Enabled",
            "traffic": {},
            "mirrorTraffic": {},
            **copy.deepcopy(body["properties"]),
            "keys": None,
            "scoringUri": old["properties"]["scoringUri"],
            "swaggerUri": old["properties"]["swaggerUri"],
            "provisioningState": "Succeeded" if self.at_once else "Updating",
        }
        kept = {name: old[name] for name in ("id", "name", "type", "location", "systemData")}
        replaced = {name: copy.deepcopy(body.get(name)) for name in ("tags", "kind", "identity", "sku")}
        self.endpoint = {**kept, **replaced, "properties": properties}
        self.changes_made.append(("traffic", ",".join(sorted(each for each in properties["traffic"]))))
        return self._accepted(request, ENDPOINT, self.endpoint, created=False)

    async def _patch_endpoint(self, request: web.Request) -> web.Response:
        self._check_endpoint(request)
        body = await self.body(request)
        if not body.keys() <= {"tags", "identity"}:
            raise Refused(400, "BadRequest", "only tags and identity can be patched")
        self.endpoint |= body
        return web.json_response(self.endpoint)

    def _accepted(self, request: web.Request, name: str, resource: dict[str, Any], *, created: bool) -> web.Response:
        operation = (
            f"{self.url}/subscriptions/{SUBSCRIPTION}/providers/Microsoft.MachineLearningServices/operations/{name}"
            f"?api-version={request.query['api-version']}"
        )
        return web.json_response(
            resource, status=201 if created else 200, headers={"Azure-AsyncOperation": operation, "Retry-After": "20"}
        )

    # --- what it refuses

    def _check_endpoint(self, request: web.Request) -> None:
        if request.match_info["endpoint"] != ENDPOINT:
            raise Refused(404, "NotFound", "there is no such endpoint")

    def _check_free(self, name: str) -> None:
        busy = {name, ENDPOINT} & set(self.unfinished()) or (self.exclusive and self.unfinished())
        if busy:
            raise Refused(409, "Conflict", f"another operation is under way: {sorted(busy)}", Retry_After="7")

    def _check_deployment(self, name: str, body: dict[str, Any]) -> None:
        properties, sku = body.get("properties"), body.get("sku")
        if not isinstance(properties, dict) or not isinstance(sku, dict):
            raise Refused(400, "BadRequest", "properties and sku are needed")
        texts = [*(body.get("tags") or {}).values(), *(properties.get("environmentVariables") or {}).values()]
        texts += [properties.get("model"), properties.get("instanceType")]
        checks = {
            "the name": _NAME.fullmatch(name) is not None and 3 <= len(name) <= 32,
            "location, which is the endpoint's": body.get("location") == LOCATION,
            "properties": properties.keys() <= _PROPERTIES,
            "properties.endpointComputeType": properties.get("endpointComputeType") == "Managed",
            "sku": sku.get("name") == "Default" and isinstance(sku.get("capacity"), int),
            "a text": all(isinstance(each, str) for each in texts),
        }
        for what, right in checks.items():
            if not right:
                raise Refused(400, "BadRequest", f"{what} is wrong")

    def _check_new_endpoint(self, body: dict[str, Any]) -> None:
        properties = body.get("properties")
        if body.get("location") != LOCATION or not isinstance(properties, dict) or "authMode" not in properties:
            raise Refused(400, "BadRequest", "location and properties.authMode are needed")
        if not properties.keys() <= _ENDPOINT_PROPERTIES:
            raise Refused(400, "BadRequest", f"unknown: {sorted(properties.keys() - _ENDPOINT_PROPERTIES)}")
        traffic: dict[str, int] = properties.get("traffic") or {}
        if sum(traffic.values()) not in (0, 100):
            raise Refused(400, "BadRequest", "traffic adds up to 0 or 100")
        states = self.states()
        for name, share in traffic.items():
            if share and states.get(name) != "Succeeded":
                raise Refused(400, "BadRequest", f"{name} gets traffic, and is {states.get(name, 'absent')}")


async def finishing(service: OnlineEndpoints) -> None:
    """Ends whatever is under way, a moment after it was begun; until it is cancelled."""
    while True:
        await asyncio.sleep(0)
        for name in service.unfinished():
            service.finish(name)
