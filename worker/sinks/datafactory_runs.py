"""Which runs of a pipeline tell what became of a delivery: what is asked of Data Factory, and what its answers mean.

Pure: it asks nobody and reads no clock. A run is recognised by the idempotency key in one of its parameters; Data
Factory cannot search for that, so all runs of the pipeline since the event came are looked at.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

_AHEAD_SECONDS = 86_400.0
"""How far this machine's clock may be behind that of Data Factory: a run that is past the window's end is not listed,
and would be started again. Nothing is lost by asking for what is to come."""
REMEMBERED_SECONDS = 45 * 86_400.0
"""How long Data Factory keeps runs, as its documentation says."""
_KEY = re.compile(r"[0-9a-f]{64}")
"""An idempotency key, of whatever event."""
_BY_HAND = "manual"
"""How Data Factory names who started a run that was asked for by its API, as ours are, or by a person."""


@dataclass(frozen=True, slots=True)
class Window:
    """The time in which a run can have been started and updated that belongs to a delivery; Unix time."""

    begins: float
    ends: float

    @classmethod
    def since(cls, tried: float, now: float) -> "Window":
        """From before the first attempt that there can have been (`runs.tried_since`)."""
        return cls(max(tried, 0.0), now + _AHEAD_SECONDS)

    @property
    def is_remembered(self) -> bool:
        """Whether Data Factory still knows all of it."""
        return self.ends - _AHEAD_SECONDS - self.begins < REMEMBERED_SECONDS


def question(pipeline: str | None, window: Window, continuation: str | None) -> dict[str, Any]:
    """The body of a request for one page of the pipeline's runs, the newest first; None: of the whole factory's."""
    asked: dict[str, Any] = {
        "lastUpdatedAfter": _time(window.begins),
        "lastUpdatedBefore": _time(window.ends),
        # An order that does not change while runs go on: a page must not lose one to the page before.
        "orderBy": [{"orderBy": "RunStart", "order": "DESC"}],
    }
    if pipeline is not None:
        asked["filters"] = [{"operand": "PipelineName", "operator": "Equals", "values": [pipeline]}]
    return asked if continuation is None else {**asked, "continuationToken": continuation}


def runs_of(pipeline: str, runs: Iterable[Any]) -> list[Any]:
    """Those that are not another pipeline's; names are the same in any case."""
    return [run for run in runs if not _is_another(pipeline, run)]


def _is_another(pipeline: str, run: Any) -> bool:
    name = run.get("pipelineName") if isinstance(run, Mapping) else None
    return isinstance(name, str) and name.casefold() != pipeline.casefold()


class Trace(StrEnum):
    """What one run says about a delivery."""

    OURS = "ours"
    ANOTHERS = "another's"
    HIDDEN = "hidden"
    """It may be ours: it was started by hand or by the API, and shows no key."""
    SILENT = "silent"
    """It cannot be ours, and does not have the parameter."""


def traces_in(runs: Iterable[Any], *, key: str, parameter: str, window: Window) -> set[Trace]:
    """What these runs say. How one stands does not matter: it waits, it failed, it was cancelled, it was started."""
    return {_trace(run, key=key, parameter=parameter, window=window) for run in runs}


def verdict(traces: Collection[Trace]) -> bool | None:
    """Whether the delivery started one of all these runs; None: they do not tell."""
    if Trace.OURS in traces:
        return True
    if Trace.HIDDEN in traces:
        return None
    # Where no run at all has the parameter the pipeline does not declare it: then no run of ours would show its key.
    return None if traces and Trace.ANOTHERS not in traces else False


def _trace(run: Any, *, key: str, parameter: str, window: Window) -> Trace:
    if not isinstance(run, Mapping):
        return Trace.HIDDEN
    shown = _parameter(run, parameter)
    if shown == key:  # a rerun has the parameters of the run before: that one was ours, then
        return Trace.OURS
    if isinstance(shown, str) and _KEY.fullmatch(shown):
        return Trace.ANOTHERS
    # No key: the pipeline does not declare the parameter, or hides it (SecureString), or nobody gave a key.
    if _may_be_ours(run, window):
        return Trace.HIDDEN
    return Trace.SILENT if shown is None else Trace.ANOTHERS


def _may_be_ours(run: Mapping[str, Any], window: Window) -> bool:
    invoked_by = run.get("invokedBy")
    if isinstance(invoked_by, Mapping):
        by = invoked_by.get("invokedByType") or invoked_by.get("name")
        if isinstance(by, str) and by.casefold() != _BY_HAND:
            return False  # a trigger, or another pipeline
    started = _read_time(run.get("runStart"))
    return started is None or started >= window.begins


def _parameter(run: Mapping[str, Any], name: str) -> Any:
    parameters = run.get("parameters")
    if not isinstance(parameters, Mapping):
        return None
    if name in parameters:
        return parameters[name]
    return next((value for each, value in parameters.items() if each.casefold() == name.casefold()), None)


def _time(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _read_time(text: Any) -> float | None:
    """Unix time; None where there is none, or it cannot be read."""
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
