"""How the simulated processes are configured: a few variants, each built once. Intervals are short: time is."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Literal

from tests.simulation.hub import NAMESPACE
from tests.simulation.loop import WALL_CLOCK_OFFSET
from tests.simulation.traffic import (
    DIGEST,
    IDEMPOTENT,
    LEDGER,
    LIFE,
    MISSED,
    PLAIN,
    SILENT_SECONDS,
    TOPIC,
    WITHIN_SECONDS,
)
from worker.config import Config, Routing, WorkerSettings
from worker.expect import Correlation, ExpectRule
from worker.expect_settings import CorrelateSettings
from worker.filters import compile_filter
from worker.route import Late, Routes, RouteSpec
from worker.settings import SinkSettings

BALANCE_SECONDS = 1.0
EXPIRY_SECONDS = 6.0
LEASE_SECONDS = EXPIRY_SECONDS - 2 * BALANCE_SECONDS
GIVE_UP_SECONDS = 15.0


def _clock(minute: int) -> str:
    return f"{minute // 60 % 24:02}:{minute % 60:02}"


@dataclass(frozen=True, slots=True)
class Variant:
    """What differs from run to run."""

    window_seconds: float | Literal["auto"]
    state_interval_seconds: float
    in_flight: int
    held: int
    late: Late
    overflow: str
    on_unknown: str
    """Of the sink with the ledger."""
    concurrency: int
    quiet: int
    """Which of the ways to tell of several together."""
    only: Literal["latest"] | None
    changed: tuple[str, ...] | None
    """Both of the idempotent sink."""


_AUTO = {"min_seconds": 0.5, "max_seconds": 8, "late_target": 0.2}
"""A window begins with five seconds: in a run some grow, because of what comes nine seconds late, and most shrink."""
_MINUTE = int((WALL_CLOCK_OFFSET + 1_000 + 12) % 86_400) // 60
"""One that begins when a run has gone on for twelve seconds."""
_QUIET: tuple[dict[str, Any], ...] = (
    {"group_by": [], "group_wait_seconds": 1, "group_interval_seconds": 4},
    {"group_by": ["data.sequencer"], "group_wait_seconds": 0, "group_interval_seconds": 2, "max_events": 3},
    {"limit": {"messages": 1, "per_seconds": 8}, "group_interval_seconds": 3},
    {"mute": [{"from": _clock(_MINUTE), "to": _clock(_MINUTE + 1)}], "group_interval_seconds": 2},
)


class _CostlySettings(SinkSettings):
    """A sink whose effects cost something, and whose destination cannot tell a repetition."""

    ledger: ClassVar[Literal["never", "optional", "always"]] = "always"
    timeout_seconds: float = 2.0


def _expect(name: str, first: str, second: str, correlate: CorrelateSettings | None = None) -> ExpectRule:
    return ExpectRule(
        name=name,
        written=f"{WITHIN_SECONDS:g}s",
        seconds=WITHIN_SECONDS,
        listed=None,
        sources=None,
        after=compile_filter({"includedEventTypes": [first]}),
        then=compile_filter({"includedEventTypes": [second]}),
        correlation=None if correlate is None else Correlation(correlate),
    )


_PLAIN_TYPES = ("Sim.All", "Sim.First", "Sim.FirstElsewhere")
_PAIR = "{{ event.data.pair }}"
_EXPECT = (
    _expect("follows", "Sim.First", "Sim.Second"),
    _expect(
        "elsewhere", "Sim.FirstElsewhere", "Sim.SecondElsewhere", CorrelateSettings(after=_PAIR, then=_PAIR, split=",")
    ),
    ExpectRule(
        name="silent",
        written=f"{SILENT_SECONDS:g}s",
        seconds=SILENT_SECONDS,
        listed=(TOPIC,),
        sources=frozenset({TOPIC}),
        events=compile_filter({"includedEventTypes": list(LIFE)}),
        is_silence=True,
    ),
)


def variant(random: Random, more: Random) -> Variant:
    return Variant(
        window_seconds=random.choice((0, 1, 1, "auto")),
        state_interval_seconds=random.choice((0.2, 1)),
        in_flight=random.choice((4, 10, 2000)),
        held=random.choice((3, 50_000, 50_000)),
        late=random.choice((Late.DELIVER, Late.DELIVER, Late.DROP, Late.DEAD_LETTER)),
        on_unknown=random.choice(("skip", "resend")),
        overflow=random.choice(("block", "block", "dead_letter")),
        concurrency=random.choice((2, 16)),
        quiet=random.randrange(len(_QUIET)),
        only=more.choice((None, None, "latest")),
        changed=more.choice((None, None, ("data", "etag"))),
    )


@cache
def config(chosen: Variant) -> Config:
    """The same, as the worker reads it."""
    common = {"kind": "simulated", "concurrency": chosen.concurrency, "overflow": chosen.overflow}
    retry = {"give_up_after_seconds": GIVE_UP_SECONDS}
    sinks: tuple[SinkSettings, ...] = (
        *(SinkSettings.model_validate({**common, "name": name, "retry": retry}) for name in (PLAIN, IDEMPOTENT)),
        _CostlySettings.model_validate({**common, "name": LEDGER, "on_unknown": chosen.on_unknown}),
        _CostlySettings.model_validate(
            {**common, "name": DIGEST, "on_unknown": chosen.on_unknown, "quiet": _QUIET[chosen.quiet]}
        ),
    )
    specs = (
        RouteSpec("all", (PLAIN,), compile_filter({"includedEventTypes": list(_PLAIN_TYPES)})),
        RouteSpec(
            "idempotent",
            (IDEMPOTENT,),
            compile_filter({"includedEventTypes": ["Sim.All"]}),
            late=chosen.late,
            only=chosen.only,
            changed=chosen.changed,
        ),
        RouteSpec("some", (LEDGER,), compile_filter({"includedEventTypes": ["Sim.Some"]})),
        RouteSpec("told", (DIGEST,), compile_filter({"includedEventTypes": ["Sim.Told"]})),
        RouteSpec("missed", MISSED, compile_filter({"includedEventTypes": ["Worker.ExpectationMissed"]})),
    )
    file = Path("simulated.yaml")
    worker = WorkerSettings.model_validate(_worker(chosen))
    return Config(file, worker, Routing(file, sinks, specs, Routes(specs), _EXPECT), "simulated")


def without(complete: Config, sink: str) -> Config:
    """The same without a sink, whose events nobody wants then; with none: the same."""
    sinks = tuple(each for each in complete.sinks if each.name != sink)
    left = (replace(each, sinks=tuple(name for name in each.sinks if name != sink)) for each in complete.routing.specs)
    specs = tuple(each for each in left if each.sinks)
    routing = replace(complete.routing, sinks=sinks, specs=specs, routes=Routes(specs))
    return replace(complete, routing=routing, digest=f"simulated without {sink}")


def _worker(chosen: Variant) -> dict[str, Any]:
    return {
        "source": {
            "namespace": NAMESPACE,
            "hub": "events",
            "balance_interval_seconds": BALANCE_SECONDS,
            "ownership_expiry_seconds": EXPIRY_SECONDS,
        },
        "store": {
            "kind": "sqlite",
            "path": "simulated.db",
            "state_interval_seconds": chosen.state_interval_seconds,
            "checkpoint_interval_seconds": 1,
        },
        "order": {"window_seconds": chosen.window_seconds, **(_AUTO if chosen.window_seconds == "auto" else {})},
        "limits": {
            "in_flight": chosen.in_flight,
            "held": chosen.held,
            "drain_seconds": 3,
            "hand_over_seconds": 2,
        },
        "dead_letters": {"stop_ratio": 1},
    }
