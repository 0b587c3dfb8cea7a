import zlib
from contextlib import suppress
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import memory
from worker import state as codec
from worker.duplicates import SettledKey
from worker.errors import StateFormatUnknown
from worker.events import OrderKey, OrderKind, Position, Subject, UnixSeconds
from worker.memory import PartDamaged, Rows
from worker.order import Remembered
from worker.unchanged import LastValue

times = st.integers(0, 4_000_000_000_000).map(lambda milliseconds: UnixSeconds(milliseconds / 1000))
texts = st.text(max_size=12)
keys = st.one_of(
    st.integers(0, 16**64 - 1).map(lambda number: OrderKey(OrderKind.SEQUENCER, f"{number:064x}")),
    texts.map(lambda text: OrderKey(OrderKind.TIME, text)),
    st.just(OrderKey(OrderKind.ARRIVAL, None)),
)
subjects = st.builds(Remembered, st.builds(Subject, texts, texts), keys, times)
events = st.builds(
    SettledKey,
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=16, max_size=16).map(bytes.hex),
    st.builds(Position, st.integers(0, 2**53), st.integers(0, 5_000)),
    times,
    st.booleans(),
)
digests = st.binary(min_size=16, max_size=16)
values = st.lists(st.builds(LastValue, texts, digests, digests, times), max_size=8).map(lambda rows: rows or ())
rows = st.builds(Rows, st.lists(subjects, max_size=8), st.lists(events, max_size=8), values)


def an_event(number: int) -> SettledKey:
    random = sha256(b"%d" % number).digest()
    return SettledKey(random[:16], random[16:].hex(), Position(number, 0), UnixSeconds(number / 100), variant=False)


@given(rows)
def test_rows_survive_their_json(some: Rows):
    assert memory.decode(memory.encode(some)) == some


@given(st.lists(rows, max_size=5))
def test_slices_survive_a_part(slices: list[Rows]):
    assert memory.unpack(memory.pack(slices)) == slices


def test_nothing_is_what_empty_content_says():
    assert memory.decode({}) == Rows()


def test_many_rows_are_sliced_and_none_is_lost():
    some = Rows(events=[an_event(number) for number in range(5_000)])
    slices = memory.sliced(some)

    assert max(each.number for each in slices) <= memory.ROWS_AT_ONCE
    assert [event for each in slices for event in each.events] == some.events


@given(st.data(), rows)
def test_a_damaged_part_is_told_from_a_part(data: st.DataObject, some: Rows):
    payload = bytearray(memory.pack([some]))
    place = data.draw(st.integers(payload.index(b"\n") + 1, len(payload) - 1))
    payload[place] ^= data.draw(st.integers(1, 255))
    cut = memory.pack([some])[: data.draw(st.integers(0, len(payload) - 1))]

    for damaged in (bytes(payload), cut):
        with suppress(PartDamaged):
            assert memory.unpack(damaged) == [some]  # a bit that compression does not use


@pytest.mark.parametrize(
    "body", [b"[]", b"7", b'{"format":1}', b'{"format":1,"subjects":[[]],"events":[]}', b'{"format":"x"}', b"{"]
)
def test_a_part_of_other_content_is_damaged(body: bytes):
    with pytest.raises(PartDamaged):
        memory.unpack(b"worker memory 1\n" + zlib.compress(body))


def test_a_part_of_a_newer_format_is_refused_with_a_sentence_whatever_follows():
    with pytest.raises(StateFormatUnknown, match="format 2, this version reads up to 1"):
        memory.unpack(b"worker memory 2\nanything")
    with pytest.raises(StateFormatUnknown, match="format 2"):
        memory.decode({**memory.encode(Rows()), "format": 2})


def test_without_values_the_content_is_what_it_was_and_with_some_a_version_before_them_finds_the_rest():
    plain = memory.encode(Rows(events=[an_event(1)]))
    more = memory.encode(Rows(events=[an_event(1)], values=[LastValue("out", bytes(16), bytes(16), UnixSeconds(1.0))]))

    assert plain.keys() == {"format", "subjects", "events"}
    assert plain.items() <= more.items()


@pytest.mark.parametrize("columns", ["[]", '[[0],[],"",[1]]', '[[0],["out"],"",[1]]', "7"])
def test_values_of_other_content_are_damage(columns: str):
    body = b'{"format":1,"subjects":[[],[],[],"",[],[]],"events":["",[],[],[],[]],"values":%b}' % columns.encode()
    with pytest.raises(PartDamaged):
        memory.unpack(b"worker memory 1\n" + zlib.compress(body))


def test_a_row_of_a_part_takes_few_bytes():
    """200,000 of them are what a busy partition remembers."""
    payload = memory.pack(memory.sliced(Rows(events=[an_event(number) for number in range(2_000)])))

    assert len(payload) / 2_000 < 60


def test_the_keys_of_a_format_1_state_become_memory():
    payload = (
        b'{"format":1,"generation":3,"owner":"a","request":null,"acknowledged":null,"released":true,"progress":null,'
        b'"recent":[["000102030405060708090a0b0c0d0e0f","ffeeddccbbaa99887766554433221100",9,1,1.5,1]]}'
    )
    state = codec.decode(payload)

    assert (state.generation, state.memory_parts) == (3, [])
    assert memory.decode(state.memory_since) == Rows(
        [],
        [
            SettledKey(
                bytes(range(16)), "ffeeddccbbaa99887766554433221100", Position(9, 1), UnixSeconds(1.5), variant=True
            )
        ],
    )
