import pytest
from pydantic import ValidationError

from tests.deliveries import delivery_of
from tests.unit.configurations import CONNECTION, WORKER, mistakes
from worker.sinks.blob import BlobSettings, BlobSink

GOOD = {"name": "archive", "kind": "blob", "connection_string_env": "ARCHIVE", "container": "events"}
STRING = "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=hidden"


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"connection_string_env": None, "connection_string_file": "/run/secrets/storage"},
        {"connection_string_env": None, "account_url": "https://a.blob.core.windows.net/"},
        {"prefix": "raw/v1.2/", "mode": "lines", "timeout_seconds": 5},
    ],
)
def test_settings_that_make_sense_are_taken(change):
    settings = BlobSettings.model_validate(GOOD | change)
    assert not settings.uses_ledger
    assert settings.needs_identity == (settings.account_url is not None)


@pytest.mark.parametrize(
    ("change", "place", "reason"),
    [
        ({"connection_string_env": None}, (), "one of connection_string_env, connection_string_file, account_url is"),
        ({"account_url": "https://a.blob.core.windows.net"}, (), "exclude each other"),
        ({"connection_string": STRING}, ("connection_string",), "Extra inputs"),
        (
            {"account_url": "https://a.blob.core.windows.net/c-1"},
            ("account_url",),
            "write the blob address of the account",
        ),
        ({"account_url": "https://a.dfs.core.windows.net"}, ("account_url",), "write the blob address of the account"),
        ({"account_url": "https://a.blob.core.windows.net/?sig=hidden"}, ("account_url",), "is not of the form"),
        ({"container": "My_Events"}, ("container",), "is not the name of a container"),
        ({"prefix": "raw"}, ("prefix",), "match pattern"),
        ({"prefix": "../"}, ("prefix",), "match pattern"),
        ({"prefix": "raw./"}, ("prefix",), "match pattern"),
        ({"prefix": "/raw/"}, ("prefix",), "match pattern"),
        ({"name": "archive."}, (), "must not end with a dot"),
        ({"mode": "parquet"}, ("mode",), "'events' or 'lines'"),
        ({"on_unknown": "resend"}, ("on_unknown",), "does without a ledger"),
    ],
)
def test_a_mistake_is_told_at_its_place_and_without_a_secret(change, place, reason):
    with pytest.raises(ValidationError) as refused:
        BlobSettings.model_validate(GOOD | change)

    [error] = refused.value.errors(include_input=False, include_url=False, include_context=False)
    assert error["loc"] == place
    assert reason in error["msg"]
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("hidden", "is no connection string"),
        ("Endpoint=sb://n.servicebus.windows.net/;SharedAccessKey=hidden", "is an Event Hubs connection string"),
        ("DefaultEndpointsProtocol=https;AccountName=hidden", "has neither AccountKey nor"),
    ],
)
def test_check_looks_at_the_connection_string_and_repeats_none_of_it(tmp_path, monkeypatch, value, reason):
    monkeypatch.chdir(tmp_path)
    routes = """
sinks:
  - {name: archive, kind: blob, container: events, connection_string_env: ARCHIVE}
routes:
  - {name: everything, sinks: [archive]}
"""
    [mistake] = mistakes(WORKER, routes, environ={"HUB": CONNECTION, "ARCHIVE": value})
    assert "sinks[0].connection_string_env: the connection string " in mistake
    assert reason in mistake
    assert "hidden" not in mistake


@pytest.mark.parametrize(
    ("mode", "name"),
    [("events", "raw/archive/2017/06/26/{key}.json"), ("lines", "raw/archive/2017/06/26/18/PROCESS-1.jsonl")],
)
def test_a_preview_says_where_the_event_would_stand(mode, name):
    sink = BlobSink(BlobSettings.model_validate(GOOD | {"prefix": "raw/", "mode": mode}), None)
    delivery = delivery_of()

    first, *rest = sink.preview(delivery).splitlines()
    assert first == f"events/{name.format(key=delivery.idempotency_key)}"
    assert any(delivery.idempotency_key in line for line in rest)
