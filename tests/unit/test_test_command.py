"""`worker test`: exit codes, what is printed, and which routes the cases reach."""

import json
import sys
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest

from tests.unit.configurations import write
from worker.cli import main

GOOD = """\
ignore: [audit]
cases:
  - name: what is of the type comes out
    given:
      - event: { id: a, eventType: Some.Type, subject: s }
    expect:
      - { sink: out, route: failed, event: { id: a } }
"""
WRONG = """\
ignore: [audit]
cases:
  - name: what is of another type comes out
    given:
      - event: { id: a, eventType: Other.Type, subject: s }
      - event: { id: b, eventType: Some.Type, subject: s }
      - event: { id: b, eventType: Some.Type, subject: s }
    expect:
      - { sink: out, route: failed, event: { id: a } }
"""


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def worker_test(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HUB", raising=False)
    monkeypatch.delenv("OUT", raising=False)
    write(tmp_path)
    Path("routes.yaml").write_text(Path("routes.yaml").read_text().replace("sinks: [audit, out]", "sinks: [audit]"))

    def run(cases: str, *arguments: str) -> Outcome:
        Path("tests.yaml").write_text(dedent(cases))
        monkeypatch.setattr(sys, "argv", ["worker", "test", "--config", "worker.yaml", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        return Outcome(stopped.value.code or 0, *capsys.readouterr())  # type: ignore[arg-type]  # never a text

    return run


def test_cases_beside_the_configuration_pass_without_secrets_and_exit_0(worker_test):
    outcome = worker_test(GOOD)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines() == [
        "ok    what is of the type comes out",
        "cases: 1, failed: 0",
        "routes reached: 2 of 2",
    ]


def test_a_case_that_fails_says_what_is_missing_why_and_what_came_instead(worker_test):
    outcome = worker_test(WRONG)
    assert (outcome.code, outcome.err) == (1, "")
    assert outcome.out.splitlines() == [
        "FAIL  what is of another type comes out",
        "  tests.yaml:3",
        '  - {"sink": "out", "route": "failed", "event": {"id": "a"}}',
        "      expected on line 9, and did not come",
        '      most like it: event.id is "b", not "a"',
        '      not taken: a: failed: the type is "Other.Type", which includedEventTypes does not name',
        "  + out  b (Some.Type)  by failed  after 5 s",
        "      came, and is not expected",
        "  the events ended as: 2 delivered, 1 duplicate",
        "cases: 1, failed: 1",
        "routes reached: 2 of 2",
    ]


def test_json_is_an_object_for_each_case_and_one_for_all(worker_test):
    outcome = worker_test(WRONG, "--json")
    assert outcome.code == 1
    case, total = (json.loads(line) for line in outcome.out.splitlines())
    assert (case["file"], case["line"], case["case"], case["passed"]) == (
        "tests.yaml",
        3,
        "what is of another type comes out",
        False,
    )
    [missing], [extra] = case["missing"], case["unexpected"]
    assert missing["expected"] == {"sink": "out", "route": "failed", "event": {"id": "a"}}
    assert (missing["line"], missing["nearest"]) == (9, extra)
    assert (extra["sink"], extra["route"], extra["event"]["id"]) == ("out", "failed", "b")
    assert case["settled"] == {"delivered": 2, "duplicate": 1}
    assert total == {"passed": 0, "failed": 1, "routes": 2, "not_reached": []}


def test_a_route_that_no_case_reaches_is_named_and_fails_where_coverage_is_required(worker_test):
    nothing = GOOD.partition("    expect:")[0] + "    expect: []\n"
    cases = nothing.replace("Some.Type", "Other.Type")
    outcome = worker_test(cases)
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1] == "routes reached: 1 of 2; no case reaches failed"
    assert worker_test(cases, "--require-coverage").code == 1
    assert worker_test(GOOD, "--require-coverage").code == 0


def test_files_can_be_named_and_every_mistake_in_them_exits_2(worker_test):
    Path("more.yaml").write_text(GOOD.replace("sink: out", "sink: oud"))
    outcome = worker_test(GOOD.replace("given", "givn"), "tests.yaml", "more.yaml", "none.yaml")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.splitlines() == [
        "tests.yaml:3:5: cases[0].given: is missing; add it",
        "tests.yaml:4:5: cases[0].givn: there is no such key; did you mean given?",
        "more.yaml:7:11: cases[0].expect[0].sink: there is no sink oud; did you mean out?",
        "none.yaml: there is no such file; name another, or create it",
    ]


def test_events_in_another_order_and_dead_letters_are_shown(worker_test):
    sequence = """\
    cases:
      - name: in another order
        given:
          - { event: { id: a, eventType: Some.Type, subject: s } }
          - { event: { id: b, eventType: Some.Type, subject: s } }
          - { body: nonsense }
        expect:
          - { sink: out, event: { id: b } }
          - { sink: out, event: { id: a } }
          - { sink: audit, event: { id: a } }
          - { sink: audit, event: { id: b } }
    """
    lines = worker_test(sequence).out.splitlines()
    letter, *disordered = [line for line in lines if line.startswith(("  *", "  +"))]
    assert letter.startswith("  + (no sink)  as a dead letter, not_json: ")
    assert [line.split("  after")[0] for line in disordered] == [
        "  * out  a (Some.Type)  by failed",
        "  * out  b (Some.Type)  by failed",
    ]


def test_what_an_event_holds_cannot_steer_the_terminal(worker_test):
    outcome = worker_test(WRONG.replace("id: b", 'id: "\\e[31mb"'))
    assert outcome.code == 1
    assert "\x1b" not in outcome.out
