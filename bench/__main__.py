"""All benchmarks, or those named: `python -m bench [SECTION…] [--keep]`, and as `make bench`.

Each section is a module of this folder with `measure(repetitions)`. `--keep` writes what came out into
bench/RESULTS.md, and leaves the sections there that were not run.
"""

import argparse
import importlib
import signal
import sys
import time

from bench.report import RESULTS, Section, kept, machine, page

SECTIONS = ("way", "stages", "latency", "fanout", "growth", "processes", "peers", "cost")
REPETITIONS = 5


def main() -> int:
    """Measures, prints, and keeps when asked to."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of: {', '.join(SECTIONS)}; none: all")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    arguments = parser.parse_args()
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    # As Ctrl-C does: who is told to end, ends its children first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    about = machine()
    print(about, flush=True)
    done = [run(name, arguments.repetitions) for name in SECTIONS if name in (arguments.sections or SECTIONS)]
    if arguments.keep:
        keep(done, about)
    return 0


def run(name: str, repetitions: int) -> Section:
    """One section, printed as soon as it is there."""
    began = time.monotonic()
    section: Section = importlib.import_module(f"bench.{name}").measure(repetitions)
    print(f"\n{section.text()}\n\n{name} took {time.monotonic() - began:.0f} s.", flush=True)
    return section


def keep(sections: list[Section], about: str) -> None:
    """Writes them over those of the same title."""
    old = kept(RESULTS.read_text()) if RESULTS.exists() else {}
    texts = {**old, **{section.title: section.text() for section in sections}}
    RESULTS.write_text(page(list(texts.values()), about))


if __name__ == "__main__":
    sys.exit(main())
