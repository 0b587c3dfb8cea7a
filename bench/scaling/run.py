"""The phases: one worker, a second, two more, two are stopped, one is killed. What was seen in each."""

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.scaling import seen as at_receivers
from bench.scaling.load import even
from bench.scaling.stage import Changes, Member, Stage, ended, stage, until
from worker.local.verdict import Verdict, judge

_SINK = "out"
_SHARE_SECONDS = 90.0
_DELIVERED_SECONDS = 60.0

ALONE, JOIN, JOIN_TWO, STOP, KILL = "1 worker", "1 → 2", "2 → 4", "4 → 2, stopped", "2 → 1, killed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How large."""

    partitions: int = 16
    rate: float = 160.0
    """Events a second, over all partitions."""
    calm_events: int = 30
    """How many of each partition are awaited between two changes."""
    seconds: float = 200.0
    """More than the phases take: so much traffic is made."""
    store: str = "sqlite"
    changes: Changes = field(default_factory=dict)

    @property
    def spacing_seconds(self) -> float:
        """Between two events of a partition."""
        return self.partitions / self.rate


@dataclass(slots=True, kw_only=True)
class Phase:
    """One change, and what followed until all was calm again."""

    name: str
    planned: bool = True
    """Whether nobody died."""
    joined: list[Member] = field(default_factory=list)
    left: dict[str, float] = field(default_factory=dict)
    """When who was stopped had exited; empty for who was killed."""
    began: float = 0.0
    ended: float = 0.0
    share_from_start: list[float] = field(default_factory=list)
    """Seconds from the start of a process until it had delivered of its share of the partitions."""
    share_from_ready: list[float] = field(default_factory=list)
    exit_seconds: list[float] = field(default_factory=list)
    again_seconds: float | None = None
    """From the signal until somebody else had delivered of each partition of those who left."""
    moved: list[float] = field(default_factory=list)
    """The longest pause of each partition that changed its owner, beyond the traffic's spacing; seconds."""
    stayed: list[float] = field(default_factory=list)
    """The same of the others."""
    doubled: int = 0
    shares: tuple[int, ...] = ()
    """How many partitions each worker had in the end."""
    calm_seconds: float = 0.0
    requests: Counter[str] = field(default_factory=Counter)
    """To the store in those seconds, by kind."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run."""

    phases: list[Phase]
    verdict: Verdict


class Run:
    """One run; whatever happens, no process is left."""

    def __init__(self, options: Options, folder: Path, say: Callable[[str], None]) -> None:
        self._options = options
        self._folder = folder
        self._say = say
        self._phases: list[Phase] = []
        self._members: list[Member] = []

    async def run(self) -> Outcome:
        """All phases, then what was seen."""
        options = self._options
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        load = even(options.partitions, round(options.seconds / options.spacing_seconds))
        async with stage(self._folder, options.store, options.partitions, load) as on:
            async with asyncio.TaskGroup() as tasks:
                sending = tasks.create_task(on.send(options.rate), name="load")
                await self._phases_of(on)
                on.enough = True
                await sending
            sent = load.messages[: on.sent]
            await until(lambda: len(on.seen.events) == len(sent), "every event came", seconds=_DELIVERED_SECONDS)
            await self._stop(self._members)
        self._write(on)
        for phase in self._phases:
            self._measure(phase, on)
        return Outcome(self._phases, judge(sent, lambda _: [_SINK], {_SINK: on.seen.arrivals}, []))

    async def _phases_of(self, on: Stage) -> None:
        await self._join(on, ALONE, "one")
        await self._join(on, JOIN, "two")
        await self._join(on, JOIN_TWO, "three", "four")
        await self._leave(on, STOP, "one", "three")
        await self._killed(on, KILL, "two")

    async def _join(self, on: Stage, name: str, *workers: str) -> None:
        phase = self._begin(name)
        phase.joined = list(
            await asyncio.gather(*(on.start_worker(worker, self._options.changes) for worker in workers))
        )
        self._members += phase.joined
        await self._end(on, phase)

    async def _leave(self, on: Stage, name: str, *workers: str) -> None:
        phase = self._begin(name)
        leaving = [member for member in self._members if member.name in workers]
        phase.left = await self._stop(leaving)
        await self._end(on, phase)

    async def _killed(self, on: Stage, name: str, worker: str) -> None:
        phase = self._begin(name, planned=False)
        (victim,) = (member for member in self._members if member.name == worker)
        victim.child.kill()
        self._members.remove(victim)
        await self._end(on, phase)

    async def _stop(self, leaving: list[Member]) -> dict[str, float]:
        for member in leaving:
            member.child.terminate()
        self._members = [member for member in self._members if member not in leaving]
        return await ended(leaving)

    def _begin(self, name: str, *, planned: bool = True) -> Phase:
        phase = Phase(name=name, planned=planned, began=time.monotonic())
        self._phases.append(phase)
        return phase

    async def _end(self, on: Stage, phase: Phase) -> None:
        """Waits until everybody has an even share, and then for a calm stretch."""
        options = self._options
        share = options.partitions // len(self._members)
        wanted = {member.name: share for member in self._members}
        await until(lambda: on.seen.shares() == wanted, f"{phase.name}: shares {wanted}", seconds=_SHARE_SECONDS)
        before, requests, calm_at = on.seen.counts.copy(), await self._requests(), time.monotonic()
        await until(
            lambda: all(on.seen.counts[each] >= before[each] + options.calm_events for each in before),
            f"{phase.name}: {options.calm_events} more events of each partition",
        )
        phase.ended = time.monotonic()
        phase.requests, phase.calm_seconds = await self._requests() - requests, phase.ended - calm_at
        phase.shares = tuple(on.seen.shares().values())
        self._say(f"{phase.name}: {phase.ended - phase.began:.1f} s, shares {phase.shares}")

    def _write(self, on: Stage) -> None:
        """For who wants to look at a pause, beside the workers' logs: Unix time, worker, partition, event."""
        unix = time.time() - time.monotonic()
        lines = (
            f"{at + unix:.3f} {worker} {partition} {event}\n" for at, worker, partition, event in on.seen.deliveries
        )
        (self._folder / "deliveries.txt").write_text("".join(lines))

    async def _requests(self) -> Counter[str]:
        """To the store, of all who work now."""
        counted = [await member.counted("worker_store_requests_total", "operation") for member in self._members]
        return sum(counted, Counter())

    def _measure(self, phase: Phase, on: Stage) -> None:
        all_of_them = on.seen.deliveries
        before = at_receivers.owners(all_of_them, until=phase.began)
        after = at_receivers.owners(all_of_them, until=phase.ended)
        share = max(phase.shares)
        for member in phase.joined:
            at = at_receivers.had_its_share(all_of_them, member.name, share)
            assert at is not None, "the phase waited for it"
            phase.share_from_start.append(at - member.started_at)
            phase.share_from_ready.append(at - member.ready_at)
        phase.exit_seconds = [at - phase.began for at in phase.left.values()]
        gone = set(before.values()) - set(after.values())
        if gone:
            theirs = [partition for partition, owner in before.items() if owner in gone]
            later = [each for each in all_of_them if each.at > phase.began]
            at = at_receivers.delivered_again(later, gone, theirs)
            assert at is not None, "the phase waited for it"
            phase.again_seconds = at - phase.began
        longest = at_receivers.pauses(all_of_them, began=phase.began, ended=phase.ended)
        for partition, seconds in longest.items():
            moved = before.get(partition) != after.get(partition)
            (phase.moved if moved else phase.stayed).append(max(0.0, seconds - self._options.spacing_seconds))
        phase.doubled = at_receivers.doubled(all_of_them, began=phase.began, ended=phase.ended)
