"""The page about datafactory says what the settings say."""

import re
from pathlib import Path

import yaml

from worker.events import UnixSeconds
from worker.samples import Sample, sample_delivery
from worker.settings import SinkSettings
from worker.sinks.datafactory import DataFactorySettings, DataFactorySink
from worker.sinks.datafactory_runs import REMEMBERED_SECONDS

PAGE = (Path(__file__).parents[2] / "docs" / "sinks" / "datafactory.md").read_text()
[EXAMPLE] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def settings() -> DataFactorySettings:
    [sink] = yaml.safe_load(EXAMPLE)["sinks"]
    return DataFactorySettings.model_validate(sink)


def test_every_key_of_the_kind_has_its_row():
    own = {*DataFactorySettings.model_fields} - {*SinkSettings.model_fields} | {"concurrency", "on_unknown"}
    table = PAGE.partition("## Keys")[2].partition("## What")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == own


def test_the_values_it_names_are_those_that_hold():
    taken = settings()
    for key in ("event_key_parameter", "management_url", "api_version"):
        assert f"| `{key}` | `{getattr(taken, key)}` |" in PAGE
    assert f"| `on_unknown` | `{taken.when_unknown}` |" in PAGE
    assert f"| `timeout_seconds` | {taken.timeout_seconds:g} |" in PAGE
    assert f"| `concurrency` | {taken.concurrency} |" in PAGE
    assert taken.settles_seconds == 120, "the page says two minutes"
    assert taken.attempt_seconds + 15 == taken.timeout_seconds + 25, "the page says when an attempt has surely ended"
    assert f"{REMEMBERED_SECONDS / 86_400:g} days" in PAGE


def test_its_example_is_filled_in_by_the_sample_that_it_names():
    assert "--sample drift" in PAGE
    delivery = sample_delivery(Sample.DRIFT, "retrain", now=UnixSeconds(1e9))
    assert '"drift": 0.83' in DataFactorySink(settings()).preview(delivery)
