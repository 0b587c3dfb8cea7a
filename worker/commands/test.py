"""`worker test`: plays cases through the configured rules, and says which did not end as expected.

The cases are read by `casebook`, played by `rehearsal`, and judged by `expected`; here is how that is told.
"""
# ruff: noqa: PLC0415 - the command imports what it needs when it runs, so that `worker --help` is quick

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from worker.commands.options import DEFAULT_CONFIG, FAILED, ConfigOption, JsonOption, print_json
from worker.terminal import printable

if TYPE_CHECKING:
    from rich.console import Console

    from worker.casebook import Case
    from worker.config import Config
    from worker.expected import Comparison, Missing
    from worker.rehearsal import Came, Performance

TestsArgument = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[TESTS...]", help="Files of cases.", show_default="tests.yaml beside worker.yaml"),
]
CoverageOption = Annotated[
    bool, typer.Option("--require-coverage", help="Fail when there is a route that no case reaches.")
]
_REASONS = 5
"""So many are printed for one expectation; --json has all."""


def run_tests(
    *,
    config: ConfigOption = DEFAULT_CONFIG,
    tests: TestsArgument = None,
    require_coverage: CoverageOption = False,
    as_json: JsonOption = False,
) -> None:
    """Play cases (events given, deliveries expected) through the rules, in virtual time. Needs no hub and no secret.

    Exits 1 when a case does not end as expected, and 2 when a file is wrong. docs/testing-rules.md says how to write
    cases.
    """
    from rich.console import Console

    from worker.loading import load

    loaded = load(config, secrets=False)
    report = _play(loaded, tests or [config.parent / "tests.yaml"])
    if as_json:
        for row in report.rows():
            print_json(row)
    else:
        report.show(Console(highlight=False))
    raise typer.Exit(FAILED if report.failed or (require_coverage and report.not_reached) else 0)


def _play(config: "Config", files: list[Path]) -> "_Report":
    from worker.casebook import read_cases
    from worker.expected import compare
    from worker.rehearsal import Rehearsals

    routes = [spec.name for spec in config.routing.specs]
    cases = read_cases(files, sinks=[each.name for each in config.sinks], routes=routes)
    rehearsals = Rehearsals(config)
    results = []
    for case in cases:
        performance = rehearsals.play(case.given, starts_at=case.starts_at)
        results.append(_Result(case, performance, compare(case, performance, config.routing)))
    return _Report(results, routes)


class _Result(NamedTuple):
    """One case, and how it ended."""

    case: "Case"
    performance: "Performance"
    comparison: "Comparison"

    def row(self) -> dict[str, Any]:
        """For --json."""
        case, comparison = self.case, self.comparison
        return {
            "file": str(case.file),
            "line": case.line,
            "case": case.name,
            "passed": comparison.passed,
            "missing": [self._missing(each) for each in comparison.missing],
            "unexpected": [_came(each) for each in comparison.unexpected],
            "in_another_order": [_came(each) for each in comparison.disordered],
            "settled": dict(sorted(self.performance.settled.items())),
        }

    def _missing(self, missing: "Missing") -> dict[str, Any]:
        return {
            "line": self.case.lines[missing.which],
            "expected": self.case.expect[missing.which].model_dump(mode="json", exclude_unset=True),
            "nearest": None if missing.nearest is None else _came(missing.nearest),
            "differences": list(missing.differences),
            "reasons": list(missing.reasons),
        }

    def lines(self) -> Iterator[tuple[str, str]]:
        """For people, each with its style: what is missing (-), what is too much (+)."""
        comparison = self.comparison
        for missing in comparison.missing:
            wanted = _wanted(self.case, missing.which)
            yield f"  - {wanted}", "red"
            yield f"      expected on line {self.case.lines[missing.which]}, and did not come", "dim"
            if missing.nearest is not None:
                yield f"      most like it: {'; '.join(missing.differences)}", ""
            for reason in missing.reasons[:_REASONS]:
                yield f"      not taken: {reason}", ""
            if len(missing.reasons) > _REASONS:
                yield f"      … and {len(missing.reasons) - _REASONS} more", "dim"
        for came in comparison.unexpected:
            yield f"  + {_label(came)}", "green"
            yield "      came, and is not expected", "dim"
        if comparison.disordered:
            yield "  all that is expected came, but these of one subject in this order:", "dim"
            for came in comparison.disordered:
                yield f"  * {_label(came)}", "yellow"
        ends = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.performance.settled.items()))
        yield f"  the events ended as: {ends or 'nothing, there are none'}", "dim"


class _Report(NamedTuple):
    """All cases, and which routes there are."""

    results: list[_Result]
    routes: list[str]

    @property
    def failed(self) -> int:
        """How many cases did not end as expected."""
        return sum(not each.comparison.passed for each in self.results)

    @property
    def not_reached(self) -> list[str]:
        """Routes that matched no event of any case."""
        reached = set().union(*(each.performance.reached for each in self.results))
        return [route for route in self.routes if route not in reached]

    def rows(self) -> Iterator[dict[str, Any]]:
        """For --json: a row for each case, and one for all."""
        for each in self.results:
            yield each.row()
        yield {
            "passed": len(self.results) - self.failed,
            "failed": self.failed,
            "routes": len(self.routes),
            "not_reached": self.not_reached,
        }

    def show(self, console: "Console") -> None:
        """For people."""
        from rich.text import Text

        def say(line: str, style: str = "") -> None:
            console.print(Text(printable(line), style), soft_wrap=True)

        for each in self.results:
            case, passed = each.case, each.comparison.passed
            say(f"ok    {case.name}" if passed else f"FAIL  {case.name}", "" if passed else "bold red")
            if not passed:
                say(f"  {case.file}:{case.line}", "dim")
                for line, style in each.lines():
                    say(line, style)
        say(f"cases: {len(self.results)}, failed: {self.failed}", "bold red" if self.failed else "bold green")
        reached = len(self.routes) - len(self.not_reached)
        missed = f"; no case reaches {', '.join(self.not_reached)}" if self.not_reached else ""
        say(f"routes reached: {reached} of {len(self.routes)}{missed}", "yellow" if missed else "")


def _came(came: "Came") -> dict[str, Any]:
    from worker.expected import told_together

    event = came.event
    row: dict[str, Any] = {"sink": came.sink, "route": came.route, "at_seconds": round(came.at_seconds, 3)}
    if came.dead_letter is not None:
        row |= {"dead_letter": came.dead_letter, "detail": came.detail}
    elif came.late_by_ms is not None:
        row["late_by_ms"] = came.late_by_ms
    if (together := told_together(came)) is not None:
        row["digest"] = together
    elif event is not None:
        row["event"] = dict(event.envelope)
    return row


def _label(came: "Came") -> str:
    """One delivery in one line."""
    from worker.expected import told_together

    event = came.event
    parts = [came.sink or "(no sink)"]
    if (together := told_together(came)) is not None:
        parts.append(f"a digest of {', '.join(str(each.get('id')) for each in together)}")
    elif event is not None:
        parts.append(f"{event.id} ({event.type})")
    if came.late_by_ms is not None:
        parts.append(f"late by {came.late_by_ms / 1000:g} s")
    if came.dead_letter is not None:
        parts.append(f"as a dead letter, {came.dead_letter}: {came.detail}")
    if came.route is not None:
        parts.append(f"by {came.route}")
    return "  ".join([*parts, f"after {came.at_seconds:.3g} s"])


def _wanted(case: "Case", index: int) -> str:
    """An expectation in one line, as it stands in the file."""
    import json

    given = case.expect[index].model_dump(mode="json", exclude_unset=True)
    return json.dumps(given, ensure_ascii=False)
