"""The pages about eventhub and blob say what the settings say."""

import re
from pathlib import Path

import pytest
import yaml

from worker.settings import SinkSettings
from worker.sinks.blob import UNDATED, BlobSettings
from worker.sinks.blob_lines import MOST_BLOBS, MOST_BLOCKS
from worker.sinks.eventhub import EventHubSettings

DOCS = Path(__file__).parents[2] / "docs" / "sinks"
PAGES = {"eventhub": EventHubSettings, "blob": BlobSettings}


def page_of(kind: str) -> str:
    return (DOCS / f"{kind}.md").read_text()


@pytest.mark.parametrize("kind", PAGES)
def test_every_key_of_the_kind_has_its_row_with_its_default(kind):
    model = PAGES[kind]
    table = page_of(kind).partition("## Keys")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", table, re.MULTILINE)
    named = {name: default for names, default in rows for name in re.findall(r"`(\w+)`", names)}
    own = model.model_fields.keys() - (SinkSettings.model_fields.keys() - {"concurrency"})
    assert named.keys() == own
    for name in ("concurrency", "timeout_seconds", "mode", "format", "partitioning"):
        if name in own:
            default = model.model_fields[name].default
            assert named[name] in (str(default), f"`{default}`")


@pytest.mark.parametrize("kind", PAGES)
def test_its_example_is_a_configuration_that_is_taken(kind):
    [block] = re.findall(r"```yaml\n(.*?)```", page_of(kind), re.DOTALL)
    assert [PAGES[kind].model_validate(sink).kind for sink in yaml.safe_load(block)["sinks"]] == [kind]


def test_the_limits_of_an_archive_are_those_that_hold():
    page = page_of("blob")
    assert f"after {MOST_BLOCKS:,} appends" in page
    assert f"more than {MOST_BLOBS} hours" in page
    assert f"`{UNDATED}/`" in page
