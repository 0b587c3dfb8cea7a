"""What commands share: options that mean the same everywhere, exit codes, and how a row of --json is printed."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

FAILED = 1
WRONG_INPUT = 2

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", metavar="FILE", help="worker.yaml; it names the routes file.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object per line.")]
DEFAULT_CONFIG = Path("config/worker.yaml")


def print_json(row: dict[str, Any]) -> None:
    """One object on one line."""
    typer.echo(json.dumps(row, ensure_ascii=False))
