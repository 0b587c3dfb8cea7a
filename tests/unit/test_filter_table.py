"""What every operator makes of every kind of value, in both schemas: held to a table that stands in docs/filters.md.

`UPDATE_DOCS=1` writes the table anew; without it the test fails when the page says something else.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from worker.decode import decode
from worker.events import Event, Message, PartitionId, UnixSeconds
from worker.filters import compile_filter
from worker.operators import OPERATORS

PAGE = Path(__file__).parents[2] / "docs" / "filters.md"
MARK = "<!-- tests/unit/test_filter_table.py writes this table -->\n\n"

# By hand, from the vendor's pages. A star: the vendor does not say, and the page says why it is so.
COLUMNS, *ROWS = (
    [cell.strip() for cell in line.split("|")]
    for line in """\
        operator                  | hit | other | its case | key's case | missing | null | other type | array, flag off | array with a hit | array without | empty array
        StringIn                  | yes | no    | yes      | yes*       | no      | no*  | no*        | no*             | yes              | no            | no*
        StringNotIn               | no  | yes   | no       | no*        | yes     | yes* | yes*       | yes*            | no               | yes           | yes*
        StringContains            | yes | no    | yes      | yes*       | no      | no*  | no*        | no*             | yes              | no            | no*
        StringNotContains         | no  | yes   | no       | no*        | no      | no*  | yes*       | yes*            | no               | yes           | yes*
        StringBeginsWith          | yes | no    | yes      | yes*       | no      | no*  | no*        | no*             | yes              | no            | no*
        StringNotBeginsWith       | no  | yes   | no       | no*        | no      | no*  | yes*       | yes*            | no               | yes           | yes*
        StringEndsWith            | yes | no    | yes      | yes*       | no      | no*  | no*        | no*             | yes              | no            | no*
        StringNotEndsWith         | no  | yes   | no       | no*        | no      | no*  | yes*       | yes*            | no               | yes           | yes*
        NumberIn                  | yes | no    | -        | yes*       | no      | no*  | no*        | no*             | yes              | no            | no*
        NumberNotIn               | no  | yes   | -        | no*        | yes     | yes* | yes*       | yes*            | no               | yes           | yes*
        NumberInRange             | yes | no    | -        | yes*       | no*     | no*  | no*        | no*             | yes              | no            | no*
        NumberNotInRange          | no  | yes   | -        | no*        | yes*    | yes* | yes*       | yes*            | no               | yes           | yes*
        NumberLessThan            | yes | no    | -        | yes*       | no      | no*  | no*        | no*             | yes              | no            | no*
        NumberLessThanOrEquals    | yes | no    | -        | yes*       | no      | no*  | no*        | no*             | yes              | no            | no*
        NumberGreaterThan         | yes | no    | -        | yes*       | no      | no*  | no*        | no*             | yes              | no            | no*
        NumberGreaterThanOrEquals | yes | no    | -        | yes*       | no      | no*  | no*        | no*             | yes              | no            | no*
        BoolEquals                | yes | no    | -        | yes*       | no      | no*  | no*        | no*             | yes              | no            | no*
        IsNullOrUndefined         | no  | no    | no       | no*        | yes     | yes  | no         | no              | no               | no            | no
        IsNotNull                 | yes | yes   | yes      | yes*       | no      | no   | yes        | yes             | yes              | yes           | yes
    """.strip().splitlines()  # noqa: E501
)

MISSING = object()
STRING = ("Failed", "Running", "fAILED", [1, {"v": "Failed"}])
NUMBER = (5, 50, None, ["5", True, {"v": 5}])
VALUES: dict[str, tuple[Any, Any, Any, list[Any]]] = {
    **{operator: STRING for operator in OPERATORS if operator.startswith(("String", "Is"))},
    **{operator: NUMBER for operator in OPERATORS if operator.startswith("Number")},
    "NumberGreaterThan": (5, 0, None, ["5"]),
    "NumberGreaterThanOrEquals": (5, 4.9, None, ["5"]),
    "BoolEquals": (True, False, None, ["true", 1]),
}
"""By operator: a value that hits its operand, one that does not, the first in other case, and values of other types."""

OPERANDS = {
    "StringIn": {"values": ["Failed", "Canceled"]},
    "StringContains": {"values": ["zzz", "aile"]},
    "StringBeginsWith": {"values": ["zzz", "Fail"]},
    "StringEndsWith": {"values": ["zzz", "iled"]},
    "NumberIn": {"values": [5, 6]},
    "NumberInRange": {"values": [[0, 1], [5, 6]]},
    "NumberLessThan": {"value": 5.1},
    "NumberLessThanOrEquals": {"value": 5},
    "NumberGreaterThan": {"value": 4.9},
    "NumberGreaterThanOrEquals": {"value": 5},
    "BoolEquals": {"value": True},
    "IsNullOrUndefined": {},
    "IsNotNull": {},
}


def situations(operator: str) -> dict[str, tuple[list[Any], tuple[bool, ...], bool]]:
    """By column: the values that are tried, with which flags, and whether the filter writes the key in another case."""
    hit, other, in_other_case, of_other_types = VALUES[operator]
    off, on = (False,), (True,)
    both = off + on
    return {
        "hit": ([hit], both, False),
        "other": ([other], both, False),
        "its case": ([in_other_case], both, False),
        "key's case": ([hit], both, True),
        "missing": ([MISSING], both, False),
        "null": ([None], both, False),
        "other type": (of_other_types, both, False),
        "array, flag off": ([[hit], [other], [other, hit]], off, False),
        "array with a hit": ([[hit], [*of_other_types, None, other, hit]], on, False),
        "array without": ([[other], [*of_other_types, None, other], of_other_types, [None], [[hit]]], on, False),
        "empty array": ([[]], both, False),
    }


def events(value: Any) -> Iterator[tuple[str, Event]]:
    """The value at several places of an event of each schema, with the key that leads there."""
    fields = {} if value is MISSING else {"Value": value}
    grid = {"id": "1", "eventType": "T", "topic": "/t", "subject": "s", "eventTime": "2026-01-01T00:00:00Z"}
    cloud = {"specversion": "1.0", "id": "1", "type": "T", "source": "/t"}
    for envelope in (grid, cloud):
        yield "data.Value", decoded({**envelope, "data": fields})
        yield "data['do.t'].deep.Value", decoded({**envelope, "data": {"do.t": {"deep": fields}}})
    yield "Value", decoded({**cloud, **fields})  # an extension attribute


def decoded(element: dict[str, Any]) -> Event:
    [event] = decode(Message(PartitionId("0"), 1, "1", UnixSeconds(0.0), orjson.dumps(element)))
    assert isinstance(event, Event)
    return event


def operand(operator: str) -> dict[str, Any]:
    return OPERANDS[operator.replace("Not", "")] if operator != "IsNotNull" else {}


def outcomes(operator: str, column: str) -> set[str]:
    values, flags, key_in_other_case = situations(operator)[column]
    seen = set()
    for value in values:
        for key, event in events(value):
            asked = {"operatorType": operator, "key": key.swapcase() if key_in_other_case else key, **operand(operator)}
            for flag in flags:
                compiled = compile_filter({"advancedFilters": [asked], "enableAdvancedFilteringOnArrays": flag})
                seen.add("yes" if compiled.matches(event) else "no")
    return seen


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_an_operator_answers_in_both_schemas_as_the_table_says(row):
    operator, *cells = row
    for column, cell in zip(COLUMNS[1:], cells, strict=True):
        if cell != "-":
            assert outcomes(operator, column) == {cell.rstrip("*")}, column


def test_the_table_has_every_operator():
    assert [row[0] for row in ROWS] == list(OPERATORS)


def test_the_table_stands_on_the_page():
    text = PAGE.read_text()
    lines = [COLUMNS, ["---"] * len(COLUMNS), *([f"`{row[0]}`", *map(_shown, row[1:])] for row in ROWS)]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    new = re.sub(rf"{re.escape(MARK)}(\|.*\n)*", lambda _: MARK + table, text)
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(new)
    assert table in PAGE.read_text(), "UPDATE_DOCS=1 writes it anew"


def _shown(cell: str) -> str:
    return f"**{cell.removesuffix('*')}**" if cell.endswith("*") else cell


# ---- Keys at the top

GRID = {
    "id": "i",
    "topic": "/t",
    "subject": "s",
    "eventType": "T",
    "eventTime": "2026-01-01T00:00:00Z",
    "dataVersion": "2",
    "metadataVersion": "1",
    "data": "d",
}
CLOUD = {
    "id": "i",
    "source": "/t",
    "subject": "s",
    "type": "T",
    "time": "2026-01-01T00:00:00Z",
    "specversion": "1.0",
    "datacontenttype": "text/plain",
    "dataschema": "#",
    "comexample": "x",
    "data": "d",
}


@pytest.mark.parametrize(("own", "other"), [(GRID, CLOUD), (CLOUD, GRID)], ids=["eventgrid", "cloudevents"])
def test_a_key_at_the_top_has_the_name_of_the_events_own_schema_in_any_case(own, other):
    event = decoded(own)
    for name, value in own.items():
        for key in (name, name.lower(), name.upper(), name[0].upper() + name[1:], f"['{name.swapcase()}']"):
            asked = {"operatorType": "StringIn", "key": key, "values": [value]}
            assert compile_filter({"advancedFilters": [asked]}).matches(event), key
    for name in other.keys() - own.keys():
        asked = {"operatorType": "IsNullOrUndefined", "key": name}
        assert compile_filter({"advancedFilters": [asked]}).matches(event), name
