"""What a sink has of a subject, and who brings it again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.digests import subject_id
from worker.events import Event, OrderKey, OrderKind, Schema, Subject, UnixSeconds
from worker.unchanged import NOTHING, LastValues, changed_key, value_digest

NOW = UnixSeconds(1_000_000.0)
A, B = Subject("", "a"), Subject("", "b")
X, Y = b"x" * 16, b"y" * 16


def event(data: object) -> Event:
    return Event(Schema.EVENT_GRID, "1", "t", None, "a", None, data, {"data": data}, OrderKey(OrderKind.ARRIVAL, None))


def values(limit: int = 10) -> LastValues:
    return LastValues(memory_seconds=100, limit=limit)


def test_a_value_is_the_same_where_it_was_noted_and_only_there():
    known = values()
    known.note("out", A, X, now=NOW)
    assert known.has("out", A, X, now=NOW)
    assert not known.has("out", A, Y, now=NOW)
    assert not known.has("out", B, X, now=NOW)
    assert not known.has("other", A, X, now=NOW)


def test_the_last_value_counts_and_none_makes_it_unknown():
    known = values()
    for value in (X, Y):
        known.note("out", A, value, now=NOW)
    assert not known.has("out", A, X, now=NOW)
    known.note("out", A, NOTHING, now=NOW)
    assert not known.has("out", A, Y, now=NOW)
    assert not known.has("out", A, NOTHING, now=NOW)


def test_what_is_forgotten_of_a_digest_is_what_it_was_made_of():
    known = values()
    for sink, subject in ("out", A), ("out", B), ("other", A):
        known.note(sink, subject, X, now=NOW)
    mark = known.changes
    known.forget("out", {subject_id(A)}, now=NOW)
    assert [known.has(*place, X, now=NOW) for place in (("out", A), ("out", B), ("other", A))] == [False, True, True]
    later = values()
    later.restore([*values().rows(), *known.rows(since=mark)])
    assert [row.value for row in later.rows()] == [NOTHING]


def test_what_has_no_value_takes_no_room_where_nothing_is_known():
    known = values()
    known.note("out", A, NOTHING, now=NOW)
    known.note("out", B, X, now=NOW)
    known.note("out", A, NOTHING, now=NOW)
    assert (len(known), known.changes) == (1, 1)


def test_a_value_is_forgotten_after_its_time_and_the_oldest_when_there_are_too_many():
    known = values(limit=2)
    known.note("out", A, X, now=NOW)
    assert not known.has("out", A, X, now=UnixSeconds(NOW + 101))
    known.note("out", B, X, now=UnixSeconds(NOW + 101))
    assert len(known) == 1
    for name in "cd":
        known.note("out", Subject("", name), X, now=UnixSeconds(NOW + 101))
    assert len(known) == 2
    assert not known.has("out", B, X, now=UnixSeconds(NOW + 101))


places = st.tuples(st.sampled_from(["out", "other"]), st.sampled_from([A, B]), st.sampled_from([X, Y, NOTHING]))


@given(st.lists(places), st.lists(places))
def test_another_life_knows_the_same_from_all_rows_or_from_older_ones_and_those_since(before, after):
    first, second, third = values(), values(), values()
    for sink, subject, value in before:
        first.note(sink, subject, value, now=NOW)
    mark = first.changes
    second.restore(first.walk())
    for sink, subject, value in after:
        first.note(sink, subject, value, now=NOW)
    second.restore(first.rows(since=mark))
    third.restore(first.rows())
    for sink in ("out", "other"):
        for subject in (A, B):
            for value in (X, Y):
                expected = first.has(sink, subject, value, now=NOW)
                assert second.has(sink, subject, value, now=NOW) is expected
                assert third.has(sink, subject, value, now=NOW) is expected


@given(st.lists(places))
def test_it_is_what_a_dictionary_would_say(steps):
    known, naive = values(), {}
    for sink, subject, value in steps:
        known.note(sink, subject, value, now=NOW)
        naive[sink, subject] = value
        for (place, other), wanted in naive.items():
            for each in (X, Y, NOTHING):
                assert known.has(place, other, each, now=NOW) is (each == wanted != NOTHING)


def test_the_etag_is_found_in_any_case_and_in_no_other_place():
    names = changed_key("etag")
    assert value_digest(names, event({"eTag": "0x1"})) == value_digest(names, event({"etag": "0x1"}))
    assert value_digest(names, event({"eTag": "0x1"})) != value_digest(names, event({"eTag": "0x2"}))
    for data in ({}, {"eTag": None}, {"inner": {"eTag": "0x1"}}, None, "text", ["0x1"]):
        assert value_digest(names, event(data)) == NOTHING


def test_a_value_is_one_of_its_key_and_its_type():
    length, other = changed_key("data.contentLength"), changed_key("data.other")
    assert length == ("data", "contentLength")
    of_number = value_digest(length, event({"contentLength": 1}))
    assert of_number != value_digest(length, event({"contentLength": "1"}))
    assert of_number != value_digest(length, event({"contentLength": True}))
    assert of_number != value_digest(other, event({"other": 1}))
    tags = changed_key("data.tags")
    assert value_digest(tags, event({"tags": {"a": 1, "b": 2}})) == value_digest(
        tags, event({"tags": {"b": 2, "a": 1}})
    )


@pytest.mark.parametrize("text", ["", "ETAG", "subject", "database", "data.", "data..x", "id"])
def test_what_is_nothing_to_compare_by_is_refused(text: str):
    with pytest.raises(ValueError, match=r"nothing to compare by|cannot be read"):
        changed_key(text)
