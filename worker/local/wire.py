"""The way between a connection and its socket while it is disturbed: slow, or dead. Nothing on it is lost or changed.

A connection that nothing disturbs has no such thing and talks to its socket.
"""

import asyncio
from collections import deque
from collections.abc import Callable


class Line:
    """One direction: passes bytes on at once, after a while, or not before it is thawed."""

    def __init__(self, pass_on: Callable[[bytes], None]) -> None:
        self.delay_seconds = 0.0
        self.frozen = False
        self._pass_on = pass_on
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, bytes]] = deque()
        """When each may pass, and the bytes."""
        self._timer: asyncio.TimerHandle | None = None

    def put(self, data: bytes) -> None:
        """Takes bytes; they pass in the order they came."""
        if self.frozen or self.delay_seconds or self._waiting:
            self._waiting.append((self._loop.time() + self.delay_seconds, data))
            self.move()
        else:
            self._pass_on(data)

    def move(self) -> None:
        """Sees to it that what waits passes when it may. To be called when `frozen` has changed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting and not self.frozen:
            self._timer = self._loop.call_at(self._waiting[0][0], self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        # One at a time: what passes may have the line frozen.
        _, data = self._waiting.popleft()
        self._pass_on(data)
        self.move()

    def discard(self) -> None:
        """Forgets what waits: the connection has ended."""
        self._waiting.clear()
        self.move()


class Wire:
    """Both directions of a connection."""

    def __init__(self, socket: asyncio.Transport, on_data: Callable[[bytes], None]) -> None:
        self.incoming = Line(on_data)
        self.outgoing = Line(self._write)
        self._socket = socket
        self._freezes = 0

    def delay(self, incoming_seconds: float, outgoing_seconds: float) -> None:
        """From now on, holds back for so long what comes and what goes."""
        self.incoming.delay_seconds, self.outgoing.delay_seconds = incoming_seconds, outgoing_seconds

    def freeze(self) -> None:
        """Neither reads nor writes, until `thaw` was called as often."""
        self._freezes += 1
        self._set_frozen()

    def thaw(self) -> None:
        """Undoes one `freeze`."""
        self._freezes -= 1
        self._set_frozen()

    def _set_frozen(self) -> None:
        frozen = self._freezes > 0
        self.incoming.frozen = self.outgoing.frozen = frozen
        self.incoming.move()
        self.outgoing.move()
        if self._socket.is_closing():
            return
        # The client's bytes shall pile up on its own side, as they would behind a dead network.
        if frozen:
            self._socket.pause_reading()
        else:
            self._socket.resume_reading()

    def _write(self, data: bytes) -> None:
        if self._socket.is_closing():
            return
        if data:
            self._socket.write(data)
        else:
            self._socket.close()

    def close(self) -> None:
        """Hangs up once everything written before has passed."""
        self.outgoing.put(b"")

    def discard(self) -> None:
        """Forgets everything: the connection has ended."""
        self.incoming.discard()
        self.outgoing.discard()
