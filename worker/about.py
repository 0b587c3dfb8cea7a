"""What an event is about, in words: severity, state of a run, experiment, model, title, and where to look further.

Pure. Every text is one line without control characters and of bounded length, whatever the event holds; escaping for
HTML or markdown is the work of who writes that. What Azure ML's events hold is said in "Azure Machine Learning as an
Event Grid source"; their keys come in any case. Links are those that the studio itself gives out.
"""

import re
from enum import StrEnum
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import quote

from worker.events import MISSED_TYPE, Event
from worker.keys import look_up, normal_time

TITLE_CHARACTERS = 200
VALUE_CHARACTERS = 500
TIME_CHARACTERS = 40
_TAG_CHARACTERS = 60
_TAGS = 8

_ML = "microsoft.machinelearningservices."
WORKSPACE = re.compile(
    r"/subscriptions/[^/]+/resourcegroups/[^/]+/providers/microsoft\.machinelearningservices/workspaces/([^/]+)/?",
    re.IGNORECASE,
)
_ARM_ID = re.compile(r"/subscriptions/[0-9a-z-]+(/[^\s?#]*)?", re.IGNORECASE)
_RUN = re.compile(r"/?experiments/([^/]+)/runs/([^/]+)", re.IGNORECASE)
_MODEL = re.compile(r"/?models/(.+):([^:/]+)", re.IGNORECASE)
_ENDPOINT = re.compile(r"/?endpoints/([^/]+)", re.IGNORECASE)


class Severity(StrEnum):
    """How much an event matters, the least first."""

    INFO = "info"
    SUCCESS = "success"
    WARNING = "warning"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """To compare by: a higher one matters more."""
        return list(Severity).index(self)


SEVERITIES = {
    "information": Severity.INFO,
    "informational": Severity.INFO,
    "ok": Severity.SUCCESS,
    "warn": Severity.WARNING,
    "critical": Severity.ERROR,
    "fatal": Severity.ERROR,
    **{each.value: each for each in Severity},
}
_OF_STATE = {
    "completed": Severity.SUCCESS,
    "failed": Severity.ERROR,
    "notresponding": Severity.ERROR,
    "canceled": Severity.WARNING,
    "cancelrequested": Severity.WARNING,
}
_OF_TYPE = {
    f"{_ML}runcompleted": Severity.SUCCESS,
    f"{_ML}modelregistered": Severity.SUCCESS,
    f"{_ML}modeldeployed": Severity.SUCCESS,
    f"{_ML}datasetdriftdetected": Severity.WARNING,
    MISSED_TYPE.casefold(): Severity.WARNING,
}


class Link(NamedTuple):
    """Where to look further."""

    text: str
    url: str
    """https, percent-encoded."""


def severity_of(event: Event) -> Severity:
    """What the event says of itself (`data.severity`), else what its type and a run's state mean."""
    own = value_of(event, "severity").casefold()
    if own in SEVERITIES:
        return SEVERITIES[own]
    by_type = _OF_TYPE.get(event.type.casefold(), Severity.INFO)
    return _OF_STATE.get(state_of(event).casefold(), by_type)


def state_of(event: Event) -> str:
    """Of a run, how it stands; else empty."""
    if event.type.casefold() == f"{_ML}runcompleted":
        return "Completed"
    state = value_of(event, "runStatus")
    return state[:1].upper() + state[1:]


def experiment_of(event: Event) -> str:
    """The experiment a run belongs to: its name, else its id; empty where there is none."""
    found = _RUN.match(event.subject or "")
    return value_of(event, "experimentName") or value_of(event, "experimentId") or (line(found[1]) if found else "")


def model_of(event: Event) -> str:
    """The model an event is about, without its version; empty where there is none. Of a deployment: its models."""
    found = _MODEL.match(event.subject or "")
    return value_of(event, "modelName") or (line(found[1]) if found else value_of(event, "modelIds"))


def title_of(event: Event) -> str:
    """One line that tells what happened to what."""
    about = _about(event) or _expected(event) or line(event.subject or "(no subject)", TITLE_CHARACTERS)
    return line(f"{what(event.type, state_of(event))}: {about}", TITLE_CHARACTERS)


def link_of(event: Event) -> Link | None:
    """The run, model or endpoint in Azure ML's studio, else the workspace, else the resource in the portal."""
    source = (value_of(event, "source") if event.type == MISSED_TYPE else event.source or "").rstrip("/")
    workspace = WORKSPACE.fullmatch(source)
    if workspace is None:
        if not _ARM_ID.fullmatch(source):
            return None
        return Link("Open in the portal", f"https://portal.azure.com/#resource{_quoted(source, safe='/')}")
    subject = event.subject or ""
    wsid = f"wsid={_quoted(source, safe='/')}"
    if run := _RUN.match(subject):
        return Link("Open the run", f"https://ml.azure.com/runs/{_quoted(run[2])}?{wsid}")
    if model := _MODEL.match(subject):
        name = f"{_quoted(model[1])}:{_quoted(model[2])}"
        return Link("Open the model", f"https://ml.azure.com/model/{name}/details?{wsid}")
    if endpoint := _ENDPOINT.match(subject):
        return Link("Open the endpoint", f"https://ml.azure.com/endpoints/realtime/{_quoted(endpoint[1])}?{wsid}")
    return workspace_link(source)


def workspace_link(source: str) -> Link | None:
    """The workspace in the studio; None where the source is no workspace."""
    if not WORKSPACE.fullmatch(source):
        return None
    return Link("Open the workspace", f"https://ml.azure.com/home?wsid={_quoted(source, safe='/')}")


def _quoted(text: str, *, safe: str = "") -> str:
    return quote(text[:VALUE_CHARACTERS], safe=safe)


def value_of(event: Event, name: str) -> str:
    """A value of `data` as one line, its key in any case; empty where it is missing, or no text and no number."""
    value = look_up(event.data, name) if isinstance(event.data, dict) else None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return line(str(value), VALUE_CHARACTERS)


def line(text: str, characters: int = VALUE_CHARACTERS) -> str:
    """The text as one line without control characters (right-to-left marks are some), cut where it is too long."""
    folded = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * characters]).split())
    return folded if len(folded) <= characters else f"{folded[: characters - 1]}…"


def moment(text: str) -> str:
    """A time as people read it, in UTC and without fractions; what is none, as it came."""
    normal = normal_time(text)
    return f"{normal[:10]} {normal[11:19]} UTC" if normal else line(text, TIME_CHARACTERS)


def what(event_type: str, state: str) -> str:
    """What happened, without to what: `Run Failed`, `Model registered`; else the last part of the type."""
    last = event_type.rpartition(".")[2]
    if event_type == MISSED_TYPE:
        return "Expectation missed"
    known = {
        "runcompleted": "Run Completed",
        "runstatuschanged": f"Run {state}" if state else "Run changed",
        "modelregistered": "Model registered",
        "modeldeployed": "Model deployed",
        "datasetdriftdetected": "Data drift detected",
    }
    is_ml = event_type.casefold().startswith(_ML)
    return known.get(last.casefold(), last) if is_ml else line(f"{last} {state}".rstrip(), TITLE_CHARACTERS)


def _about(event: Event) -> str:
    """What the event is about in the words of its service; empty where only the subject can say."""
    if not event.type.casefold().startswith(_ML):
        return ""
    run = value_of(event, "runId")
    match event.type.casefold().removeprefix(_ML):
        case "runstatuschanged" | "runcompleted":
            return " / ".join(filter(None, (experiment_of(event), run)))
        case "modelregistered":
            return ":".join(filter(None, (model_of(event), value_of(event, "modelVersion"))))
        case "modeldeployed":
            return value_of(event, "serviceName")
        case "datasetdriftdetected":
            return value_of(event, "dataDriftName")
        case _:
            return ""


def _expected(event: Event) -> str:
    """Which expectation was missed, and of what; empty for other events."""
    if event.type != MISSED_TYPE:
        return ""
    return ", ".join(filter(None, (value_of(event, "rule"), value_of(event, "key") or value_of(event, "source"))))


def expectation_of(event: Event) -> tuple[tuple[str, str], ...]:
    """Names and values that say what was expected and did not come; none for other events."""
    if event.type != MISSED_TYPE:
        return ()
    names = (
        ("Expectation", "rule"),
        ("Within", "within"),
        ("Every", "every"),
        ("Key", "key"),
        ("Last seen", "last_seen"),
        ("Due", "due"),
    )
    first = look_up(event.data, "after") if isinstance(event.data, dict) else None
    kind = look_up(first, "eventType") or look_up(first, "type") if isinstance(first, dict) else None
    facts = [(shown, value_of(event, name)) for shown, name in names]
    facts.append(("First event", line(kind) if isinstance(kind, str) else ""))
    facts.append(("Of", value_of(event, "source")))
    return tuple(facts)


def place_of(event: Event) -> str:
    """Where it happened: the workspace by its name, else the source; empty where there is none."""
    workspace = WORKSPACE.fullmatch(event.source or "")
    return f"workspace {line(workspace[1])}" if workspace else line(event.source or "")


def tags_of(event: Event) -> str:
    """The first tags of a run, model or service as `key=value, …`; empty where there are none."""
    fields: dict[str, Any] = event.data if isinstance(event.data, dict) else {}
    for name in ("runTags", "modelTags", "serviceTags"):
        tags = look_up(fields, name)
        if isinstance(tags, dict) and tags:
            shown = ", ".join(f"{_tag(key)}={_tag(value)}" for key, value in islice(tags.items(), _TAGS))
            return line(f"{shown}, …" if len(tags) > _TAGS else shown)
    return ""


def _tag(part: object) -> str:
    return line(str(part), _TAG_CHARACTERS)
