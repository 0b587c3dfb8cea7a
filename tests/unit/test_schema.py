"""schema.py: the schemas take what the worker takes, refuse what a schema can see, and stand beside the shipped files.

`UPDATE_DOCS=1` writes config/*.schema.json anew; without it a test fails when they say something else.
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.unit.bad_configurations import BAD, Bad
from tests.unit.configurations import ROUTES, WORKER
from tests.unit.test_filters import OPERANDS
from tests.unit.test_shipped_configuration import CONFIG, with_examples
from worker.cli import main
from worker.documents import read_document
from worker.schema import routes_schema, worker_schema
from worker.sinks.table import KINDS

BUILT_IN = {name: kind.settings for name, kind in KINDS.items()}
SCHEMAS = {"worker": worker_schema(), "routes": routes_schema(BUILT_IN)}
VALIDATORS = {name: Draft202012Validator(schema) for name, schema in SCHEMAS.items()}


def refused(file: str, values: Any) -> bool:
    return not VALIDATORS[file].is_valid(values)


def routes_of(sink: dict[str, Any], filter_: Any = None) -> dict[str, Any]:
    return {"sinks": [{"name": "a", **sink}], "routes": [{"name": "r", "sinks": ["a"], "filter": filter_}]}


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_is_a_schema_of_the_draft_that_it_names(name):
    assert SCHEMAS[name]["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator.check_schema(SCHEMAS[name])


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_shipped_files_are_accepted(name):
    VALIDATORS[name].validate(read_document(CONFIG / f"{name}.yaml").values)


def test_the_examples_in_comments_are_accepted(tmp_path):
    text, names = with_examples((CONFIG / "routes.yaml").read_text())
    (tmp_path / "routes.yaml").write_text(text)
    values = read_document(tmp_path / "routes.yaml").values
    VALIDATORS["routes"].validate(values)
    assert set(names) <= {sink["name"] for sink in values["sinks"]}


@pytest.mark.parametrize("page", sorted((CONFIG.parent / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_the_sinks_on_the_pages_have_keys_that_it_knows(page):
    for block in page.read_text().split("```yaml\n")[1:]:
        values = yaml.load(block.partition("```")[0], yaml.BaseLoader)
        listed = values.get("sinks", ()) if isinstance(values, dict) else values
        for sink in listed if isinstance(listed, list) else ():
            if isinstance(sink, dict) and sink.get("kind") in KINDS:
                keys = SCHEMAS["routes"]["$defs"][KINDS[sink["kind"]].settings.__name__]["properties"]
                assert sink.keys() <= keys.keys()


SEEN_ONLY_TOGETHER = (
    "is used twice",
    "there is no sink",
    "must be at least 4 times",
    "limits.hand_over_seconds must be more",
    "order.window_seconds must be less",
    "memory_hours must not be shorter",
    "must be less than 86395",
    "counts only with order.window_seconds: auto",
    "order.max_seconds must be less",
    "order.min_seconds must not be more",
    "must be more than 1 (source.retention_hours)",
    "is not set",
    "is no name of an environment variable",
    "secret cannot be read",
    "the connection string is no connection string",
    "quiet without group_by needs the ledger",
    "the URL has a query",
    "is not of the form",
    "is not a full host name",
    "is not the name of a container",
    "on_unknown: means nothing",
    "means nothing without status_port",
    "cannot be verify",
    "is empty; write a path",
    "is a range that holds nothing",
    "write at most 366d",
    "is no name that templates know",
    "there is no foo in event",
    "is http.port already",
    "means nothing while status_page is false",
)
"""What a schema cannot see, or does not try to: what values say together, and texts of a form of their own."""


@pytest.mark.parametrize("bad", BAD, ids=[bad.mistake[:60] for bad in BAD])
def test_what_check_refuses_by_its_form_the_schema_refuses(bad: Bad, tmp_path):
    text = {"worker": WORKER, "routes": ROUTES}[bad.file].replace(bad.old, bad.new, 1)
    (tmp_path / "f.yaml").write_text(text)
    seen = refused(bad.file, read_document(tmp_path / "f.yaml").values)
    assert seen != any(each in bad.mistake for each in SEEN_ONLY_TOGETHER)


def test_the_good_configuration_that_these_are_changes_of_is_accepted():
    VALIDATORS["worker"].validate(yaml.safe_load(WORKER))
    VALIDATORS["routes"].validate(yaml.safe_load(ROUTES))


@pytest.mark.parametrize("operator", OPERANDS)
def test_every_operator_takes_its_own_operand_and_no_other(operator):
    condition = {"operatorType": operator, "key": "data.v", **OPERANDS[operator]}
    log = {"kind": "log"}
    assert not refused("routes", routes_of(log, {"advancedFilters": [condition]}))
    assert not refused("routes", routes_of(log, {"any_of": [{"advancedFilters": [condition]}]}))
    assert refused("routes", routes_of(log, {"advancedFilters": [condition | {"operand": 1}]}))
    for wrong in ({"value": {}}, {"values": [{}]}, {"values": []}):
        assert refused("routes", routes_of(log, {"advancedFilters": [condition | wrong]}))
    for key in condition:
        less = {name: value for name, value in condition.items() if name != key}
        assert refused("routes", routes_of(log, {"advancedFilters": [less]}))


def test_a_filter_as_azure_prints_it_is_accepted():
    printed = {
        "advancedFilters": [
            {"key": "data.api", "operatorType": "StringIn", "values": ["PutBlob"]},
            {"key": "data.x", "operatorType": "IsNotNull", "value": None, "values": None},
        ],
        "enableAdvancedFilteringOnArrays": None,
        "includedEventTypes": None,
        "isSubjectCaseSensitive": False,
        "subjectBeginsWith": "",
        "subjectEndsWith": None,
    }
    assert not refused("routes", routes_of({"kind": "log"}, printed))


@pytest.mark.parametrize(
    "keys",
    [
        {"url": "https://a.example.org", "url_env": "A"},
        {"url_env": "A", "url_file": "/a"},
        {},
        {"url_env": "A", "secret_env": "B", "secret_file": "/b"},
        {"url_env": "A", "retry": {"give_up": 1}},
        {"url_env": "A", "concurrency": 0},
        {"url_env": "A", "mode": "binry"},
        {"url_env": "A", "handshake": 1},
    ],
    ids=str,
)
def test_keys_that_exclude_each_other_or_are_needed_and_values_of_the_wrong_kind_are_refused(keys):
    assert refused("routes", routes_of({"kind": "webhook", **keys}))


@pytest.mark.parametrize(
    "keys",
    [
        {"url": "https://a.example.org"},
        {"url_file": "/a", "secret_file": "/b", "previous_secret_env": "C"},
        {"url_env": "A", "headers": {"A": "b"}, "headers_env": {"B": "B"}, "headers_file": {"C": "/c"}},
        {"url_env": "A", "handshake": True},
        {"url_env": "A", "handshake": {"origin": "me"}},
        {"url_env": "A", "rate": None, "quiet": {"group_by": [], "mute": [{"from": "22:00", "to": "07:00"}]}},
    ],
    ids=str,
)
def test_secrets_come_in_each_of_their_forms_and_shorthands_are_known(keys):
    VALIDATORS["routes"].validate(routes_of({"kind": "webhook", **keys}))


def test_a_sink_of_one_kind_does_not_have_the_keys_of_another():
    assert not refused("routes", routes_of({"kind": "file", "path": "a"}))
    assert refused("routes", routes_of({"kind": "log", "path": "a"}))
    assert refused("routes", routes_of({"kind": "files", "path": "a"}))
    assert refused("routes", routes_of({"path": "a"}))


def described(schema: Any, place: str = "") -> Iterator[tuple[str, bool]]:
    """Every key with whether it has a sentence of its own, or is a section that has one."""
    for name, each in schema.get("properties", {}).items():
        yield f"{place}.{name}", "description" in each or "$ref" in each or "oneOf" in each


def test_every_key_says_what_it_is():
    silent = [
        place
        for schema in SCHEMAS.values()
        for name, each in [("", schema), *schema["$defs"].items()]
        if name != "Condition"
        for place, is_told in described(each, name)
        if not is_told
    ]
    assert silent == []


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_schema_beside_each_shipped_file_is_current_and_named_in_it(name):
    file = CONFIG / f"{name}.schema.json"
    text = json.dumps(SCHEMAS[name], indent=2, ensure_ascii=False) + "\n"
    if os.environ.get("UPDATE_DOCS"):
        file.write_text(text)
    assert file.read_text() == text, "UPDATE_DOCS=1 writes it anew"
    first = (CONFIG / f"{name}.yaml").read_text().partition("\n")[0]
    assert first == f"# yaml-language-server: $schema={file.name}"


def test_the_command_prints_them(monkeypatch, capsys):
    for name, schema in SCHEMAS.items():
        monkeypatch.setattr(sys, "argv", ["worker", "schema", name])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert not stopped.value.code
        assert json.loads(capsys.readouterr().out) == schema


def test_an_unknown_file_is_the_users_mistake(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["worker", "schema", "route"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
