"""`make scaling`: workers come and go under a steady load, as real processes; what that does is measured from outside.

    python -m bench.scaling [--runs N] [--rate N] [--calm N] [--store sqlite|blob] [--window SECONDS] [--keep]

load        traffic that is even: each partition gets one event after the other, at the same distance
seen        what the receivers saw: who had which partition when, how long each paused, what came twice
stage       the hub, the store, the receivers, and workers with the settings that deploy/k8s ships
run         the phases: 1 worker, 2, 4, 2, and 1 again
report      the tables

`tests/integration/test_scale_out.py` plays the same phases, smaller, and asserts the promises without the seconds.
Exits 1 when something was not kept. `--keep` writes bench/SCALING.md.
"""

import argparse
import asyncio
import logging
import os
import platform
import signal
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from bench.scaling.report import is_right, markdown
from bench.scaling.run import Options, Outcome, Run
from bench.scaling.stage import HUB, SHIPPED
from worker.config import LimitSettings, OrderSettings, SourceSettings
from worker.errors import WorkerError

_KEPT = Path(__file__).parents[1] / "SCALING.md"


def main() -> int:
    """The exit code."""
    arguments = _parsed()
    logging.getLogger("azure.eventhub").setLevel(
        logging.CRITICAL
    )  # what it logs on its way to an error is in the error
    changes = {} if arguments.window is None else {"order": {"window_seconds": arguments.window}}
    options = Options(rate=arguments.rate, calm_events=arguments.calm, store=arguments.store, changes=changes)
    try:
        outcomes = asyncio.run(_until_signal(options, arguments.runs, arguments.folder))
    except WorkerError as error:
        print(f"scaling: {error}", file=sys.stderr)
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        print("stopped before the end; nothing is left running")
        return 1
    table = markdown(outcomes, options)
    print(table)
    if arguments.keep:
        _KEPT.write_text(f"# Scaling out\n\n{_about(options, arguments)}\n\n{table}\n", encoding="utf-8")
        print(f"kept in {_KEPT.relative_to(Path.cwd())}")
    if is_right(outcomes):
        return 0
    print(f"NOT as promised: see the table, and the logs in {arguments.folder}/")
    return 1


def _parsed() -> argparse.Namespace:
    defaults = Options()
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description="Workers come and go, measured.")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=defaults.rate, help="events a second, over all 16 partitions")
    parser.add_argument(
        "--calm", type=int, default=defaults.calm_events, help="events of each partition between changes"
    )
    parser.add_argument("--store", choices=("sqlite", "blob"), default=defaults.store)
    parser.add_argument("--window", type=float, help="order.window_seconds; what is shipped when left out")
    parser.add_argument(
        "--folder", type=Path, default=Path(".data/scaling"), help="for configuration, logs and records"
    )
    parser.add_argument("--keep", action="store_true", help="write the tables into bench/SCALING.md")
    return parser.parse_args()


async def _until_signal(options: Options, runs: int, folder: Path) -> list[Outcome]:
    """Ctrl-C cancels by itself; SIGTERM is made to do the same, so that no process is left."""
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    return [await Run(options, folder / f"run-{number}", _say).run() for number in range(1, runs + 1)]


def _say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S}  {text}", flush=True)


def _about(options: Options, arguments: argparse.Namespace) -> str:
    """When, where and how, so that the figures can be had again."""
    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
    return (
        f"Made on {datetime.now(UTC):%Y-%m-%d} by `python -m bench.scaling --runs {arguments.runs} --keep` on "
        f"{os.cpu_count()} cores shared by all processes (load average at the end: {load}), Python "
        f"{platform.python_version()}, azure-eventhub {version('azure-eventhub')}, store {options.store}.\n"
        f"{options.partitions} partitions, {options.rate:g} events a second. {_settings(arguments.window)} A pause is "
        "what a partition's longest gap between two deliveries has beyond the traffic's spacing of "
        f"{options.spacing_seconds * 1000:.0f} ms.\n"
        "What it is, and how it is measured: the docstrings of bench/scaling/."
    )


def _settings(window: float | None) -> str:
    """What the processes run with that counts here."""
    shipped = yaml.safe_load(SHIPPED.read_text())
    order = OrderSettings() if window is None else OrderSettings(window_seconds=window)
    source = SourceSettings(connection_string_env="X", hub=HUB, **_of(shipped["source"], "balance", "ownership"))
    limits = LimitSettings(**shipped["limits"])
    return (
        f"As deploy/k8s/base ships it: balance interval {source.balance_interval_seconds:g} s, ownership expiry "
        f"{source.ownership_expiry_seconds:g} s, drain {limits.drain_seconds:g} s, hand-over "
        f"{limits.hand_over_seconds:g} s; order window {order.window_seconds:g} s."
    )


def _of(section: dict[str, Any], *prefixes: str) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key.startswith(prefixes)}


if __name__ == "__main__":
    sys.exit(main())
