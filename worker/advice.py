"""What is allowed and looks wrong: warnings about a configuration that has no mistake.

A sink that no route names, a route that cannot do anything, one that cannot do what it says of the newest and the
unchanged, a type that Azure ML does not send, a key that Azure's events do not have, a template that works for no
event. Each is proved or tried (`reach`, `samples`); what is not mentioned may be wrong all the same. Nothing is
connected to, and no secret is read.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from worker.config import Config
from worker.documents import Document, read_document
from worker.errors import Rejected
from worker.events import MISSED_TYPE, UnixSeconds
from worker.filters import Condition, Filter
from worker.missed import missed_source
from worker.mistakes import Finding, Location, Mistake, did_you_mean, dotted, shown
from worker.reach import contradiction, covered, sent_before
from worker.route import Late, RouteSpec, folded_source
from worker.samples import Sample, sample_delivery
from worker.settings import SinkSettings
from worker.sinks import Delivery, PreviewingSink
from worker.sinks.installed import find_kind
from worker.unchanged import ETAG

_ML = "microsoft.machinelearningservices."
_ML_TYPES = ("ModelRegistered", "ModelDeployed", "RunCompleted", "DatasetDriftDetected", "RunStatusChanged")
"""All that Azure ML sends, after that prefix. Other sources have more types, and get new ones."""
_AT_THE_TOP = frozenset(
    {"data", "id", "subject"}
    | {"topic", "eventtype", "eventtime", "dataversion", "metadataversion"}
    | {"source", "type", "time", "specversion", "datacontenttype", "dataschema", "data_base64"}
)
"""Names that an event of Azure's own may have beside its data, folded."""
_SOME_TIME = UnixSeconds(1_769_839_200.0)


def warnings(config: Config) -> list[Mistake]:
    """What looks wrong, in the order of the routes file."""
    document = read_document(config.routing.file)
    found = chain(
        _idle_sinks(config),
        _useless_routes(config),
        _options_in_vain(config),
        _unknown_types(document),
        _keys_without_data(document),
        _broken_templates(config),
        _useless_expectations(config),
        _constant_keys(config),
    )
    marked = [document.mistake(place, f"{dotted(place)}: {message}") for place, message in found]
    return sorted(marked, key=lambda each: (each.line or 0, each.column or 0))


def _idle_sinks(config: Config) -> Iterator[Finding]:
    used = {name for spec in config.routing.specs for name in spec.sinks}
    for index, sink in enumerate(config.sinks):
        if sink.name not in used:
            message = f"no route names {shown(sink.name)}: it gets nothing; name it in a route, or remove it"
            yield Finding(("sinks", index), message)


def _useless_routes(config: Config) -> Iterator[Finding]:
    specs = config.routing.specs
    for index, spec in enumerate(specs):
        pair = contradiction(spec.filter) if spec.filter else None
        if spec.filter and pair:
            where = "a group of any_of: " if spec.filter.groups else ""
            yield Finding(("routes", index, "filter"), _no_event_can_pass(where, *pair))
        elif by_sink := covered(specs, index):
            who = ", ".join(f"{sink} by {route}" for sink, route in by_sink.items())
            yield Finding(
                ("routes", index),
                f"it does nothing, because all its events have been sent before: to {who}; put it first, narrow the "
                "other, or remove it",
            )


def _no_event_can_pass(where: str, one: Condition, other: Condition) -> str:
    return (
        f"no event can pass ({where}{shown(one.key)}: {one.claim.operator} and {other.claim.operator} exclude "
        "each other); correct one, or use any_of for one or the other"
    )


def _useless_expectations(config: Config) -> Iterator[Finding]:
    """What nobody would be told of, and what can never begin or be met."""
    takers = [spec for spec in config.routing.specs if _lets_through(spec.filter, MISSED_TYPE)]
    source = missed_source(config.worker.source.hub, config.worker.source.consumer_group)
    if config.routing.expect and not any(_takes_from(spec, source) for spec in takers):
        what = f"; name {source} in the `sources` of {takers[0].name}, or remove them" if takers else _NAME_THE_TYPE
        yield Finding(("expect",), f"no route takes {MISSED_TYPE}, so that nobody is told of what is missed{what}")
    for index, rule in enumerate(config.routing.expect):
        for key, filter_ in (("after", rule.after), ("then", rule.then), ("events", rule.events)):
            if filter_ and filter_.event_types == frozenset({MISSED_TYPE.casefold()}):
                message = f"no event can pass: no expectation looks at {MISSED_TYPE}; name another type"
                yield Finding(("expect", index, key), message)
            elif filter_ and (pair := contradiction(filter_)):
                where = "a group of any_of: " if filter_.groups else ""
                yield Finding(("expect", index, key), _no_event_can_pass(where, *pair))


def _constant_keys(config: Config) -> Iterator[Finding]:
    """A key of the data where a template should stand: then every event belongs to every other."""
    for index, rule in enumerate(config.routing.expect):
        settings = rule.correlation.settings if rule.correlation else None
        for text in (settings.after, settings.then) if settings else ():
            if "{{" not in text and "{%" not in text:
                yield Finding(
                    ("expect", index, "correlate"),
                    f'{shown(text)} is no template, so that all events have one key; write "{{{{ event.data.… }}}}"',
                )
                break


_NAME_THE_TYPE = "; name the type in a route's includedEventTypes"


def _lets_through(asked: Filter | None, event_type: str) -> bool:
    """Whether events of a type may pass; what the filter says besides may still exclude them."""
    return asked is None or asked.event_types is None or event_type.casefold() in asked.event_types


def _takes_from(spec: RouteSpec, source: str) -> bool:
    return spec.sources is None or folded_source(source) in map(folded_source, spec.sources)


def _options_in_vain(config: Config) -> Iterator[Finding]:
    """Of routes that do something: `only` and `changed` that cannot do what was meant."""
    specs = config.routing.specs
    for index, spec in enumerate(specs):
        key = "only" if spec.only else "changed"
        place: Location = ("routes", index, key)
        if not (spec.only or spec.changed) or covered(specs, index):
            continue
        if spec.late is Late.DELIVER:
            yield Finding(
                place,
                "an older event that comes late is delivered all the same, after a newer one; add late: drop, or "
                "late: dead_letter",
            )
        for sink, other in sent_before(specs, index).items():
            message = f"it means nothing at {sink}, because {other} sends all these events there before; put it first"
            yield Finding(place, message)
        if spec.only and config.worker.order.window_seconds == 0:
            yield Finding(
                place,
                "with order.window_seconds: 0 no event waits, and only those of one message are released together; "
                "give it a window",
            )
        if spec.changed:
            yield from (Finding(("routes", index, "changed"), each) for each in _never_unchanged(spec, spec.changed))


def _never_unchanged(spec: RouteSpec, names: tuple[str, ...]) -> Iterator[str]:
    folded = ".".join(names).casefold()
    types = spec.filter.event_types if spec.filter else None
    if folded == f"data.{ETAG}" and types and all(each.startswith(_ML) for each in types):
        yield "events of Azure ML have no etag, so that none is unchanged; name another key, or remove it"
    if folded == "data.sequencer":
        yield f"each event has another sequencer, so that none is unchanged; write {ETAG}"


def _unknown_types(document: Document) -> Iterator[Finding]:
    known = {f"{_ML}{each}".casefold() for each in _ML_TYPES}
    for place, filter_ in _filters(document):
        for index, name in enumerate(filter_.get("includedEventTypes") or ()):
            if name.casefold().startswith(_ML) and name.casefold() not in known:
                yield Finding(
                    (*place, "includedEventTypes", index),
                    f"Azure ML sends no events of this type; {did_you_mean(name[len(_ML) :], _ML_TYPES)}",
                )


def _keys_without_data(document: Document) -> Iterator[Finding]:
    """`runStatus` for `data.runStatus`. Only where all types are Azure's own: others may have attributes of theirs."""
    for place, filter_ in _filters(document):
        types = filter_.get("includedEventTypes") or ()
        if not types or not all(name.casefold().startswith("microsoft.") for name in types):
            continue
        for at, condition in _conditions(place, filter_):
            first = re.split(r"[.\[]", condition["key"], maxsplit=1)[0]
            if first and first.casefold() not in _AT_THE_TOP:
                meant = shown(f"data.{first}")
                message = f"no event of these types has {shown(first)} beside its data; did you mean {meant}?"
                yield Finding((*at, "key"), message)


def _filters(document: Document) -> Iterator[tuple[Location, Mapping[str, Any]]]:
    for place, section in chain(document.sections("routes"), document.sections("expect")):
        for key in ("filter", "after", "then", "events"):
            if isinstance(found := section.get(key), dict):
                yield (*place, key), found


def _conditions(place: Location, filter_: Mapping[str, Any]) -> Iterator[tuple[Location, Mapping[str, Any]]]:
    for index, condition in enumerate(filter_.get("advancedFilters") or ()):
        yield (*place, "advancedFilters", index), condition
    for index, group in enumerate(filter_.get("any_of") or ()):
        yield from _conditions((*place, "any_of", index), group)


def _broken_templates(config: Config) -> Iterator[Finding]:
    for index, sink in enumerate(config.sinks):
        samples = list(_fitting(sink, config.routing.specs))
        failures = list(_failures(sink, samples))
        if samples and len(failures) == len(samples):
            kinds = ", ".join(each.released.placed.event.type.rpartition(".")[2] for each in samples)
            message = f"it fails for each sample of the events that its routes let through ({kinds}): {failures[0]}"
            yield Finding(("sinks", index), message)


def _fitting(sink: SinkSettings, specs: tuple[RouteSpec, ...]) -> Iterator[Delivery]:
    """A sample of each type that some route lets through to the sink, and a digest where it may be sent one."""
    filters = [spec.filter for spec in specs if sink.name in spec.sinks]
    for sample in Sample:
        source = None if sample is Sample.BLOB_CREATED else sink.sample_source
        delivery = sample_delivery(sample, sink.name, now=_SOME_TIME, source=source)
        folded = delivery.released.placed.event.type.casefold()
        if sample is Sample.DIGEST:
            if sink.quiet and filters:
                yield delivery
        elif any(each is None or each.event_types is None or folded in each.event_types for each in filters):
            yield delivery


def _failures(settings: SinkSettings, samples: Iterable[Delivery]) -> Iterator[str]:
    """Why the sink cannot say what it would send, without asking anybody: for each sample for which it cannot."""
    sink = find_kind(settings.kind).build(settings, None)
    if isinstance(sink, PreviewingSink):
        for sample in samples:
            try:
                sink.preview(sample)
            except Rejected as error:
                yield str(error).removeprefix(f"sink {settings.name}: ")
            except Exception as error:  # noqa: BLE001 - somebody else's sink may raise anything
                yield f"its preview raises {type(error).__name__}"
