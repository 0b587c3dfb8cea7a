"""Bytes to events, or to a reason why not."""

import base64
import json
from pathlib import Path
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.decode import MAX_DEPTH, BadReason, decode
from worker.events import BadEvent, Event, Message, OrderKey, OrderKind, PartitionId, Schema, UnixSeconds

SAMPLES = Path(__file__).parents[1] / "samples"

GRID = {
    "id": "1",
    "eventType": "T",
    "topic": "/topics/t",
    "subject": "s",
    "eventTime": "2017-06-26T18:41:00.9584103Z",
    "data": {"a": 1},
    "dataVersion": "2",
    "metadataVersion": "1",
}
CLOUD = {
    "specversion": "1.0",
    "id": "1",
    "type": "T",
    "source": "/topics/t",
    "subject": "s",
    "time": "2017-06-26T18:41:00.9584103Z",
    "data": {"a": 1},
    "extension": 5,
}
BINARY = {
    "cloudEvents:specversion": "1.0",
    "cloudEvents:id": "1",
    "cloudEvents:type": "T",
    "cloudEvents:source": "/topics/t",
    "cloudEvents:subject": "s",
    "cloudEvents:time": "2017-06-26T18:41:00.9584103Z",
    "cloudEvents:extension": 5,
    "aeg-delivery-count": "0",
}


def message(body: bytes, **fields) -> Message:
    return Message(PartitionId("0"), sequence_number=7, offset="70", enqueued_at=UnixSeconds(0.0), body=body, **fields)


def decode_json(value: object) -> list[Event | BadEvent]:
    return decode(message(orjson.dumps(value)))


def decode_one(value: object) -> Event | BadEvent:
    [entry] = decode_json(value)
    return entry


def without(event: dict, *names: str) -> dict:
    return {name: value for name, value in event.items() if name not in names}


def assert_bad(entry: Event | BadEvent, reason: BadReason) -> None:
    assert isinstance(entry, BadEvent)
    assert entry.reason == reason
    assert entry.detail.endswith(".")


# ---- Samples


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_every_sample_is_an_event_of_the_schema_its_name_says(path):
    [event] = decode(message(path.read_bytes()))
    assert isinstance(event, Event)
    assert event.schema.value == path.stem.rsplit(".", 1)[1]
    assert event.order_key.kind is not OrderKind.ARRIVAL
    assert event.order_defect is None
    written = json.loads(path.read_bytes())
    [element] = written if isinstance(written, list) else [written]
    assert event.envelope == element
    assert (event.id, event.subject) == (element["id"], element.get("subject"))


@pytest.mark.parametrize("path", sorted((SAMPLES / "bodies").glob("*.json")), ids=lambda path: path.stem)
def test_every_sample_body_has_an_event_per_element(path):
    written = json.loads(path.read_bytes())
    events = decode(message(path.read_bytes()))
    assert all(isinstance(event, Event) for event in events)
    assert [event.id for event in events] == [e["id"] for e in (written if isinstance(written, list) else [written])]


# ---- Envelopes


def test_an_event_grid_event_is_read_by_its_own_names():
    assert decode_one(GRID) == Event(
        schema=Schema.EVENT_GRID,
        id="1",
        type="T",
        source="/topics/t",
        subject="s",
        time="2017-06-26T18:41:00.9584103Z",
        data={"a": 1},
        envelope=GRID,
        order_key=OrderKey(OrderKind.TIME, "2017-06-26T18:41:00.9584103Z"),
    )


@pytest.mark.parametrize("name", ["specversion", "specVersion"])
def test_a_cloud_event_is_read_by_its_own_names_also_where_specversion_is_misspelt(name):
    element = {name: "1.0", **without(CLOUD, "specversion")}
    assert decode_one(element) == Event(
        schema=Schema.CLOUD_EVENTS,
        id="1",
        type="T",
        source="/topics/t",
        subject="s",
        time="2017-06-26T18:41:00.9584103Z",
        data={"a": 1},
        envelope=element,
        order_key=OrderKey(OrderKind.TIME, "2017-06-26T18:41:00.9584103Z"),
    )


def test_with_both_envelopes_cloud_events_wins():
    event = decode_one({**GRID, **CLOUD, "eventType": "grid", "type": "cloud", "topic": "a", "source": "b"})
    assert (event.schema, event.type, event.source) == (Schema.CLOUD_EVENTS, "cloud", "b")


def test_a_null_specversion_is_none():
    assert decode_one({**GRID, "specversion": None}).schema is Schema.EVENT_GRID


def test_the_envelope_is_decided_per_element_and_only_the_bad_element_is_bad():
    entries = decode_json([GRID, CLOUD, {"id": "1"}, 5, [GRID], without(GRID, "id"), CLOUD])
    assert [entry.reason if isinstance(entry, BadEvent) else entry.schema for entry in entries] == [
        Schema.EVENT_GRID,
        Schema.CLOUD_EVENTS,
        BadReason.NO_ENVELOPE,
        BadReason.NOT_AN_OBJECT,
        BadReason.NOT_AN_OBJECT,
        BadReason.MISSING_ID,
        Schema.CLOUD_EVENTS,
    ]


def test_an_empty_array_holds_nothing():
    assert decode_json([]) == []


@pytest.mark.parametrize("body", [b"\xef\xbb\xbf%s", b" \r\n\t%s\n ", b"\n\xef\xbb\xbf %s "])
def test_a_bom_and_white_space_are_skipped(body):
    [event] = decode(message(body % orjson.dumps(GRID)))
    assert event.id == "1"


def test_of_a_duplicate_name_the_last_value_counts():
    [event] = decode(message(b'{"id": "first", "eventType": "T", "id": "last"}'))
    assert event.id == "last"


@pytest.mark.parametrize("optional", [["topic"], ["subject"], ["eventTime"], ["data"], ["topic", "subject", "data"]])
def test_what_is_optional_may_be_absent_or_null(optional):
    for element in (without(GRID, *optional), {**GRID, **dict.fromkeys(optional)}):
        event = decode_one(element)
        named = {"topic": event.source, "subject": event.subject, "eventTime": event.time, "data": event.data}
        assert [named[name] for name in optional] == [None] * len(optional)


@pytest.mark.parametrize("data", ["text", 5, 1.5, True, [], [1, {"a": None}], {}])
def test_data_may_be_any_json(data):
    assert decode_one({**GRID, "data": data}).data == data
    assert decode_one({**CLOUD, "data": data}).data == data


# ---- What is not an event


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"\xef\xbb\xbf",
        b"{",
        b"not json",
        b"\xff\xfe[\x00]\x00",
        b'{"id": "\xff"}',
        b'{"id": "\\ud800"}',
        b'{"id": NaN}',
        b'{"id": 1e999}',
        b"{} {}",
        b"[1,]",
        b"\x00",
    ],
)
def test_a_body_that_is_not_json_is_one_bad_entry(body):
    [entry] = decode(message(body))
    assert_bad(entry, BadReason.NOT_JSON)


@pytest.mark.parametrize("value", [None, True, 5, 1.5, "text"])
def test_what_is_no_object_is_bad(value):
    assert_bad(decode_one(value), BadReason.NOT_AN_OBJECT)


@pytest.mark.parametrize("element", [{}, {"id": "1"}, without(GRID, "eventType"), without(CLOUD, "specversion")])
def test_an_object_without_an_envelope_is_bad(element):
    assert_bad(decode_one(element), BadReason.NO_ENVELOPE)


@pytest.mark.parametrize("version", ["0.3", "1", "1.0 ", "", 1.0, 1, True, ["1.0"], {}])
def test_only_version_one_of_cloud_events_is_understood(version):
    assert_bad(decode_one({**CLOUD, "specversion": version}), BadReason.UNKNOWN_SPECVERSION)


@pytest.mark.parametrize("value", [None, "", 5, True, ["1"], {"a": 1}])
def test_id_and_type_must_be_non_empty_strings(value):
    assert_bad(decode_one({**GRID, "id": value}), BadReason.MISSING_ID)
    assert_bad(decode_one({**CLOUD, "id": value}), BadReason.MISSING_ID)
    assert_bad(decode_one({**GRID, "eventType": value}), BadReason.MISSING_TYPE)
    assert_bad(decode_one({**CLOUD, "type": value}), BadReason.MISSING_TYPE)
    assert_bad(decode_one(without(CLOUD, "type")), BadReason.MISSING_TYPE)


@pytest.mark.parametrize("value", [0, 5, False, [], ["s"], {}])
@pytest.mark.parametrize("name", ["subject", "topic", "eventTime", "source", "time"])
def test_a_subject_source_or_time_that_is_there_must_be_a_string(name, value):
    element = GRID if name in GRID else CLOUD
    assert_bad(decode_one({**element, name: value}), BadReason.NOT_A_STRING)


def test_an_empty_subject_source_and_time_stay_as_they_came():
    event = decode_one({**GRID, "topic": "", "subject": "", "eventTime": ""})
    assert (event.source, event.subject, event.time) == ("", "", "")
    assert (event.order_key.kind, event.order_defect) == (OrderKind.ARRIVAL, "time")


def test_the_detail_never_shows_what_came_in():
    secret = "hunter2"
    broken = [
        message(b'{"id": "hunter2" hunter2'),
        message(orjson.dumps({**GRID, "subject": [secret]})),
        message(orjson.dumps({**GRID, "id": {secret: secret}})),
        message(orjson.dumps({**CLOUD, "specversion": secret})),
        message(orjson.dumps({**without(CLOUD, "data"), "data_base64": secret + "!"})),
        message(orjson.dumps(secret)),
        message(b"", properties={**BINARY, "cloudEvents:subject": secret.encode() + b"\xff"}),
    ]
    for bad in broken:
        [entry] = decode(bad)
        assert isinstance(entry, BadEvent)
        assert secret not in repr(entry)


def test_a_body_that_amqp_did_not_carry_as_bytes_is_bad_whatever_it_says():
    defect = "The message's body is an AMQP map."
    [entry] = decode(message(orjson.dumps(GRID), defect=defect, properties=BINARY))
    assert entry == BadEvent(BadReason.AMQP_BODY, defect)


# ---- Depth


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    """An Event Grid event of this depth, itself included."""
    return f'{{"id": "1", "eventType": "T", "data": {opening * (depth - 1)}1{closing * (depth - 1)}}}'


@pytest.mark.parametrize("around", ["%s", "[%s]", '[%s, {"id": "2", "eventType": "T"}]'])
def test_an_element_at_the_depth_limit_is_an_event_that_can_be_written_again(around):
    event = decode(message((around % nested(MAX_DEPTH)).encode()))[0]
    assert isinstance(event, Event)
    assert orjson.loads(orjson.dumps([event.envelope])) == [event.envelope]


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, MAX_DEPTH + 5, 1000])
def test_only_the_element_beyond_the_depth_limit_is_bad(depth):
    first, second = decode(message(f'[{nested(depth)}, {{"id": "2", "eventType": "T"}}]'.encode()))
    assert_bad(first, BadReason.TOO_DEEP)
    assert second.id == "2"


def test_objects_count_as_arrays_do():
    [event] = decode(message(nested(MAX_DEPTH, '{"a":', "}").encode()))
    assert isinstance(event, Event)
    [entry] = decode(message(nested(MAX_DEPTH + 1, '{"a":', "}").encode()))
    assert_bad(entry, BadReason.TOO_DEEP)


def test_a_wide_event_is_not_a_deep_one():
    event = decode_one({**GRID, "data": [[{}] * 10] * 1000})
    assert isinstance(event, Event)


@pytest.mark.parametrize("bomb", [b"[" * 1_000_000, b'{"a":' * 200_000, b"[" * 2000 + b"]" * 2000])
def test_a_nesting_bomb_that_json_itself_refuses_is_too_deep(bomb):
    [entry] = decode(message(bomb))
    assert_bad(entry, BadReason.TOO_DEEP)


# ---- data_base64


def test_binary_data_is_decoded_and_the_envelope_stays_as_it_came():
    element = {**without(CLOUD, "data"), "data_base64": base64.b64encode(b"\x00\xff").decode()}
    event = decode_one(element)
    assert event.data == b"\x00\xff"
    assert event.envelope == element


@pytest.mark.parametrize("broken", ["a", "abc", "ab c", "ab-_", "YQ==YQ==", "YQ=", "ä", 5, True, [], {}])
@pytest.mark.parametrize("data", [{}, {"data": 1}])
def test_broken_base64_is_bad(broken, data):
    assert_bad(decode_one({**without(CLOUD, "data"), **data, "data_base64": broken}), BadReason.BAD_BASE64)


def test_empty_base64_is_no_bytes_and_null_is_no_data():
    assert decode_one({**without(CLOUD, "data"), "data_base64": ""}).data == b""
    assert decode_one({**without(CLOUD, "data"), "data_base64": None}).data is None


def test_data_counts_where_both_forms_are_there():
    assert decode_one({**CLOUD, "data_base64": "YQ=="}).data == {"a": 1}


def test_an_event_grid_event_has_no_data_base64():
    assert decode_one({**without(GRID, "data"), "data_base64": "!"}).data is None


# ---- CloudEvents in binary mode


def spelled(prefix: str, *, as_bytes: bool) -> dict:
    properties = {name.replace("cloudEvents:", prefix): value for name, value in BINARY.items()}
    if not as_bytes:
        return properties
    return {name.encode(): value.encode() if isinstance(value, str) else value for name, value in properties.items()}


@pytest.mark.parametrize("prefix", ["cloudEvents:", "cloudEvents_"])
@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON; charset=utf-8", "text/json", "application/x+json"]
)
def test_binary_mode_becomes_the_same_event_as_structured_mode(prefix, as_bytes, content_type):
    properties = spelled(prefix, as_bytes=as_bytes)
    [event] = decode(message(b'{"a": 1}', content_type=content_type, properties=properties))
    structured = {**CLOUD, "datacontenttype": content_type}
    assert event == decode_one(structured)
    assert event.envelope == structured


@pytest.mark.parametrize(
    ("content_type", "body", "data", "kept"),
    [
        ("text/plain", "grün".encode(), "grün", {"data": "grün"}),
        ("text/plain; charset=latin-1", b"gr\xfcn", b"gr\xfcn", {"data_base64": "Z3L8bg=="}),
        ("application/octet-stream", b"{}", b"{}", {"data_base64": "e30="}),
        ("application/xml", b"<a/>", b"<a/>", {"data_base64": "PGEvPg=="}),
        (None, b"{}", b"{}", {"data_base64": "e30="}),
        ("application/json", b"", None, {}),
        ("application/json", b"null", None, {"data": None}),
        (None, b"", None, {}),
    ],
)
def test_binary_data_stays_json_text_or_bytes_as_its_content_type_says(content_type, body, data, kept):
    [event] = decode(message(body, content_type=content_type, properties=BINARY))
    assert event.data == data
    assert {
        name: value for name, value in event.envelope.items() if name.startswith("data") and name != "datacontenttype"
    } == kept


def test_the_content_type_may_stand_among_the_attributes():
    properties = {**BINARY, "cloudEvents:datacontenttype": "application/json"}
    [event] = decode(message(b"[1]", properties=properties))
    assert event.data == [1]


def test_an_attribute_cannot_pass_for_the_data():
    properties = {**BINARY, "cloudEvents:data": "x", "cloudEvents:data_base64": "!"}
    [event] = decode(message(b"", properties=properties))
    assert event.data is None


def test_an_amqp_timestamp_is_a_time():
    [event] = decode(message(b"", properties={**BINARY, "cloudEvents:time": 1_522_949_460_123}))
    assert event.time == event.envelope["time"] == event.order_key.value == "2018-04-05T17:31:00.1230000Z"


@pytest.mark.parametrize("time", [2**63 - 1, -(2**63)])
def test_an_absurd_amqp_timestamp_means_arrival(time):
    [event] = decode(message(b"", properties={**BINARY, "cloudEvents:time": time}))
    assert (event.order_key.kind, event.order_defect) == (OrderKind.ARRIVAL, "time")


def test_attributes_of_other_amqp_types_become_json():
    number = UUID("831e1650-001e-001b-66ab-eeb76e069631")
    properties = {**BINARY, "cloudEvents:id": number, "cloudEvents:subject": None, "cloudEvents:flag": True}
    [event] = decode(message(b"", properties=properties))
    assert (event.id, event.subject, event.envelope["flag"]) == (str(number), None, True)
    assert orjson.loads(orjson.dumps(event.envelope)) == event.envelope


@pytest.mark.parametrize(
    "content_type", ["application/cloudevents+json", "application/CloudEvents-batch+json; charset=utf-8"]
)
def test_a_structured_event_is_not_taken_for_binary_mode(content_type):
    [event] = decode(message(orjson.dumps(GRID), content_type=content_type, properties=BINARY))
    assert event.schema is Schema.EVENT_GRID


@pytest.mark.parametrize("properties", [None, {}, {"aeg-event-type": "Notification", b"cloudEvents:id": b"x"}])
def test_without_the_version_among_the_properties_the_body_is_the_event(properties):
    [event] = decode(message(orjson.dumps(GRID), properties=properties))
    assert event.schema is Schema.EVENT_GRID


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cloudEvents:specversion": "0.3"}, BadReason.UNKNOWN_SPECVERSION),
        ({"cloudEvents:id": ""}, BadReason.MISSING_ID),
        ({"cloudEvents:type": None}, BadReason.MISSING_TYPE),
        ({"cloudEvents:source": 5}, BadReason.NOT_A_STRING),
        ({"cloudEvents:time": True}, BadReason.NOT_A_STRING),
        ({"cloudEvents:subject": b"\xff"}, BadReason.BAD_ATTRIBUTE),
        ({"cloudEvents:\ud800": "x"}, BadReason.BAD_ATTRIBUTE),
    ],
)
def test_binary_mode_is_held_to_the_same_rules(change, reason):
    [entry] = decode(message(b"", properties={**BINARY, **change}))
    assert_bad(entry, reason)


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b"{", BadReason.NOT_JSON), (b"[" * 250 + b"]" * 250, BadReason.TOO_DEEP), (b"[" * 2000, BadReason.TOO_DEEP)],
)
def test_json_data_of_binary_mode_must_be_readable(body, reason):
    [entry] = decode(message(body, content_type="application/json", properties=BINARY))
    assert_bad(entry, reason)


# ---- Totality


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
)
json_values = st.recursive(
    scalars,
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(st.sampled_from([*GRID, *CLOUD, "specVersion", "data_base64", "sequencer", "x"]), children)
    ),
    max_leaves=20,
)
altered = st.builds(
    lambda envelope, changes: {**envelope, **changes},
    st.sampled_from([GRID, CLOUD]),
    st.dictionaries(st.sampled_from([*GRID, *CLOUD, "data_base64"]), json_values, max_size=2),
)
properties = st.none() | st.dictionaries(
    st.sampled_from([*BINARY, "cloudEvents:data_base64"]) | st.text() | st.binary(),
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary() | st.uuids() | st.floats(),
    max_size=8,
)
content_types = st.sampled_from([None, "", "application/json", "text/plain", "application/cloudevents+json"])


def assert_entries_can_travel(entries: list[Event | BadEvent]) -> None:
    for entry in entries:
        if isinstance(entry, Event):
            assert entry.id
            assert entry.type
            assert isinstance(entry.key.source + entry.key.subject, str)
            orjson.dumps(entry.envelope)
        else:
            assert entry.reason in set(BadReason)


@given(st.binary(max_size=200), content_types, properties)
def test_any_bytes_are_exactly_one_entry_or_json(body, content_type, properties):
    assert_entries_can_travel(decode(message(body, content_type=content_type, properties=properties)))


@given(json_values | altered | st.lists(altered, max_size=4), content_types)
def test_any_json_has_one_entry_per_element(value, content_type):
    entries = decode(message(orjson.dumps(value), content_type=content_type))
    assert len(entries) == (len(value) if isinstance(value, list) else 1)
    assert_entries_can_travel(entries)


@given(json_values, content_types, properties)
def test_any_binary_mode_message_is_one_entry(value, content_type, properties):
    marked = {**(properties or {}), "cloudEvents:specversion": "1.0"}
    body = orjson.dumps(value)
    entries = decode(message(body, content_type=content_type, properties=marked))
    assert_entries_can_travel(entries)
    if content_type != "application/cloudevents+json":
        assert len(entries) == 1
