"""What the log says of a reload: which sinks and routes came, went and changed."""

from pathlib import Path
from typing import Any

import pytest

from worker.changes import changes
from worker.config import Routing
from worker.expect import ExpectRule, compile_rule
from worker.expect_settings import ExpectSettings
from worker.filters import compile_filter
from worker.route import Late, Routes, RouteSpec
from worker.settings import SinkSettings


def spec(name: str, *sinks: str, late: Late = Late.DELIVER, **filter_: Any) -> RouteSpec:
    return RouteSpec(name, sinks, compile_filter(filter_) if filter_ else None, late=late)


def routing(sinks: dict[str, dict[str, Any]], *specs: RouteSpec, expect: tuple[ExpectRule, ...] = ()) -> Routing:
    configured = tuple(SinkSettings.model_validate({"name": name, "kind": "x", **keys}) for name, keys in sinks.items())
    return Routing(Path("routes.yaml"), configured, specs, Routes(specs), expect)


FILTER: dict[str, Any] = {
    "includedEventTypes": ["A.B"],
    "subjectBeginsWith": "/jobs/",
    "advancedFilters": [{"operatorType": "NumberGreaterThan", "key": "data.x", "value": 1}],
}


def test_the_same_rules_read_twice_differ_in_nothing():
    once, again = (routing({"a": {"rate": 5}}, spec("r", "a", **FILTER), spec("s", "a")) for _ in range(2))
    assert changes(once, again) == {}


def test_sinks_and_routes_that_came_went_and_changed_are_named():
    before = routing({"a": {}, "b": {}, "c": {}}, spec("r", "a"), spec("s", "b"), spec("t", "c"))
    after = routing({"a": {}, "c": {"rate": 2}, "d": {}}, spec("r", "a"), spec("t", "c", "d"), spec("u", "d"))
    assert changes(before, after) == {
        "sinks_added": ["d"],
        "sinks_removed": ["b"],
        "sinks_changed": ["c"],
        "routes_added": ["u"],
        "routes_removed": ["s"],
        "routes_changed": ["t"],
    }


@pytest.mark.parametrize(
    "other",
    [
        {**FILTER, "includedEventTypes": ["A.C"]},
        {**FILTER, "subjectBeginsWith": "/runs/"},
        {**FILTER, "advancedFilters": [{"operatorType": "NumberGreaterThan", "key": "data.x", "value": 2}]},
        {**FILTER, "advancedFilters": [{"operatorType": "NumberLessThan", "key": "data.x", "value": 1}]},
        {**FILTER, "advancedFilters": [{"operatorType": "NumberGreaterThan", "key": "data.y", "value": 1}]},
        {**FILTER, "any_of": [{"advancedFilters": FILTER["advancedFilters"]}]},
        {},
    ],
)
def test_a_filter_that_demands_something_else_is_a_change(other: dict[str, Any]):
    before, after = (routing({"a": {}}, spec("r", "a", **filter_)) for filter_ in (FILTER, other))
    assert changes(before, after) == {"routes_changed": ["r"]}


def test_what_happens_to_late_events_is_a_change_and_so_is_the_order_of_routes():
    one, other = spec("r", "a"), spec("s", "a")
    assert changes(routing({"a": {}}, one), routing({"a": {}}, spec("r", "a", late=Late.DROP))) == {
        "routes_changed": ["r"]
    }
    assert changes(routing({"a": {}}, one, other), routing({"a": {}}, other, one)) == {"routes_in_order": ["s", "r"]}


def rule(name: str, then: dict[str, Any], **more: Any) -> ExpectRule:
    settings = ExpectSettings.model_validate({"name": name, "after": {}, "then": then, "within": "1h", **more})
    return compile_rule(settings, after=compile_filter({}), then=compile_filter(then), events=None)


def test_expectations_that_came_went_and_changed_are_named():
    key = "{{ event.data.x }}"
    before = routing({}, expect=(rule("gone", FILTER), rule("same", FILTER, correlate=key), *map(changing, "123")))
    after = routing(
        {},
        expect=(
            rule("same", FILTER, correlate=key),
            rule("1", {**FILTER, "includedEventTypes": ["A.C"]}),
            rule("2", FILTER, within="2h"),
            rule("3", FILTER, correlate="{{ event.data.y }}"),
            rule("new", FILTER),
        ),
    )
    assert changes(before, after) == {
        "expect_added": ["new"],
        "expect_removed": ["gone"],
        "expect_changed": ["1", "2", "3"],
    }


def changing(name: str) -> ExpectRule:
    return rule(name, FILTER)
