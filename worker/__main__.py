"""`python -m worker` is `worker`: the very first of a process."""

import signal
import sys


def main() -> None:
    """The entry point."""
    if sys.argv[1:2] == ["run"]:
        # Until the worker listens to it: a reload that is asked for before it has read the files must not end it.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from worker.cli import main as command_line  # noqa: PLC0415 - takes a while

    command_line()


if __name__ == "__main__":
    main()
