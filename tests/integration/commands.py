"""Commands as an operator runs them, beside the workers of a scene."""

import asyncio
import os
import sys
from typing import Any, NamedTuple

import orjson

from tests.integration.scene import Scene


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.out.splitlines()]


async def command(stage: Scene, config: str, *arguments: str, azurite: str | None = None) -> Outcome:
    """`worker …` with the configuration of one of the stage's workers, and not on a terminal."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", *arguments),
        *("--config", str(stage.folder / config / "worker.yaml")),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "EVENTHUB_CONNECTION_STRING": stage.connection_string, "STORE": azurite or ""},
    )
    out, err = await process.communicate()
    return Outcome(process.returncode or 0, out.decode(), err.decode())
