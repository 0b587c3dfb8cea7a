import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.deliveries import ELEMENT, delivery_of
from tests.unit.configurations import CONNECTION, WORKER, mistakes
from worker.sinks.eventhub import EventHubSettings, EventHubSink
from worker.sinks.hub_link import Outgoing, most_size_of, size_of

GOOD = {"name": "ordered", "kind": "eventhub", "connection_string_env": "ORDERED", "hub": "ordered"}
STRING = "Endpoint=sb://n.servicebus.windows.net/;SharedAccessKeyName=send;SharedAccessKey=hidden"


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"connection_string_env": None, "connection_string_file": "/run/secrets/hub"},
        {"connection_string_env": None, "namespace": "n.servicebus.windows.net"},
        {"format": "cloudevents", "partitioning": "source", "timeout_seconds": 5, "concurrency": 1000},
    ],
)
def test_settings_that_make_sense_are_taken(change):
    settings = EventHubSettings.model_validate(GOOD | change)
    assert not settings.uses_ledger
    assert settings.needs_identity == (settings.namespace is not None)


@pytest.mark.parametrize(
    ("change", "place", "reason"),
    [
        ({"connection_string_env": None}, (), "one of connection_string_env, connection_string_file, namespace is"),
        ({"namespace": "n.servicebus.windows.net"}, (), "exclude each other"),
        ({"connection_string": STRING}, ("connection_string",), "Extra inputs"),
        ({"namespace": "sb://hidden/"}, ("namespace",), "is not a full host name"),
        ({"hub": "a/b"}, ("hub",), "match pattern"),
        ({"partitioning": "none"}, ("partitioning",), "'subject' or 'source'"),
        ({"on_unknown": "resend"}, ("on_unknown",), "does without a ledger"),
        ({"concurrency": 5000}, ("concurrency",), "less than or equal to 1000"),
    ],
)
def test_a_mistake_is_told_at_its_place_and_without_a_secret(change, place, reason):
    with pytest.raises(ValidationError) as refused:
        EventHubSettings.model_validate(GOOD | change)

    [error] = refused.value.errors(include_input=False, include_url=False, include_context=False)
    assert error["loc"] == place
    assert reason in error["msg"]
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("hidden", "is no connection string"),
        ("DefaultEndpointsProtocol=https;AccountName=hidden;AccountKey=hidden", "is a storage account's"),
        (f"{STRING};EntityPath=hidden", "is for another hub (EntityPath) than hub"),
        ("Endpoint=sb://n.servicebus.windows.net/;SharedAccessKeyName=send", "has no SharedAccessKey;"),
    ],
)
def test_check_looks_at_the_connection_string_and_repeats_none_of_it(tmp_path, monkeypatch, value, reason):
    monkeypatch.chdir(tmp_path)
    routes = """
sinks:
  - {name: ordered, kind: eventhub, hub: ordered, connection_string_env: ORDERED}
routes:
  - {name: everything, sinks: [ordered]}
"""
    found = mistakes(WORKER, routes, environ={"HUB": CONNECTION, "ORDERED": value})
    assert len(found) == 1
    assert "sinks[0].connection_string_env: the connection string " in found[0]
    assert reason in found[0]
    assert "hidden" not in found[0]


def test_a_preview_says_what_the_partition_is_chosen_by_and_shows_properties_and_event():
    sink = EventHubSink(EventHubSettings.model_validate(GOOD), None)
    shown = sink.preview(delivery_of())

    assert "partition by subject: 'experiments/exp/runs/run-1'" in shown
    assert '"idempotencykey"' in shown
    assert '"eventTime": "2017-06-26T18:41:00.9584103Z"' in shown


def test_events_without_a_subject_go_by_their_source_in_any_case():
    sink = EventHubSink(EventHubSettings.model_validate(GOOD), None)
    element = ELEMENT | {"subject": None}
    first = sink.preview(delivery_of(element | {"topic": "/Subscriptions/S"})).splitlines()[0]
    second = sink.preview(delivery_of(element | {"topic": "/subscriptions/s"})).splitlines()[0]

    assert first == second == "partition by subject: '/subscriptions/s'"


@given(
    st.binary(max_size=2000),
    st.text(max_size=300),
    st.dictionaries(st.sampled_from(["idempotencykey", "id", "source"]), st.text(min_size=1, max_size=600)),
)
def test_a_message_never_takes_more_of_a_batch_than_is_reckoned(body, content_type, properties):
    message = Outgoing(body, content_type, "0" * 64, properties)

    assert size_of(message) <= most_size_of(message) <= size_of(message) + 160
