"""Settings of the github sink: what makes sense, and mistakes in words at their place."""

import json

import pytest
from pydantic import ValidationError

from tests.deliveries import delivery_of
from worker.sinks.github import GitHubSettings, GitHubSink

GOOD = {"name": "retrain", "repository": "octo/models", "token_env": "TOKEN", "workflow": "retrain.yml"}
EVENT = {"workflow": None, "event_type": "drift"}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"workflow": 4711},
        {"workflow": "re-train.yaml", "ref": "v1"},
        {"inputs": {f"i{number}": "x" for number in range(24)}},
        EVENT,
        EVENT | {"payload": {f"p{number}": 1 for number in range(9)}},
        {"token_env": None, "token_file": "/run/secrets/github"},
        {"api_url": "https://github.example.org/api/v3/", "api_version": "2022-11-28"},
        {"on_unknown": "skip"},
        {"inputs": {"event_key": "x"}, "key_name": "delivery"},
    ],
)
def test_settings_that_make_sense_are_taken(change):
    settings = GitHubSettings.model_validate(GOOD | change)
    assert settings.uses_ledger
    assert not settings.api_url.endswith("/")


def test_an_unknown_outcome_is_verified_unless_told_otherwise():
    assert GitHubSettings.model_validate(GOOD).when_unknown == "verify"


@pytest.mark.parametrize(
    ("change", "place", "reason"),
    [
        ({"repository": "https://github.com/octo/models"}, ("repository",), "is no repository; write owner/name"),
        ({"repository": "models"}, ("repository",), "is no repository; write owner/name"),
        ({"token_env": None}, (), "one of token_env, token_file is needed"),
        ({"token": "hidden"}, ("token",), "Extra inputs"),
        ({"workflow": None}, (), "one of workflow, event_type is needed"),
        ({"event_type": "drift"}, (), "workflow and event_type exclude each other"),
        ({"workflow": ".github/workflows/retrain.yml"}, ("workflow",), "without a folder, such as retrain.yml"),
        ({"workflow": "Retrain the model"}, ("workflow",), "is no workflow"),
        ({"payload": {"a": 1}}, (), "payload belongs to event_type; with workflow write inputs"),
        (EVENT | {"inputs": {"a": 1}}, (), "with event_type write payload"),
        (EVENT | {"ref": "main"}, (), "inputs and ref belong to a workflow"),
        ({"inputs": {"Event_Key": "x"}}, (), "inputs.Event_Key is what the delivery's key travels under"),
        ({"inputs": {f"i{number}": "x" for number in range(25)}}, (), "inputs holds 25, and GitHub takes 25 with"),
        (EVENT | {"payload": {f"p{number}": 1 for number in range(10)}}, (), "payload holds 10, and GitHub takes 10"),
        ({"inputs": {"a": "{{ evnt.id }}"}}, ("inputs", "a"), "did you mean event?"),
        ({"api_url": "http://github.example.org"}, ("api_url",), "without encryption"),
        ({"api_url": "https://10.0.0.1/api/v3"}, ("api_url",), "not a public address"),
        ({"api_url": "https://github.example.org/api/v3?x=1"}, ("api_url",), "holds a query"),
        ({"api_version": "v3"}, ("api_version",), "pattern"),
        ({"key_name": "event key"}, ("key_name",), "pattern"),
    ],
)
def test_a_mistake_is_told_at_its_place(change, place, reason):
    with pytest.raises(ValidationError) as refused:
        GitHubSettings.model_validate(GOOD | change)
    [error] = refused.value.errors(include_input=False, include_url=False, include_context=False)
    assert error["loc"] == place
    assert reason in error["msg"]
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("token", ["hidden token", "hidden\ntoken", "hidden-tokèn"])
def test_a_token_that_cannot_be_one_is_told_without_it(token):
    settings = GitHubSettings.model_validate(GOOD)
    settings.check_secret("token", "github_pat_11AB")
    with pytest.raises(ValueError, match="a character that no token has") as refused:
        settings.check_secret("token", token)
    assert "hidden" not in str(refused.value)


def test_a_preview_shows_where_it_goes_and_what():
    sink = GitHubSink(GitHubSettings.model_validate(GOOD | {"ref": "v1", "inputs": {"subject": "{{ event.subject }}"}}))
    where, _, body = sink.preview(delivery_of()).partition("\n\n")
    assert where == "POST https://api.github.com/repos/octo/models/actions/workflows/retrain.yml/dispatches"
    assert json.loads(body) == {
        "ref": "v1",
        "inputs": {"subject": "experiments/exp/runs/run-1", "event_key": f"evt-{delivery_of().idempotency_key[:32]}"},
        "return_run_details": True,
    }
