"""The byte stream of a connection: cut into frames, looked into where the engine hides something, padded going out.

Proton leaves out the trailing nulls of a performative, as AMQP allows. azure-eventhub up to 5.15.1 reads the fields by
position and fails on that, so they are put back here. Proton also hides two things that Event Hubs needs: what
capabilities a link desires, and the message format that tells a batch from a message. No state beyond half frames.
"""

from collections.abc import Iterator

from worker.local.encoding import (
    NULL,
    MalformedError,
    descriptor_of,
    encode_list,
    encode_section,
    end_of,
    items_of,
    number_of,
)

OPEN, BEGIN, ATTACH, FLOW, TRANSFER, DISPOSITION, DETACH, END, CLOSE = range(0x10, 0x19)
_ERROR, _REJECTED = 0x1D, 0x25

_FIELDS = {OPEN: 10, BEGIN: 8, ATTACH: 14, FLOW: 11, TRANSFER: 11, DISPOSITION: 6, DETACH: 3, END: 1, CLOSE: 1}
_ERROR_FIELDS = 3
_CARRIES_ERROR = frozenset({DISPOSITION, DETACH, END, CLOSE})

_PROTOCOL_HEADER = b"AMQP"
_HEADER_BYTES = 8
_AMQP_FRAME = 0
_LIST8 = 0xC0
_SHORT_LIST_BYTES = 0xFF - _FIELDS[TRANSFER]
MAX_FRAME_BYTES = 65_536
PADDING_BYTES = 16
"""Room for what padding adds to a transfer, the only frame that grows as large as the peer allows."""
_SMALLEST_MAX_FRAME_BYTES = 512

RUNTIME_METRIC = b"com.microsoft:enable-receiver-runtime-metric"
BATCH_FORMAT = 0x80013700


class FrameCutter:
    """Bytes as they arrive in, whole frames and protocol headers out."""

    def __init__(self, max_frame_bytes: int | None = None) -> None:
        self._buffer = bytearray()
        self._max_frame_bytes = max_frame_bytes

    def cut(self, data: bytes) -> Iterator[bytes]:
        """The frames that `data` completes; half a frame waits for the next call."""
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while len(buffer) - at >= _HEADER_BYTES:
                size = self._size(bytes(buffer[at : at + _HEADER_BYTES]))
                if len(buffer) - at < size:
                    break
                frame = bytes(buffer[at : at + size])
                at += size
                yield frame
        finally:
            del buffer[:at]

    def _size(self, header: bytes) -> int:
        if header.startswith(_PROTOCOL_HEADER):
            return _HEADER_BYTES
        size = int.from_bytes(header[:4])
        if size < _HEADER_BYTES or (self._max_frame_bytes is not None and size > self._max_frame_bytes):
            raise MalformedError(f"a frame of {size} bytes: the client does not speak AMQP 1.0 without TLS")
        return size


def performative_of(frame: bytes) -> int | None:
    """The code of an AMQP frame's performative; None for headers, heartbeats and SASL frames."""
    start = _body(frame)
    return None if start is None else descriptor_of(frame, start)[0]


def _body(frame: bytes) -> int | None:
    if frame.startswith(_PROTOCOL_HEADER) or frame[5] != _AMQP_FRAME:
        return None
    start = frame[4] * 4
    return start if start < len(frame) else None


def _fields(frame: bytes) -> list[bytes]:
    return items_of(frame, descriptor_of(frame, frame[4] * 4)[1])


def wants_runtime_metric(attach: bytes) -> bool:
    """Whether an attach desires that every delivery tells how far the log goes."""
    fields = _fields(attach)
    return len(fields) > 12 and RUNTIME_METRIC in fields[12]


def transfer_of(frame: bytes) -> tuple[int, int | None]:
    """A transfer's handle, and its message format where it says one: the first frame of a delivery does."""
    fields = _fields(frame)
    if not fields:
        raise MalformedError("a transfer that names no link")
    return number_of(fields[0]) or 0, number_of(fields[3]) if len(fields) > 3 else None


def channel_of(frame: bytes) -> int:
    """The session a frame belongs to."""
    return int.from_bytes(frame[6:8])


def with_room_for_padding(open_frame: bytes) -> bytes:
    """The peer's open with a slightly smaller max-frame-size, so that what the engine fills may still be padded."""
    start = open_frame[4] * 4
    fields = _fields(open_frame)
    limit = number_of(fields[2]) if len(fields) > 2 else None
    if limit is None or limit <= _SMALLEST_MAX_FRAME_BYTES:
        return open_frame
    fields[2] = b"\x70" + (limit - PADDING_BYTES).to_bytes(4)
    return _frame(open_frame[4:start], encode_section(OPEN, encode_list(fields)))


def padded(frame: bytes) -> bytes:
    """The frame with every field of its performative present, nulls included; errors inside it likewise."""
    start = _body(frame)
    if start is None:
        return frame
    if frame[start + 2] == TRANSFER and frame[start + 3] == _LIST8 and frame[start + 4] < _SHORT_LIST_BYTES:
        return _padded_transfer(frame, start)
    code, at = descriptor_of(frame, start)
    fields, payload = items_of(frame, at), frame[end_of(frame, at) :]
    if code in _CARRIES_ERROR:
        fields = [_padded_error(field) for field in fields]
    fields += [NULL] * (_FIELDS[code] - len(fields))
    return _frame(frame[4:start], encode_section(code, encode_list(fields)) + payload)


def _padded_transfer(frame: bytes, start: int) -> bytes:
    """The one frame that must be quick, and whose list never grows long: nothing is taken apart."""
    missing = _FIELDS[TRANSFER] - frame[start + 5]
    end_of_fields = start + 5 + frame[start + 4]
    return b"".join(
        (
            (len(frame) + missing).to_bytes(4),
            frame[4 : start + 4],
            bytes((frame[start + 4] + missing, _FIELDS[TRANSFER])),
            frame[start + 6 : end_of_fields],
            NULL * missing,
            frame[end_of_fields:],
        )
    )


def _padded_error(field: bytes) -> bytes:
    if field[:1] != b"\x00":
        return field
    code, at = descriptor_of(field, 0)
    if code == _REJECTED:
        return encode_section(code, encode_list([_padded_error(item) for item in items_of(field, at)]))
    if code == _ERROR:
        items = items_of(field, at)
        return encode_section(code, encode_list(items + [NULL] * (_ERROR_FIELDS - len(items))))
    return field


def _frame(header: bytes, body: bytes) -> bytes:
    return (4 + len(header) + len(body)).to_bytes(4) + header + body
