"""Which partition a key belongs to, as Event Hubs itself decides it for producers that send a partition key.

Jenkins' lookup3 (hashlittle2) over the UTF-8 of the key, as the service and its .NET, Java and JavaScript clients have
it; so keyed producers of the same hub agree with us. The Python client's buffered producer chooses otherwise for two
keys in five, because of Python's remainder of negative numbers, and is no measure here. Pure.
"""

from collections.abc import Sequence

_MASK = 0xFFFFFFFF
_SEED = 0xDEADBEEF
_BLOCK = 12
_HALF = 0x8000


def partition_of(key: str, partitions: Sequence[str]) -> str:
    """The partition among all of the hub, in their order. Adding partitions changes the answer."""
    number = _signed_hash(key.encode())
    return partitions[abs(number) % len(partitions)]


def _signed_hash(key: bytes) -> int:
    """16 bits with a sign, as the service keeps it."""
    b, c = _hashlittle2(key)
    number = (b ^ c) & 0xFFFF
    return number - 2 * _HALF if number >= _HALF else number


def _hashlittle2(key: bytes) -> tuple[int, int]:
    a = b = c = (_SEED + len(key)) & _MASK
    while len(key) > _BLOCK:
        more_a, more_b, more_c = _words(key[:_BLOCK])
        a, b, c = _mix((a + more_a) & _MASK, (b + more_b) & _MASK, (c + more_c) & _MASK)
        key = key[_BLOCK:]
    if not key:
        return b, c
    more_a, more_b, more_c = _words(key.ljust(_BLOCK, b"\0"))
    return _final((a + more_a) & _MASK, (b + more_b) & _MASK, (c + more_c) & _MASK)


def _words(block: bytes) -> tuple[int, int, int]:
    return (
        int.from_bytes(block[:4], "little"),
        int.from_bytes(block[4:8], "little"),
        int.from_bytes(block[8:], "little"),
    )


def _rotated(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & _MASK


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for bits in (4, 6, 8, 16, 19, 4):
        a = (a - c) & _MASK ^ _rotated(c, bits)
        c = (c + b) & _MASK
        a, b, c = b, c, a
    return a, b, c


def _final(a: int, b: int, c: int) -> tuple[int, int]:
    for bits in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _rotated(b, bits)) & _MASK
        a, b, c = b, c, a
    return a, b
