"""The demo's child processes: started, watched, and always stopped. What they do is not known here."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from worker.errors import WorkerError

_STOP_SECONDS = 30.0
"""How long a child may take to stop when asked; more than a worker's drain."""
_LAST_LINES = 15


class ChildFailed(WorkerError):
    """A child ended by itself, or not as it was asked to: its last words are in the text."""


class Child:
    """One `python -m worker …` process, or several one after the other; the output goes to a log file."""

    def __init__(self, name: str, log: Path, spawn: Callable[[], Awaitable[Process]], tasks: asyncio.TaskGroup) -> None:
        self.name = name
        self.log = log
        self._spawn = spawn
        self._tasks = tasks
        self._process: Process | None = None
        self._may_end: set[Process] = set()
        """Those that were told to."""

    async def restart(self) -> None:
        """Starts it, the first time or after a crash; from then on it is watched."""
        self._process = await self._spawn()
        self._tasks.create_task(self._watch(self._process), name=f"watch {self.name}")

    async def _watch(self, process: Process) -> None:
        code = await process.wait()
        if process not in self._may_end:
            raise self.failure(f"ended by itself with exit code {code}")

    @property
    def process(self) -> Process:
        """The one that runs, or ran last."""
        assert self._process is not None, "restart comes first"
        return self._process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    async def first_line(self, *, timeout_seconds: float) -> str:
        """The first line it prints; only where its output is not in the log."""
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(timeout_seconds):
                return (await self.process.stdout.readline()).decode().strip()
        except TimeoutError:
            raise self.failure(f"said nothing within {timeout_seconds:g} seconds") from None

    def terminate(self) -> None:
        """Asks it to stop; if it is frozen it is thawed, so that it hears."""
        self._may_end.add(self.process)
        self._signal(signal.SIGTERM)
        self.resume()

    async def ended(self) -> int:
        """Its exit code, after it was asked to stop; it is killed when it takes too long."""
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                return await self.process.wait()
        except TimeoutError:
            self.kill()
            raise self.failure(f"did not stop within {_STOP_SECONDS:.0f} seconds and was killed") from None

    def kill(self) -> None:
        """Ends it at once, if it is still there."""
        self._may_end.add(self.process)
        self._signal(signal.SIGKILL)

    async def crash(self) -> None:
        """Kills it, as a crash would, and returns when it is gone."""
        self.kill()
        await self.process.wait()

    def suspend(self) -> None:
        """Freezes it: it does nothing and hears nothing, except that it is killed, until `resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Thaws it. Harmless where it is not frozen, or gone."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)

    def failure(self, what: str) -> ChildFailed:
        """An error with the last lines of the log."""
        with self.log.open(encoding="utf-8", errors="replace") as log:
            words = "".join(deque(log, maxlen=_LAST_LINES)) or "(nothing)\n"
        return ChildFailed(f"{self.name} {what}; the last lines of {self.log}:\n{words.rstrip()}")


class Children:
    """All of them; one that ends by itself ends the block of `children` with ChildFailed."""

    def __init__(self, folder: Path, tasks: asyncio.TaskGroup) -> None:
        self._folder = folder
        self._tasks = tasks
        self._all: list[Child] = []

    async def start(
        self,
        name: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        speaks: bool = False,
        module: str = "worker",
    ) -> Child:
        """Starts `python -m MODULE ARGUMENTS`; `speaks`: its first line is for us, not for the log."""
        path = self._folder / f"{name}.log"
        path.unlink(missing_ok=True)

        async def spawn() -> Process:
            with path.open("ab") as log:
                return await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    module,
                    *arguments,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE if speaks else log,
                    stderr=log,
                    env={**os.environ, **(environment or {}), "PYTHONUNBUFFERED": "1"},
                    # Ctrl-C in the terminal is for the demo alone, which stops its children in order.
                    start_new_session=True,
                )

        child = Child(name, path, spawn, self._tasks)
        await child.restart()
        self._all.append(child)
        return child

    async def stop(self, children: Sequence[Child]) -> None:
        """Stops these together. Raises ChildFailed when one does not exit 0."""
        for child, code in zip(children, await _end(children), strict=True):
            if code:
                raise child.failure(f"was asked to stop and ended with exit code {code}")

    async def stop_all(self) -> None:
        """Stops what is left, whatever it exits with; the first, which the others depend on, last."""
        try:
            await _end(self._all[1:])
            await _end(self._all[:1])
        finally:
            for child in self._all:
                child.kill()


async def _end(children: Sequence[Child]) -> list[int]:
    for child in children:
        child.terminate()
    return await asyncio.gather(*(child.ended() for child in children))


@asynccontextmanager
async def children(folder: Path) -> AsyncIterator[Children]:
    """However the block ends, no child is left."""
    try:
        async with asyncio.TaskGroup() as tasks:
            family = Children(folder, tasks)
            try:
                yield family
            finally:
                await family.stop_all()
    except BaseExceptionGroup as group:
        # One failure is what the operator needs; the first child that failed takes the others with it.
        raise _first(group) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
