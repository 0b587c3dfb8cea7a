"""`worker subscription`: the event subscription that sends the hub what the routes need, as a command to run.

It asks nobody and changes nothing. What is sent is decided by `subscription`, and written by `subscription_text`.
"""
# ruff: noqa: PLC0415 - the command imports what it needs when it runs, so that `worker --help` is quick

import re
from typing import TYPE_CHECKING, Annotated

import typer

from worker.commands.options import DEFAULT_CONFIG, FAILED, ConfigOption, JsonOption, print_json
from worker.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.config import Config
    from worker.resources import Resource
    from worker.subscription import Need, Plan

DEFAULT_NAME = "event-grid-worker"

SourceOption = Annotated[
    str, typer.Option("--source-resource-id", metavar="ID", help="Whose events: a workspace, an account, a topic, …")
]
HubOption = Annotated[str, typer.Option("--hub-resource-id", metavar="ID", help="The event hub the worker reads.")]
DeadLetterOption = Annotated[
    str | None,
    typer.Option("--dead-letter", metavar="ID", help="The blob container for what Event Grid cannot deliver."),
]
NameOption = Annotated[
    str, typer.Option("--name", help="Of the event subscription; if there are several, also NAME-2, NAME-3, …")
]
DataOption = Annotated[
    bool,
    typer.Option(
        "--data-conditions",
        help="Ask Event Grid for conditions on data, too. Right only where the source spells keys as the routes do.",
    ),
]
AttemptsOption = Annotated[int, typer.Option(min=1, max=30, help="How often Event Grid tries.")]
MinutesOption = Annotated[int, typer.Option(min=1, max=1440, help="How long Event Grid tries, in minutes.")]
BicepOption = Annotated[bool, typer.Option("--bicep", help="Print a Bicep file instead of commands.")]


def subscription(  # noqa: PLR0913 - an option each
    *,
    config: ConfigOption = DEFAULT_CONFIG,
    source_resource_id: SourceOption,
    hub_resource_id: HubOption,
    dead_letter: DeadLetterOption = None,
    name: NameOption = DEFAULT_NAME,
    data_conditions: DataOption = False,
    max_delivery_attempts: AttemptsOption = 30,
    event_ttl: MinutesOption = 1440,
    as_bicep: BicepOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print the az command that sends events of a source to the hub: what the routes need, keyed by subject.

    Needs no secrets, asks nobody and changes nothing. Exits 1 when no route takes an event of the source.
    """
    from worker.loading import load
    from worker.subscription_text import Setting, Unsayable, az_commands, bicep, rows

    if as_bicep and as_json:
        raise typer.BadParameter("excludes --json; leave one away", param_hint="--bicep")
    loaded = load(config, secrets=False)
    mistakes: list[str] = []
    if not re.fullmatch(r"[A-Za-z0-9-]{3,60}", name):
        mistakes.append("--name: must be 3 to 60 letters, digits and hyphens, as Event Grid wants it")
    source, hub, container = _resources(loaded, source_resource_id, hub_resource_id, dead_letter, mistakes)
    if mistakes or source is None or hub is None:
        raise ConfigError(mistakes)
    plan = _plan(loaded, source, data_conditions=data_conditions)
    if not plan.subscriptions:
        named = ", ".join(plan.elsewhere)
        typer.echo(f"worker: no route takes an event of this source; the routes name {named}", err=True)
        raise typer.Exit(FAILED)
    setting = Setting(name, source, hub, container, max_delivery_attempts, event_ttl, str(loaded.routing.file))
    if as_json:
        for row in rows(plan, setting):
            print_json(row)
        return
    try:
        typer.echo((bicep if as_bicep else az_commands)(plan, setting), nl=False)
    except Unsayable as problem:
        raise ConfigError([f"{loaded.routing.file}: {problem}"]) from None


def _resources(
    loaded: "Config", source: str, hub: str, container: str | None, mistakes: list[str]
) -> "tuple[Resource | None, Resource | None, Resource | None]":
    """The three ids, with a mistake for each that is none."""
    from worker.resources import read_container, read_hub, read_source

    def read(option: str, reader: "Callable[[str], Resource]", text: str) -> "Resource | None":
        try:
            return reader(text)
        except ValueError as wrong:
            mistakes.append(f"{option}: {wrong}")
            return None

    return (
        read("--source-resource-id", read_source, source),
        read("--hub-resource-id", lambda text: read_hub(text, loaded.worker.source.hub), hub),
        None if container is None else read("--dead-letter", read_container, container),
    )


def _plan(loaded: "Config", source: "Resource", *, data_conditions: bool) -> "Plan":
    from worker.pushdown import Allowed
    from worker.resources import CUSTOM, STORAGE_ACCOUNT, WORKSPACE
    from worker.subscription import plan

    emits = {WORKSPACE: "Microsoft.MachineLearningServices.", STORAGE_ACCOUNT: "Microsoft.Storage."}
    allowed = Allowed(subject=source.kind not in CUSTOM, data=data_conditions)
    return plan(_needs(loaded), allowed, emits=emits.get(source.kind))


def _needs(loaded: "Config") -> "list[Need]":
    """The routes and expectations as they are written: a compiled filter cannot be written again."""
    from worker.documents import read_document
    from worker.subscription import Need

    values = read_document(loaded.routing.file).values
    needs = [Need(route["name"], route.get("filter"), route.get("sources")) for route in values["routes"]]
    for rule in values.get("expect") or ():
        filters = [rule[key] for key in ("after", "then") if rule.get(key) is not None] or [rule.get("events")]
        needs += [Need(rule["name"], each, rule.get("sources")) for each in filters]
    return [need for each in needs if (need := _from_elsewhere(each))]


def _from_elsewhere(need: "Need") -> "Need | None":
    """Without the types that the worker itself makes; None where nothing else is wanted."""
    from worker.events import DIGEST_TYPE, MISSED_TYPE

    types = (need.filter or {}).get("includedEventTypes") or []
    own = {DIGEST_TYPE.casefold(), MISSED_TYPE.casefold()}
    others = [each for each in types if each.casefold() not in own]
    if len(others) == len(types):
        return need
    return need._replace(filter={**(need.filter or {}), "includedEventTypes": others}) if others else None
