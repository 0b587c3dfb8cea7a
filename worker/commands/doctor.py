"""`worker doctor`: looks at everything that a worker needs, and says what to do. The checks are in `doctor`."""
# ruff: noqa: PLC0415 - the command imports what it needs when it runs, so that `worker --help` is quick

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from worker.commands.options import DEFAULT_CONFIG, FAILED, ConfigOption, JsonOption, print_json

if TYPE_CHECKING:
    from worker.finding import Finding

_ABOUT_WIDTH = 24


def doctor(*, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Check hub, store, rights, clocks, partition keys, partitions, sinks and dead letters, and say what to do.

    Sends nothing to a destination and disturbs no worker: run it where the worker runs, with the same configuration and
    identity. Exits 1 when something is wrong.
    """
    from worker import logs

    logs.configure()
    raise typer.Exit(FAILED if asyncio.run(_examine(config, as_json=as_json)) else 0)


async def _examine(config: Path, *, as_json: bool) -> bool:
    """Whether something is wrong."""
    from worker.app import hub_and_store
    from worker.doctor import Examination
    from worker.finding import State
    from worker.loading import load

    loaded = load(config)
    wrong = False
    async with hub_and_store(loaded) as (hub, store):
        async for finding in Examination(loaded, hub, store, clock=time.time).findings():
            wrong |= finding.state is State.WRONG
            if as_json:
                print_json(finding._asdict())
            else:
                _tell(finding)
    return wrong


def _tell(finding: "Finding") -> None:
    """A row, and what to do below what was found."""
    from worker.terminal import printable

    about = printable(finding.about)
    typer.echo(f"{finding.state:<8} {finding.check:<14} {about:<{_ABOUT_WIDTH}} {printable(finding.said)}".rstrip())
    if finding.to_do:
        typer.echo(f"{'':<{8 + 1 + 14 + 1 + _ABOUT_WIDTH}} → {printable(finding.to_do)}")
