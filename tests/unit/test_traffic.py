"""What `worker.local.traffic` promises to whoever sends it and to whoever checks the result."""

from collections import Counter, defaultdict
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.errors import ConfigError
from worker.local.traffic import TrafficMessage, TrafficOptions, generate

STARTED_AT = datetime(2024, 3, 11, 8, tzinfo=UTC)


def traffic(count=300, **options) -> list[TrafficMessage]:
    return generate(TrafficOptions(count=count, started_at=STARTED_AT, **options))


def elements(message: TrafficMessage) -> list[dict]:
    body = orjson.loads(message.body)
    return body if isinstance(body, list) else [body]


def told(messages: list[TrafficMessage]) -> list[tuple]:
    """Each event with its envelope, in the order sent."""
    return [pair for message in messages for pair in zip(message.events, elements(message), strict=True)]


def first_sent(messages: list[TrafficMessage]) -> list[TrafficMessage]:
    return [message for message in messages if not message.resent and message.damage is None]


def test_the_same_seed_gives_the_same_messages_and_another_seed_others():
    options = {"disorder": 20, "duplicates_percent": 5, "malformed_percent": 5, "arrays_percent": 10}
    assert traffic(seed=7, **options) == traffic(seed=7, **options)
    assert traffic(seed=7, **options) != traffic(seed=8, **options)


@settings(max_examples=40, deadline=None)
@given(disorder=st.integers(0, 80), seed=st.integers(0, 2**32), arrays=st.sampled_from([0, 30]))
def test_no_message_is_displaced_by_more_than_the_disorder(disorder, seed, arrays):
    true_order = traffic(arrays_percent=arrays, seed=seed)
    sent = first_sent(
        traffic(disorder=disorder, arrays_percent=arrays, duplicates_percent=10, malformed_percent=10, seed=seed)
    )
    place = {message.body: number for number, message in enumerate(true_order)}
    assert len(sent) == len(true_order)
    assert all(abs(place[message.body] - number) <= disorder for number, message in enumerate(sent))


def test_disorder_puts_events_of_one_subject_behind_later_ones():
    newest = defaultdict(lambda: -1)
    overtaken = 0
    for event, _ in told(traffic(2000, disorder=50)):
        overtaken += event.index < newest[event.subject]
        newest[event.subject] = max(newest[event.subject], event.index)
    assert overtaken > 200


@settings(max_examples=40, deadline=None)
@given(count=st.integers(0, 400), subjects=st.integers(1, 60), arrays=st.sampled_from([0, 50, 100]))
def test_there_are_exactly_as_many_events_and_subjects_as_asked_for(count, subjects, arrays):
    events = [event for event, _ in told(traffic(count, subjects=subjects, arrays_percent=arrays))]
    assert len({event.id for event in events}) == len(events) == count
    assert len({event.subject for event in events}) == min(subjects, count)
    for indexes in _indexes_by_subject(events).values():
        assert indexes == list(range(len(indexes)))


def _indexes_by_subject(events) -> dict[str, list[int]]:
    indexes = defaultdict(list)
    for event in events:
        indexes[event.subject].append(event.index)
    return indexes


def test_times_have_seven_digits_and_grow_with_the_true_order():
    times = [envelope.get("eventTime") or envelope["time"] for _, envelope in told(traffic(2000))]
    assert all(len(time) == len("2024-03-11T08:00:00.1234567Z") and time.endswith("Z") for time in times)
    assert times == sorted(set(times))


def test_sequencers_of_a_blob_grow_as_numbers_have_gaps_and_mixed_case():
    by_subject = defaultdict(list)
    for event, envelope in told(traffic(5000)):
        if "sequencer" in envelope["data"]:
            by_subject[event.subject].append(envelope["data"]["sequencer"])
    sequencers = [text for texts in by_subject.values() for text in texts]
    assert {len(text) for text in sequencers} == {48}
    assert any(text != text.lower() for text in sequencers)
    assert any(text != text.upper() for text in sequencers)
    assert max(len(texts) for texts in by_subject.values()) > 3
    for texts in by_subject.values():
        numbers = [int(text, 16) for text in texts]
        assert numbers == sorted(set(numbers))


def test_a_run_goes_through_its_states_and_only_a_completed_one_has_completed():
    runs = defaultdict(list)
    for event, _ in told(traffic(4000)):
        if event.subject.startswith("experiments/"):
            runs[event.subject].append(event.data.get("runStatus", "RunCompleted event"))
    endings = Counter()
    for states in runs.values():
        way = ["NotStarted", "Queued", "Preparing", "Running", "Finalizing"]
        assert states[:5] == way[: len(states)]
        endings[tuple(states[5:])] += 1
    assert {("Completed", "RunCompleted event"), ("Failed",), ("Canceled",)} <= set(endings)
    assert set(endings) <= {(), ("Completed",), ("Completed", "RunCompleted event"), ("Failed",), ("Canceled",)}


def test_the_facts_beside_a_message_are_those_of_its_body():
    for event, envelope in told(traffic(1000, arrays_percent=20, disorder=10)):
        assert envelope["id"] == event.id
        assert envelope["subject"] == event.subject
        assert envelope.get("eventType", envelope.get("type")) == event.type
        assert envelope.get("topic", envelope.get("source")).casefold() == event.source.casefold()
        assert envelope["data"] == event.data


def test_both_schemas_occur_but_a_subject_keeps_to_one():
    schemas = defaultdict(set)
    for event, envelope in told(traffic(2000)):
        schemas[event.subject].add("specversion" in envelope)
    assert all(len(found) == 1 for found in schemas.values())
    cloud_events = sum(True in found for found in schemas.values())
    assert 0.05 < cloud_events / len(schemas) < 0.3


def test_an_event_grid_message_is_an_array_and_a_cloud_event_an_object_unless_arrays_are_asked_for():
    for message in traffic(1000):
        is_object = message.content_type.startswith("application/cloudevents+json")
        assert isinstance(orjson.loads(message.body), dict) == is_object
    lengths = Counter(len(message.events) for message in traffic(1000, arrays_percent=50))
    assert set(lengths) == {1, 2, 3, 4}


def test_the_partition_key_is_the_subject_of_every_event_in_the_message():
    for message in traffic(1000, arrays_percent=50):
        assert {event.subject for event in message.events} == {message.partition_key}


@pytest.mark.parametrize("percent", [0, 2, 100])
def test_the_stated_share_is_sent_again_after_its_original_and_byte_for_byte(percent):
    messages = traffic(1000, duplicates_percent=percent, disorder=50)
    assert sum(message.resent for message in messages) == 10 * percent
    seen = {}
    for message in messages:
        if message.resent:
            original = seen[message.body]
            assert (message.events, message.partition_key) == (original.events, original.partition_key)
        else:
            assert message.body not in seen
            seen[message.body] = message


def test_damaged_messages_are_of_many_kinds_all_different_and_spread_over_the_whole():
    messages = traffic(1000, malformed_percent=4)
    damaged = [message for message in messages if message.damage]
    places = [number for number, message in enumerate(messages) if message.damage]
    assert len(damaged) == len({message.body for message in damaged}) == 40
    assert len({message.damage for message in damaged}) == 10
    assert not any(message.events for message in damaged)
    assert places[0] < 200
    assert places[-1] > 800


def test_events_are_as_large_as_real_ones():
    sizes = sorted(len(message.body) for message in traffic(2000))
    assert 700 <= sizes[len(sizes) // 2] <= 1000
    assert sizes[0] > 400
    assert sizes[-1] < 1500


def test_all_mistakes_in_the_options_are_told_at_once():
    with pytest.raises(ConfigError) as refused:
        traffic(-1, subjects=0, disorder=-2, duplicates_percent=101)
    assert [mistake.split(":")[0] for mistake in refused.value.mistakes] == [
        "count",
        "subjects",
        "disorder",
        "duplicates",
    ]
