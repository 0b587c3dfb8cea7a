"""connections.py: what is seen to be wrong with a connection string, without repeating any of it."""

import pytest
from azure.eventhub import parse_connection_string
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.connections import HubAddress, check_storage_connection_string, endpoint_of, hub_address

KEY = "c2VjcmV0LWtleS1vZi10aGUtdGVzdA=="
CLOUD = f"Endpoint=sb://team.servicebus.windows.net/;SharedAccessKeyName=listen;SharedAccessKey={KEY}"
LOCAL = (
    f"Endpoint=sb://127.0.0.1:5672;SharedAccessKeyName=n;SharedAccessKey={KEY};"
    "UseDevelopmentEmulator=true;EntityPath=ml-events"
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (CLOUD, HubAddress("team.servicebus.windows.net", None, emulator=False)),
        (f"{CLOUD};EntityPath=hub;", HubAddress("team.servicebus.windows.net", "hub", emulator=False)),
        (LOCAL, HubAddress("127.0.0.1:5672", "ml-events", emulator=True)),
        (
            "Endpoint=sb://team.servicebus.windows.net;SharedAccessSignature=SharedAccessSignature sr=x&sig=y&se=1",
            HubAddress("team.servicebus.windows.net", None, emulator=False),
        ),
        (CLOUD.replace("Endpoint", "endpoint"), HubAddress("team.servicebus.windows.net", None, emulator=False)),
    ],
)
def test_a_good_connection_string_says_where_it_leads_as_the_sdk_sees_it(text, address):
    assert hub_address(text) == address


@pytest.mark.parametrize("text", [CLOUD, LOCAL])
def test_the_namespace_is_the_one_the_sdk_finds(text):
    assert hub_address(text).namespace == parse_connection_string(text).fully_qualified_namespace


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nonsense", "is no connection string"),
        ("", "is no connection string"),
        (CLOUD.replace("listen", ""), "is no connection string"),
        (f'"{CLOUD}"', "begins or ends with white space or a quote"),
        (f"{CLOUD}\n", "begins or ends with white space or a quote"),
        (CLOUD.partition(";")[2], "has no Endpoint"),
        (CLOUD.replace("SharedAccessKeyName", "KeyName"), "has no SharedAccessKeyName"),
        (CLOUD.replace("SharedAccessKey=", "Key="), "has no SharedAccessKey;"),
        (CLOUD.replace("sb://", "https://"), "not of the form sb://"),
        (CLOUD.replace("sb://", ""), "not of the form sb://"),
        (CLOUD.replace("sb://", "sb://user@"), "not of the form sb://"),
        (CLOUD.replace(".net/", ".net:99999/"), "is no address"),
        (CLOUD.replace("sb://", "sb://["), "is no address"),
        (f"{CLOUD};{CLOUD}", "names one of its parts twice"),
        (f"{CLOUD};SharedAccessSignature=x", "has both SharedAccessKey and SharedAccessSignature"),
        (LOCAL.replace("=true", "=True"), "UseDevelopmentEmulator is neither true nor false"),
        (f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={KEY}", "is a storage account's"),
    ],
)
def test_a_bad_connection_string_is_refused_with_what_to_do(text, sentence):
    with pytest.raises(ValueError) as caught:
        hub_address(text)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={KEY};EndpointSuffix=core.windows.net",
        "UseDevelopmentStorage=true",
        "BlobEndpoint=https://a.blob.core.windows.net;SharedAccessSignature=sv=1&sig=2",
    ],
)
def test_a_storage_connection_string_is_accepted(text):
    check_storage_connection_string(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (CLOUD, "is an Event Hubs connection string"),
        ("AccountName=a", "has neither AccountKey nor SharedAccessSignature"),
        (f"AccountKey={KEY}", "has neither AccountName nor BlobEndpoint"),
        ("x", "is no connection string"),
    ],
)
def test_a_bad_storage_connection_string_is_refused(text, sentence):
    with pytest.raises(ValueError) as caught:
        check_storage_connection_string(text)
    assert sentence in str(caught.value)


PARTS = st.sampled_from(
    [
        "Endpoint",
        "SharedAccessKeyName",
        "SharedAccessKey",
        "EntityPath",
        "AccountName",
        "AccountKey",
        "UseDevelopmentEmulator",
    ]
)


@settings(deadline=None)  # the machine is shared
@given(st.lists(st.tuples(PARTS, st.sampled_from(["=", "", "=sb://", " = ", "=="])), max_size=6))
def test_no_refusal_repeats_what_stands_in_the_string(parts):
    marker = "hunter2hunter2"
    text = ";".join(f"{name}{equals}{marker}" for name, equals in parts)
    for check in (hub_address, check_storage_connection_string):
        try:
            check(text)
        except ValueError as refused:
            assert marker not in str(refused)  # noqa: PT017 - whether it is refused does not matter here


@pytest.mark.parametrize(
    ("connection_string", "endpoint"),
    [
        (
            "Endpoint=sb://n.servicebus.windows.net/;SharedAccessKeyName=k;SharedAccessKey=s",
            "sb://n.servicebus.windows.net/",
        ),
        ("AccountName=a;AccountKey=s;EndpointSuffix=core.chinacloudapi.cn", "https://a.blob.core.chinacloudapi.cn"),
        ("AccountName=a;AccountKey=s;BlobEndpoint=http://127.0.0.1:10000/a", "http://127.0.0.1:10000/a"),
        ("BlobEndpoint", None),
        ("SharedAccessKeyName=k", None),
    ],
)
def test_where_a_connection_string_leads_can_be_shown(connection_string, endpoint):
    assert endpoint_of(connection_string) == endpoint
