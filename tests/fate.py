"""Processes that die at any step of a delivery, and what outlives them: the ledger's store and the destination."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.lanes import FakeOwner, LaneScene, job_of
from tests.memory_store import Contents, MemoryStore
from tests.support import eventually
from worker.ledger import EntryState, Ledger, decode
from worker.metrics import Metrics
from worker.settings import SinkSettings
from worker.sinks import Sink

METRICS = Metrics()
"""One for all lives: making them takes longer than a life."""
START, BETWEEN_LIVES_SECONDS = 1_700_000_000.0, 1000.0
"""Longer than an intent is left alone, and until a destination surely knows what it has done."""


class Fate:
    """Lets a life run up to a step, and stop there for ever: what was done stays, nothing more is."""

    def __init__(self, steps: int | None = None) -> None:
        self.taken = 0
        self.died = asyncio.Event()
        self._steps = steps

    async def step(self) -> None:
        if self.taken == self._steps:
            self.died.set()
        if self.died.is_set():
            await asyncio.Event().wait()
        self.taken += 1
        await asyncio.sleep(0)


class FatefulStore(MemoryStore):
    """Every call has a moment before and one after its effect at which its process may die."""

    def __init__(self, contents: Contents, fate: Fate, clock: Callable[[], float] = time.time) -> None:
        super().__init__(contents, clock=clock)
        self._fate = fate

    async def _reach(self, name: str) -> None:
        await self._fate.step()

    async def _answered(self, name: str) -> None:
        await self._fate.step()


@dataclass(frozen=True)
class Scene:
    """A real sink, and a destination of this machine that takes its steps by fate too."""

    settings: SinkSettings
    sink: Callable[[], Sink]
    begin: Callable[[], None]
    """Empties the destination, and tells it how to answer."""
    meet: Callable[[Fate], None]
    """Has the destination live with a process: its steps may be that one's last."""
    effects: Callable[[], int]
    """How often the destination did what the one delivery asks for."""


class _History:
    """One delivery, and the lives of the processes that are given it one after the other."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.contents = Contents()
        self.owners: list[FakeOwner] = []
        self.effects_after_accepted = 0
        scene.begin()

    @property
    def states(self) -> set[EntryState]:
        return {decode(stored.payload).state for stored in self.contents.entries.values()}

    @property
    def letters(self) -> list[str]:
        return [owner.letters["a1"][0] for owner in self.owners if owner.letters]

    async def live(self, fate: Fate) -> None:
        """One process that is given the delivery and, unless it dies first, brings it to an end."""
        owner = FakeOwner(f"life {len(self.owners)}")
        self.owners.append(owner)
        accepted, effects = EntryState.ACCEPTED in self.states, self.scene.effects()
        loop = asyncio.get_running_loop()
        born_at = START + len(self.owners) * BETWEEN_LIVES_SECONDS - loop.time()
        sink, store = self.scene.sink(), FatefulStore(self.contents, fate)
        ledger = Ledger(
            store, self.scene.settings, sink, by=owner.name, metrics=METRICS, clock=lambda: born_at + loop.time()
        )
        self.scene.meet(fate)
        await sink.open()
        async with LaneScene(sink, ledger=ledger, metrics=METRICS, concurrency=1).running() as stage:
            stage.lane.submit(job_of(owner, "a", "a1"))
            await eventually(lambda: owner.ended or fate.died.is_set())
        await sink.aclose()
        if accepted:
            self.effects_after_accepted += self.scene.effects() - effects


async def die_at_every_step(scene: Scene) -> set[frozenset[EntryState]]:
    """Plays the delivery with a death at each step, and checks what its `on_unknown` promises.

    Returns what the ledger held at the deaths.
    """
    held: set[frozenset[EntryState]] = set()
    steps = await _play(scene, None, held)
    assert steps >= 6
    for death in range(steps):
        await _play(scene, death, held)
    return held


async def _play(scene: Scene, death: int | None, held: set[frozenset[EntryState]]) -> int:
    history, fate = _History(scene), Fate(death)
    await history.live(fate)
    held.add(frozenset(history.states))
    await history.live(Fate())
    await history.live(Fate())
    assert history.owners[-1].ended == 1
    assert history.effects_after_accepted == 0
    match scene.settings.when_unknown:
        case "resend":
            assert scene.effects() >= 1
            assert history.letters == []
            assert history.states == {EntryState.ACCEPTED}
        case "skip":
            assert scene.effects() <= 1
            assert scene.effects() or history.letters
            assert set(history.letters) <= {"unknown_outcome"}
        case "verify":
            assert scene.effects() == 1
            assert history.letters == []
            assert history.states == {EntryState.ACCEPTED}
    return fate.taken
