"""The pages about azureml_job and azureml_batch say what the settings say, and their examples are taken."""

import re
from pathlib import Path

import pytest
import yaml

from worker.events import UnixSeconds
from worker.samples import Sample, sample_delivery
from worker.settings import SinkSettings
from worker.sinks import PreviewingSink
from worker.sinks.azureml_batch import AzureMlBatchSettings
from worker.sinks.azureml_job import AzureMlJobSettings
from worker.sinks.rest import RestSettings
from worker.sinks.table import KINDS

SINKS = Path(__file__).parents[2] / "docs" / "sinks"
JOB = (SINKS / "azureml_job.md").read_text()
BATCH = (SINKS / "azureml_batch.md").read_text()
PAGES = [(JOB, AzureMlJobSettings), (BATCH, AzureMlBatchSettings)]


def blocks(page: str) -> list[dict]:
    found = re.findall(r"^( *)```yaml\n(.*?)```", page, re.DOTALL | re.MULTILINE)
    return [yaml.safe_load(re.sub(f"^{indent}", "", block, flags=re.MULTILINE)) for indent, block in found]


@pytest.mark.parametrize(("page", "settings"), PAGES)
def test_every_key_of_the_kind_has_its_row_and_its_default(page: str, settings: type[RestSettings]):
    table = page.partition("## Keys")[2].partition("\n\nTexts")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", table, re.MULTILINE)
    named = {name: default for keys, default in rows for name in re.findall(r"`(\w+)`", keys)}
    common = {*SinkSettings.model_fields} - {"concurrency"}
    assert named.keys() - {"on_unknown"} == settings.model_fields.keys() - common
    for name, default in named.items():
        field = settings.model_fields[name].default
        if name not in {"on_unknown", "experiment"} and re.fullmatch(r"`\S+`|\d+", default):
            assert str(field).casefold() == default.strip("`").casefold(), name
    if settings.ledger == "never":
        assert "on_unknown" not in named
    else:
        assert named["on_unknown"] == f"`{settings.unknown_by_default}`"


@pytest.mark.parametrize(("page", "settings"), PAGES)
def test_its_example_is_taken_and_fits_the_sample_that_it_names(page: str, settings: type[RestSettings]):
    example = next(block for block in blocks(page) if "sinks" in block)
    [sink] = [settings.model_validate(each) for each in example["sinks"]]
    [sample] = set(re.findall(rf"worker send-test --sink {sink.name} --sample (\S+)", page))
    built = KINDS[sink.kind].build(sink, None)
    assert isinstance(built, PreviewingSink)
    assert built.preview(sample_delivery(Sample(sample), sink.name, now=UnixSeconds(1_700_000_000.0)))


def test_the_component_has_the_inputs_that_the_sink_gives():
    component, example = blocks(JOB)
    [sink] = example["sinks"]
    assert sink["inputs"].keys() <= component["inputs"].keys()
    assert all("default" in component["inputs"][name] for name in component["inputs"].keys() - sink["inputs"].keys())
    assert sink["component"].endswith(f"/components/{component['name']}/versions/{component['version']}")
