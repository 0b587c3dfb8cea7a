"""1 → 2 → 4 workers and back on 16 partitions, as `make scaling` measures it, smaller: here only what is promised."""

from pathlib import Path

import pytest

from bench.scaling.run import KILL, Options, Outcome, Run

SMALL = Options(
    rate=64.0,
    calm_events=3,
    # What the manifests ship, but for these: half as long, so that the test is.
    changes={
        "source": {"balance_interval_seconds": 1, "ownership_expiry_seconds": 8},
        "limits": {"drain_seconds": 20, "hand_over_seconds": 5},
        "order": {"window_seconds": 2},
    },
)
EVEN = {"1 worker": (16,), "1 → 2": (8, 8), "2 → 4": (4, 4, 4, 4), "4 → 2, stopped": (8, 8), KILL: (16,)}


@pytest.mark.timeout(300)
async def test_workers_come_and_go_under_load_and_nothing_is_lost_doubled_or_overtaken(tmp_path: Path):
    outcome = await Run(SMALL, tmp_path / "run", lambda _: None).run()

    assert {phase.name: phase.shares for phase in outcome.phases} == EVEN
    [sink] = outcome.verdict.sinks
    assert (sink.missing, sink.unexpected, sink.out_of_order, sink.wrongly_late) == (0, 0, 0, 0)
    assert sink.doubled_under_another_key == 0
    assert sink.delivered == outcome.verdict.sent_events > 1000
    assert _doubled(outcome, planned=True) == 0
    assert _doubled(outcome, planned=False) == sink.doubled, "a death may double what was not recorded yet"


def _doubled(outcome: Outcome, *, planned: bool) -> int:
    return sum(phase.doubled for phase in outcome.phases if phase.planned is planned)
