"""ARM ids on the command line: what each must be the id of, and what is said when it is not. Pure."""

import re
from dataclasses import dataclass

_SUBSCRIPTION = r"/subscriptions/(?P<subscription>[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})"
_GROUP = r"/resourceGroups/(?P<group>[\w.()-]{1,90})"
_PROVIDER = r"/providers/(?P<provider>[A-Za-z][\w.]*)(?P<path>(?:/\w+/[\w.$()-]+)+)"
_is_resource = re.compile(rf"{_SUBSCRIPTION}(?:{_GROUP}(?:{_PROVIDER})?)?", re.IGNORECASE | re.ASCII).fullmatch


@dataclass(frozen=True, slots=True)
class Resource:
    """What an ARM id says."""

    id: str
    subscription: str
    group: str | None
    """None for a whole Azure subscription."""
    kind: str
    """In lower case, such as `microsoft.storage/storageaccounts`; empty for a subscription or a resource group."""
    names: tuple[str, ...]
    """From the outside to the inside."""

    @property
    def name(self) -> str:
        """The innermost."""
        return self.names[-1]


def read_id(text: str) -> Resource | None:
    """None where it is no ARM id."""
    found = _is_resource(text.strip().removesuffix("/"))
    if found is None:
        return None
    steps = (found["path"] or "").split("/")[1:]
    kind = "/".join((found["provider"], *steps[::2])).casefold() if steps else ""
    return Resource(found[0], found["subscription"], found["group"], kind, tuple(steps[1::2]))


WORKSPACE = "microsoft.machinelearningservices/workspaces"
STORAGE_ACCOUNT = "microsoft.storage/storageaccounts"
SYSTEM_TOPIC = "microsoft.eventgrid/systemtopics"
TOPIC = "microsoft.eventgrid/topics"
DOMAIN = "microsoft.eventgrid/domains"
DOMAIN_TOPIC = "microsoft.eventgrid/domains/topics"
_HUB = "microsoft.eventhub/namespaces/eventhubs"
_CONTAINER = "microsoft.storage/storageaccounts/blobservices/containers"
_GROUP_OF = "/subscriptions/…/resourceGroups/…/providers"
CUSTOM = frozenset({TOPIC, DOMAIN, DOMAIN_TOPIC})
"""Sources whose events somebody else than Azure makes, in a schema of their choice."""


def read_source(text: str) -> Resource:
    """Of whom events are wanted. Raises ValueError."""
    resource = read_id(text)
    if resource is None:
        raise ValueError(
            f"is no ARM id; write {_GROUP_OF}/Microsoft.MachineLearningServices/workspaces/NAME, as "
            "`az ml workspace show --query id` prints it, or the id of another source or topic"
        )
    if resource.kind in (_HUB, _CONTAINER):
        raise ValueError(
            "is where events go, not where they come from; write the id of the workspace, account or topic here, and "
            "this one in --hub-resource-id or --dead-letter"
        )
    event_grid = resource.kind.startswith("microsoft.eventgrid/")
    if event_grid and resource.kind not in CUSTOM | {SYSTEM_TOPIC}:
        raise ValueError(
            "is of a kind for which az has another command; write the id of a resource that has events, of a system "
            "topic, a topic, a domain or a domain's topic"
        )
    return resource


def read_hub(text: str, hub: str) -> Resource:
    """The event hub, which must be the one that the worker reads. Raises ValueError."""
    resource = read_id(text)
    if resource is None or resource.kind != _HUB:
        raise ValueError(
            f"is no ARM id of an event hub; write {_GROUP_OF}/Microsoft.EventHub/namespaces/NAME/eventhubs/{hub}, as "
            "`az eventhubs eventhub show --query id` prints it"
        )
    if resource.name.casefold() != hub.casefold():
        raise ValueError(
            f"is of the hub {resource.name}, and source.hub says that the worker reads {hub}; write that one's id, or "
            "change source.hub"
        )
    return resource


def read_container(text: str) -> Resource:
    """Where Event Grid keeps what it could not deliver. Raises ValueError."""
    resource = read_id(text)
    if resource is None or resource.kind != _CONTAINER:
        raise ValueError(
            f"is no ARM id of a blob container; write {_GROUP_OF}/Microsoft.Storage/storageAccounts/NAME/blobServices/"
            "default/containers/NAME"
        )
    return resource
