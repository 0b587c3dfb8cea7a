"""Settings of the azuredevops sink: what makes sense, and mistakes in words at their place."""

import json

import pytest
from pydantic import ValidationError

from tests.deliveries import delivery_of
from worker.sinks.azuredevops import AzureDevOpsSettings, AzureDevOpsSink

GOOD = {"name": "retrain", "organization": "contoso", "project": "ml", "pipeline": 7}


@pytest.mark.parametrize(
    ("change", "organization"),
    [
        ({}, "https://dev.azure.com/contoso"),
        ({"organization": "https://dev.azure.com/contoso/"}, "https://dev.azure.com/contoso"),
        ({"organization": "https://contoso.visualstudio.com"}, "https://contoso.visualstudio.com"),
        (
            {"organization": "https://tfs.example.org/tfs/DefaultCollection", "api_version": "7.0"},
            "https://tfs.example.org/tfs/DefaultCollection",
        ),
        ({"token_file": "/run/secrets/pat", "ref": "refs/tags/v1"}, "https://dev.azure.com/contoso"),
        ({"on_unknown": "resend", "parameters": {"eventKey": "x"}, "key_name": "k"}, "https://dev.azure.com/contoso"),
    ],
)
def test_settings_that_make_sense_are_taken(change, organization):
    settings = AzureDevOpsSettings.model_validate(GOOD | change)
    assert settings.organization == organization
    assert settings.needs_identity == ("token_file" not in change)
    assert settings.uses_ledger


def test_an_unknown_outcome_is_verified_unless_told_otherwise():
    assert AzureDevOpsSettings.model_validate(GOOD).when_unknown == "verify"


@pytest.mark.parametrize(
    ("change", "place", "reason"),
    [
        ({"organization": "dev.azure.com/contoso"}, ("organization",), "write its name, or a URL such as"),
        ({"organization": "https://dev.azure.com/contoso/ml"}, ("organization",), "write https://dev.azure.com/NAME"),
        ({"organization": "https://dev.azure.com"}, ("organization",), "write https://dev.azure.com/NAME"),
        ({"organization": "https://pat:hidden@dev.azure.com/contoso"}, ("organization",), "user name or password"),
        ({"organization": "http://tfs.example.org/tfs"}, ("organization",), "without encryption"),
        ({"project": ""}, ("project",), "at least 1"),
        ({"pipeline": "retrain"}, ("pipeline",), "valid integer"),
        ({"ref": "main"}, ("ref",), "write refs/heads/main"),
        ({"token_env": "A", "token_file": "b"}, (), "token_env and token_file exclude each other"),
        ({"token": "hidden"}, ("token",), "Extra inputs"),
        ({"parameters": {"EVENTKEY": "x"}}, (), "parameters.EVENTKEY is what the delivery's key travels under"),
        ({"parameters": {"a": "{{ delivry.sink }}"}}, ("parameters", "a"), "did you mean delivery?"),
        ({"variables": {"a": "{% if %}"}}, ("variables", "a"), "cannot be read"),
        ({"key_name": "event-key"}, ("key_name",), "pattern"),
        ({"api_version": "latest"}, ("api_version",), "pattern"),
    ],
)
def test_a_mistake_is_told_at_its_place(change, place, reason):
    with pytest.raises(ValidationError) as refused:
        AzureDevOpsSettings.model_validate(GOOD | change)
    [error] = refused.value.errors(include_input=False, include_url=False, include_context=False)
    assert error["loc"] == place
    assert reason in error["msg"]
    assert "hidden" not in str(refused.value)


def test_a_token_that_cannot_be_one_is_told_without_it():
    with pytest.raises(ValueError, match="a character that no token has") as refused:
        AzureDevOpsSettings.model_validate(GOOD).check_secret("token", "hidden token")
    assert "hidden" not in str(refused.value)


def test_a_preview_shows_where_it_goes_and_what():
    more = {
        "project": "ml models",
        "parameters": {"late": "{{ delivery.replayed }}"},
        "variables": {"id": "{{ event.id }}"},
    }
    where, _, body = (
        AzureDevOpsSink(AzureDevOpsSettings.model_validate(GOOD | more)).preview(delivery_of()).partition("\n\n")
    )
    assert where == "POST https://dev.azure.com/contoso/ml%20models/_apis/pipelines/7/runs?api-version=7.1"
    assert json.loads(body) == {
        "resources": {"repositories": {"self": {"refName": "refs/heads/main"}}},
        "templateParameters": {"late": "false", "eventKey": f"evt-{delivery_of().idempotency_key[:32]}"},
        "variables": {"id": {"value": "e1"}},
    }
