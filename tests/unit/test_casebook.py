"""Cases of `worker test`: what a file may say, and every mistake with its line."""

import re
from pathlib import Path
from textwrap import dedent

import orjson
import pytest

from worker.casebook import Case, read_cases
from worker.mistakes import Mistakes

GOOD = """\
ignore: [audit]
cases:
  - name: first
    given:
      - event: &one { id: a, eventType: T }
      - wait_seconds: 5
      - file: events.json
      - body: nonsense
      - event: { <<: *one, id: b }
    expect:
      - sink: out
        event: { id: a }
      - { dead_letter: not_json }
  - name: second
    starts_at: 2026-01-31T22:30:00
    given: [{ event: { type: T } }]
    expect: []
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def cases(text: str = GOOD) -> list[Case]:
    Path("tests.yaml").write_text(dedent(text))
    Path("events.json").write_text("[]")
    return read_cases([Path("tests.yaml")], sinks=["out", "audit"], routes=["failed", "all"])


def mistakes(old: str, new: str) -> list[str]:
    assert old in GOOD
    with pytest.raises(Mistakes) as caught:
        cases(GOOD.replace(old, new, 1))
    return caught.value.mistakes


def test_a_case_is_bodies_of_messages_with_time_between_them_and_what_is_expected():
    first, second = cases()
    assert (first.name, first.line, first.lines) == ("first", 3, (11, 13))
    assert first.ignore == {"audit"}
    event, seconds, file, body, other = first.given
    assert (seconds, file, body) == (5, b"[]", b"nonsense")
    assert isinstance(event, bytes)
    assert isinstance(other, bytes)
    assert [orjson.loads(each) for each in (event, other)] == [
        {"id": "a", "eventType": "T"},
        {"id": "b", "eventType": "T"},
    ]
    assert [each.sink for each in first.expect] == ["out", None]
    assert second.starts_at == 1_769_898_600
    assert second.expect == ()


def test_an_event_gets_an_id_and_a_cloud_event_its_specversion():
    [step] = cases()[1].given
    assert isinstance(step, bytes)
    assert orjson.loads(step) == {"specversion": "1.0", "id": "given-1", "type": "T"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("wait_seconds", "wait_second", "6: cases[0].given[1].wait_second: there is no such key; did you mean"),
        ("wait_seconds: 5", "wait_seconds: 0", "6: cases[0].given[1].wait_seconds: must be more than 0"),
        ("wait_seconds: 5", 'wait_seconds: "5"', "6: cases[0].given[1].wait_seconds: must be a number, without quotes"),
        ("body: nonsense", "body: x\n        wait_seconds: 1", "8: cases[0].given[3]: body and wait_seconds exclude"),
        ("body: nonsense", "{}", "8: cases[0].given[3]: one of event, file, body, wait_seconds is needed; add it"),
        ("events.json", "none.json", "7: cases[0].given[2].file: none.json cannot be read: No such file"),
        ("eventType: T", "eventTyp: T", "5: cases[0].given[0].event: is no event: "),
        ("sink: out", "sink: oud", "11: cases[0].expect[0].sink: there is no sink oud; did you mean out?"),
        ("sink: out", "sinks: out", "11: cases[0].expect[0].sinks: there is no such key; did you mean sink?"),
        ("sink: out", "route: all", "11: cases[0].expect[0]: names no sink; add the line `sink: …`"),
        ("sink: out", "sink: out\n        route: al", "12: cases[0].expect[0].route: there is no route al; did you"),
        ("[audit]", "[adit]", "1: ignore[0]: there is no sink adit; did you mean audit?"),
        ("name: second", "name: first", "14: cases[1].name: stands here again (first on line 3); give each case"),
        ("2026-01-31T22:30:00", "tonight", "15: cases[1].starts_at: is no time; write one such as 2026-01-31T22:30"),
        ("    expect: []\n", "", "14: cases[1].expect: is missing; add it"),
        ("name: second", "name: second\n    name: x", "15: name stands here again (first on line 14); keep one"),
        ("cases:", "case:", "2: case: there is no such key; did you mean cases?"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_what_to_write(old, new, said):
    found = mistakes(old, new)
    without_columns = [re.sub(r"^tests\.yaml:(\d+):\d+:", r"tests.yaml:\1:", each) for each in found]
    assert any(f"tests.yaml:{said}" in each for each in without_columns), found


def test_the_file_of_a_step_lies_beside_the_cases(tmp_path):
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "a.json").write_text("[5]")
    (tmp_path / "cases" / "t.yaml").write_text("cases: [{ name: n, given: [{ file: a.json }], expect: [] }]")
    [case] = read_cases([Path("cases/t.yaml")], sinks=[], routes=[])
    assert case.given == (b"[5]",)


def test_mistakes_of_all_files_come_at_once_and_in_order():
    Path("tests.yaml").write_text(GOOD.replace("sink: out", "sink: oud").replace("[audit]", "[adit]"))
    Path("empty.yaml").write_text("")
    Path("events.json").write_text("[]")
    with pytest.raises(Mistakes) as caught:
        read_cases([Path("tests.yaml"), Path("empty.yaml"), Path("none.yaml")], sinks=["out", "audit"], routes=[])
    assert [each.split(": ")[0] for each in caught.value.mistakes] == [
        "tests.yaml:1:10",
        "tests.yaml:11:9",
        "empty.yaml",
        "none.yaml",
    ]
