"""The tables of a chaos run: for the terminal and for a file. Decides nothing."""

from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.markdown import Markdown

from bench.chaos.judge import SinkResult
from bench.chaos.run import Outcome

_UNEXPLAINED = 20
"""How many are shown one by one."""


def show(outcomes: Sequence[Outcome]) -> None:
    """Prints."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(Markdown(markdown(outcomes)))


def markdown(outcomes: Sequence[Outcome]) -> str:
    """All of it, a heading for each part."""
    return "\n".join([*_results(outcomes), "", *_conditions(outcomes), "", *_dead_letters(outcomes)])


def _results(outcomes: Sequence[Outcome]) -> Iterator[str]:
    columns = [(outcome, sink) for outcome in outcomes for sink in outcome.result.sinks]
    yield "## What arrived"
    yield ""
    yield from _table(
        ["", *(f"{outcome.contestant}: {sink.seen.sink}" for outcome, sink in columns)],
        [[name, *(cell(sink) for _, sink in columns)] for name, cell in _ROWS],
    )


def _doubled(sink: SinkResult) -> str:
    return f"{sink.seen.doubled:,} ({sink.doubled_percent:.2f} %)"


_ROWS: tuple[tuple[str, Callable[[SinkResult], str]], ...] = (
    ("events expected", lambda sink: f"{sink.seen.expected:,}"),
    ("delivered", lambda sink: f"{sink.seen.delivered:,}"),
    ("**lost**", lambda sink: f"**{sink.lost:,}**"),
    ("**out of order per subject**", lambda sink: f"**{sink.seen.out_of_order:,}**"),
    ("**doubled effects**", lambda sink: f"**{_doubled(sink)}**"),
    ("of those, the destination had kept its answer to itself", lambda sink: f"{sink.untold:,}"),
    ("of those, with a kill, freeze or thaw between the two", lambda sink: f"{sink.disturbed:,}"),
    ("of those, under another key", lambda sink: f"{sink.seen.doubled_under_another_key:,}"),
    ("given up as dead letters", lambda sink: f"{sink.given_up:,}"),
    ("late, and said so", lambda sink: f"{sink.seen.late:,}"),
    ("said to be late, but was not", lambda sink: f"{sink.seen.wrongly_late:,}"),
    ("not expected here", lambda sink: f"{sink.seen.unexpected:,}"),
    ("as promised", lambda sink: "yes" if sink.is_right else "NO"),
)


def _conditions(outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield "## What was done to them"
    yield ""
    kinds = sorted({kind for outcome in outcomes for kind in outcome.faults})
    moods = sorted({mood for outcome in outcomes for counts in outcome.moods.values() for mood in counts})
    first = outcomes[0].result
    yield (
        f"{first.sent_messages:,} messages with {first.sent_events:,} different events, {first.resent:,} copies and "
        f"{first.malformed:,} malformed; three processes, six partitions."
    )
    yield ""
    rows = [["faults", *(f"{outcome.faults.total():,}" for outcome in outcomes)]]
    rows += [["of those, met nobody", *(f"{outcome.missed:,}" for outcome in outcomes)]]
    rows += [[f"fault: {kind}", *(f"{outcome.faults[kind]:,}" for outcome in outcomes)] for kind in kinds]
    rows += [
        [f"request: {mood}", *(f"{sum(counts[mood] for counts in outcome.moods.values()):,}" for outcome in outcomes)]
        for mood in moods
    ]
    rows += [
        ["seconds of traffic", *(f"{outcome.sending_seconds:,.0f}" for outcome in outcomes)],
        ["seconds until the last movement", *(f"{outcome.settled_seconds:,.0f}" for outcome in outcomes)],
    ]
    yield from _table(["", *(outcome.contestant for outcome in outcomes)], rows)


def _dead_letters(outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield "## Dead letters"
    yield ""
    for outcome in outcomes:
        result = outcome.result
        if not result.malformed_kept and not result.letters and not result.unexplained:
            yield f"- {outcome.contestant}: keeps none; {result.malformed:,} malformed messages are gone."
            continue
        yield (
            f"- {outcome.contestant}: {result.malformed_kept:,} of {result.malformed:,} malformed messages, byte for "
            f"byte; {result.unexpected_letters:,} others without a sink"
        )
        yield from (f"- {outcome.contestant}: {count:,} of {reason}" for reason, count in result.letters.items())
        yield f"- {outcome.contestant}: {len(result.unexplained):,} unexplained"
        yield from (f"    - {text}" for text in result.unexplained[:_UNEXPLAINED])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'---:|' * (len(head) - 1)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
