"""The Data Factory sink: starts a run of a pipeline, through Azure Resource Manager.

Data Factory cannot tell a repetition: each request starts a run. So this is a sink for the ledger, the idempotency key
goes with the run as a parameter, and where an outcome is unknown the runs are searched for it (`datafactory_runs`). A
delivery is accepted when the run has an id; how the run ends is the pipeline's affair.
"""

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any, Literal, Self
from urllib.parse import quote

import aiohttp
import orjson
import structlog
from aiohttp.abc import AbstractResolver
from pydantic import Field, field_validator, model_validator
from yarl import URL

from worker.errors import Misconfigured, OutcomeUnknown, Rejected, SinkUnavailable, WorkerError
from worker.sinks import Delivery, TokenSource
from worker.sinks.datafactory_runs import REMEMBERED_SECONDS, Trace, Window, question, runs_of, traces_in, verdict
from worker.sinks.patterns import Pattern, TemplateValue
from worker.sinks.rest import ArmSettings, Reply, RestClient, bearer_of
from worker.sinks.runs import tried_since

_log = structlog.get_logger()

_FACTORY = re.compile(
    r"/subscriptions/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/resourceGroups/[-\w.()]{1,90}"
    r"/providers/Microsoft\.DataFactory/factories/(?=[A-Za-z0-9-]{3,63}$)[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*",
    re.IGNORECASE,
)
_SETUP_CODES = frozenset({"MissingSubscriptionRegistration", "NoRegisteredProviderFound", "InvalidApiVersionParameter"})
"""What Resource Manager answers 400 and 409 with where the subscription or the version is wrong, not the event."""
_MOST_PAGES = 50
"""Of runs that are looked at for one delivery; a page holds about a hundred."""


class DataFactorySettings(ArmSettings):
    """A sink of kind `datafactory`."""

    ledger = "always"
    verifies = True
    unknown_by_default = "verify"

    kind: Literal["datafactory"] = "datafactory"
    factory: str
    """The factory's whole ARM id."""
    pipeline: str = Field(max_length=260)
    """The pipeline's name."""
    parameters: dict[str, TemplateValue] = Field(default_factory=dict)
    """The run's parameters, of any type of JSON; texts may be templates. One that the pipeline declares without a
    default must stand here."""
    event_key_parameter: str = Field(default="eventKey", pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    """The parameter that gets the idempotency key. The pipeline must declare it, as a String."""
    settles_seconds: float = Field(default=120, ge=0, le=3600)
    """verify: how long after an attempt a run may have been started and not be listed. How late runs are listed is
    documented nowhere, and a request whose answer was lost may still be worked on for a while. Who asks too soon starts
    twice; a start that much later is cheaper than two."""
    api_version: str = Field(default="2018-06-01", pattern=r"^[0-9A-Za-z.-]+$")
    """The only one that there is so far."""

    @field_validator("factory")
    @classmethod
    def _whole_id(cls, text: str) -> str:
        if not _FACTORY.fullmatch(text):
            raise ValueError(
                "is no ARM id of a factory; write /subscriptions/…/resourceGroups/…/providers/Microsoft.DataFactory/"
                "factories/NAME, as `az datafactory show --query id` prints it"
            )
        return text

    @field_validator("pipeline")
    @classmethod
    def _name_alone(cls, text: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_][^<>*#.%&:\\+?/]*", text):
            raise ValueError("is no name of a pipeline; write the name alone, as Data Factory Studio shows it")
        return text

    @model_validator(mode="after")
    def _key_is_ours(self) -> Self:
        own = self.event_key_parameter
        if found := [name for name in self.parameters if name.casefold() == own.casefold()]:
            raise ValueError(
                f"parameters.{found[0]}: gets the idempotency key from the sink; remove it, or name another parameter "
                "in event_key_parameter"
            )
        return self


class DataFactorySink:
    """Starts runs over one session."""

    def __init__(
        self,
        settings: DataFactorySettings,
        tokens: TokenSource | None = None,
        *,
        clock: Callable[[], float] = time.time,
        resolver: Callable[[], AbstractResolver] = aiohttp.ThreadedResolver,
    ) -> None:
        """`tokens` are needed to deliver."""
        self._settings = settings
        self._who = f"sink {settings.name}"
        self._parameters = Pattern(settings.parameters, "parameters")
        self._client = RestClient(
            settings, bearer_of(tokens, settings.token_scope), unclear=OutcomeUnknown, clock=clock, resolver=resolver
        )
        self._clock = clock
        self._warned: set[str] = set()

    async def open(self) -> None:
        """Makes the session; connections come with the first deliveries."""
        await self._client.open()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    def preview(self, delivery: Delivery) -> str:
        """The request's path, and the run's parameters as JSON that can be read."""
        parameters = orjson.dumps(self._body(delivery), option=orjson.OPT_INDENT_2).decode()
        return f"POST {self._create_url.path}\n{parameters}"

    async def deliver(self, delivery: Delivery) -> None:
        """Asks for a run, once. Returns when Data Factory has given it an id."""
        reply = await self._client.request("POST", self._create_url, self._body(delivery))
        if not reply.accepted:
            raise _refusal(reply)
        run_id = reply.fields.get("runId")
        if not isinstance(run_id, str) or not run_id:
            raise OutcomeUnknown(f"{reply.said}; there is no id of a run in it")
        _log.debug(
            "pipeline run started",
            sink=self._settings.name,
            pipeline=self._settings.pipeline,
            run_id=run_id,
            event_key=delivery.idempotency_key,
        )

    async def verify(self, delivery: Delivery) -> bool | None:
        """Whether a run has the delivery's key. None where that cannot be told, which is said in words once."""
        window = Window.since(tried_since(delivery), self._clock())
        try:
            async with asyncio.timeout(self._settings.attempt_seconds):
                return self._judge(await self._traces(delivery, window), window)
        except TimeoutError:
            self._say("the list of its runs did not come in time")
        except _CannotTell as problem:
            self._say(problem.reason, problem.detail)
        return None

    def _judge(self, traces: set[Trace], window: Window) -> bool:
        found = verdict(traces)
        if found is None:
            raise _CannotTell(
                f"there are runs that show no key in the parameter {self._settings.event_key_parameter}; declare it in "
                "the pipeline, as a String, and give it some key in runs that are started by hand"
            )
        if not found and not window.is_remembered:
            days = REMEMBERED_SECONDS / 86_400
            raise _CannotTell(f"an event is older than the {days:.0f} days for which Data Factory remembers runs")
        return found

    async def _traces(self, delivery: Delivery, window: Window) -> set[Trace]:
        """What the runs of the window say: all of them, or those up to one that is ours."""
        # A pipeline is found by its name in any case. Whether its runs are is documented nowhere: where there are none
        # by that name, it may be another spelling than the factory's.
        return await self._listed(delivery, window, self._settings.pipeline) or await self._listed(delivery, window)

    async def _listed(self, delivery: Delivery, window: Window, filtered_by: str | None = None) -> set[Trace]:
        parameter, pipeline = self._settings.event_key_parameter, self._settings.pipeline
        traces: set[Trace] = set()
        continuation: str | None = None
        for _ in range(_MOST_PAGES):
            reply = await self._client.request("POST", self._query_url, question(filtered_by, window, continuation))
            runs = runs_of(pipeline, _runs(reply))
            traces |= traces_in(runs, key=delivery.idempotency_key, parameter=parameter, window=window)
            continuation = reply.fields.get("continuationToken")
            if not continuation or Trace.OURS in traces:
                return traces
        raise _CannotTell(f"there are more than {_MOST_PAGES} pages of runs since an event came")

    def _say(self, reason: str, detail: str = "") -> None:
        if reason not in self._warned:
            self._warned.add(reason)
            _log.warning(
                "cannot tell whether a pipeline was started",
                sink=self._settings.name,
                pipeline=self._settings.pipeline,
                reason=reason,
                detail=detail,
            )

    def _body(self, delivery: Delivery) -> dict[str, Any]:
        return {**self._parameters.fill(delivery), self._settings.event_key_parameter: delivery.idempotency_key}

    @property
    def _create_url(self) -> URL:
        return self._url(f"/pipelines/{quote(self._settings.pipeline, safe='')}/createRun")

    @property
    def _query_url(self) -> URL:
        return self._url("/queryPipelineRuns")

    def _url(self, action: str) -> URL:
        settings = self._settings
        path = f"{quote(settings.factory)}{action}?api-version={settings.api_version}"
        return URL(settings.management_url + path, encoded=True)


class _CannotTell(Exception):
    """The runs do not say whether one is ours."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = reason
        """Always the same words for the same reason."""
        self.detail = detail
        super().__init__(reason)


def _refusal(reply: Reply) -> WorkerError:
    code = reply.error_code
    if reply.status in {400, 409} and (code in _SETUP_CODES or code.endswith("NotFound")):
        return Misconfigured(reply.said)
    return reply.refusal(unclear=OutcomeUnknown)


def _runs(reply: Reply) -> list[Any]:
    """The runs of one page. Raises SinkUnavailable, Misconfigured or _CannotTell."""
    if not reply.accepted:
        problem = reply.refusal(unclear=SinkUnavailable)
        if isinstance(problem, Rejected):
            raise _CannotTell("Data Factory refuses the question for its runs", reply.said)
        raise problem
    runs = reply.fields.get("value")
    if not isinstance(runs, list):
        raise _CannotTell("Data Factory answers with something that is no list of runs", reply.said)
    return runs
