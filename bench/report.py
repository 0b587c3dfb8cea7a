"""What a section of the benchmarks tells, and the page that keeps it: bench/RESULTS.md.

It measures nothing. A figure is a median of several repetitions, with the smallest and the largest beside it; what is
compared is measured in turns within one run, because a shared machine changes its speed.
"""

import os
import platform
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import NamedTuple, TypeVar

RESULTS = Path(__file__).parent / "RESULTS.md"
_HEAD = "# What was measured\n\nMade by `make bench`. What the numbers mean, and the knobs: docs/performance.md."
_PACKAGES = ("azure-eventhub", "azure-storage-blob", "aiohttp", "orjson", "uvloop", "prometheus-client")

Name = TypeVar("Name")
Sample = TypeVar("Sample")


class Table(NamedTuple):
    """Columns and rows, as text; the first column is what the row is about."""

    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def text(self) -> str:
        """As Markdown."""
        rule = ("---", *("---:" for _ in self.head[1:]))
        return "\n".join("| " + " | ".join(cells) + " |" for cells in (self.head, rule, *self.rows))


class Target(NamedTuple):
    """What was wanted of a figure, and what came out."""

    what: str
    wanted: str
    seen: str
    met: bool


class Section(NamedTuple):
    """One subject: what was done, tables, and the targets among them."""

    title: str
    told: str
    """What is measured and how, and what the figures do not say."""
    tables: Sequence[Table]
    targets: Sequence[Target] = ()

    def text(self) -> str:
        """As Markdown."""
        parts = [f"## {self.title}", self.told, *(table.text() for table in self.tables)]
        if self.targets:
            rows = [(one.what, one.wanted, one.seen, "yes" if one.met else "**no**") for one in self.targets]
            parts.append(Table(("target", "wanted", "seen", "met"), rows).text())
        return "\n\n".join(parts)


def turns(names: Iterable[Name], repetitions: int) -> Iterator[Name]:
    """Every contestant once, then every one again, the other way round: what slows the machine slows each of them."""
    there = list(names)
    for turn in range(repetitions):
        yield from there if turn % 2 == 0 else reversed(there)


def in_turns(names: Sequence[Name], measure: Callable[[Name], Sample], repetitions: int) -> dict[Name, list[Sample]]:
    """What each contestant did in each of its turns, shown as it comes."""
    samples: dict[Name, list[Sample]] = {name: [] for name in names}
    for name in turns(names, repetitions):
        samples[name].append(sample := measure(name))
        print(f"{len(samples[name])}/{repetitions} {name}: {sample}", file=sys.stderr, flush=True)
    return samples


def figure(values: Sequence[float], digits: int = 0) -> str:
    """The median, with the smallest and the largest."""
    low, middle, high = (f"{value:,.{digits}f}" for value in (min(values), median(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def machine() -> str:
    """On what it was measured."""
    model = ""
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        model = f"{found[1].strip()}, " if found else ""
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return f"{model}{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}; {packages}."


def page(sections: Sequence[str], about: str) -> str:
    """The whole page, of sections as text."""
    return "\n\n".join([_HEAD, about, *sections]) + "\n"


def kept(page_text: str) -> dict[str, str]:
    """The sections of a page, by title."""
    parts = re.split(r"^(?=## )", page_text, flags=re.MULTILINE)[1:]
    return {part.splitlines()[0].removeprefix("## "): part.strip() for part in parts}
