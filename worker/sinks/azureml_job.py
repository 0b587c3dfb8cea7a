"""The azureml_job sink: starts a pipeline job in an Azure ML workspace, one for each event, by Resource Manager.

The job's name is made from the idempotency key, and creating is a PUT under that name: a second one finds the job that
the first one made, and starts nothing. So this kind needs no ledger. Whatever happens to a request or a process, the
same PUT is made again, at most one job can come of it, and the answer to the last one says that it is there. An end
that leaves open what happened is therefore nothing to decide about: it is tried again like a server that is down.

What the service says to a second PUT depends on what has changed: 200 where nothing has, and 400 where a thing has that
cannot be changed of a job, as after an operator has edited the inputs. So a 400 or 409 is followed by the question
whose job it is: the tag `eventKey` holds the whole idempotency key, of which the name has the first half. A job of
somebody else's is not taken for this event's. (One with this name, and this component and these inputs as well, would
be, because the 200 has set its tags already; 128 bits of a hash keep that from happening by accident.)
"""

import time
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver
from pydantic import BeforeValidator, Field, field_validator, model_validator
from yarl import URL

from worker.errors import Rejected, SinkUnavailable
from worker.settings import one_of
from worker.sinks import Delivery, TokenSource
from worker.sinks.azureml import (
    LITERAL,
    ComponentId,
    ComputeId,
    Inputs,
    InputSettings,
    JobId,
    Literally,
    Texts,
    WorkspaceId,
    as_input,
    as_text,
    check_input_names,
    check_within,
)
from worker.sinks.patterns import TemplateText
from worker.sinks.rest import ArmSettings, Reply, RestClient, bearer_of, short_key

EVENT_KEY = "eventKey"
"""The tag that says of which event a job is."""
_NAMES = {"experiment": "experimentName", "display_name": "displayName"}
"""From keys to fields of the API."""
_MODES = {
    "ro_mount": "ReadOnlyMount",
    "rw_mount": "ReadWriteMount",
    "download": "Download",
    "direct": "Direct",
    "eval_mount": "EvalMount",
    "eval_download": "EvalDownload",
}
"""From Azure ML's YAML to its API."""


class JobInputSettings(InputSettings):
    """One input of a job."""

    mode: Literal["ro_mount", "rw_mount", "download", "direct", "eval_mount", "eval_download"] | None = None
    """Data: how it comes to the machine; left out: as the component says."""

    @model_validator(mode="after")
    def _only_of_data(self) -> Self:
        if self.type == LITERAL and self.mode is not None:
            raise ValueError("mode is for data; remove it from a literal")
        return self


class AzureMlJobSettings(ArmSettings):
    """A sink of kind `azureml_job`."""

    requests_per_attempt = 2  # the PUT, and the question whose job it is

    needs_one_of = (("component", "source_job"),)

    kind: Literal["azureml_job"] = "azureml_job"
    workspace: WorkspaceId
    """Where jobs are started: the whole id."""
    component: ComponentId | None = None
    """What is run: the id of a version of a pipeline component of the workspace, or of a registry."""
    source_job: JobId | None = None
    """Instead of a component: the id of a pipeline job that is run again, with these inputs."""
    experiment: TemplateText | None = None
    """Under which experiment jobs stand; left out: Default."""
    display_name: TemplateText | None = None
    """What people see in the studio; left out: the service makes up one."""
    inputs: dict[
        str, Annotated[JobInputSettings, BeforeValidator(as_input, json_schema_input_type=Literally | JobInputSettings)]
    ] = Field(default={})
    """By name: a literal, or {type, uri, mode}."""
    tags: dict[str, TemplateText] = Field(default={})
    """By name. `eventKey` is added to them."""
    properties: dict[str, TemplateText] = Field(default={})
    """By name; what tags are for people, these are for programs: they cannot be removed from a job again."""
    compute: ComputeId | None = None
    """Where steps run that name no compute of their own: the whole id."""
    api_version: str = Field(default="2025-12-01", pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(-preview)?$")
    """Of the service's API. The one that the vendor's generated client has by default."""

    @field_validator("inputs")
    @classmethod
    def _names(cls, inputs: dict[str, JobInputSettings]) -> dict[str, JobInputSettings]:
        check_input_names(inputs)
        return inputs

    @field_validator("tags")
    @classmethod
    def _own_tag(cls, tags: dict[str, str]) -> dict[str, str]:
        if any(name.casefold() == EVENT_KEY.casefold() for name in tags):
            raise ValueError(
                f"{EVENT_KEY} is the worker's own tag, which says of which event a job is; use another name"
            )
        return tags

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        one_of(dict(self), *self.needs_one_of[0])
        for key in ("component", "source_job", "compute"):
            if resource := getattr(self, key):
                try:
                    check_within(self.workspace, resource)
                except ValueError as error:
                    raise ValueError(f"{key} {error}") from None
        return self


class AzureMlJobSink:
    """Starts jobs over one session."""

    def __init__(
        self,
        settings: AzureMlJobSettings,
        tokens: TokenSource | None = None,
        *,
        clock: Callable[[], float] = time.time,
        resolver: Callable[[], AbstractResolver] = aiohttp.ThreadedResolver,
    ) -> None:
        """`tokens` are needed to deliver."""
        self._settings = settings
        self._inputs = Inputs(settings.inputs, "inputs")
        self._tags = Texts(settings.tags, "tags")
        self._properties = Texts(settings.properties, "properties")
        self._names = Texts({name: getattr(settings, name) for name in _NAMES})
        self._client = RestClient(
            settings, bearer_of(tokens, settings.token_scope), unclear=SinkUnavailable, clock=clock, resolver=resolver
        )

    async def open(self) -> None:
        """Makes the session; connections come with the first deliveries."""
        await self._client.open()

    def preview(self, delivery: Delivery) -> str:
        """The job's address, and the job as JSON that can be read."""
        job = orjson.dumps(self._job(delivery), option=orjson.OPT_INDENT_2).decode()
        return f"PUT {self._url(delivery).path}\n{job}"

    async def deliver(self, delivery: Delivery) -> None:
        """Creates the job. Returns when it is there, from now or from before."""
        url = self._url(delivery)
        reply = await self._client.request("PUT", url, self._job(delivery))
        if reply.accepted:
            if _event_key(reply) not in {None, delivery.idempotency_key}:
                raise Rejected(_not_ours(reply))
        elif reply.status in {400, 409}:
            await self._check_ours(url, delivery, reply)
        else:
            raise reply.refusal(unclear=SinkUnavailable)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def _check_ours(self, url: URL, delivery: Delivery, refused: Reply) -> None:
        """Raises unless the job was refused because it is there already.

        Which code the service gives to such a refusal is not documented; so every 400 and 409 is followed by the
        question.
        """
        found = await self._client.request("GET", url)
        if found.status == 404:
            if _says_it_is_there(refused):  # another PUT is under way, or the service has not yet noticed what it has
                raise SinkUnavailable(f"{refused.said}; asked for the job, it knows none")
            raise Rejected(refused.said)
        if not found.accepted:
            raise found.refusal(unclear=SinkUnavailable)
        if not found.fields:  # cut on its way: it says nothing about whose job that is
            raise SinkUnavailable(f"{found.said}, which is no job")
        if _event_key(found) != delivery.idempotency_key:
            raise Rejected(_not_ours(refused))

    def _url(self, delivery: Delivery) -> URL:
        settings = self._settings
        url = URL(f"{settings.management_url}{settings.workspace}/jobs/{short_key(delivery)}")
        return url.with_query({"api-version": settings.api_version})

    def _job(self, delivery: Delivery) -> dict[str, Any]:
        settings = self._settings
        job: dict[str, Any] = {"jobType": "Pipeline"}
        if settings.component is not None:
            job["componentId"] = settings.component
        else:
            job["sourceJobId"] = settings.source_job
        job |= {_NAMES[name]: text for name, text in self._names.fill(delivery).items()}
        if inputs := self._inputs.fill(delivery):
            job["inputs"] = {name: self._input(name, *each) for name, each in inputs.items()}
        if settings.compute is not None:
            job["settings"] = {"default_compute": settings.compute}
        job["tags"] = {**self._tags.fill(delivery), EVENT_KEY: delivery.idempotency_key}
        if properties := self._properties.fill(delivery):
            job["properties"] = properties
        return {"properties": job}

    def _input(self, name: str, type_: str, content: Any) -> dict[str, str]:
        if type_ == LITERAL:
            return {"jobInputType": LITERAL, "value": as_text(content)}
        mode = self._settings.inputs[name].mode
        return {"jobInputType": type_, "uri": content} | ({"mode": _MODES[mode]} if mode else {})


def _says_it_is_there(reply: Reply) -> bool:
    return reply.status == 409 or any(
        word in reply.answer.body for word in (b"JobPropertyImmutable", b"already exists")
    )


def _event_key(reply: Reply) -> str | None:
    """Of which event a job says that it is; None where it does not."""
    job = reply.fields.get("properties")
    tags = job.get("tags") if isinstance(job, dict) else None
    key = tags.get(EVENT_KEY) if isinstance(tags, dict) else None
    return key if isinstance(key, str) else None


def _not_ours(reply: Reply) -> str:
    return (
        f"{reply.said}; a job of this name is there, and its tag {EVENT_KEY} does not name this event: look whose it "
        "is, and replay the event when it is deleted"
    )
