"""`worker lag`: who has each partition, how far it is, and how much waits. What is shown, `overview` finds out."""
# ruff: noqa: PLC0415 - the command imports what it needs when it runs, so that `worker --help` is quick

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from worker.commands.options import DEFAULT_CONFIG, ConfigOption, JsonOption, print_json

if TYPE_CHECKING:
    from worker.overview import PartitionView

_COLUMNS = "{:>9}  {:<40} {:>13} {:>13} {:>11} {:>11}  {}"


def lag(*, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Say for each partition who has it, where it is, and how much waits: in events and in seconds.

    It asks the hub and the store, reads no event, and disturbs no worker. Exits 0 however much waits.
    """
    now = time.time()
    views = asyncio.run(_look(config, now))
    if not as_json:
        typer.echo(_COLUMNS.format("partition", "owner", "last", "checkpoint", "lag", "seconds", "").rstrip())
    for view in views:
        if as_json:
            print_json(_row(view, now))
        else:
            typer.echo(_line(view, now))
    if not as_json:
        typer.echo(f"{sum(view.lag_events for view in views):,} events wait.", err=True)


async def _look(config: Path, now: float) -> "list[PartitionView]":
    from worker.app import hub_and_store
    from worker.loading import load
    from worker.overview import overview

    loaded = load(config, sink_secrets=False)
    async with hub_and_store(loaded) as (hub, store):
        await store.open()
        return await overview(hub, store, expiry_seconds=loaded.worker.source.ownership_expiry_seconds, now=now)


def _row(view: "PartitionView", now: float) -> dict[str, Any]:
    seconds, exact = view.lag_seconds(now)
    return {
        "partition": view.partition,
        "owner": view.owner,
        "last_enqueued": view.span.last,
        "checkpoint": view.checkpoint.sequence_number if view.checkpoint else None,
        "lag_events": view.lag_events,
        "lag_seconds": round(seconds, 1),
        "lag_seconds_exact": exact,
        "lost_events": view.lost_events,
        "stopped": view.state.stopped if view.state else None,
    }


def _line(view: "PartitionView", now: float) -> str:
    from worker.terminal import printable

    row = _row(view, now)
    seconds = f"{'' if row['lag_seconds_exact'] else '≥ '}{row['lag_seconds']:,.0f}"
    owner = row["owner"] or ("(being taken)" if view.owned else "-")
    checkpoint = "-" if row["checkpoint"] is None else row["checkpoint"]
    cells = view.partition, owner, view.span.last, checkpoint, f"{view.lag_events:,}", seconds
    return _COLUMNS.format(*cells, printable("; ".join(_remarks(view)))).rstrip()


def _remarks(view: "PartitionView") -> list[str]:
    found = []
    if view.state and view.state.stopped:
        found.append(f"stands still: {view.state.stopped}")
    if view.lost_events:
        found.append(f"{view.lost_events:,} events left the hub before they were settled")
    if view.lag_events < 0:
        found.append("the hub has fewer events than were read: was it created anew?")
    return found
