"""`worker send-test`: one sample through one sink; what was sent, and what the destination said of it.

The attempt is made by `trial`, the sample by `samples`.
"""
# ruff: noqa: PLC0415 - the command imports what it needs when it runs, so that `worker --help` is quick

import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.commands.options import DEFAULT_CONFIG, FAILED, ConfigOption, JsonOption, print_json
from worker.errors import ConfigError
from worker.events import UnixSeconds
from worker.samples import Sample
from worker.terminal import printable

if TYPE_CHECKING:
    from worker.config import Config
    from worker.settings import SinkSettings
    from worker.sinks import Delivery, Sink
    from worker.trial import Outcome

SinkOption = Annotated[str, typer.Option("--sink", metavar="NAME", help="The sink to try, by its name in routes.yaml.")]
SampleOption = Annotated[
    Sample | None,
    typer.Option("--sample", help="What it is sent.", show_default="what the sink's kind is for, mostly a failed run"),
]
EventOption = Annotated[
    str | None, typer.Option("--event", metavar="FILE|-", help="An event of your own, instead of a sample; - is stdin.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print what would be sent, and send nothing.")]


def send_test(
    *,
    config: ConfigOption = DEFAULT_CONFIG,
    sink: SinkOption,
    sample: SampleOption = None,
    event: EventOption = None,
    as_json: JsonOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Send one sink an event that says it is a test, and print what was sent and answered. Needs no hub and no store.

    It is really sent, also to a sink that starts something: --dry-run only shows it. One attempt, whatever the sink
    says about pausing and retries; a sink with `dry_run: true` is sent nothing. Exits 1 when the destination did not
    take it.
    """
    from worker import logs
    from worker.loading import load
    from worker.sinks.installed import find_kind

    if sample and event:
        raise typer.BadParameter("excludes --sample; leave one away", param_hint="--event")
    logs.configure()
    settings = _named(sink, load(config, secrets=not dry_run, only_sink=sink))
    sample = sample or Sample(settings.natural_sample)
    delivery = _delivery(event, sample, settings)
    to_look_at = find_kind(settings.kind).build(settings, None)
    trial = _Trial(settings, to_look_at, delivery, event or sample, dry_run=dry_run)
    if not as_json:
        trial.show()
    outcome = trial.run()
    if as_json:
        print_json(trial.row(outcome))
    else:
        trial.tell(outcome)
    raise typer.Exit(FAILED if outcome and outcome.problem else 0)


def _named(name: str, config: "Config") -> "SinkSettings":
    from worker.mistakes import did_you_mean, shown

    for settings in config.sinks:
        if settings.name == name:
            return settings
    suggestion = did_you_mean(name, [settings.name for settings in config.sinks])
    raise ConfigError([f"{config.routing.file}: there is no sink {shown(name)}; {suggestion}"])


def _delivery(file: str | None, sample: Sample, settings: "SinkSettings") -> "Delivery":
    from worker.samples import own_delivery, sample_delivery

    sink, now = settings.name, UnixSeconds(time.time())
    if file is None:
        return sample_delivery(sample, sink, now=now, source=settings.sample_source)
    try:
        return own_delivery(sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes(), sink, now=now)
    except OSError as error:
        raise ConfigError([f"{file}: cannot be read: {error.strerror}; name a file with one event"]) from None
    except ValueError as error:
        raise ConfigError([f"{file}: {error}"]) from None


@dataclass(frozen=True, slots=True)
class _Trial:
    """What is tried, and how it is told."""

    settings: "SinkSettings"
    sink: "Sink"
    """To show what would be sent; sending is another one's, with the identity it needs."""
    delivery: "Delivery"
    what: str
    """The sample, or the file."""
    dry_run: bool
    """It is only to be looked at."""

    def run(self) -> "Outcome | None":
        """Sends it, unless it is not to be sent."""
        return asyncio.run(self._attempt()) if self._sends else None

    async def _attempt(self) -> "Outcome":
        from worker.app import built_sink
        from worker.trial import attempt

        async with built_sink(self.settings) as sink:
            return await attempt(sink, self.delivery, self.settings)

    def row(self, outcome: "Outcome | None") -> dict[str, Any]:
        """All of it, for --json."""
        row = {
            "sink": self.settings.name,
            "kind": self.settings.kind,
            "destination": self._destination,
            "what": self.what,
            "event_id": self._event_id,
            "idempotency_key": self.delivery.idempotency_key,
            "paused": self.settings.paused,
            "preview": self._preview,
            "result": _word(outcome),
        }
        if outcome is None:
            return row
        more = {"detail": outcome.detail, "answers": list(outcome.answers), "seconds": round(outcome.seconds, 3)}
        return row | more

    def show(self) -> None:
        """What is sent where, for people: before it is sent, because that may take its time."""
        from worker.sinks.installed import origin_of

        origin = origin_of(self.settings.kind)
        _say("sink", self.settings.name)
        _say("kind", f"{self.settings.kind}, from {origin}" if origin else self.settings.kind)
        _say("destination", self._destination or "-")
        _say("event", f"{self._event_id} ({self.what})")
        _say("key", self.delivery.idempotency_key)
        typer.echo("\nwhat is sent:" if self._sends else "\nwhat would be sent:")
        for line in self._preview.splitlines():
            typer.echo(f"  {line}".rstrip())
        typer.echo("")

    def tell(self, outcome: "Outcome | None") -> None:
        """How it ended, for people."""
        if outcome is None:
            typer.echo("not sent: --dry-run" if self.dry_run else _HELD_BACK)
            return
        if outcome.problem is None:  # else the problem quotes them
            for answer in outcome.answers:
                _say("answer", answer)
        for sentence in _verdict(outcome, self.settings):
            typer.echo(sentence)
        if self.settings.paused:
            typer.echo("The sink is paused: a running worker holds its events, only this test was sent.")

    @property
    def _sends(self) -> bool:
        return not (self.dry_run or self.settings.dry_run)

    @property
    def _preview(self) -> str:
        from worker.errors import Rejected
        from worker.trial import preview

        try:
            return preview(self.sink, self.delivery, self.settings)
        except Rejected as error:
            if not isinstance(self.what, Sample):
                raise
            raise Rejected(f"{error} (of the sample {self.what}; --sample and --event choose another event)") from None

    @property
    def _destination(self) -> str | None:
        from worker.trial import destination

        return destination(self.settings)

    @property
    def _event_id(self) -> str:
        return printable(self.delivery.released.placed.event.id)


_HELD_BACK = (
    "not sent: the sink says dry_run: true, so a worker would only log the event. Remove that from routes.yaml to send."
)


def _say(name: str, value: str) -> None:
    typer.echo(f"{name:<11} {printable(value)}")


def _word(outcome: "Outcome | None") -> str:
    from worker.errors import (
        Gone,
        InProgress,
        Misconfigured,
        OutcomeUnknown,
        PartlyAccepted,
        Rejected,
        SinkUnavailable,
    )

    if outcome is None:
        return "not_sent"
    words = {
        PartlyAccepted: "partly_accepted",  # before the one it is a kind of
        InProgress: "in_progress",
        SinkUnavailable: "try_again",
        Gone: "gone",  # as well
        Rejected: "rejected",
        Misconfigured: "misconfigured",
        OutcomeUnknown: "outcome_unknown",
    }
    return next((word for kind, word in words.items() if isinstance(outcome.problem, kind)), "accepted")


def _verdict(outcome: "Outcome", settings: "SinkSettings") -> list[str]:
    """How it ended, and what that means."""
    word, seconds = _word(outcome), f"{outcome.seconds:.2f} s"
    if outcome.problem is None:
        return [f"accepted in {seconds}"]
    said = f"{word.replace('_', ' ')}, after {seconds}: {printable(outcome.detail)}"
    return [said, _NEXT[word].format(on_unknown=settings.when_unknown)]


_NEXT = {
    "try_again": "Nothing has happened there. A worker would try again, with growing pauses: so may you.",
    "partly_accepted": "Some have it. A worker would try again for the others only; this command would send to all.",
    "in_progress": "It is at work there, and goes on without this command. A worker would ask how it stands until it "
    "is done.",
    "rejected": "A worker would keep the event as a dead letter. See what the destination asks of a message, and "
    "change the sink's settings or the event.",
    "gone": "It says that it is retired. A worker would send nothing more there, and keep what comes as dead letters. "
    "Give the sink another URL, or take it out of the routes.",
    "misconfigured": "It refuses the worker itself. Repair the address, the secret or the right, and try again. For "
    "three subjects in a row a worker would pause the sink and keep its events.",
    "outcome_unknown": "It may have arrived, or not: look there before you try again. A worker would go by "
    "on_unknown: {on_unknown}.",
}
