"""An event loop for several processes on one virtual clock: it can kill, freeze and thaw each of them at any await.

A process is what runs in one context: every handle knows its process by a context variable. Killing is SIGKILL: the
handles of the process are never run again, so no clean-up code runs. Freezing is SIGSTOP: its handles wait, and its
clocks go on. Handles run one at a time in the order they became due, so that the same seed gives the same run.
Sockets, threads and signals are not simulated.
"""

import asyncio
import contextvars
import time
import uuid
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from enum import Enum
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any
from unittest.mock import patch

WALL_CLOCK_OFFSET = 1_699_999_988.0
"""The wall clock says this when the monotonic one says 0."""


_BUSY_STEPS = 100_000
"""So many handles at one moment are an endless loop."""


class Condition(Enum):
    RUNNING = "running"
    FROZEN = "frozen"
    DEAD = "dead"


class Life:
    """One process, from its start to its end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.condition = Condition.RUNNING
        self.steps = 0
        """How many handles it has run."""
        self.parked: deque[_Handle] = deque()
        self._strike_at = 0
        self._strike: Callable[[], None] | None = None

    def strike_after(self, steps: int, strike: Callable[[], None]) -> None:
        """Calls `strike` before the handle after the next `steps` ones: a moment between any two awaits."""
        self._strike_at, self._strike = self.steps + steps, strike

    def step(self) -> bool:
        """Counts a handle that is about to run; False when it must not run now."""
        if self._strike is not None and self.steps >= self._strike_at and self.condition is Condition.RUNNING:
            strike, self._strike = self._strike, None
            strike()
        self.steps += 1
        return self.condition is Condition.RUNNING


LIFE: contextvars.ContextVar[Life | None] = contextvars.ContextVar("LIFE", default=None)
"""Whose code runs; None: the world's."""


class _Handle:
    __slots__ = ("_cancelled", "_when", "args", "callback", "context", "life")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self.life: Life | None = context.get(LIFE)
        self._cancelled = False
        self._when = 0.0

    def cancel(self) -> None:
        self._cancelled = True

    def cancelled(self) -> bool:
        return self._cancelled

    def when(self) -> float:
        return self._when


class _Task(asyncio.Task[Any]):
    """Stands in sets in the order of its making, not of its address."""

    def __init__(self, number: int, coroutine: Coroutine[Any, Any, Any], **options: Any) -> None:
        self._number = number
        super().__init__(coroutine, **options)

    def __hash__(self) -> int:
        return self._number


class SimulationLoop(asyncio.AbstractEventLoop):
    """See the module. `run` plays a coroutine to its end; `dispose` clears away what was killed."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        """What nobody caught: each is a bug."""
        self.steps = 0
        self._now = 1_000.0
        self._ready: deque[_Handle] = deque()
        self._timers: list[tuple[float, int, _Handle]] = []
        self._numbers = count()
        self._tasks: list[asyncio.Task[Any]] = []  # all of them: nothing of a dead process may be collected in between
        self._closed = False

    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self._closed

    def is_closed(self) -> bool:
        return self._closed

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None) -> Any:
        task = _Task(next(self._numbers), coro, loop=self, name=name, context=context)
        self._tasks.append(task)
        return task

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:
        handle = _Handle(callback, args, context or contextvars.copy_context())
        if not self._closed:
            self._ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:
        handle = _Handle(callback, args, context or contextvars.copy_context())
        handle._when = when
        heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._closed:
            self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")

    def start(self, life: Life, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begins a process with this task."""
        context = contextvars.copy_context()
        context.run(LIFE.set, life)
        task: asyncio.Task[Any] = self.create_task(coroutine, name=life.name, context=context)
        return task

    def world(self, callback: Callable[..., object], *args: Any, delay: float) -> None:
        """Calls back later on behalf of nobody: it happens whatever becomes of the process that runs now."""
        context = contextvars.copy_context()
        context.run(LIFE.set, None)
        self.call_at(self._now + delay, callback, *args, context=context)

    def kill(self, life: Life) -> None:
        """SIGKILL."""
        life.condition = Condition.DEAD

    def freeze(self, life: Life) -> None:
        """SIGSTOP."""
        life.condition = Condition.FROZEN

    def thaw(self, life: Life) -> None:
        """SIGCONT. Nothing happens to a process that is dead."""
        if life.condition is Condition.FROZEN:
            life.condition = Condition.RUNNING
            self._ready.extend(life.parked)
            life.parked.clear()

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Plays the coroutine, in virtual time, to its end; whatever else goes on then simply stops."""
        asyncio._set_running_loop(self)
        task = self.create_task(main, name="world")
        moved_at = 0
        while not task.done():
            if self._ready:
                self._run_next(self._ready.popleft())
            else:
                before = self._now
                self._move_clock()
                if self._now > before:
                    moved_at = self.steps
            if self.steps - moved_at > _BUSY_STEPS:
                raise AssertionError("the clock stands still: something runs for ever without waiting")
        task.result()

    def _run_next(self, handle: _Handle) -> None:
        life = handle.life
        if handle._cancelled:
            return
        if life is not None and not life.step():
            life.parked.append(handle)
            return
        self.steps += 1
        handle.context.run(handle.callback, *handle.args)

    def _move_clock(self) -> None:
        timers, ready = self._timers, self._ready
        if not timers:
            raise AssertionError("everything waits and no timer is left")
        self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            ready.append(heappop(timers)[2])

    def dispose(self) -> None:
        """Ends what never ended, after the run: from now on nothing is scheduled and no error counts."""
        self._closed = True
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # killed, not forgotten
                _close(task.get_coro())
        self._tasks.clear()
        self._ready.clear()
        self._timers.clear()
        asyncio._set_running_loop(None)


def _close(coroutine: Any) -> None:
    """Also one that awaits in its clean-up."""
    for _ in range(100):
        try:
            coroutine.close()
        except RuntimeError:
            continue
        except BaseException:  # noqa: BLE001 - whatever the clean-up of a killed process says, nobody hears it
            return
        else:
            return


@contextmanager
def reproducible(loop: SimulationLoop, random: Random) -> Iterator[None]:
    """Inside, the wall clock is the loop's, UUIDs come from `random`, and sets have the same order each time."""

    def wall() -> float:
        return WALL_CLOCK_OFFSET + loop.time()

    numbers = count()

    def number(scope: Any) -> int:
        known = scope.__dict__
        if "_number" not in known:
            known["_number"] = next(numbers)
        return known["_number"]  # type: ignore[no-any-return]

    with (
        patch.object(time, "time", wall),
        patch.object(time, "time_ns", lambda: int(wall() * 1e9)),
        patch.object(uuid, "uuid4", lambda: uuid.UUID(int=random.getrandbits(128))),
        patch.object(asyncio.Timeout, "__hash__", number),
    ):
        yield
