"""What the demo shows while it runs and at its end: live at a terminal, plain lines elsewhere. Decides nothing."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from worker.local.verdict import Verdict

_PLAIN_WIDTH = 120
_PLAIN_EVERY_SECONDS = 2.0
_RATE_OVER_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class PartitionView:
    """One partition as the workers' metrics tell it."""

    partition: str
    owner: str | None
    lag_events: int | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The demo at one moment."""

    seconds: float
    doing: str
    sent: int
    to_send: int
    delivered: dict[str, tuple[int, int]]
    """Per sink: different events that came, and how many are expected."""
    partitions: Sequence[PartitionView] = ()


class View:
    """Shows snapshots as they come; a context, because a live display has to give the terminal back."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        if not self.console.is_terminal:
            self.console.width = max(self.console.width, _PLAIN_WIDTH)
        self._live = (
            Live(console=self.console, auto_refresh=False, transient=True) if self.console.is_terminal else None
        )
        self._recent: deque[Snapshot] = deque()
        self._next_line_seconds = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, snapshot: Snapshot) -> None:
        """Replaces what is shown; without a terminal, a line every two seconds."""
        self._recent.append(snapshot)
        while snapshot.seconds - self._recent[0].seconds > _RATE_OVER_SECONDS:
            self._recent.popleft()
        if self._live:
            self._live.update(self._picture(snapshot), refresh=True)
        elif snapshot.seconds >= self._next_line_seconds:
            self._next_line_seconds = snapshot.seconds + _PLAIN_EVERY_SECONDS
            self.say(self._line(snapshot))

    def _rate(self, sink: str) -> float:
        """Events per second over the last moments."""
        first, last = self._recent[0], self._recent[-1]
        seconds = last.seconds - first.seconds
        return (last.delivered[sink][0] - first.delivered[sink][0]) / seconds if seconds else 0.0

    def _picture(self, snapshot: Snapshot) -> RenderableType:
        return Group(
            Text(f"{snapshot.seconds:5.1f} s  {snapshot.doing}", style="bold"),
            self._progress(snapshot),
            _partitions(snapshot.partitions),
        )

    def _progress(self, snapshot: Snapshot) -> Table:
        table = Table.grid(padding=(0, 2))
        rows = {"sent": (snapshot.sent, snapshot.to_send), **snapshot.delivered}
        for name, (done, expected) in rows.items():
            rate = f"{self._rate(name):,.0f}/s" if name in snapshot.delivered else ""
            bar = ProgressBar(total=max(1, expected), completed=done, width=40)
            table.add_row(name, bar, f"{done:,} of {expected:,}", rate)
        return table

    def _line(self, snapshot: Snapshot) -> str:
        sinks = ", ".join(
            f"{name} {done:,}/{expected:,} ({self._rate(name):,.0f}/s)"
            for name, (done, expected) in snapshot.delivered.items()
        )
        partitions = ", ".join(
            f"{each.partition}: {each.owner or 'nobody'} lag {'?' if each.lag_events is None else each.lag_events}"
            for each in snapshot.partitions
        )
        sent = f"sent {snapshot.sent:,}/{snapshot.to_send:,}"
        return (
            f"{snapshot.seconds:5.1f} s  {snapshot.doing}: {sent}, {sinks}; partitions {partitions or 'not owned yet'}"
        )


def _partitions(partitions: Sequence[PartitionView]) -> Table:
    table = Table("partition", "owner", "lag in events", box=None, header_style="dim")
    for each in partitions:
        lag = "" if each.lag_events is None else f"{each.lag_events:,}"
        table.add_row(each.partition, each.owner or "nobody yet", lag)
    return table


def verdict_table(verdict: Verdict) -> Table:
    """The end result, a column for each destination and one for the messages that no destination may see."""
    sinks = verdict.sinks
    table = Table("", title="Checked against what was sent")
    for name in (*(sink.sink for sink in sinks), "malformed"):
        table.add_column(name, justify="right")
    unkept = verdict.malformed - verdict.malformed_kept
    rows: list[tuple[str, list[int], int | None]] = [
        ("sent", [verdict.sent_events] * len(sinks), verdict.malformed),
        ("expected here", [sink.expected for sink in sinks], None),
        ("delivered", [sink.delivered for sink in sinks], None),
        ("doubled", [sink.doubled for sink in sinks], None),
        ("late, and said so", [sink.late for sink in sinks], None),
    ]
    faults: list[tuple[str, list[int], int | None]] = [
        ("missing", [sink.missing for sink in sinks], unkept),
        ("out of order per subject", [sink.out_of_order for sink in sinks], None),
        ("said to be late, but was not", [sink.wrongly_late for sink in sinks], None),
        ("doubled under another key", [sink.doubled_under_another_key for sink in sinks], None),
        ("not expected here", [sink.unexpected for sink in sinks], verdict.unexpected_dead_letters),
        ("given up as dead letters", [sink.dead_lettered for sink in sinks], None),
    ]
    for name, counts, malformed in rows:
        table.add_row(name, *(_number(count) for count in (*counts, malformed)))
    table.add_row("kept as dead letters", *[""] * len(sinks), _number(verdict.malformed_kept), end_section=True)
    for name, counts, malformed in faults:
        table.add_row(name, *(_fault(count) for count in (*counts, malformed)))
    return table


def _number(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


def _fault(count: int | None) -> Text:
    return Text(_number(count), style="bold red" if count else "green")
