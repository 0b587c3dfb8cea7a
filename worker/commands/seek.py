"""`worker seek`: reads partitions again from an earlier place, or passes over what waits. `seek` does the work."""
# ruff: noqa: PLC0415 - the command imports what it needs when it runs, so that `worker --help` is quick

import asyncio
import os
import socket
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer

from worker.commands.options import DEFAULT_CONFIG, FAILED, ConfigOption, JsonOption, print_json
from worker.errors import ConfigError, HubUnavailable, WorkerError

if TYPE_CHECKING:
    from worker.config import Config
    from worker.hub import Hub
    from worker.overview import PartitionView
    from worker.progress import Watermark
    from worker.stores import Store
    from worker.target import Target

_NOBODY_HAD_THEM = (
    "this store knows nothing of these partitions: are store, hub and consumer group those of the workers?"
)

ToOption = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="PLACE",
        help="earliest, latest, a time (2026-01-31T06:00:00Z) or an age (2h), or the sequence number to be read first.",
    ),
]
PartitionOption = Annotated[
    list[str] | None, typer.Option("--partition", metavar="N", help="Only this one; may be repeated. Without: all.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and change nothing.")]
YesOption = Annotated[
    bool, typer.Option("--yes", "-y", help="Do it. Without: a dry run on a terminal, and refused elsewhere.")
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Also where a worker is at it: it drains, hands over, and goes on from there.")
]
AgainOption = Annotated[
    bool, typer.Option("--again", help="Act again where the ledger says that it is done. It costs what it costs.")
]


def seek(  # noqa: PLR0913 - an option each
    *,
    config: ConfigOption = DEFAULT_CONFIG,
    to: ToOption,
    partition: PartitionOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    force: ForceOption = False,
    again: AgainOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read partitions again from an earlier place, or pass over what waits. Changes nothing without --yes.

    What is read again is delivered again: it is taken neither for a copy nor for late. Sinks with a ledger do not act
    again, unless --again. What waits in digests, pending expectations and dead letters stay. Refuses while a worker has
    one of the partitions, unless --force. Safe to repeat (with --again, only for partitions that were not moved). Exits
    1 when it was not done everywhere.
    """
    from worker import logs
    from worker.loading import load

    if yes and dry_run:
        raise typer.BadParameter("excludes --dry-run; leave one away", param_hint="--yes")
    wish = _Wish(_target(to), tuple(partition or ()), for_show=not yes, force=force, again=again, as_json=as_json)
    if not (yes or dry_run or sys.stdin.isatty() or sys.stdout.isatty()):
        # A script shall not take a dry run for done, nor `kubectl exec` without -t act on half a command.
        raise ConfigError(["seek repeats events or passes over them: add --yes, or look first with --dry-run"])
    logs.configure()
    done = asyncio.run(_seek(load(config, sink_secrets=False), wish))
    if not yes and not as_json:
        typer.echo("Nothing was changed: " + ("--dry-run." if dry_run else "add --yes to do it."), err=True)
    raise typer.Exit(0 if done else FAILED)


def _target(text: str) -> "Target":
    from worker.target import parse

    try:
        return parse(text, now=time.time())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--to") from None


@dataclass(frozen=True, slots=True)
class _Wish:
    target: "Target"
    partitions: tuple[str, ...]
    for_show: bool
    force: bool
    again: bool
    as_json: bool

    def among(self, views: "list[PartitionView]") -> "list[PartitionView]":
        """The partitions that are asked for."""
        known = {view.partition for view in views}
        if unknown := [each for each in self.partitions if each not in known]:
            raise ConfigError([f"there is no partition {', '.join(unknown)}: the hub has 0 to {len(known) - 1}"])
        return [view for view in views if not self.partitions or view.partition in self.partitions]


async def _seek(config: "Config", wish: _Wish) -> bool:
    """Whether it was done everywhere, or would be."""
    from worker.app import hub_and_store
    from worker.overview import overview

    async with hub_and_store(config) as (hub, store):
        await store.open()
        expiry_seconds = config.worker.source.ownership_expiry_seconds
        # By the store's clock, which says when an owner was last heard: ours may be ahead, and all would seem dead.
        now = await store.clock()
        views = wish.among(await overview(hub, store, expiry_seconds=expiry_seconds, now=now))
        if all(view.state is None and view.checkpoint is None for view in views):
            typer.echo(_NOBODY_HAD_THEM, err=True)
        held = [view for view in views if view.owned]
        if held and not wish.force and not wish.for_show:
            raise WorkerError(_refusal(held))
        # All are found before any is moved: what cannot be found is no reason to do half of it.
        places = await asyncio.gather(*(_place(hub, view, wish) for view in views))
        moves = [_Move(config, hub, store, view, place, wish) for view, place in zip(views, places, strict=True)]
        outcomes = await asyncio.gather(*(move.make() for move in moves))
    if held and not wish.force:
        typer.echo(f"would be refused: {_refusal(held)}", err=True)
        return False
    return all(outcomes)


def _refusal(held: "list[PartitionView]") -> str:
    who = "; ".join(f"partition {view.partition}: {view.owner or 'somebody is taking it'}" for view in held)
    return (
        f"workers have partitions that are to be moved ({who}). Stop them, and wait until their ownership has expired "
        "if they were killed; or say --force: they drain, hand over, and go on from the new place"
    )


async def _place(hub: "Hub", view: "PartitionView", wish: _Wish) -> "Watermark | None":
    """Behind what it goes on; None: not looked for, because that would take the partition from its owner."""
    from worker.peek import peek
    from worker.target import OutOfReach, Since, before, place

    try:
        found = place(wish.target, view.span)
    except OutOfReach as error:
        raise ConfigError([f"--to: partition {view.partition}: {error}"]) from None
    if found is not None or not isinstance(wish.target, Since):
        return found
    insist = wish.force and not wish.for_show
    try:
        seen = await peek(hub, view.partition, datetime.fromtimestamp(wish.target.time, UTC), insist=insist)
    except HubUnavailable:
        if view.owned and wish.for_show:
            return None
        raise
    number = seen.events[0].sequence_number
    assert number is not None, "every message of a hub has one"
    return before(number)


@dataclass(frozen=True, slots=True)
class _Move:
    """One partition, and where it goes."""

    config: "Config"
    hub: "Hub"
    store: "Store"
    view: "PartitionView"
    place: "Watermark | None"
    wish: _Wish

    async def make(self) -> bool:
        """Moves it, unless it is only to be shown, and says so; whether that went well."""
        from worker.seek import Unsure

        if self.wish.for_show or self.place is None:
            self._say("would be moved")
            return True
        try:
            await self._seek(self.place)
        except WorkerError as error:
            self._say("perhaps moved" if isinstance(error, Unsure) else "not moved", str(error))
            return False
        self._say("moved")
        return True

    async def _seek(self, place: "Watermark") -> None:
        from worker.seek import seek
        from worker.state import Again

        identity = self.hub.identity
        assert identity is not None, "the hub was asked what its partitions hold"
        name = f"seek-{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        await seek(
            self.store,
            self.view.partition,
            place,
            hub=identity,
            claimant=name,
            limits=self.config.worker.limits,
            again=Again(name, self.view.span.last) if self.wish.again else None,
        )

    def _say(self, outcome: str, error: str | None = None) -> None:
        partition, place = self.view.partition, self.place
        was = self.view.place.sequence_number if self.view.place else None
        to = place.sequence_number if place else None
        if self.wish.as_json:
            row: dict[str, Any] = {"partition": partition, "outcome": outcome.replace(" ", "_"), "was_behind": was}
            more = {"is_behind": to, "owner": self.view.owner, "error": error}
            print_json(row | more)
            return
        typer.echo(f"partition {partition} {outcome}: {error or self._difference(was, to)}", err=error is not None)

    def _difference(self, was: int | None, to: int | None) -> str:
        if to is None:
            return "to the first event since then, which is not looked for while a worker reads the partition"
        earliest, last = self.view.span.earliest.sequence_number, self.view.span.last
        # What the hub has forgotten neither comes again nor is passed over; a number that it has not is another hub's.
        begun = was if was is not None and earliest <= was <= last else earliest
        count = abs(begun - to)
        if count == 0:
            what = "where it is already"
        elif to < begun:
            what = "1 event comes again" if count == 1 else f"{count:,} events come again"
        else:
            what = "1 event is passed over" if count == 1 else f"{count:,} events are passed over"
        return f"reading goes on with number {to + 1} ({what})"
