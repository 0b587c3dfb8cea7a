"""A plan as text: a shell, az and Bicep read back what was meant; a comment is one whatever is in it."""

import json
import re
import shlex
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.event_grid import filter_of, read_as_az, run_script
from worker.pushdown import Allowed
from worker.resources import read_container, read_hub, read_source
from worker.subscription import Need, Plan, plan
from worker.subscription_text import Setting, Unsayable, az_commands, bicep, rows

GROUP = "/subscriptions/01234567-89ab-cdef-0123-456789abcdef/resourceGroups/ml/providers"
WORKSPACE = f"{GROUP}/Microsoft.MachineLearningServices/workspaces/prod"
HUB = f"{GROUP}/Microsoft.EventHub/namespaces/ns/eventhubs/ml-events"
ACCOUNT = f"{GROUP}/Microsoft.Storage/storageAccounts/kept"
CONTAINER = f"{ACCOUNT}/blobServices/default/containers/undelivered"


def setting(source: str = WORKSPACE, dead_letters: str | None = CONTAINER) -> Setting:
    container = None if dead_letters is None else read_container(dead_letters)
    return Setting("to-hub", read_source(source), read_hub(HUB, "ml-events"), container, 30, 1440, "config/routes.yaml")


def planned(*filters: dict[str, Any] | None, data: bool = True) -> Plan:
    return plan([Need(f"r{number}", one) for number, one in enumerate(filters)], Allowed(data=data))


def condition(operator: str, *values: Any, key: str = "data.k") -> dict[str, Any]:
    return {"operatorType": operator, "key": key, "values": list(values)}


# ---- az


def test_the_command_sends_events_to_the_hub_by_subject_with_retries_and_dead_letters():
    [words] = run_script(az_commands(planned({"includedEventTypes": ["A", "B"], "subjectBeginsWith": "x"}), setting()))
    assert words[:3] == ["eventgrid", "event-subscription", "create"]
    assert vars(read_as_az(words)) == {
        "subscription": "01234567-89ab-cdef-0123-456789abcdef",
        "name": "to-hub",
        "source_resource_id": WORKSPACE,
        "resource_group": None,
        "system_topic_name": None,
        "endpoint_type": "eventhub",
        "endpoint": HUB,
        "delivery_attribute_mapping": [["PartitionKey", "dynamic", "subject"]],
        "included_event_types": ["A", "B"],
        "advanced_filter": [["subject", "StringBeginsWith", "x", "/x"]],
        "enable_advanced_filtering_on_arrays": None,
        "deadletter_endpoint": CONTAINER,
        "max_delivery_attempts": "30",
        "event_ttl": "1440",
    }


def test_a_system_topic_has_the_command_of_system_topics():
    topic = f"{GROUP}/Microsoft.EventGrid/systemTopics/t"
    [words] = run_script(az_commands(planned(None), setting(topic)))
    read = read_as_az(words)
    assert words[:4] == ["eventgrid", "system-topic", "event-subscription", "create"]
    assert (read.resource_group, read.system_topic_name, read.source_resource_id) == ("ml", "t", None)


def test_without_a_container_the_command_says_what_is_thrown_away():
    text = az_commands(planned(None), setting(dead_letters=None))
    [words] = run_script(text)
    assert read_as_az(words).deadletter_endpoint is None
    assert "--dead-letter" in text.partition("\naz ")[0]


def test_several_subscriptions_have_names_of_which_the_first_stays_as_it_was():
    found = planned({"includedEventTypes": ["A"], "subjectEndsWith": "x"}, {"includedEventTypes": ["B"]})
    names = [read_as_az(words).name for words in run_script(az_commands(found, setting()))]
    assert names == ["to-hub", "to-hub-2"]


@pytest.mark.parametrize(
    "filter_",
    [
        {"includedEventTypes": ["-A"]},
        {"includedEventTypes": ["A\0"]},
        {"includedEventTypes": ["A"], "advancedFilters": [condition("StringIn", "@secret", key="subject")]},
        {"includedEventTypes": ["A"], "advancedFilters": [condition("StringIn", "a=@secret", key="subject")]},
        {
            "includedEventTypes": ["A"],
            "advancedFilters": [{"operatorType": "BoolEquals", "key": "data.k", "value": False}],
        },
    ],
)
def test_what_az_would_take_for_something_else_is_refused_and_bicep_can_say_it(filter_):
    with pytest.raises(Unsayable, match="--bicep"):
        az_commands(planned(filter_), setting())
    assert filters_in(bicep(planned(filter_), setting())) == [filter_]


HOSTILE = "x\naz group delete\n$(reboot) `reboot` 'q' \"q\" \\ ${a} # %s \x1b[2J \u2028"


def test_nothing_in_a_comment_is_run_and_nothing_in_it_steers_a_terminal():
    raw = {"includedEventTypes": ["A"], "advancedFilters": [condition("StringNotIn", HOSTILE)]}
    text = az_commands(planned(raw), setting())
    assert len(run_script(text)) == 1
    assert "reboot" in text
    assert all(line.startswith("#") for line in text.partition("\naz ")[0].splitlines() if line)
    assert re.fullmatch("[ -~\n…]*", text)
    comments = bicep(planned(raw), setting()).partition("\nresource ")[0]
    assert all(line.startswith("//") for line in comments.splitlines() if line)


TEXTS = st.one_of(st.text(st.characters(max_codepoint=126), min_size=1, max_size=12), st.just(HOSTILE[:-1]))
NUMBERS = st.one_of(st.integers(-(2**52), 2**52), st.floats(-1e9, 1e9), st.sampled_from([-1e-7, 1e-300, -0.0]))
CONDITIONS = st.one_of(
    st.builds(condition, st.sampled_from(["StringIn", "StringContains"]), TEXTS, TEXTS),
    st.builds(condition, st.just("NumberIn"), NUMBERS, NUMBERS),
    st.builds(condition, st.just("NumberInRange"), st.tuples(NUMBERS, NUMBERS).map(sorted)),
    st.builds(lambda value: {"operatorType": "NumberLessThan", "key": "data.k", "value": value}, NUMBERS),
    st.just({"operatorType": "BoolEquals", "key": "data.k", "value": True}),
    st.just({"operatorType": "IsNotNull", "key": "data.odd key"}),
)
FILTERS = st.fixed_dictionaries(
    {"includedEventTypes": st.lists(TEXTS, min_size=1, max_size=3)},
    optional={
        "subjectBeginsWith": TEXTS,
        "subjectEndsWith": TEXTS,
        "enableAdvancedFilteringOnArrays": st.booleans(),
        "advancedFilters": st.lists(CONDITIONS, max_size=3),
    },
)


@settings(max_examples=60)
@given(st.lists(FILTERS, min_size=1, max_size=2))
def test_a_shell_and_az_read_the_filters_that_were_meant(filters):
    found = planned(*filters)
    meant = [one.filter() for one in found.subscriptions]
    try:
        text = az_commands(found, setting())
    except Unsayable:
        return
    sent = run_script(text)
    assert [filter_of(read_as_az(words)) for words in sent] == meant
    commands = text[text.index("\naz ") :].split("\naz ")[1:]
    assert len(commands) == len(sent) or HOSTILE[:5] in text
    assert az_commands(found, setting()) == text


def test_shlex_reads_the_words_that_the_shell_reads():
    text = az_commands(planned({"includedEventTypes": ["A B", "it's"], "subjectEndsWith": "a\nb"}), setting())
    command = text[text.index("\naz ") :]
    assert shlex.split(command.replace(" \\\n", " "))[1:] == run_script(text)[0]


# ---- Bicep

_TOKENS = re.compile(r"'(?:[^'\\]|\\.)*'|json\(|[][{}):]|[-\w.]+")
_ESCAPES = {"\\\\": "\\", "\\'": "'", "\\n": "\n", "\\r": "\r", "\\t": "\t", "\\${": "${"}


def _unquoted(token: str) -> str:
    assert not re.search(r"(?<!\\)(?:\\\\)*\$\{", token), "an expression"

    def plain(found: re.Match[str]) -> str:
        return chr(int(found[1], 16)) if found[1] else _ESCAPES[found[0]]

    return re.sub(r"\\u\{(\w+)\}|\\\$\{|\\.", plain, token[1:-1])


def _read(tokens: list[str]) -> Any:
    token = tokens.pop(0)
    if token == "{":
        found = {}
        while tokens[0] != "}":
            name, colon = tokens.pop(0), tokens.pop(0)
            assert colon == ":"
            found[name] = _read(tokens)
        tokens.pop(0)
        return found
    if token == "[":
        items = []
        while tokens[0] != "]":
            items.append(_read(tokens))
        tokens.pop(0)
        return items
    if token == "json(":
        text = _unquoted(tokens.pop(0))
        assert tokens.pop(0) == ")"
        return json.loads(text)
    return (
        _unquoted(token)
        if token[0] == "'"
        else {"true": True, "false": False}.get(token)
        if token.isalpha()
        else int(token)
    )


def resources_in(text: str) -> list[dict[str, Any]]:
    """What each `resource` of a subscription says."""
    parts = re.split(r"^resource (\w+) '(\S+)' = ", text, flags=re.MULTILINE)[1:]
    found = []
    for symbol, kind, rest in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        body = "\n".join(line for line in rest.splitlines() if not line.startswith("//"))
        words = _TOKENS.findall(re.sub(r"^  (parent|scope): source$", r"  \1: 'source'", body, flags=re.MULTILINE))
        found.append({"symbol": symbol, "kind": kind, **_read(words)})
    return found


def filters_in(text: str) -> list[dict[str, Any]]:
    return [one["properties"]["filter"] for one in resources_in(text)]


def test_the_bicep_file_says_the_same_as_the_command():
    text = bicep(planned({"includedEventTypes": ["A"], "subjectBeginsWith": "x"}), setting())
    assert (
        "resource source 'Microsoft.MachineLearningServices/workspaces@2023-10-01' existing = {\n  name: 'prod'\n}"
        in text
    )
    [one] = resources_in(text)
    assert one == {
        "symbol": "subscription1",
        "kind": "Microsoft.EventGrid/eventSubscriptions@2022-06-15",
        "scope": "source",
        "name": "to-hub",
        "properties": {
            "destination": {
                "endpointType": "EventHub",
                "properties": {
                    "resourceId": HUB,
                    "deliveryAttributeMappings": [
                        {"name": "PartitionKey", "type": "Dynamic", "properties": {"sourceField": "subject"}}
                    ],
                },
            },
            "filter": {
                "includedEventTypes": ["A"],
                "advancedFilters": [condition("StringBeginsWith", "x", "/x", key="subject")],
            },
            "retryPolicy": {"maxDeliveryAttempts": 30, "eventTimeToLiveInMinutes": 1440},
            "deadLetterDestination": {
                "endpointType": "StorageBlob",
                "properties": {"resourceId": ACCOUNT, "blobContainerName": "undelivered"},
            },
        },
    }


@settings(max_examples=60)
@given(st.lists(FILTERS, min_size=1, max_size=2))
def test_bicep_reads_the_filters_that_were_meant(filters):
    found = planned(*filters)
    assert filters_in(bicep(found, setting())) == [one.filter() for one in found.subscriptions]


@pytest.mark.parametrize(
    ("path", "kind", "parent", "name"),
    [
        ("Microsoft.EventGrid/systemTopics/t", "systemTopics/eventSubscriptions", "parent", "t"),
        ("Microsoft.EventGrid/domains/d/topics/t", "eventSubscriptions", "scope", "d/t"),
        ("microsoft.storage/storageaccounts/a", "eventSubscriptions", "scope", "a"),
    ],
)
def test_a_bicep_subscription_is_part_of_its_source(path, kind, parent, name):
    text = bicep(planned(None), setting(f"{GROUP}/{path}"))
    [one] = resources_in(text)
    assert one["kind"] == f"Microsoft.EventGrid/{kind}@2022-06-15"
    assert one[parent] == "source"
    assert f"existing = {{\n  name: '{name}'\n}}" in text


def test_bicep_says_of_which_sources_it_knows_the_version():
    with pytest.raises(Unsayable, match="system topic"):
        bicep(planned(None), setting(f"{GROUP}/Microsoft.KeyVault/vaults/v"))


# ---- JSON


def test_rows_are_the_subscriptions_and_then_what_stays():
    found = planned({"includedEventTypes": ["A"], "advancedFilters": [condition("StringNotIn", "x")]})
    subscription, stays = rows(found, setting())
    assert subscription == {"subscription": "to-hub", "routes": ["r0"], "filter": {"includedEventTypes": ["A"]}}
    assert (stays["route"], stays["stays_in_worker"]) == ("r0", 'data.k StringNotIn "x"')
