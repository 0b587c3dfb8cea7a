"""Online deployments as the service shows them: what serves which version, the order of versions, and what is written.

Pure: from the service's JSON to values, and back. The names of deployments are made here. What is to be done is decided
in `deployment_plan`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from worker.keys import normal_time

MODEL, VERSION, TIME, KEY, SPEC = "model", "version", "eventTime", "eventKey", "spec"
TAGS = (MODEL, VERSION, TIME, KEY, SPEC)
"""On a deployment: what it serves, by which event, and a digest of what was asked for."""
SERVED_MODEL, SERVED_VERSION, SERVED_TIME = "servedModel", "servedVersion", "servedEventTime"
"""On the endpoint: the version that was given the traffic, written together with the traffic."""

SUCCEEDED = "Succeeded"
GIVEN_UP = frozenset({"Failed", "Canceled"})
GONE = frozenset({*GIVEN_UP, "Deleting"})
"""A deployment in such a state serves nobody, and will not: it overtakes nothing. Every other state but Succeeded is
one on the way to these or to Succeeded, also a word that is not known yet."""

_NAME_CHARACTERS = 32
"""Of a deployment's name, as documented: 3 to 32 letters, digits and single dashes, the first a letter."""
_DIGEST_CHARACTERS = 8
_NUMBER = re.compile(r"[0-9]{1,100}")


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a model."""

    text: str
    time: str
    """When it was registered, in the one form that can be compared; empty where that is not known."""


class Incomparable(Exception):
    """Of two versions nobody can tell which is the newer one."""


def is_newer(one: Version, other: Version) -> bool:
    """Whether the first is newer: by number where both are whole numbers, else by the time of registration.

    Raises Incomparable.
    """
    if one.text == other.text:
        return False
    if _NUMBER.fullmatch(one.text) and _NUMBER.fullmatch(other.text) and int(one.text) != int(other.text):
        return int(one.text) > int(other.text)
    if not (one.time and other.time):
        raise Incomparable(
            f"versions {one.text} and {other.text} are not both whole numbers, and the time of registration "
            f"(tag {TIME}) is not known of both: nobody can tell which is newer"
        )
    return (one.time, one.text) > (other.time, other.text)


def deployment_name(model: str, version: str) -> str:
    """The name of a model's deployment: no two versions have the same, and each always has the same.

    MODEL-VERSION where that is a legal name and can be read back; else as much of it as there is room for, in legal
    characters, and a digest of the two. A version that looks like such a digest is treated as one that is not legal.
    """
    plain = f"{model}-{version}"
    legal = re.fullmatch(r"[a-z](?:-?[a-z0-9])*-[a-z0-9]+", plain) is not None and "-" not in version
    if legal and len(plain) <= _NAME_CHARACTERS and not re.fullmatch(rf"[0-9a-f]{{{_DIGEST_CHARACTERS}}}", version):
        return plain
    digest = sha256(f"{model}\n{version}".encode()).hexdigest()[:_DIGEST_CHARACTERS]
    tail = f"{_slug(version)[:10].strip('-')}-{digest}".lstrip("-")
    head = _slug(model)
    head = head if head[:1].isalpha() else f"m-{head}".rstrip("-")
    return f"{head[: _NAME_CHARACTERS - len(tail) - 1].rstrip('-')}-{tail}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment as the service shows it."""

    name: str
    state: str
    model: str | None
    """None: it is not known what it serves."""
    version: Version
    key: str
    spec: str

    @property
    def is_gone(self) -> bool:
        """Whether it serves nobody, and will not."""
        return self.state in GONE


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint as the service shows it, with its deployments."""

    name: str
    state: str
    location: str
    traffic: Mapping[str, int]
    """Only what gets some."""
    served_model: str
    served: Version
    deployments: Sequence[Deployment]


def read_endpoint(
    name: str, resource: Mapping[str, Any], deployments: Sequence[Mapping[str, Any]], workspace: str
) -> Endpoint:
    """An endpoint and its deployments from the service's JSON."""
    properties, tags = _mapping(resource.get("properties")), _mapping(resource.get("tags"))
    traffic = _mapping(properties.get("traffic"))
    return Endpoint(
        name=name,
        state=_text(properties.get("provisioningState")),
        location=_text(resource.get("location")),
        traffic={each: share for each, share in traffic.items() if isinstance(share, int) and share},
        served_model=_text(tags.get(SERVED_MODEL)),
        served=Version(_text(tags.get(SERVED_VERSION)), comparable(_text(tags.get(SERVED_TIME)))),
        deployments=[read_deployment(each, workspace) for each in deployments],
    )


def read_deployment(resource: Mapping[str, Any], workspace: str) -> Deployment:
    """A deployment from the service's JSON: what it serves stands in its tags, else in the id of its model.

    Tags also stay when somebody gives the deployment another model, and go with a copy of it: an id of the workspace
    that names another version is right, and the tags are not.
    """
    properties, tags = _mapping(resource.get("properties")), _mapping(resource.get("tags"))
    model, version = _text(tags.get(MODEL)), _text(tags.get(VERSION))
    time = comparable(_text(tags.get(TIME)))
    by_id = _of_asset(_text(properties.get("model")), workspace)
    if not (model and version):
        model, version = by_id
    elif by_id[1] and [each.lower() for each in by_id] != [model.lower(), version.lower()]:
        (model, version), time = by_id, ""
    return Deployment(
        name=_text(resource.get("name")),
        state=_text(properties.get("provisioningState")),
        model=model or None,
        version=Version(version, time),
        key=_text(tags.get(KEY)),
        spec=_text(tags.get(SPEC)),
    )


def comparable(time: str) -> str:
    """A time in the form that can be compared; empty where it is none."""
    return normal_time(time) or "" if time else ""


def endpoint_body(resource: Mapping[str, Any], to: Deployment) -> dict[str, Any]:
    """The endpoint as it was read, with all its traffic on one deployment: a PUT replaces all that it leaves out."""
    properties = {
        name: value
        for name, value in _mapping(resource.get("properties")).items()
        if name not in {"provisioningState", "scoringUri", "swaggerUri", "keys"}
    }
    properties["traffic"] = {to.name: 100}
    mirrored = {name: share for name, share in _mapping(properties.get("mirrorTraffic")).items() if name != to.name}
    if "mirrorTraffic" in properties:
        properties["mirrorTraffic"] = mirrored
    body = {name: resource[name] for name in ("location", "kind", "sku") if resource.get(name) is not None}
    served = {SERVED_MODEL: to.model, SERVED_VERSION: to.version.text, SERVED_TIME: to.version.time}
    kept = {name: value for name, value in _mapping(resource.get("tags")).items() if name not in served}
    body |= {"tags": kept | {name: value for name, value in served.items() if value}, "properties": properties}
    if identity := _mapping(resource.get("identity")):
        body["identity"] = {"type": identity.get("type")}
        if assigned := _mapping(identity.get("userAssignedIdentities")):
            body["identity"]["userAssignedIdentities"] = {name: {} for name in assigned}
    return body


def _of_asset(model_id: str, workspace: str) -> tuple[str, str]:
    """Model and version, of a model of this workspace; else of another model, under its whole id."""
    beginning, name_and_version = model_id[: len(workspace)], model_id[len(workspace) :]
    found = re.fullmatch(r"/models/([^/]+)/versions/([^/]+)", name_and_version)
    if beginning.lower() == workspace.lower() and found:
        return found[1], found[2]
    return model_id, ""


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
