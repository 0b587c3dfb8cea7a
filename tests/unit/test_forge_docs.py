"""The pages about github and azuredevops say what the settings say, and what they tell to write shows the key."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from worker.events import UnixSeconds
from worker.samples import Sample, sample_delivery
from worker.settings import SinkSettings
from worker.sinks import PreviewingSink
from worker.sinks.azuredevops import AzureDevOpsSettings
from worker.sinks.github import GitHubSettings
from worker.sinks.rest import RestSettings
from worker.sinks.table import KINDS

SINKS = Path(__file__).parents[2] / "docs" / "sinks"
GITHUB = (SINKS / "github.md").read_text()
AZUREDEVOPS = (SINKS / "azuredevops.md").read_text()
NOW = UnixSeconds(1_700_000_000.0)
PAGES = [(GITHUB, GitHubSettings), (AZUREDEVOPS, AzureDevOpsSettings)]


def blocks(page: str) -> list[dict]:
    found = re.findall(r"^( *)```yaml\n(.*?)```", page, re.DOTALL | re.MULTILINE)
    return [yaml.load(re.sub(f"^{indent}", "", block, flags=re.MULTILINE), yaml.BaseLoader) for indent, block in found]


@pytest.mark.parametrize(("page", "settings"), PAGES)
def test_every_key_of_the_kind_has_its_row_and_its_default(page: str, settings: type[RestSettings]):
    table = page.partition("## Keys")[2].partition("## Errors")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", table, re.MULTILINE)
    named = {name: default for keys, default in rows for name in re.findall(r"`(\w+)`", keys)}
    common = {*SinkSettings.model_fields} - {"concurrency", "on_unknown"}
    assert named.keys() == settings.model_fields.keys() - common
    for name, default in named.items():
        field = settings.model_fields[name].default
        if name not in {"on_unknown", "ref"} and re.fullmatch(r"`\S+`|\d+", default):
            assert str(field).casefold() == default.strip("`").casefold(), name
    assert named["on_unknown"] == f"`{settings.unknown_by_default}`"
    minutes = {120.0: "two", 300.0: "five"}[settings.model_fields["settles_seconds"].default]
    assert f"waits {minutes} minutes" in page


@pytest.mark.parametrize(("page", "settings"), PAGES)
def test_its_example_is_a_configuration_that_is_taken_and_fits_the_sample_that_it_names(
    page: str, settings: type[RestSettings]
):
    example = next(block for block in blocks(page) if "sinks" in block)
    [sink] = [settings.model_validate(each) for each in example["sinks"]]
    [sample] = re.findall(rf"`worker send-test --sink {sink.name} --sample (\S+)`", page)
    built = KINDS[sink.kind].build(sink, None)
    assert isinstance(built, PreviewingSink)
    assert '"model": "worker send-test"' in built.preview(sample_delivery(Sample(sample), sink.name, now=NOW))


def test_the_workflow_has_the_inputs_and_shows_the_key():
    workflow, example = blocks(GITHUB)
    [sink] = example["sinks"]
    key = GitHubSettings.model_fields["key_name"].default
    assert workflow["on"]["workflow_dispatch"]["inputs"].keys() == {*sink["inputs"], key}
    for shown in (workflow["run-name"], workflow["concurrency"]["group"]):
        assert f"inputs.{key} " in shown


@pytest.mark.skipif(shutil.which("jq") is None, reason="needs jq")
@pytest.mark.parametrize(("title", "earlier"), [("Retrain churn evt-1", 1), ("Retrain churn evt-2", 0)])
def test_the_workflows_own_look_finds_an_earlier_run_of_the_key(title: str, earlier: int):
    workflow, _ = blocks(GITHUB)
    [query] = re.findall(r"--jq '(.*?)'", workflow["jobs"]["retrain"]["steps"][0]["run"], re.DOTALL)
    runs = [{"databaseId": 7, "displayTitle": title}, {"databaseId": 8, "displayTitle": "Retrain churn evt-1"}]
    found = subprocess.run(
        [shutil.which("jq") or "jq", query],
        input=json.dumps(runs),
        env={"GITHUB_RUN_ID": "8", "KEY": "evt-1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(found.stdout) == earlier


def test_the_pipeline_has_the_parameters_and_shows_the_key():
    pipeline, example = blocks(AZUREDEVOPS)
    [sink] = example["sinks"]
    key = AzureDevOpsSettings.model_fields["key_name"].default
    assert {each["name"] for each in pipeline["parameters"]} == {*sink["parameters"], key}
    assert f"${{{{ parameters.{key} }}}}" in pipeline["name"]
