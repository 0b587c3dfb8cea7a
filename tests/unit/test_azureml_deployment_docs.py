"""The page about azureml_deployment says what the settings say."""

import re
from pathlib import Path

import yaml

from worker.settings import SinkSettings
from worker.sinks import deployment_state
from worker.sinks.azureml_deployment import AzureMlDeploymentSink
from worker.sinks.deployment_settings import AzureMlDeploymentSettings

PAGE = (Path(__file__).parents[2] / "docs" / "sinks" / "azureml_deployment.md").read_text()
ROWS = dict(re.findall(r"^\| (`.*?) \| (.*?) \|", PAGE.partition("## Keys")[2].partition("## What")[0], re.MULTILINE))


def example() -> AzureMlDeploymentSettings:
    sinks, _ = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
    return AzureMlDeploymentSettings.model_validate(sinks["sinks"][0])


def test_every_key_of_the_kind_has_its_row():
    own = AzureMlDeploymentSettings.model_fields.keys() - SinkSettings.model_fields.keys() | {"concurrency"}
    assert {name for row in ROWS for name in re.findall(r"`(\w+)`", row)} == own


def test_its_example_is_a_configuration_that_is_taken():
    assert example().shift_traffic
    assert AzureMlDeploymentSink(example())


def test_the_values_it_names_are_those_that_hold():
    fields = AzureMlDeploymentSettings.model_fields
    for name in ("model", "version", "instance_count", "api_version", "timeout_seconds", "concurrency"):
        assert ROWS[f"`{name}`"].strip("`") == str(fields[name].default)
    assert f"an attempt makes {AzureMlDeploymentSettings.requests_per_attempt} at most" in PAGE
    assert ROWS["`shift_traffic`"] == "`false`"
    served = (deployment_state.SERVED_MODEL, deployment_state.SERVED_VERSION, deployment_state.SERVED_TIME)
    for tag in (*deployment_state.TAGS, *served):
        assert f"`{tag}`" in PAGE
