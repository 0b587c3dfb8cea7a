"""What the demo shows: lines where there is no terminal, a live picture where there is one, and a table at the end."""

import io

import pytest
from rich.console import Console

from worker.local.verdict import SinkVerdict, Verdict
from worker.local.view import PartitionView, Snapshot, View, verdict_table


def snapshot(seconds: float, delivered: int = 0) -> Snapshot:
    return Snapshot(
        seconds=seconds,
        doing="events are sent",
        sent=1500,
        to_send=2045,
        delivered={"audit": (delivered, 2000)},
        partitions=[PartitionView("0", "worker-2", 1234), PartitionView("1", None, None)],
    )


def shown(*snapshots: Snapshot, terminal: bool) -> str:
    file = io.StringIO()
    with View(Console(file=file, force_terminal=terminal, width=100)) as view:
        for each in snapshots:
            view.show(each)
    return file.getvalue()


def test_without_a_terminal_there_is_a_whole_line_at_most_every_two_seconds():
    lines = shown(*(snapshot(tenth / 10) for tenth in range(50)), terminal=False).splitlines()
    assert [line.split()[0] for line in lines] == ["0.0", "2.0", "4.0"]
    assert "sent 1,500/2,045, audit 0/2,000 (0/s); partitions 0: worker-2 lag 1234, 1: nobody lag ?" in lines[0]


def test_the_rate_is_that_of_the_last_seconds_and_not_of_the_whole():
    lines = shown(snapshot(0), snapshot(10, 100), snapshot(12, 500), terminal=False).splitlines()
    assert "(200/s)" in lines[-1]


def test_at_a_terminal_the_picture_has_progress_rates_owners_and_lag():
    picture = shown(snapshot(0), snapshot(2, 500), terminal=True)
    for part in ("500 of 2,000", "250/s", "1,500 of 2,045", "worker-2", "1,234", "nobody yet"):
        assert part in picture


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_has_every_number_of_the_verdict_whole(width):
    sink = SinkVerdict(
        sink="audit",
        expected=20_001,
        delivered=20_002,
        missing=20_003,
        unexpected=20_004,
        out_of_order=20_005,
        doubled=20_006,
        doubled_under_another_key=20_007,
        late=20_008,
        wrongly_late=20_009,
        dead_lettered=20_010,
    )
    verdict = Verdict(
        sent_messages=1,
        sent_events=20_000,
        resent=1,
        malformed=20_020,
        malformed_kept=20_011,
        unexpected_dead_letters=20_012,
        sinks=(sink,) * 3,
    )
    file = io.StringIO()
    Console(file=file, width=width).print(verdict_table(verdict))
    for number in range(20_000, 20_013):
        assert f"{number:,}" in file.getvalue()
    missing = next(line for line in file.getvalue().splitlines() if "missing" in line)
    assert "20,003" in missing
    assert "9" in missing.rsplit("20,003", 1)[1]
