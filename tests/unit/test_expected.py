"""What was expected against what came: each delivery has its expectation, and each subject its order."""

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.deliveries import ELEMENT, delivery_of
from worker.casebook import Case, Expectation
from worker.config import Routing
from worker.events import UnixSeconds
from worker.expected import Comparison, compare, differences
from worker.filters import compile_filter
from worker.rehearsal import Came, Performance
from worker.route import Routes, RouteSpec

RUNS = compile_filter({"includedEventTypes": ["Some.Run"]})
SPECS = (RouteSpec("runs", ("out",), RUNS), RouteSpec("all", ("audit",)))
ROUTING = Routing(Path("routes.yaml"), (), SPECS, Routes(SPECS))


def came(event_id: str, *, subject: str = "a", sink: str = "out", **given: Any) -> Came:
    event = delivery_of(ELEMENT | {"subject": subject, "id": event_id}).released.placed.event
    return Came(0.0, sink, given.pop("route", "runs"), event, **given)


def wanted(**keys: Any) -> Expectation:
    return Expectation.model_validate({"sink": "out", **keys})


def compared(expect: list[Expectation], them: list[Came], *, ignore: tuple[str, ...] = (), **given: Any) -> Comparison:
    lines = tuple(range(len(expect)))
    case = Case(Path("t.yaml"), 1, "case", UnixSeconds(0.0), (), tuple(expect), lines, frozenset(ignore))
    return compare(case, Performance(came=them, **given), ROUTING)


def by_id(*ids: str) -> list[Expectation]:
    return [wanted(event={"id": each}) for each in ids]


def test_what_is_expected_and_nothing_else_passes():
    assert compared(by_id("1", "2"), [came("1"), came("2")]).passed
    assert compared([], []).passed


def test_what_is_missing_and_what_is_too_much_is_named():
    result = compared(by_id("1", "2"), [came("1"), came("3")])
    [missing], [extra] = result.missing, result.unexpected
    assert missing.which == 1
    assert extra.event is not None
    assert extra.event.id == "3"
    assert missing.nearest is extra
    assert missing.differences == ('event.id is "3", not "2"',)
    assert not result.passed


def test_events_of_one_subject_must_come_in_the_order_of_the_expectations():
    result = compared(by_id("2", "1"), [came("1"), came("2")])
    assert [each.event.id for each in result.disordered if each.event] == ["1", "2"]
    assert not result.missing
    assert not result.unexpected
    assert not result.passed


def test_between_subjects_and_between_sinks_any_order_will_do():
    them = [came("1"), came("2", subject="b"), came("3", sink="audit")]
    expect = [*by_id("1", "2"), wanted(sink="audit", event={"id": "3"})]
    assert all(compared(list(each), them).passed for each in permutations(expect))


def test_dead_letters_have_no_order():
    them = [came("1", dead_letter="late"), came("2", dead_letter="late")]
    expect = [wanted(dead_letter="late", event={"id": each}) for each in ("2", "1")]
    assert compared(expect, them).passed


def test_an_expectation_that_fits_many_leaves_to_another_the_one_that_it_needs():
    them = [came("1"), came("2", subject="b")]
    assert compared([wanted(), *by_id("1")], them).passed


def test_an_ignored_sink_is_looked_at_only_where_it_is_named():
    them = [came("1", sink="audit")]
    assert compared([], them, ignore=("audit",)).passed
    assert not compared([], them).passed
    assert not compared([wanted(sink="audit", event={"id": "2"})], them, ignore=("audit",)).passed


@settings(max_examples=40)
@given(st.lists(st.sampled_from("abc"), max_size=8), st.randoms(use_true_random=False))
def test_what_came_in_the_order_of_each_subject_passes_however_subjects_are_mixed(subjects, random):
    them = [came(str(index), subject=subject) for index, subject in enumerate(subjects)]
    expect = [wanted(event={"subject": subject}) for subject in subjects]
    random.shuffle(expect)
    assert compared(expect, them).passed
    assert len(compared(expect, them[1:]).missing) == min(1, len(them))


PLACES = st.tuples(st.sampled_from("ab"), st.sampled_from("12"))
PATTERNS = st.one_of(
    st.just({}),
    st.sampled_from("ab").map(lambda subject: {"subject": subject}),
    st.sampled_from("12").map(lambda event_id: {"id": event_id}),
)


@settings(max_examples=60)
@given(st.lists(PLACES, max_size=5), st.lists(PATTERNS, max_size=5))
def test_a_case_passes_when_there_is_any_way_to_say_which_delivery_is_which_expectations(places, patterns):
    them = [came(event_id, subject=subject) for subject, event_id in places]
    expect = [wanted(event=pattern) for pattern in patterns]

    def is_a_way(order) -> bool:
        fits = all(not any(differences(*pair)) for pair in zip(expect, (them[index] for index in order), strict=True))
        lanes = [[index for index in order if places[index][0] == subject] for subject in "ab"]
        return fits and all(lane == sorted(lane) for lane in lanes)

    ways = len(them) == len(expect) and any(map(is_a_way, permutations(range(len(them)))))
    result = compared(expect, them)
    assert result.passed == ways
    assert len(result.missing) - len(result.unexpected) == len(expect) - len(them)


@pytest.mark.parametrize(
    ("part", "data", "said"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, []),
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": {}}, {"a": {"b": 1}}, []),
        ({"a": 1}, {"a": True}, ["event.data.a is true, not 1"]),
        ({"a": True}, {"a": 1}, ["event.data.a is 1, not true"]),
        ({"a": None}, {"a": None}, []),
        ({"a": None}, {}, ["event.data.a is not there"]),
        ({"a": {"b": 1}}, {"a": "text"}, ['event.data.a is "text", not {"b": 1}']),
        ({"a": [{"b": 1}]}, {"a": [{"b": 1, "c": 2}]}, []),
        ({"a": [1]}, {"a": [1, 2]}, ["event.data.a has 2 items, not 1"]),
        ({"a": [1, 3]}, {"a": [1, 2]}, ["event.data.a[1] is 2, not 3"]),
    ],
)
def test_of_objects_the_named_keys_count_and_of_lists_every_item(part, data, said):
    event = delivery_of(ELEMENT | {"data": data}).released.placed.event
    it = Came(0.0, "out", "runs", event)
    assert list(differences(wanted(event={"data": part}), it)) == said


def test_late_is_looked_at_also_where_it_is_left_out():
    late, in_turn = came("1", late_by_ms=500), came("1")
    assert list(differences(wanted(), late)) == ["it is late, by 500 ms"]
    assert list(differences(wanted(late=True), late)) == []
    assert list(differences(wanted(late=True), in_turn)) == ["it is in its turn, not late"]
    assert list(differences(wanted(dead_letter="late"), came("1", dead_letter="late"))) == []


def test_what_a_quiet_sink_tells_together_is_expected_as_a_digest_and_the_hint_says_so():
    data = {"count": 1, "events": [{"id": "1"}]}
    event = delivery_of(ELEMENT | {"id": "d", "eventType": "Worker.Digest", "data": data}).released.placed.event
    digest = Came(0.0, "out", "runs", event)
    hint = "it is a digest, because the sink is quiet: expect `digest: [{…}]` in place of `event: {…}`"
    assert list(differences(wanted(event={"id": "1"}), digest)) == [hint, 'event.id is "d", not "1"']
    assert list(differences(wanted(event={"data": {"count": 1}}), digest)) == []
    assert list(differences(wanted(digest=[{"id": "1"}]), digest)) == []


def test_a_dead_letter_is_no_delivery_and_has_its_reason():
    letter = came("1", dead_letter="late")
    assert list(differences(wanted(), letter)) == ["it is a dead letter (late); expected that it is delivered"]
    assert len(list(differences(wanted(dead_letter="muted"), letter))) == 1


def test_a_route_that_did_not_take_an_event_says_why_it_is_missing():
    event = delivery_of(ELEMENT | {"id": "7", "eventType": "Other"}).released.placed.event
    [missing] = compared(by_id("7"), [], routed=[event]).missing
    assert missing.nearest is None
    assert missing.reasons == ('7: runs: the type is "Other", which includedEventTypes does not name',)
