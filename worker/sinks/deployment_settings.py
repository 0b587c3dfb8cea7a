"""The settings of a sink of kind `azureml_deployment`, and the deployment that it asks for, made from a delivery.

Pure: the same delivery gives the same body at each attempt.
"""

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Literal, Self

import orjson
from pydantic import Field, field_validator, model_validator

from worker.about import WORKSPACE
from worker.errors import Rejected
from worker.quiet import QuietSettings
from worker.sinks import Delivery
from worker.sinks.azureml import WorkspaceId
from worker.sinks.deployment_plan import Wanted
from worker.sinks.deployment_state import TAGS, Version, comparable, deployment_name
from worker.sinks.patterns import Pattern, TemplateText
from worker.sinks.rest import ArmSettings, short_key

_MOST_TAGS = 40
"""Of a resource Azure takes fifty, and ours come on top."""
_ASSET = re.compile(r"(/subscriptions/|azureml://)[!-~]+", re.IGNORECASE)
_UNNAMED = re.compile(r"[/\\?#%:\x00-\x1f\x7f]")
"""What no name of a model has, and would turn its id into another one."""


class AzureMlDeploymentSettings(ArmSettings):
    """A sink of kind `azureml_deployment`."""

    requests_per_attempt = 16
    """A look is two (with very many deployments more), a change one, and there are three of each. The rest is for
    asking why something went wrong."""

    kind: Literal["azureml_deployment"] = "azureml_deployment"
    workspace: WorkspaceId
    """The whole id of the workspace: /subscriptions/…/workspaces/NAME. Events of other workspaces are rejected."""
    endpoint: str = Field(pattern=r"^[A-Za-z](-?[A-Za-z0-9]){2,31}$", max_length=32)
    """The online endpoint, which must exist."""
    model: TemplateText = "{{ event.data.modelName }}"
    """The model's name in the workspace."""
    version: TemplateText = "{{ event.data.modelVersion }}"
    """Its version."""
    instance_type: str = Field(pattern=r"^[A-Za-z0-9_]+$")
    """The size of the machines, such as Standard_DS3_v2. They cost money from the moment the deployment is created."""
    instance_count: int = Field(default=1, ge=1, le=1000)
    """How many machines. One is the cheapest; the vendor advises three for production."""
    environment: str | None = None
    """The id of an environment: /subscriptions/… or azureml://…; left out: an MLflow model brings its own."""
    code: str | None = None
    """The id of a code asset, with `scoring_script`; left out: an MLflow model needs none."""
    scoring_script: str | None = Field(default=None, pattern=r"^[\w./-]+$")
    """The path of the script in `code`."""
    environment_variables: Mapping[str, TemplateText] = {}
    """For the container. No secrets: they can be read in the portal."""
    tags: Mapping[str, TemplateText] = {}
    """More tags for the deployment, besides model, version, eventTime, eventKey and spec."""
    shift_traffic: bool = False
    """Gives all of the endpoint's traffic to the newest version when it has succeeded. False: somebody does it by hand,
    when it has been tried."""
    api_version: str = Field(default="2024-04-01", pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(-preview)?$")
    """Of the service's API."""
    timeout_seconds: float = Field(default=30, gt=0, le=600)
    """For one request, from the connection (10 s at most) to the answer's status. A token before it has 10 s."""

    @field_validator("workspace", mode="before")
    @classmethod
    def _without_slash(cls, text: object) -> object:
        return text.rstrip("/") if isinstance(text, str) else text

    @field_validator("endpoint", mode="before")
    @classmethod
    def _no_url(cls, text: object) -> object:
        if isinstance(text, str) and "/" in text:
            raise ValueError("is no name of an endpoint; write the name alone, as `az ml online-endpoint list` says it")
        return text

    @field_validator("environment", "code")
    @classmethod
    def _asset(cls, text: str | None) -> str | None:
        if text is not None and not _ASSET.fullmatch(text):
            raise ValueError("is no id of an asset; write /subscriptions/… or azureml://…, with its version")
        return text

    @field_validator("tags")
    @classmethod
    def _free_tags(cls, tags: Mapping[str, str]) -> Mapping[str, str]:
        own = {name.lower() for name in TAGS}
        for name in tags:
            if name.lower() in own:
                raise ValueError(f"{name} is written by the sink itself; use another name")
            if not name.strip() or re.search(r"[<>%&\\?/]", name) or len(name) > 512:
                raise ValueError(f"{name[:40]!r} cannot be the name of a tag; Azure takes none of <>%&\\?/")
        if len(tags) > _MOST_TAGS:
            raise ValueError(f"are {len(tags)}, and there is room for {_MOST_TAGS}; leave some out")
        return tags

    @field_validator("quiet")
    @classmethod
    def _one_at_a_time(cls, quiet: QuietSettings | None) -> QuietSettings | None:
        if quiet is not None:
            raise ValueError("is for sinks that tell people; a deployment is of one model: remove it")
        return quiet

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.code is None) != (self.scoring_script is None):
            raise ValueError("code and scoring_script belong together; add the other, or remove both")
        if self.code is not None and self.environment is None:
            raise ValueError("a scoring_script needs an environment to run in; add environment")
        return self

    @property
    def natural_sample(self) -> str:
        """A registered model: nothing else says which."""
        return "model-registered"

    @property
    def sample_source(self) -> str:
        """The workspace: an event of another one is rejected."""
        return self.workspace


class DeploymentRequest:
    """What the body of a deployment is made from, compiled."""

    def __init__(self, settings: AzureMlDeploymentSettings) -> None:
        self._settings = settings
        self._model = Pattern(settings.model, "model")
        self._version = Pattern(settings.version, "version")
        self._variables = {
            name: Pattern(text, f"environment_variables.{name}")
            for name, text in settings.environment_variables.items()
        }
        self._tags = {name: Pattern(text, f"tags.{name}") for name, text in settings.tags.items()}

    def of(self, delivery: Delivery) -> tuple[Wanted, dict[str, Any]]:
        """What is wanted, and the deployment's body without its location. Raises Rejected."""
        settings, event = self._settings, delivery.released.placed.event
        source = (event.source or "").rstrip("/")
        if WORKSPACE.fullmatch(source) and source.lower() != settings.workspace.lower():
            raise Rejected(
                f"sink {settings.name}: the event is of another workspace than the sink's, and its model is not in "
                "that; let the route take events of one workspace (sources)"
            )
        model = self._asset_name("model", self._model.text(delivery))
        version = self._asset_name("version", self._version.text(delivery))
        properties = self._properties(delivery, model, version)
        registered = comparable(event.time or "")
        spec = sha256(orjson.dumps([properties, settings.instance_count], option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
        wanted = Wanted(
            model=model,
            version=Version(version, registered),
            name=deployment_name(model, version),
            key=short_key(delivery),
            spec=spec,
            shift_traffic=settings.shift_traffic,
        )
        own = zip(TAGS, (model, version, registered, wanted.key, spec), strict=True)
        tags = {name: pattern.text(delivery) for name, pattern in self._tags.items()}
        return wanted, {
            "tags": tags | {name: value for name, value in own if value},
            "sku": {"name": "Default", "capacity": settings.instance_count},
            "properties": properties,
        }

    def _properties(self, delivery: Delivery, model: str, version: str) -> dict[str, Any]:
        settings = self._settings
        properties: dict[str, Any] = {
            "endpointComputeType": "Managed",
            "model": f"{settings.workspace}/models/{model}/versions/{version}",
            "instanceType": settings.instance_type,
        }
        if settings.environment:
            properties["environmentId"] = settings.environment
        if settings.code:
            properties["codeConfiguration"] = {"codeId": settings.code, "scoringScript": settings.scoring_script}
        if self._variables:
            properties["environmentVariables"] = {
                name: pattern.text(delivery) for name, pattern in self._variables.items()
            }
        return properties

    def _asset_name(self, key: str, text: str) -> str:
        text = text.strip()
        if not text or len(text) > 255 or _UNNAMED.search(text) or text in {".", ".."}:
            raise Rejected(f"sink {self._settings.name}: {key} is {text[:60]!r}, which names none in the workspace")
        return text
