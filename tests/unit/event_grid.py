"""Event Grid and az at their most unhelpful: what their documentation does not promise, they do not do."""

import argparse
import subprocess
from typing import Any

from worker.events import Event

_POSITIVE_STRINGS = {
    "StringIn": lambda value, wanted: value == wanted,
    "StringContains": lambda value, wanted: wanted in value,
    "StringBeginsWith": str.startswith,
    "StringEndsWith": str.endswith,
}
_POSITIVE_NUMBERS = {
    "NumberIn": lambda value, wanted: value == wanted,
    "NumberInRange": lambda value, wanted: wanted[0] <= value <= wanted[1],
    "NumberLessThan": lambda value, wanted: value < wanted,
    "NumberLessThanOrEquals": lambda value, wanted: value <= wanted,
    "NumberGreaterThan": lambda value, wanted: value > wanted,
    "NumberGreaterThanOrEquals": lambda value, wanted: value >= wanted,
}


def lets_through(filter_: dict[str, Any], event: Event) -> bool:
    """Whether its documentation promises that the event passes: keys in their very case, no slash ignored."""
    assert filter_.keys() <= {"includedEventTypes", "enableAdvancedFilteringOnArrays", "advancedFilters"}
    types = filter_.get("includedEventTypes")
    if types is not None and event.type.casefold() not in map(str.casefold, types):
        return False
    in_arrays = filter_.get("enableAdvancedFilteringOnArrays", False)
    return all(_holds(condition, event, in_arrays=in_arrays) for condition in filter_.get("advancedFilters", []))


def _holds(condition: dict[str, Any], event: Event, *, in_arrays: bool) -> bool:
    value: Any = event.envelope
    for name in condition["key"].split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if condition["operatorType"] == "IsNotNull":
        return value is not None
    wanted = condition["values"] if "values" in condition else [condition["value"]]
    seen = value if in_arrays and isinstance(value, list) else [value]
    return any(_hits(condition["operatorType"], one, want) for one in seen for want in wanted)


def _hits(operator: str, value: Any, wanted: Any) -> bool:
    if operator == "BoolEquals":
        return value is wanted
    if operator in _POSITIVE_STRINGS:
        return isinstance(value, str) and _POSITIVE_STRINGS[operator](value.lower(), wanted.lower())
    return type(value) in (int, float) and _POSITIVE_NUMBERS[operator](value, wanted)


def values_in(filter_: dict[str, Any]) -> int:
    """As Event Grid counts them: over all filters, a range as one."""
    return sum(len(one.get("values", ["one"])) for one in filter_.get("advancedFilters", []))


def run_script(text: str) -> list[list[str]]:
    """The words that az would get for each command, by the word of a shell."""
    script = "az() { printf '%s\\0' \"$@\"; printf 'END\\0'; }\n" + text
    words = subprocess.run(["sh", "-eu"], input=script.encode(), capture_output=True, check=True).stdout.decode()
    assert words.endswith("END\0")
    return [command.removesuffix("\0").split("\0") for command in words.removesuffix("END\0").split("END\0")]


def read_as_az(words: list[str]) -> argparse.Namespace:
    """With az's own kind of parser, and its reading of --advanced-filter: a minus at the beginning is an option."""
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    for option in (
        "subscription",
        "name",
        "source-resource-id",
        "resource-group",
        "system-topic-name",
        "endpoint-type",
    ):
        parser.add_argument(f"--{option}")
    for option in ("endpoint", "deadletter-endpoint", "max-delivery-attempts", "event-ttl"):
        parser.add_argument(f"--{option}")
    parser.add_argument("--enable-advanced-filtering-on-arrays")
    parser.add_argument("--included-event-types", nargs="+")
    parser.add_argument("--advanced-filter", nargs="+", action="append", default=[])
    parser.add_argument("--delivery-attribute-mapping", nargs="+", action="append", default=[])
    assert not any(word.startswith("@") or "=@" in word for word in words)
    options = next(index for index, word in enumerate(words) if word.startswith("--"))
    return parser.parse_args(words[options:])


def filter_of(read: argparse.Namespace) -> dict[str, Any]:
    """Event Grid's filter as az would send it."""
    sent: dict[str, Any] = {}
    if read.included_event_types is not None:
        sent["includedEventTypes"] = read.included_event_types
    if read.enable_advanced_filtering_on_arrays == "true":
        sent["enableAdvancedFilteringOnArrays"] = True
    if read.advanced_filter:
        sent["advancedFilters"] = [_condition(*words) for words in read.advanced_filter]
    return sent


def _condition(key: str, operator: str, *words: str) -> dict[str, Any]:
    condition: dict[str, Any] = {"operatorType": operator, "key": key}
    if operator.startswith("String"):
        condition["values"] = list(words)
    elif operator == "NumberIn":
        condition["values"] = [float(word) for word in words]
    elif operator == "NumberInRange":
        condition["values"] = [[float(bound) for bound in word.split(",")] for word in words]
    elif operator == "BoolEquals":
        condition["value"] = bool(words[0])  # so it is: every word is true
    elif operator != "IsNotNull":
        condition["value"] = float(words[0])
    return condition
