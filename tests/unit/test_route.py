"""Which sinks an event is for."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.events import Event, OrderKey, OrderKind, Schema
from worker.filters import Filter, compile_filter
from worker.route import Late, Routes, RouteSpec, Target

EVENT = Event(
    schema=Schema.EVENT_GRID,
    id="1",
    type="Microsoft.Storage.BlobCreated",
    source="/subscriptions/S/resourceGroups/R",
    subject="a/b",
    time=None,
    data=None,
    envelope={"subject": "a/b"},
    order_key=OrderKey(OrderKind.ARRIVAL, None),
)


def types(*names: str):
    return compile_filter({"includedEventTypes": list(names)})


def sinks(routes: Routes, event: Event = EVENT) -> list[str]:
    return [target.sink for target in routes.match(event)]


def test_a_route_without_a_filter_takes_every_event():
    routes = Routes([RouteSpec("all", ("audit",))])
    assert routes.match(EVENT) == (Target("all", "audit", Late.DELIVER),)
    assert routes.match(replace(EVENT, source=None, type="other")) == routes.match(EVENT)


def test_no_route_means_no_sink():
    assert Routes([]).match(EVENT) == ()
    assert Routes([]).explain(EVENT) == []


def test_a_route_takes_only_what_its_filter_accepts():
    routes = Routes(
        [
            RouteSpec("other", ("a",), types("Other")),
            RouteSpec("blobs", ("b",), types("microsoft.storage.blobCREATED", "Third")),
            RouteSpec("subject", ("c",), compile_filter({"subjectBeginsWith": "x"})),
            RouteSpec("both", ("d",), compile_filter({"subjectBeginsWith": "a"})),
        ]
    )
    assert sinks(routes) == ["b", "d"]
    assert sinks(routes, replace(EVENT, type="OTHER")) == ["a", "d"]
    assert sinks(routes, replace(EVENT, type="unheard of", subject="x")) == ["c"]


def test_an_event_reaches_a_sink_once_by_the_first_route_that_matches():
    routes = Routes(
        [
            RouteSpec("no", ("audit",), types("Other"), late=Late.DEAD_LETTER),
            RouteSpec("first", ("audit", "oncall", "audit"), late=Late.DROP),
            RouteSpec("second", ("oncall", "retrain"), types(EVENT.type)),
        ]
    )
    assert routes.match(EVENT) == (
        Target("first", "audit", Late.DROP),
        Target("first", "oncall", Late.DROP),
        Target("second", "retrain", Late.DELIVER),
    )


@pytest.mark.parametrize(
    ("listed", "source", "expected"),
    [
        (("/subscriptions/S/resourceGroups/R",), "/subscriptions/s/RESOURCEGROUPS/r", True),
        (("/subscriptions/S/resourceGroups/R/",), "/subscriptions/S/resourceGroups/R", True),
        (("/subscriptions/S/resourceGroups/R",), "/subscriptions/S/resourceGroups/R/", True),
        (("/other", "/subscriptions/S/resourceGroups/R"), "/subscriptions/S/resourceGroups/R", True),
        (("/subscriptions/S",), "/subscriptions/S/resourceGroups/R", False),
        (("/subscriptions/S/resourceGroups/R",), "/subscriptions/S", False),
        (("/subscriptions/S/resourceGroups/R",), None, False),
        (("",), None, False),
        ((), "/subscriptions/S", False),
        ((), None, False),
    ],
)
def test_sources_are_an_allow_list_in_any_case_and_never_of_parents(listed, source, expected):
    routes = Routes([RouteSpec("r", ("s",), sources=listed)])
    event = replace(EVENT, source=source)
    assert bool(routes.match(event)) is expected
    [verdict] = routes.explain(event)
    assert verdict.matched is expected
    if not expected:
        seen = "the event has no source" if source is None else f"the source {source} is not listed"
        assert verdict.reason == f"{seen}, and the route takes events only from its `sources`"


def test_both_sources_and_filter_must_agree():
    routes = Routes([RouteSpec("r", ("s",), types("Other"), sources=(str(EVENT.source),))])
    assert sinks(routes) == []
    assert sinks(routes, replace(EVENT, type="Other")) == ["s"]
    assert sinks(routes, replace(EVENT, type="Other", source="/elsewhere")) == []


def test_every_route_says_what_it_made_of_the_event():
    routes = Routes(
        [
            RouteSpec("no", ("audit",), types("Other")),
            RouteSpec("first", ("audit", "oncall")),
            RouteSpec("second", ("oncall", "retrain"), types(EVENT.type)),
        ]
    )
    no, first, second = routes.explain(EVENT)
    assert (no.route, no.matched, no.sinks) == ("no", False, ())
    assert "includedEventTypes" in no.reason
    assert (first.route, first.matched, first.sinks) == ("first", True, ("audit", "oncall"))
    assert first.reason == "the route has no filter"
    assert (second.route, second.matched, second.sinks) == ("second", True, ("retrain",))
    assert second.reason == "includedEventTypes names the type; oncall has it by first already"


def test_what_a_route_does_not_deliver_goes_with_each_of_its_sinks():
    routes = Routes(
        [RouteSpec("new", ("a", "b"), only="latest", changed=("data", "etag")), RouteSpec("all", ("b", "c"))]
    )
    assert routes.match(EVENT) == (
        Target("new", "a", Late.DELIVER, only_latest=True, changed=("data", "etag")),
        Target("new", "b", Late.DELIVER, only_latest=True, changed=("data", "etag")),
        Target("all", "c", Late.DELIVER, only_latest=False, changed=None),
    )


@pytest.mark.parametrize(("only", "expected"), [((None, None), False), ((None, "latest"), True), ((), False)])
def test_whether_any_route_asks_what_is_released_together_is_known(only, expected):
    routes = Routes([RouteSpec(f"r{number}", ("a",), only=each) for number, each in enumerate(only)])
    assert routes.some_want_latest is expected


def test_a_route_says_what_it_does_not_deliver_where_it_delivers_at_all():
    only = "only: latest, so not when a newer one of its subject is released with it"
    changed = "changed, so not when its data.etag is the last one delivered of its subject"
    routes = Routes(
        [
            RouteSpec("both", ("a",), only="latest", changed=("data", "etag")),
            RouteSpec("one", ("b",), changed=("data", "etag")),
            RouteSpec("plain", ("c",)),
            RouteSpec("other", ("d",), types("Other"), only="latest"),
            RouteSpec("again", ("a",), only="latest"),
        ]
    )
    said = {verdict.route: verdict.reason for verdict in routes.explain(EVENT)}
    assert said["both"] == f"the route has no filter; {only}; {changed}"
    assert said["one"] == f"the route has no filter; {changed}"
    assert said["plain"] == "the route has no filter"
    assert "latest" not in said["other"]
    assert said["again"] == "the route has no filter; a has it by both already"


def test_an_event_is_not_held_against_a_filter_that_its_type_rules_out():
    class Dear(Filter):
        def matches(self, event: Event) -> bool:
            raise AssertionError(event)

    dear = Dear(frozenset({"other"}), (), ())
    routes = Routes([RouteSpec("dear", ("a",), dear), RouteSpec("all", ("b",)), RouteSpec("r", ("c",), types("T"))])
    assert sinks(routes) == ["b"]
    assert sinks(routes, replace(EVENT, type="T")) == ["b", "c"]


def test_what_happens_to_late_events_is_written_so():
    assert [Late(word) for word in ("deliver", "drop", "dead_letter")] == [Late.DELIVER, Late.DROP, Late.DEAD_LETTER]


specs = st.lists(
    st.builds(
        lambda sinks, event_types, sources, late: (tuple(sinks), event_types, sources, late),
        st.lists(st.sampled_from("abc"), min_size=1, max_size=3),
        st.none() | st.lists(st.sampled_from(["T", "U", "V"]), max_size=2),
        st.none() | st.sampled_from([("/s",), ("/S/", "/t"), ()]),
        st.sampled_from(Late),
    ),
    max_size=5,
)


@given(specs, st.sampled_from(["t", "U", "V", "W"]), st.sampled_from(["/s", "/T", None]))
def test_the_explanation_agrees_with_the_match(specs, event_type, source):
    routes = Routes(
        RouteSpec(str(number), sinks, None if listed is None else types(*listed), sources, late)
        for number, (sinks, listed, sources, late) in enumerate(specs)
    )
    event = replace(EVENT, type=event_type, source=source)
    targets = routes.match(event)
    verdicts = routes.explain(event)
    assert [(t.route, t.sink) for t in targets] == [(v.route, sink) for v in verdicts for sink in v.sinks]
    assert len({target.sink for target in targets}) == len(targets)
    for target in targets:
        assert target.late is specs[int(target.route)][3]
