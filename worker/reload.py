"""Rules that change while the worker runs: notices it, reads them, has built what is new, and says how it went.

Looks at the content of the files, not at their names or times: a ConfigMap is exchanged behind its path. Everything new
is read, built and opened before anything is exchanged; where that fails, the rules in force stay, and why is said once.
Only routes.yaml and what its sinks read is read again: worker.yaml needs a restart, and that is said too.

The exchange itself is in `lanes`; what builds and closes sinks is passed in.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import structlog

from worker.advice import warnings
from worker.changes import changes
from worker.config import Config
from worker.errors import ConfigError, WorkerError
from worker.health import Health
from worker.lanes import Lanes
from worker.loading import digest_of, load_routes
from worker.metrics import Metrics
from worker.mistakes import Mistake
from worker.settings import SinkSettings
from worker.sinks import Sink
from worker.way import Way

_log = structlog.get_logger()

_LOOK_SECONDS = 2.0
_STILL_SECONDS = 1.0
"""What has changed is read when it has not changed again for so long: a file that is half written may be valid, and an
event for a route that is not there yet would be settled without it."""
_MOST_LOOKS = 10
"""So often it looks whether somebody still writes."""
_AGAIN_SECONDS = 15.0
"""After so long what was refused is read again, though nothing has changed that is looked at: a secret or a template
that was missing may have come."""
_OPEN_SECONDS = 30.0
"""How long a new sink may take to open: it asks nobody then, or nobody who is far away."""


class Builder(Protocol):
    """Where sinks come from."""

    async def build(self, settings: SinkSettings, /) -> Way:
        """Builds a sink and opens it. Raises what its kind does."""
        ...

    async def close(self, sink: Sink, /) -> None:
        """Closes one that nobody uses any more."""
        ...


class _Look(NamedTuple):
    """The contents of the files at one time."""

    worker: bytes = b""
    routes: bytes = b""
    others: Mapping[Path, str] = MappingProxyType({})
    """Digests of what the sinks read when they are built."""


class _Rules(NamedTuple):
    """A new configuration, and what looks wrong in it."""

    config: Config
    advice: list[Mistake]


class Reloads:
    """Exchanges the rules of one process when they change, or when somebody asks for it."""

    def __init__(
        self,
        config: Config,
        sinks: Builder,
        *,
        asked: asyncio.Event,
        metrics: Metrics,
        health: Health,
        offload: Callable[..., Awaitable[Any]] = asyncio.to_thread,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`asked` is set when everything is to be read and built anew, whether or not it changed."""
        self._config = config
        self._sinks = sinks
        self._asked = asked
        self._metrics = metrics
        self._health = health
        self._offload = offload
        self._clock = clock
        self._seen = self._in_force = _Look()
        """What was looked at last, and what the rules in force and their sinks were made of."""
        self._said = ""
        """Why the last one was refused; empty: it was not."""
        self._again_at = 0.0
        self._restart_said = b""

    async def begin(self) -> None:
        """Looks at what the worker starts with: before the first sink is built."""
        self._seen = self._in_force = await self._look(self._config)
        self._restart_said = self._seen.worker
        self._confirm(self._config)
        self._advise(await self._offload(_advice, self._config))

    async def run(self, lanes: Lanes) -> None:
        """Works until it is cancelled."""
        if digest_of(self._seen.worker, self._seen.routes) != self._config.digest:
            await self._reload(self._seen, lanes, anew=False)  # it changed between reading and looking
        while True:
            anew = await self._until_asked(_LOOK_SECONDS)
            look = await self._look(self._config)
            self._say_restart(look.worker)
            if not anew and _differ(look, self._seen):
                anew, look = await self._until_still(look)
            if anew or _differ(look, self._seen) or (self._said and self._now >= self._again_at):
                await self._reload(look, lanes, anew=anew)

    async def _until_still(self, look: _Look) -> tuple[bool, _Look]:
        """How it looks when nobody writes any more; True: when somebody asked, who need not wait for that."""
        for _ in range(_MOST_LOOKS):
            before, anew = look, await self._until_asked(_STILL_SECONDS)
            look = await self._look(self._config)
            if anew or not _differ(look, before):
                return anew, look
        return False, look

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _until_asked(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._asked.wait()
        asked = self._asked.is_set()
        self._asked.clear()
        return asked

    async def _look(self, config: Config) -> _Look:
        others = {file for sink in config.sinks for file in sink.read_once}
        look: _Look = await self._offload(_contents, config.file, config.routing.file, others)
        return look

    def _say_restart(self, worker: bytes) -> None:
        """Says once for each content that worker.yaml has changed."""
        changed = worker != self._in_force.worker
        self._health.note("worker.yaml", f"{self._config.file} has changed; a restart applies it" if changed else "")
        if changed and worker != self._restart_said:
            _log.warning("worker.yaml has changed, and a restart applies it", file=str(self._config.file))
        self._restart_said = worker

    # --- one reload

    async def _reload(self, look: _Look, lanes: Lanes, *, anew: bool) -> None:
        """Reads the rules; exchanges them where all is well. `anew`: every sink is built again."""
        say = anew or _differ(look, self._seen)
        self._seen = look
        built: dict[str, Way] = {}
        try:
            rules: _Rules = await self._offload(_read, self._config, digest_of(self._in_force.worker, look.routes))
            files = (await self._look(rules.config)).others
            for settings in rules.config.sinks:
                if anew or self._is_new(settings, files):
                    built[settings.name] = await self._open(settings)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with what is new, what works must go on
            await self._discard(built)
            self._refuse(error, say=say)
            return
        except asyncio.CancelledError:
            await self._discard(built)
            raise
        # How it looked before it was read: what was written meanwhile is seen the next time.
        self._seen = self._in_force = look._replace(worker=self._in_force.worker, others=files)
        self._apply(rules, lanes, built)

    def _is_new(self, settings: SinkSettings, files: Mapping[Path, str]) -> bool:
        known = self._in_force.others
        before = next((each for each in self._config.sinks if each.name == settings.name), None)
        return before != settings or any(files[each] != known.get(each) for each in settings.read_once)

    async def _open(self, settings: SinkSettings) -> Way:
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                return await self._sinks.build(settings)
        except TimeoutError:
            reason = f"it did not open within {_OPEN_SECONDS:g} s"
            raise ConfigError([f"{self._config.routing.file}: sink {settings.name}: {reason}"]) from None

    async def _discard(self, built: dict[str, Way]) -> None:
        for way in built.values():
            await self._sinks.close(way.sink)

    # --- how it went

    def _apply(self, rules: _Rules, lanes: Lanes, built: dict[str, Way]) -> None:
        before, self._config, self._said = self._config, rules.config, ""
        lanes.exchange(rules.config, built)
        self._metrics.config_info.remove_by_labels({"digest": before.digest})
        self._metrics.reloads.labels("applied").inc()
        self._confirm(rules.config)
        different = changes(before.routing, rules.config.routing)
        _log.info("rules reloaded", digest=rules.config.digest, sinks_built=sorted(built), **different)
        self._advise(rules.advice)

    def _confirm(self, config: Config) -> None:
        self._metrics.reload_successful.set(1)
        self._metrics.reloaded_at.set(self._clock())
        self._metrics.config_info.labels(config.digest).set(1)
        self._note(f"{config.digest} in force since {self._time()}")

    def _refuse(self, error: Exception, *, say: bool) -> None:
        self._again_at = self._now + _AGAIN_SECONDS
        mistakes = error.mistakes if isinstance(error, ConfigError) else [_sentence(error)]
        text = "\n".join(mistakes)
        if text == self._said and not say:
            return
        self._said = text
        for mistake in mistakes:
            _log.error("mistake in the rules", mistake=mistake)
        _log.error("rules not reloaded, the old ones stay", mistakes=len(mistakes), digest=self._config.digest)
        self._metrics.reloads.labels("refused").inc()
        self._metrics.reload_successful.set(0)
        more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
        self._note(f"{self._config.digest} stays in force, reload refused at {self._time()}: {mistakes[0]}{more}")

    def _note(self, text: str) -> None:
        self._health.note("rules", text)

    def _time(self) -> str:
        return f"{datetime.fromtimestamp(self._clock(), UTC):%Y-%m-%dT%H:%M:%SZ}"

    def _advise(self, advice: Iterable[Mistake]) -> None:
        for each in advice:
            _log.warning("this looks wrong", where=each.where, what=each.message)


# --- in a thread: files may be on a disk that is slow


def _contents(worker: Path, routes: Path, others: Iterable[Path]) -> _Look:
    return _Look(_bytes(worker), _bytes(routes), {each: hashlib.sha256(_bytes(each)).hexdigest() for each in others})


def _bytes(file: Path) -> bytes:
    """Its content; nothing where it cannot be read: whoever reads it to use it says why."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


def _differ(look: _Look, other: _Look) -> bool:
    """Whether the rules may differ."""
    return (look.routes, look.others) != (other.routes, other.others)


def _read(config: Config, digest: str) -> _Rules:
    new = replace(config, routing=load_routes(config.routing.file, config.worker), digest=digest)
    return _Rules(new, _advice(new))


def _advice(config: Config) -> list[Mistake]:
    try:
        return warnings(config)
    except Exception:  # noqa: BLE001 - it builds sinks, of others too; what cannot be advised may work all the same
        _log.exception("no advice on the rules")
        return []


def _sentence(error: Exception) -> str:
    if isinstance(error, WorkerError):
        return str(error)
    _log.error("something is wrong with the new rules or a sink", exc_info=error)
    return f"{type(error).__name__} was raised; the log has the details"
