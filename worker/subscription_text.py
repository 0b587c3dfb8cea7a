"""A plan of event subscriptions as text: commands of az, a Bicep file, or rows of JSON. The same plan, the same text.

Comments and values come from files and options: a value is quoted, and a comment cannot end its line.
"""

import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from worker.resources import DOMAIN, DOMAIN_TOPIC, STORAGE_ACCOUNT, SYSTEM_TOPIC, TOPIC, WORKSPACE, Resource
from worker.subscription import Plan, Subscription
from worker.terminal import printable

_WIDTH = 118


@dataclass(frozen=True, slots=True)
class Setting:
    """What is the same for every subscription of a plan."""

    name: str
    """Of the first; the others are NAME-2, NAME-3, …"""
    source: Resource
    hub: Resource
    dead_letters: Resource | None
    attempts: int
    minutes: int
    origin: str
    """The routes file."""

    def names(self, plan: Plan) -> list[str]:
        """One for each subscription: the first keeps its name, whatever the number."""
        return [self.name, *(f"{self.name}-{number}" for number in range(2, len(plan.subscriptions) + 1))]


class Unsayable(Exception):
    """az would take a value for something else; the text says which, and what to do."""


# ---- For people, before the text


def _comments(plan: Plan, setting: Setting) -> Iterator[str]:
    yield (
        f"From {setting.origin}, by `worker subscription`: what these routes need goes to the hub {setting.hub.name}, "
        "each subject to one partition, and more where Event Grid cannot be asked. The worker decides on the rest."
    )
    if any(one.event_types is None for one in plan.subscriptions):
        yield (
            "A route takes every type. Of an Azure service Event Grid then sends the types of its default set only; "
            "`az eventgrid topic-type list-event-types` shows them (isInDefaultSet)."
        )
    if plan.unsure:
        yield f"Named by routes, and sent if they are in that set: {', '.join(plan.unsure)}"
    if plan.elsewhere:
        yield f"Left out, because this source has no such type: {', '.join(plan.elsewhere)}"
    if plan.overlapping:
        yield (
            "Some events come by two of these subscriptions, and twice: Event Grid cannot say `all other types`. The "
            "worker recognises the second."
        )
    if setting.dead_letters is None:
        yield (
            f"What Event Grid cannot deliver within {setting.minutes} minutes it throws away. To keep it, name a "
            "container: --dead-letter."
        )
    yield from _staying(plan)
    yield (
        "If there were more subscriptions before, the others still send: see az eventgrid event-subscription list "
        f"--source-resource-id {setting.source.id}"
    )


def _staying(plan: Plan) -> Iterator[str]:
    """Grouped by the reason, which many share."""
    reasons: dict[str, list[str]] = {}
    for route, what, why in plan.stays:
        reasons.setdefault(why, []).append(f"{route}: {what}")
    for why, staying in reasons.items():
        yield f"Stays in the worker, because {why}:"
        yield from (f"  {one}" for one in staying)
    yield "Stays in the worker in any case: order, late and re-sent events, retries, what sinks do (quiet, rate, …)."


def _commented(sign: str, text: str) -> Iterator[str]:
    """As lines that each begin with the sign, whatever is in the text."""
    indent = "    " if text.startswith("  ") else "  "
    yield from textwrap.wrap(
        printable(text),
        _WIDTH,
        initial_indent=f"{sign} {'  ' if text.startswith('  ') else ''}",
        subsequent_indent=f"{sign} {indent}",
        break_long_words=False,
        break_on_hyphens=False,
    )


# ---- az


def az_commands(plan: Plan, setting: Setting) -> str:
    """A shell script, one command for each subscription. Raises Unsayable."""
    lines = [line for comment in _comments(plan, setting) for line in _commented("#", comment)]
    for name, one in zip(setting.names(plan), plan.subscriptions, strict=False):
        lines += ["", *_commented("#", f"For {', '.join(one.routes)}."), _az_command(name, one, setting)]
    return "\n".join(lines) + "\n"


def _az_command(name: str, one: Subscription, setting: Setting) -> str:
    source = setting.source
    if source.kind == SYSTEM_TOPIC:
        begin = ["az", "eventgrid", "system-topic", "event-subscription", "create"]
        of = ["--resource-group", str(source.group), "--system-topic-name", source.name]
        options = [of[:2], of[2:]]
    else:
        begin = ["az", "eventgrid", "event-subscription", "create"]
        options = [["--source-resource-id", source.id]]
    options = [
        ["--subscription", source.subscription],
        ["--name", name],
        *options,
        ["--endpoint-type", "eventhub"],
        ["--endpoint", setting.hub.id],
        ["--delivery-attribute-mapping", "PartitionKey", "dynamic", "subject"],
        *_az_filter(one.filter()),
        *([["--deadletter-endpoint", setting.dead_letters.id]] if setting.dead_letters else []),
        ["--max-delivery-attempts", str(setting.attempts)],
        ["--event-ttl", str(setting.minutes)],
    ]
    return " \\\n  ".join(shlex.join(words) for words in (begin, *options))


def _az_filter(written: dict[str, Any]) -> Iterator[list[str]]:
    if types := written.get("includedEventTypes"):
        yield ["--included-event-types", *map(_az_text, types)]
    if written.get("enableAdvancedFilteringOnArrays"):
        yield ["--enable-advanced-filtering-on-arrays", "true"]
    for condition in written.get("advancedFilters", ()):
        values = condition.get("values", [condition["value"]] if "value" in condition else [])
        words = [_az_value(value) for value in values]
        yield ["--advanced-filter", _az_text(condition["key"]), condition["operatorType"], *words]


def _az_value(value: Any) -> str:
    if isinstance(value, str):
        return _az_text(value)
    if value is False:
        raise Unsayable("az sends true for every value of BoolEquals; take --bicep, or leave --data-conditions out")
    if isinstance(value, bool):
        return "true"
    # A minus at the beginning would be an option, unless a space is before it; the number is read all the same.
    text = ",".join(map(_number, value)) if isinstance(value, list) else _number(value)
    return f" {text}" if text.startswith("-") else text


def _az_text(text: str) -> str:
    """The text, if az takes it for what it is: a word with a minus is an option to it, and one with @ names a file."""
    if "\0" in text:
        raise Unsayable("no command takes a text with a NUL in it; take --bicep")
    if text.startswith(("-", "@")) or "=@" in text:
        raise Unsayable(f"az would take {printable(text)!r} for an option or for the name of a file; take --bicep")
    return text


def _number(value: float) -> str:
    return repr(value)


# ---- Bicep

_EVENT_GRID = "2022-06-15"
_EXISTING = {
    WORKSPACE: "Microsoft.MachineLearningServices/workspaces@2023-10-01",
    STORAGE_ACCOUNT: "Microsoft.Storage/storageAccounts@2023-01-01",
    TOPIC: f"Microsoft.EventGrid/topics@{_EVENT_GRID}",
    DOMAIN: f"Microsoft.EventGrid/domains@{_EVENT_GRID}",
    DOMAIN_TOPIC: f"Microsoft.EventGrid/domains/topics@{_EVENT_GRID}",
    SYSTEM_TOPIC: f"Microsoft.EventGrid/systemTopics@{_EVENT_GRID}",
}


def bicep(plan: Plan, setting: Setting) -> str:
    """A Bicep file for the resource group of the source. Raises Unsayable."""
    source = setting.source
    if source.kind not in _EXISTING:
        raise Unsayable(
            "Bicep needs a version of the source's API, known here for workspaces, storage accounts, topics, domains "
            "and system topics; leave --bicep out, or give the id of the source's system topic"
        )
    deploy = f"az deployment group create --subscription {source.subscription} --resource-group {source.group}"
    comments = [*_comments(plan, setting), f"{deploy} --template-file FILE"]
    lines = [line for comment in comments for line in _commented("//", comment)]
    lines += ["", f"resource source '{_EXISTING[source.kind]}' existing = {{"]
    lines += [f"  name: {_bicep_text('/'.join(source.names))}", "}"]
    for number, (name, one) in enumerate(zip(setting.names(plan), plan.subscriptions, strict=False), start=1):
        lines += ["", *_commented("//", f"For {', '.join(one.routes)}."), *_bicep_resource(number, name, one, setting)]
    return "\n".join(lines) + "\n"


def _bicep_resource(number: int, name: str, one: Subscription, setting: Setting) -> Iterator[str]:
    of_topic = setting.source.kind == SYSTEM_TOPIC
    kind = "systemTopics/eventSubscriptions" if of_topic else "eventSubscriptions"
    properties: dict[str, Any] = {
        "destination": {
            "endpointType": "EventHub",
            "properties": {
                "resourceId": setting.hub.id,
                "deliveryAttributeMappings": [
                    {"name": "PartitionKey", "type": "Dynamic", "properties": {"sourceField": "subject"}}
                ],
            },
        },
        "filter": one.filter(),
        "retryPolicy": {"maxDeliveryAttempts": setting.attempts, "eventTimeToLiveInMinutes": setting.minutes},
    }
    if setting.dead_letters:
        account = setting.dead_letters.id.split("/")[:9]
        to = {"resourceId": "/".join(account), "blobContainerName": setting.dead_letters.name}
        properties["deadLetterDestination"] = {"endpointType": "StorageBlob", "properties": to}
    yield f"resource subscription{number} 'Microsoft.EventGrid/{kind}@{_EVENT_GRID}' = {{"
    yield f"  {'parent' if of_topic else 'scope'}: source"
    yield f"  name: {_bicep_text(name)}"
    yield f"  properties: {_bicep_value(properties, '  ')}"
    yield "}"


def _bicep_value(value: Any, indent: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _bicep_text(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"json('{value!r}')"  # Bicep itself has whole numbers only
    if not value:
        return "{}" if isinstance(value, dict) else "[]"
    if isinstance(value, dict):
        inner = [f"{name}: {_bicep_value(one, indent + '  ')}" for name, one in value.items()]
    else:
        inner = [_bicep_value(one, indent + "  ") for one in value]
    opens, closes = "{}" if isinstance(value, dict) else "[]"
    return "\n".join((opens, *(f"{indent}  {line}" for line in inner), f"{indent}{closes}"))


_BICEP_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _bicep_text(text: str) -> str:
    """In single quotes; `${` would be an expression."""
    escaped = "".join(
        _BICEP_ESCAPES.get(one, one if one.isprintable() else f"\\u{{{ord(one):x}}}") for one in text
    ).replace("${", "\\${")
    return f"'{escaped}'"


# ---- JSON


def rows(plan: Plan, setting: Setting) -> Iterator[dict[str, Any]]:
    """One for each subscription, and then one for each thing that stays in the worker."""
    for name, one in zip(setting.names(plan), plan.subscriptions, strict=False):
        yield {"subscription": name, "routes": list(one.routes), "filter": one.filter()}
    for route, what, why in plan.stays:
        yield {"route": route, "stays_in_worker": what, "because": why}
