"""AMQP 1.0 values as bytes: where one ends, what a list or map holds, how the few the broker adds are written.

Not a codec. What clients send travels as the bytes it came in, so nothing is lost on the way; only what the broker
itself reads is ever decoded.
"""

import struct
from collections.abc import Iterable, Sequence

NULL = b"\x40"

# The high nibble of a constructor says how long the value is: fixed widths, then those with a size in front.
_FIXED_WIDTHS = {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}
_SIZES_OF_ONE_BYTE = frozenset({0xA, 0xC, 0xE})
_SIZES_OF_FOUR_BYTES = frozenset({0xB, 0xD, 0xF})

_EMPTY_LIST, _LIST8, _LIST32, _MAP8, _MAP32 = 0x45, 0xC0, 0xD0, 0xC1, 0xD1
_SMALL_ULONG, _ULONG = 0x53, 0x80


class MalformedError(ValueError):
    """The bytes are not what AMQP 1.0 allows here."""


def end_of(data: bytes, at: int) -> int:
    """The position just after the value that begins at `at`."""
    try:
        constructor = data[at]
        if constructor == 0:
            return end_of(data, end_of(data, at + 1))
        width = constructor >> 4
        if width in _SIZES_OF_ONE_BYTE:
            end = at + 2 + data[at + 1]
        elif width in _SIZES_OF_FOUR_BYTES:
            end = at + 5 + int.from_bytes(data[at + 1 : at + 5])
        else:
            end = at + 1 + _FIXED_WIDTHS[width]
    except (IndexError, KeyError, RecursionError) as error:
        raise MalformedError(f"there is no AMQP value at byte {at} of {len(data)}") from error
    if end > len(data):
        raise MalformedError(f"the AMQP value at byte {at} ends at {end}, beyond the {len(data)} bytes there are")
    return end


def descriptor_of(data: bytes, at: int) -> tuple[int, int]:
    """The code of the described value at `at`, and where the value itself begins."""
    kind = data[at : at + 2]
    if kind == b"\x00\x53" and len(data) > at + 2:
        return data[at + 2], at + 3
    if kind == b"\x00\x80" and len(data) >= at + 10:
        return int.from_bytes(data[at + 2 : at + 10]), at + 10
    raise MalformedError(f"there is no described AMQP value at byte {at} of {len(data)}")


def items_of(data: bytes, at: int) -> list[bytes]:
    """The elements of the list, or the keys and values in turn of the map, at `at`: each still encoded."""
    end = end_of(data, at)
    constructor = data[at]
    if constructor == _EMPTY_LIST:
        return []
    if constructor in (_LIST8, _MAP8):
        count, position = data[at + 2], at + 3
    elif constructor in (_LIST32, _MAP32):
        count, position = int.from_bytes(data[at + 5 : at + 9]), at + 9
    else:
        raise MalformedError(f"a list or map was expected at byte {at}, not constructor 0x{constructor:02x}")
    items = []
    for _ in range(count):
        after = end_of(data, position)
        items.append(data[position:after])
        position = after
    if position != end:
        raise MalformedError(f"the list or map at byte {at} says it ends at {end} but its elements end at {position}")
    return items


def content_of(value: bytes) -> bytes:
    """What a string, symbol or binary holds; the whole value for other types, so that it can still be compared."""
    width = value[0] >> 4
    if width in _SIZES_OF_ONE_BYTE:
        return value[2:]
    if width in _SIZES_OF_FOUR_BYTES:
        return value[5:]
    return value


def number_of(value: bytes) -> int | None:
    """An unsigned number; None for null."""
    if value[0] == NULL[0]:
        return None
    return int.from_bytes(value[1:])


def encode_list(items: Sequence[bytes]) -> bytes:
    """A list of encoded elements."""
    return _compound(items, _LIST8, _LIST32)


def encode_map(items: Sequence[bytes]) -> bytes:
    """A map of encoded keys and values in turn."""
    return _compound(items, _MAP8, _MAP32)


def _compound(items: Sequence[bytes], small: int, large: int) -> bytes:
    content = b"".join(items)
    if len(items) <= 0xFF and len(content) + 1 <= 0xFF:
        return bytes((small, len(content) + 1, len(items))) + content
    return struct.pack(">BII", large, len(content) + 4, len(items)) + content


def encode_section(code: int, value: bytes) -> bytes:
    """A described value: a performative or a section of a message."""
    return bytes((0, _SMALL_ULONG, code)) + value


def symbol(text: str) -> bytes:
    """A symbol of at most 255 characters."""
    content = text.encode("ascii")
    return bytes((0xA3, len(content))) + content


def string(text: str) -> bytes:
    """A string of at most 255 bytes in UTF-8."""
    content = text.encode()
    return bytes((0xA1, len(content))) + content


def long(number: int) -> bytes:
    """A signed number of 64 bits."""
    return struct.pack(">Bq", 0x81, number)


def timestamp(unix_ms: int) -> bytes:
    """A moment, in milliseconds since 1970."""
    return struct.pack(">Bq", 0x83, unix_ms)


def joined(pairs: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """Keys and values in turn, as `encode_map` takes them."""
    return [item for pair in pairs for item in pair]
