"""The azureml_batch sink: starts a job of an Azure ML batch endpoint for each event.

The service names the job itself, at every request a new one, and cannot be asked for it by anything of ours: it cannot
tell a repetition, and afterwards nobody can tell whether it had one. So this is a sink for the ledger, and what nobody
knows is not done again but kept as a dead letter: a job that runs twice costs machines and may write over what the
first one wrote, and a person who looks at the endpoint's jobs can decide. Where exactly one job matters, take
`azureml_job`.
"""

import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver
from pydantic import BeforeValidator, Field, field_validator
from yarl import URL

from worker.errors import OutcomeUnknown
from worker.sinks import Delivery, TokenSource
from worker.sinks.addresses import CheckedUrl
from worker.sinks.azureml import (
    LITERAL,
    Inputs,
    InputSettings,
    Literally,
    OutputSettings,
    Texts,
    as_input,
    check_input_names,
)
from worker.sinks.patterns import TemplateText
from worker.sinks.rest import RestClient, RestSettings, bearer_of

_TYPES = {
    LITERAL: "Literal",
    "uri_folder": "UriFolder",
    "uri_file": "UriFile",
    "mltable": "MLTable",
    "mlflow_model": "MLFlowModel",
    "custom_model": "CustomModel",
    "triton_model": "TritonModel",
}
"""From Azure ML's YAML to this API."""


class AzureMlBatchSettings(RestSettings):
    """A sink of kind `azureml_batch`."""

    ledger = "always"
    unknown_by_default = "skip"

    kind: Literal["azureml_batch"] = "azureml_batch"
    endpoint_url: CheckedUrl
    """The endpoint's scoring URI, which ends with /jobs."""
    deployment: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    """Which of the endpoint's deployments; left out: its default."""
    scope: str = Field(default="https://ml.azure.com/.default", pattern=r"^[!-~]+$")
    """What a token is asked for: Azure ML's own resource, which is not Resource Manager's."""
    inputs: dict[
        str, Annotated[InputSettings, BeforeValidator(as_input, json_schema_input_type=Literally | InputSettings)]
    ] = Field(default={})
    """By name: a literal (pipeline component deployments only), or {type, uri}."""
    outputs: dict[str, OutputSettings] = Field(default={})
    """By name: {type, uri}. What is left out goes where the service likes."""
    experiment: TemplateText | None = None
    """Under which experiment jobs stand; works for pipeline component deployments only. Left out: the
    endpoint's name."""

    @field_validator("endpoint_url")
    @classmethod
    def _of_jobs(cls, text: str) -> str:
        url = URL(text, encoded=True)
        if url.raw_path != "/jobs" or url.raw_query_string or url.raw_fragment:
            raise ValueError(
                "is no scoring URI of a batch endpoint, which ends with /jobs; write what "
                "`az ml batch-endpoint show --name NAME --query scoring_uri --output tsv` prints"
            )
        return text

    @field_validator("inputs", "outputs")
    @classmethod
    def _names(cls, given: dict[str, Any]) -> dict[str, Any]:
        check_input_names(given)
        return given

    @property
    def needs_identity(self) -> bool:
        """Always: batch endpoints have no keys."""
        return True


class AzureMlBatchSink:
    """Starts jobs over one session."""

    def __init__(
        self,
        settings: AzureMlBatchSettings,
        tokens: TokenSource | None = None,
        *,
        clock: Callable[[], float] = time.time,
        resolver: Callable[[], AbstractResolver] = aiohttp.ThreadedResolver,
    ) -> None:
        """`tokens` are needed to deliver."""
        self._url = URL(settings.endpoint_url, encoded=True)
        self._headers = {} if settings.deployment is None else {"azureml-model-deployment": settings.deployment}
        self._inputs = Inputs(settings.inputs, "inputs")
        self._outputs = Inputs(settings.outputs, "outputs")
        self._names = Texts({"experiment": settings.experiment})
        self._client = RestClient(
            settings, bearer_of(tokens, settings.scope), unclear=OutcomeUnknown, clock=clock, resolver=resolver
        )

    async def open(self) -> None:
        """Makes the session; connections come with the first deliveries."""
        await self._client.open()

    def preview(self, delivery: Delivery) -> str:
        """The deployment where one is named, and the request as JSON that can be read."""
        headers = "".join(f"{name}: {value}\n" for name, value in self._headers.items())
        job = orjson.dumps(self._job(delivery), option=orjson.OPT_INDENT_2).decode()
        return f"POST {self._url.path}\n{headers}{job}"

    async def deliver(self, delivery: Delivery) -> None:
        """Starts the job. Returns when the service has taken it."""
        reply = await self._client.request("POST", self._url, self._job(delivery), self._headers)
        if not reply.accepted:
            raise reply.refusal(unclear=OutcomeUnknown)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    def _job(self, delivery: Delivery) -> dict[str, Any]:
        job: dict[str, Any] = {}
        if inputs := self._inputs.fill(delivery):
            job["InputData"] = {name: _input(*each) for name, each in inputs.items()}
        if outputs := self._outputs.fill(delivery):
            job["OutputData"] = {
                name: {"JobOutputType": _TYPES[type_], "Uri": uri} for name, (type_, uri) in outputs.items()
            }
        if experiment := self._names.fill(delivery).get("experiment"):
            job["properties"] = {"experimentName": experiment}
        return {"properties": job}


def _input(type_: str, content: Any) -> dict[str, Any]:
    # Here a literal keeps its type: the documents show a number that is one.
    return {"JobInputType": _TYPES[type_], "Value" if type_ == LITERAL else "Uri": content}
