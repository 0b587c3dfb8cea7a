"""`worker deadletter`: what was given up, listed, shown, delivered again or dropped. The work is done in `letters`."""
# ruff: noqa: PLC0415 - each command imports what it needs when it runs, so that `worker --help` is quick

import asyncio
import math
import sys
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.commands.options import DEFAULT_CONFIG, FAILED, ConfigOption, JsonOption
from worker.commands.screen import Screen, in_words, show_whole
from worker.errors import ConfigError, WorkerError
from worker.events import UnixSeconds

if TYPE_CHECKING:
    from worker.letters import Filters
    from worker.stores import DeadLetter, Store

deadletter = typer.Typer(
    no_args_is_help=True,
    help="What was given up: look at it, deliver it again, or drop it. Works while workers run.",
)

IdsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[ID...]", help="Whole, or as much of it as is unambiguous.")
]
SinkOption = Annotated[str | None, typer.Option("--sink", metavar="NAME", help="Only those of this sink.")]
ReasonOption = Annotated[str | None, typer.Option("--reason", metavar="WORD", help="Only those with this reason.")]
RouteOption = Annotated[str | None, typer.Option("--route", metavar="NAME", help="Only those of this route.")]
PartitionOption = Annotated[str | None, typer.Option("--partition", metavar="N", help="Only those of this partition.")]
TypeOption = Annotated[str | None, typer.Option("--type", metavar="TYPE", help="Only events of this type.")]
SubjectOption = Annotated[
    str | None, typer.Option("--subject", metavar="TEXT", help="Only events whose subject begins with this.")
]
SinceOption = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="Given up since then: an age (30m, 2h, 3d) or a time.")
]
UntilOption = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="Given up before then: an age (30m, 2h, 3d) or a time.")
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="At most so many: the oldest.")]
AllOption = Annotated[bool, typer.Option("--all", help="Every dead letter; instead of IDs and filters.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print which letters it would be, and change nothing.")]


@deadletter.command("list")
def list_letters(  # noqa: PLR0913 - an option each
    *,
    config: ConfigOption = DEFAULT_CONFIG,
    sink: SinkOption = None,
    reason: ReasonOption = None,
    route: RouteOption = None,
    partition: PartitionOption = None,
    event_type: TypeOption = None,
    subject: SubjectOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: LimitOption = None,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, newest last, by when the hub took their messages."""
    filters = _filters(sink, reason, route, partition, event_type, subject, since, until)
    asyncio.run(_list(config, filters, limit, Screen(as_json=as_json)))


@deadletter.command()
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="Whole, or as much of it as is unambiguous.")],
    *,
    config: ConfigOption = DEFAULT_CONFIG,
    raw: Annotated[bool, typer.Option("--raw", help="Only the message's bytes, as they came.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show all that is known of one dead letter, with the body of its message. Exits 1 when it is not there."""
    if raw and as_json:
        raise typer.BadParameter("excludes --json; leave one away", param_hint="--raw")
    letter = asyncio.run(_read(config, letter_id))
    if raw:
        sys.stdout.buffer.write(letter.body)
        sys.stdout.buffer.flush()
    else:
        show_whole(letter, as_json=as_json)


@deadletter.command("replay")
def replay_letters(  # noqa: PLR0913 - an option each
    ids: IdsArgument = None,
    *,
    config: ConfigOption = DEFAULT_CONFIG,
    sink: SinkOption = None,
    reason: ReasonOption = None,
    route: RouteOption = None,
    partition: PartitionOption = None,
    event_type: TypeOption = None,
    subject: SubjectOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: LimitOption = None,
    everything: AllOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Ask the workers to deliver dead letters again, under the same idempotency key. What is accepted is dropped.

    Safe to interrupt and to repeat. Exits 1 when an ID is not there.
    """
    filters = _filters(sink, reason, route, partition, event_type, subject, since, until)
    choice = _Choice(tuple(ids or ()), filters, limit, everything=everything)
    choice.check("replay")
    raise typer.Exit(asyncio.run(_replay(config, choice, Screen(as_json=as_json), dry_run=dry_run)))


@deadletter.command("drop")
def drop_letters(  # noqa: PLR0913 - an option each
    ids: IdsArgument = None,
    *,
    config: ConfigOption = DEFAULT_CONFIG,
    sink: SinkOption = None,
    reason: ReasonOption = None,
    route: RouteOption = None,
    partition: PartitionOption = None,
    event_type: TypeOption = None,
    subject: SubjectOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: LimitOption = None,
    everything: AllOption = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete dead letters for good. Asks first.

    Safe to interrupt and to repeat. Exits 1 when an ID is not there.
    """
    filters = _filters(sink, reason, route, partition, event_type, subject, since, until)
    choice = _Choice(tuple(ids or ()), filters, limit, everything=everything)
    choice.check("drop")
    if not (yes or dry_run or sys.stdin.isatty()):
        raise ConfigError(["drop cannot ask, because this is no terminal: add --yes, or look first with --dry-run"])
    asks = not (yes or dry_run)
    raise typer.Exit(asyncio.run(_drop(config, choice, Screen(as_json=as_json), asks=asks, dry_run=dry_run)))


# ---- What is chosen


def _filters(  # noqa: PLR0913, PLR0917 - in the order of the options
    sink: str | None,
    reason: str | None,
    route: str | None,
    partition: str | None,
    event_type: str | None,
    subject: str | None,
    since: str | None,
    until: str | None,
) -> "Filters":
    from worker.letters import Filters

    return Filters(
        sink, reason, route, partition, event_type, subject, _time("--since", since), _time("--until", until)
    )


def _time(option: str, text: str | None) -> UnixSeconds | None:
    from worker.letters import time_of

    try:
        return None if text is None else time_of(text, now=time.time())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


@dataclass(frozen=True, slots=True)
class _Choice:
    """What `replay` and `drop` are told to take."""

    ids: tuple[str, ...]
    filters: "Filters"
    limit: int | None
    everything: bool

    def check(self, command: str) -> None:
        """A command that is given nothing must not take everything."""
        given = bool(self.ids) or not self.filters.empty
        if not given and not self.everything:
            raise ConfigError([f"{command} needs IDs or filters, such as --sink; or --all for every dead letter"])
        if given and self.everything:
            raise ConfigError(["--all means every dead letter: leave it away, or the IDs and filters"])

    async def among(self, store: "Store") -> "_Chosen":
        """Raises ConfigError when the beginning of an ID is that of several."""
        from worker.letters import find

        if not self.ids:
            return _Chosen(self, lambda: store.dead_letters(bodies=False), [])
        found = await find(store, self.ids)
        return _Chosen(self, lambda: _each(found.letters), found.missing)


@dataclass(frozen=True, slots=True)
class _Chosen:
    choice: _Choice
    source: Callable[[], AsyncIterable["DeadLetter"]]
    missing: list[str]

    def letters(self) -> AsyncIterator["DeadLetter"]:
        """From the beginning each time."""
        from worker.letters import choose

        return choose(self.source(), self.choice.filters, limit=self.choice.limit)

    def until_now(self) -> "_Chosen":
        """The same without what becomes a dead letter from now on."""
        filters = self.choice.filters
        until = UnixSeconds(min(time.time(), filters.until or math.inf))
        return replace(self, choice=replace(self.choice, filters=replace(filters, until=until)))

    def tell_missing(self) -> int:
        """Says which IDs there are none of; the exit code."""
        for each in self.missing:
            typer.echo(f"there is no dead letter {each} (any more)", err=True)
        return FAILED if self.missing else 0


async def _each(letters: list["DeadLetter"]) -> AsyncIterator["DeadLetter"]:
    for letter in letters:
        yield letter


# ---- What is done


@asynccontextmanager
async def _opened(config: Path) -> AsyncIterator["Store"]:
    from worker.app import opened_store
    from worker.loading import load

    async with opened_store(load(config, sink_secrets=False)) as store:
        yield store


async def _list(config: Path, filters: "Filters", limit: int | None, screen: Screen) -> None:
    from worker.letters import choose

    async with _opened(config) as store:
        async for letter in choose(store.dead_letters(bodies=False), filters, limit=limit):
            screen.show(letter)
    screen.end(f"{in_words(screen.shown)}.")


async def _read(config: Path, letter_id: str) -> "DeadLetter":
    from worker.letters import find
    from worker.stores.layout import letter_name

    async with _opened(config) as store:
        for found in (await find(store, [letter_id])).letters:
            if letter := await store.read_dead_letter(letter_name(found)):
                return letter
    raise WorkerError(f"there is no dead letter {letter_id} (any more): see `worker deadletter list`")


async def _replay(config: Path, choice: _Choice, screen: Screen, *, dry_run: bool) -> int:
    from worker.hub import Hub
    from worker.letters import request_replays, someone_works
    from worker.loading import load

    settings = load(config, sink_secrets=False).worker.source
    async with _opened(config) as store:
        chosen = await choice.among(store)
        if dry_run:
            return await _only_say(chosen, screen, "would be delivered again")
        count = await request_replays(store, chosen.letters(), screen.done)
        scope, expiry_seconds = Hub(settings, None).scope, settings.ownership_expiry_seconds
        working = await someone_works(store, scope, expiry_seconds=expiry_seconds)
    if working or not count:
        what = "to be delivered again by the workers. Those that are accepted disappear from the list"
    else:
        what = "to be delivered again. No worker is running: it begins once one does"
    screen.end(f"{in_words(count)} {what}.")
    return chosen.tell_missing()


async def _drop(config: Path, choice: _Choice, screen: Screen, *, asks: bool, dry_run: bool) -> int:
    from worker.letters import drop

    async with _opened(config) as store:
        chosen = await choice.among(store)
        if dry_run:
            return await _only_say(chosen, screen, "would be dropped")
        if asks:
            # What becomes a dead letter while the operator thinks is not what he agreed to.
            chosen = chosen.until_now()
            count = sum([1 async for _ in chosen.letters()])
            if count:
                typer.confirm(f"Drop {in_words(count)} for good?", abort=True, err=True)
        count = await drop(store, chosen.letters(), screen.done)
    screen.end(f"{in_words(count)} dropped.")
    return chosen.tell_missing()


async def _only_say(chosen: _Chosen, screen: Screen, what: str) -> int:
    async for letter in chosen.letters():
        screen.show(letter)
    screen.end(f"{in_words(screen.shown)} {what}.")
    return chosen.tell_missing()
