"""The page about acs_email says what the settings say."""

import re
from pathlib import Path

import yaml

from worker.sinks.acs_email import AcsEmailSettings
from worker.sinks.mail_settings import MailSettings

PAGE = (Path(__file__).parents[2] / "docs" / "sinks" / "acs_email.md").read_text()


def test_every_key_of_the_kind_has_its_row():
    own = {field.alias or name for name, field in AcsEmailSettings.model_fields.items()}
    common = {*MailSettings.model_fields} - {"concurrency"}
    table = PAGE.partition("## Keys")[2].partition("## Set-up")[0]
    named = {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert named == own - common


def test_its_example_is_a_configuration_that_is_taken():
    [sinks, routes] = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
    assert [AcsEmailSettings.model_validate(each).name for each in sinks["sinks"]] == ["oncall", "managers"]
    assert routes["routes"][0]["filter"]["advancedFilters"]


def test_the_values_it_names_are_those_that_hold():
    settings = AcsEmailSettings.model_validate(
        {"name": "a", "connection_string_env": "A", "from": "a@example.org", "to": ["b@example.org"]}
    )
    for value in (settings.token_scope, settings.api_version):
        assert f"`{value}`" in PAGE
    assert f"| `timeout_seconds` | {settings.timeout_seconds:g} |" in PAGE
    assert f"| `concurrency` | {settings.concurrency} |" in PAGE
