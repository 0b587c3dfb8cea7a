"""The append-only log behind every partition: in memory, or in one file for each hub. No protocol, no waiting.

A file survives the broker: offsets, sequence numbers and enqueued times are the same after a restart. What was accepted
has been given to the operating system, so killing the broker loses nothing; cutting the power may. Nothing is ever
removed: delete the folder to begin again.
"""

import fcntl
import json
import logging
import mmap
import os
import struct
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from worker.local.messages import NO_EPOCH, Message, Stamp, stamped

_log = logging.getLogger(__name__)

FORMAT_VERSION = 1
# Before every record: its length, the checksum of all that follows, the partition, the enqueued time. Then the message.
_RECORD = struct.Struct(">II")
_PLACE = struct.Struct(">Hq")
_BEFORE_MESSAGE_BYTES = _RECORD.size + _PLACE.size


class Records(Protocol):
    """The encoded messages of one partition."""

    def append(self, messages: Sequence[bytes], enqueued_ms: int) -> None:
        """Keeps them all, or raises OSError."""
        ...

    def __getitem__(self, sequence_number: int) -> bytes:
        """The message with this sequence number."""
        ...


class PartitionLog:
    """One partition: what its messages are numbered, when they came, where they are."""

    def __init__(self, records: Records) -> None:
        self.epoch = NO_EPOCH
        """Of the sequence numbers of messages to come; those that are kept have theirs. Not kept with the log."""
        self._records = records
        self._offsets = array("q")
        self._enqueued_ms = array("q")
        self._next_offset = 0

    def __len__(self) -> int:
        """How many messages there are: the sequence number of the next one."""
        return len(self._offsets)

    def __getitem__(self, sequence_number: int) -> bytes:
        """The encoded message with this sequence number."""
        return self._records[sequence_number]

    @property
    def last(self) -> Stamp | None:
        """Where the last message stands; None in an empty log."""
        if not self._offsets:
            return None
        return Stamp(len(self._offsets) - 1, self._offsets[-1], self._enqueued_ms[-1])

    @property
    def last_offset(self) -> int:
        """The offset of the last message, -1 in an empty log."""
        return self._offsets[-1] if self._offsets else -1

    def first_at_offset(self, offset: int) -> int:
        """The sequence number of the first message at or after an offset."""
        return bisect_left(self._offsets, offset)

    def first_at_time(self, unix_ms: int) -> int:
        """The sequence number of the first message enqueued at or after a moment."""
        return bisect_left(self._enqueued_ms, unix_ms)

    def append(self, messages: Sequence[Message], now_ms: int) -> None:
        """Numbers, stamps and keeps messages. Times never run backwards, so that they can be searched."""
        enqueued_ms = max(now_ms, self._enqueued_ms[-1]) if self._enqueued_ms else now_ms
        sequence_number, offset = len(self), self._next_offset
        encoded = []
        for message in messages:
            encoded.append(stamped(message, Stamp(sequence_number, offset, enqueued_ms), self.epoch))
            sequence_number += 1
            offset += len(encoded[-1])
        self._records.append(encoded, enqueued_ms)
        for kept in encoded:
            self.count(len(kept), enqueued_ms)

    def count(self, size_bytes: int, enqueued_ms: int) -> None:
        """Takes note of a message that the records hold."""
        self._offsets.append(self._next_offset)
        self._enqueued_ms.append(enqueued_ms)
        self._next_offset += size_bytes


class MemoryRecords:
    """Messages that end with the process."""

    def __init__(self) -> None:
        self._messages: list[bytes] = []

    def append(self, messages: Sequence[bytes], enqueued_ms: int) -> None:  # noqa: ARG002 - the log remembers the time
        """Keeps them all."""
        self._messages.extend(messages)

    def __getitem__(self, sequence_number: int) -> bytes:
        return self._messages[sequence_number]


class FileRecords:
    """The messages of one partition in the file of its hub."""

    def __init__(self, file: "HubFile", partition: int) -> None:
        self._file = file
        self._partition = partition
        self._positions = array("q")
        self._sizes = array("l")

    def append(self, messages: Sequence[bytes], enqueued_ms: int) -> None:
        """Keeps them all, in one write, or raises OSError."""
        position = self._file.append([_record(self._partition, enqueued_ms, message) for message in messages])
        for message in messages:
            self.locate(position + _BEFORE_MESSAGE_BYTES, len(message))
            position += _BEFORE_MESSAGE_BYTES + len(message)

    def __getitem__(self, sequence_number: int) -> bytes:
        return self._file.read(self._positions[sequence_number], self._sizes[sequence_number])

    def locate(self, position: int, size_bytes: int) -> None:
        """Takes note of where in the file the next message is."""
        self._positions.append(position)
        self._sizes.append(size_bytes)


def _record(partition: int, enqueued_ms: int, message: bytes) -> bytes:
    body = _PLACE.pack(partition, enqueued_ms) + message
    return _RECORD.pack(len(message), zlib.crc32(body)) + body


class StoredMessage(NamedTuple):
    """Where the file holds a message, as it is found again when the file is opened."""

    partition: int
    enqueued_ms: int
    position: int
    size_bytes: int


class HubFile:
    """One hub's file: a line of JSON that says what it is, then the records of all partitions as they came."""

    def __init__(self, path: Path, *, hub: str, partitions: int, now_ms: int) -> None:
        self._path = path
        new = not path.exists()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._lock()
            if new or os.fstat(self._descriptor).st_size == 0:
                self._write(_title(hub, partitions, now_ms))
            self.created_at_ms, self._records_begin = self._read_title(partitions)
            self._end = os.fstat(self._descriptor).st_size
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{self._path} is used by another broker: stop it, or give another --data.") from None

    def _read_title(self, partitions: int) -> tuple[int, int]:
        line = os.pread(self._descriptor, 4096, 0).partition(b"\n")[0]
        try:
            title = json.loads(line)
            version, stored, created_at_ms = title["format"], title["partitions"], title["created_at_ms"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{self._path} is not a hub's log: move it away, or give another --data.") from None
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{self._path} has format {version}, and this broker reads {FORMAT_VERSION}: give another --data."
            )
        if stored != partitions:
            raise ValueError(
                f"{self._path} has {stored} partitions, not {partitions}: ask for --partitions {stored}, "
                "or give another --data."
            )
        return created_at_ms, len(line) + 1

    def messages(self) -> Iterator[StoredMessage]:
        """All messages, in the order they came. A last record that a crash left half written is cut off."""
        position = self._records_begin
        if position < self._end:
            with mmap.mmap(self._descriptor, self._end, access=mmap.ACCESS_READ) as content:
                while position < self._end and (message := self._message_at(content, position)) is not None:
                    yield message
                    position = message.position + message.size_bytes
        if position < self._end:
            self._cut(position)

    def _message_at(self, content: mmap.mmap, position: int) -> StoredMessage | None:
        """The message of the record at `position`; None where the record is the torn last one."""
        if self._end - position < _BEFORE_MESSAGE_BYTES:
            return None
        size_bytes, checksum = _RECORD.unpack_from(content, position)
        body = position + _RECORD.size
        begin, end = position + _BEFORE_MESSAGE_BYTES, position + _BEFORE_MESSAGE_BYTES + size_bytes
        if end > self._end:
            return None
        if zlib.crc32(content[body:end]) != checksum:
            if end == self._end:
                return None
            raise ValueError(
                f"{self._path} is damaged at byte {position}, and more follows: move it away, or give another --data."
            )
        partition, enqueued_ms = _PLACE.unpack_from(content, body)
        return StoredMessage(partition, enqueued_ms, begin, size_bytes)

    def _cut(self, position: int) -> None:
        _log.warning("%s: cut %d bytes of a record that was never finished", self._path, self._end - position)
        os.ftruncate(self._descriptor, position)
        self._end = position

    def append(self, records: Sequence[bytes]) -> int:
        """Writes records at the end, all or none, and returns where they begin."""
        begin = self._end
        try:
            self._write(b"".join(records))
        except OSError:
            # Half a batch must not come back after a restart: its sender was told that it failed.
            os.ftruncate(self._descriptor, begin)
            raise
        self._end = begin + sum(map(len, records))
        return begin

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def clear(self, *, hub: str, partitions: int, now_ms: int) -> None:
        """Begins again, as if the hub had been made now."""
        os.ftruncate(self._descriptor, 0)
        self._write(_title(hub, partitions, now_ms))
        self.created_at_ms, self._records_begin = self._read_title(partitions)
        self._end = self._records_begin

    def read(self, position: int, size_bytes: int) -> bytes:
        """The bytes at a place."""
        return os.pread(self._descriptor, size_bytes, position)

    def close(self) -> None:
        """Gives the file back. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _title(hub: str, partitions: int, now_ms: int) -> bytes:
    title = {"format": FORMAT_VERSION, "hub": hub, "partitions": partitions, "created_at_ms": now_ms}
    return json.dumps(title).encode() + b"\n"


def memory_logs(partitions: int) -> list[PartitionLog]:
    """Empty logs that end with the process."""
    return [PartitionLog(MemoryRecords()) for _ in range(partitions)]


def file_logs(file: HubFile, partitions: int) -> list[PartitionLog]:
    """The logs that a hub's file holds."""
    records = [FileRecords(file, partition) for partition in range(partitions)]
    logs = [PartitionLog(kept) for kept in records]
    for message in file.messages():
        records[message.partition].locate(message.position, message.size_bytes)
        logs[message.partition].count(message.size_bytes, message.enqueued_ms)
    return logs
