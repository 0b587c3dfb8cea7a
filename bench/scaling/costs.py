"""What workers ask of the store, under load and at rest: `python -m bench.scaling.costs [--seconds N] [--keep]`.

One worker that owns 16 partitions, then two with 8 each; Azurite stands in for the storage account, and the workers'
own counters say what was asked of it (`worker_store_requests_total`). Nothing here depends on how fast the machine is.
`--keep` writes bench/STORAGE.md, which docs/scaling.md is reckoned from.
"""

import argparse
import asyncio
import contextlib
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from bench.scaling.load import even
from bench.scaling.stage import Member, Stage, ended, stage, until

PARTITIONS = 16
_RATE = 32.0
_SETTLED_SECONDS = 120.0
"""After partitions have moved: samples of their subjects are compared often at first, and then every five minutes."""
_KEPT = Path(__file__).parents[1] / "STORAGE.md"


def main() -> int:
    """Measures, prints the table, and writes it when asked to."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling.costs", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each stretch")
    parser.add_argument("--settle", type=float, default=_SETTLED_SECONDS, help="seconds before the first stretch")
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger("azure.eventhub").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        rows = asyncio.run(_measure(Path(folder), arguments.seconds, arguments.settle))
    text = _page(rows, arguments.seconds)
    print(text)
    if arguments.keep:
        _KEPT.write_text(text, encoding="utf-8")
    return 0


async def _measure(folder: Path, seconds: float, settle: float) -> dict[str, Counter[str]]:
    rows: dict[str, Counter[str]] = {}
    load = even(PARTITIONS, 200_000 // PARTITIONS)
    async with stage(folder, "blob", PARTITIONS, load) as on:
        members: list[Member] = []
        for name in ("one", "two"):
            members.append(await on.start_worker(name, {}))
            workers = f"{len(members)} worker{'s' if members[1:] else ''}"
            async with _sending(on):
                share = {member.name: PARTITIONS // len(members) for member in members}
                await until(lambda share=share: on.seen.shares() == share, f"shares {share}", seconds=120)
                await asyncio.sleep(settle)
                rows[f"{workers}, under load"] = await _stretch(members, seconds)
            await until(lambda: len(on.seen.events) == on.sent, "every event came")
            await asyncio.sleep(10)
            rows[f"{workers}, nothing comes"] = await _stretch(members, seconds)
        for member in members:
            member.child.terminate()
        await ended(members)
    return rows


@contextlib.asynccontextmanager
async def _sending(on: Stage) -> AsyncIterator[None]:
    """The load goes on where it ended before."""
    on.enough = False
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(on.send(_RATE), name="load")
        yield
        on.enough = True


async def _stretch(members: list[Member], seconds: float) -> Counter[str]:
    before, began = await _asked(members), time.monotonic()
    await asyncio.sleep(seconds)
    after, took = await _asked(members), time.monotonic() - began
    return Counter({kind: round((after - before)[kind] * 1000 / took) for kind in after})


async def _asked(members: list[Member]) -> Counter[str]:
    counted = [await member.counted("worker_store_requests_total", "operation") for member in members]
    return sum(counted, Counter())


def _page(rows: dict[str, Counter[str]], seconds: float) -> str:
    kinds = sorted({kind for row in rows.values() for kind in row})
    made = (
        f"Made on {datetime.now(UTC):%Y-%m-%d} by `python -m bench.scaling.costs --keep`, {seconds:g} s each; "
        "requests a second, of all workers together.\n"
        f"{PARTITIONS} partitions, {_RATE / PARTITIONS:g} events a second on each under load, intervals as shipped. "
        "How: the docstring of bench/scaling/costs.py."
    )
    lines = [
        "# What is asked of the store",
        "",
        made,
        "",
        f"| | {' | '.join(kinds)} |",
        f"|---|{'---:|' * len(kinds)}",
        *(f"| {name} | {' | '.join(f'{row[kind] / 1000:.2f}' for kind in kinds)} |" for name, row in rows.items()),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
