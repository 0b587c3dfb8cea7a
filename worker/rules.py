"""The rules in force: everything that comes from routes.yaml, in one place that all partitions of a process ask.

It is exchanged as a whole, in one step of the event loop, and so between two events. Whoever keeps something that was
made by rules is told. What is exchanged and when is decided elsewhere: `reload` reads and builds, `lanes` exchanges.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from worker.config import Config
from worker.deliver import Lane
from worker.expect import ExpectRule
from worker.quiet import QuietSettings
from worker.route import Routes


@dataclass(frozen=True, slots=True)
class RuleSet:
    """What one routes.yaml says, ready to be asked."""

    routes: Routes
    lanes: Mapping[str, Lane]
    """Of the sinks that are configured."""
    quiet: Mapping[str, QuietSettings]
    """Of the sinks that have such a section."""
    expect: Sequence[ExpectRule] = ()
    """What must follow on what."""
    digest: str = ""
    """`Config.digest`."""

    @classmethod
    def of(cls, config: Config, lanes: Mapping[str, Lane]) -> "RuleSet":
        """The rules of a configuration."""
        quiet = {sink.name: sink.quiet for sink in config.sinks if sink.quiet is not None}
        return cls(config.routes, lanes, quiet, config.routing.expect, config.digest)


class Rules:
    """The rules in force, and the lanes of earlier ones that still have something to do."""

    def __init__(self, current: RuleSet, *, own: Iterable[Lane] = ()) -> None:
        """`own`: lanes of the worker's own, which no configuration names, and none takes away."""
        self.current = current
        """All of them, as they are now."""
        self._own = {lane.name: lane for lane in own}
        self._lanes = {**current.lanes, **self._own}
        self._followers: list[Callable[[], None]] = []
        self.leaving: dict[str, Lane] = {}
        """Of sinks that are not configured any more: nothing is routed there, and what waits there goes on."""

    @property
    def routes(self) -> Routes:
        """Which sinks an event is for."""
        return self.current.routes

    @property
    def lanes(self) -> Mapping[str, Lane]:
        """The lane of every sink that is configured, and the worker's own."""
        return self._lanes

    @property
    def quiet(self) -> Mapping[str, QuietSettings]:
        """When the sinks are told that are not told of each event as it comes."""
        return self.current.quiet

    @property
    def expect(self) -> Sequence[ExpectRule]:
        """What must follow on what."""
        return self.current.expect

    @property
    def digest(self) -> str:
        """Of the configuration in force."""
        return self.current.digest

    @property
    def every_lane(self) -> Iterator[Lane]:
        """All in which something may wait."""
        yield from self.lanes.values()
        yield from self.leaving.values()

    def lane_of(self, sink: str) -> Lane | None:
        """Where goes what was made for a sink before, be it configured still or only just not any more."""
        return self.lanes.get(sink) or self.leaving.get(sink)

    def exchange(self, new: RuleSet) -> None:
        """From now on these hold; whoever follows is told at once."""
        self.current, self._lanes = new, {**new.lanes, **self._own}
        for follow in list(self._followers):
            follow()

    @contextmanager
    def followed_by(self, follow: Callable[[], None]) -> Iterator[None]:
        """Inside, this is called now and after each exchange. It must not wait for anything."""
        follow()
        self._followers.append(follow)
        try:
            yield
        finally:
            self._followers.remove(follow)
