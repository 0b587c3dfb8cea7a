"""What a partition remembers of events it is done with, to and from bytes: the content of the memory's parts. No I/O.

Three kinds of rows: the newest key released for each subject, the keys by which re-sent events are recognised, and what
sinks have of subjects (`unchanged`). A row that comes again replaces the earlier one, so parts are read oldest first.
The rows of one kind are written as columns: what is alike stands together, numbers and times as differences, keys and
digests as one text. The third kind is written only where there is one, and versions before it pass over it.

When a part is written, and which ones count, is decided elsewhere (`recall`).
"""

import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, TypeVar

import orjson

from worker.duplicates import SettledKey
from worker.errors import StateFormatUnknown, WorkerError
from worker.events import OrderKey, OrderKind, Position, Subject, UnixSeconds
from worker.order import Remembered
from worker.unchanged import DIGEST_BYTES, LastValue

FORMAT = 1
"""A newer one is refused with a sentence."""

ROWS_AT_ONCE = 2_000
"""A part is encoded, decoded and taken over in slices of so many rows, or the event loop would wait for all of it."""

_Row = TypeVar("_Row")

_MAGIC = b"worker memory "
_SEQUENCER_DIGITS = 64
_KEY_BYTES = 16
_DIGEST_BYTES = 16
_ROW_BYTES = _KEY_BYTES + _DIGEST_BYTES
_LETTERS = {OrderKind.SEQUENCER: "s", OrderKind.TIME: "t", OrderKind.ARRIVAL: "a"}
_KINDS = {letter: kind for kind, letter in _LETTERS.items()}
_FASTEST = 1
"""The level of compression: half of a part is digests, which no level makes smaller."""


class PartDamaged(WorkerError):
    """A part of the memory cannot be read: what it held is forgotten."""


class Rows(NamedTuple):
    """Some of the memory, oldest first."""

    subjects: Sequence[Remembered] = ()
    events: Sequence[SettledKey] = ()
    values: Sequence[LastValue] = ()

    @property
    def number(self) -> int:
        """How many."""
        return len(self.subjects) + len(self.events) + len(self.values)


def sliced(rows: Rows) -> list[Rows]:
    """The same rows, a slice at a time."""
    subjects = (Rows(subjects=some) for some in _slices(rows.subjects))
    events = (Rows(events=some) for some in _slices(rows.events))
    return [*subjects, *events, *(Rows(values=some) for some in _slices(rows.values))]


def pack(slices: Iterable[Rows]) -> bytes:
    """A part: a line that names the format, then a compressed line for each slice."""
    compressor = zlib.compressobj(_FASTEST)
    lines = [compressor.compress(orjson.dumps(encode(rows)) + b"\n") for rows in slices]
    return b"%b%d\n%b%b" % (_MAGIC, FORMAT, b"".join(lines), compressor.flush())


def unpack(payload: bytes) -> list[Rows]:
    """The slices of a part. Raises PartDamaged, and StateFormatUnknown when a newer version wrote it."""
    head, _, body = payload.partition(b"\n")
    magic, written_by = head[: len(_MAGIC)], head[len(_MAGIC) :]
    if magic != _MAGIC or not written_by.isdigit():
        raise PartDamaged("it does not begin as a part does")
    _refuse_newer(int(written_by))
    try:
        return [decode(orjson.loads(line)) for line in zlib.decompress(body).splitlines()]
    except (zlib.error, orjson.JSONDecodeError) as error:
        raise PartDamaged(f"its bytes are not those that were written: {error}") from error


def encode(rows: Rows) -> dict[str, Any]:
    """The rows ready for JSON; small enough to stand in the partition state while they are few."""
    content = {"format": FORMAT, "subjects": _subjects(rows.subjects), "events": _events(rows.events)}
    return {**content, "values": _values(rows.values)} if rows.values else content


def decode(content: dict[str, Any]) -> Rows:
    """What `encode` was given; nothing where the content is empty. Raises as `unpack` does."""
    if content == {}:
        return Rows()
    try:
        _refuse_newer(content["format"])
        return Rows(
            _subject_rows(content["subjects"]),
            _event_rows(content["events"]),
            _value_rows(content["values"]) if "values" in content else (),
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise PartDamaged(f"its rows are not as they should be: {error!r}") from error


def _refuse_newer(written_by: int) -> None:
    if written_by > FORMAT:
        raise StateFormatUnknown(
            f"A part of the partition's memory has format {written_by}, this version reads up to {FORMAT}: "
            "run the version that wrote it."
        )


def _subjects(rows: Sequence[Remembered]) -> list[Any]:
    sources: dict[str, int] = {}
    return [
        [sources.setdefault(row.subject.source, len(sources)) for row in rows],
        list(sources),
        [row.subject.subject for row in rows],
        "".join(_LETTERS[row.key.kind] for row in rows),
        [_short(row.key) for row in rows],
        _differences([_milliseconds(row.released_at) for row in rows]),
    ]


def _subject_rows(columns: list[Any]) -> list[Remembered]:
    indexes, sources, subjects, kinds, values, times = columns
    return [
        Remembered(Subject(sources[index], subject), _long(_KINDS[kind], value), UnixSeconds(at / 1000))
        for index, subject, kind, value, at in zip(indexes, subjects, kinds, values, accumulate(times), strict=True)
    ]


def _short(key: OrderKey) -> str:
    value = key.value or ""
    return value.lstrip("0") if key.kind is OrderKind.SEQUENCER else value


def _long(kind: OrderKind, value: str) -> OrderKey:
    match kind:
        case OrderKind.SEQUENCER:
            return OrderKey(kind, value.rjust(_SEQUENCER_DIGITS, "0"))
        case OrderKind.TIME:
            return OrderKey(kind, value)
        case OrderKind.ARRIVAL:
            return OrderKey(kind, None)


def _events(rows: Sequence[SettledKey]) -> list[Any]:
    return [
        b64encode(b"".join([row.key + bytes.fromhex(row.digest) for row in rows])).decode("ascii"),
        _differences([row.position.sequence_number for row in rows]),
        [row.position.element for row in rows],
        _differences([_milliseconds(row.seen_at) for row in rows]),
        [index for index, row in enumerate(rows) if row.variant],
    ]


def _event_rows(columns: list[Any]) -> list[SettledKey]:
    keys, numbers, elements, times, variants = columns
    data, among_variants = b64decode(keys, validate=True), set(variants)
    starts = range(0, len(data), _ROW_BYTES)
    return [
        SettledKey(
            data[start : start + _KEY_BYTES],
            data[start + _KEY_BYTES : start + _ROW_BYTES].hex(),
            Position(number, element),
            UnixSeconds(at / 1000),
            index in among_variants,
        )
        for index, (start, number, element, at) in enumerate(
            zip(starts, accumulate(numbers), elements, accumulate(times), strict=True)
        )
    ]


def _values(rows: Sequence[LastValue]) -> list[Any]:
    sinks: dict[str, int] = {}
    return [
        [sinks.setdefault(row.sink, len(sinks)) for row in rows],
        list(sinks),
        b64encode(b"".join([row.subject + row.value for row in rows])).decode("ascii"),
        _differences([_milliseconds(row.at) for row in rows]),
    ]


def _value_rows(columns: list[Any]) -> list[LastValue]:
    indexes, sinks, digests, times = columns
    data, size = b64decode(digests, validate=True), 2 * DIGEST_BYTES
    return [
        LastValue(
            sinks[index],
            data[start : start + DIGEST_BYTES],
            data[start + DIGEST_BYTES : start + size],
            UnixSeconds(at / 1000),
        )
        for index, start, at in zip(indexes, range(0, len(data), size), accumulate(times), strict=True)
    ]


def _milliseconds(seconds: UnixSeconds) -> int:
    return round(seconds * 1000)


def _differences(numbers: list[int]) -> list[int]:
    """Each number but the first as its distance from the one before: small, where the rows came one after another."""
    return numbers[:1] + [later - earlier for earlier, later in pairwise(numbers)]


def _slices(rows: Sequence[_Row]) -> Iterable[Sequence[_Row]]:
    return (rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE))
