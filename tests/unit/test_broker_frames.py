"""The byte stream: frames cut at any place, padded on the way out, looked into on the way in."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proton import Collector, Condition, Connection, Delivery, Event, Link, Transport, symbol

from worker.local import frames
from worker.local.encoding import (
    NULL,
    MalformedError,
    descriptor_of,
    encode_list,
    encode_map,
    encode_section,
    end_of,
    items_of,
    string,
)
from worker.local.encoding import (
    symbol as encoded_symbol,
)
from worker.local.frames import FrameCutter

FIELDS = {0x10: 10, 0x11: 8, 0x12: 14, 0x13: 11, 0x14: 11, 0x15: 6, 0x16: 3, 0x17: 1, 0x18: 1}


def frame(code: int, fields: list[bytes], payload: bytes = b"", channel: int = 0) -> bytes:
    body = encode_section(code, encode_list(fields)) + payload
    return (len(body) + 8).to_bytes(4) + b"\x02\x00" + channel.to_bytes(2) + body


def fields_of(data: bytes) -> list[bytes]:
    return items_of(data, descriptor_of(data, 8)[1])


def payload_of(data: bytes) -> bytes:
    return data[end_of(data, 8) :]


HEADER = b"AMQP\x00\x01\x00\x00"
HEARTBEAT = b"\x00\x00\x00\x08\x02\x00\x00\x00"
SASL = b"\x00\x00\x00\x10\x02\x01\x00\x00\x00\x53\x44\xc0\x03\x01\x50\x00"


@given(st.lists(st.integers(1, 40), max_size=20))
def test_frames_come_out_whole_wherever_the_stream_is_cut(lengths):
    sent = [HEADER, HEARTBEAT, frame(0x14, [b"\x43"], b"x" * 70), SASL, frame(0x13, [])]
    stream = b"".join(sent)
    cutter = FrameCutter()
    received: list[bytes] = []
    at = 0
    for length in [*lengths, len(stream)]:
        received += cutter.cut(stream[at : at + length])
        at += length
    assert received == sent


@pytest.mark.parametrize(
    "start", [b"\x16\x03\x01\x02\x00\x01\x00\x01", b"GET / HT", b"\x00\x00\x00\x07\x02\x00\x00\x00"]
)
def test_what_is_not_amqp_is_malformed(start):
    with pytest.raises(MalformedError, match="does not speak AMQP"):
        list(FrameCutter(frames.MAX_FRAME_BYTES).cut(start))


@given(st.sampled_from(sorted(FIELDS)), st.data())
def test_padding_restores_every_field_and_changes_nothing_else(code, data):
    value = st.sampled_from([b"\x43", b"\x41", NULL, string("x" * 90), encode_list([b"\x43"])])
    fields = data.draw(st.lists(value, max_size=FIELDS[code]))
    payload = data.draw(st.binary(max_size=30)) if code == 0x14 else b""
    padded = frames.padded(frame(code, fields, payload, channel=7))
    assert fields_of(padded) == fields + [NULL] * (FIELDS[code] - len(fields))
    assert payload_of(padded) == payload
    assert int.from_bytes(padded[:4]) == len(padded)
    assert frames.channel_of(padded) == 7


def test_padding_past_255_bytes_becomes_a_long_list():
    fields = [string("n" * 240), b"\x43"]
    padded = frames.padded(frame(0x12, fields))
    assert padded[11] == 0xD0
    assert fields_of(padded)[:2] == fields
    assert len(fields_of(padded)) == 14


@pytest.mark.parametrize("code", [0x15, 0x16, 0x17, 0x18])
def test_errors_inside_a_performative_are_padded_too(code):
    error = encode_section(0x1D, encode_list([encoded_symbol("amqp:not-found")]))
    if code == 0x15:
        error = encode_section(0x25, encode_list([error]))
    fields = [b"\x43"] * {0x15: 4, 0x16: 2}.get(code, 0) + [error]
    found = fields_of(frames.padded(frame(code, fields)))[len(fields) - 1]
    if code == 0x15:
        [found] = items_of(found, 3)
    assert items_of(found, 3) == [encoded_symbol("amqp:not-found"), NULL, NULL]


@pytest.mark.parametrize("data", [HEADER, HEARTBEAT, SASL])
def test_headers_heartbeats_and_sasl_pass_unchanged(data):
    assert frames.padded(data) == data
    assert frames.performative_of(data) is None


def test_an_open_leaves_room_for_padding():
    opened = frame(0x10, [string("me"), string("host"), b"\x70\x00\x01\x00\x00"])
    assert fields_of(frames.with_room_for_padding(opened))[2] == b"\x70" + (65_536 - frames.PADDING_BYTES).to_bytes(4)


@pytest.mark.parametrize("limit", [[], [NULL], [b"\x70\x00\x00\x02\x00"]])
def test_an_open_without_room_to_give_is_left_alone(limit):
    opened = frame(0x10, [string("me"), string("host"), *limit])
    assert frames.with_room_for_padding(opened) == opened


def test_a_transfer_tells_its_link_and_its_format():
    assert frames.transfer_of(frame(0x14, [b"\x52\x07", b"\x43", NULL, b"\x70\x80\x01\x37\x00"])) == (
        7,
        frames.BATCH_FORMAT,
    )
    assert frames.transfer_of(frame(0x14, [b"\x43"])) == (0, None)
    with pytest.raises(MalformedError):
        frames.transfer_of(frame(0x14, []))


def test_an_attach_tells_whether_it_wants_the_runtime_metric():
    wanted = b"com.microsoft:enable-receiver-runtime-metric".decode()
    rest = [NULL] * 12
    assert frames.wants_runtime_metric(frame(0x12, [*rest, encoded_symbol(wanted)]))
    assert not frames.wants_runtime_metric(frame(0x12, [*rest, encoded_symbol("com.microsoft:georeplication")]))
    assert not frames.wants_runtime_metric(frame(0x12, [encoded_symbol(wanted), *rest[:2]]))


@given(st.binary(max_size=60))
def test_any_bytes_hold_a_value_inside_them_or_are_malformed(data):
    for read in (end_of, items_of, descriptor_of):
        try:
            read(data, 0)
        except MalformedError:
            continue
        assert data
    with suppress(MalformedError):
        assert 0 < end_of(data, 0) <= len(data)


def test_maps_and_lists_of_any_size_survive():
    for count in (0, 2, 100, 300):
        items = [string(str(number)) for number in range(count)]
        assert items_of(encode_list(items), 0) == items
        assert items_of(encode_map(items), 0) == items


def test_what_proton_sends_has_all_fields_once_padded():
    """The engine really leaves fields out, and padding really puts them back."""
    sent = list(FrameCutter().cut(proton_output()))
    performatives = [frames.performative_of(each) for each in sent]
    assert {0x10, 0x11, 0x12, 0x14, 0x16, 0x18} <= set(performatives)
    short = [
        each for each, code in zip(sent, performatives, strict=True) if code and len(fields_of(each)) < FIELDS[code]
    ]
    assert short
    for each, code in zip(sent, performatives, strict=True):
        if code is not None:
            assert len(fields_of(frames.padded(each))) == FIELDS[code]


def proton_output() -> bytes:
    client, server = (Transport(), Connection()), (Transport(Transport.SERVER), Connection())
    for transport, connection in (client, server):
        transport.bind(connection)
    collector = Collector()
    server[1].collect(collector)
    connection = client[1]
    connection.open()
    session = connection.session()
    session.open()
    receiver = session.receiver("link")
    receiver.source.address = "source"
    receiver.open()
    receiver.flow(1)
    server[0].push(drained(client[0]))
    while (event := collector.peek()) is not None:
        if event.type == Event.CONNECTION_REMOTE_OPEN:
            event.context.open()
        if event.type == Event.SESSION_REMOTE_OPEN:
            event.context.open()
        if event.type == Event.LINK_REMOTE_OPEN:
            serve(event.context)
        collector.pop()
    return drained(server[0])


def serve(link: Link) -> None:
    link.source.copy(link.remote_source)
    link.properties = {symbol("name"): "value"}
    link.open()
    delivery: Delivery = link.delivery("tag")
    link.stream(b"message")
    delivery.settle()
    link.condition = Condition("amqp:not-found", "gone")
    link.close()
    link.connection.close()


def drained(transport: Transport) -> bytes:
    output = b""
    while (pending := transport.pending()) > 0:
        output += transport.peek(pending)
        transport.pop(pending)
    return output
