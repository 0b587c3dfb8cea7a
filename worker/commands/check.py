"""`worker check`: every mistake in both files, or else what they say and what looks wrong in it."""
# ruff: noqa: PLC0415 - a command imports what it needs when it runs, see cli.py

from typing import TYPE_CHECKING

import typer

from worker.commands.options import DEFAULT_CONFIG, WRONG_INPUT, ConfigOption, JsonOption, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from worker.config import Config
    from worker.mistakes import Mistake


def check(*, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Validate both files: print every mistake with its file, line and column. Connects to nothing.

    Without a mistake it prints what the files say, and warnings about what is allowed and looks wrong; they do not
    change the exit code.
    """
    from worker.advice import warnings
    from worker.loading import load
    from worker.mistakes import Mistakes

    try:
        loaded = load(config)
    except Mistakes as mistakes:
        if not as_json:
            raise
        for mistake in mistakes.found:
            print_json(_row(mistake, "mistake"))
        raise typer.Exit(WRONG_INPUT) from None
    found, summary = warnings(loaded), _summary(loaded)
    if as_json:
        for warning in found:
            print_json(_row(warning, "warning"))
        print_json(summary)
        return
    for warning in found:
        typer.echo(f"{warning.where}: warning: {warning.message}", err=True)
    for line in _lines(summary):
        typer.echo(line)


def _lines(summary: "Mapping[str, str | list[str]]") -> "Iterator[str]":
    for name, value in summary.items():
        if value:
            yield f"{name:<15} {value if isinstance(value, str) else ', '.join(value)}"


def _row(mistake: "Mistake", what: str) -> dict[str, str | int | None]:
    return {"file": str(mistake.file), "line": mistake.line, "column": mistake.column, what: mistake.message}


def _summary(config: "Config") -> dict[str, str | list[str]]:
    """What the files say, in short."""
    from worker.sinks.installed import origin_of

    def of_kind(kind: str) -> str:
        return f"{kind}, from {origin}" if (origin := origin_of(kind)) else kind

    source, store = config.worker.source, config.worker.store
    where = store.path if store.kind == "sqlite" else f"container {store.container}"
    return {
        "config": str(config.file),
        "routes_file": str(config.routing.file),
        "hub": source.hub,
        "consumer_group": source.consumer_group,
        "store": f"{store.kind}, {where}",
        "sinks": [f"{sink.name} ({of_kind(sink.kind)})" for sink in config.sinks],
        "routes": [spec.name for spec in config.routing.specs],
        "expect": [rule.name for rule in config.routing.expect],
    }
