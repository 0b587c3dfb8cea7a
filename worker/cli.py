"""The command line: arguments in, exit code out.

Each command imports what it needs when it runs, so that `worker --help` is quick and the local hub's engine is not
needed in production. The work itself is elsewhere: `app`, `loading`, `explain`, `local`.
"""
# ruff: noqa: PLC0415 - each command imports what it needs when it runs, see above

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from worker.commands.check import check
from worker.commands.deadletter import deadletter
from worker.commands.doctor import doctor
from worker.commands.lag import lag
from worker.commands.options import DEFAULT_CONFIG, FAILED, WRONG_INPUT, ConfigOption, JsonOption, print_json
from worker.commands.resume import resume
from worker.commands.schema import schema
from worker.commands.seek import seek
from worker.commands.send_test import send_test
from worker.commands.subscription import subscription
from worker.commands.test import run_tests
from worker.errors import ConfigError, WorkerError

app = typer.Typer(
    name="worker",
    help="Reads Event Grid events from Event Hubs and makes something happen: in order, once, and not lost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
local = typer.Typer(no_args_is_help=True, help="What a laptop needs: a hub, and traffic for it.")
app.add_typer(deadletter, name="deadletter")
app.command()(check)
app.command()(doctor)
app.command()(lag)
app.command()(resume)
app.command()(schema)
app.command()(seek)
app.command("send-test")(send_test)
app.command("test")(run_tests)
app.command()(subscription)
app.add_typer(local, name="local")


def main() -> None:
    """The entry point. Exit codes: 0 fine, 1 the work failed, 2 the user's input is wrong, 3 the watchdog of `run`."""
    try:
        app(prog_name="worker")
    except ConfigError as error:
        for mistake in error.mistakes:
            typer.echo(mistake, err=True)
        sys.exit(WRONG_INPUT)
    except WorkerError as error:
        typer.echo(f"worker: {error}", err=True)
        sys.exit(FAILED)


@app.callback(invoke_without_command=True)
def _worker(
    *, version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"worker {installed('event-grid-worker')}")
        raise typer.Exit


@app.command()
def run(*, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run until SIGTERM or Ctrl-C; then drain and stop. Exits 0 when stopped as asked, 3 when the watchdog ended it.

    Reads the rules again when they change, and on SIGHUP.
    """
    import signal

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the worker listens: see __main__
    from worker import app as worker_app
    from worker.loading import load

    raise typer.Exit(worker_app.run(load(config)))


@app.command()
def explain(
    *,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE...|-]", help="Events or message bodies; - is stdin.")
    ] = None,
) -> None:
    """Say what would happen to events: schema, order key, each route and expectation, and why (not).

    Needs no secrets and no hub.

    Exits 1 when an element is no event.
    """
    from rich.console import Console

    from worker.explain import explain as explain_file
    from worker.explain import render
    from worker.loading import load

    routing = load(config, secrets=False).routing
    rows = [
        row
        for name, content in _contents(files or ["-"])
        for row in explain_file(name, content, routing.routes, routing.expect)
    ]
    if as_json:
        for row in rows:
            print_json(row)
    else:
        render(rows, Console())
    raise typer.Exit(FAILED if any("error" in row for row in rows) else 0)


def _contents(files: list[str]) -> list[tuple[str, bytes]]:
    """All files read before anything is said, so that a misspelt name is seen first."""
    contents, mistakes = [], []
    for file in files:
        try:
            contents.append((file, sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()))
        except OSError as error:
            mistakes.append(f"{file}: cannot be read: {error.strerror}; name a file of events, or - for stdin")
    if mistakes:
        raise ConfigError(mistakes)
    return contents


@app.command()
def demo(
    *,
    events: Annotated[int, typer.Option(min=1, help="How many events are sent.")] = 20_000,
    workers: Annotated[int, typer.Option(min=1, max=16, help="How many workers share the hub.")] = 2,
    seed: Annotated[int, typer.Option(help="The same seed makes the same traffic and the same plan of faults.")] = 1,
    chaos: Annotated[
        bool, typer.Option("--chaos", help="Kill and freeze workers and break their connections meanwhile.")
    ] = False,
) -> None:
    """Do the main job on this machine, and verify the result at the end. Exits 1 when it is not as promised."""
    with _local_parts():
        from worker.local.demo import DemoOptions
        from worker.local.demo import main as run_demo
    raise typer.Exit(run_demo(DemoOptions(events=events, workers=workers, seed=seed, chaos=chaos)))


@local.command()
def broker(
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0 takes a free one.")],
    hub: Annotated[list[str], typer.Option(help="A hub to serve; may be repeated.")],
    partitions: Annotated[int, typer.Option(min=1, max=32, help="Of each hub.")],
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the log here; created when missing. Without: in memory.")
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=KEY", help="Verify signatures with this key; may be repeated. Without: any passes."),
    ] = None,
    admin_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Take requests for faults here; 0 takes a free one.")
    ] = None,
) -> None:
    """A local hub that speaks Event Hubs' AMQP. For development and tests, not for production."""
    with _local_parts():
        from worker.local.broker import BrokerOptions
        from worker.local.broker import main as run_broker

        options = BrokerOptions(
            port=port, hubs=tuple(hub), partitions=partitions, data=data, keys=_keys(key), admin_port=admin_port
        )
    raise typer.Exit(run_broker(options))


def _keys(given: list[str] | None) -> dict[str, str]:
    keys = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter("a key is given as NAME=KEY", param_hint="--key")
        keys[name] = value
    return keys


@local.command()
def send(  # noqa: PLR0913 - an option each
    *,
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE...]", help="Message bodies, each sent as it is.")
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=0, help="Events to generate.", show_default="1000, or 0 with files")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Messages per second.", show_default="as fast as possible")
    ] = None,
    subjects: Annotated[
        int | None, typer.Option(min=1, help="Subjects the events are about.", show_default="a fifth of the events")
    ] = None,
    disorder: Annotated[int, typer.Option(min=0, help="Places by which a message may be displaced.")] = 0,
    duplicates: Annotated[
        float, typer.Option(min=0, max=100, metavar="PERCENT", help="Messages sent a second time.")
    ] = 0,
    seed: Annotated[
        int | None, typer.Option(help="The same seed sends the same events.", show_default="another each time")
    ] = None,
    hub: Annotated[str | None, typer.Option(help="The hub, where the connection string names none.")] = None,
    connection_string_env: Annotated[
        str, typer.Option(metavar="NAME", help="The environment variable that holds the connection string.")
    ] = "EVENTHUB_CONNECTION_STRING",
) -> None:
    """Send traffic of an ML workspace, or files, to a hub. Exits 1 when the hub does not take it."""
    from worker.local.send import SendOptions
    from worker.local.send import main as run_send

    options = SendOptions(
        files=tuple(files or ()),
        count=count,
        rate=rate,
        subjects=subjects,
        disorder=disorder,
        duplicates_percent=duplicates,
        seed=seed,
        hub=hub,
        connection_string_env=connection_string_env,
    )
    raise typer.Exit(run_send(options))


@contextmanager
def _local_parts() -> Iterator[None]:
    """Turns options that make no sense, or a missing engine, into a sentence and an exit code."""
    try:
        yield
    except ValueError as error:
        raise ConfigError([str(error)]) from error
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("proton", "cproton"):
            raise
        raise WorkerError(
            "the local hub needs its AMQP engine: pip install 'event-grid-worker[local]' "
            "(built from source: it needs a C compiler and the Python headers)"
        ) from None
