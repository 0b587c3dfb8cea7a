"""docs/filters.md says what is so: its examples are taken, and its mistakes are said in these words."""

import re
from pathlib import Path

import pytest
import yaml

from worker.filters import FilterMistakes, compile_filter
from worker.operators import OPERATORS

PAGE = (Path(__file__).parents[2] / "docs" / "filters.md").read_text()


def section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("example", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_its_examples_are_filters(example):
    found = yaml.safe_load(example)
    for part in found.get("routes", [found]):
        compile_filter(part.get("filter", part))


def test_it_has_every_operator_with_an_operand_that_is_taken():
    rows = re.findall(r"^\| (`(?:String|Number|Bool|Is).*?) \| (.*?) \|", section("What a filter says"), re.MULTILINE)
    named = {name: operand.strip("`") for names, operand in rows for name in re.findall(r"`(\w+)`", names)}
    assert named.keys() == OPERATORS.keys()
    for name, operand in named.items():
        fields = {} if operand == "none" else yaml.safe_load(operand)
        compile_filter({"advancedFilters": [{"operatorType": name, "key": "data.x", **fields}]})


@pytest.mark.parametrize(
    ("wrong", "said"), re.findall(r"^\| `(.+?)`(.*\|.+) \|$", section("What is refused"), re.MULTILINE)
)
def test_what_it_says_is_refused_is_refused_in_these_words(wrong, said):
    context, _, said = said.partition(" | ")
    operator = context.strip().removeprefix("for `").removesuffix("`") or "StringIn"
    fields = yaml.safe_load(wrong)
    if fields.keys() & {"operatorType", "key", "value", "values"}:
        defaults = {"operatorType": operator, "key": "data.x", "values": ["a"]}
        if "value" in fields:
            del defaults["values"]
        fields = {"advancedFilters": [{**defaults, **fields}]}
    with pytest.raises(FilterMistakes) as caught:
        compile_filter(fields)
    for mistake in caught.value.mistakes:
        assert mistake.message.startswith(said.strip("` ").removesuffix("…"))
