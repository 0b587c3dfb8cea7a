"""What differs between two versions of the rules, by name: for the log. Decides nothing."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace

from worker.config import Routing
from worker.filters import Filter


def changes(before: Routing, after: Routing) -> dict[str, list[str]]:
    """`routes_added: [names]` and the like; what nothing happened to is left out."""
    found = {
        **_compared("sinks", {each.name: each for each in before.sinks}, {each.name: each for each in after.sinks}),
        **_compared("routes", _known(before), _known(after)),
        **_compared("expect", _expected(before), _expected(after)),
    }
    common = {each.name for each in before.specs} & {each.name for each in after.specs}
    orders = [[each.name for each in routing.specs if each.name in common] for routing in (before, after)]
    if orders[0] != orders[1]:
        found["routes_in_order"] = orders[1]
    return found


def _compared(what: str, before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, list[str]]:
    steps = {
        "added": [name for name in after if name not in before],
        "removed": [name for name in before if name not in after],
        "changed": [name for name in after if name in before and after[name] != before[name]],
    }
    return {f"{what}_{step}": names for step, names in steps.items() if names}


def _known(routing: Routing) -> dict[str, object]:
    return {spec.name: (replace(spec, filter=None), _said(spec.filter)) for spec in routing.specs}


def _expected(routing: Routing) -> dict[str, object]:
    return {
        rule.name: (
            replace(rule, after=None, then=None, events=None, correlation=None),
            *map(_said, (rule.after, rule.then, rule.events)),
            rule.correlation and rule.correlation.settings,
        )
        for rule in routing.expect
    }


def _said(compiled: Filter | None) -> Hashable:
    """What a filter demands, as it was written: compiled ones cannot be compared."""
    return None if compiled is None else tuple(_demands(compiled))


def _demands(compiled: Filter) -> Iterator[Hashable]:
    yield compiled.event_types
    for group in (compiled.conditions, *compiled.groups):
        yield tuple((each.key, each.demand) for each in group)
