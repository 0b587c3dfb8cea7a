"""Dead letters on a screen: a table, one letter whole, or rows of JSON. Text from events cannot steer the terminal."""

import json
import shutil
import sys
from typing import TYPE_CHECKING

import typer

from worker.commands.options import print_json
from worker.terminal import printable

if TYPE_CHECKING:
    from worker.stores import DeadLetter

_LEAST_WIDTH = 120
_WIDTH_OF_A_FILE = 250
_COLUMNS = {"id": 12, "time (UTC)": 20, "reason": 18, "sink": 16, "tries": 5, "at": 16}
"""Of a fixed width, so that a row can be printed before the next is known; event and detail share the rest."""


class Screen:
    """Where a command's letters and its last sentence go: rows to stdout, and sentences beside rows to stderr."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self.shown = 0

    def show(self, letter: "DeadLetter") -> None:
        """Prints a row of a list."""
        self.shown += 1
        if self._as_json:
            self.done(letter)
            return
        if self.shown == 1:
            typer.echo(_line([*_COLUMNS, "event", "detail"]))
        typer.echo(_line(_cells(letter)))

    def done(self, letter: "DeadLetter") -> None:
        """Something was done with a letter: a row of JSON says so, a person needs only the number at the end."""
        from worker.letters import row_of  # noqa: PLC0415 - `worker --help` is quick

        if self._as_json:
            print_json(row_of(letter))

    def end(self, sentence: str) -> None:
        """What there is to say at the end."""
        typer.echo(sentence, err=self._as_json or self.shown > 0)


def _cells(letter: "DeadLetter") -> list[str]:
    from worker.letters import time_text  # noqa: PLC0415 - as above

    place = f"{letter.partition}/{letter.sequence_number}"
    event = " ".join(filter(None, ((letter.type or "").rpartition(".")[2], letter.subject)))
    return [
        letter.id[: _COLUMNS["id"]],
        time_text(letter.time)[:19] + "Z",
        letter.reason,
        letter.sink or "-",
        str(letter.attempts),
        place if not letter.index else f"{place}[{letter.index}]",
        event,
        letter.detail,
    ]


def _line(cells: list[str]) -> str:
    rest = (_width() - sum(_COLUMNS.values()) - 2 * (len(cells) - 1)) // 2
    widths = (*_COLUMNS.values(), rest, rest)
    return "  ".join(_fitted(printable(cell), width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _fitted(text: str, width: int) -> str:
    return f"{text:<{width}}" if len(text) <= width else f"{text[: width - 1]}…"


def _width() -> int:
    if not sys.stdout.isatty():
        return _WIDTH_OF_A_FILE
    return max(_LEAST_WIDTH, shutil.get_terminal_size().columns)


def show_whole(letter: "DeadLetter", *, as_json: bool) -> None:
    """All of one letter."""
    from worker.letters import whole_row_of  # noqa: PLC0415 - as above

    row = whole_row_of(letter)
    if as_json:
        print_json(row)
        return
    encoding, body = row.pop("body_encoding"), row.pop("body")
    properties = row.pop("properties")
    for name, value in row.items():
        typer.echo(f"{name:<16} {'-' if value is None else printable(str(value))}")
    for name, value in properties.items():
        typer.echo(f"property         {printable(name)} = {printable(json.dumps(value, ensure_ascii=False))}")
    typer.echo(f"\nbody, {len(letter.body):,} bytes, as {encoding}:")
    text = json.dumps(body, indent=2, ensure_ascii=False) if encoding == "json" else body
    for line in text.splitlines():
        typer.echo(printable(line))


def in_words(count: int) -> str:
    """So many dead letters."""
    return f"{count:,} dead letter{'' if count == 1 else 's'}"
