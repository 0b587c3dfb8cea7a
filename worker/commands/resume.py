"""`worker resume`: lets partitions that stand still be read again. The work is done in `standing`."""
# ruff: noqa: PLC0415 - the command imports what it needs when it runs, so that `worker --help` is quick

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from worker.commands.options import DEFAULT_CONFIG, ConfigOption
from worker.errors import WorkerError

PartitionOption = Annotated[str | None, typer.Option("--partition", metavar="N", help="Only this one.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print which stand still and why, and change nothing.")]


def resume(
    *, config: ConfigOption = DEFAULT_CONFIG, partition: PartitionOption = None, dry_run: DryRunOption = False
) -> None:
    """Let partitions that stand still be read again: those that stopped because too much could not be decoded.

    Works while workers run. Exits 1 when the partition asked for does not stand still.
    """
    asyncio.run(_resume(config, partition, dry_run=dry_run))


async def _resume(config: Path, partition: str | None, *, dry_run: bool) -> None:
    from worker import standing
    from worker.app import opened_store
    from worker.loading import load

    async with opened_store(load(config, sink_secrets=False)) as store:
        found = await standing.standing(store)
        if partition is not None:
            found = {each: reason for each, reason in found.items() if each == partition}
            if not found:
                raise WorkerError(f"partition {partition} does not stand still")
        for each, reason in found.items():
            if not dry_run:
                await standing.resume(store, each)
            typer.echo(f"partition {each} {'stands still' if dry_run else 'may be read again'}: {reason}")
        if not found:
            typer.echo("no partition stands still")
