"""Messages: every section comes out as it went in, the broker's annotations on top."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.local.encoding import MalformedError, content_of, encode_map, encode_section, items_of, long, string, symbol
from worker.local.messages import Stamp, parse, runtime_metric, stamped, unwrap, with_delivery_annotations

STAMP = Stamp(sequence_number=5, offset=512, enqueued_ms=1_700_000_000_000)
HEADER = b"\x00\x53\x70\xc0\x02\x01\x41"
PROPERTIES = b"\x00\x53\x73\xc0\x04\x01\xa1\x01i"
FOOTER = encode_section(0x78, encode_map([symbol("f"), string("v")]))


def delivery_annotations(**values: bytes) -> bytes:
    return encode_section(0x71, encode_map([item for name, value in values.items() for item in (symbol(name), value)]))


def message_annotations(*pairs: tuple[str, bytes]) -> bytes:
    return encode_section(0x72, encode_map([item for name, value in pairs for item in (symbol(name), value)]))


def data(body: bytes) -> bytes:
    return b"\x00\x53\x75\xb0" + len(body).to_bytes(4) + body


def annotations_of(encoded: bytes) -> dict[bytes, bytes]:
    return {name: value for name, (_, value) in parse(encoded).annotations.items()}


@given(st.permutations([HEADER, delivery_annotations(d=b"\x43"), PROPERTIES, FOOTER]), st.binary(max_size=50))
def test_sections_are_kept_byte_for_byte_in_whatever_order_they_come(sections, body):
    kept = stamped(parse(b"".join([*sections, data(body)])), STAMP)
    for section in [*sections, data(body)]:
        assert section in kept
    assert kept.startswith(HEADER + delivery_annotations(d=b"\x43") + b"\x00\x53\x72")


def test_a_stamp_replaces_annotations_of_the_same_name_and_keeps_the_others():
    sent = message_annotations(("x-own", long(1)), ("x-opt-sequence-number", long(99)), ("x-opt-offset", string("99")))
    annotations = annotations_of(stamped(parse(sent + data(b"x")), STAMP))
    assert annotations == {
        b"x-own": long(1),
        b"x-opt-sequence-number": long(5),
        b"x-opt-offset": string("512"),
        b"x-opt-enqueued-time": b"\x83" + (1_700_000_000_000).to_bytes(8),
        b"x-opt-sequence-number-epoch": b"\x55\xff",
    }


def test_a_batch_is_taken_apart_and_its_key_is_everyones():
    inner = [HEADER + data(b"one"), PROPERTIES + data(b"two")]
    batch = message_annotations(("x-opt-partition-key", string("k"))) + b"".join(data(each) for each in inner)
    messages = unwrap(batch)
    assert [message.partition_key for message in messages] == [b"k", b"k"]
    assert [message.header for message in messages] == [HEADER, b""]
    assert [message.rest for message in messages] == [data(b"one"), PROPERTIES + data(b"two")]


def test_runtime_metrics_join_the_senders_delivery_annotations():
    metric = runtime_metric(STAMP, now_ms=1_700_000_000_001)
    for header in (b"", HEADER):
        for own in (b"", delivery_annotations(own=long(3))):
            kept = stamped(parse(header + own + data(b"x")), STAMP)
            delivered = parse(with_delivery_annotations(kept, metric))
            items = items_of(delivered.delivery_annotations, 3)
            found = {content_of(key): value for key, value in zip(items[::2], items[1::2], strict=True)}
            assert found[b"last_enqueued_sequence_number"] == long(5)
            assert found[b"last_enqueued_offset"] == string("512")
            assert (b"own" in found) is bool(own)
            assert delivered.header == header
            assert delivered.annotations == parse(kept).annotations
            assert delivered.rest == data(b"x")


@pytest.mark.parametrize(
    "encoded",
    [
        b"plain",
        data(b"x")[:-1],
        data(b"x") + b"\x00",
        b"\x00\x53\x10\x45",
        b"\x00\x53\x72\xc1\x04\x01\xa3\x01k",
        b"\x00\x53\x72\x43" + data(b"x"),
    ],
)
def test_what_is_no_message_is_malformed(encoded):
    with pytest.raises(MalformedError):
        parse(encoded)


@given(st.binary(max_size=80))
def test_no_bytes_are_taken_otherwise_than_whole_or_malformed(encoded):
    try:
        message = parse(encoded)
    except MalformedError:
        return
    assert message.rest in stamped(message, STAMP)
