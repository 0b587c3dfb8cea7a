"""`worker schema`: the JSON Schema of one of the two files, for editors."""
# ruff: noqa: PLC0415 - a command imports what it needs when it runs, see cli.py

import json
from enum import StrEnum
from typing import Annotated

import typer


class File(StrEnum):
    """The two files."""

    WORKER = "worker"
    ROUTES = "routes"


def schema(file: Annotated[File, typer.Argument(help="Which file: worker.yaml or routes.yaml.")]) -> None:
    """Print the JSON Schema of worker.yaml or routes.yaml, with which editors complete and check them.

    That of routes.yaml knows the kinds of sinks that are installed here.
    """
    from worker.schema import routes_schema, usable_kinds, worker_schema

    found = worker_schema() if file is File.WORKER else routes_schema(usable_kinds())
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
