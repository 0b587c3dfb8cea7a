"""The index of the routes: an event is held against few of them, and the answer is that of asking each."""

from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.test_route import EVENT, sinks
from worker.events import Event
from worker.filters import Filter, compile_filter
from worker.route import Late, Routes, RouteSpec, Target, folded_source

# ß folds to two letters and İ to two code points: what is cut at a length must have been folded before.
TEXTS = ["", "/", "a", "/a", "A/", "/a/b", "a/b/c", "/ß", "SS", "ßa", "İ", "/i̇x", "ab"]
TYPES = ["T", "t", "U", "ß"]


def asked_one_by_one(specs: list[RouteSpec], event: Event) -> tuple[Target, ...]:
    """What the routes mean, without an index."""
    targets: dict[str, Target] = {}
    for spec in specs:
        if spec.sources is not None and (
            event.source is None or folded_source(event.source) not in map(folded_source, spec.sources)
        ):
            continue
        if spec.filter is None or spec.filter.matches(event):
            for sink in spec.sinks:
                targets.setdefault(sink, Target(spec.name, sink, spec.late, spec.only == "latest", spec.changed))
    return tuple(targets.values())


def of(raw: dict[str, object]) -> Filter:
    return compile_filter({name: value for name, value in raw.items() if value is not None})


filters = st.none() | st.builds(
    of,
    st.fixed_dictionaries(
        {
            "includedEventTypes": st.none() | st.lists(st.sampled_from([*TYPES, "All"]), max_size=3),
            "subjectBeginsWith": st.none() | st.sampled_from(TEXTS),
            "subjectEndsWith": st.none() | st.sampled_from(["", "b", "C"]),
            "isSubjectCaseSensitive": st.none() | st.booleans(),
            "advancedFilters": st.none()
            | st.just([{"operatorType": "StringBeginsWith", "key": "subject", "values": ["a"]}]),
        }
    ),
)
specs = st.lists(
    st.builds(
        RouteSpec,
        name=st.sampled_from("mnopqrst"),
        sinks=st.lists(st.sampled_from("abcd"), min_size=1, max_size=2).map(tuple),
        filter=filters,
        sources=st.none() | st.sampled_from([("/s",), ("/S/", "/t"), ()]),
        late=st.sampled_from(Late),
        only=st.sampled_from([None, "latest"]),
        changed=st.sampled_from([None, ("data", "etag")]),
    ),
    max_size=12,
)
events = st.builds(
    lambda event_type, subject, source: replace(
        EVENT, type=event_type, subject=subject, source=source, envelope={"subject": subject}
    ),
    st.sampled_from([*TYPES, "SS", "V"]),
    st.none() | st.sampled_from([*TEXTS, "A/B", "//a", "/a/bc", "ssa", "i̇x"]),
    st.sampled_from(["/s", "/S/", "/T", None]),
)


@given(specs, events)
@example([RouteSpec("long", ("a",), of({"subjectBeginsWith": "a/b"})), RouteSpec("all", ("a",))], EVENT)
def test_the_targets_are_those_of_asking_every_route(specs, event):
    assert Routes(specs).match(event) == asked_one_by_one(specs, event)


class Counting(Filter):
    """A filter that says when it is asked."""

    def matches(self, event: Event) -> bool:
        asked.append(self)
        return super().matches(event)


asked: list[Filter] = []


def counting(raw: dict[str, object]) -> Filter:
    compiled = of(raw)
    return Counting(compiled.event_types, compiled.conditions, compiled.groups)


def test_an_event_is_held_against_no_filter_that_its_type_or_the_beginning_of_its_subject_rules_out():
    filters = [
        counting({"includedEventTypes": types, "subjectBeginsWith": beginning, "isSubjectCaseSensitive": exact})
        for types in (None, ["T"], ["U", "V"])
        for beginning in (None, "A", "/a/B", "a/bcd", "b")
        for exact in (False, True)
    ]
    asked.clear()
    routes = Routes(RouteSpec(str(number), ("s",), each) for number, each in enumerate(filters))
    routes.match(replace(EVENT, type="t", subject="a/b"))
    # Of the first two kinds of types, those that name no beginning, A, or /a/B, in both ways of the case.
    assert asked == [*filters[0:6], *filters[10:16]]


def test_the_case_of_a_subject_rules_out_no_route_whose_beginning_has_another():
    routes = Routes([RouteSpec("any", ("a",), of({"subjectBeginsWith": "models/ss"}))])
    exact = Routes([RouteSpec("exact", ("a",), of({"subjectBeginsWith": "Models/", "isSubjectCaseSensitive": True}))])
    assert sinks(routes, replace(EVENT, subject="Models/ß")) == ["a"]
    assert sinks(exact, replace(EVENT, subject="Models/x")) == ["a"]
    assert sinks(exact, replace(EVENT, subject="models/x")) == []


def test_the_index_does_not_grow_with_what_it_is_asked():
    everywhere, somewhere = counting({}), counting({"subjectBeginsWith": "a"})
    routes = Routes([RouteSpec("everywhere", ("a",), everywhere), RouteSpec("somewhere", ("b",), somewhere)])
    asked.clear()
    for _ in range(3):
        routes.match(replace(EVENT, subject="a/b"))
    assert asked == [everywhere, somewhere] * 3
    asked.clear()
    routes.match(replace(EVENT, subject="b"))
    assert asked == [everywhere]


def test_a_route_is_asked_once_where_another_wants_more_than_the_subject_has():
    short, long = counting({"subjectBeginsWith": "a"}), counting({"subjectBeginsWith": "a/b/c"})
    asked.clear()
    routes = Routes([RouteSpec("short", ("a",), short), RouteSpec("long", ("b",), long)])
    assert sinks(routes, replace(EVENT, subject="a")) == ["a"]
    assert asked == [short]
