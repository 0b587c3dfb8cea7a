"""The file sink: one CloudEvents JSON object a line, with `idempotencykey`, appended to a file.

Several processes may append to one file: every line is one write to a descriptor opened with O_APPEND, which a local
file system keeps whole (a network file system may not). The file is opened for each line, so a file that was rotated
away or deleted is simply made anew. It does not rotate, compress or read anything back.
"""

import asyncio
import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import orjson
from pydantic import Field

from worker.errors import Misconfigured, SinkUnavailable
from worker.settings import FilePath, SinkSettings
from worker.sinks import Delivery
from worker.sinks.cloudevents import structured

# Waiting does not help against these: someone has to change the path or its rights.
_FOR_THE_OPERATOR = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.ENXIO,
    }
)

_LOOKS = 20
_LOOK_SECONDS = 0.001


class FileSettings(SinkSettings):
    """A sink of kind `file`."""

    kind: Literal["file"] = "file"
    path: FilePath
    """Where the lines go; the folder is created when missing."""
    fsync: bool = False
    """Waits for the disk after every line. Off: an accepted line then survives the end of the process, but not a power
    failure in the seconds after it; on, each line costs milliseconds, and one line is written at a time."""
    timeout_seconds: float = Field(default=30, gt=0, le=600)
    """How long one line may take, for a disk (a network share) that hangs."""


class FileSink:
    """Appends each event as a line."""

    def __init__(self, settings: FileSettings) -> None:
        self._settings = settings
        self._path = settings.path
        self._writer: ThreadPoolExecutor | None = None

    async def open(self) -> None:
        """Starts the thread that writes."""
        # A thread of its own, because a disk that stalls must not stall the event loop; exactly one, so that lines
        # stand in the order in which they were handed over, also after an attempt was given up.
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"sink-{self._settings.name}")

    async def deliver(self, delivery: Delivery) -> None:
        """Appends the line; when it returns the operating system has it, with `fsync` the disk."""
        assert self._writer is not None, "open() comes first"
        line = _line(delivery)
        limit = self._settings.timeout_seconds
        try:
            async with asyncio.timeout(limit):
                await asyncio.get_running_loop().run_in_executor(self._writer, self._append, line)
        except TimeoutError:
            raise SinkUnavailable(
                f"sink {delivery.sink}: {self._path} took no line within {limit:g} s: its disk hangs"
            ) from None
        except OSError as error:
            kind = Misconfigured if error.errno in _FOR_THE_OPERATOR else SinkUnavailable
            raise kind(f"sink {delivery.sink}: cannot append to {self._path}: {error.strerror}") from error

    def preview(self, delivery: Delivery) -> str:
        """The line."""
        return _line(delivery).decode()

    async def aclose(self) -> None:
        """Lets the line that is being written end, and stops the thread."""
        writer, self._writer = self._writer, None
        if writer is not None:
            await asyncio.to_thread(writer.shutdown)

    def _append(self, line: bytes) -> None:
        descriptor = self._open()
        try:
            if _ends_in_half_a_line(descriptor):
                os.write(descriptor, b"\n")
            written = os.write(descriptor, line)
            if written < len(line):
                raise OSError(errno.ENOSPC, f"only {written} of {len(line)} bytes fitted")
            if self._settings.fsync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        try:
            return os.open(self._path, flags, 0o640)
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self._path, flags, 0o640)


def _line(delivery: Delivery) -> bytes:
    event = structured(delivery) | {"idempotencykey": delivery.idempotency_key}
    return orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE)


def _ends_in_half_a_line(descriptor: int) -> bool:
    """Whether the end of the file was cut off, by a full disk or by SIGKILL in the middle of a write.

    The next line must not grow together with it. A long line that another process is writing right now looks the same,
    except that it grows and ends: hence the second look, and some more.
    """
    sizes = set()
    for _ in range(_LOOKS):
        size = os.fstat(descriptor).st_size
        if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
            return False
        sizes.add(size)
        time.sleep(_LOOK_SECONDS)
    return len(sizes) == 1
