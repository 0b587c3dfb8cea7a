"""The two pages by which a reader finds their way: they name what is there, and all of it."""

import re
from pathlib import Path

import pytest

import worker

ROOT = Path(worker.__file__).parent
MODULES = sorted(each.stem for each in ROOT.glob("*.py") if not each.stem.startswith("__"))


@pytest.mark.parametrize("module", MODULES)
def test_the_map_names_every_module(module):
    assert module in re.findall(r"\w+", worker.__doc__ or "")


def test_the_way_of_an_event_names_only_modules_that_are_there():
    page = (ROOT.parent / "docs/how-it-works.md").read_text()
    named = set(re.findall(r"\b(\w+)\.py\b", page))
    assert len(named) > 30
    assert named <= {each.stem for each in ROOT.rglob("*.py")}
