"""Filters as Azure's own tools print them are taken unchanged: pasted into routes.yaml, they are asked for a sample."""

import json
from pathlib import Path
from textwrap import indent

import pytest
import yaml

from tests.unit.configurations import ROUTES, loaded, mistakes
from worker.decode import decode
from worker.events import Event, Message, PartitionId, UnixSeconds
from worker.operators import OPERATORS

SAMPLES = Path(__file__).parents[1] / "samples"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# The form of `az eventgrid event-subscription show`: every property, null where it was not given.
SHOWN = """\
{
  "advancedFilters": [
    {
      "key": "data.modelTags.ncd",
      "operatorType": "StringContains",
      "values": [
        "true"
      ]
    },
    {
      "key": "Data.ModelVersion",
      "operatorType": "NumberInRange",
      "values": [
        [
          1.0,
          1e+16
        ]
      ]
    },
    {
      "key": "data.modelProperties.stage",
      "operatorType": "IsNullOrUndefined"
    }
  ],
  "enableAdvancedFilteringOnArrays": true,
  "includedEventTypes": [
    "Microsoft.MachineLearningServices.ModelRegistered"
  ],
  "isSubjectCaseSensitive": null,
  "subjectBeginsWith": "models/",
  "subjectEndsWith": ""
}"""
NOTHING_SAID = """\
{
  "advancedFilters": null,
  "enableAdvancedFilteringOnArrays": null,
  "includedEventTypes": null,
  "isSubjectCaseSensitive": null,
  "subjectBeginsWith": "",
  "subjectEndsWith": ""
}"""
# What older versions print.
ALL_TYPES = '{"advancedFilters":[],"includedEventTypes":["All"],"isSubjectCaseSensitive":false,"subjectEndsWith":null}'
# `--query filter --output yaml`
AS_YAML = yaml.safe_dump(json.loads(SHOWN))


def sample(name: str) -> Event:
    body = (SAMPLES / f"Microsoft.MachineLearningServices.{name}.eventgrid.json").read_bytes()
    [event] = decode(Message(PartitionId("0"), 1, "1", UnixSeconds(0.0), body))
    assert isinstance(event, Event)
    return event


def routes_with(pasted: str) -> str:
    return ROUTES.replace("    filter:\n      includedEventTypes: [Some.Type]\n", pasted)


def taken_by(pasted: str, event: Event) -> bool:
    return "failed" in {target.route for target in loaded(routes=routes_with(pasted)).routes.match(event)}


REGISTERED = sample("ModelRegistered.ncd-sample")
RUN = sample("RunCompleted.docs")


@pytest.mark.parametrize("shown", [SHOWN, indent(AS_YAML, " " * 6)], ids=["json", "yaml"])
def test_a_filter_that_azure_prints_works_unchanged_under_filter(shown):
    pasted = f"    filter:\n{shown}\n" if shown != SHOWN else f"    filter: {shown}\n"
    assert taken_by(pasted, REGISTERED)
    assert not taken_by(pasted, RUN)


@pytest.mark.parametrize("shown", [NOTHING_SAID, ALL_TYPES])
def test_a_filter_in_which_azure_says_nothing_takes_everything(shown):
    assert taken_by(f"    filter: {shown}\n", REGISTERED)
    assert taken_by(f"    filter: {shown}\n", RUN)


@pytest.mark.parametrize("depth", [0, 2, 4, 6, 12])
def test_it_matters_neither_how_deep_it_is_indented_nor_whether_the_name_is_quoted(depth):
    shown = indent(SHOWN, " " * depth).lstrip()
    assert taken_by(f'    "filter": {shown}\n', REGISTERED)


def test_there_is_no_limit_of_25():
    operators = [
        {"operatorType": "StringNotIn", "key": f"data.key{number}", "values": [f"{value}" for value in range(100)]}
        for number in range(100)
    ]
    assert taken_by(f"    filter: {json.dumps({'advancedFilters': operators})}\n", RUN)


def test_every_operator_of_event_grid_is_there():
    assert set(OPERATORS) == {
        *("NumberIn", "NumberNotIn", "NumberInRange", "NumberNotInRange", "BoolEquals"),
        *("NumberLessThan", "NumberLessThanOrEquals", "NumberGreaterThan", "NumberGreaterThanOrEquals"),
        *("StringIn", "StringContains", "StringBeginsWith", "StringEndsWith"),
        *("StringNotIn", "StringNotContains", "StringNotBeginsWith", "StringNotEndsWith"),
        *("IsNullOrUndefined", "IsNotNull"),
    }


def test_a_mistake_in_what_was_pasted_has_its_own_line():
    wrong = SHOWN.replace('"StringContains"', '"StringContain"').replace("1e+16", "0.5")
    assert mistakes(routes=routes_with(f"    filter: {wrong}\n")) == [
        (
            'routes.yaml:14:7: routes[0].filter.advancedFilters[0].operatorType: "StringContain" is no operator; '
            "did you mean StringContains?"
        ),
        (
            "routes.yaml:23:9: routes[0].filter.advancedFilters[1].values[0]: is a range that holds nothing: "
            "1.0 is greater than 0.5; write [0.5, 1.0]"
        ),
    ]


def test_the_comma_that_follows_it_in_what_azure_prints_is_said():
    [mistake] = mistakes(routes=routes_with(f"    filter: {SHOWN},\n"))
    assert mistake == "routes.yaml:41:2: a comma after the end of a value; remove it"
