"""What the Azure ML sinks have in common: ids as Resource Manager writes them, and the inputs of jobs.

Pure. Each API spells inputs in its own way; here is how an operator writes them, and what they are for a delivery.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import AfterValidator, BeforeValidator, model_validator

from worker.sinks import Delivery
from worker.sinks.patterns import Pattern, TemplateText, TemplateValue
from worker.strict import Settings

DataType = Literal["uri_folder", "uri_file", "mltable", "mlflow_model", "custom_model", "triton_model"]
"""What data is, in the words of Azure ML's YAML."""
LITERAL = "literal"

_GROUP = r"/subscriptions/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/resourceGroups/[\w.()-]+/providers"
_WORKSPACE = rf"{_GROUP}/Microsoft\.MachineLearningServices/workspaces/[\w-]+"
_REGISTRY = r"azureml://registries/[\w.-]+"
_COMPONENT = r"/components/[\w.-]+/versions/[\w.-]+"
_INPUT_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def _arm_id(pattern: str, *, of: str, show: str) -> Any:
    """Validators for the id of one kind of resource; `show` is what `az ml` prints it with."""

    def unprefixed(value: Any) -> Any:
        # In places the CLI prints ids as its own YAML wants them.
        is_prefixed = isinstance(value, str) and value.startswith("azureml:/subscriptions/")
        return value.removeprefix("azureml:") if is_prefixed else value

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.IGNORECASE):
            raise ValueError(f"is no id of {of}; write what `az ml {show} --query id --output tsv` prints")
        return text

    return BeforeValidator(unprefixed), AfterValidator(check)


WorkspaceId = Annotated[
    str, *_arm_id(_WORKSPACE, of="a workspace", show="workspace show --name NAME --resource-group GROUP")
]
"""/subscriptions/…/resourceGroups/…/providers/Microsoft.MachineLearningServices/workspaces/…"""
ComponentId = Annotated[
    str,
    *_arm_id(
        rf"({_WORKSPACE}|{_REGISTRY}){_COMPONENT}",
        of="a version of a component",
        show="component show --name NAME --version VERSION",
    ),
]
"""The same and /components/…/versions/…, or azureml://registries/…/components/…/versions/…"""
JobId = Annotated[str, *_arm_id(rf"{_WORKSPACE}/jobs/[\w.-]+", of="a job", show="job show --name NAME")]
ComputeId = Annotated[str, *_arm_id(rf"{_WORKSPACE}/computes/[\w.-]+", of="a compute", show="compute show --name NAME")]


def check_within(workspace: str, resource: str) -> None:
    """Raises ValueError unless the resource stands in this workspace, or in a registry."""
    if resource.startswith("/") and not resource.casefold().startswith(f"{workspace.casefold()}/"):
        raise ValueError("stands in another workspace than `workspace` says, and jobs know only their own; correct one")


def check_input_names(names: Mapping[str, Any]) -> None:
    """Raises ValueError for a name that no input or output of a job can have."""
    for name in names:
        if not _INPUT_NAME.fullmatch(name):
            raise ValueError(
                "has a name that Azure ML does not take; write letters, digits and _, and no digit at the beginning"
            )


class InputSettings(Settings):
    """One input of a job: a literal, or where data stands."""

    type: Literal["literal", DataType]
    """A literal, or what the data is."""
    value: TemplateValue = None
    """literal: what the job gets. A text, number, true or false alone, without type and value, is a literal too."""
    uri: TemplateText | None = None
    """Data: where it stands, such as azureml://datastores/NAME/paths/…, https://…, or the id of a data asset."""

    @model_validator(mode="after")
    def _value_or_uri(self) -> Self:
        is_literal = self.type == LITERAL
        if is_literal and (self.value is None or self.uri is not None):
            raise ValueError("a literal has a value, and no uri; write value: …")
        if not is_literal and (self.uri is None or self.value is not None):
            raise ValueError(f"an input of type {self.type} has a uri, and no value; write uri: …")
        return self

    @property
    def content(self) -> Any:
        """What there is to fill in."""
        return self.value if self.type == LITERAL else self.uri


Literally = str | int | float | bool
"""How a literal may be written by itself."""


def as_input(value: Any) -> Any:
    """A validator: a literal as it may be written, by itself, as the section that it stands for."""
    return {"type": LITERAL, "value": value} if isinstance(value, Literally) else value


class OutputSettings(Settings):
    """One output of a job."""

    type: DataType
    """What the data is."""
    uri: TemplateText
    """Where it goes: a path in a Blob data store. Two jobs that write to one path write over each other."""

    @property
    def content(self) -> str:
        """What there is to fill in."""
        return self.uri


class Inputs:
    """The inputs of jobs, or their outputs, compiled."""

    def __init__(self, settings: Mapping[str, InputSettings] | Mapping[str, OutputSettings], where: str) -> None:
        """From their names; `where` is the key they stand under."""
        self._patterns = {
            name: (given.type, Pattern(given.content, f"{where}.{name}")) for name, given in settings.items()
        }

    def fill(self, delivery: Delivery) -> dict[str, tuple[str, Any]]:
        """The types and contents of those for this delivery; where data stands is a text. Raises Rejected.

        What is null is left out: the job's own default counts.
        """
        filled = {name: (type_, pattern.fill(delivery)) for name, (type_, pattern) in self._patterns.items()}
        return {
            name: (type_, content if type_ == LITERAL else as_text(content))
            for name, (type_, content) in filled.items()
            if content is not None
        }


class Texts:
    """Tags, or whatever else goes from a name to a text, compiled."""

    def __init__(self, patterns: Mapping[str, str | None], where: str = "") -> None:
        """From their names, those that are None left out; `where` is the key they stand under."""
        self._patterns = {
            name: Pattern(text, f"{where}.{name}" if where else name)
            for name, text in patterns.items()
            if text is not None
        }

    def fill(self, delivery: Delivery) -> dict[str, str]:
        """Those for this delivery; what is null is left out. Raises Rejected."""
        filled = {name: pattern.fill(delivery) for name, pattern in self._patterns.items()}
        return {name: as_text(value) for name, value in filled.items() if value is not None}


def as_text(value: Any) -> str:
    """A value where Azure ML takes text only: as its own clients write numbers and truths; the rest as JSON."""
    return orjson.dumps(value).decode() if isinstance(value, dict | list) else str(value)
