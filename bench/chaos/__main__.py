"""`make chaos`: the worker and a hand-written loop through the same faults, judged from the destinations' records.

    python -m bench.chaos [--events N] [--faults N] [--seed N] [--store sqlite|blob] [--only worker|loop] [--keep]

Exits 1 when the worker did not keep its promises. `--keep` writes the table into bench/CHAOS.md.
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

from bench.chaos.contestants import NAIVE, WORKER
from bench.chaos.report import markdown, show
from bench.chaos.run import Options, Outcome, Run
from worker.errors import WorkerError

_KEPT = Path(__file__).parent.parent / "CHAOS.md"


def main() -> int:
    """The exit code."""
    arguments = _parsed()
    # What the SDK logs on its way to an error stands in the error; a mail server tells of every connection.
    logging.getLogger("azure.eventhub").setLevel(logging.CRITICAL)
    logging.getLogger("mail.log").setLevel(logging.CRITICAL)
    options = Options(
        events=arguments.events,
        faults=arguments.faults,
        seed=arguments.seed,
        store=arguments.store,
        doubled_percent=arguments.doubled_percent,
        folder=arguments.folder,
    )
    contestants = {"worker": [WORKER], "loop": [NAIVE]}.get(arguments.only, [WORKER, NAIVE])
    try:
        outcomes = asyncio.run(_until_signal(contestants, options))
    except WorkerError as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        print("stopped before the end; nothing is left running")
        return 1
    show(outcomes)
    if arguments.keep:
        _KEPT.write_text(f"# Chaos\n\n{_about(options)}\n\n{markdown(outcomes)}\n", encoding="utf-8")
        print(f"kept in {_KEPT.relative_to(Path.cwd())}")
    worker = [outcome.result for outcome in outcomes if outcome.contestant == WORKER]
    if all(result.is_right for result in worker):
        print("the worker kept its promises" if worker else "nothing was promised")
        return 0
    print(f"NOT as promised: see the table, and the logs in {options.folder}/")
    return 1


def _parsed() -> argparse.Namespace:
    defaults = Options()
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description="Chaos with real processes, judged.")
    parser.add_argument("--events", type=int, default=defaults.events)
    parser.add_argument("--faults", type=int, default=defaults.faults)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--store", choices=("sqlite", "blob"), default=defaults.store)
    parser.add_argument(
        "--doubled-percent", type=float, default=defaults.doubled_percent, help="allowed where there is no key"
    )
    parser.add_argument("--folder", type=Path, default=defaults.folder, help="for configuration, logs and records")
    parser.add_argument("--only", choices=("worker", "loop"), help="one of the two, without the other")
    parser.add_argument("--keep", action="store_true", help="write the table into bench/CHAOS.md")
    return parser.parse_args()


async def _until_signal(contestants: list[str], options: Options) -> list[Outcome]:
    """Ctrl-C cancels by itself; SIGTERM is made to do the same, so that no process is left."""
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    return [await Run(contestant, options, _say).run() for contestant in contestants]


def _say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S}  {text}", flush=True)


def _about(options: Options) -> str:
    """When, where and how, so that the figures can be had again."""
    command = f"make chaos EVENTS={options.events} FAULTS={options.faults} SEED={options.seed} STORE={options.store}"
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return (
        f"Made on {datetime.now(UTC):%Y-%m-%d} by `{command}` on {machine}, "
        f"azure-eventhub {version('azure-eventhub')}.\n"
        "What it is, and how it is judged: the docstrings of bench/chaos/."
    )


if __name__ == "__main__":
    sys.exit(main())
