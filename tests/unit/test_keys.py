"""What an event is compared by."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.events import Event, OrderKey, OrderKind, Schema
from worker.keys import (
    data_digest,
    duplicate_key,
    idempotency_key,
    look_up,
    normal_time,
    order_key,
    time_of_milliseconds,
)

TIME = "2017-06-26T18:41:00.9584103Z"
ARRIVAL = OrderKey(OrderKind.ARRIVAL, None)
RUN_STATUS_CHANGED = "Microsoft.MachineLearningServices.RunStatusChanged"
RUN_COMPLETED = "Microsoft.MachineLearningServices.RunCompleted"

EVENT = Event(
    schema=Schema.EVENT_GRID,
    id="831e1650-001e-001b-66ab-eeb76e069631",
    type="Microsoft.Storage.BlobCreated",
    source="/subscriptions/S/resourceGroups/Straße/providers/X",
    subject='/blobServices/default/containers/Ä/blobs/\t"quoted".txt',
    time=TIME,
    data={"api": "PutBlob", "size": 1},
    envelope={},
    order_key=OrderKey(OrderKind.TIME, TIME),
)


# ---- Sequencers


@st.composite
def written_sequencers(draw):
    """An integer of at most 256 bits with one of its spellings: any width that holds it, any case of each digit."""
    number = draw(st.integers(0, 2**256 - 1))
    digits = f"{number:x}"
    padded = digits.rjust(draw(st.integers(len(digits), 64)), "0")
    return number, "".join(draw(st.sampled_from((digit, digit.upper()))) for digit in padded)


@given(written_sequencers(), written_sequencers())
def test_sequencers_stand_in_the_order_of_their_integers_whatever_their_width_and_case(first, second):
    keys = [order_key("T", None, {"sequencer": text})[0] for _, text in (first, second)]
    assert all(key.kind is OrderKind.SEQUENCER and len(key.value) == 64 for key in keys)
    assert (keys[0].value < keys[1].value) == (first[0] < second[0])
    assert (keys[0].value == keys[1].value) == (first[0] == second[0])


@pytest.mark.parametrize("name", ["sequencer", "Sequencer", "SEQUENCER"])
def test_a_sequencer_is_found_in_any_case_and_is_stronger_than_the_time(name):
    key, defect = order_key("T", TIME, {"other": 1, name: "00EB"})
    assert key == OrderKey(OrderKind.SEQUENCER, "eb".rjust(64, "0"))
    assert defect is None


@pytest.mark.parametrize(
    "sequencer",
    ["", "0" * 65, "0x1f", "12g4", " 1f", "1f\n", "1_f", "-1f", "١٢", "\uff11", 42, 4.2, True, ["1f"], {"a": 1}],
)
def test_an_unusable_sequencer_falls_back_to_time_and_is_told(sequencer):
    assert order_key("T", TIME, {"sequencer": sequencer}) == (OrderKey(OrderKind.TIME, TIME), "sequencer")


@pytest.mark.parametrize("data", [None, [], "text", b"bytes", 5, {}, {"sequencer": None}, {"a": {"sequencer": "1"}}])
def test_data_without_a_sequencer_is_ordered_by_time_without_a_defect(data):
    assert order_key("T", TIME, data) == (OrderKey(OrderKind.TIME, TIME), None)


# ---- Times


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (TIME, TIME),
        ("2019-10-17T22:23:57.5350054+00:00", "2019-10-17T22:23:57.5350054Z"),
        ("2019-10-20T17:08:08.467191+00:00", "2019-10-20T17:08:08.4671910Z"),
        ("2019-05-31T20:05:03Z", "2019-05-31T20:05:03.0000000Z"),
        ("2019-05-31T20:05:03", "2019-05-31T20:05:03.0000000Z"),
        ("2019-05-31t20:05:03z", "2019-05-31T20:05:03.0000000Z"),
        ("2019-05-31 20:05:03-0130", "2019-05-31T21:35:03.0000000Z"),
        ("2018-01-25T22:12:19.45568119999", "2018-01-25T22:12:19.4556811Z"),
        ("2020-03-01T00:30:00.0000001+01:00", "2020-02-29T23:30:00.0000001Z"),
        ("2021-12-31T23:59:59.9999999-00:01", "2022-01-01T00:00:59.9999999Z"),
        ("2000-02-29T00:00:00Z", "2000-02-29T00:00:00.0000000Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.0000000Z"),
        ("9999-12-31T23:59:59.9999999Z", "9999-12-31T23:59:59.9999999Z"),
    ],
)
def test_a_time_is_brought_to_utc_with_seven_digits(text, normal):
    assert normal_time(text) == normal
    assert order_key("T", text, None) == (OrderKey(OrderKind.TIME, normal), None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2016-12-31T23:59:60Z",
        "2016-12-31T23:59:60.0000000Z",
        "2019-02-29T00:00:00.0000000Z",
        "1900-02-29T00:00:00Z",
        "2019-04-31T00:00:00.0000000Z",
        "2019-00-10T00:00:00.0000000Z",
        "2019-13-10T00:00:00.0000000Z",
        "2019-01-00T00:00:00.0000000Z",
        "2019-01-01T24:00:00Z",
        "2019-01-01T23:60:00Z",
        "0000-01-01T00:00:00.0000000Z",
        "0000-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "2019-01-01T00:00:00+24:00",
        "2019-01-01T00:00:00+01:60",
        "2019-01-01T00:00:00.Z",
        "2019-01-01",
        "2019-01-01T00:00:00.0000000Z\n",
        " 2019-01-01T00:00:00.0000000Z",
        "2019-01-01T00:00:00.0000000Z/9",
        "٢٠١٩-01-01T00:00:00.0000000Z",
        "1546300800",
    ],
)
def test_a_time_that_cannot_be_read_means_arrival_and_is_told(text):
    assert normal_time(text) is None
    assert order_key("T", text, None) == (ARRIVAL, "time")


def test_an_event_without_a_time_is_ordered_by_arrival_without_a_defect():
    assert order_key("T", None, None) == (ARRIVAL, None)


def test_of_two_defects_the_one_of_the_stronger_key_is_told():
    assert order_key("T", "never", {"sequencer": "?"}) == (ARRIVAL, "sequencer")


@st.composite
def written_times(draw):
    """A moment in units of 100 ns since year 1 with one of its spellings."""
    local = draw(st.datetimes())
    last_digit = draw(st.integers(0, 9))
    offset_minutes = draw(st.integers(-(24 * 60 - 1), 24 * 60 - 1) | st.just(0))
    sign, (hours, minutes) = "+" if offset_minutes >= 0 else "-", divmod(abs(offset_minutes), 60)
    zone = f"{sign}{hours:02}:{minutes:02}" if offset_minutes else draw(st.sampled_from(["Z", "", "+00:00", "-00:00"]))
    text = f"{local.isoformat(timespec='microseconds')}{last_digit}{zone}"
    ticks = (local - datetime.min) // timedelta(microseconds=1) * 10 + last_digit - offset_minutes * 60 * 10**7  # noqa: DTZ901 - naive on both sides
    return ticks, text


LAST_TICK = (datetime.max - datetime.min) // timedelta(microseconds=1) * 10 + 9  # noqa: DTZ901 - naive on both sides


@given(written_times())
def test_a_normal_time_is_the_moment_that_the_datetime_library_finds(written):
    ticks, text = written
    normal = normal_time(text)
    if 0 <= ticks <= LAST_TICK:
        moment = datetime.min + timedelta(microseconds=ticks // 10)  # noqa: DTZ901 - as above
        assert normal == f"{moment.isoformat(timespec='microseconds')}{ticks % 10}Z"
    else:
        assert normal is None


@given(written_times(), written_times())
def test_times_stand_in_the_order_of_their_moments(first, second):
    keys = [order_key("T", text, None)[0] for _, text in (first, second)]
    if all(key.kind is OrderKind.TIME for key in keys):
        assert (keys[0].value < keys[1].value) == (first[0] < second[0])


@given(st.text())
def test_any_text_is_a_time_or_is_not(text):
    normal = normal_time(text)
    assert normal is None or normal_time(normal) == normal


@given(st.datetimes(timezones=st.just(UTC)))
def test_an_amqp_timestamp_is_the_moment_that_the_datetime_library_finds(moment):
    milliseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    cut = moment.replace(microsecond=moment.microsecond // 1000 * 1000, tzinfo=None)
    assert time_of_milliseconds(milliseconds) == f"{cut.isoformat(timespec='microseconds')}0Z"


@pytest.mark.parametrize("milliseconds", [-(2**63), 2**63 - 1, -62_135_596_800_001, 253_402_300_800_000])
def test_an_amqp_timestamp_outside_the_calendar_has_no_text(milliseconds):
    assert time_of_milliseconds(milliseconds) is None


# ---- Azure ML runs


@pytest.mark.parametrize(
    ("event_type", "data", "rank"),
    [
        (RUN_STATUS_CHANGED, None, 0),
        (RUN_STATUS_CHANGED, {}, 0),
        (RUN_STATUS_CHANGED, {"runStatus": "Paused"}, 0),
        (RUN_STATUS_CHANGED, {"runStatus": 8}, 0),
        (RUN_STATUS_CHANGED, {"runStatus": "NotStarted"}, 1),
        (RUN_STATUS_CHANGED, {"runStatus": "Queued"}, 2),
        (RUN_STATUS_CHANGED, {"runStatus": "Preparing"}, 2),
        (RUN_STATUS_CHANGED, {"runStatus": "Provisioning"}, 2),
        (RUN_STATUS_CHANGED, {"runStatus": "Starting"}, 2),
        (RUN_STATUS_CHANGED, {"runStatus": "Running"}, 3),
        (RUN_STATUS_CHANGED, {"runStatus": "CancelRequested"}, 4),
        (RUN_STATUS_CHANGED, {"runStatus": "Finalizing"}, 5),
        (RUN_STATUS_CHANGED, {"runStatus": "Completed"}, 8),
        (RUN_STATUS_CHANGED, {"runStatus": "failed"}, 8),
        (RUN_STATUS_CHANGED.lower(), {"RunStatus": "CANCELED"}, 8),
        (RUN_STATUS_CHANGED, {"runStatus": "NotResponding"}, 8),
        (RUN_COMPLETED, {"runStatus": "Running"}, 9),
        (RUN_COMPLETED.upper(), None, 9),
    ],
)
def test_states_of_a_run_with_one_time_are_told_apart_by_their_rank(event_type, data, rank):
    assert order_key(event_type, TIME, data)[0].value == f"{TIME}/{rank}"


def test_only_runs_have_a_rank_and_only_where_time_orders_them():
    assert (
        order_key("Microsoft.MachineLearningServices.ModelRegistered", TIME, {"runStatus": "Failed"})[0].value == TIME
    )
    assert order_key(RUN_COMPLETED, TIME, {"sequencer": "1"})[0].value == "1".rjust(64, "0")
    assert order_key(RUN_COMPLETED, None, {}) == (ARRIVAL, None)


# ---- Names in `data`


def test_the_exact_name_wins_and_else_the_first_that_differs_in_case_only():
    fields = {"RUNTAGS": 1, "RunTags": 2, "runTags": None}
    assert look_up(fields, "RunTags") == 2
    assert look_up(fields, "runTags") is None
    assert look_up(fields, "runtags") == 1
    assert look_up(fields, "tags") is None


# ---- Identity


def test_the_idempotency_key_is_pinned():
    """Literals: sha256 over the compact JSON text of the parts, computed without this project's code."""
    text = (
        '["v1","/subscriptions/s/resourcegroups/strasse/providers/x","831e1650-001e-001b-66ab-eeb76e069631",'
        '"Microsoft.Storage.BlobCreated","/blobServices/default/containers/Ä/blobs/\\t\\"quoted\\".txt","time",'
        '"2017-06-26T18:41:00.9584103Z","oncall"]'
    )
    assert sha256(text.encode()).hexdigest() == PINNED
    assert idempotency_key(EVENT, "oncall") == PINNED
    assert idempotency_key(EVENT, "oncall", "00ff") == PINNED_WITH_DIGEST
    assert idempotency_key(NAMELESS, "out") == PINNED_NAMELESS


NAMELESS = replace(EVENT, source=None, subject=None, time=None, order_key=ARRIVAL)
PINNED = "d224f9a7989c7349e8b52c01696f0b4c49f234f19fab56982e83928bc92f0ab0"
PINNED_WITH_DIGEST = "0b9ee71440cc1792439b52e6625b3cc7a73ea13798713a261214ce46f2f3cf56"
PINNED_NAMELESS = "30aa2307e39010b576c889958c01d80e184c07b294c99fde807684ee29f6b356"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
events = st.builds(
    Event,
    schema=st.sampled_from(Schema),
    id=texts,
    type=texts,
    source=texts | st.none(),
    subject=texts | st.none(),
    time=st.none(),
    data=st.none(),
    envelope=st.just({}),
    order_key=st.builds(OrderKey, st.sampled_from(OrderKind), texts | st.none()),
)


def parts(event: Event) -> list[str | None]:
    source = None if event.source is None else event.source.casefold()
    return ["v1", source, event.id, event.type, event.subject, str(event.order_key.kind), event.order_key.value]


@given(events, texts, st.sampled_from(["", "00ff"]))
def test_the_idempotency_key_is_the_hash_of_the_documented_array(event, sink, digest):
    array = [*parts(event), sink, *([digest] if digest else [])]
    text = json.dumps(array, separators=(",", ":"), ensure_ascii=False)
    assert idempotency_key(event, sink, digest) == sha256(text.encode()).hexdigest()


@given(events, events)
def test_two_events_share_a_duplicate_key_only_when_all_their_parts_agree(first, second):
    assert (duplicate_key(first) == duplicate_key(second)) == (parts(first) == parts(second))


def test_parts_do_not_run_into_each_other():
    assert duplicate_key(replace(EVENT, id="ab", type="c")) != duplicate_key(replace(EVENT, id="a", type="bc"))
    assert duplicate_key(replace(EVENT, subject=None)) != duplicate_key(replace(EVENT, subject=""))


def test_a_copy_with_another_case_of_the_source_or_other_data_has_the_same_duplicate_key():
    copy = replace(EVENT, source=EVENT.source.upper().replace("SS", "ß"), data={}, envelope={"x": 1}, time=None)
    assert duplicate_key(copy) == duplicate_key(EVENT)
    assert len(duplicate_key(EVENT)) == 16


@pytest.mark.parametrize(
    "change", [{"id": "other"}, {"type": "other"}, {"subject": "other"}, {"source": "other"}, {"order_key": ARRIVAL}]
)
def test_each_part_makes_another_event(change):
    other = replace(EVENT, **change)
    assert duplicate_key(other) != duplicate_key(EVENT)
    assert idempotency_key(other, "s") != idempotency_key(EVENT, "s")
    assert idempotency_key(EVENT, "s") != idempotency_key(EVENT, "t")


def test_the_data_digest_does_not_see_the_order_of_names():
    first = replace(EVENT, data={"a": 1, "b": {"c": 2, "d": [1, 2]}})
    second = replace(EVENT, data={"b": {"d": [1, 2], "c": 2}, "a": 1})
    assert data_digest(first) == data_digest(second)


def test_different_data_has_different_digests():
    values = [None, "", b"", "null", b"null", 1, "1", True, [], {}, [1, 2], [2, 1], {"a": None}, b'"null"', b"\0"]
    digests = {data_digest(replace(EVENT, data=value)) for value in values}
    assert len(digests) == len(values)
    assert all(len(digest) == 32 for digest in digests)
